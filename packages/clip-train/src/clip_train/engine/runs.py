"""Start, try out and resume a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_eval import Result
from clip_models import CLIP, ConfigError
from clip_models.config import PreprocessConfig, to_dict
from clip_models.devices import choose_device
from clip_models.files import WEIGHTS_NAME
from clip_tokenizer import Tokenizer
from dtp_pooling.run_lock import RunLock

from clip_train.checkpoints.stores import open_store
from clip_train.checkpoints.training_state import load_newest_model
from clip_train.config.data import AugmentConfig, VariableSizesConfig
from clip_train.config.run import Config
from clip_train.data.batches import Batch
from clip_train.data.sources import absolute_spec
from clip_train.distributed.errors import run_on_first_rank
from clip_train.distributed.factory import open_backend
from clip_train.distributed.protocol import Backend
from clip_train.engine.components import RunComponents, build_components
from clip_train.engine.data_components import DataComponents, build_data_components
from clip_train.engine.precision import resolve_precision
from clip_train.engine.stop_signals import terminating_as_interrupt
from clip_train.engine.trainer import Trainer
from clip_train.errors import RunDirectoryError
from clip_train.logs.run_directory import RunDirectory
from clip_train.model.loading import load_pretrained


def train(
    config: Config,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
    make_trainer: Callable[..., Trainer] = Trainer,
    build_components: Callable[..., RunComponents] = build_components,
) -> Result | None:
    """Train from the beginning into the directory `out`; the final evaluation, if any.

    Under torchrun every process calls it; the first one writes.

    Args:
        config: The whole configuration.
        out: The run directory.
        overwrite: Set an existing directory aside.
        progress: Show progress bars.
        make_trainer: `Trainer` or a subclass.
        build_components: Called as `build_components(data, backend, pretrained=...)`; another one
            trains another model, or with another gradient.

    Raises:
        ConfigError, DataError: The config or the data cannot be used; nothing was written.
        RunDirectoryError: `out` is not empty and `overwrite` is false, or `checkpoint.directory`
            holds checkpoints.
        RunInUseError: Another process writes to `out`.
    """
    check_needs(config)
    config = for_overfitting(with_absolute_paths(config))
    with terminating_as_interrupt(), open_run_backend(config) as backend:
        config = resolve_precision(config, backend)
        run_on_first_rank(backend, lambda: _check_out(config, out, overwrite=overwrite))
        pretrained = load_initial_model(config)
        data = build_data_components(config, pretrained=pretrained)
        components = build_components(data, backend, pretrained=pretrained)
        directory = RunDirectory(Path(out), writes=backend.rank == 0)
        with closing(make_trainer(directory, components, progress=progress)) as trainer:
            trainer.begin()  # first: data that cannot be read leaves no directory

            def start() -> RunLock:
                return directory.start(trainer.write_beginning, overwrite=overwrite)

            with _locked_on_first_rank(backend, start):
                run_on_first_rank(backend, lambda: directory.start_wandb(config))
                return trainer.run()


def resume(
    path: str | Path,
    config: Config | None = None,
    *,
    progress: bool = True,
    make_trainer: Callable[..., Trainer] = Trainer,
    build_components: Callable[..., RunComponents] = build_components,
) -> Result | None:
    """Continue an interrupted run from its newest checkpoint, on any number of processes.

    Args:
        path: The run directory.
        config: The run's config with another length, schedule, evaluation or the like, to train a
            run longer, finished or not; None continues it as it is.
        progress: Show progress bars.
        make_trainer: As the run was started with.
        build_components: The same.

    Raises:
        ConfigError: `config` changes what a run cannot change.
        RunDirectoryError: `path` is no run directory, or its run is finished and not extended.
        RunInUseError: Another process runs it.
        CheckpointError: The checkpoint is damaged, or is not of this run.
    """
    own = RunDirectory.read_config(path)
    if config is not None:
        config = with_absolute_paths(config)
        if config.train.precision == "auto":
            config = replace(config, train=replace(config.train, precision=own.train.precision))
        check_changes(own, config)
    new = config or own
    with (
        terminating_as_interrupt(),
        open_run_backend(new) as backend,
        locked_run(path, backend),
    ):
        if config is None and (Path(path) / WEIGHTS_NAME).is_file():
            raise RunDirectoryError(
                f"the run in {path} is finished; there is nothing to resume, except with a longer "
                "length, as in --train.epochs 20"
            )
        directory = RunDirectory(Path(path), writes=backend.rank == 0)
        pretrained = load_initial_model(new, directory)
        data = reopen_data(directory, new, pretrained=pretrained)
        components = build_components(data, backend, pretrained=pretrained)
        with closing(make_trainer(directory, components, progress=progress)) as trainer:
            run_on_first_rank(backend, lambda: directory.start_wandb(new))
            trainer.resume(extended_from=None if config is None else own)
            if config is not None:
                run_on_first_rank(backend, lambda: directory.reopen(new, trainer.steps_done))
            trainer.begin()
            return trainer.run()


CHANGEABLE = (
    *("train.steps", "train.epochs", "train.samples", "train.device", "train.timeout_s"),
    *("data.val", "data.val_split", "data.workers", "data.prefetch", "data.stall_seconds"),
    *(f"optim.{name}" for name in ("lr", "lr_rule", "lr_batch_size", "schedule", "final_lr")),
    *(
        f"optim.{x}_{unit}"
        for x in ("warmup", "cooldown")
        for unit in ("steps", "samples", "epochs", "share")
    ),
    *("eval.", "log.", "checkpoint.every_", "checkpoint.keep_", "data.max_faults"),
)
"""Keys that a run can change when it is resumed, or their beginnings."""


def check_changes(old: Config, new: Config) -> None:
    """Refuse changes that would make another run of it.

    Raises:
        ConfigError: There are some; the message names them.
    """
    before, after = (dict(_flatten(to_dict(config))) for config in (old, new))
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    refused = [key for key in changed if not key.startswith(CHANGEABLE)]
    if refused:
        raise ConfigError(
            f"{', '.join(refused)} cannot change while a run is resumed; its length, schedule, "
            "evaluation, checkpoints and log can. Start a new run from its weights with "
            "--model.pretrained"
        )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def reopen_data(
    directory: RunDirectory,
    config: Config | None = None,
    *,
    pretrained: tuple[CLIP, PreprocessConfig] | None,
) -> DataComponents:
    """The data side of an existing run, with the tokenizer that it saved; None: its own config."""
    config = config or RunDirectory.read_config(directory.path)
    tokenizer = Tokenizer.from_pretrained(directory.path)
    return build_data_components(config, tokenizer=tokenizer, pretrained=pretrained)


def dry_run(config: Config) -> tuple[RunComponents, Batch]:
    """Build everything and read the first batch; nothing is written, no image cached."""
    check_needs(config)
    config = for_overfitting(config)
    config = replace(config, data=replace(config.data, cache_images=False))
    with open_run_backend(config) as backend:
        config = resolve_precision(config, backend)
        _check_store(config)
        pretrained = load_initial_model(config)
        data = build_data_components(config, pretrained=pretrained)
        components = build_components(data, backend, pretrained=pretrained)
        Trainer(RunDirectory(Path(), writes=False), components, progress=False)
        return components, data.make_reader()[0]


def check_needs(config: Config) -> None:
    """Refuse a config that lacks what it says that it needs.

    Raises:
        ConfigError: A key of `needs` is empty.
    """
    for key in config.needs:
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name, None)
        if not value:
            example = "DIR, hf-hub:ORG/NAME, …" if key == "model.pretrained" else "VALUE"
            raise ConfigError(
                f"this recipe needs {key}, which is not set: --{key} {example}; --needs without "
                "a value starts without"
            )


def load_initial_model(
    config: Config, directory: RunDirectory | None = None
) -> tuple[CLIP, PreprocessConfig] | None:
    """The model that `model.pretrained` names, or the one that it has become in a run directory.

    A run with a checkpoint does not need the directory that `model.pretrained` names any more.
    """
    if not config.model.pretrained:
        return None
    model = None
    if directory is not None:
        store = open_store(config.checkpoint.directory, directory.checkpoints)
        model = load_newest_model(store)
    return model or load_pretrained(config.model)


@contextmanager
def open_run_backend(config: Config) -> Iterator[Backend]:
    """The backend of a run, until its end."""
    train = config.train
    device = None if train.backend == "xla" else choose_device(train.device, setting="train.device")
    backend = open_backend(train.backend, device, timeout_s=train.timeout_s)
    try:
        if config.data.token_budget is None and train.batch_size % backend.world_size:
            raise ConfigError(
                f"train.batch_size must be a multiple of the number of processes, got "
                f"{train.batch_size} and {backend.world_size}"
            )
        yield backend
    finally:
        backend.close()


def _check_out(config: Config, out: str | Path, *, overwrite: bool) -> None:
    RunDirectory.check(out, overwrite=overwrite)
    _check_store(config)


def _check_store(config: Config) -> None:
    """Refuse a place with checkpoints of another run: rotation and resume would mix them up."""
    location = config.checkpoint.directory
    steps = open_store(location, Path()).steps() if location else []
    if steps:
        raise RunDirectoryError(
            f"checkpoint.directory must hold no checkpoints of another run, but {location} has "
            f"{len(steps)}, up to step {steps[-1]}; give another one, or move them away"
        )


def locked_run(path: str | Path, backend: Backend) -> AbstractContextManager[None]:
    """Hold the lock of an existing run directory.

    Raises:
        RunInUseError: Another process writes to it.
    """
    return _locked_on_first_rank(backend, lambda: RunLock(Path(path)))


@contextmanager
def _locked_on_first_rank(backend: Backend, lock: Callable[[], RunLock]) -> Iterator[None]:
    """Hold the lock of a run directory on rank 0; refused there, it is refused on all ranks."""
    with ExitStack() as held:
        run_on_first_rank(backend, lambda: held.enter_context(lock()))
        yield


def for_overfitting(config: Config) -> Config:
    """With `train.overfit_batch`, a batch of that many samples, of one size, unaugmented."""
    count = config.train.overfit_batch
    if count is None:
        return config
    return replace(
        config,
        train=replace(config.train, batch_size=count),
        data=replace(config.data, variable_sizes=VariableSizesConfig()),
        augment=AugmentConfig(),
    )


_PATHS = {
    "data": ("image_root", "cache_dir"),
    "tokenizer": ("path",),
    "loss": ("teacher_images", "teacher_texts"),
    "checkpoint": ("directory",),
}
_FILES = {"data": ("classnames", "templates"), "eval": ("classnames",)}  # or names of data sets
_SPECS = {"data": ("train", "val"), "model": ("pretrained",), "loss": ("teacher",)}


def with_absolute_paths(config: Config) -> Config:
    """The config with paths that do not depend on the working directory."""
    kinds = ((_PATHS, _absolute), (_FILES, _absolute_file), (_SPECS, absolute_spec))
    for names_of, make_absolute in kinds:
        for section_name, names in names_of.items():
            section = getattr(config, section_name)
            found = {
                name: make_absolute(value)
                if isinstance(value := getattr(section, name), str)
                else tuple(map(make_absolute, value))
                for name in names
            }
            config = replace(config, **{section_name: replace(section, **found)})
    return config


def _absolute(path: str) -> str:
    """A path that need not exist yet, made absolute; URLs are."""
    return str(Path(path).expanduser().absolute()) if path and "://" not in path else path


def _absolute_file(name: str) -> str:
    """A file made absolute; a name of no file is that of a standard data set, or a template."""
    path = Path(name).expanduser()
    if not name or path.is_file():
        return str(path.absolute()) if name else name
    file, colon, data_set = name.rpartition(":")  # of a file of several data sets
    is_choice = bool(file) and Path(file).expanduser().is_file()
    return f"{_absolute(file)}{colon}{data_set}" if is_choice else name
