from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_eval import load_for_evaluation
from clip_eval.encoding.cache import EmbeddingStore, digest_image, digest_parts
from clip_eval.encoding.encoder import Encoder
from clip_eval.models.adapters import as_preprocess
from clip_eval.models.fingerprints import (
    model_fingerprint,
    preprocess_fingerprint,
    tokenizer_fingerprint,
)
from clip_models import Preprocess
from clip_models.config import PreprocessConfig
from clip_tokenizer import Tokenizer
from PIL import Image
from torch import Tensor, nn


def test_rows_come_back_by_digest(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "store")
    digests = [digest_parts(str(n)) for n in range(5)]
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    rows[4, 0] = float("inf")
    store.add(digests, rows)
    store.flush()
    again = EmbeddingStore(tmp_path / "store")
    assert len(again) == 4
    assert digests[4] not in again
    assert again.digests() == frozenset(digests[:4])
    assert torch.equal(again.get([digests[2], digests[0], digests[2]]), rows[[2, 0, 2]])
    again.flush()
    again.add(digests[:4], rows[:4])
    again.flush()
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_a_cut_or_foreign_file_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path)
    store.add([b"a" * 16], torch.ones(1, 4))
    store.flush()
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-8])
    (tmp_path / "other.npy").write_bytes(b"no array")
    (tmp_path / "empty.npy").write_bytes(b"")
    import numpy as np

    np.save(tmp_path / "plain.npy", np.zeros(3))
    assert len(EmbeddingStore(tmp_path)) == 0


@pytest.mark.parametrize("place", ["digest", "feature", "check"])
def test_a_flipped_bit_is_noticed_and_removed(place: str, tmp_path: Path) -> None:
    store, digests = EmbeddingStore(tmp_path), [digest_parts(str(n)) for n in range(5)]
    store.add(digests, torch.arange(20.0).reshape(5, 4))
    store.flush()
    (path,) = tmp_path.glob("*.npy")
    row = 16 + 4 * 4 + 8
    data = bytearray(path.read_bytes())
    data[len(data) - 3 * row + {"digest": 3, "feature": 19, "check": 35}[place]] ^= 16  # row 2
    path.write_bytes(bytes(data))
    with pytest.warns(UserWarning, match="1 embedding is damaged on disk, and computed again"):
        again = EmbeddingStore(tmp_path)
    assert again.digests() == frozenset(digests) - {digests[2]}
    assert torch.equal(again.get([digests[4]]), torch.arange(16.0, 20.0)[None])
    assert len(EmbeddingStore(tmp_path)) == 4  # without a warning: the damaged row is gone
    again.add([digests[2]], torch.full((1, 4), 7.0))
    again.flush()
    assert len(EmbeddingStore(tmp_path)) == 5


def test_damage_in_a_read_only_cache_is_said_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EmbeddingStore(tmp_path)
    store.add([b"a" * 16, b"b" * 16], torch.ones(2, 4))
    store.flush()
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("clip_eval.data.storage.os.fsync", refuse)
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 embedding is damaged"):
            assert len(EmbeddingStore(tmp_path)) == 1


@pytest.fixture
def many_files(tmp_path: Path) -> Path:
    """A row in each of forty files, some of them in two; and two files that hold none."""
    for n in range(40):
        store = EmbeddingStore(tmp_path / str(n))
        store.add([digest_parts(str(n % 36))], torch.full((1, 3), float(n % 36)))
        store.flush()
        (path,) = (tmp_path / str(n)).glob("*.npy")
        path.rename(tmp_path / path.name)
        path.parent.rmdir()
        data = (tmp_path / path.name).read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[:-1])
    (tmp_path / "other.npy").write_bytes(b"no array")
    return tmp_path


def all_rows_are_there(store: EmbeddingStore) -> bool:
    rows = store.get([digest_parts(str(n)) for n in range(36)])
    return len(store) == 36 and rows[:, 0].tolist() == list(range(36))


def test_many_files_become_one(many_files: Path) -> None:
    assert all_rows_are_there(EmbeddingStore(many_files))
    names = {path.name for path in many_files.iterdir()}
    assert {"cut.npy", "other.npy"} < names
    assert len(names) == 3
    assert all_rows_are_there(EmbeddingStore(many_files))


