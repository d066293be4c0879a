"""Write `prompts/prompt_sets.json` from the tables of clip-benchmark and timm, both installed.

python scripts/make_prompt_sets.py
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

TARGET = Path(__file__).parents[1] / "src" / "clip_eval" / "prompts" / "prompt_sets.json"


def main() -> None:
    """Collect and write."""
    tables = files("clip_benchmark.datasets")
    names = json.loads(tables.joinpath("en_classnames.json").read_text("utf-8"))
    templates = json.loads(
        tables.joinpath("en_zeroshot_classification_templates.json").read_text("utf-8")
    )
    templates.pop("dummy", None)
    wnids = {
        key: files("timm.data._info").joinpath(f"{key}_synsets.txt").read_text("utf-8").split()
        for key in ("imagenet", "imagenet_a", "imagenet_r")
    }
    sets = {
        name: {
            **({"classnames": names[name]} if name in names else {}),
            **({"templates": templates[name]} if name in templates else {}),
        }
        for name in sorted({*names, *templates})
    }
    sets["imagenet1k"]["folders"] = wnids["imagenet"]
    sets["imagenet-sketch"] = {"like": "imagenet1k"}
    sets["imagenetv2"] = {"like": "imagenet1k", "numbered": True}
    for name in ("a", "r"):
        sets[f"imagenet-{name}"] = {"like": "imagenet1k", "folders": wnids[f"imagenet_{name}"]}
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(sets, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
