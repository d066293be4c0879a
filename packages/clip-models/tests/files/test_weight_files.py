"""Weight files of every kind: the same tensors, and nothing in a file is run."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_models import CheckpointError
from clip_models.files import read_weights
from safetensors.torch import save_file
from torch import Tensor, nn

TENSORS = {
    "visual.weight": torch.arange(6, dtype=torch.float16).view(2, 3),
    "bias": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "steps": torch.tensor(7),
    "logit_scale": torch.tensor(4.6),
}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype
        for key in theirs
    )


class Malicious:
    """Unpickling this would write a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: OrderedDict(state),
        lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"state": {}}},
        lambda state: {"model_state_dict": state, "val_loss": 0.5},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
        lambda state: {key.replace("visual", "visual._orig_mod"): v for key, v in state.items()},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_state_dicts(tmp_path: Path, wrap: Any, zipped: bool) -> None:
    torch.save(wrap(TENSORS), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert same(read_weights(tmp_path / "w.pt"), TENSORS)


def test_only_a_leading_module_is_a_wrapper(tmp_path: Path) -> None:
    state = {"module.pooling.module.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pt")
    assert list(read_weights(tmp_path / "w.pt")) == ["pooling.module.weight"]


def test_safetensors_by_name_and_by_content(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.bin"):
        save_file(TENSORS, tmp_path / name)
        assert same(read_weights(tmp_path / name), TENSORS)


def test_numpy_archive_with_jax_bfloat16(tmp_path: Path) -> None:
    half = TENSORS["bias"].view(torch.int16).numpy().view(np.dtype("V2"))
    np.savez(tmp_path / "w.npz", **{"img/a": np.eye(3, dtype=np.float32), "img/b": half})
    expected = {"img/a": torch.eye(3), "img/b": TENSORS["bias"]}
    assert same(read_weights(tmp_path / "w.npz"), expected)


def write_shards(folder: Path, *, suffix: str = "safetensors") -> Path:
    index = {}
    for number, (key, value) in enumerate(TENSORS.items()):
        name = f"model-{number}.{suffix}"
        save_file({key: value}, folder / name)
        index[key] = name
    path = folder / f"model.{suffix}.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


def test_shards(tmp_path: Path) -> None:
    assert same(read_weights(write_shards(tmp_path)), TENSORS)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors is not a file"):
        read_weights(index)


def test_a_shard_without_its_tensor_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    save_file({"other": torch.zeros(1)}, tmp_path / "model-2.safetensors")
    with pytest.raises(CheckpointError, match="the shards lack steps"):
        read_weights(index)


@pytest.mark.parametrize("name", ["../w.bin", "/etc/passwd", "a/b", "", "..", 7])
def test_a_shard_elsewhere_is_refused(tmp_path: Path, name: Any) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="which is not a file beside it"):
        read_weights(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "\xff"])
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(CheckpointError, match="is not an index of shards"):
        read_weights(path)


# --- what is refused


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, zipped: bool, protocol: int) -> None:
    state = {"state_dict": TENSORS, "extra": Malicious(tmp_path / "trace")}
    torch.save(
        state,
        tmp_path / "w.pt",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(CheckpointError, match=r"refused: .*nothing in a pickle is ever run"):
        read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "trace").exists()


def test_code_in_a_bare_pickle_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(pickle.dumps(Malicious(tmp_path / "trace")))
    with pytest.raises(CheckpointError, match="is refused"):
        read_weights(tmp_path / "w.bin")
    assert not (tmp_path / "trace").exists()


def test_code_in_a_numpy_archive_is_not_run(tmp_path: Path) -> None:
    array = np.array([Malicious(tmp_path / "trace")], dtype=object)
    np.savez(tmp_path / "w.npz", a=array)
    with pytest.raises(CheckpointError, match="allow_pickle=False"):
        read_weights(tmp_path / "w.npz")
    assert not (tmp_path / "trace").exists()


def test_a_pickled_module_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(
        CheckpointError, match=r"needs torch\.nn\.modules\.linear\.Linear, .*state_d"
    ):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": torch.zeros(1), "steps": 3, "b": "x"}, "not a state dict: steps, b are not tensors"),
        ([torch.zeros(1)], "holds a list, expected a state dict"),
        ({}, "holds no tensors"),
        ({"a.b": torch.zeros(1), "module.a.b": torch.ones(1)}, "has a.b twice, once as module.a.b"),
    ],
)
def test_other_contents_than_a_state_dict_are_refused(
    tmp_path: Path, content: Any, words: str
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=words):
        read_weights(tmp_path / "w.pt")


