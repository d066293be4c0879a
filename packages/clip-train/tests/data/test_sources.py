"""Which data a config means: several sources, shapes, shards behind URLs, streams."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_eval.data import BadSample, DataError, open_source
from clip_models import ConfigError
from clip_train.cli.main import main
from clip_train.config.data import DataConfig
from clip_train.config.run import Config, EvalConfig
from clip_train.data.mixing import MixedSource, make_order
from clip_train.data.sources import (
    absolute_spec,
    describe_data,
    describe_splits,
    list_parts,
    open_training_source,
    resolve_templates,
)
from clip_train.data.streaming import ShardStream
from clip_train.data.validation import (
    ValidationSet,
    WatchedMetric,
    choose_set_templates,
    open_validation_sets,
    resolve_metric,
    saved_templates,
)
from clip_train.engine.runs import with_absolute_paths
from clip_train.shapes.source import ShapesSource
from PIL import Image


def folder(root: Path, name: str, count: int) -> Path:
    (root / name / "thing").mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / name / "thing" / f"{number}.png")
    return root / name


def test_several_sources_are_one(tmp_path: Path) -> None:
    one, two = folder(tmp_path, "one", 3), folder(tmp_path, "two", 5)
    data = DataConfig(train=f"imagefolder:{one}::{two}", templates=("a {c}",), weights=(3.0, 1.0))
    source = open_training_source(data)
    assert isinstance(source, MixedSource)
    assert (source.name, len(source)) == ("one + two", 8)
    assert source.read(4).key == "two/thing/1.png"
    assert source.read(4).captions == ("a thing",)
    assert source.place(7) == "two: two, sample 4"
    (two / "thing" / "4.png").unlink()
    with pytest.raises(BadSample, match="unreadable"):
        source.read(7)
    with pytest.raises(IndexError):
        source.read(8)
    order = make_order(source, data.weights, seed=0, streams=2, buffer=4)
    found = np.concatenate([order.indices(epoch, np.arange(8)) for epoch in range(500)])
    assert (found < 3).mean() == pytest.approx(0.75, abs=0.03)
    by_size = make_order(source, (), seed=0, streams=2, buffer=4)
    found = np.concatenate([by_size.indices(epoch, np.arange(8)) for epoch in range(500)])
    assert (found < 3).mean() == pytest.approx(3 / 8, abs=0.03)


def test_weights_need_sources(tmp_path: Path) -> None:
    data = DataConfig(train=str(folder(tmp_path, "one", 3)), weights=(1.0, 2.0))
    with pytest.raises(ConfigError, match=r"2 numbers for the 1 sources of data\.train"):
        open_training_source(data)


def test_shapes_are_drawn_when_read(shapes: Path) -> None:
    source = open_training_source(DataConfig(train="shapes:96@48"))
    assert isinstance(source, ShapesSource)
    assert (source.name, len(source)) == ("shapes:96@48", 96)
    written = open_training_source(DataConfig(train=f"wds:{shapes}/train"))
    for index in (0, 95):
        ours, theirs = source.read(index), written.read(index)
        assert ours.captions == theirs.captions
        assert theirs.key.endswith(ours.key)
        assert isinstance(ours.image, Image.Image)
        assert ours.image.size == (48, 48)
    with pytest.raises(IndexError):
        source.read(96)
    with pytest.raises(ConfigError, match="at least 32 pixels"):
        open_training_source(DataConfig(train="shapes:5@8"))


def test_paths_become_absolute_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path, "one", 1)
    monkeypatch.chdir(tmp_path)
    spec = "wds:a/{0..3}.tar::one::shapes:5::wds:https://host/x.tar::cifar10"
    assert absolute_spec(spec) == (
        f"wds:{tmp_path}/a/{{0..3}}.tar::{tmp_path}/one::shapes:5::wds:https://host/x.tar::cifar10"
    )
    assert absolute_spec("hf-hub:org/model") == "hf-hub:org/model"
    assert absolute_spec("") == ""


def validation_sets(data: DataConfig, **settings: Any) -> tuple[ValidationSet, ...]:
    return open_validation_sets(Config(data=data, eval=EvalConfig(**settings)))


def test_validation_data_needs_classes_and_labels(tmp_path: Path, shapes: Path) -> None:
    assert validation_sets(DataConfig()) == ()
    pairs = DataConfig(val=f"wds:{shapes}/train")
    assert [one.task for one in validation_sets(pairs)] == ["retrieval"]
    with pytest.raises(ConfigError, match="has no class names"):
        validation_sets(pairs, kind="classify")
    (tmp_path / "names").write_text("cat\ndog\n")
    data = DataConfig(val=f"wds:{shapes}/train", classnames=str(tmp_path / "names"))
    with pytest.raises(ConfigError, match="has no label"):
        validation_sets(data)
    assert [one.task for one in validation_sets(data, kind="retrieval")] == ["retrieval"]
    labels = DataConfig(val=f"imagefolder:{folder(tmp_path, 'labels', 2)}")
    with pytest.raises(ConfigError, match="has no caption, which eval"):
        validation_sets(labels, kind="retrieval")


def test_several_validation_sets_have_names_and_tasks(tmp_path: Path, shapes: Path) -> None:
    one = folder(tmp_path, "one", 2)
    data = DataConfig(val=(f"imagefolder:{one}", f"wds:{shapes}/train", f"imagefolder:{one}"))
    found = validation_sets(data)
    assert [x.task for x in found] == ["classify", "retrieval", "classify"]
    assert [x.name for x in found] == ["one", found[1].name, "one~2"]
    (tmp_path / "names").write_text("thing\tobject\n")
    names = str(tmp_path / "names")
    found = validation_sets(data, names=("a", "b", "c"), classnames=("", "", names))
    assert [x.name for x in found] == ["a", "b", "c"]
    assert [x.source.classnames for x in found] == [("thing",), None, ("object",)]
    for settings in ({"kind": ("classify", "retrieval")}, {"names": ("a",)}, {"classnames": ("",)}):
        with pytest.raises(ConfigError, match="entries for the 3 sets of data"):
            validation_sets(data, **settings)


def test_the_metric_of_the_best_model_is_found(tmp_path: Path, shapes: Path) -> None:
    data = DataConfig(val=(f"imagefolder:{folder(tmp_path, 'one', 2)}", f"wds:{shapes}/train"))
    sets = validation_sets(data, names=("a", "b"))
    assert resolve_metric("", sets) is None
    assert resolve_metric("acc1", sets) == WatchedMetric("a", "acc1")
    loss = resolve_metric("b/loss", sets)
    assert loss == WatchedMetric("b", "loss")
    assert loss.falls
    with pytest.raises(ConfigError, match="'acc2' is not measured; expected one of a/acc1, a/acc5"):
        resolve_metric("acc2", sets)
    with pytest.raises(ConfigError, match="'acc1' is measured on several sets"):
        resolve_metric("acc1", (sets[0], dataclasses.replace(sets[0], name="again")))
    with pytest.raises(ConfigError, match=r"data\.val names no set"):
        resolve_metric("acc1", ())


def test_templates_are_a_list_a_file_or_a_standard_data_set(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a {c}\nthe {c}\n")
    assert resolve_templates(DataConfig()) is None
    assert resolve_templates(DataConfig(templates=("one {c}",))) == ("one {c}",)
    assert resolve_templates(DataConfig(templates=(str(tmp_path / "t.txt"),))) == (
        "a {c}",
        "the {c}",
    )
    assert len(resolve_templates(DataConfig(templates=("imagenet1k",))) or ()) == 80
    with pytest.raises(DataError, match="neither a file nor a standard data set"):
        resolve_templates(DataConfig(templates=("pictures",)))
    (tmp_path / "cupl.json").write_text('{"cat": ["a cat"]}')
    with pytest.raises(ConfigError, match="got prompts by class name"):
        resolve_templates(DataConfig(templates=(str(tmp_path / "cupl.json"),)))


def test_files_of_several_data_sets_are_read_by_the_name_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = folder(tmp_path, "pets", 2), folder(tmp_path, "dtd", 2)
    names, templates = tmp_path / "names.json", tmp_path / "templates.json"
    names.write_text('{"dtd": ["thing", "dots"], "pets": ["thing", "cat"]}')
    templates.write_text('{"dtd": ["{c} texture"], "pets": ["a pet {c}", "pet {c}"]}')
    keys: dict[str, Any] = {"classnames": str(names), "templates": (str(templates),)}
    data = DataConfig(train=f"{one}::{two}", val=(str(one), str(two)), **keys)
    source = open_training_source(data)
    assert source.read(0).captions == ("a pet thing", "pet thing")
    assert source.read(2).captions == ("thing texture",)
    sets = open_validation_sets(Config(data=data))
    assert [one.source.classnames for one in sets] == [("thing", "cat"), ("thing", "dots")]
    chosen = [choose_set_templates(one, ("x {c}",), data).templates for one in sets]
    assert chosen == [("a pet {c}", "pet {c}"), ("{c} texture",)]
    first = open_training_source(replace(data, train=str(one)))
    assert saved_templates(Config(data=data), first, sets) == ("a pet {c}", "pet {c}")
    other = folder(tmp_path, "animals", 1)
    with pytest.raises(DataError, match=r"names\.json has several .* there are dtd, pets"):
        open_training_source(replace(data, train=str(other)))
    given = {"classnames": f"{names}:pets", "templates": (f"{templates}:pets",)}
    named = replace(data, train=str(other), **given)
    assert open_training_source(named).read(0).captions == ("a pet thing", "pet thing")
    monkeypatch.chdir(tmp_path)
    relative = replace(named, classnames="names.json:pets", templates=("templates.json:pets",))
    found = with_absolute_paths(Config(data=relative)).data
    assert (found.classnames, found.templates) == (named.classnames, named.templates)


def test_class_names_that_are_bare_numbers_are_reported(tmp_path: Path) -> None:
    for number in ("0", "10", "2"):
        (tmp_path / "numbers" / number).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "numbers" / number / "x.png")
    spec = f"imagefolder:{tmp_path}/numbers"
    with pytest.warns(UserWarning, match="3 class names are bare numbers, so a prompt reads"):
        open_training_source(DataConfig(train=spec, templates=("a {c}",)))
    with pytest.warns(UserWarning, match="3 class names are bare numbers"):
        validation_sets(DataConfig(val=spec))
    named = DataConfig(train=spec, templates=("a {c}",), classnames="imagenetv2")
    assert open_training_source(named).read(1).captions == ("a brambling",)


def test_a_stream_has_no_numbers(shapes: Path) -> None:
    data = DataConfig(train=f"wds:{shapes}/train", order="stream", epoch_samples=50)
    source = open_training_source(data)
    assert len(source) == 50
    with pytest.raises(DataError, match="cannot be read by number"):
        source.read(0)
    with pytest.raises(ConfigError, match="epoch_samples goes with order 'stream'"):
        DataConfig(order="stream")
    with pytest.raises(ConfigError, match="can neither cache images nor weight sources"):
        DataConfig(order="stream", epoch_samples=5, cache_images=True)


def test_keys_and_directories_reach_the_reader(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "t.csv").write_text("pic,alt\nx.png,a grey square\n")
    data = DataConfig(
        train=f"csv:{tmp_path}/lists/t.csv",
        image_key="pic",
        caption_key="alt",
        image_root=str(tmp_path),
    )
    assert open_training_source(data).read(0).captions == ("a grey square",)


def test_shards_behind_urls_use_the_cache_of_the_config(shapes: Path, tmp_path: Path) -> None:
    url = f"wds:file://{shapes}/train/shapes-00000{{0..2}}.tar"
    size = sum(path.stat().st_size for path in (shapes / "train").glob("*.tar"))
    data = DataConfig(train=url, cache_dir=str(tmp_path / "cache"), cache_gb=0.9 * size / 1e9)
    source = open_training_source(data)
    local = open_training_source(DataConfig(train=f"wds:{shapes}/train"))
    for index in (0, 95, 50, 3):
        assert source.read(index) == local.read(index)
    assert 0 < len(list((tmp_path / "cache").glob("*.tar"))) < 3
    with pytest.raises(ConfigError, match="cache_gb must be positive"):
        DataConfig(cache_gb=0)


def splits(root: Path) -> Path:
    """Class folders of three splits, with one, two and three images."""
    for count, split in enumerate(("train", "val", "test"), start=1):
        (root / split / "cat").mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8)).save(root / split / "cat" / f"{split}{number}.png")
    return root


def test_training_reads_train_and_validation_test(tmp_path: Path) -> None:
    spec = f"imagefolder:{splits(tmp_path / 'set')}"
    data = DataConfig(train=spec, val=spec, templates=("a {c}",))
    training, validation = open_training_source(data), validation_sets(data)[0].source
    assert [(s.split, len(s)) for s in (training, validation)] == [("train", 1), ("test", 3)]
    chosen = replace(data, train=f"{spec}::{spec}", split="val", val_split="train")
    training, validation = open_training_source(chosen), validation_sets(chosen)[0].source
    assert [part.split for part in list_parts(training)] == ["val", "val"]
    assert (validation.split, describe_splits(training)) == ("train", " of split val")
    assert describe_data(training, ())["train"][0] == {
        "name": "set/val",
        "kind": "imagefolder",
        "samples": 2,
        "split": "val",
        "splits": ("test", "train", "val"),
    }
    with pytest.raises(DataError, match="no split 'dev2'; there are test, train, val"):
        open_training_source(replace(data, split="dev2"))
    with pytest.raises(ConfigError, match="shapes:5 has no splits"):
        open_training_source(DataConfig(train="shapes:5", split="train"))


def test_a_stream_reads_the_training_split(tmp_path: Path, shapes: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        shard = (shapes / "train" / "shapes-000000.tar").read_bytes()
        (tmp_path / split / "0.tar").write_bytes(shard)
    source = open_training_source(
        DataConfig(train=f"wds:{tmp_path}", order="stream", epoch_samples=5)
    )
    assert isinstance(source, ShardStream)
    assert source.shards == [str(tmp_path / "train" / "0.tar")]


@pytest.mark.parametrize("spec", ["{a}::", "::{a}", "{a}::::{a}", "{a}:: ", "::"])
@pytest.mark.parametrize("order", ["exact", "stream"])
def test_an_empty_source_is_not_the_current_directory(
    spec: str, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder(tmp_path, "here", 2))
    text = spec.format(a=f"imagefolder:{folder(tmp_path, 'one', 1)}")
    data = DataConfig(
        train=text,
        order=order,  # type: ignore[arg-type]
        epoch_samples=5 if order == "stream" else None,
        val=" ",
    )
    with pytest.raises(ConfigError, match=r"data\.train .* has an empty source"):
        open_training_source(data)
    with pytest.raises(DataError, match="got an empty text"):
        validation_sets(data)


@pytest.mark.filterwarnings("default:2 training samples could not be read:UserWarning")
def test_captions_beside_images_train_validate_and_convert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pairs"
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        for number in range(8):
            color = (number * 30, 0, 255 - number * 30)
            Image.new("RGB", (32, 32), color).save(folder / split / f"{number}.png")
            (folder / split / f"{number}.txt").write_text(f"{split} {number}\nnumber {number}")
    (folder / "train" / "7.txt").unlink()
    (folder / "train" / "6.png").unlink()
    recipe = tmp_path / "c.toml"
    recipe.write_text(
        "[model]\nname = 'Compact-32'\n[tokenizer]\nkind = 'bytes'\n"
        f"[data]\ntrain = '{folder}'\nval = '{folder}'\nworkers = 0\n"
        "[train]\nsteps = 2\nbatch_size = 4\n"
    )
    out = tmp_path / "run"
    assert main(["run", str(recipe), "--out", str(out), "--device", "cpu", "--quiet"]) == 0
    text = capsys.readouterr().err
    assert "2 training samples could not be read and were replaced, such as 6.txt: no-image" in text
    records = list(map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()))
    data = next(record for record in records if record["kind"] == "data")
    assert [(d["kind"], d["split"], d["samples"]) for d in (*data["train"], *data["val"])] == [
        ("pairs", "train", 8),
        ("pairs", "val", 8),
    ]
    capsys.readouterr()
    assert any("text_retrieval_recall@1" in str(record) for record in records)
    out = tmp_path / "shards"
    assert main(["data", "convert", str(folder), "--out", str(out), "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "6 of 8 samples of split train with 12 captions" in text
    assert "left out: no-caption: 1" in text
    assert "left out: no-image: 1" in text
    assert open_source(out).read(5).captions == ("train 5", "number 5")
    assert main(["data", "inspect", str(folder), "--quiet"]) == 0
    assert "pairs/train (pairs): 8 samples, split train" in capsys.readouterr().out
