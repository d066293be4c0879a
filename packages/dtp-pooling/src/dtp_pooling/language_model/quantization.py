"""Dynamic int8 quantization by torchao (extra `int8`)."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def quantize_int8(model: Module) -> Module:
    """A copy whose linear layers hold int8 weights, one scale per output, and round their inputs.

    Inputs are rounded to int8 at each call, one scale per token. Predictors of boundaries stay as
    they are, so that rounding moves no boundary that their input did not move.

    Args:
        model: In evaluation mode; any module, such as `DynamicPoolingLM` or a CLIP tower. Weights
            outside `nn.Linear` are not touched.
    """
    from torchao.quantization import (  # type: ignore[import-untyped]
        Int8DynamicActivationInt8WeightConfig,
        quantize_,
    )

    def is_chosen(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and "scores" not in name.split(".")

    model = copy.deepcopy(model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig(), is_chosen)
    return model


def quantize(model: Module, precision: Literal["none", "int8"]) -> Module:
    """The model itself for `none`, else its int8 copy."""
    return model if precision == "none" else quantize_int8(model)
