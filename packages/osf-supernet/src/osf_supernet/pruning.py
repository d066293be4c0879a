"""One smaller module out of a trained one, in one call.

Registered as `largest` in the entry-point group `dtp_pooling.pruning`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from osf_supernet.subnets.space import sizes
from osf_supernet.supernet import Supernet


def keep_largest(model: nn.Module, inputs: Any, kept: Mapping[str, int]) -> nn.Module:
    """The module cut down to its largest weights, verified as any extraction is.

    Args:
        model: Trained; the order of its own weights may change, its function does not.
        inputs: What to trace it on; see `Supernet`.
        kept: Kind or pattern of groups → size of each, as in a space.
    """
    net = Supernet(model, inputs, space={name: sizes(size) for name, size in kept.items()})
    net.reorder("magnitude")
    return net.extract(net.smallest)
