from __future__ import annotations

import pytest
import torch
from dtp_pooling import BoundaryConfig, sample_generators
from dtp_pooling.language_model.segmenter import CausalSegmenter

D, L = 6, 40
KINDS = [
    BoundaryConfig(kind="fixed", factor=3),
    BoundaryConfig(kind="whitespace", space=1),
    BoundaryConfig(kind="gumbel"),
    BoundaryConfig(kind="gumbel", evaluation="pattern", seed=5),
    BoundaryConfig(kind="gumbel", scores="cosine"),
    BoundaryConfig(kind="entropy"),
    BoundaryConfig(kind="random", rate=0.3),
    BoundaryConfig(kind="routing"),
]


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randint(0, 4, (2, L), generator=generator),
        torch.randn(2, L, D, generator=generator),
    )


def build(config: BoundaryConfig) -> CausalSegmenter:
    torch.manual_seed(0)
    return CausalSegmenter(D, config)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind} {c.scores} {c.evaluation}")
def test_one_token_at_a_time_gives_the_same_boundaries(config):
    segmenter, (tokens, hidden) = build(config).eval(), inputs()
    whole = segmenter(tokens, hidden).boundaries
    assert 0 < whole.mean() < 1
    for t in range(1, L):
        previous = (
            hidden[:, t - 1]
            if "cosine" in config.scores + config.kind.replace("routing", "cosine")
            else None
        )
        offset = torch.full((2,), t)
        one = segmenter(
            tokens[:, t : t + 1], hidden[:, t : t + 1], offset=offset, previous=previous
        )
        assert torch.equal(one.boundaries[:, 0], whole[:, t])


@pytest.mark.parametrize("kind", ["gumbel", "random"])
def test_training_draws_from_the_generators_and_evaluation_does_not(kind):
    segmenter, (tokens, hidden) = build(BoundaryConfig(kind=kind, rate=0.3)), inputs()

    def run(seed: int) -> torch.Tensor:
        return segmenter(tokens, hidden, generators=sample_generators(seed, [0, 1])).boundaries

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    segmenter.eval()
    assert torch.equal(run(0), run(1))


def test_random_keeps_its_rate_in_training_and_evaluation():
    segmenter = build(BoundaryConfig(kind="random", rate=0.3))
    tokens, hidden = torch.zeros(4, 5000, dtype=torch.long), torch.zeros(4, 5000, D)
    for mode in (True, False):
        rate = segmenter.train(mode)(tokens, hidden).boundaries.mean()
        assert abs(rate - 0.3) < 0.02


@pytest.mark.parametrize("config", KINDS, ids=lambda c: f"{c.kind} {c.scores} {c.evaluation}")
def test_nothing_closes_beyond_a_rows_length(config):
    segmenter, (tokens, hidden) = build(config), inputs()
    lengths = torch.tensor([L, 7])
    boundaries = segmenter(tokens, hidden, lengths=lengths).boundaries
    assert boundaries[1, 7:].sum() == 0
    assert boundaries[0].sum() > 0


def test_only_learned_kinds_have_weights():
    learned = {c.kind for c in KINDS if list(build(c).parameters())}
    assert learned == {"gumbel", "entropy", "routing"}


def test_double_sigmoid_is_passed_on():
    tokens, hidden = inputs()
    losses = []
    for mode in ("logits", "double_sigmoid"):
        segmenter = build(BoundaryConfig(kind="unigram", target_loss=mode))
        segments = segmenter(tokens, hidden)
        targets = (tokens == 1).float()
        losses.append(segmenter.loss(segments, torch.zeros(2, L, 4), targets=targets))
    assert losses[0] != losses[1]


def test_pattern_keeps_the_rate_of_an_unsure_predictor():
    logits = torch.full((8, 4000), -1.4)  # probability 0.2
    for evaluation, rate in (("pattern", 0.198), ("threshold", 0.0)):
        segmenter = build(BoundaryConfig(kind="gumbel", evaluation=evaluation)).eval()
        segmenter.scores = None
        boundaries = segmenter._decide(torch.zeros(8, 4000), logits, None, 0)
        assert abs(boundaries.mean() - rate) < 0.02
