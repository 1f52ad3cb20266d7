"""The notebooks in order, headless, through papermill.

    python -m motrlab run --preset street --run demo -p 04_qat.lr=1e-4

Each executed notebook is kept in `runs/NAME/notebooks/`.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib

from motrlab.config import load_preset
from motrlab.config.fields import parse_value, variants, with_fields
from motrlab.errors import UserError, tell
from motrlab.lineage import first_stage
from motrlab.notebook import checked_source
from motrlab.report.notebooks import FOLDER, render
from motrlab.run import Run, environment, project_root

NOTEBOOKS = (
    "01_data_prep", "02_float_training", "03_calibration", "04_qat", "05_conversion", "06_tracking_visualization",
    "07_compile_perf", "08_report",
)  # fmt: skip
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")

_OPTIONS = ("run", "preset", "set", "data_root", "sequences")  # parameters that have an option of their own

Parameters = dict[str, dict[str, Any]]  # notebook → parameter → value


class NotebookError(RuntimeError):
    """A cell failed, and not by a user's mistake. `details` is the kernel's traceback."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


def notebooks_folder() -> Path:
    """`notebooks/` of the project root, else of the checkout this package lies in. Raises UserError."""
    for root in (project_root(), Path(__file__).resolve().parent.parent):
        if any((root / "notebooks").glob("*.ipynb")):
            return root / "notebooks"
    raise UserError(f"no notebooks in {project_root() / 'notebooks'}: run from a checkout, or set MOTRLAB_HOME to one")


def find_notebook(text: str) -> str:
    """The notebook with that number or (part of a) name, such as `4`, `04`, `qat`, `04_qat`. Raises UserError."""
    exact = [name for name in NOTEBOOKS if text == name or (text.isdecimal() and int(name[:2]) == int(text))]
    found = exact or [name for name in NOTEBOOKS if text.strip("0123456789") and text in name]
    if len(found) != 1:
        problem = "fits none" if not found else f"fits {' and '.join(found)}"
        raise UserError(f"notebook {text!r} {problem}: give a number or a name of {', '.join(NOTEBOOKS)}")
    return found[0]


def select(first: str | None = None, last: str | None = None) -> tuple[str, ...]:
    """The notebooks from `first` to `last`, both included. Raises UserError if that is none."""
    start = NOTEBOOKS.index(find_notebook(first)) if first else 0
    end = NOTEBOOKS.index(find_notebook(last)) if last else len(NOTEBOOKS) - 1
    if start > end:
        raise UserError(f"--from {first} comes after --to {last}: nothing to run")
    return NOTEBOOKS[start : end + 1]


def parse_parameters(assignments: Sequence[str], known: Mapping[str, Mapping[str, str]]) -> Parameters:
    """`name=value` and `NOTEBOOK.name=value` → values by notebook.

    `known` maps each notebook that will run to its parameters and their types. Raises UserError on an unknown name, and
    on a bare name that several notebooks have.
    """
    given: Parameters = {notebook: {} for notebook in known}
    for assignment in assignments:
        left, equals, text = assignment.partition("=")
        if not equals or not left:
            raise UserError(f"-p {assignment}: write -p name=value or -p 04_qat.name=value")
        prefix, _, name = left.rpartition(".")
        if name in _OPTIONS:
            raise UserError(f"-p {assignment}: use --{name.replace('_', '-')} {text}")
        notebook = _owner(assignment, prefix, name, known)
        given[notebook][name] = parse_value(text, known[notebook][name])
    return given


def _owner(assignment: str, prefix: str, name: str, known: Mapping[str, Mapping[str, str]]) -> str:
    """The notebook that an assignment is meant for."""
    if prefix:
        notebook = find_notebook(prefix)
        if notebook not in known:
            raise UserError(f"-p {assignment}: {notebook} is not among the notebooks run ({', '.join(known)})")
        if name not in known[notebook]:
            names = ", ".join(known[notebook]) or "no parameters"
            raise UserError(f"-p {assignment}: unknown parameter {name!r}: {notebook} has {names}")
        return notebook
    owners = [notebook for notebook in known if name in known[notebook]]
    if len(owners) > 1:
        raise UserError(f"-p {assignment}: {' and '.join(owners)} have it; write -p {owners[0]}.{assignment}")
    if not owners:
        names = "; ".join(f"{n}: {', '.join(p for p in known[n] if p not in ('run', 'preset'))}" for n in known)
        raise UserError(f"-p {assignment}: unknown parameter {name!r}; known are {names}")
    return owners[0]


