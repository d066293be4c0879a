from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from dtp_pooling import sample_generators
from dtp_pooling.language_model import segment_layers
from dtp_pooling.language_model.config import BoundaryConfig, LanguageModelConfig
from dtp_pooling.language_model.model import DynamicPoolingLM

V, L = 7, 24
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
SMALL = LanguageModelConfig(
    vocabulary=V,
    width=16,
    num_heads=2,
    head_dim=8,
    feedforward=32,
    pre_layers=1,
    shortened_layers=2,
    post_layers=1,
    dropout=0.0,
    attention_dropout=0.0,
)


def build(kind: str, attention: str = "rotary", **changes: object) -> DynamicPoolingLM:
    """A small model whose predictor, if any, is far from undecided."""
    torch.manual_seed(0)
    config = dataclasses.replace(
        SMALL,
        attention=attention,
        norm="pre" if attention == "rotary" else "post",
        boundaries=KINDS[kind],
        **(SIZES.get(kind, {}) | changes),
    )
    model = DynamicPoolingLM(config)
    for name, parameter in model.named_parameters():
        if "scores.out.weight" in name or "scores.hidden.weight" in name:
            torch.nn.init.normal_(parameter, std=1.0)
        elif parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def text(batch: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, V, (batch, L), generator=torch.Generator().manual_seed(seed))


def segment_sizes(boundaries: torch.Tensor) -> set[int]:
    return {
        int(size)
        for row in boundaries
        for size in row.nonzero().flatten().diff(prepend=torch.tensor([-1]))
    }


