"""A CLIP trained as a supernet: by hand, resumed, on two processes, and the models out of it."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from clip_eval.cli.main import main as clip_eval
from clip_models import ConfigError, load_model
from clip_models.config import from_dict, to_dict
from clip_models.files import load_tensors
from clip_tokenizer import Tokenizer
from clip_train import Config
from clip_train.cli.main import main
from clip_train.cli.training import base_config
from clip_train.config.supernet import SupernetSettings
from clip_train.distributed.single import SingleBackend
from clip_train.engine import runs
from clip_train.engine.components import make_model
from clip_train.engine.data_components import build_data_components
from clip_train.engine.gradients import WholeBatchGradient
from clip_train.engine.step_inputs import InputMaker
from clip_train.logs.run_directory import RunDirectory
from clip_train.model.towers import Towers
from clip_train.objectives.from_config import make_objective
from clip_train.supernet import gradient as supernet_step
from clip_train.supernet import run as supernet
from clip_train.supernet import subnets
from clip_train.supernet.definition import make_supernet
from clip_train.supernet.gradient import SandwichGradient
from osf_supernet import count_parameters, load_supernet

processes = runpy.run_path(str(Path(__file__).parents[1] / "workers" / "processes.py"))

SPACE = {"mlp": {"ratios": [0.5, 1]}, "heads": {"ratios": [0.5, 1]}, "depth": {"ratios": [0.5, 1]}}


@pytest.fixture
def config(vit_config: Config, shapes: Path) -> Config:
    """Six steps of a transformer with an evaluation."""
    data = dataclasses.replace(vit_config.data, val=f"{shapes}/val")
    train = dataclasses.replace(vit_config.train, steps=6)
    checkpoint = dataclasses.replace(vit_config.checkpoint, every_steps=2)
    return dataclasses.replace(vit_config, data=data, train=train, checkpoint=checkpoint)


def test_a_step_is_the_mean_of_the_subnets_steps(config: Config) -> None:
    """Without distillation: autograd through sliced weights, one subnet after the other."""
    data, backend = build_data_components(config), SingleBackend(torch.device("cpu"))
    model = make_model(data, backend, pretrained=None).double()
    net = make_supernet(model, (torch.randn(2, 3, 48, 48).double(), _tokens(data.tokenizer)), SPACE)
    settings = SupernetSettings(num_random=1, distill=0.0)
    inputs = InputMaker(config, backend, data.preprocess, model)(data.make_reader()[0])
    inputs = inputs._replace(images=inputs.images.double())
    objective = make_objective(config.loss, backend)
    sandwich = SandwichGradient(net, Towers(model), backend, settings)
    sandwich.set_step(3)
    losses = sandwich.compute(inputs, objective)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    configs, each = [net.largest, net.smallest, net.sample(seed="0/3/0")], []
    for subnet in configs:
        with net.active(subnet):
            plain = WholeBatchGradient(Towers(model), backend)
            each.append(float(plain.compute(inputs, objective, loss_scale=1 / 3)["contrastive"]))
    assert sum(map(float, losses.values())) == pytest.approx(sum(each) / 3, abs=1e-9)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-9)
    learning = SandwichGradient(net, Towers(model), backend, SupernetSettings())
    learning.set_step(3)
    learning.compute(inputs, objective)
    for name, expected in zip(("largest", "smallest"), each, strict=False):
        assert float(learning.records[f"supernet/{name}"]) == pytest.approx(expected, abs=1e-9)


def _tokens(tokenizer: Tokenizer) -> torch.Tensor:
    return torch.as_tensor(tokenizer(["one", "another one"]))


def test_a_run_gives_models_that_clip_eval_evaluates(
    config: Config, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a finished run, on the command line; what comes out needs no osf-supernet."""
    runs.train(config, tmp_path / "clip", progress=False)
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    words = ["supernet", tmp_path / "clip", "--out", tmp_path / "net", "--keep", "0.9", "0.85"]
    more = ["--space", tmp_path / "space.json", "--train.steps", "3", "--num-random", "1"]
    assert main(list(map(str, words + more))) == 0
    assert "subnet: " in capsys.readouterr().out
    full, _ = load_model(tmp_path / "net")
    folders = [tmp_path / "net" / "subnets" / share for share in ("0.9", "0.85")]
    for share, folder in zip((0.9, 0.85), folders, strict=True):
        small, _ = load_model(folder)
        said = json.loads((folder / "subnet.json").read_text())
        assert count_parameters(small) == said["parameters"] <= share * said["of"]
        assert said["of"] == count_parameters(full)
    words = ["run", "--model", *folders, "--data", shapes / "val", "--out", tmp_path / "results"]
    assert clip_eval(list(map(str, [*words, "--quiet", "--no-cache"]))) == 0
    results = [json.loads(file.read_text()) for file in (tmp_path / "results").rglob("result.json")]
    assert [result["n"] for result in results] == [144, 144]
    example = (torch.randn(2, 3, 48, 48), _tokens(Tokenizer.from_pretrained(tmp_path / "net")))
    net = load_supernet(tmp_path / "net", full, example)
    assert net.smallest["visual.transformer.resblocks.0.mlp"] == 32


