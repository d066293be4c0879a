"""`dtp-lm eval` and `dtp-lm generate`."""

from __future__ import annotations

import argparse
import json
import sys

from dtp_pooling.devices import choose_device
from dtp_pooling.language_model.bits_per_character import bits_per_character
from dtp_pooling.language_model.calibration import explain_rate
from dtp_pooling.language_model.generation import generate as continue_text
from dtp_pooling.language_model.model import DynamicPoolingLM
from dtp_pooling.language_model.quantization import quantize
from dtp_pooling.pooling.noise import sample_generators
from dtp_pooling.training.run_directory import RunRecord, read_model, read_run
from dtp_pooling.training.text import digest, read_text, split_text

_PARTS = ("train", "valid", "test")


def evaluate(options: argparse.Namespace) -> None:
    """Print the bits per character of a text."""
    run = read_run(options.run)
    text, split = read_part(options, run)
    result = bits_per_character(
        load_model(options, run),
        run.alphabet.encode(text),
        window=options.window or run.config.evaluation_window,
        stride=options.stride or run.config.evaluation_stride,
        batch=options.batch_size,
    )
    doubt = explain_rate(run.config.model.boundaries, result.shortening)
    if doubt:
        print(f"dtp-lm: warning: {doubt}", file=sys.stderr)
    if options.json:
        print(json.dumps({**result._asdict(), "split": split}))
    else:
        print(
            f"{result.bits:.4f} bits per character over {result.characters:,} characters "
            f"({split}), shortening factor {result.shortening:.2f}"
        )


def generate(options: argparse.Namespace) -> None:
    """Print a prompt and its continuation."""
    run = read_run(options.run)
    model = load_model(options, run)
    new = continue_text(
        model,
        run.alphabet.encode(options.prompt)[None].to(model.head.weight.device),
        options.length,
        temperature=options.temperature,
        top_k=options.top_k,
        generators=sample_generators(options.seed, [0]),
    )
    text = run.alphabet.decode(new[0])
    parts = {"prompt": options.prompt, "continuation": text}
    print(json.dumps(parts) if options.json else options.prompt + text)


def load_model(options: argparse.Namespace, run: RunRecord) -> DynamicPoolingLM:
    """The newest model of a run, as `--device` and `--quantize` say."""
    model = read_model(options.run, run.alphabet).to(choose_device(options.device))
    return quantize(model, options.quantize or run.config.quantize)


def read_part(options: argparse.Namespace, run: RunRecord) -> tuple[str, str]:
    """The text of a file or a part of it, and which part."""
    text = read_text(options.data)
    split = options.split or _choose_split(run, text)
    if split != "all":
        text = split_text(text, run.config.alphabet)[_PARTS.index(split)]
    return text, split


def _choose_split(run: RunRecord, text: str) -> str:
    """The part of a text that the run did not train on, or all of another text."""
    if digest(split_text(text, run.config.alphabet)[0]) == run.text_sha256:
        return "test"
    if digest(text) == run.text_sha256:
        print("dtp-lm: warning: this is the text that the run was trained on", file=sys.stderr)
    return "all"
