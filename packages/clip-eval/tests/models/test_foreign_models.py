"""Parts of other libraries and of one's own, as `evaluate` and `module:factory` take them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from clip_eval import EvaluationConfig, EvaluationError, adapt_model, evaluate
from clip_eval.cli.main import main
from clip_eval.data import open_source
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what transformers imports in its turn
    import transformers

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"width": 32, "layers": 2, "heads": 2},
}
CONFIG = EvaluationConfig(templates=("a photo of a {c}.", "the {c}"), keep_predictions=True)


@pytest.fixture
def peer() -> Any:
    torch.manual_seed(0)
    return open_clip.CLIP(**TINY)


def by_hand(peer: Any, tokenizer: Any, transform: Any, folder: Path) -> list[int]:
    """The first guesses, computed with the library alone."""
    peer.eval()
    unit = nn.functional.normalize
    with torch.no_grad():
        rows = []
        for name in sorted(path.name for path in folder.iterdir()):
            prompts = tokenizer([f"a photo of a {name}.", f"the {name}"])
            rows.append(unit(unit(peer.encode_text(prompts), dim=-1).mean(dim=0), dim=-1))
        images = [transform(Image.open(path)) for path in sorted(folder.glob("*/*.png"))]
        return (peer.encode_image(torch.stack(images)) @ torch.stack(rows).T).argmax(dim=1).tolist()


def test_open_clip_with_its_own_transform_and_tokenizer(peer: Any, color_folder: Path) -> None:
    transform = open_clip.image_transform(32, is_train=False)
    tokenizer = open_clip.SimpleTokenizer()
    expected = by_hand(peer, tokenizer, transform, color_folder)
    peer.train()
    source = open_source(color_folder)
    found = evaluate(peer, source, tokenizer=tokenizer, preprocess=transform, config=CONFIG)
    assert peer.training
    assert [p.guesses[0] for p in found.predictions or ()] == expected
    alone = evaluate(adapt_model(peer, tokenizer, transform, name="peer"), source, config=CONFIG)
    assert (alone.metrics, alone.model) == (found.metrics, "peer")


@pytest.fixture
def clip_parts(tmp_path: Path) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor of transformers, in memory."""
    from clip_tokenizer import Tokenizer

    Tokenizer.openai().save(tmp_path / "tokenizer")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer" / "tokenizer.json"),
        pad_token="<end_of_text>",
        bos_token="<start_of_text>",
        eos_token="<end_of_text>",
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    ids = {"vocab_size": 49408, "eos_token_id": 49407, "pad_token_id": 49407}
    config = transformers.CLIPConfig(
        text_config={**sizes, **ids, "num_hidden_layers": 2},
        vision_config={**sizes, "num_hidden_layers": 1, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return transformers.CLIPModel(config), tokenizer, transformers.CLIPImageProcessor(**size)


@pytest.mark.parametrize("is_processor", [False, True])
def test_a_clip_of_transformers(
    is_processor: bool, clip_parts: tuple[Any, Any, Any], color_folder: Path
) -> None:
    model, tokenizer, images = clip_parts
    model.eval()
    with torch.no_grad():
        prompts = [f"a photo of a {c}." for c in ("blue", "green", "red")]
        rows = tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt")
        pictures = [Image.open(path) for path in sorted(color_folder.glob("*/*.png"))]
        pixels = images(pictures, return_tensors="pt")["pixel_values"]
        logits = model(input_ids=rows["input_ids"], pixel_values=pixels).logits_per_image
    if is_processor:
        tokenizer = images = transformers.CLIPProcessor(images, tokenizer)
    config = EvaluationConfig(templates=("a photo of a {c}.",), keep_predictions=True)
    found = evaluate(
        model, open_source(color_folder), tokenizer=tokenizer, preprocess=images, config=config
    )
    expected = logits.softmax(dim=1).max(dim=1)
    predictions = found.predictions or ()
    assert [p.guesses[0] for p in predictions] == expected.indices.tolist()
    np.testing.assert_allclose(
        [p.probabilities[0] for p in predictions], expected.values, rtol=1e-4
    )


class Plain:
    """No module; its scale is a number."""

    logit_scale = 3.0

    def encode_image(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return torch.eye(3)[tokens[:, 0]] - 0.4


def numbers(texts: list[str]) -> list[list[int]]:
    return [[next(n for n, c in enumerate(("red", "green", "blue")) if c in t)] for t in texts]


PIXELS = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
TOKENIZERS: tuple[Callable[[list[str]], Any], ...] = (
    numbers,
    lambda texts: np.array(numbers(texts)),
    lambda texts: torch.tensor(numbers(texts)),
    lambda texts: {"input_ids": numbers(texts)},
)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_an_encoder_and_a_tokenizer_of_ones_own(
    tokenizer: Callable[[list[str]], Any], color_folder: Path
) -> None:
    found = evaluate(
        Plain(),
        open_source(color_folder),
        tokenizer=lambda texts: tokenizer([t.replace("cat", "red") for t in texts]),
        preprocess=PIXELS,
    )
    assert found.metrics["acc1"] == 1.0


def test_the_command_takes_the_same(
    color_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_json: Any
) -> None:
    (tmp_path / "tiny_clip.py").write_text(
        "import open_clip, torch\n"
        f"TINY = {TINY}\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    model = open_clip.CLIP(**TINY)\n"
        "    return model, open_clip.SimpleTokenizer(), open_clip.image_transform(32, False)\n"
    )
    monkeypatch.chdir(tmp_path)
    command = ["run", "--model", "tiny_clip:make", "--data", str(color_folder), "--quiet"]
    assert main([*command, "--out", "out"]) == 0
    torch.manual_seed(0)
    found = evaluate(
        open_clip.CLIP(**TINY),
        open_source(color_folder),
        tokenizer=open_clip.SimpleTokenizer(),
        preprocess=open_clip.image_transform(32, is_train=False),
    )
    assert read_json(tmp_path / "out" / "result.json")["metrics"] == found.metrics


def test_what_a_part_lacks_is_said(color_folder: Path) -> None:
    source = open_source(color_folder)

    def fails(
        words: str, model: Any = None, tokenizer: Any = numbers, pixels: Any = PIXELS
    ) -> None:
        with pytest.raises(EvaluationError, match=words):
            evaluate(model or Plain(), source, tokenizer=tokenizer, preprocess=pixels)

    def red(row: Any) -> Any:
        return lambda texts: [row for _ in texts]

    fails("Linear lacks encode_image, encode_text, logit_scale", model=nn.Linear(2, 2))
    fails(r"tokenizer= and preprocess=", tokenizer=None)
    fails(r"called with a list of texts, got int", tokenizer=3)
    fails(r"token ids \(3, T\), got int64 of shape \(3,\)", tokenizer=red(1))
    fails(r"got float64 of shape \(3, 1\)", tokenizer=red([0.5]))
    ragged = lambda texts: [[0] * n for n, _ in enumerate(texts)]  # noqa: E731
    fails("rows of equal length", tokenizer=ragged)
    fails(r"needs ToTensor", pixels=lambda image: image)
    fails(r"got Tensor of shape \(1, 3, 2, 2\)", pixels=lambda image: torch.ones(1, 3, 2, 2))
