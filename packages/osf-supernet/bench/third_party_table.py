"""Every so many-th model of other libraries' own lists: how small it gets, and whether it is right.

    python packages/osf-supernet/bench/third_party_table.py --out rows                 # hours
    python packages/osf-supernet/bench/third_party_table.py --out rows --most 5        # five more
    python packages/osf-supernet/bench/third_party_table.py --out few --every 60 --libraries timm

Each model is built in a process of its own, with bounds on processor seconds and memory; what
fails there is a row as well. Rows that are written already are kept (`--again` repeats those with
a failure), and the table is written anew from all of them. What is tried is in
`third_party_models.py`, what is measured in `third_party_row.py`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import multiprocessing
import os
import resource
import time
import warnings
from collections import Counter
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import third_party_models
import third_party_row
import torch
from results import Results
from third_party_models import EVERY, MOST_PARAMETERS

REACH = 0.7
OTHERS_SECONDS = 20
"""Processor seconds that torch-pruning may take."""
PACKAGES = ("torch", "timm", "torchvision", "transformers", "open_clip_torch", "torch-pruning")
Row = dict[str, Any]


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--table", type=Path, help="Markdown file; table.md in the folder")
    parser.add_argument("--libraries", nargs="+", choices=EVERY, default=list(EVERY))
    parser.add_argument("--every", type=int, help="take every so many-th model of each list")
    parser.add_argument("--most", type=int, help="rows to measure now")
    parser.add_argument("--again", action="store_true", help="repeat rows with a failure")
    parser.add_argument("--seconds", type=int, default=120, help="processor seconds of a model")
    parser.add_argument("--gigabytes", type=int, default=10, help="memory of a model")
    options = parser.parse_args()
    results = Results(options.out)
    names = results.measure("lists", f"every {options.every}", lambda: list_models(options.every))
    wanted = in_turn({library: names[library] for library in options.libraries})
    if options.again:
        forget_failures(results)
    missing = [(x, name) for x, name in wanted if name not in results.data.get(x, {})]
    missing = missing[: options.most]
    if missing:
        import_libraries()
    for library, name in missing:
        work = partial(run_bounded, library, name, options.seconds, options.gigabytes)
        results.measure(library, name, work)
    rows = [results.data[x][n] for x, n in sorted(wanted) if n in results.data.get(x, {})]
    text = "\n".join(page(rows, len(wanted), names, command_of(options)))
    (options.table or options.out / "table.md").write_text(text + "\n")
    print("\n".join(summary(rows, len(wanted))))


def list_models(every: int | None) -> dict[str, list[str]]:
    """Library → every so many-th of its names, the first included."""
    return {x: third_party_models.list_names(x)[:: every or EVERY[x]] for x in EVERY}


def in_turn(names: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Library and name, spread so that what is tried first is of all libraries alike."""
    places = [
        (index / len(found), library, name)
        for library, found in names.items()
        for index, name in enumerate(found)
    ]
    return [(library, name) for _, library, name in sorted(places)]


def forget_failures(results: Results) -> None:
    """Take rows with a failure of ours out of the results, so that they are measured again."""
    for library in EVERY:
        rows = results.data.get(library, {})
        results.data[library] = {name: row for name, row in rows.items() if not failure_of(row)}


def run_bounded(library: str, name: str, seconds: int, gigabytes: int) -> Row:
    """The row of a model, from a process that may not take more than this.

    It is forked, so that the libraries are imported once for all models.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, library, name, seconds, gigabytes)
    process = context.Process(target=send_row, args=arguments)
    process.start()
    sender.close()
    row: Row = {"library": library, "model": name}
    try:
        while True:
            row = receiver.recv()  # again when another part is done
    except EOFError:
        process.join()
    if process.exitcode:
        code = f"(exit code {process.exitcode})"
        if "supernet_seconds" in row:
            row["torch_pruning_failure"] = f"no end within {OTHERS_SECONDS} s {code}"
        else:
            row["supernet_failure"] = f"no end within {seconds} s and {gigabytes} GB {code}"
    return row


def send_row(sender: Any, library: str, name: str, seconds: int, gigabytes: int) -> None:
    """Measure a model in this process, and send its row."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (gigabytes << 30, gigabytes << 30))
    with open(os.devnull, "w") as nothing:  # some libraries print
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    for row in third_party_row.measure(library, name):
        sender.send(row)
        left = min(seconds, int(time.process_time()) + OTHERS_SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (left, seconds))


