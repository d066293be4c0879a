from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_eval import read_embeddings
from clip_eval.cli.main import main
from clip_eval.data import decode_image, open_source
from clip_models import Preprocess, load_model
from clip_tokenizer import Tokenizer
from torch.nn.functional import normalize


@pytest.fixture
def run(trained_directory: Path, tmp_path: Path) -> Callable[..., int]:
    def call(data: Path | str, *more: str, out: Path = tmp_path / "out") -> int:
        model = ["--model", str(trained_directory)]
        if "--model" in more:
            model = []
        return main(["run", *model, "--data", str(data), "--out", str(out), "--quiet", *more])

    return call


def test_numbers_on_disk_equal_those_by_hand(
    run: Callable[..., int],
    trained_directory: Path,
    color_folder: Path,
    tmp_path: Path,
    encode: Callable[..., bytes],
    read_json: Callable[[Path], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (color_folder / "red" / "odd.png").write_bytes(encode((40, 30, 200)))
    (color_folder / "red" / "broken.png").write_bytes(b"")
    assert run(color_folder, "--batch-size", "5") == 0

    model, config = load_model(trained_directory)
    tokenizer, preprocess = Tokenizer.from_pretrained(trained_directory), Preprocess(config)
    source = open_source(color_folder)
    with torch.no_grad():
        texts = normalize(model.encode_text(tokenizer([f"a {c} thing" for c in source.classnames])))
        correct = []
        for index in range(len(source)):
            sample = source.read(index)
            if sample.key == "red/broken.png":
                continue
            pixels = preprocess.normalize(preprocess(decode_image(sample.image))[None])
            scores = normalize(model.encode_image(pixels)) @ texts.T
            correct.append(int(scores.argmax()) == sample.label)

    record = read_json(tmp_path / "out" / "result.json")
    assert record["metrics"]["acc1"] == pytest.approx(sum(correct) / len(correct))
    assert record["metrics"]["acc1"] > 2 * record["chance"]
    assert (record["n"], record["n_skipped"]) == (len(correct), 1) == (13, 1)
    assert record["skipped"][0]["key"] == "red/broken.png"
    assert record["settings"]["templates_from"] == "saved with the model"
    assert len(record["settings"]["model_fingerprint"]) == 64
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["correct"] for line in lines] == correct
    assert "<!doctype html>" in (tmp_path / "out" / "report.html").read_text()
    shown = capsys.readouterr().out
    for words in ("accuracy", "95 % interval", "chance", "33.3 %", "13 used, 1 skipped (1 empty)"):
        assert words in shown


def test_templates_are_chosen_in_a_stated_order(
    run: Callable[..., int],
    color_folder: Path,
    trained_directory: Path,
    tmp_path: Path,
    read_json: Callable[[Path], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = tmp_path / "t.txt"
    given.write_text("{c}!\n")
    assert run(color_folder, "--templates", str(given)) == 0
    assert read_json(tmp_path / "out" / "result.json")["templates"] == ["{c}!"]

    bare = tmp_path / "bare"
    bare.mkdir()
    for path in trained_directory.iterdir():
        if path.name != "zeroshot_classification_templates.txt":
            (bare / path.name).write_bytes(path.read_bytes())
    assert run(color_folder, "--model", str(bare), "--overwrite") == 0
    record = read_json(tmp_path / "out" / "result.json")
    assert record["templates"] == ["a photo of a {c}."]
    assert "warning: no templates" in capsys.readouterr().out

    (color_folder / "zeroshot_classification_templates.txt").write_text("data {c}\n")
    assert run(color_folder, "--model", str(bare), "--overwrite") == 0
    assert read_json(tmp_path / "out" / "result.json")["templates"] == ["data {c}"]


def test_every_expected_error_is_one_line_and_exit_code_2(
    run: Callable[..., int],
    color_folder: Path,
    color_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(words: str, *arguments: Any, **options: Any) -> None:
        assert run(*arguments, **options) == 2
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.err.startswith("clip-eval: ")
        assert captured.err.count("\n") == 1
        assert captured.out == ""

    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    wrong = tmp_path / "classes.txt"
    wrong.write_text("red\ngreen\nblu\n")
    slotless = tmp_path / "templates.txt"
    slotless.write_text("a photo\n")
    fails("no such file or directory", tmp_path / "absent")
    fails("empty", tmp_path / "empty")
    fails("unknown kind", "imgfolder:x")
    fails("'blue'", color_folder, "--classnames", str(wrong))
    fails("'blu'", color_folder, "--classnames", str(wrong))
    fails("has no {c}", color_folder, "--templates", str(slotless))
    fails("cannot be read", color_folder, "--templates", str(tmp_path / "none.txt"))
    fails("does not exist", color_folder, "--model", str(tmp_path / "no-model"))
    fails("no model.safetensors", color_folder, "--model", str(tmp_path / "empty"))
    fails("cannot be written", color_folder, out=tmp_path / "file" / "out")
    fails("--device", color_folder, "--device", "abacus")
    (color_shards / "test" / "1.tar").unlink()
    fails("missing shard", color_shards)
    assert not (tmp_path / "out" / "result.json").exists()

    assert run(color_folder) == 0
    capsys.readouterr()
    before = (tmp_path / "out" / "result.json").read_bytes()
    given = tmp_path / "given.txt"
    given.write_text("{c}\n")
    fails("exists already", color_folder, "--templates", str(given))
    fails("no such file", tmp_path / "absent", "--overwrite")
    fails("neither a file nor a standard data set", color_folder, "--templates", "cifar11")
    assert (tmp_path / "out" / "result.json").read_bytes() == before
    assert run(color_folder, "--templates", str(given), "--overwrite") == 0


def test_a_file_name_that_is_no_text(
    run: Callable[..., int],
    color_folder: Path,
    tmp_path: Path,
    encode: Callable[..., bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = os.fsdecode(b"caf\xe9.png")  # Latin-1, as an old archive leaves it
    (color_folder / "red" / name).write_bytes(encode((250, 10, 10)))
    (color_folder / "red" / f"x{name}").write_bytes(b"no image")
    assert run(color_folder) == 0
    lines = (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert f"red/{name}" in [json.loads(line)["key"] for line in lines]
    record = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert [s["key"] for s in record["skipped"]] == [f"red/x{name}"]
    assert main(["inspect", str(color_folder), "--quiet"]) == 0
    assert "broken: red/xcaf" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "out")]) == 0


def test_k_of_a_probe_and_of_neighbours(
    run: Callable[..., int], color_folder: Path, tmp_path: Path, read_json: Callable[[Path], Any]
) -> None:
    for task, prefix in (("knn", "knn_"), ("linear-probe", "lp_")):
        out = tmp_path / task
        more = ("--task", task, "--train", str(color_folder), "--k", "2,1", "--penalty", "0.1")
        assert run(color_folder, *more, out=out) == 0
        metrics = read_json(out / "result.json")["metrics"]
        assert list(metrics)[:2] == [f"{prefix}acc2", f"{prefix}acc1"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--batch-size", "0"),
        ("--penalty", "inf"),
        ("--penalty", "-1"),
        ("--k", "1,x"),
        ("--k", "²"),
    ],
)
def test_a_number_out_of_range_is_named(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--model", "m", "--data", "d", "--out", "o", option, value])
    message = capsys.readouterr().err
    assert f"argument {option}: expected" in message
    assert value.rpartition(",")[2] in message


@pytest.mark.parametrize("arguments", [["run"], ["inspect"], ["nonsense"], []])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_a_text_is_a_line(trained_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one\u2028line\x0bof text\x85\r\n\ntwo\n", newline="")
    out = tmp_path / "t.npz"
    embed = ["embed", "--model", str(trained_directory), "--texts", str(tmp_path / "t.txt")]
    assert main([*embed, "--out", str(out)]) == 0
    keys, features = read_embeddings(out)
    assert keys == ["one\u2028line\x0bof text\x85", "two"]
    assert len(features) == 2


def test_inspect_needs_no_model(
    color_shards: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["inspect", str(color_shards), "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "12 samples in 2 shards, split test" in shown
    assert "12: 12 usable, 0 broken" in shown
    assert "green        4" in shown
    assert main(["inspect", str(tmp_path / "absent")]) == 2


def test_a_page_of_the_data_is_replaced_only_when_asked(
    color_shards: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    inspect = ["inspect", str(color_shards), "--quiet", "--out", str(page)]
    assert main(inspect) == 0
    assert page.read_text().count("<figure>") == 12
    capsys.readouterr()
    assert main(inspect) == 2
    assert "exists already; choose another --out, or --overwrite" in capsys.readouterr().err
    assert main([*inspect, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 12


def test_an_interruption_is_one_line_and_leaves_no_result(
    run: Callable[..., int],
    color_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clip_eval.runs.data_run.evaluate_together", interrupted)
    assert run(color_folder) == 130
    assert capsys.readouterr().err == "clip-eval: interrupted; nothing unfinished was written\n"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_while_workers_decode(
    trained_directory: Path, color_folder: Path, tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    os.mkfifo(color_folder / "red" / "pipe.png")  # its reader waits for ever, so the run does too
    out = tmp_path / "out"
    command = ["run", "--model", trained_directory, "--data", color_folder, "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "clip_eval", *map(str, command), "--workers=2", "--batch-size=2"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    seen = ""
    while not re.search(r" [1-9]\d*/\d+ \[", seen):  # a batch is through: both workers are up
        read = process.stderr.read(1)
        assert read, seen  # the run ended
        seen += read
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.rstrip().endswith("clip-eval: interrupted; nothing unfinished was written")
    assert not (out / "result.json").exists()
