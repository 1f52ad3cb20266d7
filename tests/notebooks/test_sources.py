"""The notebooks as text: thin, parameterised, with outputs that nbval can hold them to."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from motrlab.config.presets import PRESETS
from motrlab.pipeline import NOTEBOOKS

FOLDER = Path(__file__).parents[2] / "notebooks"
TEXTS = ("plain", "html", "markdown")
FOLDERS = re.compile(r"(?<![\w./<)\]…-])(?<!:/)/(?!data/MOT17)[A-Za-z]\w*")  # absolute, of somebody's machine
IGNORED_CELLS = {  # cells whose stored output is not compared: trained values, timings, machine-made pictures
    "01_data_prep": 0, "02_float_training": 7, "03_calibration": 9, "04_qat": 5, "05_conversion": 8,
    "06_tracking_visualization": 10, "07_compile_perf": 6, "08_report": 2,
}  # fmt: skip


@pytest.fixture(params=NOTEBOOKS)
def notebook(request: pytest.FixtureRequest) -> Any:
    found = nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)
    found.name = request.param
    return found


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def test_one_parameters_cell_of_annotated_literals(notebook: Any) -> None:
    first, *others = code_cells(notebook)
    assert tags(first) == ["parameters"]
    assert not any("parameters" in tags(cell) for cell in others)
    statements = ast.parse(first.source).body
    names = []
    for line, statement in zip(first.source.splitlines(), statements, strict=True):
        assert isinstance(statement, ast.AnnAssign)
        assert isinstance(statement.target, ast.Name)
        ast.literal_eval(statement.value)  # type: ignore[arg-type]
        assert "  # " in line, f"{statement.target.id} is not explained"
        names.append(statement.target.id)
    assert names[:2] == ["run", "preset"]


def test_every_notebook_takes_the_fields_of_the_config_and_names_all_presets(notebook: Any) -> None:
    lines = code_cells(notebook)[0].source.splitlines()
    assert any(line.startswith("set: str") for line in lines)
    (told,) = [line.partition("# ")[2] for line in lines if line.startswith("preset: ")]
    assert set(PRESETS) <= set(told.partition(";")[0].split(" | "))


def test_second_cell_checks_the_config(notebook: Any) -> None:
    assert "begin(globals())" in code_cells(notebook)[1].source


def test_thin(notebook: Any) -> None:
    cells = code_cells(notebook)
    lines = [line for cell in cells for line in cell.source.splitlines() if line.strip()]
    assert len(lines) <= 100
    assert max(len(cell.source.splitlines()) for cell in cells) <= 25
    for cell in cells:
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef), "thinking belongs in the package"
        assert "sys.path" not in cell.source
        assert not any(line.lstrip().startswith(("%", "!")) for line in cell.source.splitlines()), "no magics, no pip"


def test_explains_itself(notebook: Any) -> None:
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert text[0].startswith(f"# {notebook.name[:2]} · ")
    assert "papermill " + notebook.name in text[0]
    assert len(text) >= 2


def test_outputs_are_stored_with_counts(notebook: Any) -> None:
    """nbval compares nothing in a cell without an execution count."""
    assert all(cell.execution_count is not None for cell in code_cells(notebook))
    assert any(cell.outputs for cell in code_cells(notebook))


def test_ignored_cells_are_counted(notebook: Any) -> None:
    ignored = [cell for cell in code_cells(notebook) if "nbval-ignore-output" in tags(cell)]
    assert len(ignored) == IGNORED_CELLS[notebook.name]
    assert not any("nbval-skip" in tags(cell) or "nbval-raises" in tags(cell) for cell in code_cells(notebook))


def test_pictures_have_alt_text_and_printed_numbers(notebook: Any) -> None:
    for cell in code_cells(notebook):
        if "Image(" in cell.source:
            assert "alt=" in cell.source
            assert "print(" in cell.source, "nbval does not compare pictures: print the numbers behind them"


def test_teaches(notebook: Any) -> None:
    """A result first, what one will know, what it needs and takes; a question before an answer; two things to try."""
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    for part in ("**The result:**", "**After it you know**", "**Needs**", "**Takes**"):
        assert part in text[0], part
    assert text[-1].count("## Try it") == 1
    assert len([line for line in text[-1].splitlines() if line[:2] in ("1.", "2.")]) == 2
    assert sum(len(cell.split()) for cell in text) >= 120
    assert any("](https://" in cell for cell in text), "no link to a paper that says why"
    code = "\n".join(cell.source for cell in code_cells(notebook))
    assert re.search(r"from motrlab\.viz\.drawings import|\broofline\(", code), "no drawing"


def test_questions_come_before_the_cell_that_answers(notebook: Any) -> None:
    """The question is in the usual words, and the next cell is code."""
    asked = [i for i, cell in enumerate(notebook.cells) if "What do you expect" in cell.source]
    assert asked
    for index in asked:
        assert notebook.cells[index].cell_type == "markdown"
        assert notebook.cells[index + 1].cell_type == "code"
        question = notebook.cells[index].source.partition("**What do you expect?**")[2]
        assert "?" in question, "not a question, or not in the usual words"


def test_stored_outputs_hold_no_chatter(notebook: Any) -> None:
    """No warning, nobody's folders, no progress of libraries."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            said = "\n".join([str(output.get("text", "")), *(str(data.get(f"text/{kind}", "")) for kind in TEXTS)])
            assert not re.search(r"Warning|warn\(|\[W\d|Traceback|children=\(", said), said[:400]
            assert not FOLDERS.search(said), FOLDERS.search(said)
            assert output.get("name") != "stderr", said[:400]


