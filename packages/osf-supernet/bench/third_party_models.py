"""Models of other libraries with random weights, all of a library made smaller in the same way.

The lists are the libraries' own: `timm.list_models()`, `torchvision.models.list_models()`,
`open_clip.list_models()`, and the model types that transformers' `AutoModel` knows, sorted.

B batch, T tokens, S side of an image.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

EVERY = {"timm": 20, "torchvision": 4, "transformers": 6, "open_clip": 5}
"""Library → every so many-th entry of its list is tried."""
SIDES = (64, 128, 224, 320)
"""Sides of the example image, of which the first that the forward accepts is used."""
MOST_PARAMETERS = 40_000_000
UNCOUNTABLE = (NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError)
"""What building on the meta device raises where a model computes with its weights."""
DEPTH = 2
"""Layers, where a config says how many."""


class NotCounted(Exception):
    """Why a model is left out: too large, or one that this script cannot build or call."""


def list_names(library: str) -> list[str]:
    """The library's own list, in its own order (sorted where it has none)."""
    if library == "timm":
        import timm

        return list(timm.list_models())
    if library == "torchvision":
        from torchvision import models

        return list(models.list_models())
    if library == "open_clip":
        import open_clip

        return list(open_clip.list_models())
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return sorted(MODEL_MAPPING_NAMES)


def build(library: str, name: str) -> tuple[nn.Module, Any, str]:
    """A model in evaluation mode, example inputs that its forward accepts, and how it was reduced.

    Raises:
        NotCounted: there is none that the forward of any form accepts, or it is too large.
    """
    reasons = []
    for make, inputs, how in _FORMS[library](name):
        try:
            with contextlib.suppress(*UNCOUNTABLE), torch.device("meta"):
                require_small(make())
            torch.manual_seed(0)
            model = make().eval()
            require_small(model)
            made = inputs(model)
            with torch.no_grad():
                call(model, made)
        except NotCounted as reason:
            reasons.append(str(reason))
            continue
        except Exception as error:  # a library's own code may raise anything
            reasons.append(f"{type(error).__name__}: {' '.join(str(error).split())}"[:200])
            continue
        return model, made, how
    raise NotCounted(reasons[0] if reasons else "no form of it is known")


def require_small(model: nn.Module) -> None:
    """Refuse a model of more parameters than the limit.

    Raises:
        NotCounted: it has more.
    """
    count = sum(p.numel() for p in model.parameters())
    if count > MOST_PARAMETERS:
        raise NotCounted(f"{count / 1e6:.0f} million parameters")


def call(model: nn.Module, inputs: Any) -> Any:
    """The outputs for a tensor, a tuple of arguments, or a dict of keywords."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


Form = tuple[Callable[[], nn.Module], Callable[[nn.Module], Any], str]


def _images(side: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, side, side, generator=generator)


def _tokens(length: int, vocabulary: int) -> Tensor:
    """(2, T) ids that are no special ones, which stand at the ends of vocabularies."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(4, max(5, vocabulary - 40), (2, length), generator=generator)


def _timm_forms(name: str) -> Iterator[Form]:
    import timm

    for side in (*SIDES[:2], None):  # and its own

        def make(side: int | None = side) -> nn.Module:
            sized = {} if side is None else {"img_size": side}
            try:
                return timm.create_model(name, num_classes=10, **sized)
            except TypeError:  # a network that takes any size
                return timm.create_model(name, num_classes=10)

        def inputs(model: nn.Module, side: int | None = side) -> Tensor:
            config: Any = model.default_cfg
            channels, own, _ = config.get("input_size", (3, 224, 224))
            return _images(side or own, channels)

        yield make, inputs, "its own size" if side is None else f"{side} px"


def _torchvision_forms(name: str) -> Iterator[Form]:
    from torchvision import models

    builder = models.get_model_builder(name)
    accepted = inspect.signature(builder).parameters
    kind = builder.__module__.removeprefix("torchvision.models.").partition(".")[0]
    options: dict[str, Any] = {"weights": None}
    options |= {"weights_backbone": None} if "weights_backbone" in accepted else {}
    options |= {} if kind == "optical_flow" else {"num_classes": 10}

    def make() -> nn.Module:
        model: nn.Module = builder(**options)
        return model

    for side in SIDES:

        def inputs(model: nn.Module, side: int = side) -> Any:
            x = _images(side)
            if kind == "detection":
                return ([x[0]],)
            if kind == "video":
                return x[:1, :, None].expand(-1, -1, 16, -1, -1).contiguous()
            return (x, x.flip(-1)) if kind == "optical_flow" else x

        yield make, inputs, f"{side} px"


