"""Which groups of which third-party models are elastic, as a Markdown table.

    python packages/osf-supernet/bench/elasticity_table.py

builds the tiny random models of the tests, analyses and verifies each, and prints the table
that the README shows.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import torch
from osf_supernet import Supernet, count_parameters

_CONFTEST = Path(__file__).parents[1] / "tests" / "conftest.py"


def row(name: str, model: torch.nn.Module, inputs: object) -> str:
    """One line of the table: elastic kinds, frozen kinds with a reason, smallest share."""
    net = Supernet(model, inputs)
    net.extract(net.smallest)  # raises if it does not equal the oracle
    elastic = Counter(group.kind for group in net.graph.elastic())
    elastic["depth"] = sum(len(units) for units in net.graph.units.values())
    frozen: dict[str, str] = {}
    for group in net.graph.groups.values():
        if group.frozen and group.kind != "free":
            frozen.setdefault(group.kind, group.frozen)
    share = net.parameters_of(net.smallest) / count_parameters(model)
    reasons = "; ".join(f"{kind}: {reason}" for kind, reason in frozen.items()) or "–"
    counted = ", ".join(f"{kind} {count}" for kind, count in elastic.items() if count)
    return f"| {name} | {counted} | {reasons} | {share:.0%} |"


def main(names: list[str]) -> None:
    """Print the table, for all models or the named ones."""
    spec = importlib.util.spec_from_file_location("tiny_models", _CONFTEST)
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    print("| model | elastic (groups) | frozen, and why (one reason per kind) | smallest |")
    print("|---|---|---|---|")
    for name in names or list(tiny.BUILDERS):
        torch.manual_seed(0)
        model, inputs = tiny.BUILDERS[name]()
        print(row(name, tiny.randomize(model.double()), inputs), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
