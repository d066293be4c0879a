"""The picture of a run: loss, learning rate, logit scale and accuracy over steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Rows = list[dict[str, Any]]


def draw_curves(train: Rows, evaluations: Rows, path: Path) -> None:
    """Write a PNG of four panels.

    Args:
        train: Rows with `step`, `loss`, `lr` and `logit_scale`.
        evaluations: Rows with `step`, `acc1` (a share) and `chance`; may be empty.
        path: The PNG file.
    """
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    panels = figure.subplots(2, 2)
    for axes, key, title in (
        (panels[0, 0], "loss", "contrastive loss (nats)"),
        (panels[1, 0], "lr", "learning rate"),
        (panels[1, 1], "logit_scale", "logit scale"),
    ):
        axes.plot([row["step"] for row in train], [row[key] for row in train], color="#2b6cb0")
        _dress(axes, title)
    _draw_accuracy(panels[0, 1], evaluations)
    figure.savefig(path, dpi=110)


def _draw_accuracy(axes: Axes, rows: Rows) -> None:
    rows = [row for row in rows if row["acc1"] is not None]  # None: no image could be used
    if rows:
        steps = [row["step"] for row in rows]
        accuracy = [100 * row["acc1"] for row in rows]
        axes.plot(steps, accuracy, "o-", color="#2f855a", markersize=4, label="zero-shot top-1")
        chance = 100 * rows[-1]["chance"]
        axes.axhline(chance, color="#718096", linestyle="--", label=f"chance ({chance:.2g} %)")
        axes.annotate(
            f"{accuracy[-1]:.1f} %",
            (steps[-1], accuracy[-1]),
            textcoords="offset points",
            xytext=(-4, -14),
            ha="right",
        )
        axes.set_ylim(0, 100)
        axes.legend(loc="lower right", frameon=False)
    else:
        axes.text(0.5, 0.5, "no evaluation", ha="center", va="center")
    _dress(axes, "accuracy (%)")


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
