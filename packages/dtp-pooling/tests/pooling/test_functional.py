from __future__ import annotations

import pytest
import torch
from dtp_pooling import Pooled, closed_segment_of, pool, unpool
from torch import Tensor

B, L, D = 4, 13, 5
PATTERNS = ["none", "all", "first", "last", "random", "ragged"]


def case(pattern: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tokens, boundaries and lengths of one named pattern."""
    generator = torch.Generator().manual_seed(PATTERNS.index(pattern))
    h = torch.randn(B, L, D, generator=generator, dtype=torch.float64).to(dtype)
    b = torch.zeros(B, L, dtype=dtype)
    lengths = None
    if pattern == "all":
        b[:] = 1
    elif pattern == "first":
        b[:, 0] = 1
    elif pattern == "last":
        b[:, -1] = 1
    elif pattern in ("random", "ragged"):
        b = (torch.rand(B, L, generator=generator) < torch.tensor([[0.1], [0.3], [0.6], [0.9]])).to(
            dtype
        )
    if pattern == "ragged":
        lengths = torch.tensor([13, 0, 1, 7])
    return h, b, lengths


def loop_segments(b: Tensor, length: int, tail: str) -> list[list[int]]:
    """Token positions of each segment of one row."""
    segments: list[list[int]] = [[]]
    for t in range(length):
        segments[-1].append(t)
        if b[t] == 1:
            segments.append([])
    unfinished = segments.pop()
    return segments + ([unfinished] if unfinished and tail == "keep" else [])


def loop_pool(
    h: Tensor, b: Tensor, lengths: Tensor | None, reduce: str, tail: str, null: Tensor | None
) -> list[Tensor]:
    """(segments, D) of every row, one token at a time."""
    rows = []
    for row in range(len(h)):
        length = h.shape[1] if lengths is None else int(lengths[row])
        values = [] if null is None else [null]
        for positions in loop_segments(b[row], length, tail):
            total = sum((h[row, t] for t in positions), torch.zeros(h.shape[2], dtype=h.dtype))
            pick = {"first": h[row, positions[0]], "last": h[row, positions[-1]]}
            values.append(pick.get(reduce, total / len(positions) if reduce == "mean" else total))
        rows.append(torch.stack(values) if values else h.new_zeros(0, h.shape[2]))
    return rows


def rows_of(pooled: Pooled) -> list[Tensor]:
    sizes = pooled.lengths.tolist()
    if pooled.values.dim() == 2:
        return list(pooled.values.split(sizes))
    return [pooled.values[i, :n] for i, n in enumerate(sizes)]


def dense_pool(h: Tensor, b: Tensor) -> Tensor:
    """Nawrot et al.'s dense formula, differentiable in b: (B, S, D) of the closed segments."""
    before = b.cumsum(1) - b  # (B, L)
    segments = int(b.detach().sum(1).max())
    difference = torch.arange(segments, dtype=b.dtype) - before[..., None]  # (B, L, S)
    weight = (1 - difference) * (difference.detach() == 0)
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
    return torch.einsum("bls,bld->bsd", weight, h)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("reduce", ["mean", "sum", "first", "last"])
@pytest.mark.parametrize("tail", ["keep", "drop"])
@pytest.mark.parametrize("with_null", [False, True])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_values_equal_the_loop(pattern, reduce, tail, with_null, layout):
    h, b, lengths = case(pattern)
    null = torch.arange(D, dtype=h.dtype) if with_null else None
    pooled = pool(h, b, reduce, tail, null, lengths, layout)
    expected = loop_pool(h, b, lengths, reduce, tail, null)
    assert pooled.lengths.tolist() == [len(row) for row in expected]
    for got, want in zip(rows_of(pooled), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    if layout == "padded":
        assert pooled.values.shape == (B, max(len(row) for row in expected), D)
        assert pooled.values[~pooled.mask].abs().sum() == 0


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("tail", ["keep", "drop"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_counts_and_segment_of_equal_the_loop(pattern, tail, layout):
    h, b, lengths = case(pattern)
    pooled = pool(h, b, "mean", tail, torch.zeros(D, dtype=h.dtype), lengths, layout)
    counts = pooled.counts[pooled.mask] if layout == "padded" else pooled.counts
    expected_counts, expected_of = [], torch.full((B, L), -1)
    for row in range(B):
        length = L if lengths is None else int(lengths[row])
        segments = loop_segments(b[row], length, tail)
        expected_counts += [0] + [len(positions) for positions in segments]
        for index, positions in enumerate(segments):
            expected_of[row, positions] = index + 1
    assert counts.tolist() == expected_counts
    assert torch.equal(pooled.segment_of, expected_of)
    assert pooled.cu_seqlens.dtype == torch.int32
    assert int(pooled.cu_seqlens[-1]) == len(expected_counts)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("reduce", ["mean", "sum", "first", "last"])
@pytest.mark.parametrize("tail", ["keep", "drop"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_pool_gradcheck(pattern, reduce, tail, layout):
    h, b, lengths = case(pattern)
    h = h[..., :2].contiguous()
    null = torch.randn(2, dtype=h.dtype)

    def values(h: Tensor, null: Tensor) -> Tensor:
        return pool(h, b, reduce, tail, null, lengths, layout).values

    assert torch.autograd.gradcheck(values, (h.requires_grad_(), null.requires_grad_()))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_unpool_equals_the_loop_and_gradcheck(pattern, causal, layout):
    h, b, lengths = case(pattern)
    null = torch.randn(D, dtype=h.dtype)
    pooled = pool(h, b, "mean", "drop", null, lengths, layout)
    index = pooled.segment_of
    if causal:
        valid = torch.arange(L) < (torch.full((B,), L) if lengths is None else lengths)[:, None]
        index = closed_segment_of(b * valid)
    cu = pooled.cu_seqlens if layout == "packed" else None
    got = unpool(pooled.values, index, cu)
    rows = rows_of(pooled)
    for row in range(B):
        closed = 0
        for t in range(L):
            inside = lengths is None or t < lengths[row]
            closed += int(b[row, t] == 1 and inside)
            want = closed if causal else int(index[row, t])
            value = rows[row][want] if want >= 0 else torch.zeros(D, dtype=h.dtype)
            assert torch.equal(got[row, t], value)
    leaf = pooled.values[..., :2].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: unpool(v, index, cu), (leaf,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pattern", ["all", "first", "last", "random"])
def test_values_and_straight_through_gradient_equal_the_dense_formula(pattern, dtype):
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    h, b, _ = case(pattern, dtype)
    weight = torch.randn(B, int(b.sum(1).max()), D, dtype=dtype)
    closed = torch.arange(weight.shape[1]) < b.sum(1)[:, None]
    gradients = []
    for formula in (lambda h, b: pool(h, b, tail="drop").values, dense_pool):
        leaves = (h.clone().requires_grad_(), b.clone().requires_grad_())
        values = formula(*leaves) * closed[..., None]
        gradients.append((values, *torch.autograd.grad((values * weight).sum(), leaves)))
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
    assert pattern != "random" or gradients[0][2].abs().max() > 0.1


def test_boundary_gradient_of_a_kept_tail_is_that_of_a_closing_last_token():
    h, b, _ = case("random")
    b[:, -1] = 1
    closed = b.clone().requires_grad_()
    kept = b.clone()
    kept[:, -1] = 0
    kept.requires_grad_()
    weight = torch.randn_like(pool(h, b).values)
    for boundaries in (closed, kept):
        (pool(h, boundaries).values * weight).sum().backward()
    assert closed.grad is not None
    assert torch.equal(closed.grad, kept.grad)
    assert closed.grad.abs().max() > 0.1


def test_sum_gradient_to_boundaries_is_the_unnormalized_dense_one():
    h, b, _ = case("random")
    b[:, -1] = 1
    weight = torch.randn(B, int(b.sum(1).max()), D, dtype=h.dtype)
    leaves = [b.clone().requires_grad_() for _ in range(2)]
    (pool(h, leaves[0], "sum").values * weight).sum().backward()
    before = leaves[1].cumsum(1) - leaves[1]
    difference = torch.arange(weight.shape[1]) - before[..., None]
    matrix = (1 - difference) * (difference.detach() == 0)
    (torch.einsum("bls,bld->bsd", matrix, h) * weight).sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reduce", ["first", "last"])
def test_selection_gives_boundaries_no_gradient(reduce):
    h, b, _ = case("random")
    leaf = b.requires_grad_()
    values = pool(h.requires_grad_(), leaf, reduce).values
    assert torch.autograd.grad(values.sum(), leaf, allow_unused=True)[0] is None


@pytest.mark.parametrize("reduce", ["mean", "sum", "first", "last"])
@pytest.mark.parametrize("tail", ["keep", "drop"])
def test_row_does_not_depend_on_its_batch_mates(reduce, tail):
    h, b, lengths = case("ragged", torch.float32)
    null = torch.randn(D)
    padded = pool(h, b, reduce, tail, null, lengths)
    packed = pool(h, b, reduce, tail, null, lengths, "packed")
    for row in range(B):
        n = int(lengths[row])
        alone = pool(h[row : row + 1, :n], b[row : row + 1, :n], reduce, tail, null)
        assert torch.equal(rows_of(padded)[row], alone.values[0])
        assert torch.equal(rows_of(packed)[row], alone.values[0])
        assert torch.equal(padded.segment_of[row, :n], alone.segment_of[0])


def test_row_gradients_do_not_depend_on_batch_mates_or_on_what_padding_holds():
    h, b, lengths = case("ragged")
    junk = h.clone()
    junk[torch.arange(L) >= lengths[:, None]] = torch.nan
    results = []
    for tokens in (h, junk):
        leaves = (tokens.clone().requires_grad_(), b.clone().requires_grad_())
        values = pool(*leaves, lengths=lengths).values
        results.append((values, *torch.autograd.grad(values.pow(2).sum(), leaves)))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
    alone = b[3:, :7].clone().requires_grad_()
    pool(h[3:, :7], alone).values.pow(2).sum().backward()
    torch.testing.assert_close(results[0][2][3, :7], alone.grad[0], rtol=0, atol=1e-14)


def test_low_precision_accumulates_in_float32_and_counts_in_integers():
    h = torch.full((1, 4096, 2), 1.0, dtype=torch.bfloat16)
    b = torch.ones(1, 4096, dtype=torch.bfloat16)
    b[0, 1024:4095] = 0  # a running sum in bfloat16 stops at 256
    pooled = pool(h, b, "sum")
    assert pooled.values.dtype == torch.bfloat16
    assert pooled.values.shape[1] == 1025
    assert pooled.values[0, -1].tolist() == [3072.0, 3072.0]
    fine = torch.randn(1, 4096, 2)
    coarse = pool(fine.bfloat16(), b).values
    exact = pool(fine.bfloat16().double(), b).values
    assert torch.equal(coarse, exact.bfloat16())


def test_long_segments_round_as_little_as_the_dense_formula():
    generator = torch.Generator().manual_seed(0)
    h = 5 + torch.randn(2, 2048, 3, generator=generator)
    b = torch.zeros(2, 2048)
    b[:, 1500] = 1
    values = pool(h, b).values
    torch.testing.assert_close(values.double(), pool(h.double(), b).values, rtol=0, atol=2e-6)
    alone = pool(h[:1, :1501], b[:1, :1501]).values  # the parts of a segment are its own
    assert torch.equal(alone[0, 0], values[0, 0])
    read = pool(h, b).segment_of
    read[:, ::3] = -1
    leaf = values.detach().requires_grad_()
    gradient = 5 + torch.randn(2, 2048, 3, generator=generator)
    unpool(leaf, read).backward(gradient)
    exact = leaf.detach().double().requires_grad_()
    unpool(exact, read).backward(gradient.double())
    assert leaf.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=5e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.bfloat16])
def test_boundaries_of_every_dtype_agree(dtype):
    h, b, _ = case("random")
    assert torch.equal(pool(h, b.to(dtype)).values, pool(h, b).values)
    if dtype.is_floating_point:
        leaf = b.to(dtype).requires_grad_()
        pool(h, leaf).values.pow(2).sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.dtype == dtype


def test_one_segment_per_token_is_the_identity():
    h, b, _ = case("all")
    pooled = pool(h, b)
    assert torch.equal(pooled.values, h)
    assert torch.equal(unpool(pooled.values, pooled.segment_of), h)


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("with_null", [False, True])
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
def test_empty_inputs(shape, layout, with_null):
    h = torch.zeros(shape, requires_grad=True)
    b = torch.zeros(shape[:2], requires_grad=True)
    null = torch.zeros(shape[2]) if with_null else None
    pooled = pool(h, b, null=null, layout=layout)
    assert pooled.values.shape[-1] == shape[2]
    assert pooled.mask.sum() == pooled.lengths.sum()
    assert pooled.segment_of.shape == shape[:2]
    cu = pooled.cu_seqlens if layout == "packed" else None
    out = unpool(pooled.values, pooled.segment_of, cu)
    assert out.shape == shape
    out.sum().backward()


def test_no_boundary_and_dropped_tail_leave_only_the_null():
    h, b, _ = case("none")
    pooled = pool(h, b, tail="drop", null=torch.ones(D, dtype=h.dtype))
    assert torch.equal(pooled.values, torch.ones(B, 1, D, dtype=h.dtype))
    assert (pooled.segment_of == -1).all()


def test_max_segments_pads_and_is_enforced():
    h, b, _ = case("random")
    exact = pool(h, b)
    wide = pool(h, b, max_segments=20)
    assert wide.values.shape == (B, 20, D)
    assert torch.equal(wide.values[:, : exact.values.shape[1]], exact.values)
    assert torch.equal(wide.mask, torch.arange(20) < exact.lengths[:, None])
    with pytest.raises(ValueError, match="max_segments=2 is too small"):
        pool(h, b, max_segments=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"h": torch.zeros(2, 3)}, r"h must be a floating \(B, L, D\)"),
        ({"boundaries": torch.zeros(2, 4)}, r"boundaries must be \(B, L\) = \(2, 3\)"),
        ({"reduce": "max"}, "reduce must be one of"),
        ({"tail": "merge"}, "tail must be one of"),
        ({"layout": "nested"}, "layout must be one of"),
        ({"null": torch.zeros(3)}, r"null must be \(D,\) = \(4,\)"),
        ({"lengths": torch.tensor([1])}, r"lengths must be \(B,\) = \(2,\)"),
        ({"layout": "packed", "max_segments": 3}, "max_segments has no meaning"),
    ],
)
def test_wrong_arguments_say_what_was_expected(arguments, message):
    given = {"h": torch.zeros(2, 3, 4), "boundaries": torch.zeros(2, 3)} | arguments
    with pytest.raises(ValueError, match=message):
        pool(**given)


def test_unpool_wants_cu_seqlens_exactly_for_packed_values():
    index = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="need cu_seqlens exactly when they are packed"):
        unpool(torch.zeros(3, 4), index)
    with pytest.raises(ValueError, match="need cu_seqlens exactly when they are packed"):
        unpool(torch.zeros(1, 3, 4), index, torch.tensor([0, 3]))


def test_unpool_refuses_segments_that_a_row_does_not_have():
    h, b, _ = case("random")
    own = pool(h, b, tail="drop")
    with pytest.raises(ValueError, match="counts a null segment"):
        unpool(own.values, closed_segment_of(b))
    with pytest.raises(ValueError, match="4 rows, segment_of has 2"):
        unpool(own.values, own.segment_of[:2])
