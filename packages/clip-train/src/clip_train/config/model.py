"""Config sections about the model and the tokenizer of its captions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from clip_models.config import require

from clip_train.config.checks import require_positive


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Model to train."""

    name: str = ""
    """Name of a registered model (`clip-models list`); empty for the model of `pretrained`, or for
    ViT-B-32."""
    vision: dict[str, Any] = field(default_factory=dict)
    """Fields of the image tower to replace, such as `image_size`, `patch_reduction` or
    `pooling`."""
    text: dict[str, Any] = field(default_factory=dict)
    """Fields of the text tower to replace, such as `context_length`."""
    logit_scale: float | None = None
    """Initial factor on cosine similarities (inverse temperature) of a new model, at most 100; None
    for that of the registered model."""
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Fields of the preprocessing to replace: `mean`, `std`, `interpolation`, `resize_mode`."""
    pretrained: str = ""
    """Initial weights: a model directory, `hf-hub:ORG/NAME`, or together with `name` a weight file
    in any format that clip-models reads. Positions are interpolated to the image size and context
    length."""
    whitening_images: int = 5000
    """Number of training images from which a whitening stem is computed before the first step, for
    a new model whose image tower has one."""
    lock_image: bool = False
    """Freeze the image tower."""
    unlocked_image_groups: int = 0
    """Number of groups at the output end of a frozen image tower that stay trainable: the layers
    behind the blocks are one group, each block is another."""
    lock_text: bool = False
    """Freeze the text tower."""
    unlocked_text_groups: int = 0
    """Number of groups at the output end of a frozen text tower that stay trainable, counted
    alike."""

    def __post_init__(self) -> None:
        require_positive(self, "whitening_images", "logit_scale")
        require(
            self.logit_scale is None or (self.logit_scale <= 100 and not self.pretrained),
            "logit_scale is that of a new model, and at most 100; leave it out with pretrained, "
            f"got {self.logit_scale} and pretrained {self.pretrained!r}",
        )
        for tower in ("image", "text"):
            groups = getattr(self, f"unlocked_{tower}_groups")
            require(
                groups == 0 or (getattr(self, f"lock_{tower}") and groups > 0),
                f"unlocked_{tower}_groups goes with lock_{tower}, and is 0 or more; got {groups}",
            )


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Tokenizer of the captions.

    The context length is the model's; a new model that sets none takes that of a saved tokenizer.
    """

    kind: Literal["auto", "openai", "train", "bytes", "directory"] = "auto"
    """Tokenizer: `auto` (that of `model.pretrained` where it brings one, else CLIP's), `openai`
    (CLIP's vocabulary), `train` (a BPE trained on the captions), `bytes`, or `directory` (a saved
    tokenizer)."""
    vocab_size: int = 1024
    """Vocabulary size for kind `train`."""
    path: str = ""
    """Directory of the saved tokenizer for kind `directory`."""
    reduction: Literal["truncate", "random", "shuffle", "block", "syntax"] = "truncate"
    """Shortening of training captions that exceed the context length (CLIPA): `truncate` keeps the
    first tokens, `random` a random subset in order, `shuffle` a random subset in random order,
    `block` consecutive tokens, `syntax` nouns before adjectives before verbs (`pip install
    clip-tokenizer[syntax]`). Evaluation always truncates."""

    def __post_init__(self) -> None:
        require(
            (self.kind == "directory") == bool(self.path),
            f"path goes with kind 'directory', got kind {self.kind!r} and path {self.path!r}",
        )
