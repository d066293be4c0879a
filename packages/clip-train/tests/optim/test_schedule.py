"""The schedule against the length of the run, in any unit."""

from __future__ import annotations

import math
from typing import Any

import pytest
from clip_models import ConfigError
from clip_train.config.keys import apply_flags
from clip_train.config.run import Config
from clip_train.config.training import OptimConfig
from clip_train.optim.learning_rate import learning_rate
from clip_train.optim.schedule import (
    check_schedule,
    describe_extension,
    describe_schedule,
    in_steps,
)


def resolved(**values: Any) -> OptimConfig:
    """With epochs of ten steps of eight samples."""
    return in_steps(OptimConfig(**values), 8, lambda epochs: math.floor(10 * epochs), 500)


@pytest.mark.parametrize("part", ["warmup", "cooldown"])
def test_a_length_in_any_unit_is_one_in_steps(part: str) -> None:
    schedule = {"schedule": "constant_cooldown"}
    for values, steps in (
        ({"steps": 7}, 7),
        ({"samples": 50}, 7),
        ({"epochs": 0.7}, 7),
        ({"steps": 3, "epochs": 2.0}, 20),
        ({"steps": 3, "epochs": 2.0, "samples": 8}, 1),
        ({}, 0),
    ):
        found = resolved(**schedule, **{f"{part}_{unit}": value for unit, value in values.items()})
        assert getattr(found, f"{part}_steps") == steps
    with pytest.raises(ConfigError, match="must be 0 or more"):
        OptimConfig(**{f"{part}_epochs": -1.0}, **schedule)  # type: ignore[arg-type]


def test_a_unit_replaces_the_others() -> None:
    base = Config(optim=OptimConfig(warmup_steps=100, warmup_samples=9))
    found = apply_flags(base, ["--optim.warmup-epochs", "0.5"]).optim
    assert (found.warmup_steps, found.warmup_samples, found.warmup_epochs) == (0, None, 0.5)


@pytest.mark.parametrize(
    ("values", "total", "words"),
    [
        ({"warmup_steps": 200}, 4, "warmup of 200 steps, and the run has 4 steps: .* 2 % of its"),
        ({"warmup_samples": 1600}, 4, "warmup of 200 steps"),
        ({"warmup_epochs": 20.0}, 200, "warmup of 200 steps, and the run has 200 steps"),
        (
            {"schedule": "constant_cooldown", "cooldown_steps": 40},
            10,
            "cooldown of 40 steps, and the run has 10 steps: .* 25 % of its peak",
        ),
        ({"schedule": "constant_cooldown", "cooldown_epochs": 4.0}, 10, "cooldown of 40 steps"),
        (
            {"schedule": "constant_cooldown", "cooldown_samples": 48, "warmup_steps": 6},
            10,
            "cooldown of 6 steps begins before the warmup of 6 steps ends",
        ),
    ],
)
def test_a_length_beyond_the_run_is_odd(values: dict[str, Any], total: int, words: str) -> None:
    (text,) = check_schedule(resolved(**values), total, 8)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(text)


def test_the_peak_in_a_warning_is_the_scaled_one() -> None:
    optim = resolved(lr=1e-3, lr_rule="linear", lr_batch_size=256, warmup_steps=8)
    (text,) = check_schedule(optim, 4, 8)
    last = learning_rate(optim, 3, 4, 8)
    assert f"ends at {last:.3g}, 50 % of its peak" in text


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"warmup_steps": 9},
        {"schedule": "constant", "warmup_steps": 9},
        {"schedule": "constant_cooldown", "cooldown_steps": 10},
        {"schedule": "constant_cooldown", "cooldown_steps": 5, "warmup_steps": 5},
    ],
)
def test_a_schedule_that_fits_is_not_odd(values: dict[str, Any]) -> None:
    assert list(check_schedule(resolved(**values), 10, 8)) == []


def test_a_schedule_in_words() -> None:
    text = describe_schedule(resolved(lr=0.1, warmup_steps=10, final_lr=0.01), 50, 8)
    assert text.startswith(
        "10 steps of warmup from 0 to 0.1, cosine from 0.1 to 0.01 until step 50;"
    )
    text = describe_schedule(resolved(lr=0.1, schedule="linear"), 50, 8)
    assert text.startswith("linear from 0.1 to 0 until step 50; the last step has 0.002")
    optim = resolved(lr=0.1, schedule="constant_cooldown", cooldown_steps=1)
    text = describe_schedule(optim, 5, 8)
    assert text.startswith("constant at 0.1 until step 4, 1 step of cooldown to 0; the last")


def test_an_extension_says_where_the_rate_jumps() -> None:
    old, new = resolved(lr=0.1), resolved(lr=0.1)
    text = describe_extension(new, 10, (old, 10), 20, 8)
    before, after = learning_rate(old, 9, 10, 8), learning_rate(new, 10, 20, 8)
    assert "the run goes on from step 10 to 20, it was planned to end at 10" in text
    assert f"from {before:.3g} to {after:.3g} at this step" in text
    assert after == pytest.approx(0.05)


def test_a_warmup_as_a_share_of_the_run_goes_before_other_units() -> None:
    found = in_steps(OptimConfig(warmup_share=0.1, warmup_epochs=3.0), 8, lambda _: 30, 500)
    assert found == OptimConfig(warmup_steps=50)
    assert in_steps(OptimConfig(warmup_share=0.0, warmup_steps=9), 8, int, 500).warmup_steps == 0
