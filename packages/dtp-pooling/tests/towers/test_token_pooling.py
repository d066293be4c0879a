from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import entry_points

import pytest
import torch
from clip_models import ConfigError
from clip_models.config import PoolingConfig
from clip_models.pooling.token_pooling import make_token_pooling
from dtp_pooling import (
    PooledTokens,
    TokenPoolingConfig,
    sample_generators,
    token_pooling,
)
from dtp_pooling.pooling.noise import row_keys
from dtp_pooling.pooling.splitmix64 import hashed_uniform
from dtp_pooling.towers import boundary_choice
from dtp_pooling.towers import token_pooling as pooling_module

D = 8
ALL = ["top_k", "gumbel", "routing", "fixed", "random", "dissimilarity"]
CAUSAL = ["gumbel", "routing", "fixed", "random"]
BLENDED = {"smooth": True, "confidence": True}


def images(batch: int = 3, patches: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens with a class token in front, and which stay apart."""
    tokens = torch.randn(batch, patches + 1, D, generator=torch.Generator().manual_seed(0))
    apart = torch.zeros(batch, patches + 1, dtype=torch.bool)
    apart[:, 0] = True
    return tokens, apart


def captions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ragged tokens, their mask, and their end tokens apart."""
    lengths = torch.tensor([15, 4, 1, 9])
    tokens = torch.randn(4, 15, D, generator=torch.Generator().manual_seed(1))
    position = torch.arange(15)
    return tokens, position < lengths[:, None], position == lengths[:, None] - 1


def drawn(seed: int, positions: Iterable[int], length: int = 17) -> torch.Tensor:
    """Uniform numbers of samples, keyed by their positions in the data."""
    generators = sample_generators(seed, positions)
    return hashed_uniform(row_keys(len(generators), generators, torch.device("cpu")), length)


def build(kind: str, **settings: object):
    torch.manual_seed(0)
    module = token_pooling(D, kind=kind, **settings)
    if hasattr(module.scores, "out"):
        torch.nn.init.normal_(module.scores.out.weight, std=2.0)
    return module.eval()


def check_means(tokens: torch.Tensor, out: PooledTokens) -> None:
    """Each pooled token is the mean of the tokens that say they went there."""
    for row in range(len(tokens)):
        size = out.tokens.shape[1] if out.mask is None else int(out.mask[row].sum())
        for segment in range(out.tokens.shape[1]):
            members = tokens[row][out.segment_of[row] == segment]
            assert len(members) == out.record["counts"][row, segment]
            if segment < size:
                torch.testing.assert_close(out.tokens[row, segment], members.mean(0))
            else:
                assert len(members) == 0
                assert out.tokens[row, segment].abs().sum() == 0


@pytest.mark.parametrize("order", ["raster", "serpentine", "hilbert"])
@pytest.mark.parametrize("kind", ALL)
def test_images_are_pooled_into_means_with_the_class_token_first(kind, order):
    tokens, apart = images()
    out = build(kind, order=order, rate=0.25)(tokens, keep_apart=apart)
    check_means(tokens, out)
    assert (out.segment_of[:, 0] == 0).all()
    assert torch.equal(out.tokens[:, 0], tokens[:, 0])
    assert (out.record["counts"][:, 0] == 1).all()
    if kind not in ("gumbel", "routing"):
        assert out.tokens.shape == (3, 5, D)
        assert out.mask is None
        assert out.loss == 0


@pytest.mark.parametrize("order", ["raster", "serpentine", "hilbert"])
def test_segments_are_stretches_of_the_order(order):
    from dtp_pooling.towers.token_order import grid_order

    tokens, apart = images()
    out = build("top_k", order=order, rate=0.5)(tokens, keep_apart=apart)
    along = out.segment_of[:, 1:][:, grid_order(4, 4, order)]
    assert (along.diff(dim=1) >= 0).all()
    assert (along.diff(dim=1) <= 1).all()


@pytest.mark.parametrize(
    ("patches", "rate", "expected"), [(196, 0.25, 49), (49, 0.1, 5), (9, 1, 9)]
)
@pytest.mark.parametrize("kind", ["top_k", "fixed", "random", "dissimilarity"])
@pytest.mark.parametrize("training", [False, True])
def test_the_number_of_segments_is_exact(kind, patches, rate, expected, training):
    tokens, apart = images(2, patches)
    out = build(kind, rate=rate).train(training)(tokens, keep_apart=apart)
    assert out.tokens.shape[1] == expected + 1
    assert out.mask is None
    assert out.record["rate"].item() == pytest.approx(expected / patches)
    assert out.record["shortening"].item() == pytest.approx((patches + 1) / (expected + 1))


def test_fixed_segments_differ_by_at_most_one_token():
    tokens, apart = images(1, 10)
    counts = build("fixed", rate=0.3)(tokens, keep_apart=apart).record["counts"][0, 1:]
    assert sorted(counts.tolist()) == [3, 3, 4]


@pytest.mark.parametrize("order", ["raster", "serpentine", "hilbert"])
@pytest.mark.parametrize("kind", ["top_k", "fixed", "random", "dissimilarity"])
def test_rate_one_keeps_every_token(kind, order):
    tokens, apart = images()
    out = build(kind, order=order, rate=1)(tokens, keep_apart=apart)
    assert out.tokens.shape == tokens.shape
    gathered = out.tokens.gather(1, out.segment_of[..., None].expand_as(tokens))
    assert torch.equal(gathered, tokens)
    if order == "raster":
        assert torch.equal(out.tokens, tokens)


@pytest.mark.parametrize("kind", ALL)
def test_captions_keep_the_end_token_apart_and_drop_padding(kind):
    tokens, mask, apart = captions()
    out = build(kind, rate=0.4)(tokens, mask, apart)
    check_means(tokens, out)
    assert (out.segment_of[~mask] == -1).all()
    for row in range(4):
        end = int(mask[row].sum()) - 1
        segment = int(out.segment_of[row, end])
        assert (out.segment_of[row] == segment).sum() == 1
        assert torch.equal(out.tokens[row, segment], tokens[row, end])
        assert out.mask[row].sum() == segment + 1  # the end token is the last one


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [*((kind, {}) for kind in ALL), *((kind, BLENDED) for kind in ("top_k", "gumbel", "routing"))],
)
def test_row_does_not_depend_on_batch_mates_or_padding(kind, settings, training):
    tokens, mask, apart = captions()
    module = build(kind, rate=0.4, **settings).train(training)
    noise = drawn(3, range(4), 15)
    together = module(tokens, mask, apart, uniform=noise)
    losses = []
    for row in range(4):
        n = int(mask[row].sum())
        alone = module(
            tokens[row : row + 1, :n],
            keep_apart=apart[row : row + 1, :n],
            uniform=drawn(3, [row], n),
        )
        size = alone.tokens.shape[1]
        assert alone.mask is None
        assert together.mask[row].sum() == size
        assert torch.equal(together.tokens[row, :size], alone.tokens[0])
        assert torch.equal(together.segment_of[row, :n], alone.segment_of[0])
        losses.append(alone.loss)
    torch.testing.assert_close(together.loss, torch.stack(losses).mean())
    junk = torch.where(mask[..., None], tokens, torch.nan)
    padded = module(junk, mask, apart, uniform=drawn(3, range(4), 15))
    assert torch.equal(padded.tokens, together.tokens)


