"""Settings that a result records, and the key by which an earlier result is recognized."""

from __future__ import annotations

import platform
from importlib.metadata import version

from clip_eval.encoding.encoder import Encoder
from clip_eval.models.fingerprints import fingerprint, tokenizer_fingerprint
from clip_eval.tasks.config import ResolvedTask

DISTRIBUTIONS = ("clip-eval", "clip-models", "clip-tokenizer", "torch", "torchvision", "pillow")


def settings_key(encoder: Encoder, task: ResolvedTask, content: str, train_content: str) -> str:
    """Return a hash of everything that decides the numbers of a result.

    Args:
        encoder: The model.
        task: The task and its settings.
        content: Hash of the samples.
        train_content: Hash of the training samples; empty without any.
    """
    return fingerprint(
        encoder.fingerprint,
        tokenizer_fingerprint(encoder.tokenizer),
        encoder.preprocess_key,
        encoder.precision,
        encoder.device.type,
        task.key_settings(),
        content,
        train_content,
    )


def software_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a number may depend on."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in DISTRIBUTIONS},
    }
