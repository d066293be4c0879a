"""Batches of images of their own shape, as patches. B images, L patches of the longest, P numbers.

A patch of p x p pixels is P = p * p * 3 numbers: its rows of pixels, the channels of a pixel
together, as in transformers' SigLIP 2 and timm's NaFlex.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clip_models.positions import Grid


@dataclass(frozen=True, eq=False)
class NativeImages:
    """Images in their own aspect ratio, padded to the one with the most patches.

    Attributes:
        patches: (B, L, P), the patches of an image row by row from the top left, then padding,
            which may hold anything: uint8 pixels, or normalized floating-point numbers.
        grids: Rows and columns of patches of each image.
    """

    patches: Tensor
    grids: tuple[Grid, ...]

    def __post_init__(self) -> None:
        shape = tuple(self.patches.shape)
        if len(shape) != 3 or shape[0] != len(self.grids):
            raise ValueError(
                f"patches must be (B, L, patch_size * patch_size * 3) with a grid for each image, "
                f"got {shape} and {len(self.grids)} grids; NativeImages.stack pads a list of images"
            )
        for rows, columns in self.grids:
            if rows < 1 or columns < 1 or rows * columns > shape[1]:
                raise ValueError(
                    f"a grid must have from 1 to {shape[1]} patches, the length of patches, got "
                    f"{rows} x {columns}"
                )

    @classmethod
    def stack(cls, images: Sequence[tuple[Tensor, Grid]]) -> NativeImages:
        """A batch of images, each its patches (N, P) and the grid of them."""
        if not images:
            raise ValueError("images must not be empty; a batch has at least one image")
        longest = max(len(patches) for patches, _ in images)
        first = images[0][0]
        padded = first.new_zeros(len(images), longest, first.shape[1])
        for row, (patches, _) in zip(padded, images, strict=True):
            row[: len(patches)] = patches
        return cls(padded, tuple(grid for _, grid in images))

    @classmethod
    def from_padded(cls, patches: Tensor, mask: Tensor, shapes: Tensor) -> NativeImages:
        """The `pixel_values`, `pixel_attention_mask` and `spatial_shapes` of SigLIP 2's processor.

        Raises:
            ValueError: The mask is not true for the patches of each grid, and only for those.
        """
        grids = tuple((int(rows), int(columns)) for rows, columns in shapes.tolist())
        images = cls(patches, grids)
        if not torch.equal(images.mask, mask.to(patches.device, torch.bool)):
            raise ValueError(
                "the mask must be true for the first rows * columns patches of each image and "
                "false for the others, as the image processor makes it"
            )
        return images

    @classmethod
    def from_images(cls, images: Iterable[Tensor], patch_size: int) -> NativeImages:
        """The patches of images, each (3, H, W); pixels beyond whole patches are left out."""
        return cls.stack([cut_patches(image, patch_size) for image in images])

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of patches of each image."""
        return tuple(rows * columns for rows, columns in self.grids)

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, True for patches, False for padding."""
        device = self.patches.device
        counts = torch.tensor(self.counts, dtype=torch.int64).to(device, non_blocking=True)
        return torch.arange(self.patches.shape[1], device=device) < counts[:, None]

    @property
    def device(self) -> torch.device:
        """Device of the patches."""
        return self.patches.device

    def __len__(self) -> int:
        return len(self.grids)

    def __getitem__(self, rows: slice | list[int]) -> NativeImages:
        """Part of the batch, without the padding that its images do not need."""
        grids = self.grids[rows] if isinstance(rows, slice) else tuple(self.grids[n] for n in rows)
        longest = max((grid[0] * grid[1] for grid in grids), default=0)
        return NativeImages(self.patches[rows, :longest], grids)

    def __iter__(self) -> Iterator[tuple[Tensor, Grid]]:
        """The patches (N, P) of each image, without padding, and their grid."""
        for patches, count, grid in zip(self.patches, self.counts, self.grids, strict=True):
            yield patches[:count], grid

    def tensor_split(self, count: int) -> tuple[NativeImages, ...]:
        """That many parts, whose numbers of images differ by at most one, as of a tensor."""
        ends = [0]
        for part in torch.arange(len(self)).tensor_split(count):
            ends.append(ends[-1] + len(part))
        return tuple(self[first:stop] for first, stop in itertools.pairwise(ends))

    def chunk(self, count: int) -> tuple[NativeImages, ...]:
        """At most that many parts of one number of images, the last of fewer, as of a tensor."""
        size = max(1, -(-len(self) // count))
        return tuple(self[first : first + size] for first in range(0, len(self), size))

    def to(
        self, device: str | torch.device | torch.dtype, *, non_blocking: bool = False
    ) -> NativeImages:
        """The batch on another device or of another type."""
        return NativeImages(self.patches.to(device, non_blocking=non_blocking), self.grids)

    def pin_memory(self) -> NativeImages:
        """The batch in pinned memory, which a `DataLoader` asks for."""
        return NativeImages(self.patches.pin_memory(), self.grids)


def cut_patches(images: Tensor, patch_size: int) -> tuple[Tensor, Grid]:
    """(…, N, P) patches of images (…, 3, H, W) and their rows and columns."""
    rows, columns = images.shape[-2] // patch_size, images.shape[-1] // patch_size
    whole = images[..., : rows * patch_size, : columns * patch_size]
    cells = whole.reshape(*images.shape[:-2], rows, patch_size, columns, patch_size)
    # (…, 3, rows, p, columns, p) to (…, rows, columns, p, p, 3)
    cells = cells.movedim(-5, -1).transpose(-4, -3)
    return cells.flatten(-3).flatten(-3, -2), (rows, columns)
