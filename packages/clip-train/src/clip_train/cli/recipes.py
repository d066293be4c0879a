"""Bodies of `clip-train presets` and `translate`, which need no torch."""

from __future__ import annotations

import argparse

from clip_train.config.presets import list_presets, load_config, preset_text
from clip_train.translate import translation


def presets(options: argparse.Namespace) -> None:
    """Print the list of presets, or one of them."""
    if options.name:
        print(preset_text(options.name), end="")
        return
    width = max(map(len, list_presets()))
    for name in list_presets():
        print(f"{name:<{width}}  {load_config(name).description}")


def translate(options: argparse.Namespace) -> None:
    """Print another system's run as TOML."""
    words = [options.file] if options.file else options.flags
    found = translation.translate(
        options.system, words, processes=options.processes, lenient=options.lenient
    )
    print(found.text(), end="")
