"""Presets and flags: every layer is checked, and says what is wrong in one line."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from clip_models import ConfigError, get_config
from clip_models.config import WhitenedCNNConfig, from_dict, to_dict
from clip_train import Config, list_presets, load_config
from clip_train.config.presets import preset_text
from clip_train.logs.run_directory import RunDirectory
from clip_train.model.loading import resolve_model


def test_documented_presets_exist() -> None:
    assert {"shapes", "shapes-tiny", "cifar10", "cifar10-94", "cifar10-cpu"} <= set(list_presets())


@pytest.mark.parametrize("name", list_presets())
def test_presets_name_existing_models_and_round_trip_through_toml(name: str) -> None:
    config = load_config(name)
    assert config.description
    resolve_model(config.model)
    assert from_dict(Config, tomllib.loads(tomli_w.dumps(to_dict(config)))) == config


def test_the_reference_preset_is_the_published_recipe() -> None:
    """CLIP for CIFAR-10: AdamW 1e-4, decay .01, cosine, 50 epochs of batches of 32, seed 42."""
    config = load_config("cifar10")
    model = get_config(config.model.name)
    assert model.embed_dim == 512
    assert model.vision.layers == (2, 2, 2, 2)
    assert model.vision.width == 32
    assert (model.text.width, model.text.num_heads, model.text.num_layers) == (512, 8, 6)
    assert (config.optim.lr, config.optim.weight_decay) == (1e-4, 0.01)
    assert config.optim.schedule == "cosine"
    assert (config.train.epochs, config.train.batch_size, config.train.seed) == (50, 32, 42)
    assert len(config.data.templates) == 5


def test_the_fast_presets_are_one_recipe_of_two_lengths() -> None:
    """Jordan 2024: whitening, Muon, linear decay, alternating flips, 2 px, smoothing of 0.2."""
    short, long = load_config("cifar10-cpu"), load_config("cifar10-94")
    assert long == replace(
        short,
        description=long.description,
        train=replace(short.train, epochs=long.train.epochs),
        eval=long.eval,
        checkpoint=long.checkpoint,
    )
    assert (short.eval.views, long.eval.views) == ("single", "mirror_shift")
    assert short.train.epochs is not None
    assert long.train.epochs is not None
    assert short.train.epochs < long.train.epochs
    vision = resolve_model(short.model).vision
    assert isinstance(vision, WhitenedCNNConfig)
    assert (vision.stem, vision.dirac, vision.norm_scale) == ("whitening", True, False)
    assert (vision.norm_momentum, vision.whitening_size) == (0.4, 2)
    optim, augment = short.optim, short.augment
    assert (optim.convolutions.name, optim.convolutions.momentum) == ("muon", 0.6)
    assert (optim.schedule, optim.final_lr, short.loss.label_smoothing) == ("linear", 0.0, 0.2)
    assert (augment.kind, augment.pad, augment.flip_choice) == ("shift", 2, "alternating")


def test_a_file_extends_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("extends = 'cifar10'\n[train]\nsteps = 7\n[model.vision]\nwidth = 16\n")
    config, base = load_config(str(file)), load_config("cifar10")
    assert (config.train.steps, config.train.epochs) == (7, None)
    assert config.train.seed == base.train.seed
    assert config.model.name == base.model.name
    assert config.model.vision == {"width": 16}


def test_keys_of_earlier_files_still_load(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("extends = 'cifar10'\n[train]\naccumulation = 4\n")
    assert load_config(str(file)).train.grad_accum_steps == 4
    text = tomli_w.dumps(to_dict(Config())).replace("grad_accum_steps = 1", "accumulation = 2")
    (tmp_path / "config.toml").write_text(text)
    assert RunDirectory.read_config(tmp_path).train.grad_accum_steps == 2


def test_extending_an_unknown_preset_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    for text in ("extends = 'cifar11'", "extends = 3"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"mine.toml.*(did you mean 'cifar10'|got 3)"):
            load_config(str(file))


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'shape'; did you mean 'shapes'"):
        load_config("shape")
    with pytest.raises(ConfigError, match="unknown preset"):
        preset_text("../config")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nstep = 3\n", "unknown key 'train.step'; did you mean 'train.steps'?"),
        ("[train]\nsteps = '3'\n", "train.steps must be an integer, got '3' (str)"),
        ("[trian]\n", "unknown key 'trian'; did you mean 'train'?"),
        ("[train\n", "run.toml: "),
        ("extends = 'shapes'\noptim = 3\n", "optim must be a table, got 3"),
        ("[data]\ncache_images = true\n[augment]\nkind = 'random_resized_crop'\n", "crop from"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(str(file))
    assert message in str(caught.value)
    assert "run.toml" in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(str(tmp_path / "no.toml"))
