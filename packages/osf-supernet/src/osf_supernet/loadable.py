"""Spaces of sizes that a library's config can say, so that its own loader takes the subnets."""

from __future__ import annotations

import glob
from collections.abc import Collection

from osf_supernet.subnets.pretrained_config import is_pretrained_model
from osf_supernet.subnets.space import Choice, Space, default_space, sizes
from osf_supernet.supernet import Supernet


def loadable_space(net: Supernet, kinds: Collection[str] | None = None) -> Space:
    """The default space without what the model's own config could not say.

    All layers have one size, and what the config has no word for stays whole: every kind of size
    is tried once, by extracting a subnet and rebuilding it from its config.

    Args:
        net: Of a model of transformers, or of any where kinds are given; its space stays as it is.
        kinds: The kinds that the library's config is known to say.

    Raises:
        ValueError: The model has no config, or one that says no smaller size.
    """
    if kinds is None and not is_pretrained_model(net.model):
        raise ValueError(
            f"{type(net.model).__name__} has no config and save_pretrained as the models of "
            "transformers; give the kinds of sizes that its library can say"
        )
    before = net.space
    net.space = Space(dict(default_space(net.graph)), uniform=True)
    try:
        kept: dict[str, Choice] = {}
        for name, values in net.choices.items():
            if len(values) > 1 and _can_say(net, name, values[0], kinds):
                kept |= {glob.escape(other): sizes(*values) for other in net.ties[name]}
    finally:
        net.space = before
    if not kept:
        raise ValueError(f"the config of {type(net.model).__name__} can say no smaller size")
    return Space(kept, uniform=True)


def _can_say(net: Supernet, name: str, size: int, kinds: Collection[str] | None) -> bool:
    if kinds is not None:
        kind = {group.name: group.kind for group in net.graph.elastic()}.get(name, "depth")
        return kind in kinds
    return "save_pretrained" not in vars(net.extract({name: size}))  # the refusal stands there
