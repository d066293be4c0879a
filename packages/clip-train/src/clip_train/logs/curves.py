"""Training curves: loss, learning rate, logit scale, accuracy and learned ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Rows = list[dict[str, Any]]


def draw_curves(train: Rows, evaluations: Rows, path: Path) -> None:
    """Write a PNG of four panels, and two more for learned augmentation.

    Args:
        train: Rows with `step`, `loss`, `lr`, `logit_scale`, and `range/…` for RangeAugment.
        evaluations: Rows with `step`, and `acc1` and `chance` in [0, 1]; may be empty.
        path: The PNG file.
    """
    learned = bool(train) and "range/psnr" in train[-1]
    figure = Figure(figsize=(10, 9.6 if learned else 6.4), layout="constrained")
    panels = figure.subplots(3 if learned else 2, 2)
    for axes, key, title in (
        (panels[0, 0], "loss", "contrastive loss (nats)"),
        (panels[1, 0], "lr", "learning rate"),
        (panels[1, 1], "logit_scale", "logit scale"),
    ):
        axes.plot([row["step"] for row in train], [row[key] for row in train], color="#2b6cb0")
        _style(axes, title)
    _draw_accuracy(panels[0, 1], evaluations)
    if learned:
        _draw_ranges(panels[2, 0], train)
        _draw_psnr(panels[2, 1], train)
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
    _style(axes, "accuracy (%)")


def _draw_ranges(axes: Axes, rows: Rows) -> None:
    """Range of each operation as a band on a logarithmic axis."""
    steps = [row["step"] for row in rows]
    for name, color in (("brightness", "#b7791f"), ("contrast", "#2b6cb0"), ("noise", "#718096")):
        low, high = ([row[f"range/{name}.{end}"] for row in rows] for end in ("low", "high"))
        axes.fill_between(steps, low, high, color=color, alpha=0.3, label=name)
    axes.set_yscale("log")
    axes.legend(loc="lower right", frameon=False)
    _style(axes, "learned ranges of strength")


def _draw_psnr(axes: Axes, rows: Rows) -> None:
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row["range/psnr"] for row in rows], color="#2f855a", label="measured")
    target = [row["range/target_psnr"] for row in rows]
    axes.plot(steps, target, color="#718096", linestyle="--", label="target")
    axes.legend(loc="upper right", frameon=False)
    _style(axes, "PSNR of augmented images (dB)")


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