@pytest.mark.parametrize("step", ["fsync", "replace", "unlink"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_merging_that_is_interrupted_loses_nothing(
    step: str, kind: type[BaseException], many_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise kind

    with monkeypatch.context() as patched:
        patched.setattr(Path if step == "unlink" else os, step, stop)
        if kind is OSError:
            assert all_rows_are_there(EmbeddingStore(many_files))
        else:
            with pytest.raises(KeyboardInterrupt):
                EmbeddingStore(many_files)
    assert all_rows_are_there(EmbeddingStore(many_files))
    assert len(list(many_files.glob("*.npy"))) == 3


def test_digests_tell_parts_apart() -> None:
    assert digest_parts("ab", "c") != digest_parts("a", "bc")
    assert digest_image(b"x") != digest_image(b"y")
    red, blue = Image.new("RGB", (2, 2), "red"), Image.new("RGB", (2, 2), "blue")
    assert digest_image(red) == digest_image(red.copy()) != digest_image(blue)
    assert digest_image(Image.new("RGB", (1, 4), "red")) != digest_image(red)


def test_the_colors_of_a_palette_count() -> None:
    found = set()
    for palette, transparent in (([255, 0, 0], None), ([0, 0, 255], None), ([0, 0, 255], 0)):
        image = Image.new("P", (2, 2), 0)
        image.putpalette(palette)
        if transparent is not None:
            image.info["transparency"] = transparent
        found.add(digest_image(image))
    assert len(found) == 3


class Gated(nn.Module):
    def __init__(self, act: str = "relu", **attributes: Any) -> None:
        super().__init__()
        self.register_buffer("mask", torch.zeros(2), persistent=False)
        for name, value in attributes.items():
            setattr(self, name, value)
        self.layer = nn.Linear(2, 2)
        self.act: nn.Module = nn.ReLU() if act == "relu" else nn.GELU()


def test_a_fingerprint_is_of_weights_and_of_structure() -> None:
    def made(act: str = "relu") -> Gated:
        torch.manual_seed(0)
        return Gated(act)

    assert model_fingerprint(made()) == model_fingerprint(made())
    assert model_fingerprint(made()) != model_fingerprint(made("gelu"))  # no weight differs
    changed = made()
    with torch.no_grad():
        changed.layer.bias[0] += 1e-6
    assert model_fingerprint(changed) != model_fingerprint(made())
    assert model_fingerprint(made().half()) != model_fingerprint(made())


def test_what_no_weight_says_counts_in_every_part() -> None:
    def made(**attributes: Any) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(Gated(**attributes))

    settings: tuple[dict[str, Any], ...] = (
        {},
        {"mode": "first"},
        {"mode": "last"},
        {"mode": None},
        {"sizes": (1, (2, 0.5))},
        {"sizes": (1, (2, 0.25))},
        {"config": {"end": 2}},
        {"config": {"end": 7}},
        {"mask": torch.ones(2)},
        {"pool": torch.amax},
        {"pool": torch.amin},
    )
    for own in settings:
        assert model_fingerprint(made(**own)) == model_fingerprint(made(**own).train())
    assert len({model_fingerprint(made(**own)) for own in settings}) == len(settings)


def test_a_model_that_has_run_is_the_same_model(trained_directory: Path) -> None:
    loaded = load_for_evaluation(trained_directory)
    before = model_fingerprint(loaded.model)
    with torch.no_grad():
        loaded.model.encode_text(loaded.tokenizer(["a red thing"]))
        loaded.model.encode_image(torch.zeros(1, 3, 16, 16))
    assert model_fingerprint(loaded.model) == before
    assert model_fingerprint(load_for_evaluation(trained_directory).model) == before


def test_fingerprints_of_tokenizers_and_preprocessing() -> None:
    lower, canonical = Tokenizer.openai(), Tokenizer.openai(clean="canonicalize")
    assert tokenizer_fingerprint(lower) == tokenizer_fingerprint(Tokenizer.openai())
    assert tokenizer_fingerprint(lower) != tokenizer_fingerprint(canonical)
    assert tokenizer_fingerprint(lower) != tokenizer_fingerprint(Tokenizer.openai(context_length=9))
    small, large = (Preprocess(PreprocessConfig(size=size)) for size in (32, 64))
    assert preprocess_fingerprint(small) != preprocess_fingerprint(large)
    same = Preprocess(PreprocessConfig(size=32))
    assert preprocess_fingerprint(small) == preprocess_fingerprint(same)


class Table:
    """No module: its features are in a plain attribute."""

    logit_scale = torch.tensor(1.0)

    def __init__(self, rows: object) -> None:
        self.rows = rows

    def encode_image(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.rows[tokens[:, 0]]  # type: ignore[index,no-any-return]


def test_an_object_that_is_no_module_is_known_by_its_attributes() -> None:
    import numpy as np

    for rows in (torch.eye(3), np.eye(3), nn.Linear(2, 2), 0.5):
        assert model_fingerprint(Table(rows)) == model_fingerprint(Table(rows))
    values = (torch.eye(3), torch.ones(3, 3), np.ones((3, 3)), 0.5, 1.5, None)
    assert len({model_fingerprint(Table(rows)) for rows in values}) == len(values)
    unknown = Table(iter(()))  # nothing tells what it holds
    assert model_fingerprint(unknown) != model_fingerprint(Table(unknown.rows))


def test_the_code_of_a_part_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.syspath_prepend(tmp_path)
    part = tmp_path / "part_of_a_tower.py"
    found = set()
    for factor in (1, 2):
        part.write_text(
            "from torch import nn\n"
            f"class Part(nn.Module):\n    def forward(self, x): return x * {factor}\n"
        )
        sys.modules.pop("part_of_a_tower", None)
        importlib.invalidate_caches()
        found.add(model_fingerprint(nn.Sequential(importlib.import_module(part.stem).Part())))
    sys.modules.pop("part_of_a_tower")
    assert len(found) == 2


def test_functions_are_known_by_what_they_do_not_by_their_name_or_address() -> None:
    def tokens(step: int) -> Callable[[list[str]], Tensor]:
        def tokenize(texts: list[str]) -> Tensor:
            return torch.tensor([[step * len(text)] for text in texts])

        return tokenize

    assert tokenizer_fingerprint(tokens(1)) == tokenizer_fingerprint(tokens(1))
    assert tokenizer_fingerprint(tokens(1)) != tokenizer_fingerprint(tokens(2))

    def pixels(size: int) -> Any:
        def transform(image: Image.Image) -> Tensor:
            return torch.full((3, size, size), image.width / 100)

        return as_preprocess(transform)

    assert preprocess_fingerprint(pixels(2)) == preprocess_fingerprint(pixels(2))
    assert preprocess_fingerprint(pixels(2)) != preprocess_fingerprint(pixels(4))


@pytest.fixture
def encoder(
    color_model: Any, color_tokenizer: Any, color_preprocess: Any, tmp_path: Path
) -> Callable[..., Encoder]:
    def make(**options: Any) -> Encoder:
        return Encoder(
            color_model.eval(), color_tokenizer, color_preprocess, cache=tmp_path, **options
        )

    return make


def test_prompts_are_remembered_by_class(
    encoder: Callable[..., Encoder], color_tokenizer: Any, tmp_path: Path
) -> None:
    one = encoder()
    first = one.encode_groups([("a red one", "red"), ("blue",)])
    assert not list(tmp_path.rglob("*.npy"))  # not a file for each call
    one.flush()
    seen = len(color_tokenizer.seen)
    again = encoder()
    probes = len(color_tokenizer.seen) - seen
    assert torch.equal(again.encode_groups([("blue",), ("a red one", "red")]), first[[1, 0]])
    assert len(color_tokenizer.seen) == seen + probes
    again.encode_groups([("blue",), ("green",), ("a red one",)])
    assert color_tokenizer.seen[seen + probes :] == ["green", "a red one"]


def test_other_weights_or_precision_remember_nothing(
    encoder: Callable[..., Encoder], color_model: Any
) -> None:
    one = encoder()
    one.encode_groups([("red",)])
    one.flush()
    assert len(encoder().text_store or ()) == 1
    assert len(encoder(precision="bf16").text_store or ()) == 0
    with torch.no_grad():
        color_model.colors[1] += 0.1
    assert len(encoder().text_store or ()) == 0


def test_other_decoding_remembers_no_image(
    encoder: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [encoder().image_store]
    monkeypatch.setattr("clip_eval.encoding.encoder.DECODING", "decoding 0, Pillow 1")
    stores.append(encoder().image_store)
    assert len({store.directory for store in stores if store is not None}) == 2


def test_embeddings_that_are_not_finite_are_not_remembered(
    encoder: Callable[..., Encoder], color_model: Any
) -> None:
    original = color_model.encode_text

    def broken(tokens: Tensor) -> Tensor:
        features: Tensor = original(tokens)
        features[0] = float("nan")
        return features

    color_model.encode_text = broken
    made = encoder()
    assert made.encode_groups([("red",), ("blue",)]).isnan().any(dim=1).sum() == 1
    assert len(made.text_store or ()) == 1


def test_a_cache_that_cannot_be_written_stops_nothing(
    color_model: Any, color_tokenizer: Any, color_preprocess: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    parts = (color_model.eval(), color_tokenizer, color_preprocess)
    made = Encoder(*parts, cache=tmp_path / "file" / "below")
    found = made.encode_groups([("red",), ("blue",)])
    with pytest.warns(UserWarning, match="embeddings are not kept"):
        made.flush()
    assert torch.equal(found, Encoder(*parts).encode_groups([("red",), ("blue",)]))