def test_a_resumed_run_is_the_run_that_was_not_interrupted(config: Config, tmp_path: Path) -> None:
    settings = SupernetSettings(num_random=1, keep=())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, val=""))
    supernet.train(config, tmp_path / "whole", settings, SPACE, progress=False)
    supernet.train(config, tmp_path / "part", settings, SPACE, progress=False)
    (tmp_path / "part" / "model.safetensors").unlink()
    for step in (tmp_path / "part" / "checkpoints").iterdir():
        if step.name.endswith("6"):
            for file in step.iterdir():
                file.unlink()
            step.rmdir()
    assert main(["resume", str(tmp_path / "part")]) == 0
    whole, part = (load_tensors(tmp_path / n / "model.safetensors") for n in ("whole", "part"))
    assert all(torch.equal(whole[name], part[name]) for name in whole)
    with pytest.raises(ConfigError, match="trains no supernet"):
        supernet.resume(tmp_path)


def test_resume_writes_the_subnets_that_are_missing(
    config: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, path = SupernetSettings(num_random=1, keep=(0.9, 0.85)), tmp_path / "run"
    train = dataclasses.replace(config.train, steps=2, seed=5)
    data = dataclasses.replace(config.data, val="")
    config = dataclasses.replace(config, train=train, data=data)
    describe, sample, seeds = subnets._write_description, supernet_step.sandwich_configs, set()

    def describe_one(folder: Path, *rest: Any) -> None:
        if "0.85" in folder.name:
            raise OSError("the disk is full")
        describe(folder, *rest)

    def note(*arguments: Any, seed: int, **options: Any) -> Any:
        seeds.add(seed)
        return sample(*arguments, seed=seed, **options)

    monkeypatch.setattr(subnets, "_score_by_loss", lambda *_: count_parameters)  # the largest wins
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subnets, "_write_description", describe_one)
        patch.setattr(supernet_step, "sandwich_configs", note)
        with pytest.raises(OSError, match="disk is full"):
            supernet.train(config, path, settings, SPACE, progress=False)
    assert seeds == {5}
    assert {folder.name for folder in (path / "subnets").iterdir()} == {"0.9", ".0.85.partial"}
    first = (path / "subnets" / "0.9" / "subnet.json").stat()
    assert main(["resume", str(path)]) == 0
    assert {folder.name for folder in (path / "subnets").iterdir()} == {"0.9", "0.85"}
    assert (path / "subnets" / "0.9" / "subnet.json").stat() == first
    load_model(path / "subnets" / "0.85")
    assert main(["resume", str(path)]) == 2
    assert "is finished" in capsys.readouterr().err


