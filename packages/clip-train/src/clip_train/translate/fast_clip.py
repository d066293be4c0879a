"""Keys of Fast-CLIP's training plans, JSON files for its copy of open_clip's trainer."""

from __future__ import annotations

from collections.abc import Mapping

from clip_train.translate.open_clip import OPEN_CLIP
from clip_train.translate.rules import Rule

FAST_CLIP: Mapping[str, Rule] = {
    **OPEN_CLIP,
    "weight-decay": OPEN_CLIP["wd"],
    "learning-rate": OPEN_CLIP["lr"],
    "num-workers": OPEN_CLIP["workers"],
}
