"""The modules beside the tests, and `--write-page`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # last: other folders of tests have a conftest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-page",
        action="store_true",
        help="write what came of the rows into docs/originals.md, instead of comparing",
    )
