"""Paired comparison of two results: the difference, its test, and the samples that flipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clip_eval.errors import EvaluationError
from clip_eval.metrics.paired_tests import PairedTest, grouped_test, paired_test
from clip_eval.plurals import count_noun
from clip_eval.report.table import metric_name, percent
from clip_eval.results.result import MULTILABEL_TASKS
from clip_eval.results.stored import StoredResult

SHOWN_FLIPS = 10
RETRIEVAL = "zeroshot_retrieval"
TESTED = {"linear_probe": "lp_acc1", "knn": "knn_acc1", "image_caption_selection": "acc"}
"""The metric that a task's right answers make up, where it is not `acc1`."""
FLIPPED = {RETRIEVAL: "queries", **dict.fromkeys(MULTILABEL_TASKS, "first guesses")}

Pair = tuple[Mapping[str, Any], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two stored results side by side.

    Attributes:
        first: The baseline's record.
        second: The other's record.
        n: Samples that are in both; queries in retrieval.
        tests: The paired test of each tested metric.
        worse: Predictions (first, second) of samples that only the first has right.
        better: Of samples that only the second has right.
        only_one: Samples that are in only one of the results.
        same_data: Whether both read the same content, as far as the results say.
    """

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    n: int
    tests: Mapping[str, PairedTest]
    worse: tuple[Pair, ...]
    better: tuple[Pair, ...]
    only_one: int
    same_data: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON."""
        names = ("model", "dataset", "task", "metrics", "ci95", "n")
        return {
            "first": {name: self.first.get(name) for name in names},
            "second": {name: self.second.get(name) for name in names},
            "n": self.n,
            "tests": {name: asdict(test) for name, test in self.tests.items()},
            "only_in_one_result": self.only_one,
            "same_data": self.same_data,
            "worse": [{"key": a["key"], "first": a, "second": b} for a, b in self.worse],
            "better": [{"key": a["key"], "first": a, "second": b} for a, b in self.better],
        }


def compare_results(first: StoredResult, second: StoredResult) -> Comparison:
    """Compare two results of the same task on the same data, sample by sample.

    Raises:
        EvaluationError: They have no sample in common, or one sample has two truths.
    """
    task, other = _task(first.record), _task(second.record)
    if task != other:
        raise EvaluationError(
            f"{first.directory} is of task {task}, {second.directory} of {other}; only equal tasks "
            "can be compared"
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
            f"{count_noun(len(truths), 'sample has', 'samples have')} another class in the second "
            f"result, such as {truths[0]}: "
            f"{ours[truths[0]].get('label')!r} and {theirs[truths[0]].get('label')!r}"
        )
    pairs = [(ours[key], theirs[key]) for key in common]
    return Comparison(
        first=first.record,
        second=second.record,
        n=len(pairs),
        tests=_tests(task, pairs),
        worse=tuple((a, b) for a, b in pairs if a["correct"] and not b["correct"]),
        better=tuple((a, b) for a, b in pairs if b["correct"] and not a["correct"]),
        only_one=len(ours) + len(theirs) - 2 * len(common),
        same_data=_same_data(first.record, second.record),
    )


def _task(record: Mapping[str, Any]) -> str:
    """Our name of the task: CLIP_benchmark's is the same for one and for several labels."""
    return str(record.get("task_name") or record.get("task"))


def _tests(task: str, pairs: Sequence[Pair]) -> dict[str, PairedTest]:
    """Test what single samples say, by metric.

    Captions of one image are one group. With several labels per image the test is of how each image
    ranks its classes: mean average precision is of how a class ranks all images, which no single
    sample says.
    """
    if task in MULTILABEL_TASKS:
        pairs = [pair for pair in pairs if pair[0]["labels"]]
        first, second = _values(pairs, "average_precision")
        keys = [pair[0]["key"] for pair in pairs]
        return {"average_precision": grouped_test(first, second, keys)} if pairs else {}
    if task != RETRIEVAL:
        return {TESTED.get(task, "acc1"): paired_test(*_values(pairs, "correct"))}
    texts = [pair for pair in pairs if pair[0]["key"].startswith("text ")]
    images = [pair for pair in pairs if not pair[0]["key"].startswith("text ")]
    tests = {}
    if texts:
        owners = [pair[0]["key"].rpartition(" ")[0] for pair in texts]
        first, second = _values(texts, "correct")
        tests["image_retrieval_recall@1"] = grouped_test(first, second, owners)
    if images:
        tests["text_retrieval_recall@1"] = paired_test(*_values(images, "correct"))
    return tests


def _values(pairs: Sequence[Pair], name: str) -> tuple[list[float], list[float]]:
    """Return the values of the first and of the second; a missing one counts as 0."""
    return [float(a[name] or 0) for a, _ in pairs], [float(b[name] or 0) for _, b in pairs]


def _same_data(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    contents = {record["content"] for record in (first, second) if record.get("content")}
    return len(contents) < 2


def _by_key(result: StoredResult) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for record in result.predictions():
        if record.get("correct") is None and "average_precision" not in record:
            raise EvaluationError(
                f"{result.directory}: {record['key']!r} is not said to be right or wrong"
            )
        if record["key"] in found:
            raise EvaluationError(f"{result.directory}: two samples are called {record['key']!r}")
        found[record["key"]] = record
    return found


def pair_results(
    first: Sequence[StoredResult], second: Sequence[StoredResult]
) -> list[tuple[StoredResult, StoredResult]]:
    """Pair the results of the same data and task; two single results are always a pair.

    Raises:
        EvaluationError: No data set and task is on both sides.
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
    """Format a comparison as lines."""
    first, second = found.first.get("model"), found.second.get("model")
    lines = [
        f"{found.second.get('dataset')}: {first} -> {second}",
        *(f"{metric_name(name)}  {row}" for name, row in _metric_rows(found)),
        *(line for name, test in found.tests.items() for line in _test_lines(name, test)),
        f"flipped  {len(found.better)} better, {len(found.worse)} worse, of {found.n:,} "
        f"{FLIPPED.get(_task(found.first), 'samples')}",
    ]
    if found.only_one:
        samples = count_noun(found.only_one, "sample is", "samples are")
        lines.append(f"warning: {samples} in only one of the results")
    if not found.same_data:
        lines.append(
            "warning: the data differs (images, labels or class names); samples are matched by name"
        )
    for word, flips in (("worse", found.worse), ("better", found.better)):
        lines += [_flip(word, *pair) for pair in flips[:SHOWN_FLIPS]]
        if len(flips) > SHOWN_FLIPS:
            lines.append(f"{word}: and {len(flips) - SHOWN_FLIPS} more")
    return "\n".join(lines)


def _test_lines(name: str, test: PairedTest) -> tuple[str, str]:
    low, high = map(_signed, test.ci95)
    verdict = "may be chance" if test.p_value >= 0.05 else "is significant"
    return (
        f"difference in {metric_name(name)}  {_signed(test.difference)}   95 % interval {low} to "
        f"{high}",
        f"p = {test.p_value:.2g} ({test.method}): the difference {verdict}",
    )


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
