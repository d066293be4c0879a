from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
from osf_supernet import load_subnet
from osf_supernet.cli import main
from osf_supernet.commands import subnets
from osf_supernet.run_lock import RunLock
from safetensors.torch import load_file
from torch import nn

MODULE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 3))
    return model, torch.randn(2, 6)

def words():
    return "no module"

def three():
    return nn.Linear(2, 2), 1, 2

def pair():
    return nn.Bilinear(2, 2, 2), (torch.zeros(2, 2), torch.zeros(2, 2))

def bare():
    return nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 3)), torch.zeros(2, 6)

def broken():
    raise ValueError("my own fault")

def unread():
    open("nothere.txt")

def unimported():
    import nothere

SIZE = 3
"""


RUN = "from osf_supernet.cli import main; main()"


@pytest.fixture
def model(tmp_path, monkeypatch):
    (tmp_path / "osf_cli_example.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "osf_cli_example:make"


def test_explain_in_words_json_and_dot(model, capsys):
    assert main(["explain", model]) == 0
    assert "mlp  mlp 32  [8, 16, 24, 32]" in capsys.readouterr().out
    main(["explain", model, "--json"])
    assert json.loads(capsys.readouterr().out)["groups"][0]["name"]
    main(["explain", model, "--format", "dot"])
    assert capsys.readouterr().out.startswith("graph dimensions {")


def test_sample_extract_and_verify(model, capsys, tmp_path):
    main(["sample", model, "--max-params", "0.3"])
    assert capsys.readouterr().out == "mlp 8 of 32\n83 of 323 parameters\n"
    main(["sample", model, "--max-params", "0.3", "--json"])
    config = json.loads(capsys.readouterr().out)
    assert config == {"mlp": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder = tmp_path / "small"
    main(["extract", model, "--config", str(tmp_path / "config.json"), "--out", str(folder)])
    assert "83 of 323 parameters (25.7%)" in capsys.readouterr().out
    full = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 3))
    assert load_subnet(folder, full)(torch.ones(1, 6)).shape == (1, 3)
    assert main(["verify", model, "--samples", "1"]) == 0
    assert capsys.readouterr().out.count("error") == 3
    assert main(["verify", model, "--samples", "1", "--json"]) == 0
    certificates = json.loads(capsys.readouterr().out)
    assert [c["config"] for c in certificates][:2] == [{"mlp": 32}, {"mlp": 8}]


def test_a_model_must_say_where_it_comes_from(capsys):
    assert main(["explain", "resnet"]) == 2
    assert "expected module:factory" in capsys.readouterr().err


DATA = """
import torch
from osf_supernet.training import Classification

def data(batch_size):
    def batch_of(step):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(batch_size, 6, generator=generator)
        return x, (x.sum(1) > 0).long()

    task = Classification()
    return task, batch_of, lambda model: task.evaluate(model, [batch_of(-1)]), []
