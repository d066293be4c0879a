"""The directory of a training run.

`run.json` holds the configuration, the alphabet and the digests of the texts; `metrics.jsonl` one
line per record; `checkpoints/step-NNNNNNN` model and optimizer; `unigram.model` the subword model
of the kind `unigram`. An earlier layout with one checkpoint in `checkpoint/` is read too.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtp_pooling.checkpoint_files import naming, newest_checkpoint, read_state
from dtp_pooling.command_line import read_small_file
from dtp_pooling.language_model.model import DynamicPoolingLM
from dtp_pooling.run_lock import LOCK_NAME, PARTIAL_NAME, start_run
from dtp_pooling.strict_config import from_dict
from dtp_pooling.training.alphabet import Alphabet, make_alphabet
from dtp_pooling.training.config import TrainingConfig
from dtp_pooling.training.text import digest

RUN_NAME, METRICS_NAME, UNIGRAM_NAME = "run.json", "metrics.jsonl", "unigram.model"
CHECKPOINTS_NAME = "checkpoints"
EARLIER_LAYOUT = ("checkpoint", "checkpoint.old")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What `run.json` holds.

    Attributes:
        config: Fitted to the alphabet.
        alphabet: Symbols of all texts.
        text_sha256: Digest of the training text.
        valid_sha256: Digest of the validation text.
        data: File of the text, or None if it is not known.
        valid: File of the validation text, or None if it is a part of `data`.
    """

    config: TrainingConfig
    alphabet: Alphabet
    text_sha256: str
    valid_sha256: str
    data: str | None = None
    valid: str | None = None


def check_directory(directory: Path, *, overwrite: bool = False) -> None:
    """Raise FileExistsError unless a new run can be written there.

    A run that a mistake stopped before its first metrics and checkpoint is written over.
    """
    if not overwrite and _is_occupied(directory):
        has_run = (directory / RUN_NAME).is_file()
        resume = f"continue it with `dtp-lm resume {directory}`, " if has_run else ""
        kind = "holds a run" if has_run else "already exists and is not empty"
        raise FileExistsError(
            f"{directory} {kind}; {resume}choose another --out, or pass --overwrite to set it aside"
        )


def create_run(
    directory: Path,
    config: TrainingConfig,
    train_text: str,
    valid_text: str,
    test_text: str = "",
    *,
    files: tuple[Path | None, Path | None] = (None, None),
    overwrite: bool = False,
) -> RunRecord:
    """As `open_new_run`, and let the directory go."""
    with open_new_run(
        *(directory, config, train_text, valid_text, test_text), files=files, overwrite=overwrite
    ) as record:
        return record


@contextmanager
def open_new_run(
    directory: Path,
    config: TrainingConfig,
    train_text: str,
    valid_text: str,
    test_text: str = "",
    *,
    files: tuple[Path | None, Path | None] = (None, None),
    overwrite: bool = False,
) -> Iterator[RunRecord]:
    """Fit the configuration to the alphabet of all texts, write `run.json`, hold the lock.

    Args:
        directory: Made if it does not exist.
        config: Of the run.
        train_text: Text to train on.
        valid_text: Text to evaluate on.
        test_text: Text whose characters also belong to the alphabet.
        files: The text, and the validation text if it is another file, for resuming.
        overwrite: Rename an existing directory to `NAME.old-K`.

    Raises:
        FileExistsError: The directory is not empty, and `overwrite` is false.
        RunInUseError: Another process trains in the directory.
        ValueError: The configuration does not fit the text.
    """
    check_directory(directory, overwrite=overwrite)
    directory = directory.absolute()  # `.` may be set aside
    alphabet = _choose_alphabet(config, train_text, valid_text, test_text)
    record = RunRecord(
        config=_fit(config, alphabet),
        alphabet=alphabet,
        text_sha256=digest(train_text),
        valid_sha256=digest(valid_text),
        data=_absolute(files[0]),
        valid=_absolute(files[1]),
    )

    def is_occupied() -> bool:
        check_directory(directory, overwrite=overwrite)
        if _is_occupied(directory):
            return True
        (directory / UNIGRAM_NAME).unlink(missing_ok=True)  # of a run that was never begun
        return False

    with start_run(
        directory,
        lambda new: _write_record(new, record),
        last=RUN_NAME,
        is_occupied=is_occupied,
    ):
        yield record


def read_run(directory: Path) -> RunRecord:
    """What `create_run` wrote.

    Raises:
        FileNotFoundError: There is no run.
        ValueError: `run.json` is damaged.
    """
    path = directory / RUN_NAME
    if not path.exists():
        raise FileNotFoundError(
            f"{directory} is not a run directory: it has no {RUN_NAME}; name the --out of a "
            "`dtp-lm train`"
        )
    try:
        values = json.loads(read_small_file(path))
        values["config"] = from_dict(TrainingConfig, values["config"])
        values["alphabet"] = Alphabet(characters=values.pop("characters"))
        return RunRecord(**values)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read: {error!r}; name the --out of a `dtp-lm train`"
        ) from error


