"""Queries of a retrieval with their pictures: right, wrong, changed since, or a stranger's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clip_eval import EvaluationConfig, Result, evaluate
from clip_eval.cli.main import main
from clip_eval.data import open_source
from clip_eval.data.samples import Source
from clip_eval.report.query_pictures import QueryPictures
from clip_eval.report.result_page import render_report

COLORS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


@pytest.fixture
def captioned(tmp_path: Path, encode: Callable[..., bytes]) -> Source:
    """Images of three colors with a caption each; two captions are of the wrong color."""
    rows = []
    for number in range(9):
        color = list(COLORS)[number % 3]
        said = "blue" if number in (0, 3) else color
        (tmp_path / f"{number}.png").write_bytes(encode(COLORS[color], seed=number))
        rows.append(f"{number}.png,{said} <b>{number}</b>")
    (tmp_path / "pairs.csv").write_text("\n".join(["filepath,caption", *rows]) + "\n")
    return open_source(f"csv:{tmp_path / 'pairs.csv'}")


@pytest.fixture
def measured(
    captioned: Source, color_model: Any, color_tokenizer: Any, color_preprocess: Any
) -> Result:
    config = EvaluationConfig(task="retrieval", keep_predictions=True)
    parts = {"tokenizer": color_tokenizer, "preprocess": color_preprocess}
    return evaluate(color_model, captioned, **parts, config=config)


def test_queries_are_shown_with_what_they_found(measured: Result, captioned: Source) -> None:
    groups = {g.name: g for g in QueryPictures(captioned).groups(measured.records or (), 99, 0)}
    wrong = groups["Captions to images, wrong"]
    card = next(card for card in wrong.cards if card.name == "blue <b>0</b>")
    assert card.place > 5
    assert not card.is_right
    assert len(card.found) == 5
    assert all(item.address.startswith("data:image/png") for item in card.found)
    assert [item.is_right for item in card.found] == [False] * 5
    assert [item.address for item in card.wanted] == [QueryPictures(captioned)._address(0)]
    queries = [card for name, g in groups.items() if name.startswith("Images") for card in g.cards]
    assert len(queries) == 9
    assert all(card.address for card in queries)
    total = sum(group.total for group in groups.values())
    assert total == 18 == len(measured.records or ())
    for group in groups.values():
        assert all(card.is_right == group.name.endswith("right") for card in group.cards)


def test_the_page_shows_both_kinds_and_escapes_captions(
    measured: Result, captioned: Source
) -> None:
    page = render_report(measured, captioned, samples=8)
    assert "Captions to images, wrong" in page
    assert "Images to captions, wrong" in page
    assert "blue <b>" not in page
    assert "blue &lt;b&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "Queries" not in render_report(measured, captioned, samples=0)


def test_an_image_that_changed_its_name_is_left_out(measured: Result, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    (tmp_path / "moved").mkdir()
    for number in range(9):
        (tmp_path / f"{number}.png").rename(tmp_path / "moved" / f"{number}.png")
    table.write_text(table.read_text().replace("\n", "\nmoved/").removesuffix("moved/"))
    source = open_source(f"csv:{table}")
    groups = QueryPictures(source).groups(measured.records or (), 99, 0)
    assert all(group.name.startswith("Captions") for group in groups)
    found = [item for group in groups for card in group.cards for item in card.found]
    assert found
    assert not any(item.address for item in found)


@pytest.mark.parametrize(
    "record",
    [
        {"caption": "a", "found": 3},
        {"caption": "a", "found": [{"image": "x", "index": "y", "score": 1, "correct": True}]},
        {"caption": "a", "found": [{}], "rank": 1},
        {"captions": ["a"], "found": [], "index": 10**9, "image": "x", "rank": 0, "correct": True},
        {"captions": None, "found": [], "index": 0, "image": "0.png", "rank": 0, "correct": False},
        {"caption": "a", "found": [], "rank": 0, "correct": False, "images": []},
        {"caption": "a", "found": [], "rank": 0, "correct": False, "images": [-1]},
    ],
)
def test_records_that_are_none_make_no_card(record: dict[str, Any], captioned: Source) -> None:
    for group in QueryPictures(captioned).groups([record], 99, 0):
        assert not any(item.address for item in group.cards[0].wanted)


def test_the_page_of_many_results_shows_queries_of_named_data(
    captioned: Source, trained_directory: Path, tmp_path: Path
) -> None:
    data = f"csv:{tmp_path / 'pairs.csv'}"
    command = ["run", "--model", str(trained_directory), "--data", data, "--quiet"]
    assert main([*command, "--out", str(tmp_path / "out"), "--task", "retrieval"]) == 0
    assert main(["report", str(tmp_path / "out"), "--data", data]) == 0
    page = (tmp_path / "out" / "family.html").read_text(encoding="utf-8")
    assert "Captions to images" in page
    assert page.count("data:image/") > 10