def test_one_search_serves_all_shares_and_no_subnet_is_written_twice(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best within the larger share is at least as good as that within the smaller one."""
    settings, path = SupernetSettings(num_random=1, keep=(0.95, 0.9, 0.85)), tmp_path / "run"
    train = dataclasses.replace(config.train, steps=1)
    data = dataclasses.replace(config.data, val="")
    config = dataclasses.replace(config, train=train, data=data)
    searches, search = [], subnets.search_subnets

    def count(*arguments: Any, **options: Any) -> Any:
        searches.append(search(*arguments, **options))
        return searches[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subnets, "search_subnets", count)
        worse_when_larger = lambda *_: lambda model: -float(count_parameters(model))  # noqa: E731
        patch.setattr(subnets, "_score_by_loss", worse_when_larger)
        supernet.train(config, path, settings, SPACE, progress=False)
        assert len(searches) == 1
        names = {entry.name for entry in (path / "subnets").iterdir()}
        assert names == {"0.95", "0.9.json", "0.85.json"}
        lines = subnets.describe_subnets(path)
        assert sum("is that of 0.95" in line for line in lines) == 2
    assert main(["resume", str(path)]) == 2
    assert "is finished" in capsys.readouterr().err


def test_what_is_taken_from_a_run(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "run"
    tokenizer = dataclasses.replace(config.tokenizer, reduction="random")
    checkpoint = dataclasses.replace(config.checkpoint, directory="elsewhere")
    config = dataclasses.replace(config, tokenizer=tokenizer, checkpoint=checkpoint)
    path.mkdir()
    RunDirectory(path).write_config(config)
    (path / "model.safetensors").touch()
    found = base_config(str(path))
    assert found.tokenizer == dataclasses.replace(tokenizer, kind="directory", path=str(path))
    assert found.checkpoint == dataclasses.replace(checkpoint, directory="")
    assert found.train == config.train


def test_a_search_that_needs_pymoo_is_refused_before_training(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supernet, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="generations must be 0 without pymoo, got 2"):
        supernet.train(config, tmp_path / "run", SupernetSettings(generations=2), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_train_what_one_does(config: Config, tmp_path: Path) -> None:
    train = dataclasses.replace(config.train, steps=3, backend="auto")
    config = dataclasses.replace(config, train=train)
    (tmp_path / "run.toml").write_text(tomli_w.dumps(to_dict(config)))
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    words = ["supernet", tmp_path / "run.toml", "--space", tmp_path / "space.json", "--keep", "0.9"]
    started = processes["start_processes"](
        2,
        "command.py",
        arguments=[*map(str, words), "--out", str(tmp_path / "two")],
        output=str(tmp_path / "output"),
    )
    assert main([*map(str, words), "--out", str(tmp_path / "one")]) == 0
    for process, receiver in started:
        assert receiver.poll(240)
        assert receiver.recv() == (True, 0), (tmp_path / "output.0").read_text()
        process.join()
    one, two = (load_tensors(tmp_path / n / "model.safetensors") for n in ("one", "two"))
    for name in one:  # Adam turns the last bits of small gradients into a part of a step
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=2e-4)
    assert (tmp_path / "two" / "subnets" / "0.9" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "space", "message"),
    [
        ({"train": {"compile": "inductor"}}, None, r"train\.compile does not work with supernets"),
        ({"model": {"lock_text": True}}, None, r"model\.lock_text does not work"),
        ({}, {"mpl": {"ratios": [1]}}, "space does not fit the model"),
        ({}, {"mlp": {"ratios": [0.5, 1]}}, r"keep must be at least 0\.\d+"),
        (
            {"model": {"vision": {"kind": "compact_resnet"}}},
            {"channel": {"ratios": [0.5, 1]}},
            "Name only mlp, heads and depth",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    config: Config,
    change: dict[str, dict[str, object]],
    space: object,
    message: str,
    tmp_path: Path,
) -> None:
    values = to_dict(config)
    for section, keys in change.items():
        values[section] = {**values[section], **keys}
    with pytest.raises(ConfigError, match=message):
        supernet.train(
            from_dict(Config, values), tmp_path / "run", SupernetSettings(), space, progress=False
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_random": -1}, "num_random must be at least 0, got -1"),
        ({"distill": 2.0}, r"distill must be in \[0, 1\], got 2.0"),
        ({"keep": (1.5,)}, r"keep must be fractions in \(0, 1\], got \(1.5,\)"),
    ],
)
def test_settings_out_of_range(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SupernetSettings(**values)
