"""Models of random sizes, numbers colliding on purpose: whatever is elastic is right."""

from __future__ import annotations

import random

import pytest
import torch
from osf_supernet import Supernet, count_parameters
from osf_supernet.subnets.comparison import difference, run

IGNORED = "ignore:.*(falling back|is deprecated|Importing from timm).*"


def sizes_of(draw, *, layers=(1, 2, 3)):
    """Heads × head size = width; the MLP width may equal any of them."""
    heads, head_dim = draw.choice([1, 2, 3, 4, 6]), draw.choice([4, 6, 8, 16])
    width = heads * head_dim
    return {
        "hidden_size": width,
        "num_hidden_layers": draw.choice(layers),
        "num_attention_heads": heads,
        "intermediate_size": draw.choice([width, 2 * width, 48, head_dim, 17]),
    }


def vit(draw):
    from transformers.models.vit import ViTConfig, ViTForImageClassification

    config = sizes_of(draw) | {"patch_size": 4, "image_size": draw.choice([8, 12, 16])}
    config |= {"num_labels": draw.choice([2, config["hidden_size"], 48])}
    config |= {"qkv_bias": draw.choice([True, False])}
    images = torch.randn(2, 3, *[config["image_size"]] * 2, dtype=torch.float64)
    return ViTForImageClassification(ViTConfig(**config)), {"pixel_values": images}, {"mlp"}


def llama(draw):
    from transformers.models.llama import LlamaConfig, LlamaForCausalLM

    groups, per_group, head_dim = (
        draw.choice([1, 2, 4]),
        draw.choice([1, 2, 3]),
        draw.choice([4, 8]),
    )
    heads = groups * per_group
    config = LlamaConfig(
        hidden_size=draw.choice([heads * head_dim, heads * 6, heads * 2 * head_dim]),
        num_hidden_layers=draw.choice([1, 2, 3]),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim,
        intermediate_size=draw.choice([heads * head_dim, 40, head_dim]),
        vocab_size=50,
        tie_word_embeddings=draw.choice([True, False]),
        attention_bias=draw.choice([True, False]),
    )
    inputs = {
        "input_ids": torch.randint(0, 50, (2, draw.choice([5, heads + 2]))),
        "use_cache": False,
    }
    return LlamaForCausalLM(config), inputs, {"mlp", "embed"}


def mamba(draw):
    from transformers.models.mamba import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        hidden_size=draw.choice([16, 24, 48]),
        num_hidden_layers=draw.choice([2, 3]),
        state_size=draw.choice([4, 8, 16]),
        vocab_size=50,
        time_step_rank=draw.choice([3, 4, 16]),
        expand=draw.choice([1, 2]),
        conv_kernel=draw.choice([2, 4]),
        use_mambapy=False,
        tie_word_embeddings=draw.choice([True, False]),
    )
    inputs = {"input_ids": torch.randint(0, 50, (2, draw.choice([6, 8]))), "use_cache": False}
    return MambaForCausalLM(config), inputs, {"ssm_inner", "embed", "depth"}


def swin(draw):
    from transformers.models.swin import SwinConfig, SwinForImageClassification
    from transformers.models.swinv2 import Swinv2Config, Swinv2ForImageClassification

    heads, head_dim, stages = draw.choice([1, 2, 3]), draw.choice([4, 6, 8]), draw.choice([1, 2])
    window = draw.choice([2, 4])
    side = 4 * window * 2 ** (stages - 1)
    config = {
        "image_size": side,
        "patch_size": 4,
        "embed_dim": heads * head_dim,
        "depths": [draw.choice([2, 3]) for _ in range(stages)],
        "num_heads": [heads * 2**i for i in range(stages)],
        "window_size": window,
        "num_labels": 5,
        "mlp_ratio": draw.choice([1.0, 2.0]),
    }
    images = {"pixel_values": torch.randn(2, 3, side, side, dtype=torch.float64)}
    kinds = {"mlp", "depth"} | ({"heads"} if heads * 2 ** (stages - 1) > 1 else set())
    if draw.choice([True, False]):
        return SwinForImageClassification(SwinConfig(**config)), images, kinds
    return Swinv2ForImageClassification(Swinv2Config(**config)), images, kinds


def clip(draw):
    from transformers.models.clip import CLIPConfig, CLIPModel

    text, vision = sizes_of(draw), sizes_of(draw)
    length = draw.choice([5, 8, text["num_attention_heads"] + 2])
    text |= {"vocab_size": 50, "max_position_embeddings": length, "eos_token_id": 49}
    vision |= {"patch_size": 4, "image_size": 8}
    width = draw.choice([12, text["hidden_size"], vision["hidden_size"]])
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    inputs = {"input_ids": torch.randint(0, 50, (2, length)), "pixel_values": images}
    return model, inputs, {"mlp"}


def own_clip(draw):
    from clip_models import CLIP, CLIPConfig
    from clip_models.config import TextConfig, ViTConfig

    def tower():
        size = sizes_of(draw, layers=(2, 3))
        heads, layers = size["num_attention_heads"], size["num_hidden_layers"]
        return {"width": size["hidden_size"], "num_heads": heads, "num_layers": layers}

    vision = ViTConfig(image_size=16, patch_size=8, **tower())
    text = TextConfig(context_length=draw.choice([6, 8]), vocab_size=50, **tower())
    tokens = torch.randint(0, 49, (2, text.context_length))
    tokens[:, -1] = 49
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    model = CLIP(CLIPConfig(embed_dim=draw.choice([12, vision.width]), vision=vision, text=text))
    return model, (images, tokens), {"mlp", "depth"}


FAMILIES = {f.__name__: f for f in (vit, llama, mamba, swin, clip, own_clip)}


@pytest.mark.slow
@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("family", FAMILIES)
def test_random_sizes_of(family, seed, randomized):
    draw = random.Random(f"{family}{seed}")
    torch.manual_seed(seed)
    model, inputs, kinds = FAMILIES[family](draw)
    model = randomized(model.double())
    before = run(model, inputs)
    net = Supernet(model, inputs)
    found = {group.kind for group in net.graph.elastic()} | (
        {"depth"} if net.graph.units else set()
    )
    assert kinds <= found, net.explain()
    net.reorder("magnitude")
    assert difference(run(model, inputs), before) < 1e-9
    full = {group.name: group.size for group in net.graph.elastic()}
    least = dict.fromkeys(full, 1)
    for path, units in net.graph.units.items():
        full[f"{path}.depth"], least[f"{path}.depth"] = len(units), net.graph.least[path]
    anything = {name: draw.randint(least[name], size) for name, size in full.items()}
    for config in (net.smallest, anything, least):
        small = net.extract(config)
        assert small.osf_record["certificate"]["max_error"] <= 1e-9
        assert count_parameters(small) == net.parameters_of(config)
