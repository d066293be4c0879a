"""Scores and costs of subnets: each evaluated once, kept in a file for a search that goes on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osf_supernet.checkpoint_files import naming
from osf_supernet.command_line import read_small_file
from osf_supernet.graph.graph import named_tensors
from osf_supernet.output_files import write_text
from osf_supernet.search.config import SearchConfig
from osf_supernet.search.latency import LatencyTable
from osf_supernet.search.result import Candidate
from osf_supernet.subnets.bounds import Bounds, resolve_share
from osf_supernet.subnets.planning import Config
from osf_supernet.supernet import Supernet

SCORES = "evaluated.jsonl"
_SCORED = {"supernet": "another supernet, or of other weights", "data": "other data"}


class Scorer:
    """Evaluates subnets of a supernet.

    Attributes:
        net: The supernet.
        bounds: What every subnet keeps to.
        cost: What the front trades the score against: the first bound, or parameters.
        candidates: Every evaluated subnet, by its config as JSON.
    """

    def __init__(
        self,
        net: Supernet,
        evaluate: Callable[[nn.Module], float],
        config: SearchConfig,
        latency: LatencyTable | None = None,
        folder: Path | None = None,
        report: Callable[[int, int, str], object] | None = None,
        data: str | None = None,
    ) -> None:
        """Args:
        net: The supernet.
        evaluate: Model → score; the model runs as the subnet meanwhile.
        config: Where the bounds are.
        latency: Predicts milliseconds; needed for a bound on them.
        folder: Where scores are kept; None keeps none.
        report: Called after each subnet: how many, of about how many, and the best score.
        data: What scores depend on besides the supernet, as a digest.

        Raises:
            ValueError: Even the smallest config exceeds a bound, or the folder holds scores of
                another supernet or of other data.
        """
        self.net, self._evaluate, self._report = net, evaluate, report
        self._expected = config.greedy + config.population * config.generations
        costs: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "params": net.parameters_of,
            "flops": net.flops_of,
            "latency_ms": latency.predict if latency is not None else lambda config: None,
        }
        limits = {
            "params": resolve_share(config.max_params, net.parameters_of),
            "flops": resolve_share(config.max_flops, net.flops_of),
            "latency_ms": config.max_latency_ms,
        }
        self.costs, self.bounds = costs, Bounds(costs, limits)
        self.cost = next(iter(self.bounds.limits), "params")
        self.candidates: dict[str, Candidate] = {}
        self._file = None if folder is None else folder / SCORES
        self._header = {} if folder is None else {"supernet": digest(net)}
        self._header |= {} if data is None else {"data": data}
        self._known = self._read()
        self.bounds.require_fit(net.smallest)

    def score(self, config: Config, origin: str) -> Candidate:
        """Evaluate a subnet once; later calls, also after a restart, give the same answer.

        Raises:
            ValueError: `evaluate` returned no finite number.
        """
        key = self._key(config)
        if key not in self.candidates:
            self.candidates[key] = self.evaluate(config, origin)
            if self._report is not None:
                best = max(candidate.score for candidate in self.candidates.values())
                self._report(len(self.candidates), self._expected, f"best {best:.4g}")
        return self.candidates[key]

    def evaluate(self, config: Config, origin: str) -> Candidate:
        """A subnet with its score, known or new, whether or not it keeps to the bounds.

        Raises:
            ValueError: `evaluate` returned no finite number.
        """
        key = self._key(config)
        if key not in self._known:
            with self.net.active(config):
                score = float(self._evaluate(self.net.model))
            if not math.isfinite(score):
                raise ValueError(f"evaluate must return a finite number, got {score}")
            self._append({"config": config, "score": score})
            self._known[key] = score
        costs = {name: cost(config) for name, cost in self.costs.items()}
        return Candidate(config=dict(config), score=self._known[key], origin=origin, **costs)

    def _read(self) -> dict[str, float]:
        """Scores of an earlier run, without a last line that was being written when it ended."""
        if self._file is None:
            return {}
        text = read_small_file(self._file) if self._file.exists() else ""
        whole, end, cut = text.rpartition("\n")
        if cut:
            write_text(self._file, whole + end)
        lines = whole.splitlines()
        if not lines:
            self._append(self._header)
            return {}
        first, *rows = map(json.loads, lines)
        known = {"data": self._header.get("data")} | first  # earlier releases say no data
        for name, what in _SCORED.items():
            if known.get(name) != self._header.get(name, known.get(name)):
                raise ValueError(
                    f"{self._file} holds scores of {what}; expected this one's: choose another "
                    "folder, or delete the file"
                )
        return {self._key(row["config"]): row["score"] for row in rows}

    def _key(self, config: Config) -> str:
        """Alike for two configs of one subnet, as those that differ inside left-out blocks."""
        return json.dumps(self.net.canonical(config), sort_keys=True)

    def _append(self, row: dict[str, Any]) -> None:
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        earlier = "the scores before are whole"
        with naming(self._file, whole=earlier), self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def digest(net: Supernet) -> str:
    """SHA-256 of what scores depend on: weights, sizes to choose from and order of blocks."""
    found = hashlib.sha256(json.dumps([net.choices, net.depth_orders], sort_keys=True).encode())
    for name, tensor in sorted(named_tensors(net.model).items()):
        found.update(name.encode())
        found.update(bytes_of(tensor))
    return found.hexdigest()


def bytes_of(tensor: Tensor) -> bytes:
    """The values of a tensor as they lie in memory."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
