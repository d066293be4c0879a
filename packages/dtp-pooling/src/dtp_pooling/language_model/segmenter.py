"""Boundaries of a causal text by configuration.

B batch, L tokens, D width, V vocabulary. A boundary never depends on a later token.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dtp_pooling.language_model.config import LEARNED, LEARNED_FROM_TARGETS, BoundaryConfig
from dtp_pooling.pooling import boundaries as rules
from dtp_pooling.pooling.losses import boundary_bce, rate_loss
from dtp_pooling.pooling.noise import Generators, logistic_noise, row_keys
from dtp_pooling.pooling.predictors import CosinePredictor, MLPPredictor, make_predictor
from dtp_pooling.pooling.splitmix64 import hashed_uniform


class Segmentation(NamedTuple):
    """Boundaries, and the logits that decided them.

    Attributes:
        boundaries: (B, L) float32 zeros and ones; zero beyond each row's length.
        logits: (B, L) float32 of the predictor, or None.
    """

    boundaries: Tensor
    logits: Tensor | None


class CausalSegmenter(nn.Module):
    """Decides where segments of a causal text end, and computes the boundary loss.

    In training `gumbel` and `random` draw from the generators; in evaluation nothing is drawn.

    Args:
        width: D.
        config: Kind and its settings; `none` is not for a segmenter.
    """

    def __init__(self, width: int, config: BoundaryConfig) -> None:
        super().__init__()
        self.config = config = config.resolve()
        self.scores: MLPPredictor | CosinePredictor | None = None
        if config.kind == "routing":
            self.scores = CosinePredictor(width, causal=True, first_closes=True)
        elif config.kind in LEARNED:
            self.scores = make_predictor(config.scores, width, config.hidden, causal=True)

    def forward(
        self,
        tokens: Tensor,
        hidden: Tensor,
        *,
        lengths: Tensor | None = None,
        generators: Generators = None,
        offset: int | Tensor = 0,
        previous: Tensor | None = None,
    ) -> Segmentation:
        """Boundaries of the tokens.

        Args:
            tokens: (B, L) int64.
            hidden: (B, L, D) what the predictor sees.
            lengths: (B,) valid tokens; None for all.
            generators: For training; see `noise.row_keys`.
            offset: Position in the text of the first token, one for all or (B,).
            previous: (B, D) hidden state before the first token, when decoding.
        """
        logits = None
        if self.scores is not None:
            logits = self.scores(hidden, lengths, previous)
        hard = self._decide(tokens, logits, generators, offset)
        return Segmentation(rules.mask_padding(hard, lengths), logits)

    def _decide(
        self, tokens: Tensor, logits: Tensor | None, generators: Generators, offset: int | Tensor
    ) -> Tensor:
        config, (batch, length) = self.config, tokens.shape
        if config.kind == "fixed":
            return rules.fixed_boundaries(
                batch, length, config.factor, offset, device=tokens.device
            )
        if config.kind == "whitespace":
            return rules.whitespace_boundaries(tokens, config.space)
        if config.kind == "random":
            uniform = self._draw(tokens, generators, offset)
            return rules.random_boundaries(uniform, config.rate)
        assert logits is not None
        if config.kind in LEARNED_FROM_TARGETS:
            return rules.threshold_boundaries(logits)
        if config.kind == "routing":
            return rules.routing_boundaries(logits)
        noise = None
        if self.training or config.evaluation == "pattern":
            noise = logistic_noise(self._draw(tokens, generators, offset))
        elif config.threshold != 0.5:
            logits = logits - math.log(config.threshold / (1 - config.threshold))
        return rules.gumbel_boundaries(logits, config.temperature, noise)

    def _draw(self, tokens: Tensor, generators: Generators, offset: int | Tensor) -> Tensor:
        """(B, L) numbers from the generators, or in evaluation those of the seed."""
        batch, length = tokens.shape
        if self.training:
            keys = row_keys(batch, generators, tokens.device)
        else:
            keys = torch.full((batch,), self.config.seed, device=tokens.device)
        return hashed_uniform(keys, length, start=offset)

    def loss(
        self,
        segmentation: Segmentation,
        next_token_logits: Tensor,
        *,
        targets: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Weighted boundary loss, a float32 scalar; zero for kinds that learn nothing.

        Args:
            segmentation: What `forward` gave.
            next_token_logits: (B, L, V) of the model, whose entropy spikes are a target.
            targets: (B, L) given boundaries, for `unigram`.
            lengths: (B,) valid tokens; None for all.
        """
        hard, logits = segmentation
        config = self.config
        if logits is None:
            return hard.new_zeros(())
        assert config.rate_loss is not None
        assert config.weight is not None
        if config.kind in LEARNED_FROM_TARGETS:
            if config.kind == "entropy":
                targets = rules.entropy_spikes(next_token_logits, config.spikes_left)
            if targets is None:
                raise ValueError("kind='unigram' learns from given boundaries: pass targets (B, L)")
            loss = boundary_bce(logits, targets, config.target_loss, lengths)
        else:
            loss = rate_loss(config.rate_loss, hard, logits, config.rate, config.interval, lengths)
        return config.weight * loss
