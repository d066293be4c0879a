"""Training curves: loss, learning rate, logit scale, accuracy and learned ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clip_train.logs.metric_names import name_shares

Rows = list[dict[str, Any]]
COLORS = ("#2f855a", "#b7791f", "#6b46c1", "#c53030", "#2c7a7b", "#97266d")


def draw_curves(train: Rows, evaluations: Rows, path: Path) -> None:
    """Write a PNG of four panels, and two more for learned augmentation.

    Args:
        train: Rows with `step`, `loss`, `lr`, `logit_scale`, and `range/…` for RangeAugment.
        evaluations: Rows with `step`, and shares and `chance` in [0, 1], `loss`, and `data`, the
            name of the validation set; may be empty.
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
    _draw_validation_loss(panels[0, 0], evaluations)
    _draw_accuracy(panels[0, 1], evaluations)
    if learned:
        _draw_ranges(panels[2, 0], train)
        _draw_psnr(panels[2, 1], train)
    figure.savefig(path, dpi=110, format="png")


def _draw_accuracy(axes: Axes, rows: Rows) -> None:
    """A line for each validation set and share, and chance where there is one set."""
    names = list(dict.fromkeys(row.get("data", "") for row in rows))
    drawn = 0
    for name in names:
        last = next(row for row in reversed(rows) if row.get("data", "") == name)
        for metric, label in name_shares(last).items():
            points = _points(rows, name, metric)
            if not points:  # another task, or no image could be used
                continue
            steps, values = [step for step, _ in points], [100 * value for _, value in points]
            label = f"{name}: {label}" if len(names) > 1 else label
            axes.plot(steps, values, "o-", color=COLORS[drawn % 6], markersize=4, label=label)
            place: dict[str, Any] = {"textcoords": "offset points", "xytext": (-4, -14)}
            axes.annotate(f"{values[-1]:.1f} %", (steps[-1], values[-1]), ha="right", **place)
            drawn += 1
    if not drawn:
        axes.text(0.5, 0.5, "no evaluation", ha="center", va="center")
    else:
        chance = rows[-1].get("chance")
        if len(names) == 1 and chance is not None:
            label = f"chance ({100 * chance:.2g} %)"
            axes.axhline(100 * chance, color="#718096", linestyle="--", label=label)
        axes.set_ylim(0, 100)
        axes.legend(loc="lower right", frameon=False)
    _style(axes, "accuracy (%)")


def _draw_validation_loss(axes: Axes, rows: Rows) -> None:
    names = list(dict.fromkeys(row.get("data", "") for row in rows))
    drawn = {name: points for name in names if (points := _points(rows, name, "loss"))}
    for number, (name, points) in enumerate(drawn.items(), start=1):
        label = f"validation on {name}"
        axes.plot(*zip(*points, strict=True), "o-", color=COLORS[number], markersize=4, label=label)
    if drawn:
        axes.legend(loc="upper right", frameon=False)


def _points(rows: Rows, name: str, metric: str) -> list[tuple[int, float]]:
    """Step and value of a metric on one set, where there is a value."""
    own = [row for row in rows if row.get("data", "") == name]
    return [(row["step"], row[metric]) for row in own if row.get(metric) is not None]


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