@pytest.mark.parametrize("scores", ["mlp", "cosine"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [*((kind, {}) for kind in CAUSAL), ("gumbel", BLENDED), ("routing", BLENDED)],
)
def test_causal_segments_do_not_depend_on_later_content(kind, settings, scores):
    tokens, mask, apart = captions()
    module = build(kind, rate=0.4, scores=scores, evaluation="pattern", **settings)
    before = module(tokens, mask, apart, causal=True)
    for t in range(2, 14):
        changed = tokens.clone()
        changed[:, t:] = torch.randn(4, 15 - t, D)
        after = module(changed, mask, apart, causal=True)
        assert torch.equal(before.segment_of[:, :t], after.segment_of[:, :t])
        finished = int(before.segment_of[0, t - 1])  # all segments before this one are complete
        assert torch.equal(before.tokens[0, :finished], after.tokens[0, :finished])
    assert before.record["counts"].max() > 1


@pytest.mark.parametrize("kind", ["top_k", "dissimilarity"])
def test_kinds_that_look_ahead_are_refused_in_causal_towers(kind):
    tokens, mask, apart = captions()
    with pytest.raises(ValueError, match="would leak them in a causal tower"):
        build(kind)(tokens, mask, apart, causal=True)


@pytest.mark.parametrize("kind", ALL)
def test_evaluation_is_bit_equal_twice_and_draws_nothing(kind):
    tokens, apart = images()
    module = build(kind)
    before = torch.get_rng_state()
    runs = [module(tokens, keep_apart=apart) for _ in range(2)]
    assert torch.equal(runs[0].tokens, runs[1].tokens)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["top_k", "gumbel", "random"])
