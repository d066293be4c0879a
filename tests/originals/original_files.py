"""The files of the originals that rows read: elastic spaces, scripts, recipes, plans, configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from small_inputs import make

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


COMMON = "--aug-cfg scale='(0.4, 1.0)'{jitter} --beta1 0.9 --beta2 0.95 --wd 0.2 --workers=6 "
COMMON += "--ddp-static-graph --local-loss --gather-with-grad --to-float-on-device "
COMMON += "--grad-checkpointing --seed 0 --logs ./logs/ --save-frequency 1 --save-most-recent "
COMMON += "--zeroshot-frequency 1 --train-data '/path/to/laion' --dataset-type tfrecord "
COMMON += "--imagenet-val '/path/to/imagenet/val'"
JITTER = " color_jitter='(0.32, 0.32, 0.32, 0.08)' color_jitter_prob=0.8 gray_scale_prob=0.2"
GPU = "TFDS_PREFETCH_SIZE=8192 torchrun --nproc_per_node 8 -m training.main"
TPU = "python3 /abs_path/to/launch_xla.py --num-devices 8 training.main"
FIRST = "--pos-embed 'sin_cos_2d' --epochs=6 --precision 'amp_bf16'"
LAST = "--epochs=1 --train-num-samples 131072000 --pretrained '/path/to/ckpt'"
# script: launcher, jitter, its own flags
SCRIPTS = {
    "i37_t8_pretrain": (
        GPU,
        JITTER,
        f"--model ViT-L-16-CL8-Syntax-GAP --force-image-size 96 "
        f"--lr 1.024e-3 --warmup 1563 --batch-size 4096 {FIRST}",
    ),
    "i37_t8_finetune": (
        GPU,
        JITTER,
        "--model ViT-L-16-CL32-GAP --pos-embed 'learnable' "
        f"--lr 2.24e-5 --warmup 3571 --batch-size 896 --precision 'amp_bf16' {LAST}",
    ),
    "i17_t16_pretrain": (
        GPU,
        JITTER,
        f"--model ViT-L-16-CL16-Syntax-GAP --force-image-size 64 "
        f"--lr 1.024e-3 --warmup 1563 --batch-size 4096 {FIRST}",
    ),
    "i17_t16_finetune": (
        GPU,
        JITTER,
        "--model ViT-L-16-CL16-GAP --pos-embed 'learnable' "
        f"--lr 2.24e-5 --warmup 3571 --batch-size 896 --precision 'amp_bf16' {LAST}",
    ),
    "i50_t16_pretrain": (
        GPU,
        "",
        f"--model ViT-B-16-CL16 --force-image-size 112 "
        f"--lr 2.048e-3 --warmup 782 --batch-size 8192 {FIRST}",
    ),
    "i50_t16_finetune": (
        GPU,
        "",
        "--model ViT-B-16-CL16 --pos-embed 'learnable' "
        f"--lr 2.56e-5 --warmup 3072 --batch-size 1024 --precision 'amp_bf16' {LAST}",
    ),
    "i36_t8_pretrain": (
        TPU,
        JITTER,
        "--model ViT-H-14-CL8-Syntax-GAP --force-image-size 84 "
        "--lr 2.048e-3 --warmup 782 --batch-size 256 --pos-embed 'sin_cos_2d' --epochs=10 "
        "--precision 'fp32'",
    ),
    "i36_t8_finetune224": (
        TPU,
        JITTER,
        "--model ViT-H-14-CL32-GAP --force-patch-dropout 0.3 "
        "--force-image-size 224 --lr 5.12e-5 --warmup 800 --batch-size 128 --epochs=1 "
        "--train-num-samples 524288000 --pos-embed 'sin_cos_2d' --precision 'fp32' "
        "--pretrained '/path/to/pt_ckpt'",
    ),
    "i36_t8_finetune336": (
        TPU,
        JITTER,
        "--model ViT-H-14-CL32-GAP --force-patch-dropout 0.4 "
        "--force-image-size 336 --lr 6.4e-6 --warmup 1600 --batch-size 64 --epochs=1 "
        "--train-num-samples 131072000 --pos-embed 'sin_cos_2d' --precision 'fp32' "
        "--pretrained '/path/to/pt_ckpt'",
    ),
}


def make_script(path: Path) -> None:
    """A script of CLIPA, by its flags."""
    launcher, jitter, flags = SCRIPTS[path.stem]
    path.write_text(f"{launcher} \\\n  {flags} \\\n  {COMMON.format(jitter=jitter)}\n")


def make_clipa_config(path: Path) -> None:
    """CLIPA's JSON of a BigVision model, with small towers and CLIP's vocabulary."""
    vision = {"image_size": 28, "layers": 1, "width": 64, "patch_size": 14}
    vision |= {"global_average_pool": True, "gelu_approximate": "tanh", "ln_pre": False}
    vision |= {"pool_style": "big_vision_gap"}
    text = {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    text |= {"gelu_approximate": "tanh", "pool_style": "big_vision_last", "attention_mask": False}
    path.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))


def make_recipe(path: Path) -> None:
    """CoreNet's recipe of CLIP, with or without RangeAugment."""
    import yaml

    with_range = path.stem.endswith("range")
    clip = {"loss_category": "clip", "loss_weight": 1.0}
    augment = {"perceptual_metric": "psnr", "target_value": [40, 20], "curriculum_method": "cosine"}
    losses = [
        {
            "loss_category": "neural_augmentation",
            "loss_weight": 1.0,
            "neural_augmentation": {**augment, "alpha": 100.0},
        },
        clip,
    ]
    recipe: dict[str, Any] = {
        "common": {"auto_resume": True, "mixed_precision": True, "log_freq": 500},
        "dataset": {
            "name": "img_text_tar",
            "category": "multi-modal-image-text",
            "train_batch_size0": 256,
            "workers": 0,
            "multi_modal_img_text": {
                "context_length": 77,
                "zero_shot_img_cls_dataset_name": "imagenet",
                "img_text_tar": {"metadata_file": "datacomp/metadata.pkl"},
            },
        },
        "image_augmentation": {
            "random_resized_crop": {
                "enable": True,
                "scale": [0.9, 1.0],
                "interpolation": "bilinear",
            },
        },
        "sampler": {
            "name": "variable_batch_sampler",
            "vbs": {
                "crop_size_width": 224,
                "crop_size_height": 224,
                "max_n_scales": 5,
                "min_crop_size_width": 160,
                "max_crop_size_width": 320,
                "min_crop_size_height": 160,
                "max_crop_size_height": 320,
                "check_scale": 32,
            },
        },
        "model": {
            "multi_modal_image_text": {"name": "clip", "clip": {"projection_dim": 512}},
            "classification": {"name": "vit", "vit": {"mode": "base"}},
            "text": {"name": "transformer", "transformer": {"model_dim": 512}},
            "activation_checkpointing": True,
        },
        "optim": {
            "name": "adamw",
            "weight_decay": 0.2,
            "adamw": {"beta1": 0.9, "beta2": 0.98, "eps": 1.0e-6},
        },
        "scheduler": {
            "name": "cosine",
            "is_iteration_based": True,
            "max_iterations": 200000,
            "warmup_iterations": 10000,
            "warmup_init_lr": 1.0e-6,
            "cosine": {"max_lr": 0.001, "min_lr": 1.0e-6},
        },
        "loss": {"category": "clip"},
        "stats": {
            "val": ["top1"],
            "checkpoint_metric": "top1.zero_shot_image_logits",
            "checkpoint_metric_max": True,
        },
        "ema": {"enable": True, "momentum": 0.0005},
    }
    if with_range:
        recipe["model"]["learn_augmentation"] = {
            "mode": "distribution",
            "brightness": True,
            "contrast": True,
            "noise": True,
        }
        recipe["loss"] = {"category": "composite_loss", "composite_loss": losses}
    path.write_text(yaml.safe_dump(recipe))


def make_plan(path: Path) -> None:
    """A training plan of Fast-CLIP."""
    plan = {"warmup": 50, "batch_size": 32, "lr": 1e-4, "wd": 0.1, "epochs": 3, "workers": 1}
    path.write_text(json.dumps({"COCO_1": plan | {"model": "RN50"}}))


def make_corenet_config(path: Path) -> None:
    """The config of that run's model."""
    run = make("corenet-run", path.parent)
    config = json.loads((run / "clip_config.json").read_text())
    path.write_text(json.dumps(config.get("model", config)))


def make_tiny_open_clip(path: Path) -> None:
    """A config of open_clip, with small towers."""
    vision = {"image_size": 16, "patch_size": 8, "layers": 2, "width": 32, "head_width": 8}
    text = {"context_length": 10, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    path.write_text(json.dumps({"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}))
