"""CLIP_benchmark's own files, held against what CLIP_benchmark makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clip_benchmark.datasets
import pytest
from clip_benchmark.datasets.builder import value_from_first_key_found
from clip_eval.cli.main import main
from clip_eval.data import DataError, Source, open_source
from clip_eval.data.templates import ClassPrompts
from clip_eval.prompts.dataset_files import names_of_spec
from clip_eval.prompts.named_data import (
    choose_prompts,
    open_data,
    read_class_list,
    read_template_list,
)

FILES = Path(clip_benchmark.datasets.__path__[0])
NAMES = FILES / "en_classnames.json"
TEMPLATES = FILES / "en_zeroshot_classification_templates.json"


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def pets(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    """Three of the classes, in `pets/test`."""
    for name in ("Abyssinian", "Beagle", "Sphynx"):
        (tmp_path / "pets" / "test" / name).mkdir(parents=True)
        (tmp_path / "pets" / "test" / name / "0.png").write_bytes(encode((1, 2, 3)))
    return tmp_path / "pets"


def test_every_list_of_names_is_read() -> None:
    for name, expected in load(NAMES).items():
        classes, _ = read_class_list(f"{NAMES}:{name}")
        assert list(classes.names) == expected
    folders = read_class_list(f"{FILES / 'it_classnames.json'}:imagenet")[0].folders
    assert folders[:2] == ("n01440764", "n01443537")  # as of --classnames imagenet1k


def test_every_list_of_templates_is_read() -> None:
    for name, expected in load(TEMPLATES).items():
        templates, origin = read_template_list(f"{TEMPLATES}:{name}")
        assert isinstance(templates, tuple)
        assert list(templates) == expected
        assert origin == f"--templates, {name}"


def test_the_data_chooses_as_in_clip_benchmark(pets: Path) -> None:
    source, _ = open_data(f"imagefolder:{pets}", classnames=str(NAMES))
    expected = value_from_first_key_found(load(NAMES), keys=["pets"])
    assert list(source.classnames or ()) == expected
    templates, origin = choose_prompts(source, None, given=read_template_list(str(TEMPLATES)))
    assert list(templates or ()) == value_from_first_key_found(load(TEMPLATES), keys=["pets"])
    assert origin == "--templates, pets"
    other = pets.rename(pets.with_name("wds_vtab-pets"))
    assert len(open_data(str(other / "test"), classnames=str(NAMES))[0].classnames or ()) == 37


def test_what_is_not_clear_lists_the_names(pets: Path, tmp_path: Path) -> None:
    other = pets.rename(tmp_path / "animals")
    with pytest.raises(DataError, match=r"none is named like the data .*animals.* pets, svhn"):
        open_data(f"imagefolder:{other}", classnames=str(NAMES))
    source = open_source(other)
    given = read_template_list(str(TEMPLATES))
    with pytest.raises(DataError, match=r"animals\); name one, as in .*:caltech101; .*, dtd"):
        choose_prompts(source, None, given=given)
    assert len(open_data(str(other), classnames=f"{NAMES}:pets")[0].classnames or ()) == 37
    for read in (read_class_list, read_template_list):
        with pytest.raises(DataError, match=r"no data set 'cats'; there are .*pets, "):
            read(f"{NAMES if read is read_class_list else TEMPLATES}:cats")


def test_the_only_data_set_of_a_file_is_meant(pets: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"anything": ["my {c}", "a {c}"]}')
    choice = choose_prompts(open_source(pets), None, given=read_template_list(str(path)))
    assert choice == (("my {c}", "a {c}"), "--templates, anything")


def test_prompts_by_class_are_told_from_data_sets(pets: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    by_class = {name: [f"{name} or {{c}}"] for name in ("Abyssinian", "Beagle", "Sphynx", "more")}
    path.write_text(json.dumps(by_class))
    source = open_source(pets)
    templates, _ = choose_prompts(source, None, given=read_template_list(str(path)))
    assert templates is not None
    assert ClassPrompts(source.classnames or (), templates)[1] == ("Beagle or Beagle",)
    path.write_text(json.dumps({"pets": by_class, "dogs": ["a {c}"]}))  # as CuPL's for ImageNet
    templates, origin = choose_prompts(source, None, given=read_template_list(str(path)))
    assert (templates, origin) == (
        {name: tuple(texts) for name, texts in by_class.items()},
        "--templates, pets",
    )
    cupl, _ = read_template_list(f"{FILES / 'cupl_prompts.json'}:imagenet1k")
    expected = load(FILES / "cupl_prompts.json")["imagenet1k"]
    assert isinstance(cupl, dict)
    assert {name: list(texts) for name, texts in cupl.items()} == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"pets": ["a {c}", "no slot"]}', "no prompts for 3 of 3 classes"),  # prompts by class
        ('{"pets": {"Beagle": "one"}}', "expected a list of prompts for 'Beagle'"),
        ('{"pets": {}}', "expected prompts by class name, got none"),
        ('{"pets": {"Beagle": ["x"]}, "dogs": 3}', "no prompts for 2 of 3 classes"),
    ],
)
def test_bad_files_are_one_line(pets: Path, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "t.json").write_text(content)
    source = open_source(pets)

    def make_prompts() -> ClassPrompts:
        given = read_template_list(str(tmp_path / "t.json"))
        templates, _ = choose_prompts(source, None, given=given)
        return ClassPrompts(source.classnames or (), templates or ())

    with pytest.raises(DataError, match=words) as caught:
        make_prompts()
    assert "\n" not in str(caught.value)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="expected an object of data sets, of which 'x' is one"):
        read_class_list(f"{tmp_path / 'list.json'}:x")


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("cifar10", ("cifar10",)),
        ("cifar100:/data", ("cifar100", "data")),
        ("imagefolder:a/imagenet/val", ("imagefolder", "imagenet1k")),
        ("wds:x/wds_vtab-flowers/test/{0..3}.tar", ("wds", "wds_vtab-flowers", "flowers")),
        ("data/food101.parquet", ("data/food101.parquet", "food101")),
    ],
)
def test_names_of_a_description(spec: str, names: tuple[str, ...]) -> None:
    assert names_of_spec(spec) == names


def test_a_run_takes_both_files(
    pets: Path, tmp_path: Path, trained_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [
        "run",
        "--model",
        str(trained_directory),
        "--data",
        str(pets),
        "--out",
        str(out),
        "--quiet",
    ]
    words += ["--device", "cpu", "--no-cache", "--templates", str(TEMPLATES)]
    assert main([*words, "--classnames", str(NAMES)]) == 0
    record = load(out / "result.json")
    assert record["templates"] == ["a photo of a {c}, a type of pet."]
    assert record["settings"]["templates_from"] == "--templates, pets"
    assert len(record["classnames"]) == 37
    pets.rename(tmp_path / "animals")
    words[words.index(str(pets))] = str(tmp_path / "animals")
    capsys.readouterr()
    assert main([*words, "--classnames", str(NAMES), "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "there are caltech101" in error


def test_a_source_is_named_by_its_kind_too() -> None:
    class Cifar(Source):
        kind, name, classnames = "cifar10", "somewhere", ("a", "b")

        def __len__(self) -> int:
            return 0

        def read(self, index: int) -> Any:
            raise NotImplementedError

    templates, origin = choose_prompts(Cifar(), None, given=read_template_list(str(TEMPLATES)))
    assert len(templates or ()) == 18
    assert origin == "--templates, cifar10"
