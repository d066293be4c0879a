"""Position tables of other sizes, against torch's own interpolation and a slow loop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from clip_models.positions import (
    make_interpolation_matrix,
    make_sin_cos_table,
    resize_grid,
    resize_sequence,
)
from torch._subclasses.fake_tensor import FakeTensorMode


@pytest.mark.parametrize("new", [(14, 14), (10, 10), (5, 9), (3, 2), (1, 1), (24, 24)])
def test_grids_are_resized_as_torch_does(new: tuple[int, int]) -> None:
    table = torch.randn(7 * 9, 6)
    image = table.view(1, 7, 9, 6).permute(0, 3, 1, 2)
    expected = F.interpolate(image, size=new, mode="bicubic", antialias=True, align_corners=False)
    got = resize_grid(table, (7, 9), new)
    assert torch.allclose(got, expected[0].flatten(1).T, atol=1e-5)


@pytest.mark.parametrize("new", [1, 8, 16, 32, 77])
def test_sequences_are_resized_as_torch_does(new: int) -> None:
    table = torch.randn(16, 6)
    expected = F.interpolate(table.T[None], size=new, mode="linear", align_corners=False)[0].T
    assert torch.allclose(resize_sequence(table, new), expected, atol=1e-6)


def test_the_same_size_is_the_same_table() -> None:
    table = torch.randn(12, 4)
    assert resize_grid(table, (3, 4), (3, 4)) is table
    assert resize_sequence(table, 12) is table


def test_gradients_pass() -> None:
    table = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: resize_grid(t, (2, 3), (4, 2)), table)
    assert torch.autograd.gradcheck(lambda t: resize_sequence(t, 4), table)


def test_a_matrix_made_in_inference_mode_serves_training() -> None:
    table = torch.randn(11 * 11, 4)
    with torch.inference_mode():
        resize_grid(table, (11, 11), (5, 5))
    table.requires_grad_()
    resize_grid(table, (11, 11), (5, 5)).sum().backward()
    assert table.grad is not None


def test_tensors_without_numbers_leave_no_matrix_behind() -> None:
    with FakeTensorMode():
        assert resize_grid(torch.empty(13 * 13, 4), (13, 13), (5, 5)).shape == (25, 4)
    assert resize_grid(torch.ones(13 * 13, 4), (13, 13), (5, 5)).mean() == pytest.approx(1)
    with FakeTensorMode():
        assert resize_grid(torch.empty(13 * 13, 4), (13, 13), (5, 5)).shape == (25, 4)


def test_function_transforms_leave_no_matrix_behind() -> None:
    table = torch.randn(13 * 13, 4)
    torch.func.grad(lambda t: resize_grid(t, (13, 13), (6, 6)).sum())(table)
    assert not torch._C._functorch.is_functorch_wrapped_tensor(
        make_interpolation_matrix(13, 6, "bicubic", table)
    )


def test_half_precision_is_interpolated_in_single() -> None:
    table = torch.randn(49, 8)
    exact = resize_grid(table.bfloat16().float(), (7, 7), (12, 12))
    assert torch.equal(resize_grid(table.bfloat16(), (7, 7), (12, 12)), exact.bfloat16())


def test_sin_cos_table_is_the_formula() -> None:
    width, grid = 8, (2, 3)
    table = make_sin_cos_table(width, grid)
    assert table.shape == (6, 8)
    for row in range(2):
        for column in range(3):
            got = table[row * 3 + column].tolist()
            for offset, place in ((0, column), (4, row)):
                for i in range(2):
                    angle = place / 10000 ** (i / 2)
                    assert got[offset + i] == pytest.approx(math.sin(angle), abs=1e-6)
                    assert got[offset + 2 + i] == pytest.approx(math.cos(angle), abs=1e-6)
