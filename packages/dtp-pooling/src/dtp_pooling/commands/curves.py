"""`dtp-lm curves` (extra `plot`)."""

from __future__ import annotations

import argparse
import io

from dtp_pooling.training.run_directory import read_metrics, replace_file


def curves(options: argparse.Namespace) -> None:
    """Draw bits per character and shortening over the steps of some runs, as an image file."""
    from matplotlib.figure import Figure

    if options.out.exists() and not options.overwrite:
        raise FileExistsError(f"{options.out} already exists; pass --overwrite to replace it")
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    bits, shortening = figure.subplots(1, 2)
    for folder in options.runs:
        records = read_metrics(folder)
        if not records:
            raise ValueError(f"{folder} holds no metrics; name the directory of a run")
        for kind, style in (("train", "-"), ("valid", "o--")):
            chosen = [record for record in records if record["kind"] == kind]
            steps = [record["step"] for record in chosen]
            label = f"{folder.name} {kind}"
            bits.plot(steps, [record["bits"] for record in chosen], style, label=label)
            shortening.plot(steps, [record["shortening"] for record in chosen], style)
    bits.set(xlabel="step", ylabel="bits per character")
    shortening.set(xlabel="step", ylabel="characters per segment")
    bits.legend()
    picture = io.BytesIO()
    file = options.out if options.out.suffix else options.out.with_suffix(".png")
    figure.savefig(picture, format=file.suffix[1:])
    replace_file(file, picture.getvalue())
