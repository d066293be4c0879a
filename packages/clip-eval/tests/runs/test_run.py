from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clip_eval import EvaluationConfig, evaluate, load_for_evaluation
from clip_eval.cli.main import main
from clip_eval.data import open_source
from clip_eval.prompts.named_data import open_data
from clip_eval.prompts.prompt_sets import get_prompt_set
from clip_eval.runs.config import EvaluationRun


@pytest.fixture
def run(trained_directory: Path, tmp_path: Path) -> Callable[..., int]:
    def call(*more: object, model: object = trained_directory) -> int:
        out = ["--out", str(tmp_path / "out"), "--quiet"]
        return main(["run", "--model", str(model), *out, *map(str, more)])

    return call


@pytest.fixture
def two_models(trained_directory: Path, tmp_path: Path) -> tuple[Path, Path]:
    other = tmp_path / "other-run"
    shutil.copytree(trained_directory, other)
    (other / "zeroshot_classification_templates.txt").write_text("{c}\n")
    return trained_directory, other


def test_every_model_on_every_data_set_decodes_each_image_once(
    two_models: tuple[Path, Path],
    color_folder: Path,
    color_shards: Path,
    tmp_path: Path,
    read_json: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    decoded: list[Any] = []
    from clip_eval.encoding import batches

    decode = batches.decode_image
    monkeypatch.setattr(batches, "decode_image", lambda data: decoded.append(data) or decode(data))
    out = tmp_path / "out"
    arguments = ["run", "--model", *map(str, two_models), "--data"]
    arguments += [str(color_folder), str(color_shards), "--out", str(out), "--quiet"]
    assert main([*arguments, "--no-cache"]) == 0
    assert len(decoded) == 12 + 12
    results = {path.parent.relative_to(out): read_json(path) for path in out.rglob("result.json")}
    assert len(results) == 4
    assert {(r["model"], r["dataset"]) for r in results.values()} == {
        (model, data) for model in ("colors-run", "other-run") for data in ("colors", "wds/test")
    }
    for record in results.values():
        alone = read_json(next(out.rglob("result.json")))
        assert record["n"] == alone["n"] == 12
    table = capsys.readouterr().out
    assert table.count("| colors-run |") == table.count("| other-run  |") == 2

    shutil.rmtree(out)
    arguments = ["run", "--model", str(two_models[0]), "--data", str(color_folder), "--quiet"]
    assert main([*arguments, "--out", str(out), "--no-cache"]) == 0
    alone = read_json(out / "result.json")
    together = next(
        r for r in results.values() if r["model"] == "colors-run" and r["dataset"] == "colors"
    )
    for key in ("metrics", "per_class", "confusions", "templates", "content", "ci95"):
        assert alone[key] == together[key]


def test_what_fails_is_told_and_the_rest_goes_on(
    two_models: tuple[Path, Path],
    color_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    absent = tmp_path / "absent"
    bad = tmp_path / "bad.csv"
    bad.write_text("path,label\nx.png,\n")
    arguments = ["run", "--model", str(two_models[0]), str(absent), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--quiet", "--data", str(absent), str(bad), str(color_folder)]) == 1
    captured = capsys.readouterr()
    assert len(list((tmp_path / "out").rglob("result.json"))) == 1
    assert captured.err.count("clip-eval: ") == captured.err.count("\n") == 3 + 2
    assert "no such file" in captured.err
    assert "| colors" in captured.out


def test_a_model_that_breaks_does_not_stop_the_one_beside_it(
    tmp_path: Path,
    color_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "color_models.py").write_text(
        "import torch\n"
        "class Good:\n"
        "    logit_scale = torch.tensor(1.0)\n"
        "    def encode_image(self, images): return images.mean(dim=(2, 3))\n"
        "    def encode_text(self, tokens): return tokens.float()\n"
        "class Bad(Good):\n"
        "    def encode_image(self, images): raise RuntimeError('out of memory')\n"
        "def tokens(texts): return torch.tensor([[len(t), 1, 2] for t in texts])\n"
        "def pixels(image): return torch.ones(3, 2, 2)\n"
        "def good(): return Good(), tokens, pixels\n"
        "def bad(device): return Bad(), tokens, pixels\n"
        "def wrong(): return Good()\n"
        "def broken(): raise TypeError('no weights')\n"
    )
    monkeypatch.chdir(tmp_path)
    names = ["color_models:good", "color_models:bad", "color_models:wrong", "no_module:f"]
    names.append("color_models:broken")
    assert (
        main(
            [
                "run",
                "--model",
                *names,
                "--data",
                str(color_folder),
                "--quiet",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 1
    )
    errors = capsys.readouterr().err
    assert "RuntimeError: out of memory" in errors
    assert "must return (model, tokenizer, preprocess), got Good" in errors
    assert "cannot be imported" in errors
    assert "TypeError: no weights" in errors
    (found,) = (tmp_path / "out").rglob("result.json")
    assert json.loads(found.read_text())["model"] == "color_models:good"


def test_a_result_made_by_the_same_content_is_kept(
    run: Callable[..., int],
    color_folder: Path,
    tmp_path: Path,
    encode: Callable[..., bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (color_folder / "red" / "broken.png").write_bytes(b"no image")
    assert run("--data", color_folder) == 0
    before = (tmp_path / "out" / "result.json").stat().st_mtime_ns
    for path in color_folder.rglob("*.png"):
        path.touch()
    assert run("--data", color_folder) == 0
    assert (tmp_path / "out" / "result.json").stat().st_mtime_ns == before
    assert "same weights, prompts and samples" in capsys.readouterr().out

    (color_folder / "red" / "0.png").write_bytes(encode((250, 10, 10), seed=77))
    assert run("--data", color_folder) == 2
    assert "was made otherwise" in capsys.readouterr().err
    assert run("--data", color_folder, "--overwrite") == 0
    (color_folder / "red" / "0.png").rename(color_folder / "green" / "9.png")
    assert run("--data", color_folder) == 2


def test_an_edited_image_is_the_only_one_embedded_again(
    run: Callable[..., int],
    color_folder: Path,
    encode: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clip_eval.encoding import batches

    decoded: list[Any] = []
    decode = batches.decode_image
    monkeypatch.setattr(batches, "decode_image", lambda data: decoded.append(data) or decode(data))
    assert run("--data", color_folder) == 0
    assert len(decoded) == 12
    assert run("--data", color_folder, "--templates", "cifar10", "--overwrite") == 0
    assert len(decoded) == 12
    (color_folder / "red" / "0.png").write_bytes(encode((250, 10, 10), seed=78))
    assert run("--data", color_folder, "--overwrite") == 0
    assert len(decoded) == 13
    assert run("--data", color_folder, "--overwrite", "--no-cache") == 0
    assert len(decoded) == 25


def imagenet_folder(root: Path, folders: list[str], encode: Callable[..., bytes]) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        (root / folder / "0.png").write_bytes(encode((9, 9, 9)))
    return root


def test_imagenet_folders_are_named_by_their_ids(
    tmp_path: Path,
    encode: Callable[..., bytes],
    run: Callable[..., int],
    read_json: Callable[[Path], Any],
) -> None:
    some = imagenet_folder(tmp_path / "some", ["n01440764", "n15075141", "n01443537"], encode)
    source, prompt_set = open_data(str(some))
    assert source.classnames == ("tench", "goldfish", "toilet paper")
    assert prompt_set is not None
    assert len(prompt_set.templates or ()) == 80
    assert [source.read(i).label for i in range(3)] == [0, 1, 2]
    every, _ = open_data(str(some), classnames="imagenet1k")
    assert len(every.classnames or ()) == 1000
    assert every.read(2).label == 999

    numbered = imagenet_folder(tmp_path / "v2", ["0", "10", "2", "999"], encode)
    v2, _ = open_data(str(numbered), classnames="imagenetv2")
    names = {v2.read(i).key.split("/")[0]: v2.classnames[v2.read(i).label] for i in range(4)}
    assert names == {
        "0": "tench",
        "2": "great white shark",
        "10": "brambling",
        "999": "toilet paper",
    }

    assert run("--data", some, "--task", "auto") == 0
    settings = read_json(tmp_path / "out" / "result.json")["settings"]
    assert settings["templates_from"] == "saved with the model"


def test_an_unknown_set_gets_nobody_elses_templates(
    trained_directory: Path, color_folder: Path, tmp_path: Path, read_json: Callable[[Path], Any]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(trained_directory, bare)
    (bare / "zeroshot_classification_templates.txt").unlink()
    out = tmp_path / "out"
    assert main(["run", "--model", str(bare), "--data", str(color_folder), "--out", str(out)]) == 0
    record = read_json(out / "result.json")
    assert record["templates"] == ["a photo of a {c}."]
    assert any("no templates" in warning for warning in record["warnings"])

    folder = tmp_path / "imagenet"
    for wnid in ("n01440764", "n01443537"):
        shutil.copytree(color_folder / "red", folder / wnid)
    out = tmp_path / "recognized"
    assert main(["run", "--model", str(bare), "--data", str(folder), "--out", str(out)]) == 0
    record = read_json(out / "result.json")
    assert len(record["templates"]) == 80
    assert record["settings"]["templates_from"] == "prompt set imagenet1k"


def wordnet_data(kind: str, root: Path, color_folder: Path, write_tar: Callable[..., Path]) -> str:
    """Images of two of ImageNet's classes, or of ImageNet-A's two hundred, or shards of them."""
    ids = ["n01443537", "n01440764"]
    image = (color_folder / "red" / "0.png").read_bytes()
    if kind == "shards":
        names = {"classnames.txt": "\n".join(ids).encode()}
        write_tar(root / "0.tar", {"0.png": image, "0.cls": b"1", "1.png": image, "1.cls": b"0"})
        for name, text in names.items():
            (root / name).write_bytes(text)
        return f"wds:{root}"
    if kind == "imagenet-a":
        ids = list(get_prompt_set("imagenet-a").folders or ())
    for wnid in ids:
        (root / wnid).mkdir(parents=True)
        (root / wnid / "0.png").write_bytes(image)
    return f"imagefolder:{root}"


@pytest.mark.parametrize("kind", ["folders", "shards", "imagenet-a"])
def test_evaluate_recognizes_what_the_command_recognizes(
    kind: str,
    trained_directory: Path,
    color_folder: Path,
    tmp_path: Path,
    read_json: Callable[[Path], Any],
    write_tar: Callable[..., Path],
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(trained_directory, bare)
    (bare / "zeroshot_classification_templates.txt").unlink()
    data = wordnet_data(kind, tmp_path / "inet", color_folder, write_tar)
    out = tmp_path / "out"
    assert main(["run", "--model", str(bare), "--data", data, "--out", str(out), "--quiet"]) == 0
    record = read_json(out / "result.json")
    loaded = load_for_evaluation(bare)
    result = evaluate(
        loaded.model,
        open_source(data),
        tokenizer=loaded.tokenizer,
        preprocess=loaded.preprocess,
    )
    assert len(result.templates) == 80
    assert "goldfish" in result.classnames or kind == "imagenet-a"
    assert not any(name.startswith("n0") for name in result.classnames)
    found = json.loads(json.dumps(result.to_dict()))
    for key in ("classnames", "templates", "metrics", "content", "warnings"):
        assert found[key] == record[key], key


def test_class_names_of_the_caller_are_not_replaced(
    trained_directory: Path,
    color_folder: Path,
    tmp_path: Path,
    write_tar: Callable[..., Path],
) -> None:
    source = open_source(wordnet_data("folders", tmp_path / "inet", color_folder, write_tar))
    loaded = load_for_evaluation(trained_directory)
    result = evaluate(
        loaded.model,
        source,
        tokenizer=loaded.tokenizer,
        preprocess=loaded.preprocess,
        config=EvaluationConfig(classnames=["red", "green"]),
    )
    assert result.classnames == ("red", "green")
    assert result.templates == ("a photo of a {c}.",)
    assert source.classnames == ("n01440764", "n01443537")


def test_a_directory_for_each_description() -> None:
    from clip_eval.runs.config import name_directories

    specs = ("runs/a/checkpoints/step-1", "runs/b/checkpoints/step-1", "open_clip:RN50:x", "…/")
    found = name_directories(specs)
    assert found[:3] == ["checkpoints-step-1", "checkpoints-step-1~2", "open_clip-RN50-x"]
    assert len(set(found)) == 4
    assert EvaluationRun(models=("a",), data=("b", "c"), out=Path("o")).is_single is False


def test_an_evaluation_and_a_reading_agree_on_the_content(
    run: Callable[..., int], color_folder: Path, tmp_path: Path, read_json: Callable[[Path], Any]
) -> None:
    from clip_eval.encoding.batches import hash_source

    assert run("--data", color_folder, "--batch-size", "5") == 0
    content = read_json(tmp_path / "out" / "result.json")["content"]
    assert content == hash_source(open_source(color_folder))


def test_a_training_set_is_read_once_for_all_models(
    two_models: tuple[Path, Path],
    color_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clip_eval.encoding import batches

    decoded: list[Any] = []
    decode = batches.decode_image
    monkeypatch.setattr(batches, "decode_image", lambda data: decoded.append(data) or decode(data))
    command = ["run", "--model", *map(str, two_models), "--data", str(color_folder), "--quiet"]
    command += ["--train", str(color_folder), "--task", "knn", "--no-cache"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert len(decoded) == 12 + 12


def test_a_result_that_cannot_be_written_does_not_measure_the_others_again(
    two_models: tuple[Path, Path],
    color_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from clip_eval.runs import data_run

    write, places = data_run.write_result, []

    def full(place: Path, *more: Any, **options: Any) -> None:
        places.append(place)
        if place.parent.name.endswith("other-run"):
            raise OSError(28, "No space left on device")
        write(place, *more, **options)

    monkeypatch.setattr(data_run, "write_result", full)
    command = ["run", "--model", *map(str, two_models), "--data", str(color_folder), "--quiet"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "other-run on colors: No space left" in captured.err
    assert len(places) == 2
    assert captured.out.count("| colors-run |") == 1


def test_a_result_with_its_cost_serves_a_run_that_asks_for_none(
    run: Callable[..., int], color_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--data", color_folder, "--cost") == 0
    assert run("--data", color_folder) == 0
    assert "same weights, prompts and samples" in capsys.readouterr().out
    assert run("--data", color_folder, "--overwrite") == 0
    assert run("--data", color_folder, "--cost") == 2


def test_a_page_shows_no_picture_of_data_that_has_changed(
    run: Callable[..., int],
    color_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--data", color_folder) == 0
    page = tmp_path / "page.html"
    report = ["report", str(tmp_path / "out"), "--data", str(color_folder), "--overwrite", "--out"]
    assert main([*report, str(page)]) == 0
    assert page.read_text().count('title="blue/0.png"') == 1
    (color_folder / "blue" / "0.png").rename(color_folder / "blue" / "00.png")
    assert main([*report, str(page)]) == 0
    assert page.read_text().count('title="blue/0') == 0
    assert page.read_text().count('title="red/0.png"') == 1
    capsys.readouterr()
    assert main([*report, str(tmp_path / "page.md")]) == 2
    assert "expected the page" in capsys.readouterr().err


def test_two_factories_are_two_models(
    tmp_path: Path,
    color_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "signed_models.py").write_text(
        "import torch\n"
        "class Signed(torch.nn.Module):\n"
        "    logit_scale = torch.tensor(1.0)\n"
        "    def __init__(self, sign):\n"
        "        super().__init__()\n"
        "        self.settings = {'sign': sign}\n"  # nothing that a fingerprint reads
        "    def encode_image(self, x): return x.mean(dim=(2, 3)) * self.settings['sign']\n"
        "    def encode_text(self, tokens): return torch.eye(3)[tokens[:, 0]]\n"
        "class Pixels:\n"
        "    def __call__(self, image):\n"
        "        return torch.tensor(image.getpixel((0, 0)))[:, None, None]\n"
        "    def normalize(self, images): return images / 255\n"
        "def tokens(texts):\n"
        "    return torch.tensor([[('green' in text) + 2 * ('blue' in text)] for text in texts])\n"
        "def right(): return Signed(1), tokens, Pixels()\n"
        "def wrong(): return Signed(-1), tokens, Pixels()\n"
    )
    monkeypatch.chdir(tmp_path)
    command = ["run", "--data", str(color_folder), "--templates", "t.txt", "--quiet", "--model"]
    (tmp_path / "t.txt").write_text("{c}\n")
    for name, accuracy in (("right", 1.0), ("wrong", 0.0)):
        assert main([*command, f"signed_models:{name}", "--out", name]) == 0
        record = json.loads((tmp_path / name / "result.json").read_text())
        assert record["metrics"]["acc1"] == accuracy
    assert main([*command, "signed_models:wrong", "--out", "right"]) == 2
    assert "was made otherwise" in capsys.readouterr().err


def no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert not list(tmp_path.rglob("result.json"))
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("task", ["classify", "retrieval", "knn"])
def test_an_evaluation_without_a_usable_sample_fails(
    task: str,
    run: Callable[..., int],
    color_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad" / "red").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "bad" / "red" / f"{number}.png").write_bytes(b"x" * number)
    data, more = str(tmp_path / "bad"), ["--classnames", str(tmp_path / "names.txt")]
    (tmp_path / "names.txt").write_text("red\n")
    if task == "retrieval":
        rows = [f"bad/red/{number}.png,a red one" for number in range(3)]
        (tmp_path / "pairs.csv").write_text("\n".join(["filepath,caption", *rows]))
        data, more = f"csv:{tmp_path / 'pairs.csv'}", []
    if task == "knn":
        shutil.rmtree(color_folder / "green")
        shutil.rmtree(color_folder / "blue")
        more += ["--train", str(color_folder)]
    assert run("--data", data, "--task", task, *more) == 2
    error = no_result(tmp_path, capsys)
    assert "no sample could be used: skipped 3 samples (2 not-an-image, 1 empty)" in error


def test_with_several_data_sets_the_empty_one_fails(
    run: Callable[..., int], color_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad" / "red").mkdir(parents=True)
    (tmp_path / "bad" / "red" / "0.png").write_bytes(b"")
    assert run("--data", tmp_path / "bad", color_folder) == 1
    assert "bad: no sample could be used" in capsys.readouterr().err
    assert len(list(tmp_path.rglob("result.json"))) == 1


def test_marks_of_every_class_in_every_image_are_refused(
    run: Callable[..., int],
    write_tar: Callable[..., Path],
    encode: Callable[..., bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import io

    import numpy as np

    def shards(*marks: list[int]) -> Path:
        files: dict[str, bytes] = {}
        for number, own in enumerate(marks):
            out = io.BytesIO()
            np.save(out, np.array(own))
            files |= {f"{number}.png": encode((250, 10, 10)), f"{number}.npy": out.getvalue()}
        write_tar(tmp_path / "marks" / "0.tar", files)
        (tmp_path / "marks" / "0.tar.idx").unlink(missing_ok=True)
        (tmp_path / "marks" / "classnames.txt").write_text("red\ngreen\nblue\n")
        return tmp_path / "marks"

    assert run("--data", shards([1, 1, 1], [1, 1, 1])) == 2
    assert "every image is marked with each of 3 classes" in no_result(tmp_path, capsys)
    assert run("--data", shards([1, 0, 1], [1, 1, 0])) == 0
    assert "marked in every image: 1 of 3 classes" in capsys.readouterr().out


def test_a_probe_says_which_training_images_were_lost(
    run: Callable[..., int], color_folder: Path, tmp_path: Path, read_json: Callable[[Path], Any]
) -> None:
    train = tmp_path / "train"
    shutil.copytree(color_folder, train)
    (train / "red" / "0.png").write_bytes(b"")
    (train / "blue" / "1.png").write_bytes(b"no image")
    data = ["--data", str(color_folder), "--train", str(train)]
    for task in ("knn", "linear-probe"):
        assert run(*data, "--task", task, "--overwrite") == 0
        record = read_json(tmp_path / "out" / "result.json")
        assert (record["details"]["n_train"], record["details"]["n_train_skipped"]) == (10, 2)
        expected = "2 of 12 training images could not be used (1 not-an-image, 1 empty), such as"
        assert any(warning.startswith(expected) for warning in record["warnings"])


def test_captions_and_prompts_that_the_context_cuts_are_counted(
    run: Callable[..., int], color_folder: Path, tmp_path: Path, read_json: Callable[[Path], Any]
) -> None:
    long = "a red thing on a long white wall"  # the model reads 24 bytes, ends included
    rows = [f"colors/red/{n}.png,{long if n < 2 else 'a red thing'} {n}" for n in range(4)]
    (tmp_path / "pairs.csv").write_text("\n".join(["filepath,caption", *rows]))
    (tmp_path / "templates.txt").write_text(f"a {{c}} thing\n{long} {{c}}\n")
    for more, noun in (
        (["--data", f"csv:{tmp_path / 'pairs.csv'}"], "2 captions are"),
        (["--data", color_folder, "--templates", tmp_path / "templates.txt"], "3 prompts are"),
    ):
        assert run(*more, "--overwrite") == 0
        warnings = read_json(tmp_path / "out" / "result.json")["warnings"]
        assert f"{noun} cut to the 24 tokens that the model reads" in warnings


@pytest.mark.parametrize(
    "names", [("0", "1", "10"), ("n02123045", "n1", "n00000001"), ("c0", "_2")]
)
def test_class_names_that_are_no_words_are_reported(
    names: tuple[str, ...],
    run: Callable[..., int],
    encode: Callable[..., bytes],
    tmp_path: Path,
    read_json: Callable[[Path], Any],
) -> None:
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "0.png").write_bytes(encode((250, 10, 10)))
    assert run("--data", tmp_path / "data") == 0
    warnings = read_json(tmp_path / "out" / "result.json")["warnings"]
    assert len(warnings) == len(set(warnings))
    coded = sum(name != "n1" for name in names)
    expected = f"{coded} of {len(names)} class names are numbers or codes and not words"
    assert any(expected in warning for warning in warnings)


def test_a_warning_that_two_parts_have_is_said_once(
    color_folder: Path,
    color_model: Any,
    color_tokenizer: Any,
    color_preprocess: Any,
) -> None:
    from clip_eval import EvaluationConfig, evaluate

    source, train = open_source(color_folder), open_source(color_folder)
    source.warnings = ("the labels are odd", "the labels are odd")
    config = EvaluationConfig(task="knn", neighbors=1)
    parts = {"tokenizer": color_tokenizer, "preprocess": color_preprocess}
    result = evaluate(color_model, source, **parts, config=config, train=train)
    assert result.warnings.count("the labels are odd") == 1
