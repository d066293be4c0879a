"""The samples that a run kept out of its training, as a data format: `holdout:RUN`."""

from __future__ import annotations

from clip_eval.data import DataError, Format, Source
from clip_models import ConfigError

from clip_train.data.holdout import split_holdout
from clip_train.data.sources import open_training_source
from clip_train.errors import RunDirectoryError
from clip_train.logs.run_directory import RunDirectory

KIND = "holdout"


def open_held_out(run: str) -> Source:
    """The samples of `data.holdout` of a run, which it was evaluated on.

    Args:
        run: The run directory; the training data that its config names is opened.

    Raises:
        DataError: It is no run directory, or its run kept nothing out.
        ConfigError: The training data is not where it was.
    """
    try:
        data = RunDirectory.read_config(run).data
    except (RunDirectoryError, ConfigError) as error:
        raise DataError(f"{KIND}:{run}: {error}") from None
    if not data.holdout:
        raise DataError(
            f"{KIND}:{run}: the run kept no samples out, as data.holdout does; name other data"
        )
    if f"{KIND}:" in data.train:  # it might name itself
        raise DataError(f"{KIND}:{run}: the run was trained on held-out samples, {data.train}")
    return split_holdout(open_training_source(data), data.holdout)[1]


FORMAT = Format(
    kind=KIND,
    reader="clip_train.engine.held_out:open_held_out",
    form="holdout:RUN",
    content="the samples that a run of clip-train kept out of its training (`data.holdout`)",
)
