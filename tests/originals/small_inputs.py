"""The small inputs of rows, made when a row first needs them."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import sys
import tarfile
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

COLORS = {"blue": (40, 40, 200), "red": (200, 40, 40)}
WORDS = ["a", "photo", "of", "blue", "red", "."]
VIT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 16,
    "patch_size": 8,
}
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 12,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
    "mlp_ratio": 2.0,
}
TEXT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": 50,
    "max_position_embeddings": 16,
}


def make(name: str, work: Path) -> Path:
    """The input of that name; made if it is not there."""
    path = work / name
    if not path.exists():
        stem = name.partition(".")[0].replace("-", "_")
        is_space = stem in SPACES or stem == "clip_elastic_space"
        maker: Callable[[Path], None] = (
            make_space if is_space else getattr(sys.modules[__name__], f"make_{stem}")
        )
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            torch.manual_seed(0)
            maker(path)
    return path


def square(color: tuple[int, int, int], side: int = 16) -> Image.Image:
    """One color."""
    return Image.new("RGB", (side, side), color)


def make_pets(path: Path) -> None:
    """Class folders of two colors under train and val."""
    for part, count in (("train", 8), ("val", 4)):
        for name, color in COLORS.items():
            folder = path / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                square((color[0] + index, color[1] + index, color[2] + index)).save(
                    folder / f"{index}.png"
                )


def _save(model: Any, path: Path) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model.save_pretrained(path)


def make_vit(path: Path) -> None:
    """A ViT of transformers."""
    from transformers import ViTConfig, ViTForImageClassification

    _save(ViTForImageClassification(ViTConfig(**VIT, num_labels=2)), path)


def make_swin(path: Path) -> None:
    """A Swin of transformers with four stages, as the original's handler expects."""
    from transformers import SwinConfig, SwinForImageClassification

    _save(SwinForImageClassification(SwinConfig(**SWIN, num_labels=2)), path)


def make_swinv2(path: Path) -> None:
    """A Swin-v2 of transformers."""
    from transformers import Swinv2Config, Swinv2ForImageClassification

    _save(Swinv2ForImageClassification(Swinv2Config(**SWIN, num_labels=2)), path)


def make_clip(path: Path) -> None:
    """A CLIP of transformers with a tokenizer of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    text = TEXT | {"max_position_embeddings": 10, "eos_token_id": 49, "bos_token_id": 48}
    vision = VIT | {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 56}
    _save(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)), path)
    vocabulary = {word: n for n, word in enumerate(["<pad>", *WORDS])} | {"<end>": 49}
    found = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    found.pre_tokenizer = Whitespace()
    found.post_processor = TemplateProcessing("$A <end>", special_tokens=[("<end>", 49)])
    PreTrainedTokenizerFast(
        tokenizer_object=found, pad_token="<pad>", eos_token="<end>"
    ).save_pretrained(path)


def make_mamba(path: Path) -> None:
    """A Mamba of transformers with a byte tokenizer."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

    config = MambaConfig(
        hidden_size=24,
        num_hidden_layers=2,
        state_size=4,
        vocab_size=256,
        time_step_rank=3,
        expand=2,
        use_mambapy=False,
    )
    _save(MambaForCausalLM(config), path)
    found = Tokenizer(BPE({s: n for n, s in enumerate(sorted(ByteLevel.alphabet()))}, []))
    found.pre_tokenizer = ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=found).save_pretrained(path)


def _make_text_model(name: str, path: Path, **settings: Any) -> None:
    import transformers

    config = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, f"{name}ForSequenceClassification")(config)
    _save(model, path)


def make_bert(path: Path) -> None:
    """A BERT of transformers."""
    _make_text_model("Bert", path, **TEXT)


def make_roberta(path: Path) -> None:
    """A RoBERTa of transformers."""
    _make_text_model("Roberta", path, **TEXT | {"max_position_embeddings": 20})


def make_distilbert(path: Path) -> None:
    """A DistilBERT of transformers."""
    settings = {"dim": 24, "hidden_dim": 40, "n_layers": 2, "n_heads": 3, "vocab_size": 50}
    _make_text_model("DistilBert", path, **settings)