def test_unknown_and_absent_files(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("hello, this is text")
    with pytest.raises(CheckpointError, match=r"w\.txt is not a known kind of weight file"):
        read_weights(tmp_path / "w.txt")
    with pytest.raises(CheckpointError, match="is not a file"):
        read_weights(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="is not a file"):
        read_weights(tmp_path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "archive", "safetensors", "npz"])
def test_every_truncation_and_many_damages_are_refused_or_harmless(
    tmp_path: Path, kind: str
) -> None:
    """Cut or changed files give a CheckpointError or tensors, never another error or a crash."""
    whole = tmp_path / "whole"
    if kind == "archive":
        traced().save(str(whole))
    elif kind == "safetensors":
        save_file(TENSORS, whole)
    elif kind == "npz":
        with open(whole, "wb") as file:
            np.savez(file, a=np.eye(3))
    else:
        torch.save(TENSORS, whole, _use_new_zipfile_serialization=kind == "zip")
    content, damaged = whole.read_bytes(), tmp_path / "damaged"
    for keep in np.linspace(0, len(content) - 1, 40, dtype=int):
        damaged.write_bytes(content[:keep])
        with pytest.raises(CheckpointError):
            read_weights(damaged)
    random = np.random.default_rng(0)
    for _ in range(100):
        changed = bytearray(content)
        for place in random.integers(0, len(content), 3):
            changed[place] = random.integers(0, 256)
        damaged.write_bytes(changed)
        try:
            tensors = read_weights(damaged)
        except CheckpointError:
            continue
        assert all(isinstance(value, Tensor) for value in tensors.values())


# --- TorchScript archives, the form of OpenAI's weights


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)).half()
        self.visual[1].float()
        self.shared = self.visual[0]
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("input_resolution", torch.tensor(224))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("slice", torch.arange(12.0).view(3, 4)[1:, ::2])
        self.name, self.layers, self.ratio = "x", [1, 2], 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.visual(x) * self.scale


def traced() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; its files stay
        torch.manual_seed(0)
        return torch.jit.script(Towers().eval())


def test_archive_gives_what_torch_gives(tmp_path: Path) -> None:
    module = traced()
    module.save(str(tmp_path / "w.pt"))
    expected = dict(module.state_dict())
    assert same(read_weights(tmp_path / "w.pt"), expected)
    assert "visual.0.weight" in expected
    assert expected["visual.0.weight"].dtype == torch.float16


def rewrite(path: Path, changes: dict[str, bytes], *, compress: bool = False) -> None:
    """The same archive with other contents of some entries."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    root = next(iter(entries)).split("/")[0]
    entries.update({f"{root}/{name}": content for name, content in changes.items()})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else 0) as new:
        for name, content in entries.items():
            new.writestr(name, content)


def test_code_in_an_archive_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    traced().save(str(path))
    for protocol in (0, 2, 4):
        rewrite(path, {"data.pkl": pickle.dumps(Malicious(tmp_path / "trace"), protocol)})
        with pytest.raises(CheckpointError, match=r"is damaged: data\.pkl"):
            read_weights(path)
    assert not (tmp_path / "trace").exists()


TENSOR = (
    b"\x80\x02c__torch__ M\nM\nq\x00)\x81}(X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n"
    b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02t"
    b"QK%c(K%ct(K%ct\x89Nt\x52ub."
)


@pytest.mark.parametrize(
    ("offset", "size", "stride", "words"),
    [
        (0, 3, 1, r"a of \(3,\) reaches beyond its 2 stored"),
        (1, 2, 1, r"a of \(2,\) reaches beyond its 2 stored"),
        (0, 200, 0, r"a of \(200,\) reaches beyond its 2 stored"),
        (0, 2, 9, r"a of \(2,\) reaches beyond its 2 stored"),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(
    tmp_path: Path, offset: int, size: int, stride: int, words: str
) -> None:
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/constants.pkl", b"")
        archive.writestr("w/data/0", bytes(8))
        archive.writestr("w/data.pkl", TENSOR % (offset, size, stride))
    with pytest.raises(CheckpointError, match=words):
        read_weights(path)
    rewrite(path, {"data.pkl": TENSOR % (0, 2, 1)})
    assert same(read_weights(path), {"a": torch.zeros(2)})


def test_modules_that_contain_themselves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/constants.pkl", b"")
        archive.writestr(
            "w/data.pkl", b"\x80\x02c__torch__\nM\n)\x81q\x01}(X\x01\x00\x00\x00ah\x01ub."
        )
    with pytest.raises(CheckpointError, match="contain one another without end"):
        read_weights(path)


def test_compressed_or_short_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    traced().save(str(path))
    rewrite(path, {"data/0": b"\0"})
    with pytest.raises(CheckpointError, match="has 1 bytes, expected"):
        read_weights(path)
    traced().save(str(path))
    rewrite(path, {}, compress=True)
    with pytest.raises(CheckpointError, match="is compressed"):
        read_weights(path)
