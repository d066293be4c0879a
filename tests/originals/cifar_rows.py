"""CLIP for CIFAR-10, one file: every class and function of it."""

from __future__ import annotations

import json
from pathlib import Path

from page import Row

ABOUT = (
    "`CLIP.py` of `clip-zero-shot-inference`; the preset is `cifar10`. Where open_clip has the "
    "same module, the check is equality with it. `cifar` is a folder of images."
)
SMALL = (
    "--model.vision.width 8 --model.vision.num_heads 4 --model.text.width 16 "
    "--model.text.num_heads 2 --model.text.num_layers 1"
)
RUN = (
    "clip-train run cifar10 --data.train imagefolder:cifar/train --data.val imagefolder:cifar/val "
    f"--steps 2 --batch-size 5 --data.workers 0 {SMALL} --quiet --out run"
)


def trained(printed: str) -> None:
    """A finished run with curves, whose weights load."""
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"][-1] == 2
    assert Path("run/model.safetensors").is_file()
    assert Path("run/curves.png").is_file()


ROWS = [
    Row(
        there="`Bottleneck`",
        here="import torch, open_clip.modified_resnet as peer\n"
        "from clip_models.model.modified_resnet import Bottleneck\n"
        "ours, theirs = Bottleneck(8, 4, 2).eval(), peer.Bottleneck(8, 4, 2).eval()\n"
        "ours.load_state_dict(theirs.state_dict())\n"
        "x = torch.randn(2, 8, 6, 6)\ntorch.testing.assert_close(ours(x), theirs(x))",
    ),
    Row(
        there="`AttentionPool2d`",
        here="import torch, open_clip.modified_resnet as peer\n"
        "from clip_models.model.modified_resnet import AttentionPool\n"
        "ours, theirs = AttentionPool((3, 3), 8, 2, 5), peer.AttentionPool2d(3, 8, 2, 5)\n"
        "ours.load_state_dict(theirs.state_dict())\n"
        "x = torch.randn(2, 8, 3, 3)\ntorch.testing.assert_close(ours(x), theirs(x))",
    ),
    Row(
        there="`ModifiedResNet(layers, output_dim, heads, input_resolution, width)`",
        here="import torch, open_clip.modified_resnet as peer\n"
        "from clip_models.config import ModifiedResNetConfig\n"
        "from clip_models.model.modified_resnet import ModifiedResNet\n"
        "config = ModifiedResNetConfig(image_size=32, layers=(2, 2, 2, 2), width=8, num_heads=4)\n"
        "ours = ModifiedResNet(config, 12).eval()\n"
        "theirs = peer.ModifiedResNet((2, 2, 2, 2), 12, 4, 32, 8).eval()\n"
        "ours.load_state_dict(theirs.state_dict())\n"
        "x = torch.randn(2, 3, 32, 32)\ntorch.testing.assert_close(ours(x), theirs(x))",
    ),
    Row(
        there="`LayerNorm` for fp16",
        here="import torch\nnorm = torch.nn.LayerNorm(8).half()\n"
        "assert norm(torch.randn(2, 8).half()).dtype == torch.float16",
    ),
    Row(
        there="`QuickGELU`",
        here="import torch\nfrom clip_models.model.transformer import QuickGELU\n"
        "x = torch.randn(9)\n"
        "torch.testing.assert_close(QuickGELU()(x), x * torch.sigmoid(1.702 * x))",
    ),
    Row(
        there="`ResidualAttentionBlock`, `Transformer`, `build_attention_mask`",
        here="import torch, open_clip.transformer as peer\n"
        "from clip_models.config import TextConfig\n"
        "from clip_models.model.layouts import Padded\n"
        "from clip_models.model.transformer import Transformer\n"
        "config = TextConfig(width=16, num_layers=2, num_heads=2)\n"
        "ours, theirs = Transformer(config), peer.Transformer(16, 2, 2)\n"
        "ours.load_state_dict(theirs.state_dict(), strict=False)\n"
        "x, mask = torch.randn(2, 5, 16), torch.full((5, 5), -torch.inf).triu(1)\n"
        "torch.testing.assert_close(ours(x, Padded(causal=True)), theirs(x, attn_mask=mask))",
    ),
    Row(
        there="`CLIP(…).encode_image`, `.encode_text`, `forward` → logits both ways",
        here="import torch\nfrom clip_models import create_model\n"
        "from clip_tokenizer import get_tokenizer\n"
        "model = create_model('CIFAR-RN').eval()\n"
        "texts = get_tokenizer('CIFAR-RN')(['a cat', 'a dog'])\n"
        "images = torch.randn(2, 3, 32, 32)\nout = model(images, texts)\n"
        "image, text = model.encode_image(images), model.encode_text(texts)\n"
        "norm = torch.nn.functional.normalize\n"
        "logits = out.logit_scale * norm(image, dim=1) @ norm(text, dim=1).T\n"
        "found = out.logit_scale * out.image_features @ out.text_features.T\n"
        "torch.testing.assert_close(found, logits)",
    ),
    Row(
        there="`create_model()`, about 50M parameters",
        here="from clip_models import create_model\n"
        "assert sum(p.numel() for p in create_model('CIFAR-RN').parameters()) == 51_688_753",
    ),
    Row(
        there="`build_model(state_dict)` (changes the state dict there)",
        here="import torch\nfrom clip_models import create_model\n"
        "from clip_models.files import build_model\n"
        "model = create_model('CIFAR-RN').eval()\nagain = build_model(model.state_dict())\n"
        "x = torch.randn(2, 3, 32, 32)\n"
        "assert torch.equal(again.encode_image(x), model.encode_image(x))",
    ),
    Row(
        there="`convert_weights(model)` to fp16",
        here="clip-models convert cifar-run --to clip-models --dtype float16 --out half\n"
        "clip-eval run --model half --data imagefolder:cifar/val --no-cache --quiet --out results",
        needs="cifar-run cifar",
        check=lambda printed: _evaluated(),
    ),
    Row(
        there="`CIFARCLIPDataset(dataset, class_names)`, five templates at random",
        here="from clip_eval.data import open_source\n"
        "from clip_train import load_config\n"
        "templates = load_config('cifar10').data.templates\n"
        "source = open_source('imagefolder:cifar/train', templates=templates)\n"
        "captions = {source.read(n).captions[0] for n in range(2)}\n"
        "assert captions <= {t.format(c='airplane') for t in templates}",
        needs="cifar",
    ),
    Row(
        there="`collate_fn`",
        here="from dataclasses import replace\n"
        "from clip_train import build_data_components, load_config\n"
        "config = load_config('cifar10')\n"
        "data = replace(config.data, train='imagefolder:cifar/train', val='', workers=0)\n"
        "train = replace(config.train, batch_size=8)\n"
        "batch = build_data_components(replace(config, data=data, train=train)).make_reader()[0]\n"
        "assert len(batch.images) == len(batch.caption_of) == 8\n"
        "assert batch.tokens.shape[1] <= 77",
        needs="cifar",
    ),
    Row(
        there="`SimpleTokenizer`, `default_bpe`, `get_tokenizer` (534 ids there, in silence)",
        here="import open_clip\nfrom clip_tokenizer import get_tokenizer\n"
        "ours, theirs = get_tokenizer('CIFAR-RN'), open_clip.SimpleTokenizer()\n"
        "text = ['a photo of a cat', \"It's naïve &amp; 東京\"]\n"
        "assert ours.vocab_size == 49408\nassert ours(text).tolist() == theirs(text).tolist()",
    ),
    Row(
        there="a vocabulary of few words, if one wants it",
        here="from clip_tokenizer import Tokenizer\n"
        "few = Tokenizer.train(['a photo of a cat', 'a picture of a dog'] * 9, vocab_size=534)\n"
        "assert few.vocab_size <= 534\nassert few.decode(few.encode('a cat')).strip() == 'a cat'",
    ),
    Row(
        there="`bytes_to_unicode`, `get_pairs`",
        here="import open_clip.tokenizer as peer\n"
        "from clip_tokenizer.alphabet import SYMBOL_OF_BYTE\n"
        "assert SYMBOL_OF_BYTE == peer.bytes_to_unicode()",
    ),
    Row(
        there="`basic_clean`, `whitespace_clean`",
        here="import open_clip.tokenizer as peer\nfrom clip_tokenizer.cleaning import clean_text\n"
        "text = '  A &amp;amp; \\n  ﬁne   schÃ¶n day '\n"
        "assert clean_text(text, 'lower') == peer._clean_lower(text)",
    ),
    Row(
        there="`tokenize(texts, context_length=77)`",
        here="import open_clip\nfrom clip_tokenizer import get_tokenizer\n"
        "texts = ['a cat', 'very ' * 100]\n"
        "ours = get_tokenizer('CIFAR-RN')(texts)\n"
        "assert ours.shape == (2, 77)\nassert ours.tolist() == open_clip.tokenize(texts).tolist()",
    ),
    Row(
        there="`contrastive_loss(logits_per_image, logits_per_text)`",
        here="import torch, open_clip\nfrom clip_train import contrastive_loss\n"
        "norm = torch.nn.functional.normalize\n"
        "image, text = norm(torch.randn(4, 8), dim=1), norm(torch.randn(4, 8), dim=1)\n"
        "ours = contrastive_loss(image, text, torch.tensor(9.0), torch.arange(4))\n"
        "torch.testing.assert_close(ours, open_clip.ClipLoss()(image, text, torch.tensor(9.0)))",
    ),
    Row(
        there="`train_epoch`, `main`: `python CLIP.py` (runs the test only, there)",
        here=RUN,
        needs="cifar",
        check=trained,
    ),
    Row(
        there="`validate`, `test_model_inference` on the validation images",
        here="clip-eval run --model cifar-run --data imagefolder:cifar/val --no-cache --quiet "
        "--out results",
        needs="cifar-run cifar",
        check=lambda printed: _evaluated(),
    ),
    Row(
        there="`best_clip_model.pth`, the best of the epochs",
        here="clip-eval run --model cifar-run/best --data imagefolder:cifar/val --no-cache --quiet "
        "--out results",
        needs="cifar-run cifar",
        check=lambda printed: _evaluated(),
    ),
    Row(
        there="`training_curves.png`",
        here="from PIL import Image\nassert Image.open('cifar-run/curves.png').size[0] > 300",
        needs="cifar-run",
    ),
    Row(
        there="`test_model_inference()` on five images",
        here="clip-eval predict cifar/val/cat/0.png cifar/val/dog/0.png --model cifar-run "
        "--classnames cifar10",
        needs="cifar-run cifar",
        check=lambda printed: _assert(printed.count("%") >= 2, printed),
    ),
    Row(
        there="other data, class names, templates, `image_resolution`, `vision_layers`, widths",
        here="clip-train run cifar10 --data.train imagefolder:pets/train --data.val "
        "imagefolder:pets/val --data.templates templates.txt --model.vision.image_size 64 "
        f"--model.vision.layers '[1, 1, 1, 1]' --steps 2 --batch-size 4 --data.workers 0 {SMALL} "
        "--quiet --out run",
        needs="pets templates.txt",
        check=trained,
    ),
    Row(
        there="fp16 and fp32 training",
        here=RUN.replace("--quiet", "--train.precision fp16 --quiet"),
        needs="cifar",
        check=trained,
    ),
]


def _evaluated() -> None:
    result = json.loads(Path("results/result.json").read_text())
    assert result["n"] == 10
    assert 0 <= result["metrics"]["acc1"] <= 1


def _assert(holds: bool, printed: str) -> None:
    assert holds, printed
