"""Writers of clip-eval where a file cannot grow: one line with its name, and no part of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from clip_eval.encoding import cache
from conftest import Forge

EMBED = "embed --model {good}/model --data {good}/folder --quiet --out {here}"
RUN = "run --model {good}/model --data {good}/folder --task classify --no-cache --quiet"
WRITERS = {
    "inspect": "inspect {good}/folder --quiet --out {here}/page.html",
    "embed-npz": EMBED + "/e.npz",
    "embed-parquet": EMBED + "/e.parquet",
    "run": RUN + " --out {here}/out",
    "predict": "predict {good}/folder/red --model {good}/model --labels a,b --out {here}/page.html",
    "report": "report {good}/results --out {here}/page.html",
    "export": "export {good}/results --out {here}/table.csv",
    "export-directory": "export {good}/results --out {here}/out",
    "import": "import-results {good}/foreign.json --out {here}/out",
}


@pytest.mark.hostile
@pytest.mark.parametrize("largest", [50, 100])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line(
    tmp_path: Path, good: Path, forge: Forge, name: str, largest: int
) -> None:
    argv = [part.format(good=good, here=tmp_path) for part in WRITERS[name].split()]
    answer = forge.run(("clip-eval", *argv), tmp_path, largest_file=largest)
    lines = [line for line in answer["output"].splitlines() if "error: " in line]
    assert len(lines) == 1, answer
    line = lines[0]
    assert answer["code"] == 2, answer
    assert "Traceback" not in answer["output"]
    assert str(tmp_path) in line
    assert "File too large" in line
    assert "there is no part of it" in line or "cannot be written" in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.hostile
def test_a_full_disk_keeps_the_earlier_file(tmp_path: Path, good: Path, forge: Forge) -> None:
    page = tmp_path / "page.html"
    page.write_text("earlier")
    argv = ("clip-eval", "inspect", str(good / "folder"), "--quiet", "--out", str(page))
    answer = forge.run((*argv, "--overwrite"), tmp_path, largest_file=0)
    assert "the earlier file is unchanged" in answer["output"]
    assert page.read_text() == "earlier"


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", refuse)
    store = cache.EmbeddingStore(tmp_path)
    store.add([b"x" * 16], torch.ones(1, 4))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        store.flush()
    (warning,) = told
    assert str(tmp_path) in str(warning.message)
    assert "No space left on device" in str(warning.message)
    assert len(store) == 1
    assert list(tmp_path.iterdir()) == []
