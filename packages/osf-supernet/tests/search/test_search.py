from __future__ import annotations

import json
import random

import pytest
import torch
from osf_supernet import LatencyTable, SearchConfig, Supernet, search_subnets, sizes
from osf_supernet.search import Candidate, draw_front, pareto_front


def search(net, evaluate, *, latency=None, folder=None, **config):
    return search_subnets(net, evaluate, SearchConfig(**config), latency=latency, folder=folder)


class Score:
    """Narrow first blocks are bad, narrow last ones are not: the opposite of the magnitudes."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model):
        self.calls += 1
        widths = [block.up.out_features for block in model.blocks]
        return sum(w * 8.0**-i for i, w in enumerate(widths)) + 100 * len(widths)


def test_the_front_keeps_to_the_bound_and_is_at_least_the_greedy_one(net):
    net.reorder("magnitude")
    limit = 0.8 * net.parameters_of({})
    result = search(net, Score(), max_params=0.8, population=12, generations=8)
    assert all(c.params <= limit for c in result.candidates)
    assert all(c.params == net.parameters_of(c.config) for c in result.candidates)
    scores = [c.score for c in result.front]
    assert scores == sorted(scores)
    for greedy in result.greedy:
        assert any(c.params <= greedy.params and c.score >= greedy.score for c in result.front)
    assert result.best.score > max(c.score for c in result.greedy)
    assert result.best is result.front[-1]


def test_it_finds_what_exhaustive_search_finds(net):
    import itertools

    score = Score()
    result = search(net, score, max_params=0.6, population=20, generations=25)
    best = 0.0
    for values in itertools.product(*net.choices.values()):
        config = dict(zip(net.choices, values, strict=True))
        if net.parameters_of(config) <= 0.6 * net.parameters_of({}):
            with net.active(config):
                best = max(best, score(net.model))
    assert result.best.score == best


def test_the_same_seed_gives_the_same_result_and_a_restart_evaluates_nothing_twice(net, tmp_path):
    first, again, fresh = Score(), Score(), Score()
    arguments = {"max_params": 0.7, "population": 8, "generations": 4, "seed": 3}
    result = search(net, first, **arguments, folder=tmp_path)
    assert first.calls == len(result.candidates)
    file = tmp_path / "evaluated.jsonl"
    lines = file.read_text().splitlines(keepends=True)  # the first says of what supernet
    file.write_text("".join(lines[:8]) + lines[8][:20])  # killed in the middle of a line
    assert search(net, again, **arguments, folder=tmp_path) == result
    assert again.calls == first.calls - 7
    assert sorted(file.read_text().splitlines()) == sorted("".join(lines).splitlines())
    assert search(net, fresh, **arguments) == result


def test_operations_and_latency_bound_it_too(net):
    flops = 0.5 * net.flops_of({})
    table = LatencyTable(net, 10.0, {"blocks.2.mlp": ((16, 4.0), (64, 0.0))}, {})
    result = search(
        net, Score(), max_flops=0.5, max_latency_ms=8.0, latency=table, population=8, generations=2
    )
    assert result.cost == "flops"
    assert all(c.flops <= flops and c.latency_ms <= 8 for c in result.candidates)
    with pytest.raises(ValueError, match="the smallest config has latency_ms 6"):
        search(net, Score(), max_latency_ms=1.0, latency=table)


def test_latency_is_interpolated_and_left_out_blocks_cost_nothing(net):
    saved = {"blocks.2.mlp": ((16, 4.0), (32, 3.0), (64, 0.0))}
    table = LatencyTable(net, 10.0, saved, {"blocks": [2.0, 2.0, 5.0]})
    assert table.predict(net.largest) == 10
    assert table.predict(net.largest | {"blocks.2.mlp": 16}) == 6
    assert table.predict(net.largest | {"blocks.2.mlp": 24}) == 6.5
    assert table.predict(net.largest | {"blocks.2.mlp": 48}) == 8.5
    assert table.predict(net.largest | {"blocks.2.mlp": 16, "blocks.depth": 2}) == 5
    assert table.predict(net.largest | {"blocks.depth": 1}) == 3
    shallow = Supernet(net.model, net.inputs, {"depth": sizes(1, 2)})
    table = LatencyTable(shallow, 10.0, {}, {"blocks": [2.0, 2.0, 5.0]})
    assert table.predict(shallow.largest) == 10  # what was timed had two blocks
    assert table.predict(shallow.smallest) == 8


def test_latency_is_measured(net):
    table = LatencyTable.measure(net, points=2, repeats=1, max_error=10)
    assert set(table.saved) == {f"blocks.{i}.mlp" for i in range(3)}
    assert [size for size, _ in table.saved["blocks.2.mlp"]] == [16, 48, 64]
    assert 0 <= table.predict(net.smallest) <= table.predict(net.largest) == table.largest_ms


def test_a_front_is_saved_and_drawn(net, tmp_path):
    result = search(net, Score(), population=6, generations=2)
    assert result.cost == "params"
    result.save(tmp_path / "front.json")
    stored = json.loads((tmp_path / "front.json").read_text())
    assert [row["score"] for row in stored["front"]] == [c.score for c in result.front]
    draw_front(result, tmp_path / "front.svg", "accuracy")
    assert "<svg" in (tmp_path / "front.svg").read_text()


def test_without_generations_only_the_greedy_path_is_evaluated(net):
    result = search(net, Score(), generations=0, greedy=4)
    assert result.front == result.greedy
    assert len(result.candidates) <= 5
    assert result.candidates[0].config == net.largest
    assert result.candidates[-1].config == net.smallest


def test_the_front_by_hand():
    def made(params, score):
        return Candidate(
            config={}, score=score, params=params, flops=0, latency_ms=None, origin="nsga2"
        )

    a, b, c, d = made(1, 1.0), made(2, 0.5), made(2, 2.0), made(3, 2.0)
    assert pareto_front([d, c, b, a], "params") == [a, c]


def test_a_score_that_is_no_number_is_refused(net, tmp_path):
    with pytest.raises(ValueError, match="evaluate must return a finite number, got nan"):
        search(net, lambda model: float("nan"), generations=0, folder=tmp_path)
    search(net, Score(), generations=0, folder=tmp_path)  # and was not written down


def test_scores_of_other_weights_are_not_taken_over(net, tmp_path):
    search(net, Score(), generations=0, folder=tmp_path)
    with torch.no_grad():
        net.model.head.bias.add_(1)
    with pytest.raises(ValueError, match=r"holds scores of another supernet, or of other weights"):
        search(net, Score(), generations=0, folder=tmp_path)


@pytest.mark.parametrize("name", ["population", "generations", "greedy"])
def test_numbers_that_make_no_search(net, name):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        search(net, Score(), **{name: -1})


def test_importance_lost_follows_the_sorting(net):
    assert net.importance_between("blocks.0.mlp", 4, 12) == 0.5
    net.reorder("magnitude")
    parts = [net.importance_between("blocks.0.mlp", i, i + 1) for i in range(16)]
    assert parts == sorted(parts, reverse=True)
    assert sum(parts) == pytest.approx(1)
    assert net.importance_between("blocks.depth", 0, 3) == pytest.approx(1)


def test_a_search_ranks_what_nothing_has_sorted_and_moves_nothing(net):
    """As a supernet that was trained and loaded again: sorting would make other subnets of it."""
    net.reorder("magnitude")
    known = {name: net.importance_between(name, v[0], v[-1]) for name, v in net.choices.items()}
    again = Supernet(net.model, net.inputs, net.space)
    again.depth_orders = net.depth_orders
    before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    search(again, Score(), generations=0)
    for name, values in again.choices.items():
        found = again.importance_between(name, values[0], values[-1])
        assert found == pytest.approx(known[name], rel=1e-12)
    assert again.depth_orders == net.depth_orders
    assert all(torch.equal(before[n], t) for n, t in net.model.state_dict().items())


def timed(monkeypatch, net, noise):
    """Latencies as a machine might have: overhead and operations, with noise."""
    generator = torch.Generator().manual_seed(0)

    def milliseconds(_, config, inputs, repeats):
        factor = 1 + noise * float(torch.rand((), generator=generator))
        return factor * (
            0.2 + 0.1 * len(net.plan(config).surgery.items) + net.flops_of(config) / 5e3
        )

    monkeypatch.setattr("osf_supernet.search.latency.milliseconds", milliseconds)
    return milliseconds


def test_latencies_of_other_subnets_are_predicted(net, monkeypatch):
    milliseconds = timed(monkeypatch, net, 0.02)
    table = LatencyTable.measure(net)
    assert table.error < 0.2
    for seed in range(10):
        config = net.sample(seed=seed)
        assert table.predict(config) == pytest.approx(milliseconds(net, config, None, 1), rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hf_vit", "tv_resnet", "hf_mamba"])
def test_latencies_are_right_or_refused(name, build, monkeypatch):
    """Ten random subnets of a model: all within 20 %, or no table."""
    net, machine = Supernet(*build(name)), machine_with(0.0)
    for noise in (0.02, 0.15):
        monkeypatch.setattr("osf_supernet.search.latency.milliseconds", machine_with(noise))
        table = LatencyTable.measure(net)
        for seed in range(10):
            config = net.sample(seed=seed)
            assert table.predict(config) == pytest.approx(machine(net, config, None, 1), rel=0.2)
    monkeypatch.setattr("osf_supernet.search.latency.milliseconds", machine_with(3.0))
    with pytest.raises(ValueError, match="cannot be predicted here"):
        LatencyTable.measure(net)


def machine_with(noise):
    """Milliseconds by blocks, operations (not in proportion) and parameters; the fastest counts."""
    generator = random.Random(0)

    def milliseconds(net, config, inputs, repeats):
        blocks = sum(map(len, net.blocks.values())) - sum(map(len, net.left_out(config).values()))
        flops, params = net.flops_of(config) / net.flops_of({}), net.parameters_of(config)
        factor = min(1 + abs(generator.gauss(0, noise)) for _ in range(repeats))
        return factor * (0.2 + 0.1 * blocks + 2 * flops**0.8 + params / net.parameters_of({}))

    return milliseconds


def test_a_table_that_cannot_predict_is_refused(net, monkeypatch):
    timed(monkeypatch, net, 3.0)
    with pytest.raises(ValueError, match=r"latencies cannot be predicted here: .*more than 20%"):
        LatencyTable.measure(net)
    with pytest.raises(ValueError, match="Use a larger batch"):
        search(net, Score(), max_latency_ms=1.0, generations=0)


def test_a_search_prints_as_a_table_with_the_best_and_the_full_model(net, tmp_path):
    config = SearchConfig(max_params=0.6, smaller_params=(0.3, 0.4), generations=0)
    result = search_subnets(net, Score(), config, full_model=True, quiet=True)
    lines = str(result).splitlines()
    assert lines[1].split() == ["parameters", "operations", "score", "found", "by"]
    assert [line.split()[-1] for line in lines[-2:]] == ["best", "model"]
    assert result.full.params == net.parameters_of({})
    draw_front(result, tmp_path / "front.svg", "accuracy")
    full = net.parameters_of({})
    for share in (0.3, 0.4, 0.6):
        best = result.best_within(share * full)
        assert best.params <= share * full
        assert best.score == max(c.score for c in result.candidates if c.params <= share * full)
    with pytest.raises(ValueError, match="no subnet has params of at most 1; the least is"):
        result.best_within(1)
    with pytest.raises(ValueError, match="smaller_params must be numbers above 0"):
        SearchConfig(smaller_params=(0.0,))
