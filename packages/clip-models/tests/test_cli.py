"""The command: its files, its output and its exit codes."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_models import CLIP, CLIPConfig, cli, create_model, load_model, save_model
from clip_models.cli import main
from clip_models.config import PreprocessConfig, TextConfig, ViTConfig
from clip_models.converters import to_open_clip
from clip_models.files import read_weights, save_tensors

README = Path(__file__).parents[1] / "README.md"

CONFIG = CLIPConfig(
    embed_dim=12,
    vision=ViTConfig(
        image_size=32,
        patch_size=8,
        width=64,
        num_layers=2,
        num_heads=1,
        activation="quick_gelu",
    ),
    text=TextConfig(
        context_length=9,
        vocab_size=50,
        width=64,
        num_layers=2,
        num_heads=1,
        activation="quick_gelu",
    ),
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "model", CLIP(CONFIG), PreprocessConfig(size=32))
    return tmp_path / "model"


def same_weights(left: Path, right: Path) -> bool:
    ours, theirs = load_model(left)[0].state_dict(), load_model(right)[0].state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)


@pytest.mark.parametrize("to", ["clip-models", "open-clip", "hugging-face"])
def test_directories_there_and_back(
    directory: Path, tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(directory), "--out", str(tmp_path / "there"), "--to", to]) == 0
    written = capsys.readouterr().out.splitlines()
    assert sorted(written) == sorted(str(path) for path in (tmp_path / "there").iterdir())
    there, back = str(tmp_path / "there"), str(tmp_path / "back")
    back = ["convert", there, "--out", back, "--to", "clip-models"]
    assert main(back) == 0
    assert same_weights(tmp_path / "back", directory)
    assert load_model(tmp_path / "back")[1] == PreprocessConfig(size=32)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_openai_files_need_no_name(directory: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / "deep" / f"w{suffix}"
    assert main(["convert", str(directory), "--out", str(file), "--to", "openai"]) == 0
    assert int(read_weights(file)["input_resolution"]) == 32
    assert main(["convert", str(file), "--out", str(tmp_path / "back"), "--to", "clip-models"]) == 0
    assert same_weights(tmp_path / "back", directory)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_in_half_the_bytes(
    directory: Path, tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", str(directory), "--out", str(tmp_path / "out"), "--to", "clip-models"]
    assert main([*command, "--dtype", dtype]) == 0
    stored, _ = load_model(tmp_path / "out", dtype=None)
    for key, value in load_model(directory)[0].state_dict().items():
        assert torch.equal(stored.state_dict()[key], value.to(getattr(torch, dtype)))

    model, preprocess = load_model(directory)
    with torch.no_grad():
        model.visual.conv1.weight[0, 0, 0, 0] = 1e5
    save_model(tmp_path / "large", model, preprocess)
    command[1:4] = [str(tmp_path / "large"), "--out", str(tmp_path / "large-half")]
    assert main([*command, "--dtype", dtype]) == (2 if dtype == "float16" else 0)
    if dtype == "float16":
        words = "visual.conv1.weight holds 100000, which float16 cannot"
        assert words in capsys.readouterr().err
        assert not (tmp_path / "large-half").exists()


def test_a_file_of_a_named_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = create_model("Compact-32")
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    weights, out = str(tmp_path / "w.pt"), str(tmp_path / "out")
    arguments = ["convert", weights, "--out", out, "--to", "clip-models"]
    assert main(arguments) == 2
    assert "does not say which model it holds" in capsys.readouterr().err
    assert main([*arguments, "--model", "Compact-32"]) == 0
    for key, value in create_model(tmp_path / "out").state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


def test_flax_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vision = ViTConfig(
        image_size=32,
        patch_size=8,
        width=24,
        num_layers=1,
        num_heads=3,
        pre_norm=False,
        readout="patch_average",
    )
    config = CLIPConfig(embed_dim=12, vision=vision, text=CONFIG.text)
    model = CLIP(config).to(torch.bfloat16)
    save_model(tmp_path / "model", model, PreprocessConfig(size=32))
    there = ["convert", str(tmp_path / "model"), "--out", str(tmp_path / "w.npz"), "--to", "clipa"]
    assert main(there) == 0
    with np.load(tmp_path / "w.npz") as arrays:
        assert arrays["img/embedding/kernel"].shape == (8, 8, 3, 24)
    monkeypatch.setitem(sys.modules["clip_models.config.named_models"]._CONFIGS, "Tiny", config)
    back = ["convert", str(tmp_path / "w.npz"), "--out", str(tmp_path / "back")]
    back += ["--to", "clip-models"]
    assert main([*back, "--model", "Tiny"]) == 0
    stored = read_weights(tmp_path / "back" / "model.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(stored[key], value)
        assert stored[key].dtype == torch.bfloat16


def test_no_config_of_the_replaced_model_stays(directory: Path, tmp_path: Path) -> None:
    """Weights beside another model's config would load, and compute something else."""
    out = tmp_path / "out"
    plain = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, activation="gelu"))
    save_model(out, CLIP(plain), PreprocessConfig(size=32))
    arguments = ["convert", str(directory), "--out", str(out), "--to", "open-clip", "--overwrite"]
    assert main(arguments) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    assert load_model(out)[0].config == CONFIG
    before = sorted(path.name for path in directory.iterdir())
    arguments[3] = str(directory)
    assert main(arguments) == 0  # into the same directory: the configs there say the same
    assert {path.name for path in directory.iterdir()} > set(before)


