"""Every chore of the repository, each one command: `nox -s SESSION [-- ARGS]`, `nox -l` lists them.

Packages are found by glob under `packages/`; adding one needs no change here.
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "lint", "types", "isolation"]
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
TORCH = ("torch", "torchvision")  # together and unpinned, so that the resolver pairs them
# Two test processes of one thread each: tiny tensors gain nothing from more, and lose much when
# threads wait for each other.
PYTEST = ("pytest", "-n", "2", "--dist", "loadfile")
DEFAULT = "not slow and not browser and not hostile"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def metadata(package: Path) -> dict:
    """The parsed pyproject.toml of one package."""
    return tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))


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
    """The union of the packages' `test` dependency groups, and what runs them side by side."""
    groups = (metadata(package).get("dependency-groups", {}) for package in PACKAGES)
    return sorted(
        {"pytest-xdist>=3.6", *(line for group in groups for line in group.get("test", []))}
    )


@nox.session
def demo(session: nox.Session) -> None:
    """Draw shapes, train a CLIP on them, evaluate it; leaves everything in demo/."""
    install_all(session)
    # After Ctrl-C the training saves a checkpoint; give it the time.
    session.run("python", "examples/demo.py", *session.posargs, interrupt_timeout=60)


@nox.session
def tests(session: nox.Session) -> None:
    """All packages together in one environment, with the newest torch."""
    install_all(session, *test_requirements())
    session.run(*PYTEST, "-m", DEFAULT, *session.posargs, env=ONE_THREAD)


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that take minutes."""
    install_all(session, *test_requirements())
    session.run(*PYTEST, "-m", "slow", *session.posargs, env=ONE_THREAD)


@nox.session
def hostile(session: nox.Session) -> None:
    """Hostile inputs by the hundred and a fuzz of the readers: what docs/security.md promises."""
    install_all(session, *test_requirements())
    session.run("pytest", "tests/hostile", "-m", "hostile", *session.posargs, env=ONE_THREAD)


@nox.session
def browser(session: nox.Session) -> None:
    """The pages of clip-eval in a headless Chromium, which the machine must have."""
    install_all(session, *test_requirements())
    session.run(*PYTEST, "-m", "browser", *session.posargs, env=ONE_THREAD)


@nox.session
def lowest(session: nox.Session) -> None:
    """The same tests with the oldest torch that is supported."""
    install_all(session, *test_requirements(), torch=("torch==2.9.*", "torchvision==0.24.*"))
    session.run(*PYTEST, "-m", DEFAULT, *session.posargs, env=ONE_THREAD)


@nox.session
def xla(session: nox.Session) -> None:
    """The XLA backend on a CPU, with torch_xla and the torch that it needs."""
    torch = ("torch==2.9.0", "torchvision==0.24.0")
    install_all(session, *test_requirements(), "torch_xla==2.9.0", torch=torch)
    tests = "packages/clip-train/tests/distributed/test_xla.py"
    session.run("pytest", tests, *session.posargs, env={"PJRT_DEVICE": "CPU"})


@nox.session
def gpu(session: nox.Session) -> None:
    """What only a GPU can show, in minutes, into gpu/gpu.md; on a CPU at toy sizes."""
    install_all(session, "open_clip_torch>=3")
    session.run("python", "-m", "clip_train.gpu_check", "--out", "gpu", *session.posargs)


@nox.session
def notebook(session: nox.Session) -> None:
    """The example notebook, executed from its first cell to its last, with little training."""
    install_all(session, "nbconvert", "ipykernel", "pymoo", "matplotlib")
    notebook = "examples/clip_image_classification.ipynb"
    session.run(
        *("jupyter", "nbconvert", "--to", "notebook", "--execute", notebook),
        *("--output-dir", session.create_tmp()),
        env={"QUICK": "1"},
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff's checks and its format."""
    session.install("ruff>=0.14")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Static types: mypy, strict, over every package's source."""
    install_all(session, "mypy>=1.18", *test_requirements())
    session.run("mypy", *(str(path / "src") for path in PACKAGES), *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """A wheel and a source archive of every package, into dist/."""
    for package in PACKAGES:
        session.run("uv", "build", "-q", "--out-dir", str(ROOT / "dist"), str(package))


@nox.session
def isolation(session: nox.Session) -> None:
    """Each wheel alone, with the wheels of its declared siblings: installs, imports, works."""
    temporary = Path(session.create_tmp()).resolve()
    wheels = {package: build_wheel(session, package, temporary) for package in PACKAGES}
    session.chdir(temporary)  # so that nothing of the checkout can be imported by accident
    for package in PACKAGES:
        environment = temporary / f"venv-{package.name}"
        python = str(environment / "bin" / "python")
        session.run("uv", "venv", "-q", "--clear", "--python", sys.executable, str(environment))
        declared = " ".join(declared_requirements(package))
        torch = [name for name in TORCH if re.search(rf"\b{name}\b", declared)]
        local = [str(wheels[sibling]) for sibling in siblings(package)]
        session.run("uv", "pip", "install", "-q", "--python", python, *torch, *local)
        session.run(python, "-I", str(package / "tests" / "smoke.py"), external=True)


def build_wheel(session: nox.Session, package: Path, directory: Path) -> Path:
    """Build the wheel of one package below `directory`; its path."""
    target = directory / "wheels" / package.name
    shutil.rmtree(target, ignore_errors=True)
    session.run("uv", "build", "-q", "--wheel", "--out-dir", str(target), str(package))
    (wheel,) = target.glob("*.whl")
    return wheel


def declared_requirements(package: Path) -> list[str]:
    """What a package and its siblings declare, as one list."""
    return [
        line for other in siblings(package) for line in metadata(other)["project"]["dependencies"]
    ]


@nox.session
def bench(session: nox.Session) -> None:
    """Speed against peers, as ratios of one run, on an idle machine; posargs choose packages."""
    chosen = [path for path in PACKAGES if not session.posargs or path.name in session.posargs]
    groups = (metadata(package).get("dependency-groups", {}) for package in chosen)
    install_all(session, *sorted({line for group in groups for line in group.get("bench", [])}))
    for package in chosen:
        for script in sorted(package.glob("bench/bench_*.py")):
            session.run("python", str(script))
