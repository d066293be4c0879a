from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from clip_eval import EvaluationConfig, Result, evaluate
from clip_eval.data import open_source
from clip_eval.data.samples import Source
from clip_eval.report.result_page import render_report
from clip_eval.report.sample_pictures import choose_predictions
from clip_eval.report.table import format_result
from clip_eval.results.result import Prediction

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def measure(
    color_model: Any, color_tokenizer: Any, color_preprocess: Any
) -> Callable[[Source], Result]:
    def call(source: Source) -> Result:
        return evaluate(
            color_model,
            source,
            tokenizer=color_tokenizer,
            preprocess=color_preprocess,
            config=EvaluationConfig(templates=["a {c}"], keep_predictions=True),
            model_name="tiny <model>",
        )

    return call


def test_the_page_is_whole_and_needs_nothing_else(
    measure: Callable[[Source], Result],
    color_folder: Path,
    encode: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    (color_folder / "red" / "wrong.png").write_bytes(encode((10, 10, 250)))
    (color_folder / "red" / "bad & broken.png").write_bytes(b"")
    run = tmp_path / "run"
    run.mkdir()
    (run / "curves.png").write_bytes(encode((1, 2, 3)))
    source = open_source(color_folder)
    text = render_report(measure(source), source, run_directory=run, samples=8)
    page = Page(text)
    assert all(address.startswith("data:") for address in page.addresses)
    assert (
        len([a for a in page.addresses if a.startswith("data:image")]) == 8 + 1 + 1
    )  # samples, surest mistake, curves
    assert not re.search(r"(?i)@import|url\(|https?://|<script", text)
    for words in ("tiny <model>", "bad & broken.png", "92.3 %", "Training", "Wrong: 1 of 1"):
        assert words in page.text


def test_names_are_escaped(
    measure: Callable[[Source], Result], tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    for name in ("red <script>alert(1)<", '"green" & {x}'):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(encode((250, 10, 10)))
    source = open_source(tmp_path / "data")
    text = render_report(measure(source), source)
    Page(text)
    assert "<script" not in text


def test_many_classes_and_no_images_still_give_a_page(
    measure: Callable[[Source], Result], color_folder: Path
) -> None:
    names = ["red", "green", "blue", *(f"class {n}" for n in range(80))]
    source = open_source(color_folder, classnames=names)
    page = Page(render_report(measure(source), source, samples=0))
    assert "the 30 lowest of 83" in page.text
    for path in color_folder.glob("*/*.png"):
        path.write_bytes(b"")
    result = measure(source)
    assert result.n == 0
    assert "Skipped: 12" in Page(render_report(result, source)).text
    assert "0 used, 12 skipped (12 empty)" in format_result(result)


def prediction(index: int, right: bool) -> Prediction:
    return Prediction(
        index=index, key=str(index), label=0, guesses=(0 if right else 1,), probabilities=(1.0,)
    )


def test_the_choice_of_samples_is_seeded_and_shows_both_kinds() -> None:
    mixed = [prediction(n, n % 10 != 0) for n in range(100)]
    chosen = choose_predictions(mixed, 8, seed=1)
    assert chosen == choose_predictions(mixed, 8, seed=1)
    assert chosen != choose_predictions(mixed, 8, seed=2)
    assert [p.correct for p in chosen] == [False] * 4 + [True] * 4
    all_right = [prediction(n, True) for n in range(20)]
    assert len(choose_predictions(all_right, 8, seed=0)) == 8
    few_right = [prediction(n, n == 3) for n in range(20)]
    assert sum(p.correct for p in choose_predictions(few_right, 8, seed=0)) == 1
    assert len(choose_predictions(few_right, 100, seed=0)) == 20
