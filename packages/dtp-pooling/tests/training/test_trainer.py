from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch
from dtp_pooling import BoundaryConfig, DynamicPoolingLM, LanguageModelConfig
from dtp_pooling.language_model import pruning
from dtp_pooling.language_model.block import Block
from dtp_pooling.training.config import TrainingConfig
from dtp_pooling.training.presets import PRESETS
from dtp_pooling.training.run_directory import create_run, read_run
from dtp_pooling.training.text import chunk_index
from dtp_pooling.training.trainer import Trainer, learning_rate

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
        create_run(folder, config, TEXT, TEXT[:200])
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


def test_a_line_of_metrics_that_was_cut_short_is_dropped(tmp_path, capsys):
    train(tmp_path, small("none"), until=3)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 4, "ki')
    train(tmp_path, small("none"), until=0)
    assert path.read_text() == whole


def test_a_run_that_diverges_keeps_its_last_checkpoint(tmp_path, capsys):
    trainer = train(tmp_path, small("none"), until=3)
    trainer.model.head.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="nan bits per character at step 4"):
        trainer.run()
    assert train(tmp_path, small("none")).steps_done == 6


def test_a_run_that_never_began_is_written_over(tmp_path):
    unigram = small("unigram", alphabet="bytes")
    create_run(tmp_path, unigram, TEXT + "é", TEXT)
    with pytest.raises(ValueError, match="marks characters"):
        Trainer(tmp_path, TEXT + "é", TEXT, CPU)
    create_run(tmp_path, small("none"), TEXT, "")
    with pytest.raises(ValueError, match="validation text is empty"):
        Trainer(tmp_path, TEXT, "", CPU)
    with pytest.raises(ValueError, match="needs a text with spaces"):
        create_run(tmp_path, small("whitespace", alphabet="characters"), "abc", "abc")
    create_run(tmp_path, small("none"), TEXT, TEXT)
    Trainer(tmp_path, TEXT, TEXT, CPU)
    create_run(tmp_path, small("none", steps=3), TEXT, TEXT)
    assert Trainer(tmp_path, TEXT, TEXT, CPU).config.steps == 3


def test_another_text_is_refused(tmp_path):
    create_run(tmp_path, small("none"), TEXT, TEXT[:200])
    with pytest.raises(ValueError, match="started on another training text"):
        Trainer(tmp_path, TEXT + "a", TEXT[:200], CPU)
    with pytest.raises(ValueError, match="started on another validation text"):
        Trainer(tmp_path, TEXT, TEXT[:199], CPU)


def test_a_run_that_could_not_be_evaluated_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ModuleNotFoundError, match="torchao"):
        train(tmp_path, small("none", quantize="int8"), until=1)
    assert train(tmp_path / "plain", small("none"), until=1).steps_done == 1


def test_the_alphabet_is_that_of_all_texts(tmp_path):
    config = small("none", alphabet="characters")
    run = create_run(tmp_path, config, TEXT, TEXT + "é", "ß")
    assert set(run.alphabet.characters) == set(TEXT + "éß")
    with pytest.raises(ValueError, match=r"outside .*'é'.*use the alphabet 'characters'"):
        create_run(tmp_path, small("none"), TEXT, TEXT + "é")


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


def test_run_is_fitted_to_the_alphabet_and_read_back(tmp_path, capsys):
    config = small("whitespace", alphabet="bytes")
    run = create_run(tmp_path, config, TEXT, TEXT)
    assert run.config.model.vocabulary == 256
    assert run.config.model.boundaries.space == 32
    assert read_run(tmp_path) == run
    Trainer(tmp_path, TEXT, TEXT, CPU).run(until=1)
    with pytest.raises(FileExistsError, match="holds a run"):
        create_run(tmp_path, config, TEXT, TEXT)
    with pytest.raises(FileNotFoundError, match="is not a run directory"):
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
    "change",
    [
        {"steps": 0},
        {"warmup": -1},
        {"clip": 0.0},
        {"precision": "float16"},
        {"evaluation_stride": 0},
        {"evaluation_stride": 33},
        {"evaluation_window": 15},
        {"unigram_vocabulary": 0},
        {"learning_rate": float("inf")},
        {"seed": 2**32},
    ],
)
def test_wrong_settings_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        small("none", **change)


