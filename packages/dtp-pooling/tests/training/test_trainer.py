from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch
from dtp_pooling import BoundaryConfig, DynamicPoolingLM
from dtp_pooling.language_model import pruning
from dtp_pooling.language_model.block import Block
from dtp_pooling.training.run_directory import create_run
from dtp_pooling.training.text import chunk_index
from dtp_pooling.training.trainer import Trainer, learning_rate

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["gumbel", "none"])
def test_resuming_gives_the_same_bits_as_never_stopping(tmp_path, kind, small, train):
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


def nested_routing(small, **changes):
    config = small("routing", **changes)
    model = dataclasses.replace(
        config.model,
        nested_layers=1,
        nested=BoundaryConfig(kind="routing", rate=0.5),
        residual="linear",
        part_norms=True,
    )
    return dataclasses.replace(config, model=model)


def test_segments_of_segments_with_rates_of_their_own_resume_to_the_same_bits(
    tmp_path, small, train
):
    config = nested_routing(small, part_rates=(2.0, 1.5, 1.0))
    whole = train(tmp_path / "whole", config)
    train(tmp_path / "parts", config, until=5)
    parts = train(tmp_path / "parts", config)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name


def test_rates_of_parts(tmp_path, small, train):
    trainer = train(tmp_path, nested_routing(small, part_rates=(2.0, 1.5, 1.0)), until=1)
    groups = trainer.optimizer.param_groups
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    parts = [{names[parameter] for parameter in group["params"]} for group in groups]
    assert sum(map(len, parts)) == len(names)
    assert {"embedding.weight", "segmenter.scores.query.weight", "head.weight"} <= parts[0]
    assert "shortened.0.attention.qkv.weight" in parts[1]
    assert "nested.segmenter.scores.key.weight" in parts[1]
    assert all(name.startswith("nested.shortened.") for name in parts[2])
    base = learning_rate(trainer.config, 0)
    assert [group["lr"] for group in groups] == pytest.approx([2 * base, 1.5 * base, base])
    single = train(tmp_path / "one", small("none"), until=0)
    assert len(single.optimizer.param_groups) == 1


def test_factors_of_rates_are_checked(small):
    with pytest.raises(ValueError, match="part_rates must be three numbers"):
        small("none", part_rates=(1.0, -1.0, 1.0))


def test_a_run_that_diverges_keeps_its_last_checkpoint(tmp_path, small, train):
    trainer = train(tmp_path, small("none"), until=3)
    trainer.model.head.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="nan bits per character at step 4"):
        trainer.run()
    assert train(tmp_path, small("none")).steps_done == 6


def test_another_text_is_refused(tmp_path, small, text):
    create_run(tmp_path, small("none"), text, text[:200])
    with pytest.raises(ValueError, match="started on another training text"):
        Trainer(tmp_path, text + "a", text[:200], CPU)
    with pytest.raises(ValueError, match="started on another validation text"):
        Trainer(tmp_path, text, text[:199], CPU)


def test_a_run_that_could_not_be_evaluated_does_not_begin(tmp_path, monkeypatch, small, train):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ModuleNotFoundError, match="torchao"):
        train(tmp_path, small("none", quantize="int8"), until=1)
    assert train(tmp_path / "plain", small("none"), until=1).steps_done == 1


def test_training_learns_a_repeating_text(tmp_path, small, train):
    for kind in ("unigram", "entropy", "gumbel", "routing"):
        config = small(kind, steps=60, evaluate_every=60, log_every=30)
        start = train(tmp_path / kind, config, until=0).evaluate()
        train(tmp_path / kind, config)
        lines = (tmp_path / kind / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert records[-1]["kind"] == "valid"
        assert records[-1]["bits"] < 0.75 * start["bits"]
        assert records[-1]["characters"] == 200


@pytest.mark.parametrize("kind", ["gumbel", "routing"])
def test_bfloat16_trains_finitely(tmp_path, kind, small, train):
    trainer = train(tmp_path, small(kind, precision="bfloat16", steps=2))
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_learning_rate_warms_up_and_falls_to_zero(small):
    config = small("none", steps=100, warmup=10)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(1e-3)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(1e-2)
    assert rates[55] == pytest.approx(5e-3)
    assert rates[100] == pytest.approx(0.0)


def test_a_teacher_is_half_of_what_is_learned(tmp_path, small, train, text):
    teacher = train(tmp_path / "teacher", small("none", steps=60, evaluate_every=60))
    config = small("fixed", teacher=str(tmp_path / "teacher"), steps=60, evaluate_every=60)
    student = train(tmp_path / "student", config, until=0)
    out, loss, distance = student._forward(0)
    tokens = student.train_ids[chunk_index(len(text), 32, 2, config.seed, 0)].long()
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


def test_pruning_starts_with_the_largest_units_of_a_trained_run(tmp_path, small, train):
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
def test_a_pruned_run_resumes_from_its_own_checkpoint(tmp_path, small, train):
    train(tmp_path / "whole", small("fixed", steps=3))
    config = small("fixed", pruned_from=str(tmp_path / "whole"))
    whole = train(tmp_path / "at-once", config)
    train(tmp_path / "parts", config, until=3)
    parts = train(tmp_path / "parts", config)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["fixed", "gumbel"])
def test_int8_evaluation_is_close_and_leaves_the_model_alone(tmp_path, kind, small, train):
    trainer = train(tmp_path, small(kind, steps=60, evaluate_every=60))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    plain = trainer.evaluate()
    trainer.config = dataclasses.replace(trainer.config, quantize="int8")
    rounded = trainer.evaluate()
    assert rounded["bits"] != plain["bits"]
    assert rounded["bits"] == pytest.approx(plain["bits"], rel=0.05)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_pruning_without_a_package_that_prunes(tmp_path, monkeypatch, small, train):
    train(tmp_path / "whole", small("fixed", steps=1, evaluate_every=1))
    monkeypatch.setattr(pruning, "entry_points", lambda **_: [])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dtp-pooling\[pruning\]'"):
        train(tmp_path / "part", small("fixed", pruned_from=str(tmp_path / "whole")))
