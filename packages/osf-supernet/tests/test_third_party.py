"""Every subnet of other people's models equals the masked oracle, and its counts are exact."""

from __future__ import annotations

import pytest
import torch
from osf_supernet import Supernet, count_parameters, ratios
from osf_supernet.graph import build_graph
from osf_supernet.subnets.comparison import difference, run
from osf_supernet.subnets.oracle import masked_outputs
from osf_supernet.subnets.surgery import take
from osf_supernet.trace.tracing import split_inputs
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

QUICK = ["hf_clip", "tv_resnet", "clip_vit"]
SLOW = [
    *("hf_vit", "hf_deit", "hf_swin", "hf_swinv2", "hf_bert", "hf_llama", "hf_t5", "hf_mamba"),
    *("tv_vit", "tv_mobilenet", "open_clip_vit", "clip_resnet", "dtp_lm"),
    *("timm_vit", "timm_swin", "timm_convnext", "timm_resnet", "timm_efficientnet"),
]
MODELS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
KINDS = {  # what must be elastic; depth is among them where the model has equal blocks
    "hf_clip": {"mlp", "heads", "head_dim", "depth"},
    "hf_vit": {"mlp", "heads", "head_dim", "embed", "depth"},
    "hf_deit": {"mlp", "heads", "head_dim", "embed", "depth"},
    "hf_swin": {"mlp", "heads", "head_dim", "embed", "depth"},
    "hf_swinv2": {"mlp", "heads", "head_dim", "embed", "depth"},
    "hf_bert": {"mlp", "heads", "head_dim", "embed", "depth"},
    "hf_llama": {"mlp", "heads", "heads_per_group", "head_dim", "embed", "depth"},
    "hf_t5": {"mlp", "heads", "head_dim", "depth"},
    "hf_mamba": {"ssm_inner", "embed", "depth"},
    "tv_vit": {"mlp", "heads", "depth"},
    "tv_resnet": {"channel", "depth"},
    "tv_mobilenet": {"channel", "depth"},
    "open_clip_vit": {"mlp", "heads", "depth"},
    "timm_vit": {"mlp", "heads", "embed", "depth"},
    "timm_swin": {"mlp", "heads", "head_dim", "embed", "depth"},
    "timm_convnext": {"mlp", "embed", "depth"},
    "timm_resnet": {"channel", "depth"},
    "timm_efficientnet": {"channel", "depth"},
    "clip_vit": {"mlp", "heads", "embed", "depth"},
    "clip_resnet": {"channel", "mlp", "heads", "embed", "depth"},
    "dtp_lm": {"mlp", "heads", "embed", "depth"},
}
IGNORED = "ignore:.*(falling back|is deprecated|Importing from timm).*"


def everything(net):
    """All elastic groups at about half and at one less than all."""
    sizes = {group.name: group.size for group in net.graph.elastic()}
    sizes |= {f"{path}.depth": len(units) for path, units in net.graph.units.items()}
    half = {name: max(1, size // 2) for name, size in sizes.items()}
    return half, {name: max(1, size - 1) for name, size in sizes.items()}


@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize("name", MODELS)
def test_subnets_of(name, build):
    model, inputs = build(name)
    before = run(model, inputs)
    net = Supernet(model, inputs)
    kinds = {group.kind for group in net.graph.elastic()}
    kinds |= {"depth"} if net.graph.units else set()
    assert kinds - {"free"} == KINDS[name]
    assert net.parameters_of({}) == count_parameters(model)
    net.reorder("magnitude")
    assert difference(run(model, inputs), before) < 1e-9
    for config in (net.largest, net.smallest, net.sample(seed=1), *everything(net)):
        small = net.extract(config)
        certificate = small.osf_record["certificate"]
        assert certificate["max_error"] <= certificate["tolerance"] == 1e-9
        assert len(certificate["shapes"]) >= 2 + (name not in ONE_SIZE), certificate["notes"]
        assert type(small) is type(model)
        assert count_parameters(small) == net.parameters_of(config)
        assert operations(name, small, inputs) == net.flops_of(config)


def operations(name, module, inputs):
    """What one call costs, as plain products: torch 2.9 cannot count the CPU's fused attention."""
    if name.startswith("clip_"):  # its text tower packs captions unless it is exported
        graph = build_graph(module, inputs)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            masked_outputs(module, graph, {}, {})
        return counter.get_total_flops()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run(module, inputs)
    return counter.get_total_flops()


COARSE = {"hf_llama", "hf_mamba", "hf_t5", "dtp_lm"}  # they compute norms or angles in float32
ONE_SIZE = {  # they refuse others, and the certificate says so
    *("hf_vit", "hf_deit", "hf_swinv2", "tv_vit", "open_clip_vit", "timm_vit", "timm_swin"),
}


def squares(outputs):
    leaves = pytree.tree_flatten(outputs)[0]
    return sum(x.square().mean() for x in leaves if torch.is_tensor(x) and x.requires_grad)


@pytest.mark.filterwarnings(IGNORED)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of(name, build):
    """Those of the supernet are those of the extraction, and zero outside the subnet."""
    model, inputs = build(name)
    net = Supernet(model, inputs)
    config = {name: size for name, size in everything(net)[0].items() if "depth" not in name}
    small, plan = net.extract(config), net.plan(config)
    args, kwargs = split_inputs(inputs)
    squares(small(*args, **kwargs)).backward()
    with net.active(config):
        squares(model(*args, **kwargs)).backward()
    reached = 0
    for path, parameter in model.named_parameters():
        want = small.get_parameter(path).grad
        if want is None:
            assert parameter.grad is None
            continue
        keep = plan.surgery.keep.get(path, (None,) * parameter.dim())
        got = take(parameter.grad, keep)
        scale = max(1.0, float(want.abs().max()))
        assert float((got - want).abs().max()) <= scale * (1e-4 if name in COARSE else 1e-9)
        assert parameter.grad.count_nonzero() == got.count_nonzero()
        reached += 1
    assert reached > len(list(model.parameters())) // 2


def test_the_fused_attention_of_torch_computes_the_same(build):
    """`nn.MultiheadAttention` takes another path at inference; verification does not use it."""
    model, inputs = build("tv_vit")
    net = Supernet(model, inputs)
    small = net.extract(net.smallest)
    expected = run(small, inputs)[0]
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        torch.testing.assert_close(small(inputs), expected, rtol=0, atol=1e-9)
        with net.active(net.smallest):
            torch.testing.assert_close(model(inputs), expected, rtol=0, atol=1e-9)


@pytest.mark.filterwarnings(IGNORED)
def test_the_embedding_of_clip_is_elastic_once_only_the_logits_must_stay(build):
    model, inputs = build("hf_clip")
    net = Supernet(model, inputs, {"*_model.*embed": ratios(0.5, 1)}, outputs=["*logits*"])
    small = net.extract(net.smallest)
    assert small.vision_model.pre_layrnorm.normalized_shape == (16,)
    assert count_parameters(small) == net.parameters_of(net.smallest)
    assert small(**inputs).logits_per_image.shape == (2, 2)
