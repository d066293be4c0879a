"""OFM/OSF: weight-sharing supernets of pretrained models."""

from __future__ import annotations

import json
import re
from pathlib import Path

from page import Limit, Row

ABOUT = (
    "Supernets of pretrained transformers (`yusx-swapp/OFM`): its API, its scripts with their "
    "flags, its elastic spaces, its models. `vit`, `swin`, … are small random models of "
    "transformers, `pets` is a folder of images; a repository of the Hub stands in their place."
)
TRAIN = "--steps 3 --batch-size 4 --quiet"
NET = "from transformers import AutoModelForImageClassification as Auto; import torch\n"
NET += "from osf_supernet import Supernet\n"
NET += "net = Supernet(Auto.from_pretrained('vit').eval(), torch.randn(2, 3, 16, 16))\n"


def writes(*files: str):
    """A check that files were written."""

    def check(printed: str) -> None:
        for file in files:
            assert Path(file).is_file(), f"{file} was not written"

    return check


def trains(printed: str) -> None:
    """Both scores are printed, and the folder is a supernet."""
    assert len(re.findall(r"(?:largest|smallest): score -?\d", printed)) == 2, printed
    assert Path("net/model.safetensors").is_file()


def sampled(sizes: dict[str, set[int]]):
    """A check that a config printed as JSON has these kinds of groups with these sizes only."""

    def check(printed: str) -> None:
        config = json.loads(printed)
        kinds = {name: name.rpartition(".")[2] for name in config}
        assert set(kinds.values()) == set(sizes), config
        assert all(size in sizes[kinds[name]] for name, size in config.items()), config

    return check


def opens(folder: str):
    """A check that a folder is a repository that transformers opens."""

    def check(printed: str) -> None:
        from transformers import AutoModel

        AutoModel.from_pretrained(folder)

    return check


def verified(printed: str) -> None:
    """Three subnets and more equal the oracle."""
    assert printed.count("parameters: error") == 3, printed


