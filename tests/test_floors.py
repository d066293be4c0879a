"""The floors: imports point down only, between packages, between rooms, between files."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "clip_tokenizer": set(),
    "osf_supernet": set(),
    "dtp_pooling": set(),
    "clip_models": set(),
    "clip_eval": {"clip_models", "clip_tokenizer"},
    "clip_train": {
        "clip_eval",
        "clip_models",
        "clip_tokenizer",
        "dtp_pooling",
        "osf_supernet",
    },
}
PUBLIC_PARTS = {
    "clip_eval.data",
    "clip_models.command_line",
    "clip_models.config",
    "clip_models.converters",
    "clip_models.devices",
    "clip_models.files",
    "clip_models.graphs",
    "clip_models.model",
    "clip_models.pooling",
    "dtp_pooling.checkpoint_files",
    "dtp_pooling.pooling",
    "dtp_pooling.run_lock",
    "osf_supernet.files",
    "osf_supernet.graph",
    "osf_supernet.search",
    "osf_supernet.subnets",
    "osf_supernet.training",
}
"""Packages inside a package that its README imports from."""
PACKAGES = {path.name: path for path in ROOT.glob("packages/*/src/*") if path.is_dir()}


def faults(source: str, package: str) -> list[str]:
    """Imports in `source`, a module of `package`, that the floors forbid."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            top, _, inside = name.partition(".")
            if top in ALLOWED and top != package:
                if top not in ALLOWED[package]:
                    found.append(f"{name} is not below {package}")
                elif inside and name not in PUBLIC_PARTS:
                    found.append(f"{name} is inside {top}; import from its top")
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append("relative import")
    return found


def modules_of(package: str) -> dict[str, Path]:
    """The files of a package by module name; a room's `__init__` hands names on and is left out."""
    root = PACKAGES[package]
    files = (file for file in root.rglob("*.py") if file.name != "__init__.py")
    return {
        ".".join(file.relative_to(root.parent).with_suffix("").parts): file
        for file in sorted(files)
    }


def imported(source: str) -> Iterator[str]:
    """What a module imports, and the members it imports as possible modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph_of(package: str) -> dict[str, set[str]]:
    """The files of a package with the files that each imports."""
    modules = modules_of(package)
    return {
        name: {other for other in imported(file.read_text(encoding="utf-8")) if other in modules}
        for name, file in modules.items()
    }


def room_of(module: str) -> str:
    """The folder of a module directly below its package, or the file itself."""
    return module.split(".")[1]


def rooms_of(package: str) -> dict[str, set[str]]:
    """The rooms of a package with the rooms that each imports from."""
    rooms: dict[str, set[str]] = {}
    for module, others in graph_of(package).items():
        room = room_of(module)
        rooms.setdefault(room, set()).update(set(map(room_of, others)) - {room})
    return rooms


def assert_no_circle(graph: Mapping[str, Set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_no_circle_inside_a_package(package: str) -> None:
    assert_no_circle(graph_of(package))
    assert_no_circle(rooms_of(package))


def test_a_circle_would_be_seen() -> None:
    with pytest.raises(pytest.fail.Exception, match="circle of imports"):
        assert_no_circle({"a": {"b"}, "b": {"a"}})
    assert graph_of("clip_eval")["clip_eval.evaluation.evaluate"]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_the_rooms_stand_on_the_floors_that_the_page_draws(package: str) -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = page.partition(f"### {package}\n")[2].partition("\n### ")[0]
    drawn = re.findall(r"^floor (\d+) +(.+)$", section, re.MULTILINE)
    floors = {room: int(number) for number, names in drawn for room in names.split()}
    rooms = {room for room in rooms_of(package) if room != "__main__"}
    assert floors.keys() == rooms
    climbing = [
        f"{room} imports {other}"
        for room, others in rooms_of(package).items()
        for other in others
        if room != "__main__" and floors[other] >= floors[room]
    ]
    assert climbing == []


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_room_holds_two_files_and_its_init_defines_nothing(package: str) -> None:
    for init in PACKAGES[package].rglob("__init__.py"):
        tree = ast.parse(init.read_text(encoding="utf-8"))
        defined = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert defined == [], init
        if init.parent != PACKAGES[package]:
            files = [file for file in init.parent.iterdir() if file.suffix == ".py"]
            assert len(files) > 2, f"{init.parent} holds one file"


def test_the_table_names_every_package() -> None:
    assert PACKAGES.keys() == ALLOWED.keys()


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_down(package: str) -> None:
    modules = sorted(PACKAGES[package].rglob("*.py"))
    assert modules
    for module in modules:
        assert faults(module.read_text(encoding="utf-8"), package) == [], module.name


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_declared_siblings_are_those_the_floors_allow(package: str) -> None:
    project = tomllib.loads((PACKAGES[package].parents[1] / "pyproject.toml").read_text())
    lines = project["project"]["dependencies"]
    names = {re.split(r"[^A-Za-z0-9_-]", line)[0].replace("-", "_"): line for line in lines}
    assert names.keys() & ALLOWED.keys() <= ALLOWED[package]
    for name in names.keys() & ALLOWED.keys():
        assert re.search(r">=\d.*,<\d", names[name]), f"{names[name]} is no compatible range"
    if package == "clip_tokenizer":
        assert "torch" not in names


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("clip_models", "import clip_eval"),
        ("clip_eval", "from osf_supernet import x"),
        ("clip_train", "from clip_models.vision import x"),
        ("clip_train", "import clip_models.model.clip"),
        ("clip_train", "from osf_supernet.training.loop import train"),
        ("clip_tokenizer", "from . import x"),
        ("dtp_pooling", "def f():\n    import clip_models"),
    ],
)
def test_the_check_catches(package: str, line: str) -> None:
    assert faults(line, package)
