"""Every chore of the repository, each one command: `nox -s SESSION [-- ARGS]`, `nox -l` lists them.

Packages are found by glob under `packages/`; adding one needs no change here.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "lint", "types", "isolation"]
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
TORCH = ("torch", "torchvision")  # together and unpinned, so that the resolver pairs them


def metadata(package: Path) -> dict:
    """The parsed pyproject.toml of one package."""
    return tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))


def import_name(package: Path) -> str:
    """`clip-train` is imported as `clip_train`."""
    return package.name.replace("-", "_")


def siblings(package: Path) -> list[Path]:
    """The packages of this repository that one package declares, transitively, itself first."""
    found = [package]
    for current in found:
        required = metadata(current)["project"]["dependencies"]
        names = {re.split(r"[^A-Za-z0-9_-]", line, maxsplit=1)[0] for line in required}
        found += [other for other in PACKAGES if other.name in names and other not in found]
    return found


def install_all(session: nox.Session, *extra: str, torch: tuple[str, ...] = TORCH) -> None:
    """Install every package of the repository, editable, in one resolution."""
    editable = [argument for package in PACKAGES for argument in ("-e", str(package))]
    session.install(*torch, *editable, *extra)


def test_requirements() -> list[str]:
    """The union of the packages' `test` dependency groups."""
    groups = (metadata(package).get("dependency-groups", {}) for package in PACKAGES)
    return sorted({line for group in groups for line in group.get("test", [])})
