"""The small models of rows: of transformers, and trained ones of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from original_files import KEYS, SPACES
from small_inputs import make

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


def make_clipa_weights(path: Path) -> None:
    """A checkpoint of that model, as CLIPA's training stores it."""
    from clip_models import CLIP
    from clip_models.converters.clipa_config import from_clipa

    config = json.loads(make("clipa-config.json", path.parent).read_text())
    state = CLIP(from_clipa(config)).state_dict()
    torch.save({"epoch": 6, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)


def _train(path: Path, *words: str) -> None:
    from clip_train.cli.main import main

    data = make("shapes", path.parent)
    sources = ["--data.train", f"wds:{data}/train", "--data.val", f"imagefolder:{data}/val"]
    small = ["--steps", "2", "--batch-size", "4", "--data.workers", "0", "--quiet"]
    assert main(["run", *words, *sources, *small, "--out", str(path)]) == 0


def make_teacher(path: Path) -> None:
    """A finished run of a compact CLIP with the tokenizer of CLIP."""
    _train(path, "shapes-tiny", "--tokenizer.kind", "openai")


def make_vit_run(path: Path) -> None:
    """A finished run of a small ViT."""
    _train(path, "clipa-b16-i50-t16", *VIT_SIZES)


def make_pooled(path: Path) -> None:
    """A finished run whose two towers pool their tokens."""
    _train(
        path,
        "pooled-text-b16",
        *VIT_SIZES,
        "--model.vision.num_layers=3",
        "--model.text.num_layers=3",
    )


VIT_SIZES = [
    "--model.vision.image_size=32",
    "--model.vision.width=32",
    "--model.vision.num_heads=2",
    "--model.vision.num_layers=2",
    "--model.text.width=32",
    "--model.text.num_heads=2",
    "--model.text.num_layers=2",
]


def make_corenet_run(path: Path) -> None:
    """A finished run of CoreNet's recipe, small."""
    sizes = [*VIT_SIZES, "--data.variable_sizes.num_sizes=0", "--train.precision=fp32"]
    _train(path, "corenet-vit-b16", *sizes)