def test_existing_files_are_replaced_on_request_only(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out, to in ((tmp_path / "out", "hugging-face"), (tmp_path / "w.pt", "openai")):
        arguments = ["convert", str(directory), "--out", str(out), "--to", to]
        assert main(arguments) == 0
        arguments[1] = "absent"  # the output is checked before any work
        assert main(arguments) == 2
        assert "exists; add --overwrite" in capsys.readouterr().err
        arguments[1] = str(directory)
        assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "absent.pt"], "absent.pt is not a file"),
        (["info", "ViT-B-23"], "unknown model 'ViT-B-23'; did you mean 'ViT-B-"),
        (["convert", "{model}", "--out", "out.pt", "--to", "corenet"], "corenet has no such model"),
        (
            ["convert", "{model}", "--out", "out.onnx", "--to", "openai"],
            "out.onnx must end in one of .pt, .pth, .bin, .safetensors, .npz, the files",
        ),
        (
            ["convert", "{model}", "--out", "out", "--to", "clip-models", "--model", "ViT-B32"],
            "did you mean",
        ),
        (["info", "{model}", "--model", "ViT-B-32"], "does not fit the model: missing visual."),
        (["info", "RN50", "--model", "ViT-B-32"], "RN50 is not a file"),
        (
            ["convert", "{model}", "--out", "{text}", "--to", "open-clip"],
            "a.txt is a file; open-clip is w",
        ),
        (
            ["convert", "{model}", "--out", "{model}", "--to", "openai"],
            "is a directory; openai is written",
        ),
        (["info", "{text}"], "is not a known kind of weight file"),
        (["info", "hf-hub:nowhere"], "names no repository"),
        (["info", "laion/CLIP-ViT-B-32"], "write 'hf-hub:laion/CLIP-ViT-B-32'"),
        (["list", "X*"], "no model is named like 'X*'"),
    ],
)
def test_refusals(
    directory: Path,
    tmp_path: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("just some text")
    places = {"model": directory, "text": tmp_path / "a.txt"}
    assert main([argument.format(**places) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("clip-models: error: ")
    assert shown.err.count("\n") == 1
    assert words in shown.err
    assert not shown.out
    assert not list(tmp_path.glob("out*"))


def test_weights_that_do_not_fit_write_nothing(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = dict(load_model(directory)[0].state_dict())
    state["visual.proj"] = torch.zeros(3, 3)
    save_tensors(directory / "model.safetensors", state)
    assert (
        main(["convert", str(directory), "--out", str(tmp_path / "out"), "--to", "open-clip"]) == 2
    )
    assert "visual.proj is (3, 3), expected (64, 12)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_info(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(directory)]) == 0
    shown = capsys.readouterr().out
    assert "names       clip-models" in shown
    assert "tensors     62 float32" in shown
    config = json.loads(shown[shown.index("{") :])
    assert CLIPConfig.from_dict(config) == CONFIG
    assert main(["info", "ViT-B-32"]) == 0
    assert "parameters  151,277,313 (87,849,216 of the image tower)" in capsys.readouterr().out


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "ViT-L-14-336*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ViT-L-14-336", "336"],
        ["ViT-L-14-336-quickgelu", "336"],
    ]


@pytest.mark.parametrize(
    "arguments", [[], ["convert", "a", "--out", "b", "--to", "keras"], ["convert", "a"], ["info"]]
)
def test_wrong_usage_is_one_line_and_code_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert ": error: " in shown


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["list"], ["--version"]])
def test_help_and_lists_import_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom clip_models.cli import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_json(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["convert", str(directory), "--out", str(out), "--to", "clip-models", "--json"]
    assert main(arguments) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert sorted(files) == sorted(str(path) for path in out.iterdir())
    assert main(["info", str(directory), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert CLIPConfig.from_dict(shown["config"]) == CONFIG
    assert shown["names"] == "clip-models"
    assert shown["tensors"] == {"float32": 62}
    assert shown["parameters"] > shown["image_parameters"] > 0
    assert main(["list", "ViT-B-32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "ViT-B-32",
            "image_size": 224,
            "context_length": 77,
            "vocab_size": 49408,
            "embed_dim": 512,
        }
    ]


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"]])
def test_help_shows_examples(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert (
        "clip-models convert ViT-B-32.pt --to clip-models --out vit-b-32" in capsys.readouterr().out
    )


@pytest.mark.parametrize("text", [cli._EXAMPLES, README.read_text(encoding="utf-8")])
def test_models_of_the_examples_can_be_written(text: str) -> None:
    examples = re.findall(r"clip-models convert .* --to (\S+) .*--model (\S+)", text)
    assert examples
    for dialect, name in examples:
        with torch.device("meta"):
            model = create_model(name)
        assert dialect == "open-clip"
        assert to_open_clip(model.config)


def test_a_closed_pipe_is_no_error() -> None:
    code = "import sys; from clip_models.cli import main; sys.exit(main(['list']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before anything is printed
        assert process.stderr.read() == b""
    assert process.returncode == 0
