from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from clip_eval.data import DataError
from clip_eval.prompts.named_data import open_data, read_class_list, read_template_list


def test_class_names_come_from_a_file_or_a_standard_data_set(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    classes, prompt_set = read_class_list(str(tmp_path / "names.txt"))
    assert (classes.names, prompt_set) == (("cat", "dog"), None)
    classes, prompt_set = read_class_list("imagenet-r")
    assert len(classes.names) == 200
    assert prompt_set is not None
    assert prompt_set.name == "imagenet-r"
    assert read_class_list("cifar10")[0].names[:3] == ("airplane", "automobile", "bird")
    fine = read_class_list("cifar100")[0].names
    assert (len(fine), fine[1], fine[-1]) == (100, "aquarium_fish", "worm")
    with pytest.raises(DataError, match="food101 has no class names"):
        read_class_list("food101")
    with pytest.raises(DataError, match="neither a file nor a standard data set; did you mean"):
        read_class_list("cifar1")


def test_templates_come_from_a_file_or_a_standard_data_set(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a {c}\n")
    assert read_template_list(None) == (None, "")
    assert read_template_list(str(tmp_path / "t.txt")) == (("a {c}",), "--templates")
    templates, origin = read_template_list("imagenet")
    assert templates is not None
    assert (len(templates), origin) == (80, "--templates imagenet1k")
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read"):
        read_template_list(str(tmp_path / "absent.txt"))


def test_folders_of_wordnet_ids_get_the_names_of_imagenet(
    tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    for folder in ("n01443537", "n01440764"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.png").write_bytes(encode((1, 2, 3)))
    source, prompt_set = open_data(str(tmp_path))
    assert source.classnames == ("tench", "goldfish")
    assert prompt_set is not None
    assert prompt_set.name == "imagenet1k"
    (tmp_path / "n01440764").rename(tmp_path / "n00000001")
    source, prompt_set = open_data(str(tmp_path))
    assert (source.classnames, prompt_set) == (("n00000001", "n01443537"), None)
