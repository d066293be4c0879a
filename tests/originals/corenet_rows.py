"""CoreNet's projects/clip: variable batch sampler, RangeAugment, tars, ViT."""

from __future__ import annotations

from checks import both, evaluates, prints, trains
from page import Limit, Row

ABOUT = (
    "`projects/clip` of CoreNet: `clip_vit_base.yaml` with its variant for RangeAugment, the tars, "
    "the variable batch sampler, evaluation. `datacomp` holds two small tars with `metadata.pkl`."
)
SIZES = (
    "--model.vision.width 32 --model.vision.num_heads 2 --model.vision.num_layers 1 "
    "--model.text.width 32 --model.text.num_heads 2 --model.text.num_layers 1 --batch-size 4 "
    "--data.workers 0 --quiet --steps 2 --data.val '' --train.precision fp32"
)
VBS = (
    "--data.variable_sizes.min_size 32 --data.variable_sizes.max_size 64 "
    "--data.variable_sizes.num_sizes 3 --data.variable_sizes.divisor 16 "
    "--data.variable_sizes.batch_multiple 1 --model.vision.image_size 48"
)
SMALL = f"{SIZES} {VBS}"
DATA = "--data.train corenet:datacomp"
ROWS = [
    Row(
        there="`corenet-train --common.config-file clip_vit_base.yaml`",
        here="clip-train translate corenet clip_vit_base.yaml --processes 256 > mine.toml\n"
        f"clip-train run mine.toml {SMALL} --out run",
        needs="clip_vit_base.yaml datacomp",
        check=trains(),
    ),
    Row(
        there="the recipe with RangeAugment",
        here="clip-train translate corenet clip_vit_base_range.yaml > mine.toml\n"
        f"clip-train run mine.toml {SMALL} --out run",
        needs="clip_vit_base_range.yaml datacomp",
        check=trains(),
    ),
    Row(
        there="`--common.override-kwargs`",
        here="clip-train translate corenet 'corenet-train --common.config-file clip_vit_base.yaml "
        "--common.override-kwargs scheduler.max_iterations=30 optim.adamw.beta2=0.95'",
        needs="clip_vit_base.yaml",
        check=prints("steps = 30", "0.95"),
    ),
    Row(
        there="`img_text_tar`: tars of pickles, `metadata.pkl`",
        here="clip-train data inspect corenet:datacomp",
        needs="datacomp",
        check=prints("12"),
    ),
    Row(
        there="the same tars without pickles",
        here="clip-train data convert corenet:datacomp --out shards --quiet\n"
        "clip-train data inspect wds:shards",
        needs="datacomp",
        check=prints("12"),
    ),
    Row(
        there="a pickle that would run something (is loaded there)",
        here="import pickle, pytest\nfrom pathlib import Path\n"
        "from clip_eval.data import open_source\n"
        "from clip_eval.data.faults import DataError\n"
        "class Hostile:\n    def __reduce__(self):\n        return (print, ('run',))\n"
        "Path('other').mkdir()\nPath('other/metadata.pkl').write_bytes(pickle.dumps(Hostile()))\n"
        "with pytest.raises(DataError):\n    open_source('corenet:other')",
    ),
    Row(
        there="`variable_batch_sampler`: 160 to 320 pixels, five sizes and 224",
        here="from clip_train import load_config\n"
        "from clip_train.plan.batch_schedule import size_table\n"
        "sizes = load_config('corenet-vit-b16').data.variable_sizes\n"
        "found = size_table(256 * 256, 224, sizes)\n"
        "assert [one.image_size for one in found] == [160, 192, 224, 256, 288, 320]\n"
        "assert [one.batch_size // 256 for one in found] == [501, 348, 256, 196, 154, 125]",
    ),
    Row(
        there="`scale_inc`, `ep_intervals`: sizes that grow at some epochs",
        here=f"clip-train run corenet-vit-b16 {DATA} {SMALL} --data.variable_sizes.growth_epochs 1 "
        "--data.variable_sizes.min_growth 0.5 --out run",
        needs="datacomp",
        check=trains(),
        slow=True,
    ),
    Row(
        there="`multi_scale_sampler`: several sizes with batches of one size",
        here=f"clip-train run corenet-vit-b16 {DATA} {SMALL} --out run",
        needs="datacomp",
        check=trains(),
        limit=Limit(
            reason="a batch is as many images as have the same pixels",
            shown_by="clip-train run corenet-vit-b16 --data.variable_sizes.constant_batch true "
            "--out x",
            message="constant_batch",
        ),
        slow=True,
    ),
    *(
        Row(
            there=f"`vit.mode: {mode}`",
            here="clip-train translate corenet 'corenet-train --common.config-file "
            "clip_vit_base.yaml --common.override-kwargs model.classification.vit.mode="
            f"{mode}' > mine.toml\nclip-train plan mine.toml",
            needs="clip_vit_base.yaml",
            check=prints("mine.toml"),
            slow=True,
        )
        for mode in ("tiny", "small", "base")
    ),
    Row(
        there="RangeAugment: brightness, contrast, noise, a PSNR from 40 to 20 dB",
        here=f"clip-train run corenet-range-augment {DATA} {SMALL} --out run",
        needs="datacomp",
        check=both(trains(), lambda printed: _logged("psnr")),
    ),
    Row(
        there="the ranges as they start there (0.598 to 8.376)",
        here=f"clip-train run corenet-range-augment {DATA} {SMALL} --augment.range.parity true "
        "--out run",
        needs="datacomp",
        check=trains(),
        slow=True,
    ),
    Row(
        there="`ema`, momentum 0.0005",
        here=f"clip-train run corenet-vit-b16 {DATA} {SMALL} --optim.ema_decay 0.9995 --out run",
        needs="datacomp",
        check=trains(),
        slow=True,
    ),
    Row(
        there="`mixed_precision` (fp16, scaled loss)",
        here=f"clip-train run corenet-vit-b16 {DATA} {SMALL} --train.precision fp16 --out run",
        needs="datacomp",
        check=trains(),
    ),
    Row(
        there="`activation_checkpointing`",
        here=f"clip-train run corenet-vit-b16 {DATA} {SMALL} --train.gradient_checkpointing true "
        "--out run",
        needs="datacomp",
        check=trains(),
        slow=True,
    ),
    Row(
        there="`auto_resume`, `save_interval_freq`",
        here=f"clip-train run corenet-vit-b16 {DATA} {SMALL} --checkpoint.every_steps 1 --out run\n"
        "clip-train resume run --train.steps 3 --quiet",
        needs="datacomp",
        check=trains(steps=3),
        slow=True,
    ),
    Row(
        there="`checkpoint_metric: top1.zero_shot_image_logits`, `checkpoint_metric_max`",
        here=f"clip-train run corenet-vit-b16 {DATA} {SMALL} --data.val imagefolder:imagenet/val "
        "--eval.every_steps 1 --eval.metric acc1 --out run\n"
        "clip-eval run --model run/best --data imagefolder:imagenet/val --no-cache --quiet "
        "--out results",
        needs="datacomp imagenet",
        check=both(trains(), evaluates(9)),
    ),
    Row(
        there="`corenet-eval` of `clip_vit_base.pt` on ImageNet",
        here="clip-models convert corenet-run --to corenet --out clip_vit_base.pt\n"
        "clip-models convert clip_vit_base.pt --to clip-models --model corenet-config.json "
        "--out model\nclip-eval run --model model --data imagefolder:imagenet/val --no-cache "
        "--quiet --out results",
        needs="corenet-run corenet-config.json imagenet",
        check=evaluates(9, acc1=..., classnames=3, templates=80),
    ),
    *(
        Row(
            there=f"zero-shot data set `{there}`",
            here="from clip_eval.prompts.named_data import read_class_list, read_template_list\n"
            f"assert len(read_class_list('{name}')[0].names) == {count}\n"
            f"assert len(read_template_list('{name}')[0]) == 80",
        )
        for there, name, count in (
            ("imagenet", "imagenet1k", 1000),
            ("imagenet_a", "imagenet-a", 200),
            ("imagenet_r", "imagenet-r", 200),
            ("imagenet_sketch", "imagenet-sketch", 1000),
        )
    ),
    Row(
        there="evaluation at 160, 192, 256, 288 pixels",
        here="import torch\nfrom clip_models import create_model\n"
        "model = create_model('corenet-run', force_image_size=96).eval()\n"
        "assert model.encode_image(torch.randn(1, 3, 96, 96)).shape[1] == 512",
        needs="corenet-run",
    ),
    Row(
        there="retrieval on Flickr30k (broken there)",
        here="clip-eval run --model corenet-run --data coco:coco/captions.json --image-root "
        "coco/images --task retrieval --no-cache --quiet --out results",
        needs="corenet-run coco",
        check=evaluates(12, **{"image_retrieval_recall@5": ...}),
    ),
    Row(
        there="fine-tuning the tower on ImageNet-1k (84.31)",
        here="clip-eval run --model corenet-run --data imagefolder:pets/val --train "
        "imagefolder:pets/train --task linear-probe --no-cache --quiet --out results",
        needs="corenet-run pets",
        check=evaluates(8, lp_acc1=...),
        limit=Limit(
            reason="a linear probe of the tower; there is no training with a classification loss",
            shown_by="clip-train run shapes-tiny --loss.kind cross_entropy --out other",
            message="loss.kind must be one of",
        ),
    ),
]


def _logged(word: str) -> None:
    from pathlib import Path

    assert word in Path("run/metrics.jsonl").read_text()
