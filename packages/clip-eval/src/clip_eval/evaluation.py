"""Zero-shot classification of a labelled source, counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clip_eval.class_names import ClassList
from clip_eval.classification import Guesses, classify, evaluation_mode
from clip_eval.classifier import ImagePreprocess, ImageTextModel, TextTokenizer, build_classifier
from clip_eval.faults import EvaluationError
from clip_eval.loading import ImageBatch
from clip_eval.metrics import (
    mean_per_class_recall,
    top_confusions,
    topk_accuracy,
    wilson_interval,
)
from clip_eval.prompts import DEFAULT_TEMPLATES, check_templates
from clip_eval.results import ClassScore, Confusion, Prediction, Result, Skipped
from clip_eval.samples import Source, source_faults, source_warnings

MAX_GUESSES = 5


def evaluate(
    model: ImageTextModel,
    source: Source,
    *,
    tokenizer: TextTokenizer,
    preprocess: ImagePreprocess,
    templates: Sequence[str] | None = None,
    classnames: Sequence[str] | None = None,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    workers: int = 0,
    indices: Sequence[int] | None = None,
    keep_predictions: bool = False,
    progress: bool = False,
    model_name: str = "",
) -> Result:
    """Accuracy of prompted classification, with counts, interval and what was skipped.

    Leaves the model in the mode it was in (module by module) and the global random state
    untouched, so that it can be called in the middle of a training.

    Args:
        model: Two towers and a logit scale; on ``device``.
        source: Labelled samples.
        tokenizer: Texts → token ids.
        preprocess: RGB image → uint8 pixels, and their normalisation.
        templates: Caption templates with ``{c}``; those of the source if None, else
            ``a photo of a {c}.`` with a warning in the result.
        classnames: Names in label order, if not those of the source.
        batch_size: Images, and prompts, per forward.
        device: Where the forward runs.
        workers: Processes that decode.
        indices: Which samples of the source; all if None.
        keep_predictions: Keep every sample's guesses in the result.
        progress: Show a progress bar.
        model_name: Name for the result.

    Raises:
        EvaluationError: No labels, or labels that no class name stands for.
        DataError: Bad templates or class names.
    """
    started = time.perf_counter()
    names = _class_names(source, classnames)
    warnings = list(source_warnings(source))
    if templates is None:
        templates = source.templates
    if templates is None:
        templates = DEFAULT_TEMPLATES
        warnings.append(f"no templates given or saved: {DEFAULT_TEMPLATES[0]!r} is used")
    templates = check_templates(templates)
    tally = _Tally(names)
    with evaluation_mode(model):
        classifier = build_classifier(
            model, tokenizer, names, templates, batch_size=batch_size, device=device
        )
        for batch, guesses in classify(
            model,
            source,
            classifier,
            preprocess=preprocess,
            limit=MAX_GUESSES,
            batch_size=batch_size,
            device=device,
            workers=workers,
            indices=indices,
            progress=progress,
        ):
            tally.add(batch, guesses)
    return tally.result(
        dataset=source.name,
        model=model_name,
        templates=templates,
        faults=tuple(map(str, source_faults(source))),
        warnings=tuple(warnings),
        seconds=time.perf_counter() - started,
        keep_predictions=keep_predictions,
    )


@dataclass
class _Tally:
    """Counts as batches come in."""

    names: tuple[str, ...]
    predictions: list[Prediction] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def add(self, batch: ImageBatch, guesses: Guesses | None) -> None:
        self.skipped += batch.skipped
        if guesses is None:
            return
        for row, (index, key, label) in enumerate(
            zip(batch.indices, batch.keys, batch.labels, strict=True)
        ):
            classes, probabilities = guesses.row(row)
            self.predictions.append(
                Prediction(
                    index=index,
                    key=key,
                    label=self._checked(key, label),
                    guesses=classes,
                    probabilities=probabilities,
                )
            )

    def _checked(self, key: str, label: int | None) -> int:
        if label is None:
            raise EvaluationError(
                f"{key} has no label; classification needs class folders or .cls files"
            )
        if not 0 <= label < len(self.names):
            raise EvaluationError(
                f"{key} has label {label}, but there are {len(self.names)} class names "
                f"(labels 0 to {len(self.names) - 1}); check the class list"
            )
        return label

    def result(
        self,
        *,
        dataset: str,
        model: str,
        templates: tuple[str, ...],
        faults: tuple[str, ...],
        warnings: tuple[str, ...],
        seconds: float,
        keep_predictions: bool,
    ) -> Result:
        n, width = len(self.predictions), min(MAX_GUESSES, len(self.names))
        labels = torch.tensor([p.label for p in self.predictions], dtype=torch.long)
        guesses = torch.tensor(
            [p.guesses or (-1,) * width for p in self.predictions], dtype=torch.long
        ).reshape(n, width)
        counts = torch.bincount(labels, minlength=len(self.names))
        right = torch.bincount(labels[guesses[:, 0] == labels], minlength=len(self.names))
        metrics = {f"acc{k}": topk_accuracy(guesses, labels, k) for k in (1, 5)}
        return Result(
            dataset=dataset,
            model=model,
            metrics={**metrics, "mean_per_class_recall": mean_per_class_recall(right, counts)},
            n=n,
            n_skipped=len(self.skipped),
            skipped=tuple(self.skipped),
            ci95={
                name: None if value is None else wilson_interval(value * n, n)
                for name, value in metrics.items()
            },
            chance=1 / len(self.names),
            classnames=self.names,
            templates=templates,
            per_class=tuple(map(_score, self.names, counts.tolist(), right.tolist())),
            confusions=tuple(
                Confusion(label=self.names[label], predicted=self.names[guess], n=count)
                for label, guess, count in top_confusions(labels.tolist(), guesses[:, 0].tolist())
            ),
            faults=faults,
            warnings=(*warnings, *_diagnose(guesses, self.names)),
            seconds=seconds,
            predictions=tuple(self.predictions) if keep_predictions else None,
        )


def _score(name: str, n: int, correct: int) -> ClassScore:
    return ClassScore(name=name, n=n, correct=correct, accuracy=correct / n if n else None)


def _diagnose(guesses: Tensor, names: tuple[str, ...]) -> Iterator[str]:
    """What makes a number suspect, in words."""
    if len(guesses) == 0:
        yield "no sample could be used, so there is no number"
        return
    if len(names) == 1:
        yield "there is one class, so every answer is right"
    invalid = int((guesses[:, 0] < 0).sum())
    if invalid:
        yield f"{invalid} samples have embeddings that are not finite; they count as wrong"
    first = int(guesses[0, 0])
    if len(guesses) > 1 and len(names) > 1 and first >= 0 and bool((guesses[:, 0] == first).all()):
        yield f"every prediction is {names[first]!r}; the model does not tell the images apart"


def _class_names(source: Source, given: Sequence[str] | None) -> tuple[str, ...]:
    if given is None and source.classnames is None:
        raise EvaluationError(
            f"{source.name}: no class names; put classnames.txt beside the shards or give a list"
        )
    names = ClassList.of(given if given is not None else source.classnames or ()).names
    if given is not None and source.classnames and len(names) != len(source.classnames):
        raise EvaluationError(
            f"{source.name}: expected {len(source.classnames)} class names in label order, "
            f"got {len(names)}"
        )
    return names
