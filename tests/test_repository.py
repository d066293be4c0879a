"""Every package is complete, and the two commands of the README are what they promise."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))


def test_the_six_packages() -> None:
    assert [package.name for package in PACKAGES] == [
        "clip-eval",
        "clip-models",
        "clip-tokenizer",
        "clip-train",
        "dtp-pooling",
        "osf-supernet",
    ]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_is_complete(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    name = package.name.replace("-", "_")
    assert project["name"] == package.name
    assert project["requires-python"] == ">=3.11"
    for file in ("README.md", "CHANGELOG.md", "LICENSE", f"src/{name}/py.typed", "tests/smoke.py"):
        assert (package / file).is_file(), file
    assert project["version"] in (package / "CHANGELOG.md").read_text()
    assert list((package / "tests").glob("test_*.py"))
    assert not any(" @ " in line or "file:" in line for line in project["dependencies"])


PAGES = [
    *(*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")),
    *(*ROOT.glob("packages/*/*.md"), *ROOT.glob("packages/*/docs/*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_have_no_placeholder_and_no_dead_link(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"@[A-Z]+@|TODO|TBD", text)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("session", ["demo", "tests"])
def test_the_readme_has_the_two_commands(session: str) -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert f'python -m pip install "nox[uv]" && python -m nox -s {session}' in lines


@pytest.mark.parametrize(
    "name", ["command_line.py", "checkpoint_files.py", "run_lock.py", "splitmix64.py"]
)
def test_copies_in_packages_that_know_no_sibling_are_equal(name: str) -> None:
    copies = {file.read_text(encoding="utf-8") for file in ROOT.glob(f"packages/*/src/**/{name}")}
    assert len(copies) <= 1


def test_the_paths_that_the_architecture_page_names_exist() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    sources = {path.name: path.parent for path in ROOT.glob("packages/*/src/*") if path.is_dir()}
    tops = {**sources, "packages": ROOT, "tests": ROOT}
    named = re.findall(r"`([\w-]+)/([\w./-]*)`", page)
    places = [tops[top] / top / rest for top, rest in named if top in tops]
    assert len(places) > 50
    assert [str(place) for place in places if not place.exists()] == []


SCRIPTS = [
    *(ROOT / "examples").glob("*.*"),
    *ROOT.glob("packages/*/bench/*.py"),
    *ROOT.glob("packages/*/scripts/*.py"),
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_notebook_and_scripts_import_from_the_packages_exists(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    if script.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    packages = "|".join(package.name.replace("-", "_") for package in PACKAGES)
    imports = re.findall(rf"from ((?:{packages})\b[\w.]*) import (\([^)]*\)|[^\n]+)", text)
    for module, names in imports:
        for name in re.findall(r"(\w+)(?: as \w+)?", names.split("#")[0]):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