"""


@pytest.fixture
def data(model, tmp_path):
    (tmp_path / "osf_cli_data.py").write_text(DATA)
    return ["--data", "osf_cli_data:data", "--batch-size", "32"]


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_train_and_search(model, data, capsys, tmp_path):
    folder = str(tmp_path / "net")
    main(["train", model, *data, "--steps", "60", "--lr", "0.02", "--out", folder])
    out = capsys.readouterr().out
    assert "step 60 losses" in out
    assert float(out.split("largest: score ")[1].split()[0]) > 80
    main(["resume", folder, "--model", model, "--data", "osf_cli_data:data"])
    assert "step" not in capsys.readouterr().out  # nothing was left to do
    front = str(tmp_path / "front")
    arguments = ["--supernet", folder, "--generations", "1", "--population", "4"]
    main(["search", model, *data, *arguments, "--max-params", "0.8", "--out", front])
    assert "parameters: score" in capsys.readouterr().out
    stored = json.loads((tmp_path / "front" / "front.json").read_text())
    assert all(row["params"] <= 0.8 * 323 for row in stored["front"])
    assert (tmp_path / "front" / "front.svg").exists()
    names = ["--model", model, "--data", "osf_cli_data:data"]
    assert main(["resume", front, *names, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == stored


def test_an_interrupted_training_goes_on_to_the_same_weights(model, data, tmp_path, capsys):
    words = ["train", model, *data, "--lr", "0.02", "--save-interval", "4"]
    assert main([*words, "--steps", "12", "--out", str(tmp_path / "whole")]) == 0
    part = tmp_path / "part"
    assert main([*words, "--steps", "8", "--out", str(part), "--quiet"]) == 0
    names = ["--model", model, "--data", "osf_cli_data:data"]
    assert main(["resume", str(part), *names, "--steps", "12"]) == 0
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(weights(part)[name], tensor), name
    assert [path.name for path in (part / "checkpoints").iterdir()] == ["step-0000012"]


def test_resume_runs_no_code_that_a_file_names(model, data, tmp_path, capsys):
    assert main(["train", model, *data, "--steps", "1", "--out", str(tmp_path / "net")]) == 0
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "net")]) == 2
    assert "pass --model osf_cli_example:make" in capsys.readouterr().err
    assert main(["resume", str(tmp_path / "net"), "--model", model]) == 2
    assert "pass --data osf_cli_data:data" in capsys.readouterr().err
    assert main(["resume", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    (tmp_path / "evaluated.jsonl").touch()  # of a release that recorded no options
    assert main(["resume", str(tmp_path), "--model", model]) == 2
    assert "does not record its options: pass --images" in capsys.readouterr().err


def test_a_run_that_is_going_on_is_left_alone(model, data, tmp_path, capsys):
    options = [model, *data, "--steps", "2"]
    assert main(["train", *options, "--out", str(tmp_path / "run")]) == 0
    files = sorted((tmp_path / "run").rglob("*"))
    (tmp_path / "fresh").mkdir()
    capsys.readouterr()
    with RunLock(tmp_path / "run"), RunLock(tmp_path / "fresh"):
        for words in (
            ["resume", str(tmp_path / "run"), "--model", model, *data[:2]],
            ["train", *options, "--out", str(tmp_path / "run"), "--overwrite"],
            ["train", *options, "--out", str(tmp_path / "fresh")],
            ["search", model, *data, "--out", str(tmp_path / "fresh"), "--overwrite"],
            ["extract", model, "--out", str(tmp_path / "run"), "--overwrite"],
        ):
            assert main(words) == 2, words
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert "is in use by process" in error
        assert set(files) == {*(tmp_path / "run").rglob("*")} - {tmp_path / "run" / ".lock"}


def test_an_existing_directory_is_set_aside_only_when_asked(model, data, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["train", model, *data, "--steps", "1", "--out", str(out)]
    assert main(words) == 0
    before = weights(out)
    for command in (words, ["extract", model, "--out", str(out)]):
        assert main(command) == 2
        assert "--overwrite to set it aside" in capsys.readouterr().err
    assert main(["extract", model, "--out", str(out), "--overwrite"]) == 0
    assert (out / "osf.json").exists()
    assert all(torch.equal(weights(tmp_path / "out.old-1")[n], t) for n, t in before.items())


def test_training_on_an_image_folder(capsys, tmp_path):
    from PIL import Image

    for part in ("train", "val"):
        for name, color in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (8, 8), color).save(tmp_path / part / name / f"{index}.png")
    sys_path_module = tmp_path / "osf_cli_images.py"
    sys_path_module.write_text(
        "import torch\nfrom torch import nn\n"
        "def make():\n"
        "    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()\n"
        "    return nn.Sequential(*layers, nn.Linear(288, 2)), torch.randn(2, 3, 8, 8)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        arguments = ["--images", str(tmp_path), "--steps", "15", "--batch-size", "4"]
        output = ["--lr", "0.01", "--out", str(tmp_path / "out")]
        main(["train", "osf_cli_images:make", *arguments, *output])
    assert "largest: score 100.0" in capsys.readouterr().out


def test_a_graph_is_drawn_as_svg(model, capsys):
    from xml.etree import ElementTree

    main(["explain", model, "--format", "svg"])
    drawing = ElementTree.fromstring(capsys.readouterr().out)
    texts = [element.text for element in drawing.iter() if element.tag.endswith("text")]
    assert "mlp (32)" in texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch_module:make"], "no module 'nosuch_module' in the current directory"),
        (["osf_cli_example:mak"], "osf_cli_example has no callable 'mak'"),
        (["osf_cli_example:SIZE"], "has no callable 'SIZE'"),
        (["osf_cli_example:words"], "must return a torch module, or a tuple.* got str"),
        (["osf_cli_example:three"], r"must return a torch module.* got \(Linear, int, int\)"),
        (["torchvision:resnet81"], "near names: .*resnet18"),
        (["timm:test_vti"], "near names: .*test_vit"),
    ],
)
def test_a_model_that_is_not_there(model, arguments, message, capsys):
    assert main(["explain", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_library_that_is_not_installed(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert main(["explain", "open_clip:ViT-B-32"]) == 2
    assert "need open_clip_torch: pip install open_clip_torch" in capsys.readouterr().err


def test_arguments_that_do_not_fit_are_refused_in_one_line(model, capsys, tmp_path):
    def refuse(*arguments):
        assert main([*arguments]) == 2
        text = capsys.readouterr().err
        assert text.startswith("osf: error: ")
        assert text.count("\n") == 1
        return text

    assert "raise the bound" in refuse("sample", model, "--max-params", "0.01")
    assert "nothere.json" in refuse("explain", model, "--space", str(tmp_path / "nothere.json"))
    (tmp_path / "space.json").write_text('{"mpl": {"ratios": [0.5]}}')
    assert "kinds here: mlp" in refuse("explain", model, "--space", str(tmp_path / "space.json"))
    (tmp_path / "config.json").write_text('{"mpl": 8}')
    output = ["--out", str(tmp_path / "out")]
    assert "near names: mlp" in refuse(
        "extract", model, "--config", str(tmp_path / "config.json"), *output
    )

    for name, text, message in (
        ("space", "{", "expected a JSON object, but Expecting"),
        ("space", "[1]", "expected a JSON object, got a list"),
        ("space", '{"mlp": {"ratios": 0.5}}', "ratios of 'mlp' must be a list of numbers"),
        ("space", '{"mlp": {"ratios": ["a"]}}', "ratios of 'mlp' must be a list of numbers"),
        ("config", "[]", "expected a JSON object, got a list"),
        ("weights", "junk", "is no safetensors file"),
    ):
        file = tmp_path / name
        file.write_text(text)
        assert message in refuse("extract", model, f"--{name}", str(file), *output)
    (tmp_path / "osf_cli_bad_data.py").write_text("def data(batch_size):\n    return 1, 2\n")
    for name, message in (
        ("nosuch:data", "no module 'nosuch'"),
        ("osf_cli_bad_data:nosuch", "has no callable 'nosuch'"),
        ("osf_cli_bad_data:data", r"must return a tuple (task, batch_of, evaluate, calibration)"),
    ):
        assert message in refuse("train", model, "--data", name, *output)
    (tmp_path / "images").mkdir()
    assert "called with one image" in refuse(
        "train", "osf_cli_example:pair", "--images", str(tmp_path / "images"), *output
    )
    both = ["--supernet", "x", "--space", "y"]
    assert "leave out --weights and --space" in refuse("verify", model, *both)
    both = ["--config", "x", "--max-params", "0.5"]
    assert "leave out --max-params" in refuse("extract", model, *both, *output)


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("sample", "--max-params", "nan"),
        ("sample", "--max-flops", "-1"),
        ("verify", "--samples", "-1"),
        ("explain", "--image-size", "0"),
        ("train", "--log-interval", "0"),
        ("train", "--save-interval", "0"),
        ("train", "--importance", "taylor"),
        ("search", "--population", "0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_runs(
    model, command, option, value, capsys
):
    with pytest.raises(SystemExit, match="2"):
        main([command, model, option, value])
    assert f"argument {option}: " in capsys.readouterr().err


def test_the_seed_is_that_of_weights_too(model, monkeypatch):
    found = []
    build = subnets.build_supernet

    def watch(options):
        net = build(options)
        found.append(net.model[0].weight)
        return net

    monkeypatch.setattr(subnets, "build_supernet", watch)
    for seed in ("1", "1", "2"):
        main(["explain", "osf_cli_example:bare", "--seed", seed])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("factory", "last_line"),
    [
        ("broken", "ValueError: my own fault"),
        ("unread", "FileNotFoundError: .*nothere.txt"),
        ("unimported", "ModuleNotFoundError: No module named 'nothere'"),
    ],
)
def test_faults_of_the_models_own_code_keep_their_traceback(model, factory, last_line, capsys):
    assert main(["explain", f"osf_cli_example:{factory}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert f"in {factory}" in "".join(lines)
    assert re.match(last_line, lines[-1])


def test_an_interrupt_ends_quietly(model, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(subnets, "build_supernet", interrupted)
    assert main(["explain", model]) == 130
    assert capsys.readouterr().err == "osf: interrupted\n"


def test_an_interrupted_training_says_how_to_continue(model, data, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("osf_supernet.commands.runs.train_supernet", interrupt)
    assert main(["train", model, *data, "--out", str(tmp_path / "net")]) == 130
    assert capsys.readouterr().err == (
        f"osf: interrupted; continue with `osf resume {tmp_path / 'net'}`\n"
    )


def test_a_file_in_the_current_directory_hides_no_installed_module(tmp_path):
    """The current directory is searched last."""
    (tmp_path / "here.py").write_text(MODULE)
    (tmp_path / "timm.py").write_text("raise RuntimeError('of the current directory')")
    ran = subprocess.run(
        [sys.executable, "-P", "-c", RUN, "sample", "timm:test_vit"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "parameters" in ran.stdout


def test_a_module_in_the_current_directory_is_found(tmp_path):
    (tmp_path / "here.py").write_text(MODULE)
    command = [sys.executable, "-c", RUN]
    ran = subprocess.run(
        [*command[:1], "-P", *command[1:], "sample", "here:make", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(ran.stdout)) == {"mlp"}


IMAGES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        return self.head(torch.relu(self.norm2(self.conv2(x))).mean((2, 3)))

def make():
    return Net(), torch.randn(2, 3, 8, 8)
"""


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """A module with batch norms, and a folder of noisy images in two colors."""
    (tmp_path / "osf_cli_pets.py").write_text(IMAGES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "osf_cli_pets:make", str(make_images(tmp_path / "pets"))


def make_images(folder, seed=0):
    from PIL import Image

    generator = torch.Generator().manual_seed(seed)
    for part, count in (("train", 12), ("val", 6)):
        for name, color in (("blue", (60, 60, 160)), ("red", (160, 60, 60))):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                noise = torch.randint(-40, 41, (8, 8, 3), generator=generator)
                pixels = (noise + torch.tensor(color)).to(torch.uint8)
                Image.frombytes("RGB", (8, 8), bytes(pixels.flatten().tolist())).save(
                    folder / part / name / f"{index}.png"
                )
    return folder


def load(folder):
    import osf_cli_pets

    return load_subnet(folder, osf_cli_pets.Net()).eval()


def test_extract_chooses_sorted_widths_and_recalibrates(pets, tmp_path, capsys):
    model, images = pets
    import osf_cli_pets
    from osf_supernet.training import from_image_folder, recalibrate

    torch.manual_seed(0)
    full = osf_cli_pets.Net()
    torch.save({"state_dict": full.state_dict()}, tmp_path / "full.pt")
    options = ["--weights", str(tmp_path / "full.pt"), "--max-params", "50%"]
    out = tmp_path / "small"
    words = ["extract", model, *options, "--images", images, "--batch-size", "8"]
    assert main([*words, "--out", str(out)]) == 0
    out_text, err = capsys.readouterr()
    assert "load_subnet" in out_text
    assert "batch norms" not in err
    small, total = load(out), sum(p.numel() for p in full.parameters())
    assert 0.4 * total <= sum(p.numel() for p in small.parameters()) <= 0.5 * total
    again = load(out)
    experiment = from_image_folder(images, image_size=8, batch_size=8)
    recalibrate(again, experiment.calibration)
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], tensor, msg=name)
    kept = small.conv1.weight  # the filters of the full model that were kept, whatever their order
    distances = torch.cdist(kept.flatten(1), full.conv1.weight.flatten(1))
    assert distances.min(1).values.max() < 1e-6
    assert main(["extract", model, *options, "--out", str(tmp_path / "without")]) == 0
    assert "pass --images FOLDER or --data FACTORY to recalibrate" in capsys.readouterr().err