def test_training_draws(kind):
    tokens, apart = images()
    module = build(kind).train()
    runs = [
        module(tokens, keep_apart=apart, uniform=drawn(seed, range(3))).segment_of
        for seed in range(2)
    ]
    assert not torch.equal(*runs)


@pytest.mark.parametrize("kind", ["top_k", "gumbel", "random"])
def test_a_row_s_numbers_give_it_the_same_segments_in_any_batch(kind):
    tokens, apart = images()
    module = build(kind).train()
    numbers = hashed_uniform(torch.tensor([11, -12, 13]), tokens.shape[1])
    together = module(tokens, keep_apart=apart, uniform=numbers)
    other = torch.tensor([2, 0])
    again = module(tokens[other], keep_apart=apart[other], uniform=numbers[other])
    assert torch.equal(again.segment_of, together.segment_of[other])


@pytest.mark.parametrize("kind", ["top_k", "gumbel", "routing"])
@pytest.mark.parametrize("training", [False, True])
def test_unsure_segments_are_blended_as_in_the_loop(kind, training):
    tokens, mask, apart = captions()
    settings = {"rate": 0.4, "scores": "cosine"}
    numbers = drawn(3, range(4), 15)
    plain = build(kind, **settings).train(training)(tokens, mask, apart, uniform=numbers)
    blended = build(kind, **settings, **BLENDED).train(training)
    out = blended(tokens, mask, apart, uniform=numbers)
    assert torch.equal(out.segment_of, plain.segment_of)
    p = blended.scores(tokens, mask.sum(1)).sigmoid()
    checked = 0
    for row in range(4):
        end = int(mask[row].sum()) - 1  # the end token: before it a boundary is forced
        value = plain.tokens[row, 0]
        for segment in range(int(plain.mask[row].sum())):
            first = int((plain.segment_of[row] == segment).nonzero()[0])
            if segment and first == end:
                value = plain.tokens[row, segment]
            elif segment:
                chance = p[row, first - 1]  # of the boundary between the two
                value = chance * plain.tokens[row, segment] + (1 - chance) * value
                checked += 1
            torch.testing.assert_close(out.tokens[row, segment], value, rtol=0, atol=1e-5)
        assert torch.equal(out.tokens[row, segment], tokens[row, end])  # as it was
    assert checked > 3
    assert out.tokens[~out.mask].abs().sum() == 0


@pytest.mark.parametrize("part", ["smooth", "confidence"])
@pytest.mark.parametrize("kind", ["top_k", "gumbel", "routing"])
def test_each_part_alone_lets_the_task_reach_the_probabilities(kind, part, monkeypatch):
    tokens, apart = images()
    module = build(kind, rate=0.4, scores="cosine", **{part: True}).train()
    numbers = drawn(0, range(3))
    detached = boundary_choice.choose_boundaries

    def choose(*arguments):
        return detached(*arguments).detach()  # no gradient through the boundaries themselves

    monkeypatch.setattr(pooling_module, "choose_boundaries", choose)
    module(tokens, keep_apart=apart, uniform=numbers).tokens.pow(3).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in module.scores.parameters())