@pytest.mark.parametrize("attention", ["rotary", "relative"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_changing_the_future_leaves_past_logits_bit_equal(kind, training, attention):
    model = build(kind, attention).train(training)
    for t in (1, 9, 16, L - 1):
        tokens, changed = text(), text()
        changed[:, t:] = (changed[:, t:] + 1 + text(seed=1)[:, t:] % (V - 1)) % V
        size = L + 1 if t == 9 else None  # given, or a multiple of 16
        runs = [
            model(x, generators=sample_generators(0, range(3)), max_segments=size)
            for x in (tokens, changed)
        ]
        if kind not in ("none", "fixed"):
            assert len(segment_sizes(runs[0].boundaries)) > 1
        assert not torch.equal(runs[0].logits[:, t:], runs[1].logits[:, t:])
        assert torch.equal(runs[0].logits[:, :t], runs[1].logits[:, :t])


@pytest.mark.parametrize("attention", ["rotary", "relative"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_padding_to_a_given_size_only_rounding_differs(kind, attention):
    model = build(kind, attention).double()
    tokens, changed = text(), text()
    changed[:, 9:] = text(seed=1)[:, 9:]
    past = [model(x).logits[:, :9] for x in (tokens, changed)]
    torch.testing.assert_close(*past, rtol=0, atol=1e-12)
    sized = model(tokens, max_segments=L + 1).logits
    torch.testing.assert_close(sized, model(tokens).logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ["rotary", "relative"])
@pytest.mark.parametrize("kind", KINDS)
def test_past_logits_have_no_gradient_to_future_embeddings(kind, attention):
    model = build(kind, attention).train()
    embedded: list[torch.Tensor] = []

    def keep(module, inputs, output):
        embedded.append(output)

    model.embedding.register_forward_hook(keep)
    logits = model(text(), generators=sample_generators(0, range(3))).logits
    for t in range(L):
        weight = torch.randn(3, V)
        (gradient,) = torch.autograd.grad(
            (logits[:, t] * weight).sum(), embedded[0], retain_graph=True
        )
        assert gradient[:, t + 1 :].abs().max() == 0 if t + 1 < L else True
        assert gradient[:, t].abs().max() > 0


def test_the_leak_test_finds_a_leak(monkeypatch):
    def own_segment(boundaries):  # exclusive sum + null: an unfinished segment is read
        return (boundaries.cumsum(1) - boundaries).long() + 1

    model = build("whitespace")
    monkeypatch.setattr(segment_layers, "closed_segment_of", own_segment)
    tokens = text()
    tokens[:, -1] = 2
    tokens[:, -4:-1] = 3
    changed = tokens.clone()
    changed[:, -2] = 4
    past = [model(x, max_segments=L + 1).logits[:, : L - 2] for x in (tokens, changed)]
    assert not torch.equal(*past)


@pytest.mark.parametrize("kind", KINDS)
def test_row_does_not_depend_on_batch_mates_or_padding(kind):
    model = build(kind).double().train()  # drawing too
    tokens, lengths = text(), torch.tensor([L, 5, 14])
    noise = sample_generators(4, range(3))
    together = model(tokens, lengths=lengths, generators=noise)
    junk = tokens.clone()
    junk[torch.arange(L) >= lengths[:, None]] = 0
    padded = model(junk, lengths=lengths, generators=sample_generators(4, range(3)))
    assert torch.equal(together.boundary_loss, padded.boundary_loss)
    losses = []
    for row, n in enumerate(lengths.tolist()):
        alone = model(tokens[row : row + 1, :n], generators=sample_generators(4, [row]))
        torch.testing.assert_close(together.logits[row, :n], alone.logits[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(padded.logits[row, :n], alone.logits[0], rtol=0, atol=1e-12)
        if together.boundaries is not None:
            assert torch.equal(together.boundaries[row, :n], alone.boundaries[0])
            assert together.boundaries[row, n:].sum() == 0
        losses.append(alone.boundary_loss)
    if kind not in ("unigram",):
        torch.testing.assert_close(together.boundary_loss, torch.stack(losses).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_bit_equal_twice_and_takes_nothing_from_the_global_generator(kind):
    model = build(kind)
    before = torch.get_rng_state()
    runs = [model(text()) for _ in range(2)]
    assert torch.equal(runs[0].logits, runs[1].logits)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "kind",
    ["gumbel", "gumbel cosine", "routing", "routing mean", "routing nested", "gumbel smooth"],
)
def test_task_gradient_reaches_the_predictor(kind):
    model = build(kind).train()
    tokens = text()
    out = model(tokens, generators=sample_generators(0, range(3)))
    loss = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
    )
    loss.backward()  # without the boundary loss
    learned = [p for name, p in model.named_parameters() if "scores." in name]
    assert learned
    for parameter in learned:
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["unigram", "entropy", "gumbel", "gumbel cosine", "routing"])
def test_boundary_loss_trains_the_predictor(kind):
    model = build(kind).train()
    targets = (text() == 1).float()
    out = model(text(), targets=targets, generators=sample_generators(0, range(3)))
    out.boundary_loss.backward()
    assert out.boundary_loss.item() > 0
    for parameter in model.segmenter.scores.parameters():
        assert parameter.grad.abs().max() > 0


def test_unigram_loss_needs_targets_but_evaluation_does_not():
    model = build("unigram")
    assert model(text()).boundary_loss == 0
    with pytest.raises(ValueError, match="pass targets"):
        model.segmenter.loss(model.segmenter(text(), torch.randn(3, L, 16)), torch.zeros(3, L, V))


@pytest.mark.parametrize("rate_loss", ["binomial", "ratio", "interval"])
def test_rate_losses_and_weight(rate_loss):
    tokens = text()
    losses = []
    for weight in (1.0, 2.5):
        model = build("gumbel")
        boundaries = dataclasses.replace(KINDS["gumbel"], rate_loss=rate_loss, weight=weight)
        model.segmenter.config = boundaries
        losses.append(model(tokens).boundary_loss.item())
    assert losses[0] > 0
    assert losses[1] == pytest.approx(2.5 * losses[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_no_nan_at_extreme_boundary_logits(dtype):
    model = build("gumbel").train()
    with torch.no_grad():
        model.segmenter.scores.out.weight.mul_(1000)
    with torch.autocast("cpu", dtype):
        out = model(text(), generators=sample_generators(0, range(3)))
        assert out.boundary_logits.abs().max() > 80
        (out.logits.float().pow(2).mean() + out.boundary_loss).backward()
    assert out.logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", ["fixed", "gumbel pattern", "routing", "routing nested"])
def test_a_known_number_of_segments_can_be_exported(kind):
    model = build(kind)
    names = {"tokens": text(), "max_segments": L + 1}
    exported = torch.export.export(model, (), names, strict=False).module()
    other = text(seed=8)
    want = model(other, max_segments=L + 1)
    torch.testing.assert_close(exported(tokens=other, max_segments=L + 1).logits, want.logits)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed", "gumbel"])
def test_a_known_number_of_segments_compiles_without_a_break(kind):
    model = build(kind)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for seed in range(2):
        want = model(text(seed=seed), max_segments=L + 1)
        got = compiled(text(seed=seed), max_segments=L + 1)
        torch.testing.assert_close(got.logits, want.logits)
        gradients = [
            torch.autograd.grad(out.logits.pow(2).sum() + out.boundary_loss, model.null)[0]
            for out in (want, got)
        ]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("attention", ["rotary", "relative"])
@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (1, 1)])
def test_empty_batches_and_texts(shape, attention):
    out = build("gumbel", attention).train()(torch.zeros(shape, dtype=torch.int64))
    assert out.logits.shape == (*shape, V)
    (out.logits.sum() + out.boundary_loss).backward()


def test_given_boundaries_replace_the_models_own():
    model = build("gumbel")
    given = (text(seed=5) > 4).float()
    assert torch.equal(model(text(), boundaries=given).boundaries, given)
    assert not torch.equal(model(text(), boundaries=given).logits, model(text()).logits)


def test_defaults_are_the_published_sizes():
    model = DynamicPoolingLM(LanguageModelConfig(attention="relative", norm="post"))
    predictor = sum(p.numel() for p in model.segmenter.parameters())
    assert predictor == 512 * 2048 + 2048 + 2048 + 1
    assert round((sum(p.numel() for p in model.parameters()) - predictor) / 1e6, 2) == 41.01


@pytest.mark.parametrize("kind", ["none", "gumbel"])
@pytest.mark.parametrize("attention", ["rotary", "relative"])
def test_save_and_load(tmp_path, kind, attention):
    model = build(kind, attention)
    model.save(tmp_path / "model")
    loaded = DynamicPoolingLM.load(tmp_path / "model")
    assert len({path.stat().st_mode for path in (tmp_path / "model").iterdir()}) == 1
    assert loaded.config == model.config
    assert torch.equal(loaded(text()).logits, model(text()).logits)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "top_k"}, "leaks the future"),
        ({"kind": "gumble"}, "kind must be one of"),
        ({"rate": 1.0}, r"rate must be in \(0, 1\)"),
        ({"factor": 0}, "factor must be at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": math.inf}, "temperature must be above 0"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"weight": math.nan}, "weight must be at least 0 and finite"),
        ({"interval": (0.5, 0.1)}, "interval must rise"),
        ({"seed": 2**63}, "seed must have 64 bits"),
        ({"spikes_left": 0}, "spikes_left must be at least 1"),
        ({"kind": "fixed", "smooth": True}, "smooth needs the probabilities of a learned kind"),
        ({"kind": "random", "confidence": True}, "confidence needs the probabilities"),
        ({"value": "first"}, "value must be one of"),
        ({"rate_loss": "none"}, "rate_loss must be one of"),
    ],
)
def test_wrong_boundary_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        BoundaryConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"attention": "flash"},
        {"norm": "none"},
        {"head_dim": 7},
        {"pre_layers": -1},
        {"dropout": 1.0},
        {"attention_dropout": -0.1},
        {"residual": "none"},
        {"nested_layers": 1},
        {"nested": BoundaryConfig(kind="fixed")},
        {"nested": BoundaryConfig(kind="whitespace"), "nested_layers": 1},
    ],
)
def test_wrong_sizes_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        LanguageModelConfig(**values)