def import_libraries() -> None:
    """Everything that a row needs, before processes are forked; one thread, which forks well."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for module in ("timm", "torchvision", "open_clip", "transformers", "torch_pruning"):
        importlib.import_module(module)
    importlib.import_module("torch._dynamo")  # what torch.export imports when it is called


def command_of(options: argparse.Namespace) -> str:
    """The command that a reader can repeat."""
    every = f" --every {options.every}" if options.every else ""
    return f"python packages/osf-supernet/bench/third_party_table.py --out rows{every}"


def failure_of(row: Row) -> str | None:
    """Why a model was not made smaller or is wrong, None where it is right or not counted."""
    if "not_counted" in row:
        return None
    return row.get("supernet_failure") or row.get("extract_failure")


def reaches(row: Row) -> bool:
    """Whether a model has a verified subnet of at most 70 % of the parameters."""
    return failure_of(row) is None and row["smallest"] <= REACH


def page(rows: list[Row], count: int, names: dict[str, list[str]], command: str) -> list[str]:
    """The Markdown page: command, versions, summary, table, and what is not counted."""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    taken = ", ".join(f"{library} {len(found)}" for library, found in names.items())
    counted = [row for row in rows if "not_counted" not in row]
    left_out = [row for row in rows if "not_counted" in row]
    return [
        "# Models of other libraries",
        "",
        f"Written by `{command}`",
        f"({versions}). Not hand-picked: every so many-th entry of the libraries' own lists",
        f"({taken}), with random weights.",
        "",
        *summary(rows, count),
        "",
        *LEGEND,
        "",
        "| library | model | form | parameters | elastic | smallest | error | FLOPs ours / torch's "
        "| s | torch-pruning |",
        f"|{'---|' * 10}",
        *(table_line(row) for row in counted),
        "",
        "## Not counted",
        "",
        f"More than {MOST_PARAMETERS // 10**6} million parameters, or nothing that the script can",
        "build or call (it knows images, tokens and sounds, and downloads nothing):",
        "",
        *(f"- {row['library']} {row['model']}: {escaped(row['not_counted'])}" for row in left_out),
    ]


LEGEND = (
    "*form*: side of the image, depth, or `thin` (transformers' configs with small widths).",
    "*elastic*: share of the parameters in tensors that some group or removable block cuts.",
    "*smallest*: share of the parameters in the smallest subnet of the default space. *error*: the",
    "largest difference between the running supernet and the extracted module, over the largest",
    "output, for the smallest and a random subnet of at most 70 %. *FLOPs*: of the smallest subnet",
    "by `flops_of` and by `FlopCounterMode` on the extracted module; both subnets must agree.",
    "*s*: processor seconds of one thread for all of it, on a busy machine. *torch-pruning*: share",
    "left by its `MagnitudePruner` with default arguments at `pruning_ratio=0.5`, in the best of",
    f"three choices of ignored layers, within {OTHERS_SECONDS} s, if the forward still runs; or",
    "its error.",
)


def summary(rows: list[Row], count: int) -> list[str]:
    """What the rows say together."""
    counted = [row for row in rows if "not_counted" not in row]
    if not counted:
        return [f"{len(rows)} of {count} models tried, none counted."]
    right = [row for row in counted if failure_of(row) is None]
    reached = [row for row in counted if reaches(row)]
    agree = [row for row in right if all(ours == torchs for ours, torchs in row["flops"])]
    others = [row for row in counted if "torch_pruning" in row]
    fit = [row for row in others if row["torch_pruning_same_outputs"]]
    reached_by_others = [row for row in fit if row["torch_pruning"] <= REACH]
    each = Counter(row["library"] for row in counted)
    parts = ", ".join(f"{library} {number}" for library, number in each.items())
    worst = max((row["error"] for row in right), default=0.0)
    return [
        f"- {len(rows)} of {count} models tried, {len(counted)} counted ({parts}).",
        f"- **{share(len(reached), len(counted))} reach −30 %** of the parameters in the default",
        f"  space, verified; {share(len(right), len(counted))} are without a failure.",
        f"- Largest difference of supernet and extraction: {worst:.1g}.",
        f"- FLOPs are exactly torch's for {share(len(agree), len(right))}.",
        f"- torch-pruning: {share(len(others), len(counted))} run after pruning,",
        f"  {share(len(fit), len(counted))} with outputs of the same shape,",
        f"  {share(len(reached_by_others), len(counted))} of those with at most 70 %.",
    ]


def share(part: int, whole: int) -> str:
    """As a count and in percent."""
    return f"{part} of {whole} ({part / max(1, whole):.0%})"


def table_line(row: Row) -> str:
    """One line of the table."""
    start = f"| {row['library']} | {escaped(row['model'])} | {row.get('form', '')} "
    start += f"| {row['parameters']:,} " if "parameters" in row else "| "
    failure = failure_of(row)
    if "smallest" in row:
        start += f"| {row['elastic']:.0%} | {row['smallest']:.0%} "
    else:
        start += "| | "
    if failure is not None:
        return f"{start}| {escaped(failure)} | | {seconds(row)} | {torch_pruning_cell(row)} |"
    ours, torchs = row["flops"][0]
    odd = [pair for pair in row["flops"] if pair[0] != pair[1]]
    flops = f"{odd[0][0]:,} / {odd[0][1]:,}" if odd else f"{ours:,} / {torchs:,}"
    cells = f"| {row['error']:.1g} | {flops} | {seconds(row)} | {torch_pruning_cell(row)} |"
    return start + cells


def seconds(row: Row) -> str:
    """Processor seconds of our columns."""
    return f"{row['supernet_seconds']:.0f}" if "supernet_seconds" in row else ""


def torch_pruning_cell(row: Row) -> str:
    """Share, or the first words of the error."""
    if "torch_pruning" in row:
        note = "" if row["torch_pruning_same_outputs"] else ", other outputs"
        return f"{row['torch_pruning']:.0%}{note}"
    return escaped(" ".join(row.get("torch_pruning_failure", "").split()[:6]))


def escaped(text: str) -> str:
    """Text that stays in one cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
