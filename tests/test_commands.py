"""Every command that README, docs, notebooks and benchmarks show: it parses, names what is there, and is executed."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache

import pytest

from motrlab.__main__ import _parser
from motrlab.config import PRESETS, Config, load_preset, street
from motrlab.config.fields import parse_value, variants, with_fields
from motrlab.errors import UserError
from motrlab.notebook import _checked
from motrlab.pipeline import NOTEBOOKS, known_parameters, parse_parameters
from tests.pages import ROOT, TEXTS, fenced_lines, inline_code

PLACEHOLDERS = {"P": ".5", "STAGE": "qat", "T": "horizon-j6m", "RUN": "demo"}  # what stands for a number or a choice
TYPES = {"str": str, "int": int, "float": float, "bool": bool}
PROGRAMS = ("python", "motrlab", "papermill", "make", "torchrun", "accelerate")

# Every verb: the test that executes it, or the reason why none does.
EXECUTED = {
    "run": "notebooks/test_chain.py::home",
    "train": "stages/test_training.py::test_the_command_line",
    "prepare": "data/test_prepare.py::test_a_bar_on_a_terminal_and_only_there",
    "import": "data/test_odgt.py::test_people_count_and_what_is_to_be_ignored_does_not",
    "export": "notebooks/test_chain.py::test_commands_of_the_pages_on_this_run",
    "eval-files": "test_main.py::test_eval_files_prints_json",
    "demo-video": "test_demo.py::test_a_new_user_gets_tracks",
    "track": "notebooks/test_chain.py::test_commands_of_the_pages_on_this_run",
    "evaluate": "notebooks/test_chain.py::test_commands_of_the_pages_on_this_run",
    "pack-halves": "bench/test_run.py::test_weights_to_start_from_travel_along",
    "bench": "its function in bench/test_run.py, with shorter pieces; the verb's take minutes",
    "calops": "notebooks/test_chain.py::test_commands_of_the_pages_on_this_run",
    "report": "notebooks/test_chain.py::test_commands_of_the_pages_on_this_run",
    "check": "notebooks/test_chain.py::test_commands_of_the_pages_on_this_run",
    "targets": "deploy/test_check.py::test_the_targets_verb_lists_what_is_assumed",
    "perf": "notebooks/test_chain.py::test_commands_of_the_pages_on_this_run",
    "align": "notebooks/test_chain.py::test_commands_of_the_pages_on_this_run",
    "debug": "notebooks/test_chain.py::test_commands_of_the_pages_on_this_run",
    "sensitivity": "notebooks/test_chain.py::test_commands_of_the_pages_on_this_run",
    "compile": "notebooks/test_chain.py::test_commands_of_the_pages_on_this_run",
    "handover": "notebooks/test_chain.py::test_commands_of_the_pages_on_this_run",
    "compare": "notebooks/test_chain.py::test_a_copy_compares_with_its_run",
    "ship": "it writes into the package; stages/test_shipping.py looks at what it wrote",
    "doctor": "test_main.py::test_doctor",
}


def shown() -> Iterator[tuple[str, str]]:
    """Page and command, from code blocks, inline code, README's table of commands, and benchmarks' docstrings."""
    for page, text in TEXTS.items():
        for code in [*fenced_lines(text), *inline_code(text)]:
            command = re.sub(r"^(?:cd \S+ && )?(?:[A-Z_]+=\S+ )*", "", code)
            if command.split()[0] in PROGRAMS and (" " in command or command == "make"):
                yield page, code
    for row in re.findall(r"^\| (`.*?`) \|", TEXTS["README.md"].partition("## Commands")[2], re.M):
        for code in re.findall("`([^`]+)`", row):
            if code != "python -m motrlab":
                yield "README.md", "python -m motrlab " + re.sub(r"\\\|\w+|…", "", code)
    for file in sorted((ROOT / "benchmarks").glob("*.py")):
        told = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        for line in re.findall(r"^ +((?:[A-Z_]+=\S+ )*python .+)", told, re.M):
            yield f"benchmarks/{file.name}", line.partition("  ")[0]


COMMANDS = sorted(set(shown()))
PARSER = _parser()
VERBS = next(a for a in PARSER._actions if isinstance(a, argparse._SubParsersAction)).choices
OF_MOTRLAB = [(page, c) for page, c in COMMANDS if re.search(r"(-m (-- )?|^)motrlab ", c)]
OF_PAPERMILL = [(page, c) for page, c in COMMANDS if "papermill " in c]
OF_BENCHMARKS = [(page, c) for page, c in COMMANDS if "python benchmarks/" in c]
each = pytest.mark.parametrize


def words_of(command: str) -> list[str]:
    """After the program's name; optional parts taken, placeholders filled."""
    words = shlex.split(re.sub(r"(?<=\s)\[|\](?=\s|$)", "", command))
    return [PLACEHOLDERS.get(word, word) for word in words]


@cache
def parameters(notebook: str) -> dict[str, str]:
    return known_parameters(ROOT / "notebooks" / f"{notebook}.ipynb")