ROWS = [
    Row(
        there="`OFM(model)`, `.random_resource_aware_model()`",
        here=NET + "small = net.extract(net.sample(seed=0, max_params=0.8))",
        needs="vit",
    ),
    Row(
        there="`.smallest_model()`, `.largest_model()`",
        here=NET + "small, large = net.extract(net.smallest), net.extract(net.largest)\n"
        "assert torch.equal(large(net.inputs).logits, net.model(net.inputs).logits)",
        needs="vit",
    ),
    Row(
        there="`.resource_aware_model(arch)`, sizes by layer",
        here=NET + "first, *rest = [name for name in net.choices if name.endswith('mlp')]\n"
        "small = net.extract({first: 8})\n"
        "assert net.parameters_of({first: 8}) == sum(p.numel() for p in small.parameters())",
        needs="vit",
    ),
    Row(
        there="`.total_params` (counts tied weights twice, biases not)",
        here=NET + "from osf_supernet import count_parameters\n"
        "assert count_parameters(net.model) == net.model.num_parameters()",
        needs="vit",
    ),
    Row(
        there="`.salient_parameter_prioritization(l1_norm)`, `--spp` (query and key rows only)",
        here=NET + "before = net.model(net.inputs).logits\nnet.reorder('magnitude')\n"
        "torch.testing.assert_close(net.model(net.inputs).logits, before)",
        needs="vit",
    ),
    Row(
        there="`.apply_grad()`, `.grad_accumulate()`",
        here=NET + "for config in (net.largest, net.smallest):\n"
        "    with net.training(config):\n"
        "        net.model(net.inputs).logits.sum().backward()\n"
        "assert all(p.grad is not None for p in net.model.parameters())",
        needs="vit",
    ),
    Row(
        there="`.save_ckpt(dir)`, `.load_ckpt(dir)`",
        here=NET
        + "from osf_supernet import load_supernet, save_supernet\nsave_supernet(net, 'net')\n"
        "again = load_supernet('net', Auto.from_pretrained('vit').eval(), net.inputs)\n"
        "assert again.choices == net.choices",
        needs="vit",
    ),
    Row(
        there="`Trainer.train_subnet(subnet)`, with the supernet as its teacher",
        here=NET + "from osf_supernet.training import Classification\n"
        "small, task = net.extract(net.smallest).train(), Classification()\n"
        "batch = (net.inputs, torch.tensor([0, 1]))\n"
        "with torch.no_grad():\n    teacher = task(net.model, batch)\n"
        "task(small, batch, teacher.outputs).loss.backward()\n"
        "assert all(p.grad is not None for p in small.parameters())",
        needs="vit",
    ),
    Row(
        there="`train_img_classification.py --model vit`",
        here=f"osf train transformers:vit --images pets --num-classes 2 --out net {TRAIN}",
        needs="vit pets",
        check=trains,
    ),
    Row(
        there="Super-Swin, CIFAR-10 (`--model swinv2` there: Swin v1)",
        here=f"osf train transformers:swin --images pets --num-classes 2 --out net {TRAIN}",
        needs="swin pets",
        check=trains,
        slow=True,
    ),
    Row(
        there="Super-Swin-v2, CIFAR-100 (a true Swin-v2 is refused there)",
        here=f"osf train transformers:swinv2 --images pets --num-classes 2 --out net {TRAIN}",
        needs="swinv2 pets",
        check=trains,
        slow=True,
    ),
    Row(
        there="`train_clip_img_classification.py`, both towers",
        here=f"osf train transformers:clip --images pets --out net {TRAIN}",
        needs="clip pets",
        check=trains,
        slow=True,
    ),
    Row(
        there="Super-Mamba, on texts",
        here="osf train transformers:mamba --texts wiki --context-length 16 --out net "
        f"{TRAIN} --weight-decay 0",
        needs="mamba wiki",
        check=trains,
        slow=True,
    ),
    Row(
        there="`torchrun … dist_train_img_classification.py`",
        here="torchrun --standalone --nproc_per_node 2 --no-python osf train transformers:vit "
        f"--images pets --num-classes 2 --out net {TRAIN}",
        needs="vit pets",
        check=trains,
        slow=True,
    ),
    Row(
        there="Super-ViT, ImageNet: search and specialize (the notebook)",
        here="osf search transformers:vit --images pets --num-classes 2 --batch-size 4 "
        "--max-params 90% --population 4 --generations 1 --out front\n"
        "osf extract transformers:vit --num-classes 2 --from front/front.json --images pets "
        "--batch-size 4 --out best",
        needs="vit pets",
        check=writes("front/front.json", "best/model.safetensors"),
        slow=True,
    ),
    *(
        Row(
            there=f"`{file}`",
            here=f"osf sample transformers:{model} --space {Path(file).name} --json",
            needs=f"{model} {Path(file).name}",
            check=sampled(sizes),
            limit=limit,
            slow=model not in ("vit", "bert"),
        )
        for file, model, sizes, limit in (
            ("scripts/elastic_space.json", "vit", {"mlp": {40, 20, 12}, "embed": {24, 18}}, None),
            ("scripts/clip_elastic_space.json", "clip", {"mlp": {40, 24, 16, 56}}, None),
            ("scripts/swin_elastic_space.json", "swin", {"mlp": {96, 64, 48}}, None),
            ("scripts/mamba_elastic_space.json", "mamba", {"ssm_inner": {24, 16, 8}}, None),
            ("bert_elastic/bert_base.json", "bert", {"mlp": {40, 24, 12}, "embed": {24, 16}}, None),
            (
                "bert_elastic/bert_large.json",
                "bert",
                {"mlp": {40, 24, 12}, "embed": {24, 16}, "heads": {3, 2}},
                None,
            ),
            ("t5_elastic/t5_small.json", "t5", {"mlp": {40, 24}}, None),
        )
    ),
    Row(
        there="`t5_elastic/t5_base.json`",
        here="osf sample transformers:t5 --space t5_widths.json --json",
        needs="t5 t5_widths.json t5_base.json",
        check=sampled({"mlp": {40, 24, 16, 12}}),
        limit=Limit(
            reason="without its smaller residual width, which changes the encoder's output (there "
            "such a subnet is built, and does not run)",
            shown_by="osf sample transformers:t5 --space t5_base.json",
            message="no group that 'embed' matches",
        ),
    ),
    Row(
        there="a supernet folder with `elastic_config` in its `config.json`",
        here="osf sample transformers:elastic-folder --space elastic-folder --json",
        needs="elastic-folder",
        check=sampled({"mlp": {40, 20, 12}, "embed": {24, 18}}),
    ),
    Row(
        there="`--resume_ckpt`",
        here=f"osf train transformers:vit --images pets --num-classes 2 --out net {TRAIN}\n"
        "osf resume net --steps 4 --quiet",
        needs="vit pets",
        check=lambda printed: trains(printed.split("smallest")[0] + "smallest: score 1"),
    ),
    Row(
        there="`--lr`, `--step_size`, `weight_decay`, `dataloader_num_workers`, `--log_interval`",
        here="osf train transformers:vit --images pets --num-classes 2 --out net --steps 3 "
        "--batch-size 4 --lr 1e-4 --schedule linear --warmup 1 --weight-decay 0.05 --workers 2 "
        "--log-interval 1",
        needs="vit pets",
        check=lambda printed: trains(printed) or _assert(printed.count("step ") >= 3, printed),
    ),
    Row(
        there="`--fp16` (ignored there)",
        here="osf train transformers:vit --images pets --num-classes 2 --precision bf16 --out net "
        f"{TRAIN}",
        needs="vit pets",
        check=trains,
        limit=Limit(
            reason="bfloat16 in its place; float16 would need a scaled loss, and is refused",
            shown_by="osf train transformers:vit --images pets --precision fp16 --out other",
            message="invalid choice: 'fp16'",
        ),
    ),
    Row(
        there="subnets as repositories that `AutoModel` opens (not possible there)",
        here="osf train transformers:vit --loadable --images pets --num-classes 2 --out net "
        f"{TRAIN}\n"
        "osf extract transformers:vit --supernet net --max-params 80% --num-classes 2 --images "
        "pets --batch-size 4 --out small --quiet",
        needs="vit pets",
        check=opens("small"),
    ),
    Row(
        there="the same of a CLIP, both towers",
        here="osf extract transformers:clip --loadable --max-params 80% --out small --quiet",
        needs="clip",
        check=opens("small"),
        slow=True,
    ),
    Row(
        there="the same for open_clip",
        here="import open_clip\nfrom osf_supernet.cli import main\n"
        "open_clip.add_model_config('tiny-open-clip.json')\n"
        "words = 'extract open_clip:tiny-open-clip --loadable --max-params 99% "
        "--quiet --out small'\n"
        "assert main(words.split()) == 0\n"
        "open_clip.create_model('local-dir:small', pretrained='small')",
        needs="tiny-open-clip.json",
        slow=True,
    ),
    Row(
        there="`--peft`, `--adapter_ckpt` (unused there)",
        here="osf explain transformers:vit",
        needs="vit",
        limit=Limit(
            reason="an adapter is merged before the supernet is made; adapters as such are not "
            "trained",
            shown_by="osf train transformers:vit --images pets --peft --out other",
            message="--peft",
            whole=True,
        ),
    ),
    Row(
        there="`--patience`, `early_stopping_patience`",
        here=f"osf train transformers:vit --images pets --num-classes 2 --out net {TRAIN}",
        needs="vit pets",
        check=trains,
        limit=Limit(
            reason="no early stopping: the score comes at the end, `resume --steps` goes on",
            shown_by="osf train transformers:vit --images pets --patience 3 --out other",
            message="--patience",
            whole=True,
        ),
    ),
    Row(
        there="`tensorboard --logdir log/vit`",
        here=f"osf train transformers:vit --images pets --num-classes 2 --out net {TRAIN}",
        needs="vit pets",
        check=trains,
        limit=Limit(
            reason="losses are printed (`--log-interval`) or go to a function (`report=`)",
            shown_by="osf train transformers:vit --images pets --tensorboard log --out other",
            message="--tensorboard",
        ),
    ),
    Row(
        there="BERT",
        here="osf verify transformers:bert --samples 1",
        needs="bert",
        check=verified,
    ),
    Row(
        there="RoBERTa",
        here="osf verify transformers:roberta --samples 1",
        needs="roberta",
        check=verified,
        slow=True,
    ),
    Row(
        there="DistilBERT",
        here="osf verify transformers:distilbert --samples 1",
        needs="distilbert",
        check=verified,
        slow=True,
    ),
    Row(
        there="Flan-T5",
        here="osf verify transformers:t5 --samples 1",
        needs="t5",
        check=verified,
        slow=True,
    ),
    Row(
        there="SAM, its image encoder",
        here="osf verify sam:make --samples 1",
        needs="sam.py",
        check=verified,
        slow=True,
    ),
    Row(
        there="LLaMA (removed there)",
        here="osf verify transformers:llama --samples 1",
        needs="llama",
        check=verified,
        slow=True,
    ),
    Row(
        there="CLIP, `translate` of the script's command",
        here="clip-train translate osf -- --model clip --save_dir ckpts --dataset cifar10 "
        "--lr 3e-5 --batch_size 32 --elastic_config clip_elastic_space.json",
        check=lambda printed: _assert("clip-train supernet" in printed, printed),
    ),
]


def _assert(holds: bool, printed: str) -> None:
    assert holds, printed
