"""Which patches are kept: counts, shapes, statistics, and independence of the batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from clip_models import CLIP, CLIPConfig
from clip_models.config import PatchReductionConfig, TextConfig, ViTConfig
from clip_models.pooling.patch_reduction import make_patch_reducer
from clip_models.pooling.randomness import patch_uniform

KINDS = ("random", "grid", "block")
GRIDS = [(14, 14), (7, 9), (2, 2), (1, 1), (1, 6)]
CPU = torch.device("cpu")


def keep(kind: str, ratio: float, grid: tuple[int, int], generator: object, batch: int = 4):
    reducer = make_patch_reducer(PatchReductionConfig(kind=kind, keep_ratio=ratio))
    return reducer.keep_indices(grid, generator, batch=batch, device=CPU)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.7, 1.0])
def test_indices_are_ascending_places_of_the_grid(
    kind: str, grid: tuple[int, int], ratio: float
) -> None:
    places = keep(kind, ratio, grid, torch.Generator().manual_seed(0), batch=50)
    assert places.dtype == torch.int64
    assert places.min() >= 0
    assert places.max() < grid[0] * grid[1]
    assert (places.diff(dim=1) > 0).all()
    if ratio == 1.0:
        assert places.shape[1] == grid[0] * grid[1]


@pytest.mark.parametrize(
    ("kind", "ratio", "count"),
    [
        ("random", 0.5, 98),
        ("random", 0.25, 49),
        ("random", 0.001, 1),
        ("grid", 0.25, 49),
        ("block", 0.25, 49),
        ("block", 0.5, 100),
    ],
)
def test_how_many_are_kept(kind: str, ratio: float, count: int) -> None:
    assert keep(kind, ratio, (14, 14), None).shape == (4, count)
    assert keep(kind, ratio, (14, 14), None, batch=0).shape == (0, count)


def test_a_quarter_by_grid_is_one_of_every_window_of_two_by_two() -> None:
    places = keep("grid", 0.25, (6, 8), None, batch=200)
    windows = places // 8 // 2 * 4 + places % 8 // 2
    assert (windows.sort(dim=1).values == torch.arange(12)).all()
    chosen = torch.bincount(places.flatten(), minlength=48)
    assert chosen.min() > 20  # of 50 expected: every place of a window is chosen


def test_a_block_is_a_rectangle() -> None:
    for row in keep("block", 0.3, (10, 12), None, batch=30):
        rows, columns = row // 12, row % 12
        assert (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1) == len(row)


@pytest.mark.parametrize("kind", ["random", "grid"])
def test_every_place_is_equally_likely(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    places = keep(kind, 0.25, (4, 4), generator, batch=8000)
    share = torch.bincount(places.flatten(), minlength=16) / 8000
    assert torch.allclose(share, torch.full((16,), 0.25), atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_depends_on_its_key_alone(kind: str) -> None:
    keys = torch.tensor([5, -(2**63), 7, 5, 2**62])
    together = keep(kind, 0.5, (6, 6), keys, batch=5)
    for key, row in zip(keys, together, strict=True):
        assert torch.equal(keep(kind, 0.5, (6, 6), key[None], batch=1)[0], row)
    assert torch.equal(together[0], together[3])
    assert not torch.equal(together[0], together[2])


def test_generators_are_reproducible() -> None:
    def drawn(generator: torch.Generator | None) -> torch.Tensor:
        return patch_uniform(generator, 3, 5, CPU)

    first = drawn(torch.Generator().manual_seed(3))
    assert torch.equal(first, drawn(torch.Generator().manual_seed(3)))
    torch.manual_seed(9)
    first = drawn(None)
    torch.manual_seed(9)
    assert torch.equal(first, drawn(None))


def test_numbers_are_uniform() -> None:
    numbers = patch_uniform(torch.arange(500), 500, 200, CPU)
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.005)
    assert numbers.var().item() == pytest.approx(1 / 12, abs=0.002)
    assert torch.corrcoef(numbers.T).fill_diagonal_(0).abs().max() < 0.25


@pytest.mark.parametrize("keys", [torch.arange(3), torch.arange(2.0), torch.zeros(2, 1).long()])
def test_wrong_keys_are_named(keys: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="keys must be int64, one for each of 2 rows"):
        patch_uniform(keys, 2, 4, CPU)


def model(kind: str) -> CLIP:
    torch.manual_seed(0)
    vision = ViTConfig(
        image_size=32,
        patch_size=8,
        width=16,
        num_layers=2,
        num_heads=2,
        patch_reduction=PatchReductionConfig(kind=kind, keep_ratio=0.25),
    )
    text = TextConfig(context_length=8, vocab_size=20, width=16, num_layers=1, num_heads=2)
    return CLIP(CLIPConfig(embed_dim=8, vision=vision, text=text))


@pytest.mark.parametrize("kind", KINDS)
def test_training_computes_the_kept_patches_with_their_positions(kind: str) -> None:
    tower = model(kind).visual
    images, keys = torch.randn(3, 3, 32, 32), torch.tensor([3, 1, 4])
    kept = tower.patch_reducer.keep_indices((4, 4), keys, batch=3, device=CPU)
    patches = tower.conv1(images).flatten(2).transpose(1, 2) + tower.positional_embedding[1:]
    first = (tower.class_embedding + tower.positional_embedding[0]).expand(3, 1, -1)
    rows = [row[places] for row, places in zip(patches, kept, strict=True)]
    expected = torch.cat([first, torch.stack(rows)], dim=1)
    seen: list[torch.Tensor] = []
    tower.ln_pre.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tower.run(images, generator=keys)
    assert torch.allclose(seen[0], expected, atol=1e-6)


def test_evaluation_sees_every_patch() -> None:
    reduced = model("random").eval()
    whole = CLIP(
        dataclasses.replace(
            reduced.config, vision=dataclasses.replace(reduced.config.vision, patch_reduction=None)
        )
    ).eval()
    whole.load_state_dict(reduced.state_dict())
    images = torch.randn(2, 3, 32, 32)
    state = torch.get_rng_state()
    assert torch.equal(reduced.encode_image(images), whole.encode_image(images))
    assert torch.equal(state, torch.get_rng_state())  # nothing is drawn
