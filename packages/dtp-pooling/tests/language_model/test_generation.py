from __future__ import annotations

import pytest
import torch
from dtp_pooling import sample_generators
from dtp_pooling.language_model.config import BoundaryConfig, LanguageModelConfig
from dtp_pooling.language_model.generation import generate, prefill, step
from dtp_pooling.language_model.model import DynamicPoolingLM

V = 7
KINDS = {
    "none": BoundaryConfig(kind="none"),
    "fixed": BoundaryConfig(kind="fixed", factor=3),
    "whitespace": BoundaryConfig(kind="whitespace", space=2),
    "unigram": BoundaryConfig(kind="unigram"),
    "entropy": BoundaryConfig(kind="entropy"),
    "gumbel": BoundaryConfig(kind="gumbel"),
    "gumbel pattern": BoundaryConfig(kind="gumbel", evaluation="pattern", seed=7),
    "gumbel cosine": BoundaryConfig(kind="gumbel", scores="cosine"),
    "random": BoundaryConfig(kind="random", rate=0.4, seed=3),
    "routing": BoundaryConfig(kind="routing"),
    "routing mean": BoundaryConfig(kind="routing", value="mean"),
    "routing nested": BoundaryConfig(kind="routing"),
    "gumbel smooth": BoundaryConfig(kind="gumbel", value="last", smooth=True, confidence=True),
    "gumbel nested": BoundaryConfig(kind="gumbel"),
}
SIZES = {  # beyond the plain ones
    "routing": {"residual": "linear", "part_norms": True},
    "routing nested": {
        "residual": "linear",
        "part_norms": True,
        "nested_layers": 1,
        "nested": BoundaryConfig(kind="routing"),
    },
    "gumbel nested": {
        "nested_layers": 1,
        "nested": BoundaryConfig(kind="random", rate=0.4, seed=5),
    },
}


def build(kind: str, attention: str) -> DynamicPoolingLM:
    torch.manual_seed(1)
    config = LanguageModelConfig(
        vocabulary=V,
        width=16,
        num_heads=2,
        head_dim=8,
        feedforward=32,
        pre_layers=1,
        shortened_layers=2,
        post_layers=1,
        attention=attention,
        norm="pre" if attention == "rotary" else "post",
        boundaries=KINDS[kind],
        **SIZES.get(kind, {}),
    )
    model = DynamicPoolingLM(config).double().eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def text(batch: int = 3, length: int = 30) -> torch.Tensor:
    return torch.randint(0, V, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("attention", ["rotary", "relative"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", [[1, 1, 1], [12, 12, 12], [3, 12, 7]])
def test_decoding_equals_the_full_forward(kind, attention, prompt):
    model, tokens, lengths = build(kind, attention), text(), torch.tensor(prompt)
    with torch.no_grad():
        out = model(tokens)
    if out.boundaries is not None:
        assert 0 < out.boundaries.mean() < 1
    logits, state = prefill(model, tokens[:, : max(prompt)], lengths)
    rows = torch.arange(3)
    for t in range(30 - max(prompt)):
        at = lengths + t - 1
        torch.testing.assert_close(logits, out.logits[rows, at], rtol=0, atol=1e-10)
        logits = step(model, tokens[rows, at + 1], state)


def test_a_long_unfinished_segment_is_summed_in_float32():
    model = build("whitespace", "rotary").bfloat16()
    tokens = torch.randint(3, V, (1, 400), generator=torch.Generator().manual_seed(1))  # no space
    _, state = prefill(model, tokens[:, :1])
    for t in range(1, 400):
        step(model, tokens[:, t], state)
    _, whole = prefill(model, tokens)
    torch.testing.assert_close(state.open_sum, whole.open_sum, rtol=0.02, atol=0.02)
    assert state.open_sum.dtype == torch.float32


@pytest.mark.parametrize("kind", ["none", "gumbel", "whitespace"])
def test_greedy_generation_is_the_argmax_of_the_full_forward(kind):
    model, tokens = build(kind, "rotary"), text(2, 5)
    new = generate(model, tokens, 8, temperature=0.0)
    for _ in range(8):
        with torch.no_grad():
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(new, tokens[:, 5:])


def test_a_rows_text_depends_on_its_own_generator_only():
    model, tokens = build("gumbel", "rotary"), text(3, 6)
    together = generate(model, tokens, 12, generators=sample_generators(0, range(3)))
    alone = generate(model, tokens[1:2], 12, generators=sample_generators(0, [1]))
    other = generate(model, tokens[1:2], 12, generators=sample_generators(9, [1]))
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(alone, other)


def test_sampling_follows_the_probabilities():
    model = build("none", "rotary")
    prompt = text(1, 4).expand(4000, 4).contiguous()
    first = generate(model, prompt, 1, generators=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(prompt[:1]).logits[0, -1].softmax(-1)
    share = torch.bincount(first[:, 0], minlength=V) / 4000
    torch.testing.assert_close(share.double(), expected, rtol=0, atol=0.03)


def test_top_k_never_leaves_the_likeliest_tokens():
    model = build("none", "rotary")
    prompt = text(1, 4).expand(500, 4).contiguous()
    first = generate(model, prompt, 1, top_k=2, generators=torch.Generator().manual_seed(0))
    with torch.no_grad():
        best = model(prompt[:1]).logits[0, -1].topk(2).indices
    assert set(first[:, 0].tolist()) == set(best.tolist())


def test_the_lowest_temperatures_are_greedy():
    model, prompt = build("gumbel", "rotary"), text(2, 4)
    greedy = generate(model, prompt, 5, temperature=0.0)
    for temperature in (1e-10, 1e-42, 1e-60):
        assert torch.equal(generate(model, prompt, 5, temperature=temperature), greedy)


def test_wrong_use_is_refused():
    model = build("gumbel", "rotary")
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        generate(model, text(), 1, temperature=-1.0)
    with pytest.raises(ValueError, match="temperature must be at least 0, got nan"):
        generate(model, text(), 1, temperature=float("nan"))
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        generate(model, text(), 1, top_k=0)
    with pytest.raises(ValueError, match="L at least 1"):
        generate(model, text(1, 0), 1)
    with pytest.raises(ValueError, match="lengths must be within 1"):
        generate(model, text(1, 2), 1, lengths=torch.tensor([0]))
    with pytest.raises(ValueError, match=r"model\.eval"):
        generate(model.train(), text(), 1)
