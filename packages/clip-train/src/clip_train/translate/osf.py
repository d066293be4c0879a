"""Flags of OFM's training script, which trains a supernet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_train.translate.rules import Missing, Rule, to_key, to_values

_UNUSED = (
    *("spp", "grad-beta", "patience", "step-size", "peft"),
    *("epoch-eval-size", "k-shot", "num-local-epochs", "adapter-ckpt"),
)
_OSF_COMMAND = "`osf train` (osf-supernet) trains supernets of other models than CLIP"


def _osf_model(value: str, values: Mapping[str, Any]) -> dict[str, Any] | str:
    """One of OFM's names, or a directory or repository that holds a CLIP."""
    if value == "clip":
        return {"model.pretrained": "hf-hub:openai/clip-vit-base-patch32"}
    if "/" in value or value.startswith("hf-hub:"):
        local = value.startswith((".", "/", "hf-hub:"))
        return {"model.pretrained": value if local else f"hf-hub:{value}"}
    return Missing(_OSF_COMMAND)


def _osf_data(value: str, values: Mapping[str, Any]) -> dict[str, Any] | str:
    if value in ("cifar10", "cifar100"):
        return {"data.train": value, "data.val": value}
    if value in ("imagenet-1k", "flowers102", "Caltech101", "Food101"):
        return Missing(
            "needs class folders: set data.train = 'imagefolder:DIR/train', and data.val"
        )
    return Missing(f"a text task; {_OSF_COMMAND}")


OSF: Mapping[str, Rule] = {
    "model": _osf_model,
    "dataset": _osf_data,
    "lr": to_key("optim.lr", float),
    "batch-size": to_key("train.batch_size", int),
    "epochs": to_key("train.epochs", float),
    "log-interval": to_key("log.every_steps", int),
    "fp16": to_values(train__precision="fp16"),
    "elastic-config": to_key("--space"),
    "save-dir": to_key("--out"),
    "resume-ckpt": "`clip-train resume DIR`",
    "num-shards": "each step trains several subnets on the same data; set --num-random N",
    "huggingface-token": "a run uploads nothing; upload a model with `osf extract "
    "clip-models:DIR --supernet DIR --push-to-hub OWNER/NAME --token T`",
    "push-to-hub": "`osf extract clip-models:DIR --supernet DIR --push-to-hub OWNER/NAME`",
    **dict.fromkeys(_UNUSED, "unused by the scripts of the original"),
}
