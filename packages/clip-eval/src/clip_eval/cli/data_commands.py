"""Sub-commands of `clip-eval` that need data and no model."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from clip_eval.prompts.named_data import open_data
from clip_eval.report.inspection import format_inspection, inspect_source
from clip_eval.results.result import finite


def inspect_data(arguments: argparse.Namespace) -> None:
    """Read every sample of a data set, and print what was found."""
    source, _ = open_data(arguments.data, classnames=arguments.classnames, split=arguments.split)
    found = inspect_source(source, progress=not arguments.quiet)
    if arguments.json:
        print(json.dumps(finite(asdict(found)), ensure_ascii=False, allow_nan=False))
    else:
        print(format_inspection(found))
