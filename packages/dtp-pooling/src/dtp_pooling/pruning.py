"""A smaller language model out of a trained one, by osf-supernet (extra `pruning`)."""

from __future__ import annotations

import dataclasses

import torch

from dtp_pooling.language_config import LanguageModelConfig
from dtp_pooling.language_model import DynamicPoolingLM

_LENGTH = 32  # of the text that the model is traced on


def pruned(model: DynamicPoolingLM, config: LanguageModelConfig) -> DynamicPoolingLM:
    """The model of `config` with the weights of the trained one's largest heads and hidden units.

    Largest in the sum of squares of all their weights; osf-supernet finds what belongs together
    and verifies that what it cuts out computes what the whole model does with the rest masked.

    Args:
        model: Trained.
        config: Its configuration but for `feedforward` and `num_heads`, which may be smaller.

    Raises:
        ValueError: The configurations differ in more than that.
    """
    from osf_supernet import Supernet, sizes

    smaller = dataclasses.replace(
        model.config, feedforward=config.feedforward, num_heads=config.num_heads
    )
    if smaller != config:
        raise ValueError(
            f"pruning changes feedforward and num_heads only: from {model.config} to {config}; "
            "give the new model the other settings of the trained one"
        )
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocabulary, (2, _LENGTH), generator=generator)
    net = Supernet(
        model.eval(),
        {"tokens": tokens, "max_segments": _LENGTH + 1},
        space={"mlp": sizes(config.feedforward), "heads": sizes(config.num_heads)},
    )
    net.reorder("magnitude")
    small = DynamicPoolingLM(config)
    small.load_state_dict(net.extract(net.smallest).state_dict())
    return small.eval()
