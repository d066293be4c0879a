from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets
from clip_eval.data import DataError, decode_image, open_source

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def cifar_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images in CIFAR-10's files, with torchvision's checksums set to theirs."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    data = np.arange(6, dtype=np.uint8).repeat(3072).reshape(6, 3072)
    batch = {"data": data, "labels": [0, 1, 9, 3, 4, 5]}
    checksums = {}
    for name, content in (("test_batch", batch), ("batches.meta", {"label_names": NAMES})):
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        checksums[name] = hashlib.md5(raw).hexdigest()
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [])
    monkeypatch.setattr(kind, "test_list", [["test_batch", checksums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": checksums["batches.meta"]})
    return tmp_path


def test_files_on_disk_are_used(cifar_root: Path) -> None:
    source = open_source(f"cifar10:{cifar_root}")
    assert (source.name, len(source)) == ("cifar10/test", 6)
    assert source.classnames == tuple(NAMES)
    assert source.templates is None
    for again in (source, pickle.loads(pickle.dumps(source))):
        sample = again.read(2)
        assert (sample.key, sample.label) == ("test/00002", 9)
        assert sample.captions == ("a photo of a truck.",)
        assert decode_image(sample.image).getpixel((31, 31)) == (2, 2, 2)


def test_names_and_splits_are_checked(cifar_root: Path) -> None:
    assert open_source(f"cifar10:{cifar_root}", classnames=list("abcdefghij")).classnames
    with pytest.raises(DataError, match="10 classes, the list given has 1"):
        open_source(f"cifar10:{cifar_root}", classnames=["a"])
    with pytest.raises(DataError, match="no split 'dev'; there are test, train"):
        open_source(f"cifar10:{cifar_root}", split="dev")


def test_without_network_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(self: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for spec in ("cifar10", "cifar100", f"cifar10:{tmp_path}"):
        with pytest.raises(DataError, match="not found in") as caught:
            open_source(spec, download=False)
        assert "download" not in str(caught.value)
        with pytest.raises(DataError, match="the download failed") as caught:
            open_source(spec)
        assert "Name or service not known" in str(caught.value)
        assert "\n" not in str(caught.value)
