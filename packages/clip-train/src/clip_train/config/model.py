"""The sections of a config about the model and the tokenizer of its captions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from clip_models.config import require


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model is trained."""

    name: str = ""
    """A name of `clip_models.list_models()`; empty is the model of `pretrained`, or ViT-B-32."""
    vision: dict[str, Any] = field(default_factory=dict)
    """Fields of its image tower to replace: `image_size`, `patch_reduction`, `pooling`, …"""
    text: dict[str, Any] = field(default_factory=dict)
    """Fields of its text tower to replace."""
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Fields of its preprocessing to replace: `mean`, `std`, `interpolation`, `resize_mode`."""
    pretrained: str = ""
    """Weights to start from: a model directory, `hf-hub:org/name`, or with a `name` a file in any
    dialect that clip-models reads.  Positions are interpolated to the image size and context."""
    lock_image: bool = False
    """Freeze the image tower."""
    unlocked_image_groups: int = 0
    """How many groups at the end of a locked image tower stay trainable: what follows the blocks
    is one group, and so is each block."""
    lock_text: bool = False
    """Freeze the text tower."""
    unlocked_text_groups: int = 0
    """The same for a locked text tower."""

    def __post_init__(self) -> None:
        for tower in ("image", "text"):
            groups, locked = (
                getattr(self, f"unlocked_{tower}_groups"),
                getattr(self, f"lock_{tower}"),
            )
            require(
                groups == 0 or (locked and groups > 0),
                f"unlocked_{tower}_groups goes with lock_{tower}, and is 0 or more; got {groups}",
            )


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How captions become ids.  The context length is the model's; a saved tokenizer's own, where a
    new model's is not given."""

    kind: Literal["openai", "train", "bytes", "directory"] = "openai"
    """CLIP's own vocabulary, one learned from the captions, bytes only, or a saved tokenizer."""
    vocab_size: int = 1024
    """Size of the vocabulary for kind `train`."""
    path: str = ""
    """Directory of the saved tokenizer for kind `directory`."""
    reduction: Literal["truncate", "random", "shuffle", "block", "syntax"] = "truncate"
    """How a training caption that is too long for the context is made to fit (CLIPA): its first
    tokens, any tokens in order, any in random order, neighbours, or nouns before adjectives before
    verbs (`pip install clip-tokenizer[syntax]`).  Evaluation always truncates."""

    def __post_init__(self) -> None:
        require(
            (self.kind == "directory") == bool(self.path),
            f"path goes with kind 'directory', got kind {self.kind!r} and path {self.path!r}",
        )
