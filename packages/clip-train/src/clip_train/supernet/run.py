"""A CLIP trained as a supernet: one run, and smaller models out of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clip_eval import Result
from clip_models import CLIP, ConfigError
from clip_models.config import PreprocessConfig
from clip_models.files import WEIGHTS_NAME
from osf_supernet import Supernet
from osf_supernet.training import broadcast_supernet

from clip_train.config.run import Config
from clip_train.config.supernet import SupernetSettings
from clip_train.distributed.errors import run_on_first_rank
from clip_train.distributed.protocol import Backend
from clip_train.engine import runs
from clip_train.engine.components import PRECISIONS, RunComponents, assemble_components, make_model
from clip_train.engine.data_components import DataComponents
from clip_train.engine.trainer import Trainer
from clip_train.logs.run_directory import RunDirectory
from clip_train.model.towers import Towers
from clip_train.supernet.definition import SupernetRecord, make_supernet
from clip_train.supernet.gradient import SandwichGradient
from clip_train.supernet.subnets import is_written, trace_example, write_subnets


def train(
    config: Config,
    out: str | Path,
    settings: SupernetSettings,
    space: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> Result | None:
    """Train a supernet into the directory `out`, and write subnets of it.

    Args:
        config: The run; `model.pretrained` names what the supernet begins as.
        out: A run directory; its model is the largest subnet.
        settings: Which subnets are trained, and which are written.
        space: Sizes to choose from, as `Space.from_dict`; None is the default.
        overwrite: Set an existing directory aside.
        progress: Show progress bars.

    Returns:
        The final evaluation of the largest subnet, if there is data for one.

    Raises:
        ConfigError, DataError: The config or the data cannot be used; nothing was written.
    """
    return runs.train(
        config,
        out,
        overwrite=overwrite,
        progress=progress,
        make_trainer=SupernetTrainer,
        build_components=partial(build_components, settings=settings, space=space),
    )


def resume(path: str | Path, *, progress: bool = True) -> Result | None:
    """Continue an interrupted run of `train`, bit for bit.

    Where the training is complete and subnets are missing, they are written without evaluation.

    Raises:
        ConfigError: The run trains no supernet.
        RunDirectoryError, CheckpointError: As in `runs.resume`.
    """
    record = SupernetRecord.read(path)
    if record is None:
        raise ConfigError(f"{path} trains no supernet; continue it with `clip-train resume {path}`")
    path = Path(path)
    is_complete = all(is_written(path, share) for share in record.settings.keep)
    if (path / WEIGHTS_NAME).is_file() and not is_complete:
        _write_missing_subnets(path, record, progress=progress)
        return None
    build = partial(
        build_components,
        settings=record.settings,
        space=record.space,
        depth_orders=record.depth_orders,
    )
    return runs.resume(
        path, progress=progress, make_trainer=SupernetTrainer, build_components=build
    )


def _write_missing_subnets(path: Path, record: SupernetRecord, *, progress: bool) -> None:
    """Write what a kill after the last step left out."""
    config = RunDirectory.read_config(path)
    with runs.open_run_backend(config) as backend, runs.locked_run(path, backend):
        directory = RunDirectory(path, writes=backend.rank == 0)
        pretrained = runs.load_initial_model(config, directory)
        data = runs.reopen_data(directory, pretrained=pretrained)
        run_on_first_rank(backend, partial(write_subnets, path, data, record, progress=progress))


class SupernetTrainer(Trainer):
    """The training loop with components of `build_components` of this module."""

    def __init__(
        self, directory: RunDirectory, components: RunComponents, *, progress: bool = True
    ) -> None:
        super().__init__(directory, components, progress=progress)
        assert isinstance(components.gradient, SandwichGradient)
        net = components.gradient.net
        self.record = SupernetRecord(
            settings=components.gradient.settings,
            space=net.space.to_dict(),
            depth_orders=net.depth_orders,
        )

    def write_beginning(self, path: Path) -> None:
        """As `Trainer.write_beginning`, and the record of the supernet."""
        super().write_beginning(path)
        self.record.write(path)

    def finish(self) -> Result | None:
        """As `Trainer.finish`, and the subnets that the settings ask for."""
        result = super().finish()
        write = partial(
            write_subnets,
            *(self.directory.path, self.components.data, self.record),
            progress=self._progress,
        )
        with self._stopping(), self._stopping_at_once():
            run_on_first_rank(self.backend, write)
        return result


def build_components(
    data: DataComponents,
    backend: Backend,
    *,
    pretrained: tuple[CLIP, PreprocessConfig] | None,
    settings: SupernetSettings,
    space: Mapping[str, Any] | None,
    depth_orders: Mapping[str, list[int]] | None = None,
) -> RunComponents:
    """The components of a run, with the gradient of several subnets.

    Args:
        data: The data side.
        backend: One process, or several that hold all parameters.
        pretrained: The model to continue with, if any.
        settings: Which subnets.
        space: Their sizes.
        depth_orders: The order of blocks in a resumed run; a new one ranks them.

    Raises:
        ConfigError: Parts of the config, the settings and the space do not go together.
    """
    _check_supported(data.config, backend, settings)
    model = make_model(data, backend, pretrained=pretrained)
    net = make_supernet(model, trace_example(data, backend.device), space)
    _check_shares(net, settings)
    net.reorder("magnitude")
    if depth_orders is not None:
        net.depth_orders = depth_orders
    broadcast_supernet(net)
    train = data.config.train

    def make_gradient(
        towers: Towers, data: DataComponents, backend: Backend
    ) -> SandwichGradient:  # it averages over ranks itself, so nothing is wrapped
        return SandwichGradient(
            *(net, towers, backend, settings),
            seed=train.seed,
            grad_accum_steps=train.grad_accum_steps,
            autocast=PRECISIONS[train.precision],
        )

    return assemble_components(data, backend, model, make_gradient)


def _check_supported(config: Config, backend: Backend, settings: SupernetSettings) -> None:
    """Refuse settings that subnets cannot be trained with, and a search that cannot be made.

    Raises:
        ConfigError: The backend or a key of the config does not work, or pymoo is missing.
    """
    if settings.generations and find_spec("pymoo") is None:
        raise ConfigError(
            f"generations must be 0 without pymoo, got {settings.generations}; "
            "`pip install osf-supernet[search]`"
        )
    if backend.name not in ("single", "ddp"):
        raise ConfigError(f"supernets train on backends 'single' and 'ddp', not {backend.name!r}")
    for key, is_set in {
        "train.compile": bool(config.train.compile),
        "augment.range": config.augment.range.enabled,
        "model.lock_image": config.model.lock_image,
        "model.lock_text": config.model.lock_text,
    }.items():
        if is_set:
            raise ConfigError(f"{key} does not work with supernets; leave it out")


def _check_shares(net: Supernet, settings: SupernetSettings) -> None:
    """Refuse subnets to write that are smaller than the smallest.

    Raises:
        ConfigError: There is such a share.
    """
    least = net.parameters_of(net.smallest) / net.parameters_of(net.largest)
    too_small = [share for share in settings.keep if share < least]
    if too_small:
        raise ConfigError(
            f"keep must be at least {least:.3f}, the smallest subnet's share of the parameters, "
            f"got {min(too_small):g}; widen the space"
        )
