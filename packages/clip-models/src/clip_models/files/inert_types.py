"""Types that trainers pickle beside the weights, read as stand-ins: nothing of theirs is called."""

from __future__ import annotations

from typing import Any

import torch


class InertValue:
    """What stands for a value that is no tensor and is not needed; it forgets all it is given."""

    def __new__(cls, *_: Any, **__: Any) -> InertValue:
        """A stand-in, whatever the arguments."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


def _make_table(*_: Any) -> dict[Any, Any]:
    """What stands for a `defaultdict`, whose factory is not called."""
    return {}


_NAMES = (
    *(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
    ),
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"numpy.dtypes.{kind}DType"
        for kind in ("Bool", "Float16", "Float32", "Float64", "Int8", "Int32", "Int64", "UInt8")
    ),
    *(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in ("list", "int")),
    "argparse.Namespace",
    "types.SimpleNamespace",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    *(
        f"{module}.{kind}Path"
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Posix", "Windows")
    ),
    *(f"pathlib.Pure{kind}Path" for kind in ("", "Posix", "Windows")),
    *(
        f"{module}.AttributeDict"
        for module in (
            "lightning.fabric.utilities.data",
            "lightning_fabric.utilities.data",
            "pytorch_lightning.utilities.parsing",
        )
    ),
)


def allow_inert_types() -> torch.serialization.safe_globals:
    """A context in which `torch.load(weights_only=True)` reads these types as stand-ins."""
    return torch.serialization.safe_globals(
        [*((InertValue, name) for name in _NAMES), (_make_table, "collections.defaultdict")]
    )
