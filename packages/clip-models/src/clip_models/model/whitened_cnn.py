"""A convolutional tower whose first layer whitens patches. B batch, C channels, S image side.

N images, k side of a patch, P = 3 k² numbers in a patch.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_models.config.towers import WhitenedCNNConfig


class ConvPair(nn.Module):
    """3x3 convolution, 2x2 max pooling, norm, GELU; then convolution, norm, GELU."""

    def __init__(self, in_channels: int, out_channels: int, config: WhitenedCNNConfig) -> None:
        super().__init__()
        self.conv1 = _make_convolution(in_channels, out_channels, config)
        self.norm1 = _make_norm(out_channels, config)
        self.conv2 = _make_convolution(out_channels, out_channels, config)
        self.norm2 = _make_norm(out_channels, config)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) to (B, C', S/2, S/2)."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class WhitenedCNN(nn.Module):
    """Images to features: whitened patches, pairs of convolutions, the maximum over positions.

    The network of Jordan 2024 ("94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3), with
    a linear map to the embedding space. Deviations: the whitening has no trained bias, so that its
    backward pass is not computed, and norms have torch's epsilon, 1e-5 instead of 1e-12, with which
    batches of one color have a finite gradient.
    """

    def __init__(self, config: WhitenedCNNConfig, embed_dim: int) -> None:
        super().__init__()
        side = config.whitening_size
        is_trained = config.stem == "trained"
        self.stem = nn.Conv2d(3, 2 * 3 * side**2, side, bias=is_trained)
        if not is_trained:
            self.stem.weight.requires_grad_(False)
        channels = (self.stem.out_channels, *config.widths)
        pairs = itertools.pairwise(channels)
        self.stages = nn.Sequential(*(ConvPair(narrow, wide, config) for narrow, wide in pairs))
        self.proj = nn.Linear(channels[-1], embed_dim, bias=False)

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the first layer to the whitening of normalized images (N, 3, H, W)."""
        weight = patch_whitening(images, self.stem.kernel_size[0])
        self.stem.weight.copy_(weight)

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W) to features (B, embed_dim)."""
        x = self.stages(F.gelu(self.stem(images)))  # (B, C, S', S')
        return self.proj(x.amax(dim=(2, 3)))  # (B, embed_dim)


def patch_whitening(images: Tensor, size: int, *, eps: float = 5e-4) -> Tensor:
    """Filters (2 P, 3, k, k) that whiten patches, and their negatives.

    A filter is an eigenvector of the patches' second moments (they are not centered) divided by
    the square root of its eigenvalue plus `eps`; the largest come first, and the largest entry of
    each is positive. Computed in float64.

    Args:
        images: (N, 3, H, W), normalized.
        size: Side of a patch.
        eps: Added to the eigenvalues.
    """
    patches = F.unfold(images.double(), size).transpose(1, 2).flatten(0, 1)  # (·, P)
    moments = patches.T @ patches / len(patches)  # (P, P)
    values, vectors = torch.linalg.eigh(moments)  # rising
    filters = (vectors / (values + eps).sqrt()).T.flip(0)  # (P, P), a row each
    largest = filters.gather(1, filters.abs().argmax(dim=1, keepdim=True))
    filters = (filters * largest.sign()).reshape(-1, 3, size, size)
    return torch.cat([filters, -filters]).to(images.dtype)


def _make_convolution(in_channels: int, out_channels: int, config: WhitenedCNNConfig) -> nn.Conv2d:
    """A 3x3 convolution that may begin as the identity of the channels that both sides have."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    if config.dirac:
        nn.init.dirac_(convolution.weight[:in_channels])
    return convolution


def _make_norm(channels: int, config: WhitenedCNNConfig) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=config.norm_momentum)
    if not config.norm_scale:
        norm.weight.requires_grad_(False)
    return norm
