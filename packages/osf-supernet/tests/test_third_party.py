"""Every subnet of other people's models equals the masked oracle, and its counts are exact."""

from __future__ import annotations

import pytest
from osf_supernet import Supernet, count_parameters
from osf_supernet.verification import difference, run
from torch.utils.flop_counter import FlopCounterMode

QUICK = ["hf_clip", "hf_vit", "tv_vit", "tv_resnet"]
SLOW = [
    *("hf_deit", "hf_swin", "hf_swinv2", "hf_bert", "hf_llama", "hf_t5", "hf_mamba"),
    *("tv_mobilenet", "open_clip_vit"),
    *("timm_vit", "timm_swin", "timm_convnext", "timm_resnet", "timm_efficientnet"),
]
MODELS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
KINDS = {  # what must be elastic; depth is among them where the model has equal blocks
    "hf_clip": {"mlp", "heads", "head_dim", "depth"},
    "hf_vit": {"mlp", "heads", "head_dim", "embed", "depth"},
    "hf_deit": {"mlp", "heads", "head_dim", "embed", "depth"},
    "hf_swin": {"mlp", "heads", "head_dim", "embed", "depth"},
    "hf_swinv2": {"mlp", "heads", "embed", "depth"},
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
    assert difference(run(model, inputs), before) < (1e-4 if name in COARSE else 1e-9)
    for config in (net.largest, net.smallest, net.sample(seed=1), *everything(net)):
        small = net.extract(config)
        certificate = small.osf_record["certificate"]
        assert certificate["tolerance"] == (1e-4 if name in COARSE else 1e-9)
        assert len(certificate["shapes"]) == 2, certificate["notes"]
        assert type(small) is type(model)
        assert count_parameters(small) == net.parameters_of(config)
        with FlopCounterMode(display=False) as counter:
            run(small, inputs)
        assert counter.get_total_flops() == net.flops_of(config)


COARSE = {"hf_llama", "hf_mamba", "hf_t5"}  # their norms compute in float32
