from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from motrlab.errors import UserError
from motrlab.pipeline import (
    NOTEBOOKS,
    NotebookError,
    find_notebook,
    known_parameters,
    notebooks_folder,
    parse_parameters,
    parse_value,
    run_notebooks,
    select,
    steps_told,
)
from motrlab.run import Run

PARAMETERS = 'run: str = "default"  # name\npreset: str = ""  # preset\n'
BEGIN = "from motrlab.notebook import begin\n\nlab = begin(globals())"
KNOWN = {
    "03_calibration": {"run": "str", "preset": "str", "frames": "int"},
    "04_qat": {"run": "str", "preset": "str", "lr": "float", "frames": "int", "note": "str"},
}


@pytest.fixture
def write_notebook(home: Path) -> Callable[..., Path]:
    """`write_notebook("04_qat", "lr: float = 1e-3", "print(lr)")`: a notebook as the house writes them."""

    def write(name: str, parameters: str = "", *cells: str) -> Path:
        notebook = nbformat.v4.new_notebook()
        first = nbformat.v4.new_code_cell(PARAMETERS + parameters, metadata={"tags": ["parameters"]})
        notebook.cells = [first, *(nbformat.v4.new_code_cell(source) for source in (BEGIN, *cells))]
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = home / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, path)
        return path

    return write


def outputs(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for cell in cells for o in cell.get("outputs", []))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4", "04_qat"), ("04", "04_qat"), ("qat", "04_qat"), ("04_qat", "04_qat"), ("perf", "07_compile_perf")],
)
def test_find_notebook(text: str, expected: str) -> None:
    assert find_notebook(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [("9", "fits none"), ("", "fits none"), ("training_x", "fits none"), ("ra", "fits 02_float_training and 03_cal")],
)
def test_no_such_notebook(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_notebook(text)


def test_select() -> None:
    assert select() == NOTEBOOKS
    assert select("7") == NOTEBOOKS[6:]
    assert select("qat", "05") == ("04_qat", "05_conversion")
    with pytest.raises(UserError, match="nothing to run"):
        select("5", "4")


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("1e-4", "float", 1e-4),
        ("3", "int", 3),
        ("3", "str", "3"),
        ("True", "bool", True),
        ("true", "bool", True),
        ("None", "", None),
        ("null", "", None),
        ("[1, 2]", "", [1, 2]),
        ("'a'", "", "a"),
        ("plain words", "", "plain words"),
        ("", "", ""),
    ],
)
def test_parse_value(text: str, kind: str, expected: Any) -> None:
    value = parse_value(text, kind)
    assert value == expected
    assert type(value) is type(expected)


