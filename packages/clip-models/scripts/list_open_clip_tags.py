"""Write `pretrained_tags.json`: open_clip's tags of the models that clip-models names.

Run with open_clip_torch installed, from any directory.
"""

from __future__ import annotations

import json
from pathlib import Path

import open_clip.pretrained
from clip_models import list_models

TABLE = Path(__file__).parents[1] / "src" / "clip_models" / "config" / "pretrained_tags.json"


def make_table() -> dict[str, dict[str, str]]:
    """The hub repository of each tag of each model."""
    table: dict[str, dict[str, str]] = {}
    for name, tag in open_clip.pretrained.list_pretrained():
        place = open_clip.pretrained.get_pretrained_cfg(name, tag).get("hf_hub")
        if name in list_models() and place:
            table.setdefault(name, {})[tag] = place.rstrip("/")
    return table


if __name__ == "__main__":
    TABLE.write_text(json.dumps(make_table(), indent=1) + "\n", encoding="utf-8")
