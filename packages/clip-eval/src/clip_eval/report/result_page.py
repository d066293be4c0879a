"""A result as one HTML page that carries its pictures and styles inside itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from clip_eval.data.samples import Source
from clip_eval.metrics.functions import calibration
from clip_eval.report.charts import reliability_chart
from clip_eval.report.confusion_table import render_confusions
from clip_eval.report.sample_pictures import (
    Picture,
    choose_predictions,
    data_address,
    load_pictures,
    surest_mistakes,
)
from clip_eval.report.table import metric_name, percent, shown_prompts
from clip_eval.results.result import ClassScore, Result

CURVES_FILE = "curves.png"
MANY_CLASSES = 60
SHOWN_CLASSES = 30
SHOWN_SKIPPED = 50
LONG_NAME = 28
TITLES = {
    "zeroshot_classification": "zero-shot classification",
    "zeroshot_multilabel": "zero-shot classification, several classes an image",
    "zeroshot_retrieval": "zero-shot retrieval",
    "linear_probe": "linear probe",
    "knn": "nearest neighbours",
    "image_caption_selection": "choice of the caption",
}
METHODS = {
    "zeroshot_classification": "Each class is the mean of its prompts' normalised embeddings; an "
    "image is given the class of highest cosine similarity. Probabilities are a softmax over the "
    "classes at the model's own scale.",
    "zeroshot_multilabel": "Images are ranked for each class by cosine similarity to the mean of "
    "its prompts' normalised embeddings; the number is the mean of the classes' average precision.",
    "zeroshot_retrieval": "Captions look for their image and images for any of their captions, by "
    "cosine similarity; a hit is a right one among the first k. Ties count against the model.",
    "linear_probe": "A multinomial logistic regression on frozen, normalised image features of the "
    "training set, its penalty chosen on a held-out part of it.",
    "knn": "The nearest training images by cosine similarity vote, weighted by "
    "exp(similarity / 0.07).",
    "image_caption_selection": "A group is right if each of its images is nearer to its own "
    "caption than to the others (right caption), and each caption to its own image (right image).",
}


def render_report(
    result: Result,
    source: Source,
    *,
    run_directory: Path | None = None,
    samples: int = 24,
    seed: int = 0,
) -> str:
    """The page as text.

    Args:
        result: With its predictions kept.
        source: Where the sample images are read from.
        run_directory: Training curves are taken from its ``curves.png``, if there.
        samples: How many images to show.
        seed: Which ones.
    """
    parts = result_sections(result, source, run_directory=run_directory, samples=samples, seed=seed)
    return page(f"{result.model} on {result.dataset}", parts)


def result_sections(
    result: Result,
    source: Source | None,
    *,
    run_directory: Path | None = None,
    samples: int = 24,
    seed: int = 0,
) -> list[str]:
    """The parts of a result's page; without a source there are no pictures of its samples."""
    chosen = choose_predictions(result.predictions or (), samples, seed)
    surest = surest_mistakes(result.predictions or (), samples // 2)
    parts = [
        _headline(result),
        _tiles(result),
        _notes(result),
        _worst(result, load_pictures(source, surest) if source else []),
        _samples(result, load_pictures(source, chosen) if source else [], seed),
        _curves(run_directory),
        _classes(result),
        render_confusions(result),
        _reliability(result),
        _method(result),
        _skipped(result),
    ]
    return [part for part in parts if part]


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML page around its parts."""
    style = files("clip_eval.report").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(part for part in parts if part)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _headline(result: Result) -> str:
    metric = result.main_metric
    accuracy, interval = result.metrics.get(metric), result.ci95.get(metric)
    label, marks = "", []
    if result.chance is not None:
        marks = [_mark("tick", result.chance, f"chance {percent(result.chance)}", "over")]
    if accuracy is not None and interval is not None:
        low, high = interval
        label = f"95 % interval {percent(low)} – {percent(high)}"
        marks.insert(0, f'<div class="fill" style="width:{100 * accuracy:.2f}%"></div>')
        marks.append(
            f'<div class="band" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%" '
            f'title="{label}"></div>'
        )
    ends = (
        '<span class="label under" style="left:0">0 %</span>'
        '<span class="label under" style="right:0">100 %</span>'
    )
    return f"""<h1>{escape(result.model)}</h1>
<p class="soft">{escape(TITLES.get(result.task, result.task))}: <b>{escape(result.dataset)}</b></p>
<div class="card headline">
<div class="big">{percent(accuracy)}<small>{escape(metric_name(metric))} · {result.n:,} images · \
{label}</small></div>
<div class="scale" role="img" aria-label="{escape(metric_name(metric))} \
{percent(accuracy)}, {label}, chance \
{percent(result.chance)}"><div class="track"></div>{"".join(marks)}{ends}</div>
</div>"""


def _mark(kind: str, share: float, text: str, side: str) -> str:
    place = f"left:{100 * share:.2f}%" if share < 0.7 else f"right:{100 * (1 - share):.2f}%"
    return (
        f'<div class="{kind}" style="left:{100 * share:.2f}%"></div>'
        f'<span class="label {side}" style="{place}">{escape(text)}</span>'
    )


def _tiles(result: Result) -> str:
    speed = f"{result.n / result.seconds:,.0f}" if result.seconds else "–"
    tiles = [
        (f"{result.n:,}", "images used"),
        (f"{result.n_skipped:,}", "skipped"),
        (speed, "images/s"),
    ]
    if result.n_classes:
        tiles.insert(2, (f"{result.n_classes:,}", "classes"))
    tiles += [
        (percent(value), metric_name(name))
        for name, value in result.metrics.items()
        if name != result.main_metric
    ]
    cells = "".join(
        f'<div class="tile"><b>{v}</b><span>{escape(name)}</span></div>' for v, name in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _notes(result: Result) -> str:
    lines = [f"Damaged data: {fault}" for fault in result.faults]
    lines += [f"{warning[:1].upper()}{warning[1:]}" for warning in result.warnings]
    if not lines:
        return ""
    return f'<div class="note">{"".join(f"<p>{escape(line)}</p>" for line in lines)}</div>'


def _samples(result: Result, pictures: Sequence[Picture], seed: int) -> str:
    if not pictures or not result.classnames:
        return ""
    wrong = [p for p in pictures if not p.prediction.correct]
    right = [p for p in pictures if p.prediction.correct]
    n_right = sum(p.correct for p in result.predictions or ())
    parts = ["<h2>Images and their best captions</h2>"]
    wide = " wide" if max(map(len, result.classnames)) > LONG_NAME else ""
    for name, group, total in (("Wrong", wrong, result.n - n_right), ("Right", right, n_right)):
        if group:
            parts.append(f"<h3>{name}: {len(group)} of {total:,}, drawn with seed {seed}</h3>")
            cards = "".join(_sample(result, picture) for picture in group)
            parts.append(f'<div class="samples{wide}">{cards}</div>')
    return "\n".join(parts)


def _worst(result: Result, pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    cards = "".join(_sample(result, picture) for picture in pictures)
    wide = " wide" if max(map(len, result.classnames)) > LONG_NAME else ""
    return (
        "<h2>Surest mistakes</h2>\n"
        f'<p class="soft">wrong, and most certain of it</p><div class="samples{wide}">{cards}</div>'
    )


def _reliability(result: Result) -> str:
    said = [p for p in result.predictions or () if p.guesses]
    if not said or result.n_classes < 2:
        return ""
    bins, error = calibration([p.probabilities[0] for p in said], [p.correct for p in said])
    return (
        '<h2>Are its probabilities right?</h2>\n<div class="card">'
        f"{reliability_chart(bins)}"
        f'<p class="soft">expected calibration error {percent(error)}; bars above the diagonal: '
        "more often right than it says; below: less often; faint: few images</p></div>"
    )


def _sample(result: Result, picture: Picture) -> str:
    prediction = picture.prediction
    truth = result.classnames[prediction.label]
    guesses = "".join(
        guess_bar(result.classnames[guess], share, guess == prediction.label)
        for guess, share in zip(prediction.guesses, prediction.probabilities, strict=True)
    )
    kind = "right" if prediction.correct else "wrong"
    small = ' class="small"' if picture.small else ""
    return (
        f'<div class="card sample {kind}"><img{small} src="{picture.address}" '
        f'alt="{escape(truth)}" title="{escape(prediction.key)}"><div>'
        f'<div class="truth"><span>{"✓" if prediction.correct else "✗"}</span> '
        f"{escape(truth)}</div>{guesses}</div></div>"
    )


def guess_bar(name: str, share: float, hit: bool) -> str:
    """One label with its probability as a bar, set off if it is a hit."""
    return (
        f'<div class="guess{" hit" if hit else ""}"><span class="name" title="{escape(name)}">'
        f'{escape(name)}</span><span class="share">{percent(share)}</span>'
        f'<span class="bar"><i style="width:{100 * share:.1f}%"></i></span></div>'
    )


def _curves(run_directory: Path | None) -> str:
    """The run's own picture of its training; a checkpoint's run lies two folders above it."""
    if run_directory is None:
        return ""
    resolved = run_directory.resolve()
    places = [resolved, *(resolved.parents[1:2] if resolved.parent.name == "checkpoints" else ())]
    found = [place / CURVES_FILE for place in places if (place / CURVES_FILE).is_file()]
    if not found:
        return ""
    address = data_address("image/png", found[0].read_bytes())
    return (
        "<h2>Training</h2>\n"
        f'<div class="curves"><img src="{address}" alt="training curves of the run"></div>'
    )


def _classes(result: Result) -> str:
    if not result.per_class:
        return ""
    scores = sorted(result.per_class, key=lambda s: (s.accuracy is None, s.accuracy or 0.0, s.name))
    shown = scores if len(scores) <= MANY_CLASSES else scores[:SHOWN_CLASSES]
    order = "lowest first"
    rest = ""
    if len(shown) < len(scores):
        order = f"the {len(shown)} lowest of {len(scores):,}"
        rest = (
            f"<details><summary>the other {len(scores) - len(shown):,}</summary>"
            f'<div class="rows">{"".join(map(_class_row, scores[len(shown) :]))}</div></details>'
        )
    return (
        f'<h2>Accuracy by class</h2>\n<div class="card"><p class="soft">{order}</p>'
        f'<div class="rows">{"".join(map(_class_row, shown))}</div>{rest}</div>'
    )


def _class_row(score: ClassScore) -> str:
    width = 100 * (score.accuracy or 0.0)
    amount = f"{percent(score.accuracy, 0)} of {score.n:,}" if score.n else "no images"
    return (
        f'<div class="row"><span class="name" title="{escape(score.name)}">{escape(score.name)}'
        f'</span><span class="bar"><i style="width:{width:.1f}%"></i></span>'
        f'<span class="n">{amount}</span></div>'
    )


def _method(result: Result) -> str:
    settings = [(str(key), str(value)) for key, value in result.settings.items() if value]
    rows = "".join(
        f"<tr><td>{escape(key.replace('_', ' '))}</td><td><code>{escape(value)}</code></td></tr>"
        for key, value in settings
    )
    templates = shown_prompts(result.templates)
    prompts = "".join(f"<p><code>{escape(t)}</code></p>" for t in templates[:20])
    if prompts:
        prompts = f"<h3>Templates</h3>{prompts}"
    more = len(templates) - 20
    prompts += f'<p class="soft">and {more} more</p>' if more > 0 else ""
    return f"""<h2>How it was measured</h2>
<div class="columns">
<div class="card"><p>{METHODS.get(result.task, "")} The interval speaks of these {result.n:,}
images; it does not speak of other data or other trainings.</p>{prompts}</div>
<div class="card"><table>{rows}</table></div>
</div>"""


def _skipped(result: Result) -> str:
    if not result.skipped:
        return ""
    rows = "".join(
        f"<tr><td>{escape(s.key)}</td><td>{escape(s.reason)}</td><td>{escape(s.detail)}</td></tr>"
        for s in result.skipped[:SHOWN_SKIPPED]
    )
    more = len(result.skipped) - SHOWN_SKIPPED
    note = f'<p class="soft">and {more:,} more, in result.json</p>' if more > 0 else ""
    return (
        f'<h2>Skipped: {result.n_skipped:,}</h2>\n<div class="card"><table>'
        f"<tr><th>image</th><th>reason</th><th>found</th></tr>{rows}</table>{note}</div>"
    )
