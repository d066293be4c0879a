"""What a subnet is trained for: a loss, outputs for other subnets to learn from, and a score.

A task is any callable `task(model, batch, teacher=None) -> TaskResult`; three are here.
B batch, C classes, E embedding, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from osf_supernet.trace.tracing import call_model, evaluation_mode
from osf_supernet.training.processes import gather_rows


class TaskResult(NamedTuple):
    """A scalar loss, and the outputs that other subnets may learn from."""

    loss: Tensor
    outputs: Any


class Task(Protocol):
    """Anything that turns a model and a batch into a loss."""

    def __call__(self, model: nn.Module, batch: Any, teacher: Any = None) -> TaskResult:
        """The loss; with a teacher's detached outputs also learning from them."""
        ...


def tempered_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean KL divergence of softened rows, times the squared temperature (Hinton et al. 2015)."""
    target = F.log_softmax(teacher / temperature, -1)
    given = F.log_softmax(student / temperature, -1)
    total = F.kl_div(given, target, reduction="sum", log_target=True)
    return total * temperature**2 * student.shape[-1] / student.numel()


@dataclass(frozen=True, kw_only=True)
class _Distillation:
    """Learning from data and from a teacher: the options, and the loss of both."""

    distill: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.distill <= 1:
            raise ValueError(
                f"distill must be in [0, 1], got {self.distill}; 0 learns from data alone"
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    def _soften(self, student: Tensor, teacher: Tensor) -> Tensor:
        return tempered_divergence(student, teacher, self.temperature)

    def _mix(self, hard: Tensor, soft: Tensor) -> Tensor:
        return (1 - self.distill) * hard + self.distill * soft


def _logits(output: Any) -> Tensor:
    """The tensor itself, or the `logits` of an output object."""
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


@dataclass(frozen=True, kw_only=True)
class Classification(_Distillation):
    """Cross-entropy on batches (inputs, labels (B,)); a teacher's logits weigh `distill`.

    Attributes:
        distill: share of the teacher in a student's loss.
        temperature: of the softmaxes that are compared.
        label_smoothing: of the labels.
    """

    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, batch: Any, teacher: Any = None) -> TaskResult:
        """The loss and the logits (B, C)."""
        inputs, labels = batch
        logits = _logits(call_model(model, inputs))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        if teacher is not None:
            loss = self._mix(loss, self._soften(logits, teacher))
        return TaskResult(loss, logits)

    def evaluate(self, model: nn.Module, batches: Iterable[Any]) -> float:
        """Top-1 accuracy over all batches, in percent."""
        right = total = 0
        with evaluation_mode(model), torch.no_grad():
            for inputs, labels in batches:
                right += int((_logits(call_model(model, inputs)).argmax(-1) == labels).sum())
                total += len(labels)
        return 100 * right / total


class ClipFeatures(NamedTuple):
    """Normalized features (B, E) of both towers and the factor of their products."""

    image: Tensor
    text: Tensor
    scale: Tensor


def clip_features(model: nn.Module, images: Tensor, tokens: Tensor) -> ClipFeatures:
    """From clip-models, open_clip or a `CLIPModel` of transformers, called as each wants it."""
    if "pixel_values" in inspect.signature(model.forward).parameters:
        output: Any = model(input_ids=tokens, pixel_values=images)
        scale = cast(Tensor, model.logit_scale).exp()
        image, text = output.image_embeds, output.text_embeds
    else:
        output = model(images, tokens)
        if isinstance(output, dict):
            image, text, scale = (
                output[k] for k in ("image_features", "text_features", "logit_scale")
            )
        else:
            image, text, scale = output[:3]
    return ClipFeatures(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale)


@dataclass(frozen=True, kw_only=True)
class Contrastive(_Distillation):
    """Symmetric contrastive loss of CLIP on batches (images, tokens (B, T)).

    Equal captions are one positive: the target is uniform over a row's equal captions. Over
    several ranks the candidates are those of all ranks, with exact gradients. A teacher's
    logits (at its own scale) and embeddings weigh `distill`.

    Attributes:
        distill: share of the teacher in a student's loss.
        temperature: of the softmaxes that are compared.
        embedding: weight of the mean cosine distance to the teacher's embeddings.
    """

    embedding: float = 1.0

    def __call__(self, model: nn.Module, batch: Any, teacher: Any = None) -> TaskResult:
        """The loss and the gathered features."""
        images, tokens = batch
        distinct, place = torch.unique(tokens, dim=0, return_inverse=True)
        if len(distinct) < len(tokens) and hasattr(model, "encode_text"):
            features = _encode_distinct(model, images, distinct, place)
        else:
            features = clip_features(model, images, tokens)
        image, text = gather_rows(features.image), gather_rows(features.text)
        everyone = gather_rows(tokens)
        logits = features.scale * image @ text.T  # (B, B) over all ranks
        same = (everyone[:, None] == everyone[None]).all(-1)
        target = same / same.sum(1, keepdim=True)
        target = target.to(logits.dtype)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        if teacher is not None:
            known, known_image, known_text = teacher
            soft = (self._soften(logits, known) + self._soften(logits.T, known.T)) / 2
            distance = 2 - (image * known_image).sum(-1).mean() - (text * known_text).sum(-1).mean()
            loss = self._mix(loss, soft + self.embedding * distance / 2)
        return TaskResult(loss, (logits, image, text))

    def evaluate(self, model: nn.Module, batches: Iterable[Any], class_tokens: Tensor) -> float:
        """Zero-shot accuracy in percent on batches (images, labels) with one text per class."""
        right = total = 0
        with evaluation_mode(model), torch.no_grad():
            text = None
            for images, labels in batches:
                if text is None:
                    text = clip_features(model, images[:1], class_tokens).text
                image = clip_features(model, images, class_tokens[:1]).image
                right += int(((image @ text.T).argmax(-1) == labels).sum())
                total += len(labels)
        return 100 * right / total


def _encode_distinct(model: Any, images: Tensor, distinct: Tensor, place: Tensor) -> ClipFeatures:
    """Features where each distinct caption is encoded once."""
    image = F.normalize(model.encode_image(images), dim=-1)
    text = F.normalize(model.encode_text(distinct), dim=-1)
    return ClipFeatures(image, text[place], model.logit_scale.exp())


@dataclass(frozen=True, kw_only=True)
class LanguageModel(_Distillation):
    """Next-token cross-entropy on batches of tokens (B, T); a teacher's logits weigh `distill`.

    Attributes:
        distill: share of the teacher in a student's loss.
        temperature: of the softmaxes that are compared.
        call: model and tokens → logits (B, T, V); by default the model's output or its `logits`.
    """

    call: Callable[[nn.Module, Tensor], Tensor] | None = None

    def logits(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """(B, T, V) for tokens (B, T)."""
        return _logits(model(tokens)) if self.call is None else self.call(model, tokens)

    def __call__(self, model: nn.Module, batch: Tensor, teacher: Any = None) -> TaskResult:
        """The loss in nats per token, and the logits (B, T - 1, V)."""
        logits = self.logits(model, batch)[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        if teacher is not None:
            loss = self._mix(loss, self._soften(logits, teacher))
        return TaskResult(loss, logits)

    def evaluate(self, model: nn.Module, batches: Iterable[Tensor]) -> float:
        """Perplexity over all predicted tokens of all batches, negated: higher is better."""
        return -self.perplexity(model, batches)

    def perplexity(self, model: nn.Module, batches: Iterable[Tensor]) -> float:
        """exp of the mean cross-entropy over all predicted tokens of all batches."""
        total = count = 0.0
        with evaluation_mode(model), torch.no_grad():
            for tokens in batches:
                predicted = tokens[:, 1:].numel()
                total += float(self(model, tokens).loss) * predicted
                count += predicted
        return math.exp(total / count)


def last_word_accuracy(
    model: nn.Module, examples: Iterable[tuple[Tensor, Tensor]], task: LanguageModel
) -> float:
    """LAMBADA's measure, in percent: every token of the last word is the model's first choice.

    Args:
        model: a language model.
        examples: (context tokens (T,), tokens of the last word (W,)) pairs.
        task: how the model is called.
    """
    right = total = 0
    with evaluation_mode(model), torch.no_grad():
        for context, word in examples:
            tokens = torch.cat([context, word])[None]
            guesses = task.logits(model, tokens)[0].argmax(-1)
            right += int((guesses[len(context) - 1 : -1] == word).all())
            total += 1
    return 100 * right / total
