"""The model card: a description of a model directory, with examples that load it."""

from __future__ import annotations

from clip_models.config.clip_config import CLIPConfig
from clip_models.config.image_size import size_in_words
from clip_models.config.preprocess_config import PreprocessConfig
from clip_models.files.foreign_configs import ForeignConfigs
from clip_models.model.clip import CLIP, count_parameters

MARK = "<!-- written anew with the model; without this line, the file is yours and stays -->"
"""Mark of the model cards that this package wrote."""


def make_model_card(
    model: CLIP,
    config: CLIPConfig,
    preprocess: PreprocessConfig,
    foreign: ForeignConfigs,
    *,
    license: str | None,
    description: str,
) -> str:
    """A README in Markdown with the header that the Hugging Face hub reads."""
    header = ["tags:", "- clip", "pipeline_tag: zero-shot-image-classification"]
    if foreign.open_clip or foreign.hugging_face:
        header.insert(0, f"library_name: {'open_clip' if foreign.open_clip else 'transformers'}")
    if license is not None:
        header.append(f"license: {license}")
    parts = [
        "\n".join(["---", *header, "---"]),
        MARK,
        "# CLIP model",
        description.strip(),
        _make_table(model, config, preprocess),
        "## Use",
        _make_examples(foreign),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _make_table(model: CLIP, config: CLIPConfig, preprocess: PreprocessConfig) -> str:
    mean, std = (
        ", ".join(f"{x:g}" for x in values) for values in (preprocess.mean, preprocess.std)
    )
    rows = {
        "parameters": f"{count_parameters(model):,}",
        "embedding": f"{config.embed_dim} dimensions",
        "image tower": f"`{config.vision.kind}`, {size_in_words(config.vision.image_size)} px",
        "text tower": f"{config.text.num_layers} layers of width {config.text.width}, "
        f"{config.text.context_length} tokens of {config.text.vocab_size:,}",
        "images": f"{preprocess.interpolation}, resize mode {preprocess.resize_mode}, "
        f"mean {mean}, std {std}",
    }
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    )


def _make_examples(foreign: ForeignConfigs) -> str:
    lines = [
        "```python",
        "from clip_models import from_pretrained",
        "",
        'model, preprocess = from_pretrained("this repository or directory")',
        "```",
    ]
    if foreign.open_clip:
        lines += [
            "",
            "```python",
            "import open_clip",
            "",
            'model, _, transform = open_clip.create_model_and_transforms("hf-hub:this repository")',
            "```",
        ]
    if foreign.hugging_face:
        kind = foreign.hugging_face["architectures"][0]
        lines += [
            "",
            "```python",
            f"from transformers import {kind}",
            "",
            f'model = {kind}.from_pretrained("this repository or directory")',
            "```",
        ]
    return "\n".join(lines)
