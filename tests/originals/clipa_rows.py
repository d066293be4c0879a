"""CLIPA: few tokens, then a short training at full size."""

from __future__ import annotations

from checks import both, evaluates, prints, trains, writes
from page import Limit, Row

ABOUT = (
    "`clipa_torch`: its scripts (their flags are in `tests/originals/original_files.py`), its "
    "strategies for fewer tokens, its readers and weights. `tfds`, `laion` and `files` are data as "
    "img2dataset writes them, `imagenet` three folders of the validation set."
)
SIZES = (
    "--model.vision.width 32 --model.vision.num_heads 2 --model.vision.num_layers 1 "
    "--model.text.width 32 --model.text.num_heads 2 --model.text.num_layers 1 --batch-size 4 "
    "--data.workers 0 --quiet --steps 2"
)
FEW = f"--data.val '' --train.precision fp32 {SIZES}"


def phases(name: str, size: int, pretrain: str, finetune: str, there: str, **more: object) -> Row:
    """Both scripts of a model: translated, then trained one after the other."""
    return Row(
        there=there,
        here=f"clip-train translate clipa {pretrain}.sh > first.toml\n"
        f"clip-train translate clipa {finetune}.sh > second.toml\n"
        f"clip-train run first.toml --data.train tfrecord:tfds --tokenizer.reduction random {FEW} "
        f"--out first\nclip-train run second.toml --data.train tfrecord:tfds --model.pretrained "
        f"first --model.vision.image_size {size} {FEW} --out second",
        needs=f"{pretrain}.sh {finetune}.sh tfds",
        check=both(trains("first"), trains("second")),
        **more,
    )


