"""Keys of Fast-CLIP's training plans, JSON files for its copy of open_clip's trainer."""

from __future__ import annotations

from collections.abc import Mapping

from clip_train.translate.open_clip import OPEN_CLIP
from clip_train.translate.rules import Missing, Rule

_BASELINE_ONLY = Missing("Fast-CLIP's own losses are not implemented, only its OpenCLIP baseline")

FAST_CLIP: Mapping[str, Rule] = {
    **OPEN_CLIP,
    "weight-decay": OPEN_CLIP["wd"],
    "learning-rate": OPEN_CLIP["lr"],
    "num-workers": OPEN_CLIP["workers"],
    "profile": "it has no effect on the trained weights",
    "data-size": lambda value, values: (
        _BASELINE_ONLY if "fastclip" in values else "used with --fastclip only"
    ),
    **dict.fromkeys(
        ("fastclip", "multiply-tau", "temperature-*", "lr-tau*", "rho", "gamma*"), _BASELINE_ONLY
    ),
}