def test_what_routing_takes_where_nothing_is_said():
    routing, gumbel = BoundaryConfig(kind="routing").resolve(), BoundaryConfig().resolve()
    assert (routing.value, routing.smooth, routing.confidence) == ("last", True, True)
    assert (routing.rate_loss, routing.weight) == ("ratio", 0.03)
    assert (gumbel.value, gumbel.smooth, gumbel.confidence) == ("mean", False, False)
    assert (gumbel.rate_loss, gumbel.weight) == ("binomial", 1.0)
    assert BoundaryConfig(kind="routing", smooth=False, weight=1.0).resolve().smooth is False


def test_routing_is_h_net_written_as_loops():
    model = build("routing").double()
    tokens, t_max = text(batch=1), L
    with torch.no_grad():
        got = model(tokens)
        x = model.embedding(tokens)
        x = model.hidden_norm(model.pre[0](x)[0])
        p = torch.ones(t_max, dtype=torch.float64)
        scores = model.segmenter.scores
        for t in range(1, t_max):
            a, b = scores.query(x[0, t - 1]), scores.key(x[0, t])
            p[t] = (1 - torch.nn.functional.cosine_similarity(a, b, dim=0)) / 2
        p = p.clamp(1e-4, 1 - 1e-4)
        opens = [t for t in range(t_max) if p[t] > 0.5]
        assert opens[0] == 0
        assert 2 < len(opens) < L - 2
        chunks = torch.stack([model.null, *(x[0, t] for t in opens)])[None]  # the null one is ours
        z = model.pooled_norm(chunks)
        for block in model.shortened:
            z, _ = block(z)
        z = model.segment_norm(z)[0]
        smoothed = [z[0]]
        for value, t in zip(z[1:], opens, strict=True):
            smoothed.append(p[t] * value + (1 - p[t]) * smoothed[-1])
        chunk = [sum(t <= now for t in opens) for now in range(t_max)]  # opened at or before
        back = torch.stack([smoothed[c] for c in chunk])[None]
        y, _ = model.post[0](x @ model.residual.weight.T + back)
        want = model.head(model.norm(y))
    torch.testing.assert_close(got.logits, want, rtol=0, atol=1e-12)
    assert got.boundaries[0].nonzero().flatten().tolist() == opens


