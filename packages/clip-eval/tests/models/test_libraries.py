"""Models of other libraries: the same features as the library itself gives."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from clip_eval import EvaluationError, load_for_evaluation
from clip_eval.cli.main import main
from clip_eval.models.adapters import TowerAdapter
from clip_eval.models.fingerprints import model_fingerprint
from clip_tokenizer import HFTokenizer, Tokenizer
from PIL import Image

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what transformers imports in its turn
    import transformers
    from transformers import BertModel, CLIPModel, SiglipModel

TEXTS = ["a cat", "a photo of two dogs, on the beach", "x " * 90]


@pytest.fixture
def image() -> Image.Image:
    return Image.effect_noise((40, 50), 80).convert("RGB")


TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"width": 32, "layers": 2, "heads": 2},
}


@pytest.fixture
def tiny_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An open_clip model under a name of its own, and the file of its weights."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ViT-tiny-test.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "configs")
    torch.manual_seed(0)
    weights = tmp_path / "weights.pt"
    torch.save(open_clip.create_model("ViT-tiny-test").state_dict(), weights)
    return weights


def test_open_clip_by_name_and_weights(
    tiny_clip: Path, image: Image.Image, color_folder: Path, tmp_path: Path
) -> None:
    peer, _, transform = open_clip.create_model_and_transforms(
        "ViT-tiny-test", pretrained=str(tiny_clip)
    )
    peer.eval()
    loaded = load_for_evaluation(f"open_clip:ViT-tiny-test:{tiny_clip}")
    assert (loaded.name, loaded.warnings) == ("ViT-tiny-test:weights.pt", ())
    fingerprint = model_fingerprint(loaded.model)
    tokens = loaded.tokenizer(TEXTS)
    assert torch.equal(tokens, open_clip.get_tokenizer("ViT-tiny-test")(TEXTS))
    pixels = loaded.preprocess.normalize(loaded.preprocess(image)[None])
    assert torch.equal(pixels[0], transform(image))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.encode_image(pixels), peer.encode_image(pixels))
        for rows in (tokens, tokens[:2], tokens[:1]):
            torch.testing.assert_close(
                loaded.model.encode_text(rows), peer.encode_text(rows), atol=1e-5, rtol=1e-5
            )
    assert model_fingerprint(loaded.model) == fingerprint
    assert loaded.model.logit_scale is peer.logit_scale or torch.equal(
        loaded.model.logit_scale, peer.logit_scale
    )
    command = ["run", "--model", f"open_clip:ViT-tiny-test:{tiny_clip}", "--quiet"]
    command += ["--data", str(color_folder), "--out", str(tmp_path / "out"), "--cost"]
    assert main(command) == 0
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["n"] == 12
    assert record["cost"]["parameters"] == sum(p.numel() for p in peer.parameters())
    assert record["cost"]["image_latency"][0]["p50_ms"] > 0


def test_open_clips_text_tower_computes_no_padding(tiny_clip: Path) -> None:
    loaded = load_for_evaluation(f"open_clip:ViT-tiny-test:{tiny_clip}")
    widths: list[int] = []
    blocks = loaded.model.model.transformer  # type: ignore[attr-defined]
    blocks.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1]))
    with torch.no_grad():
        loaded.model.encode_text(loaded.tokenizer(["a cat", "a dog on grass"]))
        loaded.model.encode_text(loaded.tokenizer(["x " * 90]))
    assert widths == [7, 77]  # start, four words, end, one column of padding


def test_a_tower_that_reads_its_padding_gets_all_of_it(tmp_path: Path) -> None:
    config = {**TINY, "text_cfg": {**TINY["text_cfg"], "pool_type": "last", "no_causal_mask": True}}
    (tmp_path / "ViT-last-test.json").write_text(json.dumps({**config, "custom_text": True}))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    weights = tmp_path / "w.pt"
    peer = open_clip.create_model("ViT-last-test").eval()
    torch.save(peer.state_dict(), weights)
    loaded = load_for_evaluation(f"open_clip:ViT-last-test:{weights}")
    tokens = loaded.tokenizer(TEXTS[:2])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.encode_text(tokens), peer.encode_text(tokens))


def test_what_open_clip_cannot_load_is_told(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "random weights" in load_for_evaluation("open_clip:ViT-tiny-test").warnings[0]
    with pytest.raises(EvaluationError, match=r"open_clip:No-Such-Model cannot be loaded"):
        load_for_evaluation("open_clip:No-Such-Model")
    with pytest.raises(EvaluationError, match="cannot be loaded"):
        load_for_evaluation(f"open_clip:ViT-tiny-test:{tmp_path / 'absent.pt'}")
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(EvaluationError, match="pip install open_clip_torch"):
        load_for_evaluation("open_clip:ViT-tiny-test")


def save_transformers(directory: Path, kind: str) -> Any:
    """A very small dual encoder with its tokenizer and image processor, as the hub has them."""
    Tokenizer.openai().save(directory)
    torch.manual_seed(0)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 64 if kind == "siglip" else 77}
    text |= {"vocab_size": 49408}
    image = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    image |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    if kind == "clip":
        text |= {"eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 49407}
        config = transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=16)
        model, processor = CLIPModel(config), transformers.CLIPImageProcessor
    else:
        model = SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=image))
        processor = transformers.SiglipImageProcessor
    size = {"shortest_edge": 32} if kind == "clip" else {"height": 32, "width": 32}
    crop = {"crop_size": {"height": 32, "width": 32}} if kind == "clip" else {}
    model.eval().save_pretrained(directory)
    processor(size=size, **crop).save_pretrained(directory)
    names = {"bos_token": "<start_of_text>", "eos_token": "<end_of_text>"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"), pad_token="<end_of_text>", **names
    ).save_pretrained(directory)
    return model


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers_models(kind: str, tmp_path: Path, image: Image.Image) -> None:
    peer = save_transformers(tmp_path / kind, kind)
    loaded = load_for_evaluation(f"hf:{tmp_path / kind}")
    assert loaded.name == kind
    fingerprint = model_fingerprint(loaded.model)
    tokens = loaded.tokenizer(TEXTS)
    assert tokens.shape == (3, 64 if kind == "siglip" else 77)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / kind)
    pixels = loaded.preprocess.normalize(loaded.preprocess(image)[None])
    torch.testing.assert_close(pixels, processor(image, return_tensors="pt")["pixel_values"])
    with torch.no_grad():
        expected = peer.get_image_features(pixel_values=pixels).pooler_output
        torch.testing.assert_close(loaded.model.encode_image(pixels), expected)
        for rows in (tokens, tokens[:2]):
            expected = peer.get_text_features(input_ids=rows).pooler_output
            torch.testing.assert_close(
                loaded.model.encode_text(rows), expected, atol=1e-5, rtol=1e-5
            )
    (tmp_path / kind).rename(tmp_path / "moved")
    again = load_for_evaluation(f"hf:{tmp_path / 'moved'}")
    assert fingerprint == model_fingerprint(loaded.model) == model_fingerprint(again.model)


def test_other_transformers_models_are_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        vocab_size=49408,
    )
    save_transformers(tmp_path, "clip")
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(EvaluationError, match="is a bert model; known dual encoders are clip"):
        load_for_evaluation(f"hf:{tmp_path}")
    with pytest.raises(EvaluationError, match="cannot be loaded"):
        load_for_evaluation(f"hf:{tmp_path / 'absent'}")


def test_a_hub_repository_of_ours_and_of_open_clips(
    trained_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read_json: Callable[[Path], Any],
) -> None:
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: tmp_path / name.split("/")[1]
    )
    (tmp_path / "ours").symlink_to(trained_directory)
    loaded = load_for_evaluation("hf-hub:me/ours")
    assert (loaded.name, loaded.templates) == ("me/ours", ("a {c} thing",))

    theirs = tmp_path / "theirs"
    theirs.mkdir()
    torch.manual_seed(0)
    peer = open_clip.CLIP(**TINY)
    torch.save(peer.state_dict(), theirs / "open_clip_pytorch_model.bin")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"model_cfg": TINY, "preprocess_cfg": preprocess}
    (theirs / "open_clip_config.json").write_text(json.dumps(config))
    loaded = load_for_evaluation("hf-hub:me/theirs")
    assert loaded.warnings == ()
    pixels = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model.encode_image(pixels), peer.eval().encode_image(pixels)
        )
    assert "theirs" not in repr(loaded.preprocess)


def test_a_directory_of_ours_with_a_tokenizer_of_another_kind(
    trained_directory: Path, tmp_path: Path
) -> None:
    import shutil

    import tokenizers

    words = {"[PAD]": 0, "[UNK]": 1, "a": 2, "cat": 3, "photo": 4}
    words |= {f"word{number}": number for number in range(5, 514)}  # as many as the tower knows
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    directory = tmp_path / "run"
    directory.mkdir()
    for name in ("model.safetensors", "clip_config.json"):
        shutil.copy(trained_directory / name, directory)
    HFTokenizer(backend, context_length=24, clean="canonicalize").save(directory)
    loaded = load_for_evaluation(directory)
    assert loaded.tokenizer(["a CAT!"])[0, :3].tolist() == [2, 3, 0]


def test_a_temperature_is_a_scale() -> None:
    class Tempered(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = torch.nn.Parameter(torch.tensor(0.05))

    towers = TowerAdapter(
        Tempered(), lambda images: images, lambda ids: ids.float(), lambda texts: torch.ones(2, 3)
    )
    assert towers.logit_scale.exp().item() == pytest.approx(1 / 0.05)  # ALIGN's way to say it
