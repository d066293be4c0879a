"""The floors: imports point down only, siblings are imported from their top or a public part."""

from __future__ import annotations

import ast
import re
import tomllib
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
    "clip_models.model",
    "clip_models.pooling",
    "dtp_pooling.checkpoint_files",
    "dtp_pooling.pooling",
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
