"""What a config can ask of training besides data and length: each thing changes what it says."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from clip_models import ConfigError
from clip_models.config import to_dict
from clip_models.files import load_tensors
from clip_tokenizer import Tokenizer
from clip_train import Config, Interrupted, TrainingError, resume, train
from clip_train.checkpoints.training_state import TrainingState
from clip_train.cli.main import main
from clip_train.config.data import RangeAugmentConfig
from clip_train.engine import trainer
from clip_train.engine.gradients import WholeBatchGradient
from clip_train.engine.trainer import Trainer
from clip_train.errors import RunDirectoryError
from clip_train.optim.loss_scale import GROWTH_INTERVAL, LossScale


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    for name, values in sections.items():
        section = dataclasses.replace(getattr(config, name), **values)
        config = dataclasses.replace(config, **{name: section})
    return config


def train_with(config: Config, path: Path, **sections: dict[str, Any]) -> dict[str, torch.Tensor]:
    train(changed(config, **sections), path, progress=False)
    return load_tensors(path / "model.safetensors")


def rows(path: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def losses(path: Path) -> list[float]:
    return [row["loss"] for row in rows(path)]


RANGES = {"range": RangeAugmentConfig(enabled=True)}


@pytest.fixture
def short(vit_config: Config) -> Config:
    return changed(
        vit_config, train={"steps": 6}, log={"every_steps": 1}, checkpoint={"every_steps": None}
    )


@pytest.fixture
def plain(short: Config, tmp_path: Path) -> Path:
    train_with(short, tmp_path / "plain")
    return tmp_path / "plain"


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"grad_accum_steps": 4}},
        {"train": {"grad_accum_steps": 3}},
        {"train": {"gradient_checkpointing": True}},
        {"train": {"compile": "aot_eager"}},
        pytest.param({"train": {"compile": "inductor"}}, marks=pytest.mark.slow),
        {"loss": {"tile": 3}},
        {"train": {"grad_accum_steps": 4, "gradient_checkpointing": True}, "loss": {"tile": 2}},
    ],
    ids=str,
)
def test_what_saves_memory_or_time_changes_no_loss(
    change: dict[str, Any], short: Config, plain: Path, tmp_path: Path
) -> None:
    train_with(short, tmp_path / "run", **change)
    assert losses(tmp_path / "run") == pytest.approx(losses(plain), rel=1e-4)


def test_parts_are_really_parts(
    short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, embed = [], WholeBatchGradient._embed

    def note(self: WholeBatchGradient, part: Any) -> Any:
        sizes.append(len(part.inputs.images))
        return embed(self, part)

    monkeypatch.setattr(WholeBatchGradient, "_embed", note)
    train_with(short, tmp_path / "run", train={"steps": 1, "grad_accum_steps": 3})
    assert sizes == [3, 3, 2, 2, 3, 3]  # without a graph, and again from the last to the first


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_full_precision(
    precision: str, short: Config, plain: Path, tmp_path: Path
) -> None:
    found = train_with(short, tmp_path / "run", train={"precision": precision})
    assert losses(tmp_path / "run") == pytest.approx(losses(plain), rel=0.02)
    assert losses(tmp_path / "run") != losses(plain)
    assert {value.dtype for value in found.values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("where", ["model", "augmentation"])
def test_an_overflow_skips_the_step_and_halves_the_scale(
    where: str, short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, before = WholeBatchGradient.compute, []

    def overflow(
        self: WholeBatchGradient, inputs: Any, objective: Any, *, loss_scale: float
    ) -> Any:
        found = compute(self, inputs, objective, loss_scale=loss_scale)
        before.append(self.towers.model.text_projection.detach().clone())
        if len(before) == 2:
            next(iter(getattr(self.towers, where).parameters())).grad.view(-1)[0] = torch.inf
        return found

    monkeypatch.setattr(WholeBatchGradient, "compute", overflow)
    train_with(short, tmp_path / "run", train={"precision": "fp16", "steps": 4}, augment=RANGES)
    assert [row["loss_scale"] for row in rows(tmp_path / "run")] == [65536.0] + [32768.0] * 3
    assert torch.equal(before[1], before[2])  # the second step was skipped
    assert not torch.equal(before[2], before[3])


def test_ranges_have_the_same_gradient_in_half_precision(short: Config, tmp_path: Path) -> None:
    found, update = [], trainer.update_weights

    def note(state: TrainingState, norm: torch.Tensor) -> None:
        assert state.augmentation is not None
        gradients = [parameter.grad for parameter in state.augmentation.parameters()]
        found.append(torch.stack([gradient.clone() for gradient in gradients]))
        update(state, norm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "update_weights", note)
        for precision in ("fp32", "fp16"):
            settings = {"steps": 1, "precision": precision}
            train_with(short, tmp_path / precision, train=settings, augment=RANGES)
    torch.testing.assert_close(found[1], found[0], rtol=0.02, atol=1e-4)
    assert found[0].abs().max() > 0.01


def test_the_loss_scale_grows_again() -> None:
    scale = LossScale(value=4.0)
    scale.update(finite=False)
    for _ in range(GROWTH_INTERVAL):
        scale.update(finite=True)
    assert (scale.value, scale.good_steps) == (4.0, 0)
    while not scale.is_exhausted:
        scale.update(finite=False)
    assert scale.value < 1e-4


def test_the_average_of_the_weights_is_what_the_run_leaves(short: Config, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    update = trainer.update_weights

    def note(state: TrainingState, norm: torch.Tensor) -> None:
        if not seen:
            seen.append(state.model.text_projection.detach().clone())
        update(state, norm)
        seen.append(state.model.text_projection.detach().clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "update_weights", note)
        found = train_with(short, tmp_path / "run", optim={"ema_decay": 0.75})
    expected = seen[0]
    for value in seen[1:]:
        expected = 0.75 * expected + 0.25 * value
    torch.testing.assert_close(found["text_projection"], expected)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-0000006"
    assert torch.equal(load_tensors(checkpoint / "model.safetensors")["text_projection"], seen[-1])


@pytest.mark.parametrize(
    "change",
    [
        {"optim": {"ema_decay": 0.9}, "train": {"precision": "fp16"}},
        {"optim": {"name": "muon"}},
        {"optim": {"image_layer_decay": 0.5, "schedule": "constant_cooldown", "cooldown_steps": 3}},
        {
            "model": {"lock_image": True, "unlocked_image_groups": 1},
            "train": {"grad_accum_steps": 2},
        },
    ],
    ids=str,
)
def test_every_kind_of_state_is_resumed_bit_for_bit(
    change: dict[str, Any], short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_with(short, tmp_path / "whole", **change)
    agree = Trainer._agree_on_events

    def stop_at_three(self: Trainer, batch: Any, stop: bool) -> None:
        agree(self, batch, stop or self.steps_done == 3)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_agree_on_events", stop_at_three)
        with pytest.raises(Interrupted):
            train_with(short, tmp_path / "stopped", **change)
    resume(tmp_path / "stopped", progress=False)
    stopped = load_tensors(tmp_path / "stopped" / "model.safetensors")
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")


def test_a_locked_tower_stays_as_it_is(short: Config, plain: Path, tmp_path: Path) -> None:
    found = train_with(
        short,
        tmp_path / "run",
        model={"name": "", "pretrained": str(plain), "lock_image": True, "lock_text": True}
        | {"unlocked_text_groups": 1},
        tokenizer={"kind": "directory", "path": str(plain)},
    )
    before = load_tensors(plain / "model.safetensors")
    moved = {name for name in found if not torch.equal(found[name], before[name])}
    assert moved == {"ln_final.weight", "ln_final.bias", "text_projection", "logit_scale"}


def test_training_goes_on_from_given_weights(short: Config, plain: Path, tmp_path: Path) -> None:
    given = {"name": "", "pretrained": str(plain), "vision": {}, "text": {}}
    tokenizer = {"kind": "directory", "path": str(plain)}
    optim = {"lr": 1e-12, "warmup_steps": 0}
    found = train_with(short, tmp_path / "run", model=given, tokenizer=tokenizer, optim=optim)
    before = load_tensors(plain / "model.safetensors")
    for name in before:
        torch.testing.assert_close(found[name], before[name], rtol=0, atol=1e-7)
    named = {"pretrained": str(plain)}  # the config's own name and towers, the weights' vocabulary
    again = train_with(short, tmp_path / "named", model=named, tokenizer=tokenizer, optim=optim)
    assert all(torch.equal(found[name], again[name]) for name in found)
    for length in (16, 90):
        fitted = given | {"text": {"context_length": length}}
        train_with(
            short, tmp_path / str(length), model=fitted, tokenizer=tokenizer, train={"steps": 1}
        )
        assert Tokenizer.from_pretrained(tmp_path / str(length)).context_length == length
    for kind, words in (("openai", "was trained with 514 tokens and end"), ("train", "learns a")):
        other = {"kind": kind, "vocab_size": 514, "path": ""}
        with pytest.raises(ConfigError, match=words):
            train_with(short, tmp_path / "other", model=given, tokenizer=other)


def test_distillation_brings_the_student_to_the_teacher(
    short: Config, plain: Path, tmp_path: Path
) -> None:
    tokenizer = {"kind": "directory", "path": str(plain)}
    train_with(
        short,
        tmp_path / "run",
        train={"steps": 40},
        loss={"kind": "none", "teacher": str(plain)},
        tokenizer=tokenizer,
        optim={"lr": 3e-3},
    )
    first, last = losses(tmp_path / "run")[0], losses(tmp_path / "run")[-1]
    assert last < first
    train_with(
        short,
        tmp_path / "both",
        loss={"teacher": str(plain), "teacher_weight": 0.5, "tile": 4},
        tokenizer=tokenizer,
    )
    row = rows(tmp_path / "both")[0]
    assert row["loss"] == pytest.approx(row["loss/contrastive"] + row["loss/distillation"])
    assert row["loss/distillation"] == pytest.approx(0.5 * first, rel=0.01)
    with pytest.raises(ConfigError, match="sees other inputs than the model"):
        train_with(
            short, tmp_path / "bad", loss={"teacher": str(plain)}, tokenizer={"kind": "openai"}
        )


def test_the_sigmoid_loss_trains_the_bias(short: Config, plain: Path, tmp_path: Path) -> None:
    loss, path = {"kind": "sigmoid", "tile": 3}, tmp_path / "run"
    found = train_with(short, path, loss=loss)
    assert rows(path)[0]["logit_scale"] == pytest.approx(10, rel=0.01)
    assert found["logit_bias"] == pytest.approx(-10, rel=0.01)
    assert found["logit_bias"] != -10
    assert losses(path)[-1] < losses(path)[0]
    for name in ("", short.model.name):  # the bias is part of the weights, as the vocabulary is
        given = {"name": name, "pretrained": str(path)}
        tokenizer = {"kind": "directory", "path": str(path)}
        train_with(short, tmp_path / f"more {name}", loss=loss, model=given, tokenizer=tokenizer)
        assert losses(tmp_path / f"more {name}")[0] < losses(path)[0]
    with pytest.raises(ConfigError, match=r"needs a model with a logit bias, and .*plain has none"):
        train_with(
            short,
            tmp_path / "without",
            loss=loss,
            model={"pretrained": str(plain)},
            tokenizer={"kind": "directory", "path": str(plain)},
        )
    assert not (tmp_path / "without").exists()


def test_one_batch_is_overfit(
    short: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = changed(
        short, data={"val": short.data.train.replace("wds:", "").replace("train", "val")}
    )
    (tmp_path / "config.toml").write_text(config_text(config))
    flags = ["--train.steps", "60", "--optim.lr", "5e-3", "--optim.schedule", "constant"]
    words = ["run", str(tmp_path / "config.toml"), "--out", str(tmp_path / "run")]
    assert main([*words, "--overfit-batch", "4", *flags]) == 0
    found = rows(tmp_path / "run")
    assert found[-1]["samples"] == 4 * 60
    assert losses(tmp_path / "run")[-1] < 0.1 * losses(tmp_path / "run")[0]
    assert rows(tmp_path / "run", "eval") == []
    assert "overfit check passed: loss" in capsys.readouterr().out


def config_text(config: Config) -> str:
    return tomli_w.dumps(to_dict(config))


def test_a_run_can_be_as_long_as_so_many_samples(short: Config, tmp_path: Path) -> None:
    train_with(
        short,
        tmp_path / "run",
        train={"steps": None, "samples": 33},
        log={"every_samples": 15},
    )
    assert [row["step"] for row in rows(tmp_path / "run")] == [2, 4, 5]
    assert rows(tmp_path / "run")[-1]["samples"] == 40


def test_utilisation_is_logged_where_a_peak_is_known(short: Config, tmp_path: Path) -> None:
    train_with(short, tmp_path / "run", log={"peak_tflops": 0.001})
    row = rows(tmp_path / "run")[-1]
    assert 0 < row["mfu"] < 100
    assert row["memory_gb"] > 0.05
    train_with(short, tmp_path / "without", train={"steps": 1})
    assert "mfu" not in rows(tmp_path / "without")[-1]


def test_parts_and_batch_norms_do_not_go_together(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="BatchNorm layers would see the statistics of each one"):
        train_with(tiny_config, tmp_path / "run", train={"grad_accum_steps": 2})
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_names_every_sample(
    short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Trainer.step

    def spoil(self: Trainer, batch: Any) -> None:
        if self.steps_done == 2:
            with torch.no_grad():
                self.model.text_projection.fill_(torch.nan)
        inputs(self, batch)

    monkeypatch.setattr(Trainer, "step", spoil)
    with pytest.raises(TrainingError, match="not finite by step 3"):
        train_with(short, tmp_path / "run")
    (row,) = rows(tmp_path / "run", "not_finite")
    assert len(row["keys"]) == 8


class FakeWandb:
    """What is used of wandb, remembered."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **options: Any) -> FakeWandb:
        self.begun.append(options)
        return self

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_metrics_go_to_weights_and_biases_too(
    short: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train_with(short, tmp_path / "run", log={"wandb_project": "shapes"})
    assert fake.begun[0]["project"] == "shapes"
    assert fake.begun[0]["config"]["train"]["steps"] == 6
    assert [step for step, _ in fake.logged] == [1, 2, 3, 4, 5, 6]
    assert fake.logged[-1][1]["train/loss"] == losses(tmp_path / "run")[-1]
    assert fake.finished == 1
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RunDirectoryError, match=r"pip install clip-train\[wandb\]"):
        train_with(short, tmp_path / "other", log={"wandb_project": "shapes"})
