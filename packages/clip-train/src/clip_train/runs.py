"""Start, try out and resume a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from clip_eval import TEMPLATES_FILE, Result, source_faults
from clip_models import WEIGHTS_NAME
from clip_tokenizer import Tokenizer

from clip_train.build import Parts, build
from clip_train.config import Config
from clip_train.loading import Batch, BatchReader
from clip_train.loop import Trainer
from clip_train.run_directory import RunDirectory, RunDirectoryError


def start(
    config: Config, out: str | Path, *, overwrite: bool = False, progress: bool = True
) -> Result | None:
    """Train from the beginning into the directory `out`; the final evaluation, if any.

    Raises:
        ConfigError, DataError: The config or the data cannot be used; nothing was written.
        RunDirectoryError: `out` is in use and `overwrite` is false.
    """
    RunDirectory.check(out, overwrite=overwrite)
    config = with_absolute_paths(config)
    parts = build(config)
    directory = RunDirectory.create(out, config, overwrite=overwrite)
    parts.tokenizer.save(directory.path)
    if parts.templates:
        text = "".join(f"{template}\n" for template in parts.templates)
        (directory.path / TEMPLATES_FILE).write_text(text, encoding="utf-8")
    faults = source_faults(parts.source)
    if faults:
        counts = Counter(fault.reason for fault in faults)
        directory.log("fault", 0, {"counts": counts, "samples": [str(fault) for fault in faults]})
    return Trainer(config, directory, parts, progress=progress).run()


def resume(path: str | Path, *, progress: bool = True) -> Result | None:
    """Go on with an interrupted run from its newest checkpoint.

    Raises:
        RunDirectoryError: `path` is no run directory, or its run is finished.
    """
    directory, config = RunDirectory.open(path)
    if (directory.path / WEIGHTS_NAME).is_file():
        raise RunDirectoryError(f"the run in {path} is finished; there is nothing to resume")
    parts = build(config, tokenizer=Tokenizer.from_pretrained(directory.path))
    trainer = Trainer(config, directory, parts, progress=progress)
    trainer.resume()
    return trainer.run()


def dry_run(config: Config) -> tuple[Parts, Batch]:
    """Build everything and read the first batch; nothing is written, no image cached."""
    config = replace(config, data=replace(config.data, cache_images=False))
    parts = build(config)
    reader = BatchReader(parts.source, parts.plan, config, parts.preprocess, parts.tokenizer)
    return parts, reader[0]


def with_absolute_paths(config: Config) -> Config:
    """The config with paths that do not depend on where the command was typed."""
    data, tokenizer = config.data, config.tokenizer
    return replace(
        config,
        data=replace(
            data,
            train=_absolute(data.train),
            val=_absolute(data.val),
            classnames=str(Path(data.classnames).absolute()) if data.classnames else "",
        ),
        tokenizer=replace(
            tokenizer, path=str(Path(tokenizer.path).absolute()) if tokenizer.path else ""
        ),
    )


def _absolute(spec: str) -> str:
    """A source with its path made absolute: `kind:path`, or a bare path that exists."""
    kind, colon, path = spec.partition(":")
    if colon and path and "://" not in spec:
        return f"{kind}:{Path(path).absolute()}"
    return str(Path(spec).absolute()) if spec and Path(spec).exists() else spec
