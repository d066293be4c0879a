"""Towers with a token pooling, a small one written here: means of neighboring pairs."""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint, EntryPoints
from typing import NamedTuple

import pytest
import torch
from clip_models import CLIP, CLIPConfig, ConfigError
from clip_models.config import PoolingConfig, TextConfig, ViTConfig, from_dict, to_dict
from clip_models.model import compute_image_features, compute_text_features
from clip_models.model.layouts import Padded
from clip_models.model.pooled_layers import PooledLayers
from clip_models.pooling import hashed_uniform
from clip_models.pooling import token_pooling as module
from torch import Tensor, nn

LOSSES = ("pooling", "pooling2")


class Pooled(NamedTuple):
    tokens: Tensor
    mask: Tensor | None
    segment_of: Tensor
    key_bias: Tensor | None
    loss: Tensor
    record: dict[str, Tensor]


class Pairs(nn.Module):
    """Means of two neighbors that need not stay apart; `size` 1 keeps every token."""

    def __init__(self, width: int, size: int = 2, weigh: bool = False) -> None:
        super().__init__()
        self.size, self.weigh = size, weigh
        self.scale = nn.Parameter(torch.ones(width))
        self.seen: list[tuple] = []

    reads_uniform = True

    def forward(self, tokens, mask, keep_apart, causal, uniform=None):
        self.seen.append((tokens.shape, mask, keep_apart, causal, uniform))
        batch, length = tokens.shape[:2]
        real = torch.ones(batch, length, dtype=torch.bool) if mask is None else mask
        segment_of = torch.full((batch, length), -1)
        for row in range(batch):
            segment, inside = -1, 0
            for place in range(int(real[row].sum())):
                apart = bool(keep_apart[row, place])
                if apart or inside == 0 or inside == self.size:
                    segment, inside = segment + 1, 0
                segment_of[row, place] = segment
                inside = 0 if apart else inside + 1
        count = int(segment_of.max()) + 1
        weights = nn.functional.one_hot(segment_of.clamp(min=0), count) * real[..., None]
        sizes = weights.sum(1)
        means = torch.einsum("bls,bld->bsd", weights.to(tokens), tokens)
        means = self.scale * means / sizes.clamp(min=1)[..., None]
        pooled_mask = None if bool((sizes > 0).all()) else sizes > 0
        loss = self.scale.sum() * 0.5
        bias = sizes.float().log() if self.weigh else None
        return Pooled(means, pooled_mask, segment_of, bias, loss, {"counts": sizes})


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that offers `pairs`."""
    point = EntryPoint("pairs", f"{__name__}:Pairs", module.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda _: Pairs)
    monkeypatch.setattr(module, "entry_points", lambda group: EntryPoints([point]))


def tiny(
    vision: PoolingConfig | None = None, text: PoolingConfig | None = None, **changes: object
) -> CLIP:
    torch.manual_seed(0)
    small = {"width": 16, "num_layers": 2, "num_heads": 2}
    readout = {key: changes.pop(key) for key in list(changes) if key in ("class_token", "readout")}
    config = CLIPConfig(
        embed_dim=8,
        vision=ViTConfig(image_size=32, patch_size=8, pooling=vision, **small, **readout),
        text=TextConfig(context_length=9, vocab_size=20, pooling=text, **small, **changes),
    )
    return CLIP(config).eval()


def pairs(after: int, **args: object) -> PoolingConfig:
    return PoolingConfig(name="pairs", after_layer=after, args=args)


IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TOKENS = torch.tensor(
    [[1, 2, 3, 4, 5, 6, 7, 8, 19], [1, 2, 3, 19, 0, 0, 0, 0, 0], [1, 19, 0, 0, 0, 0, 0, 0, 0]]
)


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize(
    "readout",
    [
        {"readout": "class_token"},
        {"readout": "patch_average"},
        {"readout": "average"},
        {"readout": "map"},
        {"readout": "map", "class_token": False},
        {"readout": "patch_average", "class_token": False},
    ],
)
def test_pooling_that_keeps_every_token_changes_no_image_feature(
    after: int, readout: dict[str, object]
) -> None:
    pooled, plain = tiny(pairs(after, size=1), **readout), tiny(**readout)
    plain.load_state_dict(pooled.state_dict(), strict=False)
    assert torch.allclose(pooled.encode_image(IMAGES), plain.encode_image(IMAGES), atol=1e-6)


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize(
    "changes",
    [{}, {"causal": False}, {"eot_token_id": 19}],
)
def test_pooling_that_keeps_every_token_changes_no_text_feature(
    after: int, changes: dict[str, object]
) -> None:
    pooled, plain = tiny(text=pairs(after, size=1), **changes), tiny(**changes)
    plain.load_state_dict(pooled.state_dict(), strict=False)
    assert torch.allclose(pooled.encode_text(TOKENS), plain.encode_text(TOKENS), atol=1e-6)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_fewer_tokens_run_through_the_layers_behind(after: int) -> None:
    model = tiny(pairs(after), pairs(after))
    seen: list[int] = []
    for tower in (model.visual, model):
        for block in tower.transformer.resblocks:
            block.attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    model(IMAGES, TOKENS)
    vision = [17, 17, 9, 9][2 - after : 4 - after]  # the class token and 16 patches, or 8 pairs
    text = [9, 9, 5, 5][2 - after : 4 - after]  # 8 tokens and the end token, or 4 pairs
    assert seen == vision + text


def test_arguments_of_a_pooling() -> None:
    model = tiny(pairs(1), pairs(1))
    keys = torch.arange(3)
    model(IMAGES, TOKENS, generator=keys)
    shape, mask, apart, causal, uniform = model.visual.pooling[0].seen[0]
    assert (shape, mask, causal) == ((3, 17, 16), None, False)
    assert torch.equal(apart, torch.arange(17).expand(3, -1) == 0)
    assert torch.equal(uniform, hashed_uniform(keys, 17))
    shape, mask, apart, causal, uniform = model.pooling[0].seen[0]
    assert (shape, causal) == ((3, 9, 16), True)
    assert mask.sum(1).tolist() == [9, 4, 2]
    assert apart.nonzero().tolist() == [[0, 8], [1, 3], [2, 1]]
    assert torch.equal(uniform, hashed_uniform(keys, 9))


def test_losses_and_records_have_names() -> None:
    both = tiny(pairs(1), pairs(1))(IMAGES, TOKENS)
    assert {name: loss.item() for name, loss in both.losses.items()} == {
        "vision.pooling": 8.0,
        "text.pooling": 8.0,
    }
    assert both.records["vision.pooling"]["counts"].shape == (3, 9)
    none = tiny()(IMAGES, TOKENS)
    assert none.losses == none.records == {}


def test_a_caption_does_not_depend_on_its_batch() -> None:
    model = tiny(text=pairs(1))
    together = model.encode_text(TOKENS)
    for row, feature in zip(TOKENS, together, strict=True):
        assert torch.allclose(model.encode_text(row[None])[0], feature, atol=1e-6)


def test_weights_of_a_pooling_are_part_of_the_model() -> None:
    names = dict(tiny(pairs(1), pairs(1)).named_parameters())
    assert {"visual.pooling.0.scale", "pooling.0.scale"} < set(names)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'pears'; did you mean 'pairs'"):
        tiny(PoolingConfig(name="pears", after_layer=1))
    monkeypatch.setattr(module, "entry_points", lambda group: EntryPoints([]))
    with pytest.raises(ConfigError, match="token pooling 'pairs'; pip install dtp-pooling"):
        tiny(pairs(1))


def twice(first: int, second: int, size: int = 2) -> PoolingConfig:
    return dataclasses.replace(pairs(first, size=size), then=pairs(second, size=size))


@pytest.mark.parametrize("places", [(0, 0), (0, 1), (1, 2)])
@pytest.mark.parametrize("readout", [{}, {"readout": "map"}, {"readout": "patch_average"}])
def test_two_poolings_that_keep_every_token_change_no_feature(
    places: tuple[int, int], readout: dict[str, object]
) -> None:
    stages = twice(*places, size=1)
    pooled, plain = tiny(stages, stages, **readout), tiny(**readout)
    plain.load_state_dict(pooled.state_dict(), strict=False)
    assert torch.allclose(pooled.encode_image(IMAGES), plain.encode_image(IMAGES), atol=1e-6)
    assert torch.allclose(pooled.encode_text(TOKENS), plain.encode_text(TOKENS), atol=1e-6)


def test_a_second_pooling_pools_what_the_first_one_left() -> None:
    model = tiny(twice(0, 1), twice(0, 1))
    keys = torch.arange(3)
    out = model(IMAGES, TOKENS, generator=keys)
    assert set(out.losses) == {f"{t}.{p}" for t in ("vision", "text") for p in LOSSES}
    first, second = model.visual.pooling
    assert second.seen[0][0] == (3, 9, 16)  # the class token and 8 pairs
    assert torch.equal(second.seen[0][2], torch.arange(9).expand(3, -1) == 0)
    assert out.records["vision.pooling2"]["counts"].tolist() == [[1, 2, 2, 2, 2]] * 3
    assert torch.equal(first.seen[0][4], hashed_uniform(keys, 17))
    assert not torch.isin(second.seen[0][4], first.seen[0][4]).any()  # another stream
    keys = torch.tensor([-2152535657050944081, -1956407806741107680, -7541218347953203506])
    assert torch.equal(second.seen[0][4], hashed_uniform(keys, 9))
    text = model.pooling[1].seen[0]
    assert text[1].sum(1).tolist() == [5, 3, 2]  # 9, 4 and 2 tokens in pairs, the end token apart
    assert text[2].nonzero().tolist() == [[0, 4], [1, 2], [2, 1]]


def test_poolings_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="must not fall from one pooling to the next, got 2, 1"):
        tiny(twice(2, 1))


def test_a_config_with_two_poolings_is_read_back() -> None:
    config = tiny(twice(0, 1)).config
    assert from_dict(CLIPConfig, to_dict(config)) == config


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("read", [False, True])
def test_a_key_bias_weighs_a_segment_as_its_tokens(causal: bool, read: bool) -> None:
    """Copies of a token that follow each other are one token with the logarithm of their number."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(1, 4, 3, 2, 8, generator=generator)
    counts = torch.tensor([[3, 1, 4, 2]])
    many = one.repeat_interleave(counts[0], dim=1)
    last = counts.cumsum(1) - 1
    want = Padded(causal, read_at=int(last[0, 2])).attend(many, read=read)
    biased = Padded(causal, key_bias=counts.float().log(), read_at=2)
    got = biased.attend(one, read=read)
    torch.testing.assert_close(got, want if read else want[:, last[0]], rtol=0, atol=1e-5)
    junk = torch.cat([one, torch.full_like(one[:, :1], 1e4)], dim=1)
    mask = torch.arange(5)[None] < 4
    bias = torch.cat([counts.float().log(), torch.zeros(1, 1)], dim=1)
    padded = Padded(causal, mask, bias, 2).attend(junk, read=read)
    torch.testing.assert_close(padded[:, : got.shape[1]], got, rtol=0, atol=1e-5)


