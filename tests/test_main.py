from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from motrlab.__main__ import main
from motrlab.errors import UserError
from motrlab.pipeline import NotebookError
from motrlab.run import Run

VERBS = (
    "run", "train", "prepare", "import", "export", "evaluate", "eval-files", "track", "check", "calops", "compile",
    "perf", "align", "compare", "report", "doctor", "handover",
)  # fmt: skip


def raising(error: BaseException) -> object:
    def verb(*_: object, **__: object) -> None:
        raise error

    return verb


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert [verb for verb in VERBS if f"\n    {verb}" not in text] == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["run", "--presett", "smoke"],
        ["evaluate", "--stage", "best"],
        ["evaluate"],
        ["eval-files", "--gt", "a"],
        ["eval-files", "--gt", "a", "--pred", "b", "--protocol", "none"],
        ["prepare", "--src", "a", "--dst", "b", "--workers", "0"],
        ["prepare", "--src", "a", "--dst", "b", "--workers", "x"],
    ],
    ids=" ".join,
)
def test_wrong_options_end_with_2(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "motrlab" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "--run", "gone"], "motrlab: no run 'gone'"),
        (["run", "--run", "bad name"], "motrlab: run name 'bad name'"),
        (["run", "--from", "12"], "motrlab: notebook '12' fits none"),
        (["eval-files", "--gt", "gone", "--pred", "gone"], "motrlab: gone: no SEQ/gt/gt.txt"),
        (["compare", "a"], "motrlab: compare: give two or more different runs, the others are compared"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_and_2(
    home: Path, arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "notebooks").mkdir()
    (home / "notebooks" / "01_data_prep.ipynb").write_text("{}")
    if "bad name" in arguments:
        arguments = [*arguments, "--from", "1"]
        _write_empty_notebooks(home)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


def _write_empty_notebooks(home: Path) -> None:
    import nbformat

    from motrlab.pipeline import NOTEBOOKS

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", metadata={"tags": ["parameters"]})])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name in NOTEBOOKS:
        nbformat.write(notebook, home / "notebooks" / f"{name}.ipynb")


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (UserError("two\n lines"), 2, ["motrlab: two lines"]),
        (NotebookError("04_qat.ipynb, cell [3]: KeyError: 'x'", "the cell's trace"), 1,
         ["the cell's trace", "motrlab: 04_qat.ipynb, cell [3]: KeyError: 'x'"]),
        (NotebookError("04_qat.ipynb: its kernel died"), 1, ["motrlab: 04_qat.ipynb: its kernel died"]),
        (KeyboardInterrupt(), 1, ["motrlab: interrupted; run the same command to continue"]),
        (OSError(errno.ENOSPC, "full", "runs/a/records.jsonl"), 1,
         ["motrlab: runs/a/records.jsonl: No space left on device; free some space and run again"]),
        (OSError(errno.EROFS, "read-only", "runs/a/.lock"), 1,
         ["motrlab: runs/a/.lock: Read-only file system; choose a folder that can be written"]),
    ],
    ids=["user", "notebook", "kernel", "interrupt", "full disk", "read-only"],
)  # fmt: skip
def test_exit_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    lines: list[str],
) -> None:
    monkeypatch.setattr("motrlab.pipeline.run_notebooks", raising(error))
    assert main(["run"]) == status
    assert capsys.readouterr().err.splitlines() == lines


