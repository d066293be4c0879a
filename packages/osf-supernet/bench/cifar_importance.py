"""Which units to keep: accuracy without any training, by importance method."""

from __future__ import annotations

from typing import Any

from cifar_task import Data, accuracy
from osf_supernet import Supernet
from osf_supernet.subnets.importance import METHODS
from osf_supernet.training import recalibrated
from torch import Tensor, nn

KEEP = (0.9, 0.75, 0.5)


def compare_importance(model: nn.Module, data: Data) -> dict[str, list[float]]:
    """Method → accuracy on every second image of `val` where each of `KEEP` is kept.

    Hidden units of every MLP and channels of every convolution are cut at once; heads, depth
    and widths stay. Scores and the statistics of batch norms come from 256 training images.
    """
    images, labels = data.val[0][::2], data.val[1][::2]
    batch = data(9_000_000, 256)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    net = Supernet(model, batch)
    cut = [group for group in net.graph.elastic() if group.kind in ("mlp", "channel")]
    found: dict[str, list[float]] = {}
    for method in METHODS:
        model.load_state_dict(state)
        net.reorder(method, [batch], lambda output: _loss(output, batch[1]))
        found[method] = []
        for keep in KEEP:
            sizes = {group.name: max(1, round(group.size * keep)) for group in cut}
            with net.active(sizes), recalibrated(model, [batch]):
                found[method].append(accuracy(model, images, labels))
    model.load_state_dict(state)
    return found


def _loss(output: Any, tokens: Tensor) -> Tensor:
    """Of images against captions, where equal captions are one positive."""
    logits = output.logit_scale * output.image_features @ output.text_features.T
    same = (tokens[:, None] == tokens[None]).all(-1)
    return nn.functional.cross_entropy(logits, same / same.sum(1, keepdim=True))