@pytest.mark.parametrize("first", [False, True])
def test_behind_two_poolings_a_segment_weighs_as_its_tokens_of_the_tower(first: bool) -> None:
    stages = dataclasses.replace(pairs(0, weigh=first), then=pairs(1, weigh=True))
    transformer, pooling = tiny().visual.transformer, PooledLayers(stages, 16)
    x = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(0))
    apart = torch.arange(12)[None] == 0
    got = pooling(transformer, x, keep_apart=apart)

    def layer(number: int, segments: Tensor, sizes: Tensor) -> Tensor:
        """One layer on as many copies of each segment as it has tokens, then one of each."""
        copies = segments.repeat_interleave(sizes, dim=1)
        after = transformer(copies, Padded(), start=number, stop=number + 1)
        return after[:, sizes.cumsum(0) - sizes]

    few = pooling[0](x, None, apart, False)
    ones, pairs_of, fours = torch.ones(7).long(), [1, 2, 2, 2, 2, 2, 1], [1, 4, 4, 3]
    few = layer(0, few.tokens, torch.tensor(pairs_of) if first else ones)
    fewer = pooling[1](few, None, torch.arange(7)[None] == 0, False)
    assert torch.bincount(got.segment_of[0]).tolist() == fours
    want = layer(1, fewer.tokens, torch.tensor(fours))
    torch.testing.assert_close(got.tokens, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_pooling_that_asks_for_keys_gets_those_of_the_layer_behind(
    after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Tensor] = []

    def forward(self, tokens, mask, keep_apart, causal, uniform, keys):
        given.append(keys)
        return plain(self, tokens, mask, keep_apart, causal, uniform)

    plain = Pairs.forward
    monkeypatch.setattr(Pairs, "forward", forward)
    monkeypatch.setattr(Pairs, "reads_keys", True, raising=False)
    model = tiny(pairs(after, size=1))
    block = model.visual.transformer.resblocks[min(after, 1)]
    qkv: list[Tensor] = []
    block.ln_1.register_forward_hook(
        lambda *call: qkv.append(call[2] @ block.attn.in_proj_weight.T + block.attn.in_proj_bias)
    )
    model.encode_image(IMAGES)
    assert given[0].shape == (3, 17, 16)
    assert torch.allclose(given[0], qkv[-1][..., 16:32], atol=1e-6)


@torch.no_grad()
def test_the_inside_is_mapped_back_to_the_tokens() -> None:
    tokens = torch.tensor([[1, 2, 3, 4, 5, 19, 0, 0], [1, 2, 19, 0, 0, 0, 0, 0]])
    images = torch.randn(2, 3, 32, 32)
    for size in (1, 2):
        config = PoolingConfig(name="pairs", after_layer=1, args={"size": size})
        pooled, plain = tiny(config, config).eval(), tiny().eval()
        plain.load_state_dict(pooled.state_dict(), strict=False)
        for compute, x in ((compute_image_features, images), (compute_text_features, tokens)):
            ours, whole = compute(pooled, x), compute(plain, x)
            assert [h.shape for h in ours.hidden_states] == [h.shape for h in whole.hidden_states]
            assert [a.shape for a in ours.attentions] == [a.shape for a in whole.attentions]
            real = torch.ones(x.shape[0], whole.tokens.shape[1], dtype=torch.bool)
            if x is tokens:
                real = torch.arange(8) <= torch.tensor([[5], [2]])
            sums = ours.attentions[1].sum(-1).masked_select(real[:, None])
            assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
            if size == 1:
                after = ours.hidden_states[2][real], whole.hidden_states[2][real]
                assert torch.allclose(*after, atol=1e-5)
        inside = compute_image_features(pooled, images)
        same = torch.equal(inside.hidden_states[2][:, 1], inside.hidden_states[2][:, 2])
        assert same == (size == 2)