def test_a_bug_ends_with_1_and_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("motrlab.pipeline.run_notebooks", raising(ZeroDivisionError("halves")))
    assert main(["run"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("ZeroDivisionError: halves\n")


@pytest.mark.parametrize("place", ["closed", "full"])
def test_output_that_cannot_be_written_is_one_line_and_1(home: Path, place: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does
    with open(writer, "wb") if place == "closed" else open("/dev/full", "wb") as stdout:
        command = [sys.executable, "-m", "motrlab", "doctor"]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    if place == "full":
        os.close(writer)
    told = {"closed": "stopped, because nobody reads the output", "full": "No space left on device; free some space"}[
        place
    ]
    assert done.returncode == 1
    assert done.stderr.startswith(f"motrlab: {told}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&- >&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_mistake_and_no_file_gets_their_numbers(closed: str, tmp_path: Path) -> None:
    """As under some schedulers: what C code prints must not end up in a file of ours."""
    code = (
        "import os, sys\nfrom motrlab.errors import exit_status\n"
        "def work():\n    print('a')\n    print('b', file=sys.stderr)\n"
        f"    file = open({str(tmp_path / 'file')!r}, 'w')\n    file.write(str(file.fileno()))\n    os.write(1, b'c')\n"
        "raise SystemExit(exit_status(work))"
    )
    command = shlex.join([sys.executable, "-c", code])
    done = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert int((tmp_path / "file").read_text()) > 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_a_sign_gets_a_question_mark(encoding: str) -> None:
    code = "from motrlab.errors import exit_status; raise SystemExit(exit_status(lambda: print('a → b')))"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, b"a ? b\n")


def test_run_passes_its_options_on_and_prints_the_report_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[object] = []

    def run_notebooks(name: str, preset: str, **options: object) -> Path:
        seen.extend((name, preset, options))
        print("[8/8] 08_report ... 1.0 s")
        return Path("/home/reports/real/index.html")

    monkeypatch.setattr("motrlab.pipeline.run_notebooks", run_notebooks)
    words = "run --preset smoke --data-root ../mot --sequences A,B --run real --from 2 --to qat -p lr=1 -p 04_qat.x=2"
    assert main(words.split()) == 0
    assert seen == [
        "real",
        "smoke",
        {
            "parameters": ["lr=1", "04_qat.x=2"],
            "first": "2",
            "last": "qat",
            "data_root": "../mot",
            "sequences": ("A", "B"),
            "fields": (),
        },
    ]
    assert capsys.readouterr().out.splitlines()[-1] == "/home/reports/real/index.html"


def test_report_prints_its_path(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run.open("demo", "smoke")
    assert main(["report", "--run", "demo"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == home / "reports" / "demo" / "index.html"
    assert "Three short videos" in path.read_text(encoding="utf-8")


def test_eval_files_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt, pred = tmp_path / "gt" / "A" / "gt", tmp_path / "pred"
    gt.mkdir(parents=True)
    pred.mkdir()
    (gt / "gt.txt").write_text("".join(f"{frame},1,{10 + frame},10,20,40,1,1,1\n" for frame in (1, 2, 3)))
    (pred / "A.txt").write_text("".join(f"{frame},5,{10 + frame},10,20,40,0.9,-1,-1,-1\n" for frame in (1, 3)))
    assert main(["eval-files", "--gt", str(tmp_path / "gt"), "--pred", str(pred), "--protocol", "hat"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert list(metrics) == ["A", "OVERALL"]
    assert metrics["OVERALL"]["mota"] == pytest.approx(2 / 3)
    assert metrics["OVERALL"]["num_gt"] == 3


def test_json_has_null_for_what_has_no_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"A": {"mota": float("nan"), "fp": 3}}
    monkeypatch.setattr("motrlab.evaluation.metrics.evaluate_folders", lambda *_: values)
    assert main(["eval-files", "--gt", "a", "--pred", "b"]) == 0
    assert json.loads(capsys.readouterr().out) == {"A": {"mota": None, "fp": 3}}


def test_doctor(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Run.open("first", "smoke")
    monkeypatch.setenv("MOTRLAB_MOT_ROOT", str(home / "gone"))
    assert main(["doctor"]) == 0
    found = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if not line.startswith("cpu "))
    assert found["runs"] == "first"
    assert found["MOTRLAB_MOT_ROOT"].endswith("gone: no such folder")
    assert found["torch"].startswith("2.")


def test_help_and_eval_files_do_not_wait_for_large_packages() -> None:
    code = "import sys, motrlab.__main__; print('numpy' in sys.modules); import motrlab.evaluation.metrics"
    code += "; print({'torch', 'motmetrics', 'pandas', 'matplotlib', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["False", "set()"]


def test_a_warning_is_one_line_without_its_place_in_the_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(_: object) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            sys.stderr.write(warnings.formatwarning("train it further", UserWarning, "file.py", 3))  # type: ignore[arg-type]

    monkeypatch.setattr("motrlab.__main__._doctor", warn)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().err == "motrlab: train it further\n"