def test_a_teacher_is_half_of_what_is_learned(tmp_path, capsys):
    teacher = train(tmp_path / "teacher", small("none", steps=60, evaluate_every=60))
    config = small("fixed", teacher=str(tmp_path / "teacher"), steps=60, evaluate_every=60)
    student = train(tmp_path / "student", config, until=0)
    out, loss, distance = student._forward(0)
    tokens = student.train_ids[chunk_index(len(TEXT), 32, 2, config.seed, 0)].long()
    with torch.no_grad():
        p = teacher.model.eval()(tokens[:, :-1]).logits.double().softmax(-1)
    q = out.logits.double().log_softmax(-1)
    torch.testing.assert_close(distance.double(), (p * (p.log() - q)).sum(-1).mean())
    before = distance.item()
    for step in range(60):
        assert student.step()["teacher_bits"] >= 0, step
    assert student._forward(0)[2] < before / 2
    assert loss.requires_grad
    assert not any(p.requires_grad and p.grad is not None for p in student.teacher.parameters())


@pytest.mark.parametrize("key", ["teacher", "pruned_from"])
def test_a_trained_run_of_another_alphabet_or_without_checkpoint_is_refused(tmp_path, key):
    create_run(tmp_path / "bytes", small("none", alphabet="bytes"), TEXT, TEXT)
    with pytest.raises(ValueError, match="has another alphabet"):
        train(tmp_path / "a", small("none", **{key: str(tmp_path / "bytes")}))
    create_run(tmp_path / "fresh", small("none"), TEXT, TEXT)
    with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
        train(tmp_path / "b", small("none", **{key: str(tmp_path / "fresh")}))


def test_pruning_starts_with_the_largest_units_of_a_trained_run(tmp_path, capsys):
    whole = train(tmp_path / "whole", small("fixed", steps=60, evaluate_every=60))
    config = small("fixed", pruned_from=str(tmp_path / "whole"))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, feedforward=16))
    part = train(tmp_path / "part", config, until=0)
    assert part.model.config.feedforward == 16
    for mine, theirs in zip(part.model.modules(), whole.model.modules(), strict=True):
        if isinstance(mine, Block):
            energy = theirs.expand.weight.square().sum(1) + theirs.expand.bias.square()
            energy += theirs.contract.weight.square().sum(0)
            best = theirs.expand.weight[energy.topk(16).indices]
            norms = [rows.norm(dim=1).sort().values for rows in (mine.expand.weight, best)]
            torch.testing.assert_close(*norms)
    tokens = part.valid_ids[None, :64]
    want = whole.model.eval()(tokens).logits
    fresh = DynamicPoolingLM(part.model.config).eval()
    assert error(part.model.eval()(tokens).logits, want) < 0.5 * error(fresh(tokens).logits, want)
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, width=32))
    with pytest.raises(ValueError, match="changes feedforward and num_heads only"):
        train(tmp_path / "wider", wider)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return (got - want).detach().abs().mean().item()


@pytest.mark.slow
def test_a_pruned_run_resumes_from_its_own_checkpoint(tmp_path, capsys):
    train(tmp_path / "whole", small("fixed", steps=3))
    config = small("fixed", pruned_from=str(tmp_path / "whole"))
    whole = train(tmp_path / "at-once", config)
    train(tmp_path / "parts", config, until=3)
    parts = train(tmp_path / "parts", config)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["fixed", "gumbel"])
def test_int8_evaluation_is_close_and_leaves_the_model_alone(tmp_path, kind, capsys):
    trainer = train(tmp_path, small(kind, steps=60, evaluate_every=60))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    plain = trainer.evaluate()
    trainer.config = dataclasses.replace(trainer.config, quantize="int8")
    rounded = trainer.evaluate()
    assert rounded["bits"] != plain["bits"]
    assert rounded["bits"] == pytest.approx(plain["bits"], rel=0.05)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_pruning_without_a_package_that_prunes(tmp_path, monkeypatch, capsys):
    train(tmp_path / "whole", small("fixed", steps=1, evaluate_every=1))
    monkeypatch.setattr(pruning, "entry_points", lambda **_: [])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dtp-pooling\[pruning\]'"):
        train(tmp_path / "part", small("fixed", pruned_from=str(tmp_path / "whole")))
