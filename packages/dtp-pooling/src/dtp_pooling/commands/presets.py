"""`dtp-lm presets`."""

from __future__ import annotations

import argparse
import dataclasses
import json

from dtp_pooling.training.presets import PRESETS, get_preset


def presets(options: argparse.Namespace) -> None:
    """Print the names and sizes of all presets, or the whole configuration of one."""
    if options.name is not None:
        print(json.dumps(dataclasses.asdict(get_preset(options.name)), indent=2))
    elif options.json:
        print(json.dumps({name: dataclasses.asdict(config) for name, config in PRESETS.items()}))
    else:
        for name, config in PRESETS.items():
            model = config.model
            nested = f"({model.nested_layers})" if model.nested_layers else ""
            layers = f"{model.pre_layers}+{model.shortened_layers}{nested}+{model.post_layers}"
            print(f"{name:18} {layers} layers, width {model.width}, {config.steps} steps")
