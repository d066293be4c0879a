"""The supernet of a run: how it is made of a CLIP, and its record in the run directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clip_models import CLIP, ConfigError
from clip_models.command_line import read_small_file
from clip_models.config import from_dict
from clip_models.model import infer_config
from osf_supernet import Space, Supernet, ratios

from clip_train.config.supernet import SupernetSettings
from clip_train.logs.files import replace_text

RECORD_NAME = "osf_supernet.json"  # where `osf_supernet.load_supernet` looks for it
DEFAULT_SPACE = {
    "mlp": ratios(0.25, 0.5, 0.75, 1, multiple_of=8),
    "heads": ratios(0.5, 0.75, 1),
    "depth": ratios(0.5, 0.75, 1),
}


def make_supernet(model: CLIP, example: Any, space: Mapping[str, Any] | None) -> Supernet:
    """The supernet of a CLIP, all of whose subnets a model directory can hold.

    Args:
        model: The model, in place.
        example: Images and tokens that it is traced with.
        space: As `Space.from_dict`; None gives hidden units, heads and layers of transformers.

    Raises:
        ConfigError: The space does not fit the model, or has subnets that no config describes.
    """
    try:
        net = Supernet(model, example, None if space is None else Space.from_dict(dict(space)))
    except ValueError as error:
        raise ConfigError(f"the space does not fit the model: {error}") from None
    if space is None:
        kinds = {group.kind for group in net.graph.elastic()} | {"depth"}
        net.space = Space({k: v for k, v in DEFAULT_SPACE.items() if k in kinds})
        net.choices = net.space.resolve(net.graph)
    with net.active(net.smallest):
        try:
            infer_config(model)
        except ConfigError as error:
            raise ConfigError(
                f"{error}. Name only mlp, heads and depth in the space; osf_supernet itself trains "
                "and saves any others"
            ) from None
    return net


@dataclass(frozen=True, kw_only=True)
class SupernetRecord:
    """What a run directory holds of its supernet besides the weights."""

    settings: SupernetSettings
    space: dict[str, Any]
    depth_orders: dict[str, list[int]]

    def write(self, directory: Path) -> None:
        """Write it in one step."""
        text = {
            "format": 1,
            "class": CLIP.__qualname__,
            "space": self.space,
            "depth_orders": self.depth_orders,
            "outputs": ["*"],
            "settings": asdict(self.settings),
        }
        replace_text(directory / RECORD_NAME, json.dumps(text, indent=2) + "\n")

    @staticmethod
    def read(directory: str | Path) -> SupernetRecord | None:
        """The record of a run; None if the run trains no supernet.

        Raises:
            ConfigError: It cannot be read.
        """
        file = Path(directory) / RECORD_NAME
        if not file.is_file():
            return None
        try:
            found = json.loads(read_small_file(file))
            return SupernetRecord(
                settings=from_dict(SupernetSettings, found["settings"]),
                space=found["space"],
                depth_orders=found["depth_orders"],
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f"{file} cannot be read: {error}") from None
