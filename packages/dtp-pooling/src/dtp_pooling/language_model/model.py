"""A causal language model that works on segments in its middle layers.

B batch, L tokens, S segments with the null one, D width, V vocabulary.

The hourglass of Nawrot et al. 2023 ("Efficient Transformers with Dynamic Token Pooling"): layers
on tokens, pooling into segments behind a learned null segment, layers on segments, unpooling plus
the tokens from before, layers on tokens. A token reads the newest segment that is finished, so
nothing of the future reaches it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dtp_pooling.checkpoint_files import naming, save_tensors
from dtp_pooling.command_line import read_small_file
from dtp_pooling.language_model.attention import RelativeTerms, sinusoids
from dtp_pooling.language_model.block import Block
from dtp_pooling.language_model.config import LanguageModelConfig
from dtp_pooling.language_model.segment_layers import SegmentLayers, run_blocks
from dtp_pooling.pooling.noise import Generators
from dtp_pooling.strict_config import from_dict


class LanguageModelOutput(NamedTuple):
    """Output of the language model for a batch.

    Attributes:
        logits: (B, L, V) of the next tokens.
        boundaries: (B, L) float32 zeros and ones, or None without pooling.
        boundary_logits: (B, L) float32 of the predictor, or None.
        boundary_loss: Scalar, weighted; zero when nothing is learned.
        nested_boundaries: (B, S) of segments of segments, null included, or None without them.
    """

    logits: Tensor
    boundaries: Tensor | None
    boundary_logits: Tensor | None
    boundary_loss: Tensor
    nested_boundaries: Tensor | None = None


class DynamicPoolingLM(SegmentLayers):
    """Next-token logits of a text whose middle layers see segments.

    Args:
        config: Sizes and where segments end.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.pre = nn.ModuleList(Block(config) for _ in range(config.pre_layers))
        self.build_layers(config, config.shortened_layers)
        self.post = nn.ModuleList(Block(config) for _ in range(config.post_layers))
        self.norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.head = nn.Linear(config.width, config.vocabulary)
        self.build_pooling(config, config.boundaries)
        self.build_nested(config)
        if config.attention == "relative":
            shape = (config.num_heads, config.head_dim)
            self.content_bias = nn.Parameter(0.02 * torch.randn(shape))
            self.position_bias = nn.Parameter(0.02 * torch.randn(shape))
        self.apply(_initialize)

    def forward(
        self,
        tokens: Tensor,
        *,
        lengths: Tensor | None = None,
        generators: Generators = None,
        boundaries: Tensor | None = None,
        targets: Tensor | None = None,
        max_segments: int | None = None,
    ) -> LanguageModelOutput:
        """Logits of the token after each, and the boundary loss.

        Args:
            tokens: (B, L) int64.
            lengths: (B,) valid tokens; None for all. What is beyond them changes nothing.
            generators: Randomness of boundaries in training; see `noise.row_keys`.
            boundaries: (B, L) to use instead of the model's own.
            targets: (B, L) boundaries for `unigram` to learn; its loss is zero without them.
            max_segments: Segments to pad every row to, null included; None for the longest row's,
                up to a multiple of 16. With a given number all shapes are known beforehand, and a
                text's logits are the same bits whatever its future holds. Segments of segments are
                padded to one more.
        """
        x = self.dropout(self.embedding(tokens))  # (B, L, D)
        x = run_blocks(self.pre, x, self.relative(x.shape[1]))
        if self.segmenter is None:
            x = run_blocks(self.shortened, x, self.relative(x.shape[1]))
            logits = self._predict(x)
            return LanguageModelOutput(logits, None, None, logits.new_zeros(()))
        result = self.through_segments(
            *(x, tokens, self.relative),
            lengths=lengths,
            generators=generators,
            given=boundaries,
            max_segments=max_segments,
        )
        logits = self._predict(result.tokens)
        segments, *inner = result.segments
        loss = result.nested_loss
        if targets is not None or self.config.boundaries.kind != "unigram":
            loss = loss + self.segmenter.loss(segments, logits, targets=targets, lengths=lengths)
        nested = inner[0].boundaries if inner else None
        return LanguageModelOutput(logits, segments.boundaries, segments.logits, loss, nested)

    def _predict(self, x: Tensor) -> Tensor:
        """(B, L, V) logits from tokens (B, L, D) before the last layers."""
        x = run_blocks(self.post, x, self.relative(x.shape[1]))
        logits: Tensor = self.head(self.norm(x))
        return logits

    def relative(self, size: int) -> RelativeTerms | None:
        """Transformer-XL's shared terms for distances below `size`; None for rotary positions."""
        if self.config.attention == "rotary":
            return None
        table = sinusoids(size, self.config.width, self.embedding.weight)
        return RelativeTerms(self.dropout(table), self.content_bias, self.position_bias)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json` into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / "model.safetensors", self.state_dict())
        self.save_config(folder)

    def save_config(self, folder: Path) -> None:
        """Write `config.json` into the folder."""
        text = json.dumps(dataclasses.asdict(self.config), indent=2)
        file = folder / "config.json"
        with naming(file, whole="other files are whole"):
            file.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> DynamicPoolingLM:
        """The model that `save` wrote, in evaluation mode.

        Raises:
            ValueError: One of its files is damaged, or they do not fit each other.
        """
        try:
            values = json.loads(read_small_file(folder / "config.json"))
            model = cls(from_dict(LanguageModelConfig, values))
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (AttributeError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
            raise ValueError(f"{folder} holds no complete model: {error}; save it again") from error
        return model.eval()


def _initialize(module: nn.Module) -> None:
    """Normal weights of deviation 0.02 and zero biases; linear maps without bias stay as built."""
    if isinstance(module, nn.Linear | nn.Embedding):
        is_set = isinstance(module, nn.Linear) and module.bias is None
        if not is_set:
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.normal_(module.weight, mean=1.0, std=0.02)
        nn.init.zeros_(module.bias)
