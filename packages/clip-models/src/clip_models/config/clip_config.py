"""The config of a CLIP model: two towers and their embedding space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from clip_models.config.checks import require, require_sizes
from clip_models.config.strict import from_dict, to_dict
from clip_models.config.towers import TextConfig, TransformerConfig, VisionConfig


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """An image tower and a text tower with one embedding space of `embed_dim` dimensions.

    `init_logit_scale` is the logarithm of the inverse temperature at initialization; with
    `init_logit_bias` None the model has no logit bias (CLIP), otherwise one (SigLIP).
    """

    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    init_logit_scale: float = math.log(1 / 0.07)
    init_logit_bias: float | None = None

    def __post_init__(self) -> None:
        require_sizes(self, "embed_dim")
        require(
            isinstance(self.vision, VisionConfig),
            f"vision must be the config of a tower, got {self.vision!r}",
        )
        require(isinstance(self.text, TextConfig), f"text must be a TextConfig, got {self.text!r}")
        for name, tower in (("vision", self.vision), ("text", self.text)):
            if isinstance(tower, TransformerConfig):
                projection = getattr(tower, "projection", "linear")
                require(
                    projection != "none" or tower.width == self.embed_dim,
                    f"{name}.projection 'none' needs {name}.width = embed_dim, got {tower.width} "
                    f"and {self.embed_dim}",
                )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CLIPConfig:
        """The config in a nested dictionary; unknown keys and wrong types are errors."""
        return from_dict(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, for JSON or TOML."""
        return to_dict(self)
