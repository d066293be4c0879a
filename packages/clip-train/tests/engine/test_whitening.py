"""The whitening stem of a run, alternating flips, and class names that are the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_eval import EvaluationConfig, Result, evaluate
from clip_eval.data import open_source
from clip_models import ConfigError, Preprocess, load_model
from clip_models.config import from_dict
from clip_models.files import load_tensors
from clip_models.model.whitened_cnn import patch_whitening
from clip_tokenizer import Tokenizer
from clip_train import Config, Interrupted, resume, train
from clip_train.cli.training import _report
from clip_train.engine.data_components import build_data_components
from clip_train.engine.runs import dry_run
from clip_train.engine.trainer import Trainer
from clip_train.logs.run_directory import RunDirectory
from PIL import Image

NAMES = ("cat", "dog", "frog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight noisy images, each class of its own color."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        (root / name).mkdir()
        for index in range(8):
            pixels = generator.integers(0, 120, (16, 16, 3))
            pixels[..., label] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def config_of(folder: Path, **sections: dict[str, Any]) -> Config:
    vision = {"kind": "whitened_cnn", "image_size": 16, "widths": [8, 8]}
    values: dict[str, Any] = {
        "data": {
            "train": f"imagefolder:{folder}",
            "templates": ["a {c}.", "the {c}!"],
            "template_choice": "batch",
            "cache_images": True,
            "workers": 0,
        },
        "augment": {"kind": "shift", "pad": 1, "flip": True, "flip_choice": "alternating"},
        "model": {"name": "Whitened-32", "vision": vision, "whitening_images": 10},
        "tokenizer": {"kind": "bytes"},
        "train": {"steps": 9, "batch_size": 8},
        "optim": {"lr": 3e-3, "schedule": "linear", "convolutions": {"name": "muon", "lr": 0.1}},
        "loss": {"label_smoothing": 0.2, "caption_share": 0.0},
        "checkpoint": {"every_steps": 4},
    }
    return from_dict(
        Config, {k: {**values.get(k, {}), **sections.get(k, {})} for k in values | sections}
    )


def test_the_stem_whitens_the_first_images_of_the_run(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder)
    train(config, tmp_path / "run", progress=False)
    data = build_data_components(config)
    planned = data.plan.batch(0).indices.tolist() + data.plan.batch(1).indices.tolist()
    keys = [data.source.read(i).key for i in planned[:10]]
    pixels = [data.preprocess(Image.open(folder / key)) for key in keys]
    expected = patch_whitening(data.preprocess.normalize(torch.stack(pixels)), 2)
    stem = load_tensors(tmp_path / "run" / "model.safetensors")["visual.stem.weight"]
    assert torch.equal(stem, expected)


def test_a_resumed_run_is_the_same_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(folder)
    train(config, tmp_path / "whole", progress=False)
    step = Trainer.step

    def stop(self: Trainer, batch: Any) -> None:
        step(self, batch)
        if self.steps_done == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop)
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            train(config, tmp_path / "parts", progress=False)
    resume(tmp_path / "parts", progress=False)
    one, other = (load_tensors(tmp_path / x / "model.safetensors") for x in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_trained_stem_is_no_whitening(folder: Path) -> None:
    vision = {"kind": "whitened_cnn", "image_size": 16, "widths": [8, 8], "stem": "trained"}
    config = config_of(folder, model={"name": "Whitened-32", "vision": vision})
    components, _ = dry_run(config)
    assert components.model.visual.stem.weight.requires_grad


def test_flips_alternate_by_epoch(folder: Path) -> None:
    """Each image has one side in even epochs and the other in odd ones, wherever it stands."""
    reader = build_data_components(config_of(folder)).make_reader()
    sides: dict[int, dict[str, bool]] = {}
    for step in range(9):  # three epochs of three steps
        batch = reader[step]
        flipped = (batch.uniform[:, 2] < 0.5).tolist()
        sides.setdefault(batch.epoch, {}).update(zip(batch.keys, flipped, strict=True))
    assert len(sides[0]) == 24
    assert sides[0] == sides[2] == {key: not side for key, side in sides[1].items()}
    assert 4 <= sum(sides[0].values()) <= 20
    random = config_of(folder, augment={"flip_choice": "random"})
    plain = build_data_components(random).make_reader()
    for step in (0, 4):  # what else is drawn stays the same
        assert torch.equal(plain[step].uniform[:, :2], reader[step].uniform[:, :2])


def test_flips_follow_from_the_seed(folder: Path) -> None:
    readers = [
        build_data_components(config_of(folder, train={"seed": seed, "steps": 3})).make_reader()
        for seed in (0, 0, 1)
    ]
    flips = [
        {
            key: bool(side < 0.5)
            for step in range(3)
            for key, side in zip(reader[step].keys, reader[step].uniform[:, 2], strict=True)
        }
        for reader in readers
    ]
    assert flips[0] == flips[1] != flips[2]


def test_what_cannot_be(folder: Path) -> None:
    with pytest.raises(ConfigError, match="flip_choice 'alternating' goes with flip = true"):
        config_of(folder, augment={"flip": False})
    with pytest.raises(ConfigError, match="knows a sample by its place in the data"):
        config_of(folder, data={"order": "stream", "epoch_samples": 24, "cache_images": False})


def test_averaged_views_are_named_in_metrics_and_in_words(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"val": f"imagefolder:{folder}"}
    for views in ("mirror_shift", "single"):
        config = config_of(folder, data=data, eval={"views": views}, train={"steps": 2})
        train(config, tmp_path / views, progress=False)
        _report(str(tmp_path / views))
        (row,) = RunDirectory(tmp_path / views).metrics("eval")
        is_named = views != "single"
        assert row.get("views") == (views if is_named else None)
        assert (", views mirror_shift" in capsys.readouterr().out) == is_named


@pytest.mark.filterwarnings("ignore:the run goes on from step 2 to 3")
@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx2": True, "avx512_bf16": True}, "bf16"), ({"avx2": True, "amx_bf16": False}, "fp32")],
)
def test_auto_precision_is_decided_when_a_run_starts(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capabilities: dict[str, bool],
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    config = config_of(folder, train={"precision": "auto", "steps": 2})
    assert dry_run(config)[0].data.config.train.precision == expected
    train(config, tmp_path / "run", progress=False)
    assert RunDirectory.read_config(tmp_path / "run").train.precision == expected
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # another machine
    longer = config_of(folder, train={"precision": "auto", "steps": 3})
    resume(tmp_path / "run", longer, progress=False)
    assert RunDirectory.read_config(tmp_path / "run").train.precision == expected


def evaluated(run: Path, names: tuple[str, ...]) -> Result:
    model, preprocess = load_model(run)
    source = open_source(f"imagefolder:{run.parent / 'images'}")
    config = EvaluationConfig(
        task="classify", classnames=names, templates=("a {c}.",), keep_predictions=True
    )
    return evaluate(
        model,
        source,
        tokenizer=Tokenizer.from_pretrained(run),
        preprocess=Preprocess(preprocess),
        config=config,
    )


def test_permuted_class_names_permute_the_predictions(folder: Path, tmp_path: Path) -> None:
    """The classifier is the text tower: it knows a class by its name, not by its number."""
    (tmp_path / "images").symlink_to(folder)
    train(config_of(folder, train={"steps": 24}), tmp_path / "run", progress=False)
    straight = evaluated(tmp_path / "run", NAMES)
    assert straight.metrics["acc1"] > 0.9
    order = (2, 0, 1)  # class 0 is called as class 2 was
    permuted = evaluated(tmp_path / "run", tuple(NAMES[i] for i in order))
    assert permuted.metrics["acc1"] < 0.1
    first = [record.guesses[0] for record in straight.predictions]
    second = [record.guesses[0] for record in permuted.predictions]
    assert [order[guess] for guess in second] == first