B16 = "clip-train run clipa-b16-i50-t16 --model.vision.image_size 64"
ROWS = [
    phases(
        "i37_t8",
        224,
        "i37_t8_pretrain",
        "i37_t8_finetune",
        "L/16 (I37, T8): both scripts",
        slow=True,
    ),
    phases(
        "i17_t16",
        224,
        "i17_t16_pretrain",
        "i17_t16_finetune",
        "L/16 (I17, T16): both scripts",
        slow=True,
    ),
    phases("i50_t16", 224, "i50_t16_pretrain", "i50_t16_finetune", "B/16 (I50, T16): both scripts"),
    phases(
        "i36_t8",
        224,
        "i36_t8_pretrain",
        "i36_t8_finetune224",
        "H/14 for TPU (I36, T8), then 224 pixels",
        slow=True,
    ),
    Row(
        there="H/14 for TPU, then 336 pixels with 40 % of the patches dropped",
        here="clip-train translate clipa i36_t8_finetune336.sh > third.toml\n"
        "clip-train run third.toml --data.train tfrecord:tfds --model.pretrained '' "
        f"--model.vision.image_size 56 {FEW} --out run",
        needs="i36_t8_finetune336.sh tfds",
        check=trains(),
        slow=True,
    ),
    Row(
        there="0.36 epoch: `--epochs=1 --train-num-samples 131072000`",
        here="clip-train translate clipa i37_t8_finetune.sh",
        needs="i37_t8_finetune.sh",
        check=prints("samples = 131072000"),
    ),
    Row(
        there="`launch_xla.py --num-devices 8`",
        here="clip-train translate clipa i36_t8_pretrain.sh",
        needs="i36_t8_pretrain.sh",
        check=prints("batch_size = 2048", 'precision = "fp32"'),
        limit=Limit(
            reason="the command is read, and `train.backend xla` trains in one process on one "
            "device (`nox -s xla`); nothing has run on a TPU",
            shown_by=f"{B16} --data.train wds:laion {SIZES} --train.backend xla --out run",
            message="torch_xla",
        ),
    ),
    Row(
        there="six test scripts of the second version: evaluation only",
        here="clip-train translate clipa -- --model ViT-H-14-CL32-GAP-BigVision --pretrained v.pt "
        "--force-image-size 336 --square-resize-only --interpolation bilinear --image-mean 0.485 "
        "0.456 0.406 --image-std 0.229 0.224 0.225 --seed 0 --imagenet-val imagenet/val\n"
        "clip-models convert clipa-weights.pt --to clip-models --model clipa-config.json --out "
        "model\nclip-eval run --data imagefolder:imagenet/val --model model --no-cache --quiet "
        "--out results",
        needs="clipa-weights.pt clipa-config.json imagenet",
        check=both(prints("clip-eval run --data imagefolder:imagenet/val"), evaluates(9)),
    ),
    Row(
        there="`create_model_and_transforms(…, image_mean=, interpolation=, square_resize_only=)`",
        here="import torch\nfrom clip_models import create_model_and_transforms\n"
        "from clip_tokenizer import get_tokenizer\nfrom PIL import Image\n"
        "made = create_model_and_transforms('ViT-B-16-CL16', force_image_size=32,\n"
        "    image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],\n"
        "    interpolation='bilinear', square_resize_only=True)\n"
        "image = made.evaluate(Image.new('RGB', (90, 40)))\n"
        "image = made.evaluate.normalize(image[None])\n"
        "assert image.shape == (1, 3, 32, 32)\n"
        "assert made.model.encode_image(image).shape == (1, 512)\n"
        "assert get_tokenizer('ViT-B-16-CL16')(['a diagram']).shape == (1, 16)",
        slow=True,
    ),
    Row(
        there="weights of the first version (three checkpoints)",
        here="from clip_models import get_config\n"
        "for name in ('ViT-B-16-CL16', 'ViT-L-16-CL16-GAP', 'ViT-L-16-CL32-GAP'):\n"
        "    assert get_config(name).text.context_length in (16, 32)",
    ),
    Row(
        there="weights of the second version (eight checkpoints)",
        here="from clip_models import list_pretrained\n"
        "found = {name for name, _ in list_pretrained('*CLIPA*')}\n"
        "assert {'ViT-L-14-CLIPA', 'ViT-L-14-CLIPA-336', 'ViT-H-14-CLIPA', 'ViT-H-14-CLIPA-336',\n"
        "        'ViT-bigG-14-CLIPA', 'ViT-bigG-14-CLIPA-336'} <= found",
    ),
    Row(
        there="ViT-*-BigVision configs: `gelu_approximate`, `pool_style`, `attention_mask`",
        here="clip-models convert clipa-weights.pt --to clip-models --model clipa-config.json "
        "--out model\nclip-models info model",
        needs="clipa-weights.pt clipa-config.json",
        check=writes("model/model.safetensors"),
    ),
    Row(
        there="images: `--force-image-size`",
        here=f"{B16} --data.train wds:laion {FEW} --out run",
        needs="laion",
        check=trains(),
        slow=True,
    ),
    *(
        Row(
            there=f"images: {there}",
            here=f'{B16} --data.train wds:laion --model.vision.patch_reduction \'{{kind = "{kind}"'
            f", keep_ratio = 0.5}}' {FEW} --out run",
            needs="laion",
            check=trains(),
            slow=kind != "random",
        )
        for there, kind in (
            ("random masks, `--force-patch-dropout`", "random"),
            ("a grid of patches (in the paper only)", "grid"),
            ("a block of patches (in the paper only)", "block"),
        )
    ),
    Row(
        there="`--pos-embed sin_cos_2d`, then `learnable`",
        here=f"{B16} --model.vision.position sin_cos --data.train wds:laion {FEW} --out first\n"
        f"{B16} --model.vision.position learned --model.pretrained first --data.train wds:laion "
        f"{FEW} --out second",
        needs="laion",
        check=both(trains("first"), trains("second")),
    ),
    Row(
        there="texts: syntax (`text_mask`), by nltk's tags",
        here="from clip_tokenizer import SyntaxOrder, Tokenizer\n"
        "tags = {'red': 'JJ', 'dog': 'NN', 'runs': 'VBZ'}\n"
        "order = SyntaxOrder(tagger=lambda text: [(w, tags.get(w, 'DT')) for w in text.split()])\n"
        "full = Tokenizer.openai()\n"
        "rows = order(full, ['the very red dog runs'], 3, None)\n"
        "assert full.decode(rows.ids.tolist()).split() == ['red', 'dog', 'runs']",
        limit=Limit(
            reason="with a tagger of one's own; with nltk's where its data are installed, which "
            "nothing downloads",
            shown_by="from clip_tokenizer import SyntaxOrder, Tokenizer, TokenizerError\n"
            "import pytest\nshort = Tokenizer.openai(context_length=5, reduction='syntax')\n"
            "with pytest.raises(TokenizerError, match='tagger'):\n    short(['the very red dog'])",
        ),
    ),
    *(
        Row(
            there=f"texts: {there}",
            here=f"{B16} --model.text.context_length 8 --tokenizer.reduction {kind} --data.train "
            f"wds:laion {FEW} --out run",
            needs="laion",
            check=trains(),
            slow=kind != "random",
        )
        for there, kind in (
            ("the first tokens", "truncate"),
            ("random tokens", "random"),
            ("a block of tokens", "block"),
        )
    ),
    Row(
        there="GAP over class token and patches (`global_average_pool`)",
        here="from clip_models import get_config\n"
        "assert get_config('ViT-L-16-CL16-GAP').vision.readout == 'average'",
    ),
    Row(
        there="`--to-float-on-device`: images travel as uint8",
        here="import torch\nfrom clip_train import build_data_components, load_config\n"
        "from dataclasses import replace\nconfig = load_config('clipa-b16-i50-t16')\n"
        "data = replace(config.data, train='wds:laion', val='', workers=0)\n"
        "train = replace(config.train, batch_size=4)\n"
        "batch = build_data_components(replace(config, data=data, train=train)).make_reader()[0]\n"
        "assert batch.images.dtype == torch.uint8",
        needs="laion",
    ),
    Row(
        there="`--aug-cfg scale color_jitter color_jitter_prob gray_scale_prob`",
        here=f"{B16} --data.train wds:laion --augment.scale 0.4 1.0 --augment.color_jitter 0.32 "
        "0.32 0.32 0.08 --augment.color_jitter_probability 0.8 --augment.grayscale_probability "
        f"0.2 {FEW} --out run",
        needs="laion",
        check=trains(),
        slow=True,
    ),
    Row(
        there="LAION as TFRecords, without TensorFlow",
        here="clip-train data inspect tfrecord:tfds",
        needs="tfds",
        check=prints("12"),
    ),
    Row(
        there="LAION as WebDataset",
        here="clip-train data inspect wds:laion",
        needs="laion",
        check=prints("12"),
    ),
    Row(
        there="img2dataset's format `files`",
        here="clip-train data inspect pairs:files",
        needs="files",
        check=prints("12"),
    ),
    Row(
        there="ImageNet's validation images in folders",
        here="clip-eval run --model vit-run --data imagefolder:imagenet/val --templates imagenet1k "
        "--no-cache --quiet --out results",
        needs="vit-run imagenet",
        check=evaluates(9, acc1=..., classnames=3, templates=80),
    ),
    Row(
        there="ImageNet's validation images as TFDS",
        here="clip-eval run --model vit-run --data tfrecord:imagenet-tfds/imagenet2012/5.1.0 "
        "--classnames imagenet1k --templates a.txt --no-cache --quiet --out results",
        needs="vit-run imagenet-tfds a.txt",
        check=evaluates(3, acc1=..., classnames=1000),
    ),
    Row(
        there="`--zeroshot-steps`, `--val-steps`",
        here=f"{B16} --data.train wds:laion --data.val imagefolder:imagenet/val "
        f"--eval.every_steps 1 --train.precision fp32 {SIZES} --out run",
        needs="laion imagenet",
        check=trains(),
    ),
    Row(
        there="`--save-most-recent`, `--resume`",
        here=f"{B16} --data.train wds:laion --checkpoint.every_steps 1 {FEW} --out run\n"
        "clip-train resume run --train.steps 3 --quiet",
        needs="laion",
        check=trains(steps=3),
    ),
    Row(
        there="`--grad-checkpointing`, `--precision amp_bf16`, `--accum-freq`",
        here=f"{B16} --data.train wds:laion --train.gradient_checkpointing true --train.precision "
        f"bf16 --train.grad_accum_steps 2 --data.val '' {SIZES} --out run",
        needs="laion",
        check=trains(),
        slow=True,
    ),
    Row(
        there="its table of GPU hours and cost",
        here="clip-train plan clipa-v2-h14-84 clipa-v2-h14-224 clipa-v2-h14-336 --accelerators 8 "
        "--price-per-hour 2",
        check=prints("clipa-v2-h14-84", "clipa-v2-h14-336"),
        slow=True,
    ),
]