def check_fields(assignments: list[str], preset: str = "", *, may_need_others: bool = False) -> None:
    """Every combination is a config (but for what other fields must say, too). Raises UserError."""
    if not any(a.startswith("FIELD=") for a in assignments):
        base: Config = load_preset(preset) if preset in PRESETS else street()
        for combination in variants(assignments):
            try:
                with_fields(base, combination)
            except UserError as error:
                if str(error).startswith("--set") or not may_need_others:
                    raise


def check_parameter(notebook: str, name: str, text: str) -> None:
    """Raises UserError for a value that the notebook's second cell would refuse."""
    kind = parameters(notebook)[name]
    _checked(name, parse_value(text, kind), TYPES[kind])
    if name == "set":
        check_fields(text.split())


def test_there_are_commands() -> None:
    assert len(OF_MOTRLAB) >= 70
    assert len(OF_PAPERMILL) >= 10
    assert len(OF_BENCHMARKS) >= 20


@each(("page", "command"), OF_MOTRLAB, ids=lambda value: str(value)[:70])
def test_every_command_of_ours_parses(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = words_of(re.sub(r"^(?:.*-m (?:-- )?)?motrlab ", "", command.partition(" | ")[0]))
    if len(words) == 1:  # names a verb
        assert words[0] in VERBS, f"{page}: {command}"
        return
    try:
        options, rest = PARSER.parse_known_args(words)
    except SystemExit as stopped:
        pytest.fail(f"{page}: {command}: {stopped.code} {capsys.readouterr().err}")
    assert not rest, f"{page}: {command}: {rest}"
    check_fields(getattr(options, "fields", []), getattr(options, "preset", ""))
    given = [p for p in getattr(options, "parameters", []) if p != "name=value"]
    parse_parameters(given, {name: parameters(name) for name in NOTEBOOKS} if given else {})


@each(("page", "command"), OF_PAPERMILL, ids=str)
def test_every_papermill_command_names_a_notebook_and_its_parameters(page: str, command: str) -> None:
    folder = ROOT / "notebooks" if page.endswith(".ipynb") or "cd notebooks" in command else ROOT
    words = words_of(command.rpartition("papermill ")[2])
    notebook = folder / words[0]
    assert notebook.is_file(), f"{page}: {command}"
    for i, word in enumerate(words):
        if word == "-p":
            assert words[i + 1] in parameters(notebook.stem), f"{page}: {command}"
            check_parameter(notebook.stem, words[i + 1], words[i + 2])


@each("page", TEXTS)
def test_options_alone_are_options(page: str) -> None:
    """`--set FIELD=VALUE`, `-p name value` and `--option` in the middle of a sentence."""
    known = {option for verb in VERBS.values() for action in verb._actions for option in action.option_strings}
    for code in inline_code(TEXTS[page]):
        words = code.split(maxsplit=2)
        if words[0] == "-p" and len(words) == 3:
            mine = [name for name in NOTEBOOKS if words[1] in parameters(name) and (name in page or page[-3:] == ".md")]
            assert mine, f"{page}: {code}"
            for name in mine:
                check_parameter(name, words[1], shlex.split(words[2])[0])
        elif re.match("--[a-z]", code):
            assert words[0] in known, f"{page}: {code}"
            if words[0] == "--set":
                check_fields(words[1:2], may_need_others=True)


@each(("page", "command"), OF_BENCHMARKS, ids=lambda value: str(value)[:70])
def test_every_benchmark_is_there_and_knows_its_options(page: str, command: str) -> None:
    """Of `without_vnni.py PROGRAM OPTIONS` the options are the program's."""
    words = words_of(command.partition("python ")[2])
    *_, script = (word for word in words if word.endswith(".py"))
    text = (ROOT / script).read_text(encoding="utf-8")
    known = set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', text))
    given = {word for word in words if word.startswith("--")}
    assert given <= known, f"{page}: {command}"


def test_every_make_command_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    asked = {w for _, c in COMMANDS if c.startswith("make ") for w in c.split()[1:] if re.fullmatch("[a-z-]+", w)}
    assert asked <= targets
    assert {"demo", "test", "weights", "notebooks-outputs"} <= asked


def test_what_is_wrong_is_found() -> None:
    """The checks above can fail."""
    with pytest.raises(UserError, match="no such field"):
        check_fields(["train.learning_rate=1"])
    with pytest.raises(UserError, match="must be"):
        check_parameter("04_qat", "lr", "fast")
    with pytest.raises(UserError, match="unknown parameter"):
        parse_parameters(["04_qat.rate=1"], {"04_qat": parameters("04_qat")})


@each("verb", VERBS)
def test_every_verb_is_executed_by_a_test(verb: str) -> None:
    file, found, name = EXECUTED[verb].partition("::")
    if found:  # else: the reason
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", text, re.M), EXECUTED[verb]
        assert re.search(rf'("|&& ){verb}\b', text), f"{file} does not name {verb}"


def test_verbs_of_the_pages_are_in_the_table() -> None:
    said = {words_of(re.sub(r"^(?:.*-m (?:-- )?)?motrlab ", "", c))[0] for _, c in OF_MOTRLAB}
    assert said <= EXECUTED.keys() == VERBS.keys()
    assert len(said) >= 20
