"""Checkpoints as trainers write them: read where there is one reading, else a list of choices."""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from clip_models import CLIP, CheckpointError, CLIPConfig, ConfigError, create_model, load_model
from clip_models.cli import main
from clip_models.config import TextConfig, ViTConfig, to_dict
from clip_models.converters import from_native, to_hugging_face_config, to_open_clip
from clip_models.files import build_model, read_weights
from torch import Tensor

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
CONFIG = CLIPConfig(
    embed_dim=16,
    vision=ViTConfig(image_size=16, patch_size=8, width=32, num_layers=1, num_heads=1),
    text=TextConfig(context_length=8, vocab_size=40, width=32, num_layers=1, num_heads=1),
)
State = dict[str, Tensor]


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: value for name, value in state.items()}


def other(state: State) -> State:
    """Weights of another model of the same sizes."""
    return {name: value + 1 for name, value in state.items()}


def make_averaged(state: State) -> Any:
    model = CLIP(CONFIG)
    model.load_state_dict(state)
    return torch.optim.swa_utils.AveragedModel(model).state_dict()


class Row(NamedTuple):
    """What a trainer saves, and how it is read: as it is, or with a key or a prefix."""

    writer: str
    layout: str
    make: Callable[[State], Any]
    key: str | None = None
    prefix: str | None = None


ROWS = [
    Row("torch", "the state dict itself", lambda s: s),
    Row(
        "open_clip",
        "`state_dict`, names `module.…`",
        lambda s: {"state_dict": under("module.", s), "epoch": 3},
    ),
    Row(
        "many fine-tuning scripts",
        "`model_state_dict`",
        lambda s: {"model_state_dict": s, "loss": 0.5},
    ),
    Row(
        "DDP of a compiled model",
        "names `module._orig_mod.…`",
        lambda s: under("module._orig_mod.", s),
    ),
    Row(
        "Lightning",
        "`state_dict`, names `model.…`",
        lambda s: {
            "state_dict": under("model.", s),
            "loops": {"a": {"b": torch.ones(1)}},
            "callbacks": {},
        },
    ),
    Row(
        "Lightning of a compiled model",
        "`state_dict`, names `model._orig_mod.…`",
        lambda s: {"state_dict": under("model._orig_mod.", s)},
    ),
    Row(
        "a wrapper",
        "names `clip_model.…`, others beside",
        lambda s: under("clip_model.", s) | {"head.weight": torch.ones(2, 2)},
    ),
    Row(
        "a wrapper with its own scale",
        "names `clip.…`, `logit_scale` outside",
        lambda s: (
            under("clip.", {k: v for k, v in s.items() if k != "logit_scale"})
            | {"logit_scale": s["logit_scale"]}
        ),
    ),
    Row("timm, averages only", "`state_dict_ema`", lambda s: {"state_dict_ema": s}),
    Row(
        "timm",
        "`state_dict` and `state_dict_ema`",
        lambda s: {"state_dict": other(s), "state_dict_ema": s},
        key="state_dict_ema",
    ),
    Row("an EMA", "`model_ema`", lambda s: {"model_ema": s, "decay": 0.999}),
    Row("torch's `AveragedModel`", "`n_averaged`, names `module.…`", make_averaged),
    Row(
        "ema_pytorch",
        "names `online_model.…` and `ema_model.…`",
        lambda s: (
            under("online_model.", other(s)) | under("ema_model.", s) | {"step": torch.tensor(3)}
        ),
        prefix="ema_model.",
    ),
    Row(
        "DeepSpeed",
        "`module`",
        lambda s: {"module": s, "global_steps": 1, "param_shapes": {"a": torch.Size([1])}},
    ),
    Row("a trainer of a network", "`net`", lambda s: {"net": s}),
    Row(
        "nested",
        "`checkpoint` with `model`",
        lambda s: {"checkpoint": {"model": s, "optimizer": {"state": {}}}},
    ),
    Row(
        "distillation",
        "names `student.…` and `teacher.…`",
        lambda s: under("student.", s) | under("teacher.", other(s)),
        prefix="student",
    ),
    Row(
        "the model and its optimizer by name",
        "`model`, `optimizer`",
        lambda s: {"model": s, "optimizer": {"state": {"a": {"exp_avg": torch.ones(1)}}}},
    ),
    Row(
        "a loss with weights",
        "`model`, `criterion`",
        lambda s: {"model": s, "criterion": {"logit_scale": torch.ones(())}},
    ),
    Row(
        "numbers of NumPy beside",
        "`state_dict`, `best_acc` as `numpy.float64`",
        lambda s: {"state_dict": s, "best_acc": np.float64(0.5), "curve": np.arange(3)},
    ),
    Row(
        "arguments beside",
        "`model`, `args` as `argparse.Namespace`, paths",
        lambda s: {
            "model": s,
            "args": argparse.Namespace(lr=1.0, out=pathlib.Path("a")),
            "log": collections.defaultdict(list, {"a": [1]}),
        },
    ),
    Row(
        "one state dict under two keys",
        "`model`, `ema`, the same tensors",
        lambda s: {"model": s, "ema": s},
    ),
    Row(
        "transformers' names in a wrapper",
        "names `clip.vision_model.…`",
        lambda s: under("clip.", from_native(s, CONFIG, "hugging-face")),
    ),
]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return CLIP(CONFIG).state_dict()


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)


