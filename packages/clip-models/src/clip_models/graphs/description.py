"""What the inputs and outputs of exported towers are, for programs that know no clip-models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.preprocess_config import PreprocessConfig
from clip_models.config.strict import to_dict
from clip_models.config.towers import TokenizerConfig
from clip_models.model.clip import CLIP

DESCRIPTION_NAME = "description.json"
FORMAT_VERSION = 1


def describe_graphs(
    model: CLIP,
    config: CLIPConfig,
    preprocess: PreprocessConfig,
    graphs: Sequence[str],
    files: Sequence[str] = (),
) -> dict[str, Any]:
    """The contents of `description.json`.

    Args:
        model: The model, whose scale and bias of logits are described.
        config: Its sizes.
        preprocess: The preprocessing of its images.
        graphs: Names of the files of the image and the text tower.
        files: Names of the tokenizer's files beside them.
    """
    text = config.text
    bias = model.logit_bias
    return {
        "format_version": FORMAT_VERSION,
        "image": {
            "graph": graphs[0],
            "input": {
                "name": "images",
                "type": "float32",
                "shape": ["batch", 3, "height", "width"],
                "smallest_side": config.vision.smallest_image,
            },
            "output": _describe_features(config),
            "preprocess": to_dict(preprocess),
        },
        "text": {
            "graph": graphs[1],
            "input": {"name": "tokens", "type": "int64", "shape": ["batch", "length"]},
            "output": _describe_features(config),
            "tokenizer": {
                **to_dict(text.tokenizer or TokenizerConfig()),
                "context_length": text.context_length,
                "vocab_size": text.vocab_size,
                "readout": text.readout,
                "end_token_id": text.eot_token_id,
                "files": list(files),
            },
        },
        "logits": {
            "formula": "scale * image_features @ text_features.T + bias",
            "scale": float(model.logit_scale.detach().exp()),
            "bias": 0.0 if bias is None else float(bias.detach()),
        },
    }


def _describe_features(config: CLIPConfig) -> dict[str, Any]:
    """The output of either tower."""
    shape = ["batch", config.embed_dim]
    return {"name": "features", "type": "float32", "shape": shape, "normalized": True}
