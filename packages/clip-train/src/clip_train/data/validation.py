"""The validation sets of a run: their sources, names, tasks and templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from clip_eval import PromptSet, choose_prompts
from clip_eval.data import DEFAULT_TEMPLATES, BadSample, Sample, Source
from clip_models import ConfigError

from clip_train.config.data import DataConfig
from clip_train.config.run import Config
from clip_train.data.sources import list_parts, open_named, resolve_templates

SAMPLES_TO_TRY = 100
LOSS = "loss"
_RECALLS = [f"{side}_retrieval_recall@{k}" for side in ("image", "text") for k in (1, 5, 10)]
METRICS = {
    "classify": ("acc1", "acc5", "mean_per_class_recall"),
    "multilabel": ("mean_average_precision", "mean_average_precision_all"),
    "retrieval": (LOSS, *_RECALLS),
}
"""What each task measures."""


@dataclass(frozen=True, kw_only=True)
class ValidationSet:
    """Data that a run is evaluated on.

    Attributes:
        name: Its name in metrics and curves.
        source: The samples.
        task: `classify`, `multilabel` or `retrieval`.
        prompt_set: Its prompt set, if it is a standard data set.
        templates: Templates of its prompts; None for the default, or a task without prompts.
        templates_from: Where those are from.
    """

    name: str
    source: Source
    task: str
    prompt_set: PromptSet | None = None
    templates: tuple[str, ...] | None = None
    templates_from: str = ""


class WatchedMetric(NamedTuple):
    """The metric that says which model is the best."""

    set_name: str
    metric: str

    @property
    def falls(self) -> bool:
        """Whether lower is better."""
        return self.metric == LOSS


def open_validation_sets(config: Config, held: Source | None = None) -> tuple[ValidationSet, ...]:
    """The sets that `data.val` names, each with its task; their templates are not chosen yet.

    Args:
        config: The run's.
        held: The samples of `data.holdout`, which are the only set if there are any.

    Raises:
        ConfigError: A set lacks what its task needs, or the keys do not fit together.
        DataError: The data cannot be used.
    """
    specs, settings = config.data.val_specs, config.eval
    if held is not None:
        (kind, *_), (name, *_) = settings.kinds, (*settings.names, held.name)
        task = _task_of(held, kind, "data.holdout")
        return (ValidationSet(name=name, source=held, task=task),)
    kinds = settings.kinds if len(settings.kinds) > 1 else settings.kinds * len(specs)
    classnames = settings.classnames or (config.data.classnames,) * len(specs)
    for key, given in (("kind", kinds), ("names", settings.names), ("classnames", classnames)):
        if given and len(given) != len(specs):
            raise ConfigError(
                f"eval.{key} has {len(given)} entries for the {len(specs)} sets of data.val; give "
                "one for each"
            )
    found: list[ValidationSet] = []
    for number, spec in enumerate(specs):
        source, prompt_set = open_named(
            *(config.data, spec),
            split=config.data.val_split,
            default_split="test",
            classnames=classnames[number],
        )
        name = settings.names[number] if settings.names else source.name
        taken = {one.name for one in found}
        name = next(x for x in (name, *(f"{name}~{n}" for n in range(2, 999))) if x not in taken)
        task = _task_of(source, kinds[number], spec)
        found.append(ValidationSet(name=name, source=source, task=task, prompt_set=prompt_set))
    return tuple(found)


def saved_templates(
    config: Config, training: Source, sets: Sequence[ValidationSet]
) -> tuple[str, ...]:
    """The templates that are saved with the model, for this evaluation and for later ones.

    Those of the config; else those beside the only validation set; else those of the training data,
    where they are not merely the default in place of a prompt set's.
    """
    given = resolve_templates(config.data)
    if given is not None or config.data.templates:  # else those of a file of several data sets
        return given or training.templates or ()
    if len(sets) == 1 and sets[0].source.templates:
        return sets[0].source.templates
    is_default = training.templates == DEFAULT_TEMPLATES
    if training.templates is None or (is_default and any(one.prompt_set for one in sets)):
        return ()
    return training.templates


def choose_set_templates(
    one: ValidationSet, saved: tuple[str, ...], data: DataConfig
) -> ValidationSet:
    """The set with the templates that `clip-eval run` would take for it.

    Raises:
        DataError: `data.templates` is a file of several data sets, and none is named like this one.
    """
    if one.task == "retrieval":
        return one
    own = resolve_templates(data, one.source, one.prompt_set) or saved or None
    templates, origin = choose_prompts(one.source, one.prompt_set, saved=own)
    chosen = None if templates is None else tuple(templates)
    return replace(one, templates=chosen, templates_from=origin)


def is_zero_shot(one: ValidationSet, training: Source) -> bool:
    """Whether a set is classified by class names of which the training data has none.

    What captions say, and what a model saw before the run, is not known.
    """
    names = {name.casefold() for part in list_parts(training) for name in part.classnames or ()}
    return one.task == "classify" and names.isdisjoint(
        name.casefold() for name in one.source.classnames or ()
    )


def resolve_metric(metric: str, sets: Sequence[ValidationSet]) -> WatchedMetric | None:
    """The metric that `eval.metric` names; None for none.

    Raises:
        ConfigError: No set has it, or several have.
    """
    if not metric:
        return None
    known = [WatchedMetric(one.name, name) for one in sets for name in METRICS[one.task]]
    exact = [one for one in known if f"{one.set_name}/{one.metric}" == metric]
    found = exact or [one for one in known if one.metric == metric]
    if len(found) == 1:
        return found[0]
    several = len(sets) > 1
    choices = [f"{one.set_name}/{one.metric}" if several else one.metric for one in known]
    expected = f"expected one of {', '.join(choices)}" if choices else "data.val names no set"
    problem = "is measured on several sets" if found else "is not measured"
    raise ConfigError(f"eval.metric {metric!r} {problem}; {expected}")


def _task_of(source: Source, kind: str, spec: str) -> str:
    sample = _first_sample(source)
    if kind == "auto":
        kind = _recognize_task(source, sample, spec)
    if kind == "retrieval":
        _check_captions(source, sample, spec)
    elif not source.classnames:
        raise ConfigError(
            f"data.val {spec!r} has no class names; "
            "give an image folder, or shards with classnames.txt and labels"
        )
    elif kind == "classify" and sample is not None and sample.label is None:
        raise ConfigError(
            f"data.val: {sample.key} of {source.name} has no label; classification needs "
            "class folders or .cls files, and --eval.kind retrieval captions"
        )
    return kind


def _recognize_task(source: Source, sample: Sample | None, spec: str) -> str:
    if sample is not None and sample.targets is not None:
        return "multilabel"
    if source.classnames:
        return "classify"
    if sample is not None and sample.label is not None:
        raise ConfigError(
            f"data.val {spec!r} has labels and no class names; give eval.classnames or "
            "data.classnames"
        )
    if sample is not None and sample.captions:
        return "retrieval"
    raise ConfigError(
        f"data.val {spec!r} has no class names and no captions; give an image folder, shards with "
        "classnames.txt and labels, or image–caption pairs"
    )


def _first_sample(source: Source) -> Sample | None:
    """The first sample that can be read, of the first ones."""
    for index in range(min(SAMPLES_TO_TRY, len(source))):
        try:
            return source.read(index)
        except BadSample:
            continue  # counted by the evaluation
    return None


def _check_captions(source: Source, sample: Sample | None, spec: str) -> None:
    if sample is None:
        return
    made = source.class_captions(sample.label, sample.key) if source.classnames else ()
    if not sample.captions or sample.captions == made:
        raise ConfigError(
            f"data.val {spec!r}: {sample.key} has no caption, which eval.kind 'retrieval' needs; "
            "--eval.kind classify evaluates labels"
        )