@pytest.mark.parametrize("order", ["raster", "hilbert"])
@pytest.mark.parametrize("scores", ["mlp", "cosine"])
@pytest.mark.parametrize("kind", ["top_k", "gumbel", "routing"])
def test_task_gradient_reaches_the_scores_and_the_tokens(kind, scores, order):
    tokens, apart = images()
    module = build(kind, scores=scores, order=order).train()
    tokens.requires_grad_()
    out = module(tokens, keep_apart=apart, uniform=drawn(0, range(3)))
    out.tokens.pow(3).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in module.parameters())
    assert (tokens.grad.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("rate_loss", ["binomial", "ratio", "interval"])
def test_rate_losses_count_poolable_tokens_only(rate_loss):
    tokens, apart = images()
    module = build("gumbel", rate_loss=rate_loss, rate=0.3, interval=(0.3, 0.31), weight=2.0)
    with_class = module(tokens, keep_apart=apart)
    without = module(tokens[:, 1:])
    torch.testing.assert_close(with_class.loss, without.loss)
    assert with_class.loss > 0
    half = build("gumbel", rate_loss=rate_loss, rate=0.3, interval=(0.3, 0.31), weight=1.0)
    torch.testing.assert_close(half(tokens, keep_apart=apart).loss * 2, with_class.loss)


def test_dissimilarity_cuts_where_neighbors_differ():
    base = torch.eye(D)[:4]
    tokens = base.repeat_interleave(torch.tensor([3, 1, 4, 2]), dim=0)[None]
    out = build("dissimilarity", rate=0.4)(tokens)
    assert out.record["counts"].tolist() == [[3, 1, 4, 2]]
    torch.testing.assert_close(out.tokens[0], base)
    assert not list(build("dissimilarity").parameters())


@pytest.mark.parametrize("kind", ["top_k", "dissimilarity"])
def test_a_known_number_of_segments_can_be_exported(kind):
    tokens, apart = images()
    plain, module = build(kind, rate=0.25), build(kind, rate=0.25, max_segments=5)
    arguments = {"tokens": tokens, "keep_apart": apart}
    exported = torch.export.export(module, (), arguments, strict=False).module()
    for x in (tokens, torch.randn_like(tokens)):
        want = plain(x, keep_apart=apart)
        assert torch.equal(module(x, keep_apart=apart).tokens, want.tokens)
        out = exported(tokens=x, keep_apart=apart)
        assert torch.equal(out.tokens, want.tokens)
        assert out.mask.all()
    with pytest.raises(ValueError, match=r"max_segments=4 is too small: a row has 5"):
        build(kind, rate=0.25, max_segments=4)(tokens, keep_apart=apart)


@pytest.mark.parametrize("order", ["raster", "hilbert"])
def test_keys_decide_where_they_are_compared(order):
    tokens, apart = images()
    keys = torch.randn(3, 17, 5)
    module = build("dissimilarity", compare="keys", order=order)
    assert module.reads_keys
    assert not build("dissimilarity").reads_keys
    out = module(tokens, keep_apart=apart, keys=keys)
    check_means(tokens, out)
    by_keys = build("dissimilarity", order=order)(keys, keep_apart=apart).segment_of
    assert torch.equal(out.segment_of, by_keys)
    assert not torch.equal(module(tokens, keep_apart=apart, keys=tokens).segment_of, by_keys)
    with pytest.raises(ValueError, match=r"needs keys \(B, L, ·\).*got None"):
        module(tokens, keep_apart=apart)


def test_two_stages_follow_each_other():
    tokens, apart = images()
    first = build("top_k", rate=0.5, order="hilbert")(tokens, keep_apart=apart)
    second_apart = torch.arange(first.tokens.shape[1]).expand(3, -1) == first.segment_of[:, :1]
    second = build("fixed", rate=0.5)(first.tokens, first.mask, second_apart)
    assert second.tokens.shape == (3, 5, D)
    assert torch.equal(second.tokens[:, 0], tokens[:, 0])
    whole = second.segment_of.gather(1, first.segment_of)  # from the first tokens to the last
    assert set(whole.flatten().tolist()) == set(range(5))


def test_tokens_apart_in_the_middle_cut_segments():
    tokens = torch.randn(1, 9, D)
    apart = torch.zeros(1, 9, dtype=torch.bool)
    apart[0, 4] = True
    out = build("fixed", rate=0.01)(tokens, keep_apart=apart)
    assert out.segment_of.tolist() == [[0, 0, 0, 0, 1, 2, 2, 2, 2]]


def test_proportional_attention_over_segments_of_equal_tokens_is_that_over_the_tokens():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 4, D, generator=generator, dtype=torch.float64)
    tokens = base.repeat_interleave(torch.tensor([3, 1, 4, 2]), dim=1)
    out = build("dissimilarity", rate=0.4, proportional=True)(tokens)
    assert build("dissimilarity", rate=0.4)(tokens).key_bias is None
    query = torch.randn(1, 1, 5, D, generator=generator, dtype=torch.float64)
    attend = torch.nn.functional.scaled_dot_product_attention
    want = attend(query, tokens[:, None], tokens[:, None])
    keys = torch.cat([out.tokens, torch.randn(1, 1, D)], 1)[:, None]  # and one that is no segment
    bias = torch.nn.functional.pad(out.key_bias, (0, 1), value=-torch.inf)
    got = attend(query, keys, keys, attn_mask=bias[:, None, None].double())
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_nan_at_extreme_logits(dtype):
    for kind in ("top_k", "gumbel"):
        module = build(kind).train()
        with torch.no_grad():
            module.scores.out.weight.mul_(1000)
        tokens = images()[0].to(dtype).requires_grad_()
        assert module.scores(tokens).abs().max() > 80
        out = module(tokens, uniform=drawn(0, range(3)))
        assert out.tokens.dtype == dtype
        (out.tokens.float().pow(2).mean() + out.loss).backward()
        assert tokens.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in module.parameters())


