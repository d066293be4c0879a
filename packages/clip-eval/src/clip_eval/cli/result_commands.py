"""Sub-commands of `clip-eval` on results that are on disk."""

from __future__ import annotations

import argparse
import json

from clip_eval.errors import EvaluationError
from clip_eval.plurals import count_noun
from clip_eval.report.comparison import compare_results, format_comparison, pair_results
from clip_eval.report.family import render_family
from clip_eval.report.result_table import format_tables
from clip_eval.results.exchange import export_csv, export_json, import_results
from clip_eval.results.files import refuse_existing, write_json, write_text
from clip_eval.results.result import replace_non_finite
from clip_eval.results.stored import find_results

FAMILY_FILE = "family.html"


def compare(arguments: argparse.Namespace) -> None:
    """Print the comparison of two results, or of all pairs in two directories."""
    pairs = pair_results(find_results(arguments.first), find_results(arguments.second))
    found = [compare_results(first, second) for first, second in pairs]
    if arguments.json:
        records = [replace_non_finite(one.to_dict()) for one in found]
        print(json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print("\n\n".join(map(format_comparison, found)))


def report(arguments: argparse.Namespace) -> None:
    """Write one page and one table of many results."""
    stored = find_results(arguments.directory)
    out = arguments.out or arguments.directory / FAMILY_FILE
    if out.suffix == ".md":
        raise EvaluationError(f"--out {out}: expected the page, FILE.html; its table is FILE.md")
    for path in (out, out.with_suffix(".md")):
        refuse_existing(path, overwrite=arguments.overwrite)
    title = f"Results in {arguments.directory.resolve().name}"
    page = render_family(
        stored,
        title=title,
        data=arguments.data,
        samples=arguments.samples,
        seed=arguments.seed,
    )
    records = [one.record for one in stored]
    table = format_tables(records, heading="## ")
    write_text(out, page)
    write_text(out.with_suffix(".md"), f"# {title}\n\n{table}\n")
    print(format_tables(records))
    print(f"\nwrote {out}, {out.with_suffix('.md').name}")
    if not arguments.data:
        print("without images: name the data of a result with --data to show them")


def import_files(arguments: argparse.Namespace) -> None:
    """Write other tools' results as results of ours."""
    for path in import_results(arguments.files, arguments.out, overwrite=arguments.overwrite):
        print(f"wrote {path}")


def export(arguments: argparse.Namespace) -> None:
    """Write results as CLIP_benchmark's table, or as the JSON files that it reads."""
    stored = find_results(arguments.directory)
    refuse_existing(arguments.out, overwrite=arguments.overwrite)
    if arguments.out.suffix == ".csv":
        write_text(arguments.out, export_csv([one.record for one in stored]))
    else:
        for number, one in enumerate(stored):
            write_json(arguments.out / f"{number:04d}.json", export_json(one.record))
    print(f"wrote {count_noun(len(stored), 'result')} to {arguments.out}")