def test_the_residual_begins_at_zero_and_the_projections_at_the_identity():
    config = dataclasses.replace(
        SMALL, boundaries=KINDS["routing"], residual="linear", part_norms=True
    )
    model = DynamicPoolingLM(config)
    assert model.residual.weight.abs().max() == 0
    assert torch.equal(model.segmenter.scores.query.weight, torch.eye(16))


def test_nested_segments_are_fewer_and_their_loss_counts():
    model = build("routing nested").train()
    out = model(text())
    closed = out.boundaries.sum(1)
    assert (out.nested_boundaries.sum(1) <= closed + 1).all()  # the null segment is one more
    assert (out.nested_boundaries[:, 0] == 1).all()
    outer = model.segmenter.loss(
        model.segmenter(text(), model.hidden_norm(model.pre[0](model.embedding(text()))[0])),
        out.logits,
    )
    assert out.boundary_loss > outer > 0


def test_a_model_of_before_is_the_same_bits():
    """Weights are drawn in the order in which they always were."""
    torch.manual_seed(0)
    model = DynamicPoolingLM(dataclasses.replace(SMALL, boundaries=BoundaryConfig()))
    names = [name.split(".")[0] for name in model.state_dict()]
    order = list(dict.fromkeys(names))
    assert order == [
        *("null", "embedding", "pre", "shortened", "post", "norm", "head", "segmenter"),
        "pooled_norm",
    ]