def test_the_entry_point_builds_from_plain_settings():
    (entry,) = entry_points(group="clip_models.token_pooling", name="dynamic")
    module = entry.load()(D, kind="gumbel", rate=0.5, grid=[2, 8])
    assert module.config == TokenPoolingConfig(kind="gumbel", rate=0.5, grid=(2, 8))
    with pytest.raises(ValueError, match="did you mean 'rate'"):
        token_pooling(D, rates=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": torch.zeros(2, 3)}, r"tokens must be \(B, L, D\)"),
        ({"mask": torch.ones(2, 3)}, "mask must be a bool"),
        ({"keep_apart": torch.ones(2, 5, dtype=torch.bool)}, "keep_apart must be a bool"),
        ({"mask": torch.tensor([[False, True, True, True]] * 2)}, "real tokens after padding"),
    ],
)
def test_wrong_inputs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build("fixed")(**({"tokens": torch.zeros(2, 4, D)} | arguments))


def test_grid_orders_are_for_whole_images():
    module = build("fixed", order="hilbert")
    tokens = torch.zeros(2, 4, D)
    with pytest.raises(ValueError, match="for whole images"):
        module(tokens, causal=True)
    with pytest.raises(ValueError, match="for whole images"):
        module(tokens, mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="for whole images"):
        module(tokens, keep_apart=torch.eye(4)[:2].bool())
    with pytest.raises(ValueError, match="needs a grid of 2 x 2 patches, got 5"):
        module(torch.zeros(2, 5, D))
    out = build("fixed", order="hilbert", grid=(1, 5), rate=0.4)(torch.zeros(2, 5, D))
    assert out.tokens.shape == (2, 2, D)


@pytest.mark.parametrize(
    "settings",
    [
        {"compare": "keys"},
        {"kind": "merge"},
        {"rate": 0.0},
        {"kind": "gumbel", "rate": 1.0},
        {"kind": "routing", "rate": 1.0},
        {"kind": "fixed", "smooth": True},
        {"kind": "dissimilarity", "confidence": True},
        {"temperature": 0.0},
        {"hidden": -1},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(reversed(settings))):
        TokenPoolingConfig(**settings)


@pytest.mark.parametrize("order", ["raster", "hilbert"])
@pytest.mark.parametrize("kind", ALL)
def test_an_empty_batch_has_no_segments(kind, order):
    out = build(kind, order=order, rate=0.5)(
        torch.zeros(0, 5, D), keep_apart=torch.zeros(0, 5, dtype=torch.bool)
    )
    assert out.tokens.shape[0] == 0
    assert out.segment_of.shape == (0, 5)


@pytest.mark.parametrize("kind", ["top_k", "fixed", "dissimilarity"])
def test_an_exported_graph_needs_no_number_of_segments_and_takes_any_batch(kind):
    """With trainable weights and gradients enabled; rows are padded to the most segments."""
    tokens, apart = images()
    module = build(kind, rate=0.25)
    batch = torch.export.Dim.DYNAMIC
    shapes = {"tokens": {0: batch}, "keep_apart": {0: batch}}
    arguments = {"tokens": tokens, "keep_apart": apart}
    exported = torch.export.export(module, (), arguments, dynamic_shapes=shapes).module()
    for rows in (1, 2, 3):
        x, kept = torch.randn_like(tokens)[:rows], apart[:rows]
        want, out = module(x, keep_apart=kept), exported(tokens=x, keep_apart=kept)
        size = want.tokens.shape[1]
        torch.testing.assert_close(out.tokens[:, :size], want.tokens)
        assert not out.tokens[:, size:].any()
        assert torch.equal(out.mask.sum(1), torch.full((rows,), size))
        assert torch.equal(out.segment_of, want.segment_of)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "topk"}, "kind must be one of"),
        ({"rate": 7}, "rate must be"),
        ({"rate": "half"}, "rate must be"),
        ({"order": "spiral"}, "order must be one of"),
        ({"kinds": "top_k"}, "kinds"),
    ],
)
def test_wrong_settings_in_a_model_s_config_are_config_errors(arguments, message):
    config = PoolingConfig(name="dynamic", after_layer=1, args=arguments)
    with pytest.raises(ConfigError, match=f"token pooling 'dynamic': .*{message}"):
        make_token_pooling(config, 16)