def option_of(row: Row) -> dict[str, str]:
    given = {"key": row.key, "prefix": row.prefix}
    return {name: value for name, value in given.items() if value is not None}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.layout)
def test_every_layout_is_read(tmp_path: Path, state: State, row: Row) -> None:
    file = tmp_path / "c.pt"
    torch.save(row.make(state), file)
    options = option_of(row)
    assert same(create_model(CONFIG, file, **options).state_dict(), state)
    if options:  # several readings: none is taken in silence, and the message names this one
        (given,) = options.values()
        with pytest.raises(CheckpointError, match=re.escape(f"'{given}")):
            create_model(CONFIG, file)


def test_the_table_on_the_page_is_this_one() -> None:
    lines = ["| saved by | layout | read with |", "|---|---|---|"]
    for row in ROWS:
        flags = " ".join(f"--{name} {value}" for name, value in option_of(row).items())
        lines.append(f"| {row.writer} | {row.layout} | {f'`{flags}`' if flags else 'no flag'} |")
    table = "\n".join(lines)
    assert table in PAGE.read_text(encoding="utf-8"), f"docs/checkpoints.md must hold\n{table}"


def test_the_command_takes_key_prefix_and_a_config_file(tmp_path: Path, state: State) -> None:
    config, file, out = tmp_path / "my.json", tmp_path / "epoch.pt", tmp_path / "out"
    torch.save({"state_dict": other(state), "ema": under("net.", state)}, file)
    forms: list[Any] = [
        to_dict(CONFIG),
        {"model": to_dict(CONFIG), "preprocess": {"size": 16, "interpolation": "bilinear"}},
        to_open_clip(CONFIG),
        {"model_cfg": to_open_clip(CONFIG), "preprocess_cfg": {"mean": [0.5] * 3}},
        to_hugging_face_config(CONFIG),
    ]
    command = ["convert", str(file), "--to", "clip-models", "--model", str(config)]
    for number, form in enumerate(forms):
        config.write_text(json.dumps(form))
        there = [*command, "--out", f"{out}{number}", "--key", "ema"]
        assert main(there) == 0
        assert main([*there, "--prefix", "net.", "--overwrite"]) == 0
        model, preprocess = load_model(f"{out}{number}")
        assert same(model.state_dict(), state)
        assert model.config.vision == CONFIG.vision
        assert (preprocess.interpolation, preprocess.mean[0]) == (
            "bilinear" if number == 1 else "bicubic",
            0.5 if number == 3 else 0.48145466,
        )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "holds a list, expected a model's config"),
        ("{", "cannot be read"),
        ('{"width": 3}', "expected the config of a model"),
        ('{"vision_cfg": {}}', "key 'embed_dim' is missing"),
        ('{"model_type": "bert"}', "must be 'clip', 'siglip' or 'siglip2'"),
        ("version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ],
)
def test_config_files_that_describe_no_model(
    tmp_path: Path, state: State, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(state, tmp_path / "w.pt")
    (tmp_path / "my.json").write_text(text)
    assert main(["info", str(tmp_path / "w.pt"), "--model", str(tmp_path / "my.json")]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


def test_the_logits_are_those_of_the_weights(tmp_path: Path, state: State) -> None:
    file = tmp_path / "c.pt"
    torch.save(state | {"logit_bias": torch.tensor(-7.5)}, file)
    model = create_model(CONFIG, file)
    assert model.logit_bias is not None
    assert model.logit_bias.item() == -7.5
    torch.save(state, file)
    sigmoid = CLIPConfig.from_dict({**CONFIG.to_dict(), "init_logit_bias": -10.0})
    assert create_model(sigmoid, file).logit_bias is None
    torch.save({key: value for key, value in state.items() if key != "logit_scale"}, file)
    with pytest.warns(UserWarning, match=r"no logit_scale; the config's .*2\.65926"):
        model = create_model(CONFIG, file)
    assert model.logit_scale.item() == pytest.approx(CONFIG.init_logit_scale)


def test_keys_and_prefixes_that_are_not_there(tmp_path: Path, state: State) -> None:
    file = tmp_path / "c.pt"
    torch.save({"model": under("net.", state)}, file)
    with pytest.raises(CheckpointError, match=r"has no table 'ema'; those with tensors: 'model'"):
        read_weights(file, key="ema")
    with pytest.raises(CheckpointError, match=r"no names under 'clip'; they begin 'net\.'"):
        read_weights(file, prefix="clip")
    torch.save({"visual.a": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match="image tower alone"):
        create_model(CONFIG, file)


def test_tables_without_end(tmp_path: Path, state: State) -> None:
    """A table that holds itself, and one that holds another a thousand times at each level."""
    inner: dict[str, Any] = {"model": state}
    inner["again"] = inner
    torch.save(inner, tmp_path / "c.pt")
    assert same(read_weights(tmp_path / "c.pt"), state)
    for _ in range(3):
        inner = {f"k{number}": inner for number in range(1000)}
    torch.save(inner, tmp_path / "c.pt")
    assert same(read_weights(tmp_path / "c.pt"), state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.to("meta"), "is on the meta device: .* save the model after"),
        (lambda value: value.to_sparse(), r"is sparse .* save it after \.to_dense"),
        (lambda value: value.to_sparse_csr(), r"is sparse .* save it after \.to_dense"),
        (
            lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
            r"is quantized; save it after \.dequantize",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*[Ss]parse:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz:UserWarning")
def test_tensors_without_plain_numbers(
    tmp_path: Path, state: State, change: Any, words: str
) -> None:
    torch.save({**state, "visual.proj": change(state["visual.proj"])}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=f"visual.proj {words}"):
        create_model(CONFIG, tmp_path / "c.pt")


@pytest.mark.parametrize("name", ["model.safetensors", "m.bin", "m.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("\n<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        ("", "is empty"),
    ],
)
def test_what_stands_in_the_place_of_weights(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=words):
        read_weights(tmp_path / name)


def test_mixed_types_without_dtype_give_a_model_that_runs(state: State) -> None:
    """The layout of OpenAI's `convert_weights`: norms and embeddings in float32."""
    whole = ("ln_", "embedding", "logit_scale")
    mixed = {k: v if any(part in k for part in whole) else v.half() for k, v in state.items()}
    model = build_model(mixed, CONFIG, dtype=None)
    assert all(torch.equal(value, mixed[key].float()) for key, value in model.state_dict().items())
    assert model(torch.rand(2, 3, 16, 16), torch.tensor([[1, 39]])).image_features.isfinite().all()
    half = {key: value.bfloat16() for key, value in state.items()}
    half["logit_scale"] = state["logit_scale"]
    assert build_model(half, CONFIG, dtype=None).visual.proj.dtype == torch.bfloat16
    half["visual.proj"] = state["visual.proj"].half()
    assert build_model(half, CONFIG, dtype=None).visual.proj.dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "pretrained", "words"),
    [
        ("/nope/dir", None, "/nope/dir does not exist"),
        ("./nope", None, "nope does not exist"),
        ("w.pt", None, "w.pt does not exist"),
        ("openai/clip-vit-base-patch32", None, "write 'hf-hub:openai/clip-vit-base-patch32'"),
        ("ViT-B/32", None, "did you mean 'ViT-B-32'"),
        ("vit-b-32", None, "did you mean 'ViT-B-32'"),
        ("laion2b_s34b_b79k", None, "is a tag of pretrained weights, not a model"),
        ("ViT-B-32", "laion2b", "ViT-B-32 has no tag 'laion2b'; its tags are openai, "),
        ("ViT-e-14", "openai", "no weights of it are known here"),
        ("ViT-B-32", "/nope/w.pt", "/nope/w.pt' does not exist"),
        ("ViT-B-32", "laion/CLIP-ViT", "write 'hf-hub:laion/CLIP-ViT'"),
        ("ViT-B-32", True, "a tag such as 'openai', got True"),
        (CONFIG, "openai", "a tag of open_clip needs the name of a model"),
    ],
)
def test_names_that_are_none(model: Any, pretrained: Any, words: str) -> None:
    with pytest.raises((CheckpointError, ConfigError), match=re.escape(words)):
        create_model(model, pretrained)