def _open_clip_forms(name: str) -> Iterator[Form]:
    import open_clip
    from open_clip import factory

    config = copy.deepcopy(open_clip.get_model_config(name))
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "hf_model_name" in text:
        raise NotCounted("its text tower's config is a download")
    layers = vision.get("layers", DEPTH)
    vision["layers"] = [1] * len(layers) if isinstance(layers, list) else DEPTH
    config.setdefault("multimodal_cfg", {}).update(layers=DEPTH)
    if not open_clip.get_model_config(name).get("multimodal_cfg"):
        del config["multimodal_cfg"]
    text |= {"layers": DEPTH, "context_length": 16, "vocab_size": 1000}
    for side in (4 * int(vision.get("patch_size", 16)), *SIDES):

        def make(side: int = side) -> nn.Module:
            reduced = copy.deepcopy(config)
            reduced["vision_cfg"]["image_size"] = side
            factory._MODEL_CONFIGS[name] = reduced
            model: nn.Module = open_clip.create_model(name, pretrained_hf=False)
            return model

        def inputs(model: nn.Module, side: int = side) -> Any:
            return _images(side), _tokens(16, 1000)

        yield make, inputs, f"depth {DEPTH}, {side} px"


THIN = {  # what a config of transformers says → its value in the thin form
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "decoder_hidden_size"), 64),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim"), 128),
    **dict.fromkeys(("d_ff", "moe_intermediate_size", "shared_expert_intermediate_size"), 128),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("head_dim", "d_kv", "v_head_dim", "kv_lora_rank", "qk_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **{"num_key_value_heads": 2, "q_lora_rank": 32, "projection_dim": 32, "num_experts_per_tok": 2},
}
SHALLOW = {  # and in all forms
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth"), DEPTH),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "decoder_num_hidden_layers"), DEPTH),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers"), DEPTH),
    **{"vocab_size": 160, "max_position_embeddings": 64, "n_positions": 64, "image_size": 64},
}


def _transformers_forms(name: str) -> Iterator[Form]:
    from transformers import CONFIG_MAPPING, AutoModel

    whole = CONFIG_MAPPING[name]()
    for values, how in ((THIN | SHALLOW, "thin"), (SHALLOW, f"depth {DEPTH}")):

        def make(values: dict[str, int] = values) -> nn.Module:
            config = type(whole).from_dict(reduce_config(whole.to_dict(), values))
            model: nn.Module = AutoModel.from_config(config)
            return model

        for few in (False, True):

            def inputs(model: nn.Module, few: bool = few) -> dict[str, Any]:
                return _transformers_inputs(model, main_only=few)

            yield make, inputs, how


def reduce_config(config: dict[str, Any], values: dict[str, int]) -> dict[str, Any]:
    """A config with these numbers, in sub-configs too; lists as long as the depth are cut."""
    result: dict[str, Any] = {}
    assert DEPTH == 2
    depths = {v for k, v in config.items() if k in SHALLOW and isinstance(v, int)} - {0}
    vocabulary = values["vocab_size"]
    for key, value in config.items():
        if isinstance(value, dict):
            result[key] = reduce_config(value, values)
        elif isinstance(value, list) and len(value) in depths and len(value) > 4:
            result[key] = [value[0], value[-1]]  # two layers, of two kinds if there are two
        elif type(value) is int and key in values and value > values[key]:
            result[key] = values[key]
        elif type(value) is int and "token_i" in key and value >= vocabulary:
            result[key] = vocabulary - 1 - sum(map(ord, key)) % 32
        else:
            result[key] = value
    return result


def _transformers_inputs(model: Any, *, main_only: bool) -> dict[str, Any]:
    """Ids, pixels or sounds by the names of the forward's arguments."""
    config = model.config
    accepted = inspect.signature(model.forward).parameters
    text, vision = (getattr(config, f"{part}_config", config) for part in ("text", "vision"))
    wanted = [model.main_input_name] if main_only else list(accepted)
    inputs: dict[str, Any] = {}
    if "input_ids" in wanted:
        inputs["input_ids"] = _tokens(12, getattr(text, "vocab_size", 160))
        if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
            inputs["decoder_input_ids"] = _tokens(8, getattr(text, "vocab_size", 160))
    if "pixel_values" in wanted:
        side = getattr(vision, "image_size", 64) or 64
        pixels = _images(side if isinstance(side, int) else side[0], _channels(vision))
        frames = getattr(config, "num_frames", None)
        inputs["pixel_values"] = (
            pixels[:, None].expand(-1, frames, -1, -1, -1).contiguous() if frames else pixels
        )
    if "input_values" in wanted:
        inputs["input_values"] = _images(64)[:, 0].flatten(1)
    if "input_features" in wanted:
        length = 2 * getattr(config, "max_source_positions", 32)
        mels = getattr(config, "num_mel_bins", getattr(config, "feature_size", 80))
        inputs["input_features"] = torch.randn(2, mels, length)
    if not inputs:
        raise NotCounted(f"no example of {model.main_input_name} is known")
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    return inputs


def _channels(config: Any) -> int:
    found = getattr(config, "num_channels", None) or getattr(config, "in_channels", None) or 3
    return found if isinstance(found, int) else 3


_FORMS: dict[str, Callable[[str], Iterator[Form]]] = {
    "timm": _timm_forms,
    "torchvision": _torchvision_forms,
    "transformers": _transformers_forms,
    "open_clip": _open_clip_forms,
}
