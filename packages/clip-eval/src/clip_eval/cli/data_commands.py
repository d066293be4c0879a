"""Sub-commands of `clip-eval` that need data and no model."""

from __future__ import annotations

import argparse
import json

from clip_eval.cli.options import data_options
from clip_eval.data.inspect import summarize
from clip_eval.prompts.named_data import open_data
from clip_eval.results.files import refuse_existing
from clip_eval.results.result import replace_non_finite

MAX_PICTURES = 500


def inspect_data(arguments: argparse.Namespace) -> None:
    """Read samples of a data set, and print what was found."""
    if arguments.out is not None:
        refuse_existing(arguments.out, overwrite=arguments.overwrite)
    source, _ = open_data(
        arguments.data,
        classnames=arguments.classnames,
        split=arguments.split,
        **data_options(arguments),
    )
    summary = summarize(
        source,
        samples=arguments.samples,
        seed=arguments.seed,
        pictures=MAX_PICTURES if arguments.out else 0,
        progress=not arguments.quiet,
    )
    if arguments.out:
        summary.write_html(arguments.out)
    if arguments.json:
        print(
            json.dumps(replace_non_finite(summary.to_dict()), ensure_ascii=False, allow_nan=False)
        )
    else:
        print(summary.to_text())