def known_parameters(notebook: Path) -> dict[str, str]:
    """Parameters of a notebook and their annotated types. Raises UserError if there is no such notebook."""
    import papermill

    if not notebook.is_file():
        raise UserError(f"no notebook {notebook}")
    found = papermill.inspect_notebook(str(notebook))
    return {name: str(info["inferred_type_name"]) for name, info in found.items()}


def run_notebooks(
    name: str,
    preset: str = "",
    *,
    parameters: Sequence[str] = (),
    first: str | None = None,
    last: str | None = None,
    data_root: str | None = None,
    sequences: Sequence[str] = (),
    fields: Sequence[str] = (),
) -> Path | None:
    """Run the notebooks from `first` to `last` on run `name`; prints a line for each.

    `fields`: `FIELD=VALUE` of the config, as `Run.open` takes them.

    Returns the path of the report where 08_report was among them. Raises UserError, also for one inside a notebook, and
    NotebookError for any other failure of a cell.
    """
    names, folder = select(first, last), notebooks_folder()
    known = {notebook: known_parameters(folder / f"{notebook}.ipynb") for notebook in names}
    given = parse_parameters(parameters, known)
    run = _open_run(name, preset, names, fields=fields, **checked_source(data_root, sequences))
    # Kernels get this interpreter's kernel spec and this project, whatever else the user has installed.
    paths = [str(Path(sys.prefix) / "share" / "jupyter"), os.environ.get("JUPYTER_PATH", "")]
    own = {"JUPYTER_PATH": os.pathsep.join(filter(None, paths)), "MOTRLAB_HOME": str(project_root())}
    with run.held(), environment(**own):
        for notebook in names:
            values = {"run": run.name, "preset": run.config.preset, **given[notebook]}
            told = f"[{NOTEBOOKS.index(notebook) + 1}/{len(NOTEBOOKS)}] {notebook} ... "
            print(told, end="", flush=True)
            started = time.perf_counter()
            try:
                with steps_told(run.path / "checkpoints", told):
                    execute(folder / f"{notebook}.ipynb", run.path / "notebooks" / f"{notebook}.ipynb", values)
            except BaseException:
                print("failed", flush=True)
                raise
            print(f"{time.perf_counter() - started:.1f} s", flush=True)
    if NOTEBOOKS[-1] not in names:
        return None
    if run.report.is_dir() and not (given[NOTEBOOKS[-1]].get("numbers_only")):
        render(run, run.report / FOLDER, only=NOTEBOOKS[-1])  # it had not ended when it made the others' pages
    return run.report / "index.html"


def _open_run(name: str, preset: str, notebooks: Sequence[str], **given: Any) -> Run:
    """The run that these notebooks are run on; what is missing for them is told now, not after an hour."""
    from_start, new = notebooks[0] == NOTEBOOKS[0], not (project_root() / "runs" / name).exists()
    run = Run.open(name, preset, create=from_start or preset in ("", "smoke"), **given)  # smoke builds what is missing
    if new and not preset and not from_start:
        tell(f"motrlab: no run {name!r} yet: this is a new one of preset {run.config.preset}, built from its data on")
    if NOTEBOOKS[1] in notebooks and run.config.train.init:
        from motrlab.training.initial_weights import source_file

        source_file(run.config.train.init)
    return run


