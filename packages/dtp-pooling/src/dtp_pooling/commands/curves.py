"""`dtp-lm curves`."""

from __future__ import annotations

import argparse

from dtp_pooling.training.curves import plot_curves


def curves(options: argparse.Namespace) -> None:
    """Draw the metrics of runs."""
    if options.out.exists() and not options.overwrite:
        raise FileExistsError(f"{options.out} already exists; pass --overwrite to replace it")
    plot_curves(options.runs, options.out)