def extend_run(directory: Path, steps: int) -> RunRecord:
    """Record another number of steps; the learning rate then falls to zero at the new last one.

    Raises:
        FileNotFoundError: There is no run.
        ValueError: The number is not positive, or `run.json` is damaged.
    """
    record = read_run(directory)
    config = dataclasses.replace(record.config, steps=steps)
    record = dataclasses.replace(record, config=config)
    _write_record(directory, record)
    return record


def find_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint of a run, also of the earlier layout; None if it was never saved."""
    earlier = (directory / name for name in EARLIER_LAYOUT)  # `.old` after a save was cut short
    found = (place for place in earlier if place.exists())
    return newest_checkpoint(directory / CHECKPOINTS_NAME) or next(found, None)


def read_model(directory: Path, alphabet: Alphabet) -> DynamicPoolingLM:
    """The newest model of a run in evaluation mode, if it reads the alphabet.

    Raises:
        ValueError: The run's alphabet is another, or a file is damaged.
        FileNotFoundError: It is not a run directory, or it has no checkpoint.
    """
    if read_run(directory).alphabet != alphabet:
        raise ValueError(
            f"{directory} has another alphabet; train both on texts with the same alphabet"
        )
    place = find_checkpoint(directory)
    if place is None:
        raise FileNotFoundError(f"{directory} has no checkpoint yet; train it to its end first")
    if place.name not in EARLIER_LAYOUT:
        read_state(place)  # verifies the files
    return DynamicPoolingLM.load(place)


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Records of `metrics.jsonl`, without a last line that was cut short."""
    path = directory / METRICS_NAME
    try:
        lines = read_small_file(path).splitlines(keepends=True) if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not all(isinstance(record, dict) for record in found):
        raise ValueError(f"{path} cannot be read: expected one JSON object a line")
    return found


def append_metrics(directory: Path, record: dict[str, Any]) -> None:
    """Add a line to `metrics.jsonl`."""
    path = directory / METRICS_NAME
    with (
        naming(path, whole="its earlier lines are whole"),
        path.open("a", encoding="utf-8") as file,
    ):
        file.write(json.dumps(record) + "\n")


def rewind_metrics(directory: Path, step: int) -> None:
    """Drop records of later steps than `step`, which will be computed again."""
    kept = [record for record in read_metrics(directory) if record["step"] <= step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    replace_file(directory / METRICS_NAME, text.encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there.

    Raises:
        OSError: It cannot be written; what was at `path` stays.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with naming(path, temporary=partial):
            partial.write_bytes(content)
            os.replace(partial, path)
    finally:
        with suppress(OSError):  # a read-only file system refuses this too
            partial.unlink(missing_ok=True)


def _write_record(directory: Path, record: RunRecord) -> None:
    values = dataclasses.asdict(record)
    values["characters"] = values.pop("alphabet")["characters"]
    replace_file(directory / RUN_NAME, (json.dumps(values, indent=2) + "\n").encode())


def _is_occupied(directory: Path) -> bool:
    """Whether the directory has files that must not be lost."""
    if not directory.is_dir():
        return directory.exists()
    metrics = directory / METRICS_NAME
    if find_checkpoint(directory) or (metrics.exists() and metrics.stat().st_size):
        return True
    ours = {RUN_NAME, METRICS_NAME, UNIGRAM_NAME, LOCK_NAME, PARTIAL_NAME}
    return any(path.name not in ours for path in directory.iterdir())


def _fit(config: TrainingConfig, alphabet: Alphabet) -> TrainingConfig:
    """The configuration for an alphabet, with absolute paths of the runs that it names."""
    if config.model.boundaries.kind == "whitespace" and not alphabet.has_space:
        raise ValueError("kind='whitespace' needs a text with spaces; use another kind")
    boundaries = dataclasses.replace(config.model.boundaries, space=alphabet.space)
    model = dataclasses.replace(config.model, vocabulary=len(alphabet), boundaries=boundaries)
    return dataclasses.replace(
        config,
        model=model,
        teacher=_absolute(config.teacher),
        pruned_from=_absolute(config.pruned_from),
        init_from=_absolute(config.init_from),
    )


def _choose_alphabet(config: TrainingConfig, *texts: str) -> Alphabet:
    """That of the run whose weights are the initial ones, else of the texts."""
    if config.init_from is None:
        return make_alphabet(config.alphabet, *texts)
    alphabet = read_run(Path(config.init_from)).alphabet
    for text in texts:
        alphabet.check(text)
    return alphabet


def _absolute(path: str | Path | None) -> str | None:
    return None if path is None else str(Path(path).absolute())
