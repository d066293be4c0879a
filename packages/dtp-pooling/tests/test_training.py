from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from dtp_pooling import BoundaryConfig, LanguageModelConfig
from dtp_pooling.training import Trainer, learning_rate, read_run, start_run
from dtp_pooling.training_config import PRESETS, TrainingConfig

TEXT = "the cat sat on the mat and the dog sat on the log while a cow ate the hay " * 12
CPU = torch.device("cpu")


def small(kind: str, **changes: object) -> TrainingConfig:
    model = LanguageModelConfig(
        width=16,
        num_heads=2,
        head_dim=8,
        feedforward=32,
        pre_layers=1,
        shortened_layers=1,
        post_layers=1,
        boundaries=BoundaryConfig(kind=kind),
    )
    values = {
        "model": model,
        "steps": 6,
        "batch_size": 2,
        "context": 32,
        "learning_rate": 1e-2,
        "warmup": 2,
        "log_every": 1,
        "evaluate_every": 3,
        "evaluation_window": 32,
        "evaluation_stride": 16,
        "unigram_vocabulary": 30,
    }
    return TrainingConfig(**(values | changes))


def train(folder, config, until=None) -> Trainer:
    if not (folder / "run.json").exists():
        start_run(folder, config, TEXT)
    trainer = Trainer(folder, TEXT, TEXT[:200], CPU)
    trainer.run(until)
    return trainer


@pytest.mark.parametrize("kind", ["gumbel", "none"])
def test_resuming_gives_the_same_bits_as_never_stopping(tmp_path, kind, capsys):
    config = small(kind)  # dropout 0.1
    whole = train(tmp_path / "whole", config)
    train(tmp_path / "parts", config, until=5)  # the checkpoint is of step 3
    parts = train(tmp_path / "parts", config)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name

    def metrics(folder):
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in lines]

    assert metrics("whole") == metrics("parts")
    assert [m["step"] for m in metrics("whole") if m["kind"] == "valid"] == [3, 6]


def test_a_save_that_was_cut_short_leaves_the_old_checkpoint(tmp_path, capsys):
    train(tmp_path, small("none"), until=3)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    (tmp_path / "checkpoint.new").mkdir()  # half written
    trainer = train(tmp_path, small("none"), until=0)
    assert trainer.step_number == 3
    trainer.run()
    assert sorted(p.name for p in tmp_path.glob("checkpoint*")) == ["checkpoint"]


def test_another_text_is_refused(tmp_path):
    start_run(tmp_path, small("none"), TEXT)
    with pytest.raises(ValueError, match="started on another training text"):
        Trainer(tmp_path, TEXT + "a", TEXT[:200], CPU)


def test_training_learns_a_repeating_text(tmp_path, capsys):
    for kind in ("unigram", "entropy", "gumbel"):
        config = small(kind, steps=60, evaluate_every=60, log_every=30)
        start = train(tmp_path / kind, config, until=0).evaluate()
        train(tmp_path / kind, config)
        lines = (tmp_path / kind / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert records[-1]["kind"] == "valid"
        assert records[-1]["bits"] < 0.75 * start["bits"]
        assert records[-1]["characters"] == 200


def test_run_is_fitted_to_the_alphabet_and_read_back(tmp_path):
    config = small("whitespace", alphabet="bytes")
    run = start_run(tmp_path, config, TEXT)
    assert run.config.model.vocabulary == 256
    assert run.config.model.boundaries.space == 32
    assert read_run(tmp_path) == run
    with pytest.raises(FileExistsError, match="holds a run"):
        start_run(tmp_path, config, TEXT)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        read_run(tmp_path / "nowhere")


def test_bfloat16_trains_finitely(tmp_path, capsys):
    trainer = train(tmp_path, small("gumbel", precision="bfloat16", steps=2))
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_learning_rate_warms_up_and_falls_to_zero():
    config = small("none", steps=100, warmup=10)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(1e-3)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(1e-2)
    assert rates[55] == pytest.approx(5e-3)
    assert rates[100] == pytest.approx(0.0)


def test_published_presets_hold_the_published_settings():
    config = PRESETS["text8-gumbel"]
    assert (config.steps, config.batch_size, config.context) == (200_000, 8, 2048)
    assert (config.learning_rate, config.warmup, config.clip) == (2.5e-4, 4000, 0.25)
    model = config.model
    assert (model.width, model.num_heads, model.head_dim, model.feedforward) == (512, 8, 64, 2048)
    assert (model.pre_layers, model.shortened_layers, model.post_layers) == (2, 8, 2)
    assert (model.dropout, model.attention_dropout) == (0.1, 0.1)
    assert (model.attention, model.norm) == ("relative", "post")
    assert (model.boundaries.rate, model.boundaries.temperature) == (0.2, 0.5)
    assert PRESETS["text8-entropy"].model.boundaries.target_loss == "double_sigmoid"
    same = {dataclasses.replace(c.model, boundaries=BoundaryConfig()) for c in PRESETS.values()}
    assert len(same) == 2  # the published sizes and the small ones


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"warmup": -1}, {"clip": 0.0}, {"precision": "float16"}]
)
def test_wrong_settings_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        small("none", **change)
