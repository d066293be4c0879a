from __future__ import annotations

import math

import pytest
import torch
from dtp_pooling.language_model.config import BoundaryConfig
from dtp_pooling.language_model.hourglass_checkpoint import load_hourglass
from torch import Tensor
from torch.nn import functional as F

V, D, H, C, INNER = 11, 12, 3, 4, 20
State = dict[str, Tensor]


def make_state(depths: list[int], predictor: bool, seed: int = 0) -> State:
    """Random weights under the reference's names."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.3

    state = {
        "word_emb.weight": normal(V, D),
        "r_w_bias": normal(H, C),
        "r_r_bias": normal(H, C),
        "pos_emb.inv_freq": normal(D // 2),
        "final_cast.weight": normal(V, D),
        "final_cast.bias": normal(V),
    }
    for stage, depth in enumerate(depths):
        for layer in range(depth):
            prefix = f"layers.{stage}.{layer}."
            linear = {
                "dec_attn.qkv_net": (3 * H * C, D),
                "dec_attn.r_net": (H * C, D),
                "dec_attn.o_net": (D, H * C),
                "pos_ff.CoreNet.0": (INNER, D),
                "pos_ff.CoreNet.3": (D, INNER),
            }
            for name, shape in linear.items():
                state[f"{prefix}{name}.weight"] = normal(*shape)
                state[f"{prefix}{name}.bias"] = normal(shape[0])
            for name in ("dec_attn.layer_norm", "pos_ff.layer_norm"):
                state[f"{prefix}{name}.weight"] = 1 + normal(D)
                state[f"{prefix}{name}.bias"] = normal(D)
    if len(depths) == 3:
        state["null_group"] = normal(1, 1, D)
        state["down_ln.weight"], state["down_ln.bias"] = 1 + normal(D), normal(D)
    if predictor:
        state["boundary_predictor.boundary_predictor.0.weight"] = normal(INNER, D)
        state["boundary_predictor.boundary_predictor.0.bias"] = normal(INNER)
        state["boundary_predictor.boundary_predictor.2.weight"] = normal(1, INNER)
        state["boundary_predictor.boundary_predictor.2.bias"] = normal(1)
    return {name: value.float().double() for name, value in state.items()}


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (D,), state[f"{name}.weight"], state[f"{name}.bias"])


def reference_layer(state: State, prefix: str, x: Tensor) -> Tensor:
    """One Transformer-XL layer on (L, D), written from the paper's score, pair by pair."""
    length = len(x)
    q, k, v = linear(state, prefix + "dec_attn.qkv_net", x).view(length, 3, H, C).unbind(1)
    frequency = 10000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    out = torch.zeros(length, H, C, dtype=x.dtype)
    for i in range(length):
        scores = torch.zeros(i + 1, H, dtype=x.dtype)
        for j in range(i + 1):
            angle = (i - j) * frequency
            r = linear(state, prefix + "dec_attn.r_net", torch.cat([angle.sin(), angle.cos()]))
            content = ((q[i] + state["r_w_bias"]) * k[j]).sum(-1)
            position = ((q[i] + state["r_r_bias"]) * r.view(H, C)).sum(-1)
            scores[j] = (content + position) / math.sqrt(C)
        out[i] = (scores.softmax(0)[..., None] * v[: i + 1]).sum(0)
    y = linear(state, prefix + "dec_attn.o_net", out.flatten(1))
    x = norm(state, prefix + "dec_attn.layer_norm", x + y)
    y = linear(state, prefix + "pos_ff.CoreNet.0", x)
    y = linear(state, prefix + "pos_ff.CoreNet.3", F.gelu(y))
    return norm(state, prefix + "pos_ff.layer_norm", x + y)


def reference_stage(state: State, stage: int, x: Tensor) -> Tensor:
    layer = 0
    while f"layers.{stage}.{layer}.dec_attn.qkv_net.weight" in state:
        x = reference_layer(state, f"layers.{stage}.{layer}.", x)
        layer += 1
    return x


def reference_logits(state: State, tokens: Tensor, boundaries: list[int] | None) -> Tensor:
    """(L, V) logits of one text by loops; boundaries None asks the predictor."""
    x = reference_stage(state, 0, state["word_emb.weight"][tokens])
    if "null_group" in state:
        if boundaries is None:
            name = "boundary_predictor.boundary_predictor."
            logits = linear(state, name + "2", F.gelu(linear(state, name + "0", x)))
            boundaries = (logits[:, 0] > 0).long().tolist()
            assert 0 < sum(boundaries) < len(boundaries)
        groups, members = [state["null_group"].view(D)], []
        sees = []
        for t, closes in enumerate(boundaries):
            members.append(x[t])
            if closes:
                groups.append(torch.stack(members).mean(0))
                members = []
            sees.append(len(groups) - 1)
        y = reference_stage(state, 1, norm(state, "down_ln", torch.stack(groups)))
        x = reference_stage(state, 2, x + y[sees])
    return linear(state, "final_cast", x)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", ["none", "whitespace", "fixed", "gumbel", "unigram", "entropy"])
def test_logits_equal_the_reference_model(kind, prefix):
    learned = kind in ("gumbel", "unigram", "entropy")
    state = make_state([3] if kind == "none" else [1, 2, 1], learned)
    model = load_hourglass(
        {prefix + name: value for name, value in state.items()},
        BoundaryConfig(kind=kind, space=4, factor=3),
    ).double()
    tokens = torch.randint(0, V, (2, 14), generator=torch.Generator().manual_seed(3))
    given = {
        "whitespace": (tokens == 4).long(),
        "fixed": (torch.arange(14) % 3 == 2).long().expand(2, 14),
    }
    got = model(tokens).logits
    for row in range(2):
        boundaries = given[kind][row].tolist() if kind in given else None
        want = reference_logits(state, tokens[row], boundaries)
        torch.testing.assert_close(got[row], want, rtol=0, atol=1e-5)
    if model.segmenter is not None:
        want_b = torch.randint(0, 2, (2, 14), generator=torch.Generator().manual_seed(1))
        got = model(tokens, boundaries=want_b.double()).logits[0]
        want = reference_logits(state, tokens[0], want_b[0].tolist())
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_wrong_kind_and_unknown_names_are_refused():
    state = make_state([1, 1, 1], predictor=True)
    with pytest.raises(ValueError, match="pass the kind it was trained with"):
        load_hourglass(state, BoundaryConfig(kind="whitespace"))
    with pytest.raises(ValueError, match="is not a weight of the reference model"):
        load_hourglass(state | {"layers.0.0.mlp.weight": torch.zeros(1)}, BoundaryConfig())
    with pytest.raises(ValueError, match="has no r_w_bias"):
        load_hourglass({}, BoundaryConfig())
