"""Tiny random models of third parties and of ours: float64, no zero or one to hide a mistake."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn


def randomize(model):
    """Every parameter and statistic gets a generic value of a scale that keeps signals alive."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 if parameter.dim() < 2 else 1.5 / parameter[0].numel() ** 0.5
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * scale + (1.0 if parameter.dim() == 1 else 0.0))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.uniform_(-0.5, 0.5, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def images(size, batch=2):
    return torch.randn(batch, 3, size, size, generator=_generator(), dtype=torch.float64)


def tokens(length, batch=2, vocabulary=50):
    return torch.randint(0, vocabulary, (batch, length), generator=_generator())


def _generator():
    return torch.Generator().manual_seed(3)


VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 16,
    "patch_size": 8,
    "num_labels": 5,
}
SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "num_labels": 5,
}


def hf_vit():
    from transformers.models.vit import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(**VIT)), {"pixel_values": images(16)}


def hf_deit():
    from transformers.models.deit import DeiTConfig, DeiTForImageClassification

    return DeiTForImageClassification(DeiTConfig(**VIT)), {"pixel_values": images(16)}


def hf_clip():
    from transformers.models.clip import CLIPConfig, CLIPModel

    text = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "vocab_size": 50,
        "max_position_embeddings": 10,
        "eos_token_id": 49,
        "bos_token_id": 48,
        "pad_token_id": 1,
    }
    vision = {key: VIT[key] for key in ("num_hidden_layers", "image_size", "patch_size")}
    vision |= {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 56}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    mask = torch.ones(2, 10, dtype=torch.long)
    return model, {"input_ids": tokens(10), "pixel_values": images(16), "attention_mask": mask}


def hf_swin():
    from transformers.models.swin import SwinConfig, SwinForImageClassification

    return SwinForImageClassification(SwinConfig(**SWIN)), {"pixel_values": images(32)}


def hf_swinv2():
    from transformers.models.swinv2 import Swinv2Config, Swinv2ForImageClassification

    return Swinv2ForImageClassification(Swinv2Config(**SWIN)), {"pixel_values": images(32)}


def hf_bert():
    from transformers.models.bert import BertConfig, BertForSequenceClassification

    config = {key: value for key, value in VIT.items() if "_size" not in key or "hidden" in key}
    config |= {"intermediate_size": 40, "vocab_size": 50, "max_position_embeddings": 16}
    model = BertForSequenceClassification(BertConfig(**config))
    mask = torch.ones(2, 10, dtype=torch.long)
    return model, {"input_ids": tokens(10), "attention_mask": mask}


def hf_llama():
    from transformers.models.llama import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=40,
        vocab_size=50,
        max_position_embeddings=16,
    )
    return LlamaForCausalLM(config), {"input_ids": tokens(10), "use_cache": False}


def hf_t5():
    from transformers.models.t5 import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3, vocab_size=50)
    inputs = {"input_ids": tokens(10), "decoder_input_ids": tokens(7), "use_cache": False}
    return T5ForConditionalGeneration(config), inputs


def hf_mamba():
    from transformers.models.mamba import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        hidden_size=24,
        num_hidden_layers=2,
        state_size=4,
        vocab_size=50,
        time_step_rank=3,
        expand=2,
        use_mambapy=False,
    )
    return MambaForCausalLM(config), {"input_ids": tokens(6), "use_cache": False}


def tv_vit():
    from torchvision.models import VisionTransformer

    model = VisionTransformer(16, 8, 2, 3, 24, 40, num_classes=5)
    return model, images(16)


def tv_resnet():
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [2, 2, 1, 1], num_classes=5), images(32)


def tv_mobilenet():
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(num_classes=5, width_mult=0.25), images(32)


def open_clip_vit():
    from open_clip.model import CLIP

    vision = {"image_size": 16, "patch_size": 8, "layers": 2, "width": 32}
    vision |= {"head_width": 8, "mlp_ratio": 2.0}
    text = {"context_length": 10, "vocab_size": 50, "width": 24, "heads": 3, "layers": 2}
    return CLIP(embed_dim=12, vision_cfg=vision, text_cfg=text), (images(16), tokens(10))


def timm_vit():
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(16, 8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2, num_classes=5)
    return model, images(16)


def timm_swin():
    from timm.models.swin_transformer import SwinTransformer

    size = {"img_size": 32, "patch_size": 4, "window_size": 4, "num_classes": 5}
    return SwinTransformer(embed_dim=12, depths=(2, 2), num_heads=(2, 4), **size), images(32)


def timm_convnext():
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(depths=(2, 2, 2, 2), dims=(8, 12, 16, 24), num_classes=5), images(64)


def timm_resnet():
    import timm

    return timm.create_model("resnet18", num_classes=5), images(32)


def timm_efficientnet():
    import timm

    return timm.create_model("efficientnet_b0", num_classes=5), images(32)


def own_clip(vision):
    from clip_models import CLIP, CLIPConfig
    from clip_models.config import TextConfig

    text = TextConfig(context_length=10, vocab_size=50, width=24, num_layers=3, num_heads=3)
    return CLIP(CLIPConfig(embed_dim=12, vision=vision, text=text))


def full_captions():
    """End tokens come last: what is behind them the tower would not compute."""
    ids = tokens(10, vocabulary=49)
    ids[:, -1] = 49
    return ids


def clip_vit():
    from clip_models.config import ViTConfig

    vision = ViTConfig(image_size=16, patch_size=8, width=32, num_layers=3, num_heads=4)
    return own_clip(vision), (images(16), full_captions())


def clip_resnet():
    from clip_models.config import ModifiedResNetConfig

    vision = ModifiedResNetConfig(image_size=32, layers=(1, 2, 3, 1), width=8, num_heads=4)
    return own_clip(vision), (images(32), full_captions())


def dtp_lm():
    from dtp_pooling import BoundaryConfig, DynamicPoolingLM, LanguageModelConfig

    config = LanguageModelConfig(
        vocabulary=50,
        width=24,
        num_heads=3,
        head_dim=8,
        feedforward=40,
        pre_layers=2,
        shortened_layers=3,
        post_layers=2,
        boundaries=BoundaryConfig(kind="fixed"),
    )
    return DynamicPoolingLM(config), {"tokens": tokens(12), "max_segments": 13}


BUILDERS = {
    name: function
    for name, function in list(globals().items())
    if name.startswith(("hf_", "tv_", "open_clip_", "timm_", "clip_", "dtp_"))
}


@pytest.fixture(scope="session")
def build():
    """name → (model in float64, randomized; example inputs); a fresh model each time."""

    def make(name):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what other libraries warn of when imported
            model, inputs = BUILDERS[name]()
        return randomize(model.double()), inputs

    return make


@pytest.fixture(scope="session")
def randomized():
    """The function that gives a model's parameters generic values."""
    return randomize