def test_extract_without_a_bound_says_what_it_takes(model, tmp_path, capsys):
    out, message = (
        str(tmp_path / "half"),
        "at most 50% of the parameters, the default: --max-params",
    )
    assert main(["extract", model, "--quiet", "--out", out]) == 0
    text, error = capsys.readouterr()
    assert message in text
    assert error == ""
    count, _, total = text.replace(",", "").split()[:3]
    assert int(count) <= 0.5 * int(total)
    assert main(["extract", model, "--quiet", "--max-params", "60%", "--out", f"{out}2"]) == 0
    assert "the default" not in capsys.readouterr().out


def test_a_rank_that_is_no_number_is_one_line(model, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "first")
    assert main(["train", model, "--data", data, "--out", str(tmp_path / "net")]) == 2
    error = capsys.readouterr().err
    assert "the environment variable RANK must be a number from 0 to 1" in error
    assert error.count("\n") == 1


def test_from_a_search_to_a_model(pets, tmp_path, capsys):
    model, images = pets
    net = str(tmp_path / "net")
    assert main(["train", model, "--images", images, "--steps", "30", "--out", net, "--quiet"]) == 0
    front = tmp_path / "front"
    words = ["search", model, "--supernet", net, "--images", images, "--generations", "1"]
    assert main([*words, "--population", "3", "--max-params", "0.7", "--out", str(front)]) == 0
    out = capsys.readouterr().out
    assert "full model" in out
    assert "best" in out
    assert f"--from {front / 'front.json'} --out NAME" in out
    stored = json.loads((front / "front.json").read_text())
    extract = ["extract", model, "--supernet", net, "--images", images]
    extract += ["--from", str(front / "front.json")]
    for index, row in (("best", stored["best"]), ("0", stored["front"][0])):
        out = tmp_path / f"small-{index}"
        assert main([*extract, "--index", index, "--out", str(out)]) == 0
        assert sum(p.numel() for p in load(out).parameters()) == row["params"]
    capsys.readouterr()
    out = ["--out", str(tmp_path / "other")]
    for words, message in (
        ([*extract, "--index", "99"], "--index must be best or a number from 0"),
        ([*extract, "--max-params", "0.5"], "--from says which subnet: leave out"),
        (
            ["extract", model, "--from", str(front / "front.json")],
            "of another supernet or of",
        ),
        (["extract", model, "--from", str(front / "run.json")], "must have the list front"),
    ):
        assert main([*words, *out]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_scores_of_other_data_are_not_taken_over(pets, tmp_path, capsys):
    model, images = pets
    front = str(tmp_path / "front")
    words = ["--generations", "0", "--max-params", "0.7"]
    assert main(["search", model, "--images", images, *words, "--out", front]) == 0
    assert main(["resume", front, "--model", model]) == 0
    other = str(make_images(tmp_path / "others", seed=1))
    capsys.readouterr()
    assert main(["resume", front, "--model", model, "--images", other]) == 2
    assert "holds scores of other data" in capsys.readouterr().err


def test_a_training_that_diverges_leaves_its_checkpoint_and_says_so(model, data, tmp_path, capsys):
    out = tmp_path / "net"
    words = ["train", model, *data, "--save-interval", "2", "--quiet", "--out", str(out)]
    assert main([*words, "--steps", "2"]) == 0
    before = weights(out / "checkpoints" / "step-0000002")
    names = ["--model", model, "--data", "osf_cli_data:data"]
    capsys.readouterr()
    assert main(["resume", str(out), *names, "--steps", "9", "--lr", "1e30", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the last checkpoint is as it was: continue with a lower learning rate" in err
    (kept,) = (out / "checkpoints").iterdir()
    assert all(torch.equal(weights(kept)[name], tensor) for name, tensor in before.items())
    assert all(tensor.isfinite().all() for tensor in weights(kept).values())
    assert main(["resume", str(out), *names, "--steps", "9", "--lr", "1e-3", "--quiet"]) == 0


def test_weights_of_torch_are_read_and_nothing_in_them_is_run(model, tmp_path, capsys):
    import os
    import pickle

    state = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 3)).state_dict()
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "ok.pth")
    assert main(["sample", model, "--weights", str(tmp_path / "ok.pth")]) == 0

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"0.weight": Evil()}))
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"0.weight": torch.zeros(1)}, tmp_path / "other.pt")
    for name, message in (
        ("evil.pt", "holds no plain tensors"),
        ("list.pt", "must hold a state dict, got a list"),
        ("other.pt", "does not fit osf_cli_example:make"),
    ):
        capsys.readouterr()
        assert main(["sample", model, "--weights", str(tmp_path / name)]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(("text", "message"), [("150%", "at most 100%"), ("x%", "above 0")])
def test_percentages(model, text, message, capsys):
    assert main(["sample", model, "--max-params", "30%", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"mlp": 8}
    with pytest.raises(SystemExit, match="2"):
        main(["sample", model, "--max-params", text])
    assert message in capsys.readouterr().err


def test_a_wrong_size_is_answered_with_the_size(capsys):
    assert main(["explain", "timm:test_vit", "--image-size", "100"]) == 2
    err = capsys.readouterr().err
    assert "The example has the shape (2, 3, 100, 100)" in err
    assert "use_cache" not in err


def test_a_subnet_of_clip_models_is_a_model_directory(tmp_path, capsys):
    import clip_models
    from clip_models.config import CompactResNetConfig, TextConfig, ViTConfig

    text = TextConfig(context_length=10, vocab_size=50, width=24, num_layers=3, num_heads=3)
    vit = ViTConfig(image_size=16, patch_size=8, width=32, num_layers=3, num_heads=4)
    for name, vision, keep in (
        ("vit", vit, "0.6"),
        ("resnet", CompactResNetConfig(image_size=32, widths=(16, 32, 64)), "0.3"),
    ):
        full = clip_models.CLIP(clip_models.CLIPConfig(embed_dim=12, vision=vision, text=text))
        preprocess = clip_models.create_model_and_transforms(full.config).evaluate.config
        clip_models.save_model(tmp_path / name, full, preprocess)
        (tmp_path / name / "merges.txt").write_text("a b\n")
        out = tmp_path / f"small-{name}"
        words = ["extract", f"clip-models:{tmp_path / name}", "--max-params", keep]
        assert main([*words, "--out", str(out)]) == 0
        printed = capsys.readouterr().out
        if name == "resnet":  # widths of convolutions are in no config
            assert "no folder of clip-models: no config has these shapes" in printed
            continue
        assert "clip-eval run --model" in printed
        model, found = clip_models.load_model(out)
        record = json.loads((out / "subnet.json").read_text())
        assert sum(p.numel() for p in model.parameters()) == record["parameters"]
        assert found == preprocess
        assert (out / "merges.txt").read_text() == "a b\n"


@pytest.mark.filterwarnings("ignore")
def test_a_subnet_of_transformers_is_a_folder_of_its_library(tmp_path, capsys):
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16}
    config = ViTConfig(**sizes, intermediate_size=32, patch_size=8, num_labels=3)
    ViTForImageClassification(config).save_pretrained(tmp_path / "full")
    name = f"transformers:{tmp_path / 'full'}"
    for path, space in (("can", {"depth": {"sizes": [1]}}), ("cannot", {"heads": {"sizes": [1]}})):
        (tmp_path / "space.json").write_text(json.dumps(space))
        words = ["extract", name, "--space", str(tmp_path / "space.json"), "--max-params", "0.99"]
        assert main([*words, "--out", str(tmp_path / path)]) == 0
        out = capsys.readouterr().out
        if path == "can":
            assert "from_pretrained" in out
            model = ViTForImageClassification.from_pretrained(tmp_path / path)
            assert model.config.num_hidden_layers == 1
        else:
            assert "no folder of transformers: ViTConfig cannot say" in out
            assert (tmp_path / path / "osf.json").exists()
