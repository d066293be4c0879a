"""Config keys as flags: every value is checked, and what is wrong is said in one line."""

from __future__ import annotations

import dataclasses

import pytest
from clip_models import ConfigError
from clip_train import Config, load_config
from clip_train.config.keys import (
    SHORT_NAMES,
    apply_flags,
    config_keys,
    split_flags,
    unknown_key,
)
from clip_train.config.model import ModelConfig
from clip_train.config.presets import UNITS
from clip_train.config.training import OptimConfig


def test_every_key_is_documented() -> None:
    keys = config_keys()
    assert {"description", "train.steps", "data.variable_sizes.num_sizes"} <= keys.keys()
    assert all(key.doc for key in keys.values())
    assert keys["train.steps"].optional
    assert keys["augment.scale"].num_words == 2


def test_flags_override_the_file() -> None:
    base = load_config("shapes")
    flags = ["--optim.lr", "0.5", "--train.batch-size", "7", "--augment.scale", "0.3", "0.8"]
    flags += ["--data.cache_images", "False", "--data.templates", "a {c}", "the {c}"]
    config = apply_flags(base, flags)
    assert (config.optim.lr, config.train.batch_size) == (0.5, 7)
    assert config.augment.scale == (0.3, 0.8)
    assert config.data.cache_images is False
    assert config.data.templates == ("a {c}", "the {c}")
    assert config.model == base.model


def test_values_after_an_equals_sign() -> None:
    assert apply_flags(Config(), ["--train.seed=9"]).train.seed == 9


@pytest.mark.parametrize(
    "flags",
    [["--data.cache_images", "true"], ["--data.cache-images=true"], ["--data.cache_images=True"]],
)
def test_booleans_in_the_spelling_of_toml_and_of_python(flags: list[str]) -> None:
    assert apply_flags(Config(), flags).data.cache_images is True
    assert apply_flags(Config(), ["--log.wandb_project", "true"]).log.wandb_project == "true"


@pytest.mark.parametrize(("section", "units"), UNITS)
def test_a_flag_in_one_unit_replaces_the_preset_in_another(section: str, units: set[str]) -> None:
    for unit in units:
        base = Config(optim=OptimConfig(schedule="constant_cooldown"))
        before = {key: 0.25 if key.endswith("share") else 7 for key in units}
        start = dataclasses.replace(getattr(base, section), **before)
        base = dataclasses.replace(base, **{section: start})
        value = 0.5 if unit.endswith("share") else 50
        found = getattr(apply_flags(base, [f"--{section}.{unit}", str(value)]), section)
        usual = getattr(Config(), section)
        assert found == dataclasses.replace(
            start, **{key: value if key == unit else getattr(usual, key) for key in units}
        )


def test_a_length_in_epochs_replaces_one_in_steps() -> None:
    base = dataclasses.replace(Config(), train=dataclasses.replace(Config().train, steps=5))
    assert apply_flags(base, ["--train.epochs", "2"]).train.steps is None
    both = apply_flags(base, ["--train.epochs", "2", "--train.steps", "3"]).train
    assert (both.epochs, both.steps) == (2.0, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train.stepz", "3"], "unknown key 'train.stepz'; did you mean 'train.steps'?"),
        (["--optim.lr", "fast"], "optim.lr"),
        (["--optim.lr", "-1"], "lr must be positive, got -1.0"),
        (["--train.batch-size", "1.5"], "train.batch_size must be an integer, got '1.5'"),
        (["--train.epochs", "inf"], "epochs must be positive and finite, got inf"),
        (["--optim.lr", "inf"], "lr must be finite, got inf"),
        (["--loss.kind", "hinge"], "loss.kind"),
        (["--data.templates", "no slot"], "templates need a {c} slot"),
        (["--augment.scale", "0.9", "0.3"], "scale must satisfy"),
        (["stray"], "stray"),
        (["--model.vision.image_size", "--optim.lr", "1"], "image_size needs a value"),
        (["--train.steps", "3", "4"], "--train.steps takes one value, got 3 4"),
        (["--augment.scale", "0.9"], "augment.scale must have 2 entries, got 1"),
        (["--data.cache_images", "maybe"], "data.cache_images must be true or false"),
    ],
)
def test_wrong_flags_are_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_flags(Config(), flags)
    assert message in str(caught.value)
    for noise in ("\n", "--- ", "For full helptext", ".py"):
        assert noise not in str(caught.value)


def test_values_of_tower_fields_are_toml() -> None:
    config = apply_flags(
        Config(model=ModelConfig(vision={"image_size": 64, "patch_size": 8})),
        [
            "--model.name",
            "ViT-B-16",
            "--model.vision.patch-reduction.kind=grid",
            "--model.vision.patch_reduction.keep_ratio",
            "0.25",
            "--model.vision.image_size",
            "32",
            "--model.text.mlp_width",
            "[1, 2]",
            "--optim.lr",
            "1e-3",
        ],
    )
    assert (config.model.name, config.optim.lr) == ("ViT-B-16", 1e-3)
    assert config.model.vision == {
        "image_size": 32,
        "patch_size": 8,
        "patch_reduction": {"kind": "grid", "keep_ratio": 0.25},
    }
    assert config.model.text == {"mlp_width": [1, 2]}
    assert config.model.preprocess == {}


def test_none_empty_lists_and_tables() -> None:
    base = dataclasses.replace(load_config("cifar10"), model=ModelConfig(text={"width": 8}))
    base = apply_flags(base, ["--optim.clip_norm", "3"])
    assert base.optim.clip_norm == 3.0
    flags = ["--optim.clip_norm", "None", "--data.templates", "--model.text", "{num_layers = 2}"]
    config = apply_flags(base, flags)
    assert config.optim.clip_norm is None
    assert config.data.templates == ()
    assert config.model.text == {"width": 8, "num_layers": 2}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lr", "unknown key 'lr'; did you mean 'optim.lr'?"),
        ("batch_size", "did you mean 'train.batch_size' or 'eval.batch_size'?"),
        ("model.visoin.width", "did you mean"),
        (
            "train.accumulation",
            "'train.accumulation'; it is train.grad_accum_steps now",
        ),
        ("zebra", "`clip-train run --help` lists all keys"),
    ],
)
def test_the_nearest_key_is_named(name: str, message: str) -> None:
    assert message in str(unknown_key(name))


def test_flags_are_separated_from_other_words() -> None:
    words = ["run", "--train.steps", "3", "shapes", "--augment.scale", "0.5", "1", "--out", "x"]
    words += ["--description", "mine", "--optim.lr=1", "--overwrite", "--data.templates", "{c}"]
    rest, flags = split_flags(words)
    assert rest == ["run", "shapes", "--out", "x", "--overwrite"]
    assert flags == [word for word in words if word not in rest]


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_short_names_set_their_keys(name: str) -> None:
    key = config_keys()[SHORT_NAMES[name]]
    value = {int: "3", float: "0.25", str: "cpu"}.get(key.hint, "bf16")
    flag = f"--{name.replace('_', '-')}"
    for words in ([flag, value], [f"{flag}={value}"]):
        assert split_flags(["run", "shapes", *words, "--quiet"])[1] == words
        short, long = apply_flags(Config(), words), apply_flags(Config(), [f"--{key.name}", value])
        assert short == long != Config()
