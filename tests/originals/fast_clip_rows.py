"""Fast-CLIP: token pooling in a language model and in CLIP, COCO and LAION, small techniques."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from checks import both, evaluates, prints, trains, writes
from clip_models import load_model
from dtp_pooling.language_model.quantization import quantize_int8
from page import Limit, Row

ABOUT = (
    "Fast-CLIP with its parts: dynamic-pooling's language model, open_clip's training on COCO and "
    "LAION, pooled towers (DRIP), and the plan to quantize, prune and distil them. `text8`, `coco` "
    "and `laion` are small stand-ins in the same formats; `text8-…`, `coco-…` and `pooled-…` are "
    "presets with the published numbers, made narrow by flags."
)
LM = (
    "--model.width 16 --model.num_heads 2 --model.head_dim 8 --model.feedforward 16 "
    "--model.shortened_layers 1 --steps 2 --context 64 --batch_size 2 --evaluate_every 2 "
    "--evaluation_window 64 --evaluation_stride 32 --device cpu --precision float32"
)
RN = (
    "--model.vision.image_size 32 --model.vision.width 8 --model.vision.num_heads 4 "
    "--model.vision.layers '[1, 1, 1, 1]' --model.text.width 16 --model.text.num_heads 2 "
    "--model.text.num_layers 1 --batch-size 4 --data.workers 0 --quiet --steps 2 --out run"
)
VIT = (
    "--model.vision.image_size 32 --model.vision.width 32 --model.vision.num_heads 2 "
    "--model.vision.num_layers 3 --model.text.width 32 --model.text.num_heads 2 "
    "--model.text.num_layers 3 --batch-size 4 --data.workers 0 --quiet --steps 2 --out run"
)
SHAPES = "--data.train wds:shapes/train"
KINDS = {
    "none (`baseline.yaml`, what `dtp_run.sh` trains)": "vanilla",
    "fixed": "fixed-2",
    "whitespaces": "whitespace",
    "entropy": "entropy",
    "gumbel": "gumbel",
}
ROWS = [
    *(
        Row(
            there=f"`train_DTP.py --config_file`, `boundaries_type` {there}",
            here=f"dtp-lm train text8 --out run --preset text8-{kind} {LM}",
            needs="text8",
            check=writes("run/checkpoints/step-0000002/model.safetensors"),
            slow=kind not in ("vanilla", "gumbel"),
        )
        for there, kind in KINDS.items()
    ),
    Row(
        there="`boundaries_type` unigram (SentencePiece)",
        here=f"dtp-lm train text8 --out run --preset text8-unigram {LM} --unigram_vocabulary 40",
        needs="text8",
        check=writes("run/checkpoints/step-0000002/model.safetensors"),
    ),
    Row(
        there="bits per character on the test part (82 % of it there)",
        here=f"dtp-lm train text8 --out run --preset text8-gumbel {LM}\n"
        "dtp-lm eval run text8 --split test --device cpu",
        needs="text8",
        check=prints("bits per character over 1,060 characters (test)"),
    ),
    Row(
        there="curves of bits per character by boundary kind",
        here=f"dtp-lm train text8 --out run --preset text8-fixed-2 {LM}\n"
        "dtp-lm curves run --out curves.png",
        needs="text8",
        check=writes("curves.png"),
    ),
    Row(
        there="`training_plan` COCO, `train_CLIP.py` (RN50 on COCO's captions)",
        here="clip-train translate fast_clip plan.json > coco.toml\n"
        f"clip-train run coco.toml --data.train csv:coco/train.csv {RN}",
        needs="plan.json coco",
        check=trains(),
    ),
    Row(
        there="`training_plan` LAION, a WebDataset",
        here=f"clip-train run laion-rn50-3 --data.train wds:laion {RN}",
        needs="laion",
        check=trains(),
        slow=True,
    ),
    Row(
        there="COCO's own JSON of captions",
        here=f"clip-train run coco-rn50-1 --data.train coco:coco/captions.json "
        f"--data.image_root coco/images {RN}",
        needs="coco",
        check=trains(),
        slow=True,
    ),
    Row(
        there="`train_CLIP.py`, open_clip's flags",
        here="clip-train translate fast_clip -- --train-data coco/train.csv --dataset-type csv "
        "--csv-img-key filepath --csv-caption-key title --model RN50 --batch-size 4 --lr 1e-4 "
        f"--wd 0.1 --warmup 50 --epochs 1 --workers 0 > mine.toml\nclip-train run mine.toml {RN}",
        needs="coco",
        check=trains(),
        slow=True,
    ),
    Row(
        there="zero-shot ImageNet while training",
        here=f"clip-train run coco-rn50-1 --data.train wds:laion --data.val "
        f"imagefolder:imagenet/val --eval.every_steps 1 {RN}",
        needs="laion imagenet",
        check=trains(),
    ),
    Row(
        there="`eval_CLIP.py`: top-1 and top-5 on ImageNet, 80 prompts",
        here="clip-eval run --model teacher --data imagenet --classnames imagenet1k --templates "
        "imagenet1k --no-cache --quiet --out results",
        needs="teacher imagenet",
        check=evaluates(9, acc1=..., acc5=..., classnames=1000, templates=80),
        slow=True,
    ),
    Row(
        there="`unit_inference_CLIP.py`: one image, ten prompts",
        here="clip-eval predict pets/val/red/0.png --model teacher --labels 'red thing,blue thing'",
        needs="teacher pets",
        check=prints("red thing", "%"),
    ),
    Row(
        there="its table of pretrained open_clip models",
        here="from clip_models import list_pretrained\n"
        "assert {('RN50x16', 'openai'), ('ViT-B-32', 'laion2b_s34b_b79k'),\n"
        "        ('ViT-B-16', 'laion2b_s34b_b88k'), ('ViT-L-14', 'laion2b_s32b_b82k'),\n"
        "        ('ViT-B-32', 'laion400m_e31')} <= set(list_pretrained())",
    ),
    Row(
        there="DTP-ViT: tokens of the image tower pooled at learned boundaries",
        here=f"clip-train run pooled-vit-b16 {SHAPES} {VIT}",
        needs="shapes",
        check=trains(),
    ),
    Row(
        there="Gumbel boundaries with the binomial prior (DRIP)",
        here=f"clip-train run pooled-vit-b16 {SHAPES} --model.vision.pooling.args "
        f"'{{kind = \"gumbel\", rate = 0.25}}' {VIT}",
        needs="shapes",
        check=trains(),
        slow=True,
    ),
    Row(
        there="S-DRIP: a rate within an interval",
        here=f"clip-train run pooled-vit-b16 {SHAPES} --model.vision.pooling.args "
        f'\'{{kind = "gumbel", rate_loss = "interval", interval = [0.2, 0.3]}}\' {VIT}',
        needs="shapes",
        check=trains(),
        slow=True,
    ),
    Row(
        there="H-DRIP: two stages",
        here=f'clip-train run pooled-vit-b16 {SHAPES} --model.vision.pooling \'{{name = "dynamic", '
        'after_layer = 1, args = {kind = "top_k", rate = 0.5}, then = {name = "dynamic", '
        f'after_layer = 2, args = {{kind = "top_k", rate = 0.5}}}}}}\' {VIT}',
        needs="shapes",
        check=trains(),
    ),
    Row(
        there="both towers pooled (planned there: the text tower never was)",
        here=f"clip-train run pooled-text-b16 {SHAPES} {VIT}",
        needs="shapes",
        check=trains(),
    ),
    Row(
        there="zero-shot of a pooled CLIP",
        here="clip-eval run --model pooled --data imagefolder:shapes/val --no-cache --quiet "
        "--out results",
        needs="pooled shapes",
        check=evaluates(144, acc1=...),
        slow=True,
    ),
    Row(
        there="continual pretraining of open_clip's weights",
        here=f"clip-train run finetune --model.pretrained teacher {SHAPES} --batch-size 4 "
        "--data.workers 0 --quiet --steps 2 --out run",
        needs="teacher shapes",
        check=trains(),
    ),
    Row(
        there="`FLOP.sh`",
        here="clip-train plan pooled-vit-b16 coco-rn50-1 --num-samples 82783 --json\n"
        "clip-eval run --model pooled --data imagefolder:shapes/val --cost --no-cache --quiet "
        "--out results",
        needs="pooled shapes",
        check=both(prints("flops"), evaluates(144)),
        slow=True,
    ),
    Row(
        there="distillation (`--distill-model`, `--distill-pretrained`)",
        here="clip-train run shapes-tiny --data.train wds:shapes/train --data.val '' "
        "--loss.teacher teacher --tokenizer.kind directory --tokenizer.path teacher --steps 2 "
        "--batch-size 4 --quiet --out run",
        needs="teacher shapes",
        check=trains(),
    ),
    Row(
        there="quantization (planned there), of a CLIP",
        here="import torch\nfrom clip_models import load_model\n"
        "from dtp_pooling.language_model.quantization import quantize_int8\n"
        "model, _ = load_model('vit-run')\nsmall = quantize_int8(model.eval())\n"
        "image = torch.randn(2, 3, 32, 32)\n"
        "found, expected = small.encode_image(image), model.encode_image(image)\n"
        "assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.99",
        needs="vit-run",
    ),
    Row(
        there="pruning (planned there), of a CLIP",
        here="osf extract clip-models:vit-run --max-params 95% --out small --quiet\n"
        "clip-eval run --model small --data imagefolder:shapes/val --no-cache --quiet "
        "--out results",
        needs="vit-run shapes",
        check=evaluates(144),
        slow=True,
    ),
    Row(
        there='the plan\'s "combine": pooled, pruned, distilled and quantized, together',
        here="osf extract clip-models:pooled --max-params 99% --out pruned --quiet\n"
        "clip-train run finetune --model.pretrained pruned --loss.teacher pooled --data.train "
        "wds:shapes/train --batch-size 4 --data.workers 0 --quiet --steps 2 --out distilled\n"
        "clip-eval run --model pooled distilled --data imagefolder:shapes/val --no-cache "
        "--quiet --out results",
        needs="pooled shapes",
        check=lambda printed: _combined(),
        slow=True,
    ),
    Row(
        there="`task1`: ImageNet as supervised classification (torchvision's recipe)",
        here="clip-eval run --model vit-run --data imagefolder:pets/val --train "
        "imagefolder:pets/train --task linear-probe --no-cache --quiet --out results",
        needs="vit-run pets",
        check=evaluates(8, lp_acc1=...),
        limit=Limit(
            reason="a linear probe of the tower; there is no training with a classification loss",
            shown_by="clip-train run shapes-tiny --loss.kind cross_entropy --out other",
            message="loss.kind must be one of",
        ),
    ),
    Row(
        there="`task3`: LLaVA on top of the tower",
        here="clip-models info pooled",
        needs="pooled",
        check=prints("pool"),
        limit=Limit(
            reason="no language model on top of a tower; the tower itself is a module",
            shown_by="clip-eval run --model pooled --data pooled --task vqa --out other",
            message="invalid choice: 'vqa'",
            whole=True,
        ),
    ),
]


def _combined() -> None:
    """Both were evaluated; the second is smaller, and int8 weights of it give its features."""
    found = [json.loads(file.read_text()) for file in Path("results").rglob("result.json")]
    assert [result["n"] for result in found] == [144, 144]
    full, small = (load_model(name)[0].eval() for name in ("pooled", "distilled"))
    sizes = [sum(x.numel() for x in model.parameters()) for model in (full, small)]
    assert sizes[1] < sizes[0]
    images = torch.randn(2, 3, 32, 32)
    expected, rounded = small.encode_image(images), quantize_int8(small).encode_image(images)
    assert torch.nn.functional.cosine_similarity(rounded, expected).min() > 0.98
