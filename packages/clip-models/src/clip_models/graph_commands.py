"""The body of `clip-models export`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from clip_models.files import hub
from clip_models.files.conversion import read_stored
from clip_models.files.pretrained import build_with_weights
from clip_models.files.tokenizer_files import NAMES, find_tokenizer
from clip_models.graphs.exporters import export_model


def export(options: argparse.Namespace) -> None:
    """Write both towers as graphs; print the files."""
    stored = read_stored(
        options.source, model=options.model, key=options.key, prefix=options.prefix
    )
    model = build_with_weights(stored.config, stored.state, source=stored.weights)
    found = find_tokenizer(options.source)
    is_repository = hub.parse_repository(options.source) is not None
    place = stored.weights.parent if is_repository or found is None else Path(found)
    files = [] if found is None else [place / name for name in NAMES]
    written = export_model(
        options.out,
        model,
        stored.preprocess,
        to=options.to,
        files=[file for file in files if file.is_file()],
        check=options.check,
        overwrite=options.overwrite,
    )
    names = [str(path) for path in written]
    print(json.dumps({"files": names}) if options.json else "\n".join(names))