def test_printed_lines_are_no_wider_than_a_page(notebook: Any) -> None:
    """A browser breaks longer ones anywhere, in the middle of a word or of a table's row."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            for line in output.get("text", "").splitlines():
                assert len(line) <= 128, line


@pytest.mark.parametrize("path", ["/work/main/x.py", "in /opt/venv", "'/mnt/data'", "/home/me", "at /tmp", ":/root/a"])
def test_folders_of_a_machine_are_seen(path: str) -> None:
    assert FOLDERS.search(path)


@pytest.mark.parametrize(
    "text",
    ["/data/MOT17", "runs/demo/a.json", "https://a.org/b/c", "GB/s", "FP / FN", "</td>", "<br/>", "1/128", "img1/"],
)
def test_other_slashes_are_no_folders(text: str) -> None:
    assert not FOLDERS.search(text)


def for_nbval_alone(source: str) -> list[str]:
    """Prints that tell a reader nothing: of text that is always the same, or of names in the order of the alphabet."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    printed = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    fixed = [call for call in printed if call.args and all(isinstance(arg, ast.Constant) for arg in call.args)]
    names = [
        call
        for call in printed
        for node in ast.walk(call)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sorted"
    ]
    return [ast.unparse(call) for call in (*fixed, *names)]


def test_strict_cells_are_for_readers(notebook: Any) -> None:
    """No cell that only prints for nbval to compare."""
    for cell in code_cells(notebook):
        assert "nbval-ignore-output" in tags(cell) or not for_nbval_alone(cell.source), cell.source


@pytest.mark.parametrize("source", ["print('always')", "print('lanes:', sorted(a))", "print(', '.join(sorted(a)))"])
def test_prints_for_nbval_alone_are_seen(source: str) -> None:
    assert for_nbval_alone(source)
    assert not for_nbval_alone("print('boxes', len(a))")


def test_stored_outputs_show_a_tracker_that_works() -> None:
    """MOTA of `smoke` above .8 for every stage, its unseen video and every band that a cell holds it to."""
    found = {}
    for name in NOTEBOOKS:
        cells = code_cells(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4))
        found[name] = "\n".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert not any("within .80 to .99: False" in text for text in found.values())
    assert found["02_float_training"].count("MOTA within .80 to .99: True") == 3
    assert found["05_conversion"].count("MOTA within .80 to .99: True") == 1
    rows = re.findall(
        r"^(Float|Calibration|QAT|Float, trained longer|Fixed-point) +(\d+\.\d+)", found["08_report"], re.M
    )
    assert {stage for stage, _ in rows} == {"Float", "Calibration", "QAT", "Float, trained longer", "Fixed-point"}
    assert all(float(mota) > 80 for _, mota in rows), rows