def test_parameters_find_their_notebook() -> None:
    given = parse_parameters(["lr=1e-4", "qat.frames=2", "03_calibration.frames=8", "note=a=b.c"], KNOWN)
    assert given == {"03_calibration": {"frames": 8}, "04_qat": {"lr": 1e-4, "frames": 2, "note": "a=b.c"}}
    assert parse_parameters([], KNOWN) == {"03_calibration": {}, "04_qat": {}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("lrr=1", "unknown parameter 'lrr'; known are 03_calibration: frames; 04_qat: lr, frames, note"),
        ("04_qat.lrr=1", "unknown parameter 'lrr': 04_qat has run, preset, lr"),
        ("frames=1", "03_calibration and 04_qat have it; write -p 03_calibration.frames=1"),
        ("02_float_training.lr=1", "02_float_training is not among the notebooks run"),
        ("nowhere.lr=1", "notebook 'nowhere' fits none"),
        ("lr", "write -p name=value"),
        ("=3", "write -p name=value"),
        ("run=x", "use --run x"),
        ("set=seed", "use --set seed"),
        ("04_qat.preset=x", "use --preset x"),
    ],
)
def test_wrong_parameters(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_parameters([assignment], KNOWN)


def test_known_parameters_have_their_types(write_notebook: Callable[..., Path]) -> None:
    path = write_notebook("04_qat", "lr: float = 1e-3  # rate\nsteps: int = 6  # number")
    assert known_parameters(path) == {"run": "str", "preset": "str", "lr": "float", "steps": "int"}
    with pytest.raises(UserError, match=r"no notebook .*gone\.ipynb"):
        known_parameters(path.with_name("gone.ipynb"))


def test_notebooks_run_in_order_with_their_parameters(
    write_notebook: Callable[..., Path], home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_notebook("07_compile_perf", "lr: float = 0.5  # rate", "print(repr(lr), lab.name, lab.config.preset)")
    where = "import os, sys\nprint(os.getcwd(), sys.executable, lab.path)"
    write_notebook(
        "08_report", "", where, "from pathlib import Path\nprint(Path('..', 'runs').resolve() == lab.path.parent)"
    )
    monkeypatch.delenv("MOTRLAB_HOME")  # found upwards from the working directory, as a user has it
    (home / "pyproject.toml").touch()
    monkeypatch.chdir(home)
    report = run_notebooks("demo", "smoke", parameters=["lr=2"], first="7")
    assert report == home / "reports" / "demo" / "index.html"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ... ")[0] for line in lines] == ["[7/8] 07_compile_perf", "[8/8] 08_report"]
    assert all(float(line.split(" ... ")[1].removesuffix(" s")) > 0 for line in lines)
    kept = home / "runs" / "demo" / "notebooks"
    assert outputs(kept / "07_compile_perf.ipynb") == "2.0 demo smoke\n"
    assert outputs(kept / "08_report.ipynb") == (
        f"{home / 'notebooks'} {sys.executable} {home / 'runs' / 'demo'}\nTrue\n"
    )
    assert sorted(p.name for p in (home / "notebooks").iterdir()) == ["07_compile_perf.ipynb", "08_report.ipynb"]


@pytest.mark.parametrize(
    ("cell", "kind", "message"),
    [
        ("lab.config.nothing", NotebookError, r"04_qat\.ipynb, cell \[4\]: AttributeError: .*'nothing'"),
        (
            "from motrlab.errors import UserError\nraise UserError('the disk is full: make room')",
            UserError,
            r"04_qat\.ipynb, cell \[4\]: the disk is full: make room",
        ),
    ],
    ids=["bug", "user"],
)
def test_a_failing_cell_is_named(
    write_notebook: Callable[..., Path], home: Path, cell: str, kind: type[Exception], message: str
) -> None:
    write_notebook("04_qat", "", cell)
    with pytest.raises(kind, match=message):
        run_notebooks("demo", "smoke", first="4", last="4")
    assert (home / "runs" / "demo" / "notebooks" / "04_qat.ipynb").is_file()


@pytest.mark.parametrize(
    ("cell", "kind", "message"),
    [
        (
            "import os\nos.kill(os.getpid(), 9)",
            NotebookError,
            r"04_qat\.ipynb: its kernel died \(killed, or out of mem",
        ),
        (
            "raise OSError(28, 'No space left on device', 'x')",
            NotebookError,
            r"cell \[4\]: OSError: \[Errno 28\] No sp",
        ),
        ("raise KeyboardInterrupt", KeyboardInterrupt, ""),
    ],
    ids=["killed", "full disk", "interrupted"],
)
def test_what_is_no_bug_is_told_in_one_line(
    write_notebook: Callable[..., Path],
    cell: str,
    kind: type[BaseException],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_notebook("04_qat", "", cell)
    with pytest.raises(kind, match=message or None) as caught:
        run_notebooks("demo", "smoke", first="4", last="4")
    assert getattr(caught.value, "details", "") == ""
    # What libzmq says when a kernel is closed in the wrong moment: "Assertion failed: … (src/signaler.cpp:238)".
    assert [line for line in capfd.readouterr().err.splitlines() if "(src/signaler.cpp" not in line] == []


def test_a_second_run_of_the_same_name_stops(write_notebook: Callable[..., Path], home: Path) -> None:
    write_notebook("04_qat")
    with hold(Run.open("demo", "smoke")) as holder:
        with pytest.raises(UserError, match=r"runs/demo: another process is working on it; wait"):
            run_notebooks("demo", first="4", last="4")
        assert not (home / "runs" / "demo" / "notebooks").exists()
        holder.kill()  # the lock goes with its holder
        holder.wait()
        run_notebooks("demo", first="4", last="4")


@contextmanager
def hold(run: Run) -> Iterator[subprocess.Popen[str]]:
    """Another process that works on the run."""
    code = f"""from motrlab.run import Run
with Run.open({run.name!r}).held():
    print("held", flush=True)
    input()"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_notebooks_of_a_run_may_work_on_it(write_notebook: Callable[..., Path], home: Path) -> None:
    write_notebook("04_qat", "", "with lab.held():\n    print('working')")
    run_notebooks("demo", "smoke", first="4", last="4")
    assert outputs(home / "runs" / "demo" / "notebooks" / "04_qat.ipynb") == "working\n"


def test_real_data_goes_into_the_run(
    write_notebook: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_notebook("01_data_prep")
    for name in ("A", "B"):
        (home / "mot" / name / "img1").mkdir(parents=True)
    monkeypatch.chdir(home)
    arguments: Mapping[str, Any] = {"first": "1", "last": "1", "sequences": ["A", "B"]}
    monkeypatch.setattr("motrlab.pipeline.execute", lambda *_: None)
    assert run_notebooks("real", "smoke", data_root="mot", **arguments) is None
    config = Run.open("real").config
    assert (config.data_root, config.sequences) == (str(home / "mot"), ("A", "B"))
    with pytest.raises(UserError, match="gone: no such folder"):
        run_notebooks("other", "smoke", data_root="gone", **arguments)
    with pytest.raises(UserError, match="no sequence 'TYPO'; there are A, B"):
        run_notebooks("other", "smoke", data_root="mot", first="1", last="1", sequences=["TYPO"])
    assert not (home / "runs" / "other").exists(), "a mistake must not bind the run"
    with pytest.raises(UserError, match="use --data-root mot"):
        run_notebooks("other", "smoke", parameters=["data_root=mot"], first="1", last="1")
    Run.open("real").add_record("data", "data", {}, started=0.0)
    with pytest.raises(UserError, match="was made with sequences"):
        run_notebooks("real", "smoke", data_root="mot", first="1", last="1", sequences=["A"])


def test_papermill_alone_refuses_unknown_parameters(write_notebook: Callable[..., Path], home: Path) -> None:
    path = write_notebook("04_qat", "lr: float = 1e-3  # rate")
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(str(path), str(home / "out.ipynb"), {"lrr": 1.0}, progress_bar=False)
    assert caught.value.ename == "UserError"
    assert "unknown parameter 'lrr': this notebook has run, preset, lr" in caught.value.evalue


def test_notebooks_of_the_checkout_serve_any_home(home: Path) -> None:
    checkout = Path(__file__).parent.parent / "notebooks"
    if not any(checkout.glob("*.ipynb")):
        pytest.skip("this checkout has no notebooks")
    assert notebooks_folder() == checkout


def test_where_a_training_is_stands_behind_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal only, and not of a curve that an earlier training left."""
    old, new = (tmp_path / stage / "loss-1.csv" for stage in ("float", "qat"))
    for file in (old, new):
        file.parent.mkdir()
    old.write_text("step,loss\n" * 9)
    os.utime(old, (1, 1))
    for terminal in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        with steps_told(tmp_path, "[4/8] 04_qat ... ", every=0.01):
            time.sleep(0.1)
            assert capsys.readouterr().out == ""
            new.write_text("step,loss\n0,3\n1,2\n")
            time.sleep(0.1)
        assert capsys.readouterr().out.startswith("\r[4/8] 04_qat ... step 2 ") == terminal
        new.unlink()


def test_weights_that_are_missing_are_told_before_the_data_are_prepared(write_notebook: Callable[..., Path]) -> None:
    for name in NOTEBOOKS[:2]:
        write_notebook(name)
    with pytest.raises(UserError, match="no such file"):
        run_notebooks("r", "smoke", last="2", fields=["train.init=nowhere.pth"])
    assert not list((Path.cwd() / "runs").glob("r/notebooks/*"))


def test_a_new_run_that_does_not_begin_at_the_beginning_is_told(
    write_notebook: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_notebook("04_qat")
    for told in (True, False):
        run_notebooks("typo", first="4", last="4")
        assert ("no run 'typo' yet: this is a new one of preset smoke" in capsys.readouterr().err) == told
