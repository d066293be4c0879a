"""The systems whose runs can be translated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from clip_train.translate.corenet import CORENET, CORENET_DEFAULTS
from clip_train.translate.fast_clip import FAST_CLIP
from clip_train.translate.open_clip import CLIPA, OPEN_CLIP
from clip_train.translate.osf import OSF
from clip_train.translate.rules import Rule


class System(NamedTuple):
    """Flags or keys of another system and their translation."""

    rules: Mapping[str, Rule]
    defaults: Mapping[str, Any]  # of the flags whose default differs from ours
    command: str = ""  # that takes the TOML, if it is not `clip-train run`


_OPEN_CLIP_DEFAULTS = {
    "model": "RN50",
    "aug-cfg": "",
    "loss": "infonce",
    "batch-size": 64,
    "epochs": 32,
    "warmup": 10000,
    "precision": "amp",
}
_OSF_DEFAULTS = {
    "model": "vit",
    "dataset": "cifar100",
    "lr": 5e-5,
    "batch-size": 64,
    "epochs": 500,
    "log-interval": 10,
    "save-dir": "ckpts/",
}
SYSTEMS: Mapping[str, System] = {
    "open_clip": System(OPEN_CLIP, _OPEN_CLIP_DEFAULTS),
    "clipa": System(CLIPA, _OPEN_CLIP_DEFAULTS),
    "osf": System(OSF, _OSF_DEFAULTS, "clip-train supernet THIS.toml"),
    "corenet": System(CORENET, CORENET_DEFAULTS),
    "fast_clip": System(FAST_CLIP, _OPEN_CLIP_DEFAULTS | {"precision": "amp_bf16"}),
}
