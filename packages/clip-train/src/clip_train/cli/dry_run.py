"""The summary of `clip-train run --dry-run`: what a careful person would ask before a long run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from clip_eval.data import DEFAULT_TEMPLATES, BadSample, Sample, Source
from clip_models import NativeImages
from clip_tokenizer import Tokenizer
from osf_supernet import count_parameters
from torch import Tensor

from clip_train.config.run import Config
from clip_train.data.batches import Batch
from clip_train.data.captions import digest_image
from clip_train.data.sources import list_parts
from clip_train.data.streaming import ShardStream
from clip_train.data.validation import ValidationSet
from clip_train.distributed.single import SingleBackend
from clip_train.engine.components import RunComponents
from clip_train.engine.data_components import DataComponents
from clip_train.engine.first_batch import count_cut, count_repeats, describe_repeats
from clip_train.model.loading import DEFAULT_MODEL
from clip_train.objectives.repeats import least_loss
from clip_train.optim.learning_rate import resolve_steps
from clip_train.optim.schedule import check_schedule, describe_schedule
from clip_train.plan.sample_plan import describe_tokens
from clip_train.plan.token_batches import TokenBatches

STRETCH, SPREAD = 100, 100  # samples that are looked at: the first ones, and evenly spaced ones
NAMES_SHOWN = 4

Line = tuple[str, str]  # a label, empty for more of the line above, and a text


def summarize_run(components: RunComponents, batch: Batch, out: str | None) -> Iterator[Line]:
    """What a run would do, line by line.

    Args:
        components: Everything that the run would work with.
        batch: Its first batch.
        out: The run directory that was named, if one was.
    """
    data = components.data
    config = data.config
    for part in list_parts(data.source):
        yield "data", part.describe()
        yield from _describe_samples(part, data.tokenizer)
    for one in data.val_sets:
        yield "val", f"{one.name}: {one.task}, {one.source.describe()}"
        yield from _describe_samples(one.source, data.tokenizer, filled=one.task != "retrieval")
        yield from _describe_prompts(one, data.tokenizer)
    name = config.model.name or config.model.pretrained or DEFAULT_MODEL
    count, device = count_parameters(components.model), components.backend.device
    yield "model", f"{name}: {count:,} parameters, on {device}"
    yield "length", f"{data.total_steps:,} steps, {data.plan.steps_per_epoch:,} per epoch"
    yield "schedule", describe_schedule(data.optim, data.total_steps, config.train.batch_size)
    for text in check_schedule(data.optim, data.total_steps, config.train.batch_size):
        yield "", f"warning: {text}"
    images = batch.images
    pixels: Tensor = images.patches if isinstance(images, NativeImages) else images
    yield "batch", f"images {tuple(pixels.shape)}, captions {tuple(batch.tokens.shape)}"
    if isinstance(data.plan.schedule, TokenBatches):
        yield "tokens", describe_tokens(data.plan, components.backend.world_size)
    yield from _describe_batch(batch, data)
    yield from _describe_rhythm(config, data)
    yield "out", _describe_out(out)


def _describe_out(out: str | None) -> str:
    if out is None:
        return "nothing was written; a run needs --out DIR"
    return f"nothing was written; without --dry-run the run is written to {out}"


@dataclass
class _Looked:
    """What some samples of a source are like."""

    samples: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    images: set[bytes] = field(default_factory=set)
    captions: list[str] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)
    targets: list[int] = field(default_factory=list)  # classes of each image with several
    captioned: int = 0

    def add(self, sample: Sample) -> None:
        """Take one sample in."""
        self.samples += 1
        self.images.add(digest_image(sample.image))
        self.captions += sample.captions
        self.captioned += bool(sample.captions)
        if sample.label is not None:
            self.labels[sample.label] += 1
        if sample.targets is not None:
            self.targets.append(len(sample.targets))
            self.labels.update(sample.targets)


def _look(source: Source) -> _Looked:
    """The first samples, among which repeats are, and some that are evenly spaced."""
    length, found = len(source), _Looked()
    spread = [number * (length - 1) // (SPREAD - 1) for number in range(SPREAD)]
    for index in sorted({*range(min(STRETCH, length)), *spread}) if length else ():
        try:
            found.add(source.read(index))
        except BadSample as error:
            found.faults[error.reason] += 1
    return found


def _describe_samples(
    source: Source, tokenizer: Tokenizer, *, filled: bool = False
) -> Iterator[Line]:
    """Faults, labels, captions and repeats; `filled` where captions are but prompts."""
    if isinstance(source, ShardStream):
        yield "", "read in the order of its shards; see the batch below"
        return
    found = _look(source)
    looked = f"of {found.samples:,} samples looked at"
    for reason, number in found.faults.items():
        yield "", f"warning: {number:,} beside {looked} cannot be used: {reason}"
    yield from _describe_labels(source, found)
    if filled:
        return
    if found.captions:
        yield "", f"captions {looked}: {_describe_lengths(found.captions, tokenizer)}"
        yield "", f"the first: {found.captions[0]!r}"
    without = found.samples - found.captioned
    if found.captioned and without:
        yield "", f"warning: {without:,} {looked} have no caption"
    images, captions = found.samples - len(found.images), _count_repeats(found.captions)
    if images or captions:
        yield "", f"repeats {looked}: {images:,} images, {captions:,} captions"


def _count_repeats(items: Sequence[str]) -> int:
    return len(items) - len(set(items))


def _describe_labels(source: Source, found: _Looked) -> Iterator[Line]:
    """Labels against names; labels that lie in memory are all looked at."""
    names, labels = source.classnames or (), found.labels
    known = getattr(source, "labels", ())
    looked = f"{found.samples:,} samples looked at"
    if len(known) == len(source) > 0:
        labels, looked = Counter(int(label) for label in known if label is not None), "all samples"
    if found.targets:
        least, most = min(found.targets), max(found.targets)
        mean = np.mean(found.targets)
        yield "", f"classes of an image: {mean:.1f} on average, {least} to {most} of {len(names)}"
    if labels:
        outside = sum(n for label, n in labels.items() if not 0 <= label < len(names))
        seen = sum(0 <= label < len(names) for label in labels)
        text = f"labels {min(labels)} to {max(labels)} in {looked}: {seen} of {len(names)} names"
        yield "", text if not outside else f"warning: {text}, {outside:,} labels have no name"
    if names:
        shown = [f"{label} {name}" for label, name in enumerate(names)]
        middle = [*shown[:NAMES_SHOWN], "…", shown[-1]] if len(names) > NAMES_SHOWN + 1 else shown
        yield "", f"names: {', '.join(middle)}"


def _describe_lengths(texts: Sequence[str], tokenizer: Tokenizer) -> str:
    lengths = np.asarray(tokenizer.lengths(list(texts)))
    cut = int((lengths > tokenizer.context_length).sum())
    text = f"{lengths.min()} to {lengths.max()} tokens, median {np.median(lengths):g}, "
    text += f"context {tokenizer.context_length}"
    return f"{text}; {cut:,} of {len(lengths):,} are cut" if cut else f"{text}; none is cut"


def _describe_prompts(one: ValidationSet, tokenizer: Tokenizer) -> Iterator[Line]:
    names = one.source.classnames
    if one.task == "retrieval" or not names:
        return
    templates = one.templates or DEFAULT_TEMPLATES
    prompts = [template.replace("{c}", name) for template in templates for name in names[:50]]
    number = f"{len(templates)} template{'' if len(templates) == 1 else 's'}"
    origin = one.templates_from
    yield (
        "",
        f"{number} ({origin}), such as {prompts[0]!r}: {_describe_lengths(prompts, tokenizer)}",
    )


def _describe_batch(batch: Batch, data: DataComponents) -> Iterator[Line]:
    alone = SingleBackend(torch.device("cpu"))
    loss, counts = data.config.loss, count_repeats(batch, alone)
    floor, repeats = least_loss(loss, counts), describe_repeats(counts)
    is_contrasted = repeats and loss.kind in ("infonce", "sigmoid")
    verdict = f", which loss.kind {loss.kind!r} takes for negatives" if is_contrasted else ""
    yield "", f"{'warning: ' if is_contrasted else ''}{repeats or 'no repeats'}{verdict}"
    cut = count_cut(batch, data, alone)
    if cut:
        length, how = data.tokenizer.context_length, data.config.tokenizer.reduction
        yield "", f"{cut:,} of {counts.num_pairs:,} captions are cut to {length} tokens ({how})"
    if floor:
        yield "", f"least possible loss of this batch: {floor:.4f}"


def _describe_rhythm(config: Config, data: DataComponents) -> Iterator[Line]:
    size = config.train.batch_size
    every = {
        name: resolve_steps(section.every_steps or 0, section.every_samples, size)
        for name, section in (("eval", config.eval), ("checkpoint", config.checkpoint))
    }
    if data.val_sets:
        often = f"every {every['eval']:,} steps and at the end" if every["eval"] else "at the end"
        watched = data.watched
        best = f"; best by {watched.metric} on {watched.set_name}" if watched else ""
        patience = config.eval.patience
        patient = f", ends after {patience} evaluations that are not better" if patience else ""
        yield "evaluation", f"{often}{best}{patient}"
    steps = every["checkpoint"]
    yield "saves", f"every {steps:,} steps" if steps else "at the end, and at an interruption"
