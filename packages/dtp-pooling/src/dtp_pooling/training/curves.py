"""Plots of the metrics of runs (extra `plot`)."""

from __future__ import annotations

from pathlib import Path

from dtp_pooling.training.run_directory import read_metrics


def plot_curves(folders: list[Path], path: Path) -> None:
    """Bits per character and shortening over the steps of some runs, as an image file.

    Args:
        folders: Runs with `metrics.jsonl`.
        path: Image to write; its suffix decides the format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    bits, shortening = figure.subplots(1, 2)
    for folder in folders:
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
    figure.savefig(path)