def make_t5(path: Path) -> None:
    """A T5 of transformers, with the gated layers of Flan-T5."""
    from transformers import T5Config, T5ForConditionalGeneration

    settings = {"d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 3}
    config = T5Config(**settings, vocab_size=50, feed_forward_proj="gated-gelu")
    _save(T5ForConditionalGeneration(config), path)


def make_llama(path: Path) -> None:
    """A LLaMA of transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = TEXT | {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}
    _save(LlamaForCausalLM(LlamaConfig(**settings)), path)


def make_sam(path: Path) -> None:
    """The image encoder of a SAM of transformers, as a factory of the user's."""
    path.write_text(
        "import torch\n"
        "from transformers.models.sam.modeling_sam import SamVisionConfig, SamVisionModel\n\n\n"
        "def make():\n"
        "    config = SamVisionConfig(hidden_size=24, output_channels=8, num_hidden_layers=2,\n"
        "        num_attention_heads=3, image_size=32, patch_size=8, window_size=2,\n"
        "        global_attn_indexes=[1], mlp_dim=40)\n"
        "    return SamVisionModel(config).eval(), torch.randn(2, 3, 32, 32)\n"
    )


def make_wiki(path: Path) -> None:
    """Texts for a language model."""
    path.mkdir()
    for part in ("train", "val"):
        (path / f"{part}.txt").write_text("a photo of blue . a photo of red . " * 40)


def make_text8(path: Path) -> None:
    """A text of 27 symbols, long enough for windows of the reduced presets."""
    path.write_text("the cat sat on the mat and the dog ran after the cat " * 400)


def make_shapes(path: Path) -> None:
    """The shapes data set: 64 captioned images in shards, an image of each held-out class."""
    from clip_train import write_shapes

    write_shapes(path, num_train=64, num_val_per_class=1, image_size=32, progress=False)


def make_imagenet(path: Path) -> None:
    """ImageNet's validation folders, three of them."""
    for name, color in (("n01440764", "red"), ("n02123045", "blue"), ("n04467665", "red")):
        folder = path / "val" / name
        folder.mkdir(parents=True)
        for index in range(3):
            square(COLORS[color], 32 + index).save(folder / f"{index}.JPEG")


def _captioned(folder: Path) -> list[tuple[str, str]]:
    folder.mkdir(parents=True)
    found = []
    for index in range(12):
        name = list(COLORS)[index % 2]
        square(tuple(c + index for c in COLORS[name]), 48).save(folder / f"{index}.jpg")  # type: ignore[arg-type]
        found.append((f"{index}.jpg", f"picture {index} of something {name}"))
    return found


def make_coco(path: Path) -> None:
    """COCO captions and the same as the table that Fast-CLIP trains on."""
    rows = _captioned(path / "images")
    images = [{"id": n, "file_name": name} for n, (name, _) in enumerate(rows)]
    notes = [{"image_id": n, "id": n, "caption": text} for n, (_, text) in enumerate(rows)]
    (path / "captions.json").write_text(json.dumps({"images": images, "annotations": notes}))
    lines = ["filepath\ttitle", *(f"images/{name}\t{text}" for name, text in rows)]
    (path / "train.csv").write_text("\n".join(lines) + "\n")


def make_laion(path: Path) -> None:
    """Shards as img2dataset writes them."""
    rows = _captioned(path.with_name("laion-images"))
    path.mkdir()
    with tarfile.open(path / "00000.tar", "w") as tar:
        for index, (name, text) in enumerate(rows):
            for suffix, data in (
                ("jpg", (path.with_name("laion-images") / name).read_bytes()),
                ("txt", text.encode()),
            ):
                member = tarfile.TarInfo(f"{index:09d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def make_datacomp(path: Path) -> None:
    """CoreNet's tars of pickles with their metadata."""
    images = path.with_name("datacomp-images")
    rows = _captioned(images)
    path.mkdir()
    half = len(rows) // 2
    for number in range(2):
        with tarfile.open(path / f"{number}.tar.gz", "w:gz") as tar:
            for index in range(number * half, number * half + half):
                name, text = rows[index]
                record = {"image": b64encode((images / name).read_bytes()), "text": text}
                data = pickle.dumps(record)
                member = tarfile.TarInfo(f"{number}/{index}.pkl")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    meta = {"total_tar_files": 2, "max_files_per_tar": half, "tar_file_names": ["0", "1"]}
    (path / "metadata.pkl").write_bytes(pickle.dumps(meta))


CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def make_cifar(path: Path) -> None:
    """CIFAR-10's classes as folders of images of 32 pixels."""
    for part, count in (("train", 2), ("val", 1)):
        for label, name in enumerate(CIFAR):
            folder = path / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                square((20 * label, 120 + index, 200 - 20 * label), 32).save(
                    folder / f"{index}.png"
                )


SPACES: dict[str, Any] = {
    "elastic_space": ([24], [40, 20, 12], [24, 18]),
    "swin_elastic_space": ([48], [96, 64, 48], ["None"]),
    "mamba_elastic_space": ([24], [24, 16, 8], ["None"]),
    "bert_base": ([24], [40, 24, 12], [24, 16]),
    "bert_large": ([24, 16], [40, 24, 12], [24, 16]),
    "t5_base": ([24], [40, 24, 16, 12], [24, 16]),
    "t5_small": ([24], [40, 24], [24]),
    "t5_widths": ([24], [40, 24, 16, 12], [24]),
}
KEYS = ("atten_out_space", "inter_hidden_space", "residual_hidden_space")


def make_space(path: Path) -> None:
    """An elastic space of OFM at the sizes of the small models."""
    if path.stem == "clip_elastic_space":
        towers = {"text": [40, 24, 16], "vision": [56, 40, 24]}
        found: Any = {
            tower: {KEYS[0]: ["None"], KEYS[1]: sizes, KEYS[2]: ["None"]}
            for tower, sizes in towers.items()
        }
    else:
        found = dict(zip(KEYS, SPACES[path.stem], strict=True))
    path.write_text(json.dumps(found))


def make_elastic_folder(path: Path) -> None:
    """A supernet as OFM stores it: a model of transformers with the space in its config."""
    make_vit(path)
    config = json.loads((path / "config.json").read_text())
    config["elastic_config"] = dict(zip(KEYS, SPACES["elastic_space"], strict=True))
    (path / "config.json").write_text(json.dumps(config))


CIFAR_RN = [
    "--model.vision.width=8",
    "--model.vision.num_heads=4",
    "--model.text.width=16",
    "--model.text.num_heads=2",
    "--model.text.num_layers=1",
]


def make_cifar_run(path: Path) -> None:
    """The CIFAR-10 preset at reduced width, trained for two steps with its best evaluation."""
    from clip_train.cli.main import main

    data = make("cifar", path.parent)
    words = f"run cifar10 --data.train imagefolder:{data}/train --data.val imagefolder:{data}/val"
    words += " --steps 2 --batch-size 5 --data.workers 0 --eval.metric acc1 --eval.every_steps 1"
    assert main([*words.split(), *CIFAR_RN, "--out", str(path), "--quiet"]) == 0


def make_templates(path: Path) -> None:
    """Templates of one's own."""
    path.write_text("a {c} thing\nsome {c}\n")
