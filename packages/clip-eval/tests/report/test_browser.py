"""The pages as a real browser shows them, opened from a file; `nox -s browser` runs this."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from clip_eval.cli.main import main

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PROBE = """
<script>
addEventListener("error", event => console.error("error event: " + event.message), true);
addEventListener("load", () => {
  const images = [...document.images];
  const box = element => element.getBoundingClientRect();
  const found = {
    images: images.length,
    broken: images.filter(i => !i.complete || i.naturalWidth === 0).length,
    unseen: images.filter(i => !i.closest("details:not([open])") && box(i).width < 8).length,
    charts: document.querySelectorAll("svg.chart").length,
    thin: [...document.querySelectorAll("svg.chart")].filter(
      c => !c.closest("details:not([open])") && box(c).height < 100).length,
    heading: document.querySelector("h1").textContent,
    sections: [...document.querySelectorAll("h2")].map(h => h.textContent),
    wider: document.documentElement.scrollWidth > innerWidth + 1,
    dead: [...document.querySelectorAll("a[href^='#']")].filter(
      a => !document.getElementById(a.getAttribute("href").slice(1))).length,
    loaded: performance.getEntriesByType("resource").filter(
      r => !r.name.startsWith("data:")).map(r => r.name),
  };
  document.body.setAttribute("data-probe", JSON.stringify(found));
});
</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    """A Chromium of the machine, or the one that CLIP_EVAL_BROWSER names."""
    named = os.environ.get("CLIP_EVAL_BROWSER")
    found = [named] if named else [path for path in map(shutil.which, NAMES) if path]
    assert found, "no Chromium on this machine; install one (apt-get install chromium), or name it"
    return found[0]


@pytest.fixture
def look(browser: str, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def call(page: Path, *, width: int = 1280) -> dict[str, Any]:
        """What a browser finds in a page opened from disk, beside nothing else."""
        alone = tmp_path / "alone" / page.name
        alone.parent.mkdir(exist_ok=True)
        text = page.read_text(encoding="utf-8")
        alone.write_text(text.replace("</head>", f"{PROBE}</head>"), encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions"]
        command += ["--enable-logging=stderr", "--v=0", f"--window-size={width},900"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
        run = subprocess.run(
            [*command, "--dump-dom", alone.as_uri()], capture_output=True, text=True, timeout=180
        )
        console = [line for line in run.stderr.splitlines() if ":CONSOLE" in line]
        assert console == []
        probe = re.search(r'data-probe="([^"]*)"', run.stdout)
        assert probe, run.stderr[-2000:]
        return dict(json.loads(unescape(probe.group(1))))

    return call


def sound(found: dict[str, Any]) -> None:
    """Every picture and chart is there and can be seen, and nothing was fetched."""
    assert (found["broken"], found["unseen"], found["thin"], found["dead"]) == (0, 0, 0, 0)
    assert found["loaded"] == []
    assert not found["wider"]


@pytest.fixture
def results(
    trained_directory: Path, color_folder: Path, tmp_path: Path, encode: Callable[..., bytes]
) -> Path:
    """Two models on colors, some of them wrong, and a broken file."""
    for number in range(5):
        (color_folder / "red" / f"wrong{number}.png").write_bytes(encode((10, 10, 240)))
    (color_folder / "green" / "broken <i>.png").write_bytes(b"")
    other = tmp_path / "other"
    shutil.copytree(trained_directory, other)
    (other / "zeroshot_classification_templates.txt").write_text("{c}\n")
    models = [str(trained_directory), str(other)]
    command = ["run", "--model", *models, "--data", str(color_folder), "--cost", "--quiet"]
    assert main([*command, "--out", str(tmp_path / "results")]) == 0
    return tmp_path / "results"


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_of_a_result(
    results: Path, look: Callable[..., dict[str, Any]], width: int
) -> None:
    page = next(results.rglob("report.html"))
    found = look(page, width=width)
    sound(found)
    assert found["images"] >= 12
    assert found["charts"] == 1
    for heading in ("Most confident errors", "Accuracy by class", "Most frequent confusions"):
        assert heading in found["sections"]


def test_the_page_of_many_results(
    results: Path, color_folder: Path, look: Callable[..., dict[str, Any]]
) -> None:
    assert main(["report", str(results), "--data", str(color_folder)]) == 0
    found = look(results / "family.html")
    sound(found)
    assert found["charts"] == 3 + 2  # three costs, and each result's reliability
    assert found["images"] > 20
    assert found["heading"] == "Results in results"


@pytest.mark.parametrize("width", [1280, 500])
def test_the_pages_of_a_retrieval_and_of_a_search(
    trained_directory: Path,
    color_folder: Path,
    tmp_path: Path,
    look: Callable[..., dict[str, Any]],
    width: int,
) -> None:
    names = [str(path.relative_to(tmp_path)) for path in sorted(color_folder.glob("*/*.png"))]
    rows = [
        f"{name},a {'very ' * 30}{name.split('/')[1]} thing {n}" for n, name in enumerate(names)
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(["filepath,caption", *rows]))
    model = ["--model", str(trained_directory), "--quiet"]
    data = ["--data", f"csv:{tmp_path / 'pairs.csv'}", "--out", str(tmp_path / "out")]
    assert main(["run", *model, *data, "--task", "retrieval"]) == 0
    found = look(tmp_path / "out" / "report.html", width=width)
    sound(found)
    assert found["images"] >= 12
    assert "Queries" in found["sections"]

    photos = str(tmp_path / "photos.npz")
    assert main(["embed", str(color_folder), *model, "--out", photos]) == 0
    page = tmp_path / "search.html"
    image = ["--image", str(next(color_folder.glob("red/*")))]
    assert main(["search", "a red thing", *image, "--in", photos, "--html", str(page)]) == 0
    found = look(page, width=width)
    sound(found)
    assert found["images"] == 10 + 1 + 10


def test_the_probe_sees_what_is_wrong(tmp_path: Path, look: Callable[..., dict[str, Any]]) -> None:
    page = tmp_path / "bad.html"
    start = "<html><head></head><body><h1>x</h1>"
    page.write_text(f"{start}<a href='#no'>a</a><p style='width:3000px'>b</p></body></html>")
    found = look(page)
    assert (found["dead"], found["wider"]) == (1, True)
    for wrong, words in (
        ('<img src="data:image/png;base64,AAAA">', "error event"),
        ("<script>nothing()</script>", "nothing is not defined"),
        ('<img src="absent.png">', "error event"),
    ):
        page.write_text(f"{start}{wrong}</body></html>")
        with pytest.raises(AssertionError, match=words):
            look(page)
