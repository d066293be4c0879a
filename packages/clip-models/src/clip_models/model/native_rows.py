"""Where the tokens of images of their own shape lie. B images, K patches kept, N tokens of all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clip_models.pooling.patch_reduction import PatchReducer
from clip_models.pooling.randomness import Randomness, draw_row_keys
from clip_models.positions import Grid


def find_offsets(counts: Sequence[int]) -> list[int]:
    """Where each row starts in rows of these lengths that follow each other."""
    offsets, total = [], 0
    for count in counts:
        offsets.append(total)
        total += count
    return offsets


def find_places(grids: Sequence[Grid], device: torch.device) -> tuple[list[Grid], Tensor]:
    """The distinct grids, and the place (N,) of each patch in the row of their tables."""
    distinct = list(dict.fromkeys(grids))
    offsets = find_offsets([rows * columns for rows, columns in distinct])
    offset_of = dict(zip(distinct, offsets, strict=True))
    places = [torch.arange(rows * columns) + offset_of[rows, columns] for rows, columns in grids]
    return distinct, torch.cat(places).to(device, non_blocking=True)


def keep_patches(
    reducer: PatchReducer, grids: Sequence[Grid], generator: Randomness, device: torch.device
) -> tuple[Tensor, list[int]]:
    """Places of the kept patches among those of all images (N,), and how many each image keeps.

    What is kept of an image depends on its own grid and its own key.
    """
    keys = draw_row_keys(generator, len(grids))
    offsets = torch.tensor(find_offsets([rows * columns for rows, columns in grids]))
    kept: list[Tensor | None] = [None] * len(grids)
    for grid in dict.fromkeys(grids):
        rows = [row for row, other in enumerate(grids) if other == grid]
        index = torch.tensor(rows)
        keep = reducer.keep_indices(
            grid, keys[index.to(keys.device)], batch=len(rows), device=device
        )  # (·, K)
        keep = keep + offsets[index].to(device)[:, None]
        for row, places in zip(rows, keep, strict=True):
            kept[row] = places
    found = [places for places in kept if places is not None]
    return torch.cat(found), [len(places) for places in found]


def gather_tokens(
    counts: Sequence[int], row: Tensor, position: Tensor, *, has_class_token: bool
) -> Tensor:
    """Where the token at a position of a row is found, among the class token and all patches.

    Args:
        counts: Patches of each row.
        row: Rows, of any shape.
        position: Positions of tokens in these rows, the class token first; those after the last
            patch are padding, for which a patch of the row is found.
        has_class_token: The first of the tokens to choose from is the class token of all rows.
    """
    first = int(has_class_token)
    offsets = torch.tensor(find_offsets(counts)).to(row.device, non_blocking=True)
    lengths = torch.tensor(list(counts)).to(row.device, non_blocking=True)
    patch = torch.minimum(position - first, lengths[row] - 1)
    found = offsets[row] + patch + first
    return torch.where(position < first, 0, found) if has_class_token else found
