"""Two results on the same samples: the difference, whether it is chance, and what flipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clip_eval.faults import EvaluationError
from clip_eval.metrics import Z_95
from clip_eval.result_files import StoredResult
from clip_eval.table import metric_name, percent

SHOWN_FLIPS = 10


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Right and wrong answers of two models to the same questions.

    Attributes:
        n: Questions that both answered.
        both: Both right.
        only_first: Only the first right.
        only_second: Only the second right.
        difference: Share right of the second minus that of the first.
        ci95: Its 95 % interval (Newcombe 1998, paired differences, method 10).
        p_value: McNemar's exact test of no difference, two-sided.
    """

    n: int
    both: int
    only_first: int
    only_second: int
    difference: float
    ci95: tuple[float, float]
    p_value: float


def paired_test(first: ArrayLike, second: ArrayLike) -> PairedTest:
    """The comparison of two lists of right (True) and wrong answers, (N,) each.

    Raises:
        ValueError: The lists differ in length, or are empty.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"expected two lists of equal length, got {a.shape} and {b.shape}")
    both, lost, won = int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
    n = len(a)
    return PairedTest(
        n=n,
        both=both,
        only_first=lost,
        only_second=won,
        difference=(won - lost) / n,
        ci95=_interval(n, both, lost, won),
        p_value=mcnemar(lost, won),
    )


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact probability of flips at least as uneven as these, if none were likelier."""
    n, least = lost + won, min(lost, won)
    if n == 0:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(least + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _interval(n: int, both: int, lost: int, won: int) -> tuple[float, float]:
    """Newcombe's square-and-add interval from the Wilson intervals of the two shares."""
    neither = n - both - lost - won
    first, second = (both + lost) / n, (both + won) / n
    low1, high1 = _wilson(first, n)
    low2, high2 = _wilson(second, n)
    product = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    phi = 0.0
    if product:
        cross = float(both * neither - lost * won)
        cross = max(cross - n / 2, 0.0) if cross > 0 else cross
        phi = cross / math.sqrt(product)
    gap = second - first
    down = (second - low2) ** 2 + (high1 - first) ** 2
    down -= 2 * phi * (second - low2) * (high1 - first)
    up = (high2 - second) ** 2 + (first - low1) ** 2
    up -= 2 * phi * (high2 - second) * (first - low1)
    return max(-1.0, gap - math.sqrt(max(0.0, down))), min(1.0, gap + math.sqrt(max(0.0, up)))


def _wilson(share: float, n: int, z: float = Z_95) -> tuple[float, float]:
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two stored results side by side.

    Attributes:
        first: The baseline's record.
        second: The other's record.
        test: Of the samples that both have.
        worse: Predictions (first, second) of samples that only the first has right.
        better: Of samples that only the second has right.
        only_one: Samples that are in one of the results alone.
        same_data: Whether both read the same content, as far as the results say.
    """

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    test: PairedTest
    worse: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...]
    better: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...]
    only_one: int
    same_data: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON."""
        test = vars(self.test) | {"ci95": list(self.test.ci95)}
        names = ("model", "dataset", "task", "metrics", "ci95", "n")
        return {
            "first": {name: self.first.get(name) for name in names},
            "second": {name: self.second.get(name) for name in names},
            **test,
            "only_in_one_result": self.only_one,
            "same_data": self.same_data,
            "worse": [{"key": a["key"], "first": a, "second": b} for a, b in self.worse],
            "better": [{"key": a["key"], "first": a, "second": b} for a, b in self.better],
        }


def compare_results(first: StoredResult, second: StoredResult) -> Comparison:
    """The comparison of two results of the same task on the same data, sample by sample.

    Raises:
        EvaluationError: They have no sample in common, or one sample has two truths.
    """
    if first.record.get("task") != second.record.get("task"):
        raise EvaluationError(
            f"{first.directory} is of task {first.record.get('task')}, {second.directory} of "
            f"{second.record.get('task')}; only equal tasks can be compared"
        )
    ours, theirs = _by_key(first), _by_key(second)
    common = [key for key in ours if key in theirs]
    if not common:
        raise EvaluationError(
            f"{first.directory} and {second.directory} have no sample in common; they are of "
            f"{first.record.get('dataset')} and {second.record.get('dataset')}"
        )
    truths = [k for k in common if ours[k].get("label") != theirs[k].get("label")]
    if truths:
        raise EvaluationError(
            f"{len(truths)} samples have another class in the second result, such as {truths[0]}: "
            f"{ours[truths[0]].get('label')!r} and {theirs[truths[0]].get('label')!r}"
        )
    pairs = [(ours[key], theirs[key]) for key in common]
    return Comparison(
        first=first.record,
        second=second.record,
        test=paired_test([a["correct"] for a, _ in pairs], [b["correct"] for _, b in pairs]),
        worse=tuple((a, b) for a, b in pairs if a["correct"] and not b["correct"]),
        better=tuple((a, b) for a, b in pairs if b["correct"] and not a["correct"]),
        only_one=len(ours) + len(theirs) - 2 * len(common),
        same_data=_same_data(first.record, second.record),
    )


def _same_data(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    contents = {record["content"] for record in (first, second) if record.get("content")}
    return len(contents) < 2


def _by_key(result: StoredResult) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for record in result.predictions():
        if record["key"] in found:
            raise EvaluationError(f"{result.directory}: two samples are called {record['key']!r}")
        found[record["key"]] = record
    return found


def pair_results(
    first: Sequence[StoredResult], second: Sequence[StoredResult]
) -> list[tuple[StoredResult, StoredResult]]:
    """Results of the same data and task on either side; the two alone if there is one of each.

    Raises:
        EvaluationError: Nothing fits together.
    """
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    pairs = [(a, b) for a in first for b in second if _subject(a) == _subject(b)]
    if not pairs:
        raise EvaluationError("no data set and task is in both places")
    return pairs


def _subject(result: StoredResult) -> tuple[Any, Any]:
    return result.record.get("dataset"), result.record.get("task")


def format_comparison(found: Comparison) -> str:
    """The comparison as lines."""
    test = found.test
    first, second = found.first.get("model"), found.second.get("model")
    low, high = test.ci95
    verdict = "may be chance" if test.p_value >= 0.05 else "is not chance"
    lines = [
        f"{found.second.get('dataset')}: {first} -> {second}",
        *(f"{metric_name(name)}  {row}" for name, row in _metric_rows(found)),
        f"difference  {_signed(test.difference)}   95 % interval {_signed(low)} to {_signed(high)}",
        f"flipped  {test.only_second} better, {test.only_first} worse, of {test.n:,} samples",
        f"p = {test.p_value:.2g} (McNemar, exact): the difference {verdict}",
    ]
    if found.only_one:
        lines.append(f"warning: {found.only_one} samples are in one of the results alone")
    if not found.same_data:
        lines.append(
            "warning: the data differs (images, labels or class names); what is called the same "
            "is compared"
        )
    for word, flips in (("worse", found.worse), ("better", found.better)):
        lines += [_flip(word, *pair) for pair in flips[:SHOWN_FLIPS]]
        if len(flips) > SHOWN_FLIPS:
            lines.append(f"{word}: and {len(flips) - SHOWN_FLIPS} more")
    return "\n".join(lines)


def _metric_rows(found: Comparison) -> list[tuple[str, str]]:
    ours, theirs = found.first.get("metrics") or {}, found.second.get("metrics") or {}
    return [
        (name, f"{percent(ours[name])} -> {percent(theirs[name])}")
        for name in ours
        if name in theirs
    ]


def _flip(word: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    truth = f" ({first['label']})" if "label" in first else ""
    guesses = [str((record.get("guesses") or ["–"])[0]) for record in (first, second)]
    if "guesses" not in first:
        guesses = [f"rank {record.get('rank', '–')}" for record in (first, second)]
    return f"{word}: {first['key']}{truth}: {guesses[0]} -> {guesses[1]}"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %"