@contextlib.contextmanager
def steps_told(checkpoints: Path, told: str, every: float = 2.0) -> Iterator[None]:
    """On a terminal, where a training is, behind the line `told`: by the loss curves in `checkpoints/STAGE/`."""
    began, ended = time.time(), threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            curves = [(file.stat().st_mtime, file) for file in checkpoints.glob("*/loss-*.csv")]
            moved, newest = max(curves, default=(0.0, Path()))
            if moved > began:
                steps = len(newest.read_text(encoding="utf-8").splitlines()) - 1
                print(f"\r{told}step {steps} ", end="", flush=True)

    watcher = threading.Thread(target=watch, daemon=True)
    if sys.stdout.isatty():
        watcher.start()
    try:
        yield
    finally:
        ended.set()
        if watcher.ident:
            watcher.join()


def run_variants(
    name: str,
    preset: str = "",
    *,
    fields: Sequence[str],
    jobs: int = 1,
    last: str | None = None,
    data_root: str | None = None,
    sequences: Sequence[str] = (),
) -> list[str]:
    """Make the runs of `make_variants` and execute them, `jobs` at a time, each in a process of its own.

    Returns their names. Raises UserError.
    """
    commands = make_variants(name, preset, fields=fields, last=last, data_root=data_root, sequences=sequences)
    done = joblib.Parallel(n_jobs=jobs, backend="threading")(
        joblib.delayed(subprocess.run)(command) for command in commands.values()
    )
    failed = [own for own, result in zip(commands, done, strict=True) if result.returncode]
    if failed:
        raise UserError(f"{', '.join(failed)}: failed; `python -m motrlab run --run NAME` continues one")
    return list(commands)


def make_variants(
    name: str,
    preset: str = "",
    *,
    fields: Sequence[str],
    last: str | None = None,
    data_root: str | None = None,
    sequences: Sequence[str] = (),
) -> dict[str, list[str]]:
    """A run for every combination of the fields' values, `NAME-1`, `NAME-2`, …, with the command that executes it.

    Run `name` itself is taken as far as no field has an effect, once; each variant starts from a copy of it and goes
    on from there. The commands may run in any order, at the same time, on every machine that sees the project's
    folder. Raises UserError.
    """
    from motrlab.stages.chain import NOTEBOOK_OF

    combinations = variants(fields)
    for combination in combinations:
        with_fields(load_preset(preset or "smoke"), combination)  # a mistake, said before anything runs
    start = min(NOTEBOOKS.index(NOTEBOOK_OF.get(first_stage(field), NOTEBOOKS[-1])) for field in combinations[0])
    if start:
        run_notebooks(name, preset, last=NOTEBOOKS[start - 1], data_root=data_root, sequences=sequences)
    base = Run.open(name, preset, **checked_source(data_root, sequences))
    options = ["--from", NOTEBOOKS[start], *(["--to", last] if last else [])]
    commands = {}
    for number, combination in enumerate(combinations, 1):
        own = f"{name}-{number}"
        print(f"{own}: {', '.join(combination)}", flush=True)
        Run.open(base.copy(own).name, fields=combination)
        commands[own] = [sys.executable, "-m", "motrlab", "run", "--run", own, *options]
    return commands


def execute(notebook: Path, output: Path, parameters: Mapping[str, Any]) -> None:
    """Execute one notebook in its own folder, saving after every cell. Raises UserError and NotebookError."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    output.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what goes wrong is raised as well
    try:
        papermill.execute_notebook(
            str(notebook), str(output), dict(parameters), kernel_name="python3", cwd=str(notebook.parent),
            progress_bar=False,
            extra_arguments=["--log-level=CRITICAL"],  # it warns of TCP, which never leaves this machine
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from error
        message = _ESCAPES.sub("", error.evalue).strip()
        where = f"{notebook.name}, cell [{error.exec_count}]"
        if error.ename == "UserError":
            raise UserError(f"{where}: {message}") from error
        line = message.splitlines()[-1] if message else "no message"
        told = f"{where}: {error.ename}: {line} (executed so far: {output})"
        of_the_system = isinstance(kind := getattr(builtins, error.ename, None), type) and issubclass(kind, OSError)
        details = "" if of_the_system else _ESCAPES.sub("", "\n".join(error.traceback))
        raise NotebookError(told, details) from error
    except DeadKernelError as error:
        why = "its kernel died (killed, or out of memory?)"
        raise NotebookError(f"{notebook.name}: {why}; run the same command to start this notebook again") from error
