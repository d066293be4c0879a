"""`holdout:RUN`: exactly the samples that a run kept out, in any command of clip-eval."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from clip_eval.cli.main import main as evaluate
from clip_eval.data import DataError, absolute_source, is_missing, open_source
from clip_models import ConfigError
from clip_train import Config, train
from clip_train.cli.main import main
from clip_train.data.holdout import split_holdout
from clip_train.engine.held_out import open_held_out


@pytest.fixture
def run(tiny_config: Config, tmp_path: Path) -> Path:
    data = replace(tiny_config.data, val="", holdout=0.3)
    length = replace(tiny_config.train, steps=2)
    train(replace(tiny_config, data=data, train=length), tmp_path / "run", progress=False)
    return tmp_path / "run"


def test_the_samples_and_the_numbers_of_the_run(
    run: Path, tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = open_source(f"holdout:{run}")
    expected = split_holdout(open_source(tiny_config.data.train), 0.3)[1]
    assert len(held) == len(expected) > 10
    assert [held.read(n).key for n in range(5)] == [expected.read(n).key for n in range(5)]

    words = ["run", "--model", str(run), "--data", f"holdout:{run}", "--out", str(tmp_path / "out")]
    assert evaluate([*words, "--workers", "0", "--no-cache", "--quiet"]) == 0, capsys.readouterr()
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "eval"][-1]
    assert result["n"] == last["n"]
    for name, value in result["metrics"].items():
        assert last[name] == pytest.approx(value), name


def test_the_spelling_is_that_of_a_path(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_source("holdout:run") == f"holdout:{run}"
    assert len(open_source("holdout:run")) == len(open_source(f"holdout:{run}"))
    assert is_missing("holdout:elsewhere")
    with pytest.raises(DataError, match="elsewhere"):
        open_source("holdout:elsewhere")


def test_a_run_says_how_to_evaluate_on_them(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"run shapes-tiny --data.train wds:{shapes}/train --data.holdout 0.3 --steps 1"
    words += f" --batch-size 8 --workers 0 --out {tmp_path}/run --quiet"
    assert main([*words.split(), "--data.val", ""]) == 0
    assert f"--data holdout:{tmp_path}/run --out DIR" in capsys.readouterr().out


def test_what_keeps_nothing_out_is_refused(run: Path, tmp_path: Path) -> None:
    config = (run / "config.toml").read_text()
    with pytest.raises(DataError, match="not a run directory"):
        open_held_out(str(tmp_path))
    (run / "config.toml").write_text(config.replace("holdout = 0.3", "holdout = 0.0"))
    with pytest.raises(DataError, match="kept no samples out"):
        open_held_out(str(run))
    (run / "config.toml").write_text(config.replace('train = "wds:', 'train = "wds:/nowhere'))
    with pytest.raises(ConfigError, match="no such file"):
        open_held_out(str(run))
    (run / "config.toml").write_text(config.replace('train = "wds:', f'train = "holdout:{run}:'))
    with pytest.raises(DataError, match="trained on held-out samples"):
        open_held_out(str(run))
