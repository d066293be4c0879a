"""Every row of docs/originals.md is executed, and the page says what came of it.

`pytest tests/originals -m "" --write-page` writes the page; with `-k` or without `-m ""` the other
rows keep the verdicts that they have.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import page
import pytest
from systems import PAGE, SYSTEMS, read_verdicts, skeleton, text_of

ROWS = [(name, row) for name, rows in SYSTEMS.items() for row in rows]
pytestmark = pytest.mark.filterwarnings("ignore")  # what other libraries warn of


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


@pytest.fixture(scope="module")
def written(request: pytest.FixtureRequest) -> Iterator[dict[page.Row, str] | None]:
    """The verdicts that are to be written, or None."""
    if not request.config.getoption("--write-page", default=False):
        yield None
        return
    found: dict[page.Row, str] = {}
    yield found
    PAGE.write_text(text_of(read_verdicts() | found), encoding="utf-8")


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[pytest.mark.slow] if row.slow else [], id=f"{name}-{number}")
        for number, (name, row) in enumerate(ROWS)
    ],
)
def test_a_row_is_what_the_page_says(
    row: page.Row, work: Path, tmp_path: Path, written: dict[page.Row, str] | None
) -> None:
    begun = time.process_time()
    verdict = page.execute(row, work, tmp_path)
    if written is not None:
        written[row] = verdict
        print(f"{time.process_time() - begun:.1f} s of a core: {row.there}: {verdict}")
        assert not verdict.startswith("fails"), verdict
        return
    assert page.line(row, verdict) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_has_these_rows_and_no_others(written: dict[page.Row, str] | None) -> None:
    if written is not None:
        pytest.skip("the page is being written")
    text = PAGE.read_text(encoding="utf-8")
    assert skeleton(text) == skeleton()


def test_no_row_fails_and_none_lacks_its_reason(written: dict[page.Row, str] | None) -> None:
    if written is not None:
        pytest.skip("the page is being written")
    verdicts = read_verdicts()
    assert len(verdicts) == len(ROWS)
    assert all(v == "yes" or v.startswith(("partly: ", "no: ")) for v in verdicts.values())
