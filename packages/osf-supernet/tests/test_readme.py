"""The examples of the README run in order, and every public name is in one of them or explained."""

from __future__ import annotations

import re
from pathlib import Path

import osf_supernet
import osf_supernet.files
import osf_supernet.graph
import osf_supernet.search
import osf_supernet.subnets
import osf_supernet.training
import pytest
from PIL import Image

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.S)
PARTS = [
    osf_supernet,
    osf_supernet.files,
    osf_supernet.graph,
    osf_supernet.search,
    osf_supernet.subnets,
    osf_supernet.training,
]


@pytest.mark.filterwarnings("ignore")  # what other libraries warn of
def test_the_examples_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "pets" / part / name / "0.png")
    namespace: dict[str, object] = {}
    for example in EXAMPLES:
        exec(compile(example, "README.md", "exec"), namespace)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_public_name_is_on_the_page(part):
    assert [name for name in part.__all__ if not re.search(rf"\b{name}\b", TEXT)] == []


def test_every_name_at_the_top_is_in_an_example():
    code = "".join(EXAMPLES)
    assert [name for name in osf_supernet.__all__ if not re.search(rf"\b{name}\b", code)] == []


def test_every_command_is_on_the_page(capsys):
    from osf_supernet.cli import main

    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.M)
    assert {"explain", "train", "resume"} <= set(commands)
    assert [name for name in commands if f"osf {name} " not in TEXT] == []
