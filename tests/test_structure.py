"""The house rules of docs/architecture.md, read from that page and checked on the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "motrlab"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 50


def table_rooms() -> dict[str, int]:
    """`config` → 0, `data` → 1, ..., `pipeline` → the last: rooms and files of the top folder."""
    ranks: dict[str, int] = {}
    height, is_folder = -1, False
    rows = re.findall(r"^\| ([^|]*)\| ([^|]*)\|", PAGE.partition("## Data types")[0], re.M)
    for room, files in rows[1:]:  # below the heading
        if room.strip():
            folder = re.match(r"`(\w+)/`", room)
            height, is_folder = height + 1, folder is not None
            ranks |= {folder[1]: height} if folder else {}
        if not is_folder:
            ranks |= dict.fromkeys(re.findall(r"`(\w+)\.py`", files), height)
    return ranks


RANKS = table_rooms()


def rank(module: str) -> int:
    """Height of a module's room; at the top stand command lines, and files of the top folder not in the table."""
    parts = module.split(".")
    if parts[-1] == "__main__":
        return max(RANKS.values())
    return RANKS.get(parts[1], max(RANKS.values())) if len(parts) > 1 else -1


def imports(file: Path, *, top_level_only: bool = False) -> set[str]:
    """Modules that a file imports: absolute names, `from motrlab.a import b` as `motrlab.a` or `motrlab.a.b`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in _executed_on_import(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (members & NAMES.keys()) or {node.module}
    return found


def _executed_on_import(node: ast.AST) -> list[ast.AST]:
    """Nodes outside functions and outside `if TYPE_CHECKING`."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not checking:
            found += [child, *_executed_on_import(child)]
    return found


def own_imports(module: str, *, top_level_only: bool = False) -> set[str]:
    found = imports(NAMES[module], top_level_only=top_level_only)
    return {name for name in found if name in NAMES and name != module}


def test_the_table_was_read() -> None:
    order = ["config", "data", "model", "tracking", "evaluation", "training", "quantization", "deploy", "viz", "report"]
    heights = [RANKS[name] for name in order]
    assert heights == sorted(set(heights))
    assert 0 == RANKS["errors"] < RANKS["config"] < RANKS["boxes"] == RANKS["run"]
    assert RANKS["pipeline"] == RANKS["__main__"] > RANKS["stages"] > RANKS["report"]


def test_every_room_is_in_the_table() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert folders <= RANKS.keys()


@pytest.mark.parametrize("module", sorted(NAMES))
def test_rooms_import_only_from_rooms_above(module: str) -> None:
    """Above in the table, that is: of lower rank. Within a room files may import each other, but not in circles."""
    lower = [name for name in own_imports(module) if rank(name) > rank(module)]
    assert lower == [], f"{module} imports from a room below it in docs/architecture.md"


def test_no_two_files_import_each_other() -> None:
    graph = {module: own_imports(module) for module in NAMES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(NAMES)  # raises CycleError, naming the circle


def torch_free() -> list[str]:
    """Modules that must import no torch at module level, from the page's rule."""
    rule = re.search(r"^- (.*) import no torch at module level", PAGE, re.M)
    assert rule is not None
    named = re.findall(r"`([\w/.]+)`", rule[1])
    patterns = ["**/__init__.py" if n == "__init__" else n if n.endswith(".py") else f"{n}*.py" for n in named]
    files = {file for pattern in patterns for file in PACKAGE.glob(pattern)}
    return sorted(name for name, file in NAMES.items() if file in files)


def test_torch_free_rooms_import_no_torch_at_module_level() -> None:
    modules = torch_free()
    assert {"motrlab.boxes", "motrlab.tracking.tracker", "motrlab.data.motchallenge", "motrlab.model"} <= set(modules)
    for module in modules:
        heads = {name.partition(".")[0] for name in imports(NAMES[module], top_level_only=True)}
        assert not heads & {"torch", "accelerate"}, module


def test_torch_free_rooms_bring_no_torch_in() -> None:
    """Nor do the modules that they import."""
    code = f"import sys\nfor name in {torch_free()}:\n    __import__(name)\n    assert 'torch' not in sys.modules, name"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr


@cache
def functions() -> list[tuple[str, int, ast.FunctionDef | ast.AsyncFunctionDef]]:
    found = []
    for name, file in NAMES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                found.append((f"{name}.{node.name}", length, node))
    return found


def test_files_are_short() -> None:
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in NAMES.items()}
    long = {name for name, length in lengths.items() if length > MAX_FILE_LINES}
    assert not long, f"files over {MAX_FILE_LINES} lines"


def test_functions_are_short() -> None:
    long = {name for name, length, _ in functions() if length >= MAX_FUNCTION_LINES}
    assert not long, f"functions of {MAX_FUNCTION_LINES} lines and more"


def test_every_function_is_annotated() -> None:
    bare = []
    for name, _, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        unnamed = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        bare += [name] * bool(unnamed or node.returns is None)
    assert bare == []


def test_every_file_says_what_it_is() -> None:
    silent = [n for n, f in NAMES.items() if not ast.get_docstring(ast.parse(f.read_text(encoding="utf-8")))]
    assert silent == []


@pytest.mark.parametrize("room", ["viz", "report"])
def test_pictures_are_drawn_without_pyplot(room: str) -> None:
    for file in (PACKAGE / room).glob("*.py"):
        assert not {name for name in imports(file) if "pyplot" in name}, file
