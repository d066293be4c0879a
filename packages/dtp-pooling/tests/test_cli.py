from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import torch
from dtp_pooling.cli import main
from dtp_pooling.run_lock import RunLock
from dtp_pooling.training.presets import PRESETS
from dtp_pooling.training.run_directory import read_run
from dtp_pooling.training.trainer import Trainer
from safetensors.torch import load_file

TEXT = "one two three four five six seven eight nine ten eleven twelve " * 40
SMALL = {
    "model.width": 16,
    "model.num_heads": 2,
    "model.head_dim": 8,
    "model.feedforward": 16,
    "model.shortened_layers": 1,
    "steps": 4,
    "context": 64,
    "batch_size": 2,
    "evaluate_every": 2,
    "log_every": 2,
    "evaluation_window": 64,
    "evaluation_stride": 32,
}
FLAGS = [word for key, value in SMALL.items() for word in (f"--{key}", str(value))]
CPU = ["--device", "cpu"]


def start(data, out, *more) -> list[str]:
    """Arguments of a small run."""
    return ["train", str(data), "--out", str(out), "--preset", "cpu-gumbel", *CPU, *FLAGS, *more]


def call(*arguments: object) -> None:
    """A command that must succeed."""
    assert main([str(argument) for argument in arguments]) == 0


def refuse(capsys, *arguments: object) -> str:
    """The one line of a command that must end as a user's mistake."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as error:  # of the parser
        code = error.code
    printed = capsys.readouterr()
    assert code == 2, printed.err
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if ": warning: " not in line]
    assert len(lines) == 1, printed.err
    assert re.match(r"dtp-lm( \w+)?: error: ", lines[0])
    return lines[0]


@pytest.fixture
def run(tmp_path, capsys):
    data, out = tmp_path / "text.txt", tmp_path / "run"
    data.write_text(TEXT, encoding="utf-8")
    call(*start(data, out))
    capsys.readouterr()
    return data, out


def test_train_eval_generate_curves(run, tmp_path, capsys):
    data, out = run
    call("eval", out, data, "--split", "test", "--json", *CPU)
    result = json.loads(capsys.readouterr().out)
    assert result["characters"] == len(TEXT) - len(TEXT) * 95 // 100
    assert result["split"] == "test"
    call("eval", out, data, "--quantize", "int8", "--json", *CPU)
    rounded = json.loads(capsys.readouterr().out)
    assert rounded["characters"] == result["characters"]
    assert rounded["bits"] != result["bits"]
    assert 0 < result["bits"] < 10
    call("eval", out, data, "--split", "all", "--json", "--batch-size", 3, *CPU)
    assert json.loads(capsys.readouterr().out)["characters"] == len(TEXT)
    call("eval", out, data, *CPU)
    shown = capsys.readouterr().out
    assert shown.startswith(f"{result['bits']:.4f} bits per character over 126 characters (test)")
    call("generate", out, "--prompt", "one tw", "--length", 20, "--seed", 3, *CPU)
    first = capsys.readouterr().out
    assert first.startswith("one tw")
    assert len(first) == 27
    call("generate", out, "--prompt", "one tw", "--length", 20, "--seed", 3, "--json", *CPU)
    parts = json.loads(capsys.readouterr().out)
    assert parts["prompt"] + parts["continuation"] + "\n" == first
    picture = tmp_path / "curves.png"
    call("curves", out, "--out", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "already exists; pass --overwrite" in refuse(capsys, "curves", out, "--out", picture)
    call("curves", out, "--out", picture, "--overwrite")
    assert "holds no metrics" in refuse(capsys, "curves", tmp_path, "--out", tmp_path / "x.png")


def test_a_run_directory_has_the_config_metrics_and_checkpoints(run):
    _, out = run
    names = sorted(path.name for path in out.iterdir())
    assert names == ["checkpoints", "metrics.jsonl", "run.json"]
    steps = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert steps == ["step-0000002", "step-0000004"]
    files = sorted(path.name for path in (out / "checkpoints" / steps[0]).iterdir())
    assert files == ["config.json", "model.safetensors", "optimizer.safetensors", "state.json"]


def test_resume_continues_and_keeps_its_configuration(run, tmp_path, monkeypatch, capsys):
    _, out = run
    before = (out / "metrics.jsonl").read_text()
    last = (out / "checkpoints" / "step-0000004" / "model.safetensors").read_bytes()
    monkeypatch.chdir(tmp_path / "run")  # the text is found from anywhere
    call("resume", out, *CPU)
    assert (out / "metrics.jsonl").read_text() == before  # it was at its last step
    shutil.rmtree(out / "checkpoints" / "step-0000004")
    call("resume", out, *CPU, "--quiet")
    assert (out / "checkpoints" / "step-0000004" / "model.safetensors").read_bytes() == last
    message = refuse(capsys, "resume", out, "--learning_rate", 9)  # its configuration stays
    assert "unknown argument --learning_rate" in message


def test_resume_finds_a_text_that_was_moved(run, tmp_path, capsys):
    data, out = run
    moved = data.rename(tmp_path / "moved.txt")
    assert "text.txt: No such file or directory" in refuse(capsys, "resume", out, *CPU)
    call("resume", out, "--data", moved, *CPU)
    record = json.loads((out / "run.json").read_text())
    del record["data"], record["valid"]  # as earlier releases wrote it
    (out / "run.json").write_text(json.dumps(record))
    assert "pass --data TEXT" in refuse(capsys, "resume", out, *CPU)
    call("resume", out, "--data", moved, *CPU)


def test_an_existing_directory_is_replaced_only_when_asked(run, tmp_path, capsys):
    data, out = run
    before = (out / "run.json").read_bytes()
    message = refuse(capsys, *start(data, out))
    assert f"{out} holds a run; continue it with `dtp-lm resume {out}`" in message
    assert "--overwrite" in message
    assert (out / "run.json").read_bytes() == before
    call(*start(data, out, "--overwrite", "--steps", 2))
    assert read_run(out).config.steps == 2
    assert (tmp_path / "run.old-1" / "run.json").read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    call(*start(data, other, "--steps", 2))  # it was empty
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    for taken in ("file", "mine"):
        # refused before the text is read
        message = refuse(capsys, *start("nowhere.txt", tmp_path / taken))
        assert f"{taken} already exists and is not empty; choose another --out" in message


def test_a_run_that_is_going_on_is_left_alone(run, tmp_path, capsys):
    data, out = run
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    with RunLock(out), RunLock(fresh):
        files = sorted(out.rglob("*"))
        for words in (
            ["resume", out],
            start(data, out, "--overwrite"),
            start(data, fresh),
        ):
            assert f"is in use by process {os.getpid()} on" in refuse(capsys, *words)
        assert sorted(out.rglob("*")) == files
    call("resume", out)
    call(*start(data, fresh))


def test_the_first_signal_saves_and_stops(run, tmp_path, monkeypatch, capsys):
    data, whole = run
    out = tmp_path / "stopped"
    step = Trainer.step

    def step_under_a_signal(trainer):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", step_under_a_signal)
    before = signal.getsignal(signal.SIGTERM)
    assert main(start(data, out)) == 130
    said = f"dtp-lm: interrupted, and saved at step 1 of 4; continue with `dtp-lm resume {out}`\n"
    assert capsys.readouterr().err == said
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    call("resume", out, *CPU)
    assert capsys.readouterr().err.endswith("is at step 4 of 4\n")
    name = "checkpoints/step-0000004/model.safetensors"
    assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_second_interruption_ends_at_once_in_one_line(run, tmp_path):
    data, _ = run
    out = tmp_path / "stopped"
    program = (
        "import signal, sys, time\n"
        "from dtp_pooling.cli import main\n"
        "from dtp_pooling.training.trainer import Trainer\n"
        "def step(trainer):\n"
        "    handler = signal.getsignal(signal.SIGINT)\n"
        "    print('step', flush=True)\n"
        "    while signal.getsignal(signal.SIGINT) == handler:\n"
        "        time.sleep(0.01)\n"
        "    print('noticed', flush=True)\n"
        "    time.sleep(600)\n"
        "Trainer.step = step\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", program, *start(data, out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "noticed\n"
        assert process.poll() is None  # the step under way would be finished
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=300)
    assert (process.returncode, said) == (130, "dtp-lm: interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.txt", "--out", "x"], "nowhere.txt: No such file or directory"),
        (["train", "{data}", "--out", "x", "--preset", "text9-fixed-3"], "mean 'text8-fixed-3'"),
        (["train", "{data}", "--out", "x", "--steps"], "--steps needs a value"),
        (["train", "{data}", "--out", "x", "--steps", "0"], "steps must be at least 1"),
        (["train", "{data}", "--out", "x", "--steps", "many"], "steps must be int, got 'many'"),
        (["train", "{data}", "--out", "x", "--step", "3"], "--step; did you mean --steps?"),
        (["train", "{data}", "--out", "x", "--model.widht=3"], "did you mean 'model.width'?"),
        (["train", "{data}", "--out", "x", "--devcie", "cpu"], "did you mean --device?"),
        (["train", "{data}", "--out", "x", "--context=9999"], "needs 79992 symbols"),
        (["train", "{data}", "--out", "x", "--device", "abacus"], "'abacus' cannot be used"),
        (["resume", "x"], "x is not a run directory"),
        (["eval", "nowhere", "{data}"], "nowhere is not a run directory"),
        (["eval", "{out}", "{data}", "--device", "abacus"], "'abacus' cannot be used"),
        (["eval", "{out}", "{data}", "--batch-size", "0"], "expected at least 1, got 0"),
        (["eval", "{out}", "{other}"], "the text has characters outside"),
        (["generate", "{out}", "--prompt", ""], "expected a prompt"),
        (["presets", "text9"], "unknown preset 'text9'; known: cpu-"),
    ],
)
def test_mistakes_are_reported_in_one_line(run, tmp_path, monkeypatch, capsys, arguments, message):
    data, out = run
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text("Z" * 100, encoding="utf-8")
    places = {"data": data, "out": out, "other": tmp_path / "other.txt"}
    assert message in refuse(capsys, *(argument.format(**places) for argument in arguments))


def test_damaged_files_of_a_run_are_named(run, capsys):
    data, out = run
    files = (
        "run.json",
        *(
            f"checkpoints/step-0000004/{name}"
            for name in ("config.json", "model.safetensors", "optimizer.safetensors", "state.json")
        ),
    )
    for name in files:
        path = out / name
        whole = path.read_bytes()
        for damaged in (b"{", b"{}", b"[]", whole[:-9]):
            path.write_bytes(damaged)
            for command in (["eval", out, data], ["resume", out]):
                message = refuse(capsys, *command, *CPU)
                assert str(path) in message
        path.write_bytes(whole)
    call("resume", out, *CPU)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("evaluation_stride", "600", "evaluation_stride must be at most evaluation_window = 512"),
        ("model.attention_dropout", "2", "attention_dropout must be in [0, 1)"),
        ("model.boundaries.hidden", "-1", "hidden must be at least 1"),
        ("model.boundaries.weight", "NaN", "weight must be at least 0"),
        ("seed", "100000000000000", "seed must be within"),
    ],
)
def test_settings_out_of_range_begin_no_run(tmp_path, capsys, key, value, message):
    out = tmp_path / "run"
    begin = ["train", "x", "--out", out, "--preset", "cpu-gumbel"]
    assert message in refuse(capsys, *begin, f"--{key}", value)
    assert not out.exists()


def test_other_texts_are_evaluated_whole(run, tmp_path, capsys):
    data, out = run
    valid, other = tmp_path / "valid.txt", tmp_path / "run2"
    valid.write_text(TEXT[:300], encoding="utf-8")
    call(*start(data, other, "--valid", valid))
    call("resume", other, *CPU)  # which finds both texts
    capsys.readouterr()
    for folder, text, note in ((out, valid, ""), (other, valid, ""), (other, data, "trained on")):
        call("eval", folder, text, "--json", *CPU)
        printed = capsys.readouterr()
        assert json.loads(printed.out)["characters"] == len(text.read_text(encoding="utf-8"))
        assert note in printed.err
        assert bool(note) == bool(printed.err)


def test_rare_characters_anywhere_belong_to_the_alphabet(tmp_path, capsys):
    data, out = tmp_path / "text.txt", tmp_path / "run"
    data.write_text(TEXT[:-200] + "é" + TEXT[-200:] + "ß", encoding="utf-8")
    call(*start(data, out, "--alphabet", "characters"))
    call("eval", out, data, *CPU)  # the last 5 %
    message = refuse(capsys, "generate", out, "--prompt", "HE")
    assert "outside the alphabet, ['E', 'H']; use only those" in message


def test_a_missing_extra_is_named(run, tmp_path, monkeypatch, capsys):
    _, out = run
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    message = refuse(capsys, "curves", out, "--out", tmp_path / "curves.png")
    assert "pip install 'dtp-pooling[plot]'" in message


def test_quiet_prints_nothing(tmp_path, capsys):
    data = tmp_path / "text.txt"
    data.write_text(TEXT, encoding="utf-8")
    call(*start(data, tmp_path / "run", "--quiet"))
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_size


def test_presets_are_listed_and_printed(capsys):
    call("presets")
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == list(PRESETS)
    call("presets", "text8-fixed-3")
    assert json.loads(capsys.readouterr().out)["model"]["boundaries"]["factor"] == 3
    call("presets", "--json")
    assert list(json.loads(capsys.readouterr().out)) == list(PRESETS)


@pytest.mark.parametrize(
    "command", ["", "train", "resume", "eval", "generate", "presets", "curves"]
)
def test_help_imports_no_torch(command):
    program = (
        "import sys; from dtp_pooling.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    arguments = [sys.executable, "-c", program, *command.split(), "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: dtp-lm")


def test_a_finished_run_trains_longer_and_says_what_the_rate_does(run, tmp_path, capsys):
    data, out = run
    call("resume", out, *CPU)
    assert "is at step 4 of 4; --steps N trains it longer" in capsys.readouterr().err
    assert "--steps must be above 4" in refuse(capsys, "resume", out, "--steps", 3, *CPU)
    whole = tmp_path / "whole"
    call(*start(data, whole, "--steps", 4))  # the same run, continued in two ways
    call("resume", out, "--steps", 8, *CPU)
    said = capsys.readouterr().err
    assert "8 steps instead of 4; the learning rate is 5e-05 after step 4" in said
    call("resume", whole, "--steps", 8, *CPU, "--quiet")
    name = "checkpoints/step-0000008/model.safetensors"
    assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert read_run(out).config.steps == 8
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "valid"] == [2, 4, 6, 8]


def test_weights_go_on_with_another_text(run, tmp_path, capsys):
    _, earlier = run
    other = tmp_path / "other.txt"
    other.write_text("seven and ten are not three ".replace("a", "e").replace("d", "o") * 60)
    command = ["train", other, "--out", tmp_path / "new", "--init_from", earlier, *CPU, *FLAGS]
    call(*command, "--learning_rate", "1e-12")
    record = read_run(tmp_path / "new")
    assert record.alphabet == read_run(earlier).alphabet
    name = "checkpoints/step-0000004/model.safetensors"
    first, last = (load_file(run / name) for run in (earlier, tmp_path / "new"))
    for key, value in first.items():
        torch.testing.assert_close(last[key], value, rtol=0, atol=1e-9)
    wide = [*command[:3], tmp_path / "wide", *command[4:], "--model.width", 32]
    assert "do not fit the model" in refuse(capsys, *wide)
    other.write_text("q" * 3000 + "ü")
    strange = [*command[:3], tmp_path / "strange", *command[4:]]
    assert "characters outside the alphabet" in refuse(capsys, *strange)
    assert not (tmp_path / "strange").exists()
    both = [*command[:3], tmp_path / "both", *command[4:], "--pruned_from", str(earlier)]
    assert "give one of them" in refuse(capsys, *both)


def test_overwriting_the_current_directory_writes_into_the_new_one(run, tmp_path, monkeypatch):
    data, out = run
    monkeypatch.chdir(out)
    call(*start(data, ".", "--overwrite"))
    assert read_run(out).config.steps == 4
    assert (out / "checkpoints" / "step-0000004").is_dir()
    assert (out.parent / f"{out.name}.old-1" / "run.json").exists()


def test_an_unsure_predictor_is_reported_and_calibrated(run, tmp_path, capsys):
    data, _ = run
    flags = ["--model.boundaries.evaluation", "threshold", "--model.boundaries.rate", "0.2"]
    call(*start(data, tmp_path / "unsure", *flags))
    # untrained probabilities are all near one half: everything or nothing is a boundary
    assert "characters in evaluation, 5.0 were aimed at" in capsys.readouterr().err
    call("eval", tmp_path / "unsure", data, "--json")
    assert "boundaries.evaluation calibrated" in capsys.readouterr().err
    flags[1] = "calibrated"
    call(*start(data, tmp_path / "sure", *flags))
    assert "warning" not in capsys.readouterr().err
    call("eval", tmp_path / "sure", data, "--json")
    printed = capsys.readouterr()
    assert 5 / 2 <= json.loads(printed.out)["shortening"] <= 5 * 2  # the text repeats: ties
    assert "warning" not in printed.err


def test_segments_are_drawn(tmp_path, capsys) -> None:
    data, run, page = tmp_path / "text.txt", tmp_path / "run", tmp_path / "segments.html"
    data.write_text(TEXT)
    call(*start(data, run, "--model.boundaries.kind", "whitespace", "--quiet"))
    capsys.readouterr()
    call("segments", run, data, "--split", "all", "--length", 24, *CPU)
    assert capsys.readouterr().out.splitlines() == [
        "one |two |three |four |five ",
        "5 segments of 4.80 characters on average (whitespace); 100 % end at a space",
    ]
    call("segments", run, data, "--split", "all", "--length", 10, "--start", 4, "--json", *CPU)
    assert json.loads(capsys.readouterr().out)["segments"] == ["two ", "three "]
    call("segments", run, data, "--length", 24, "--out", page, *CPU)
    assert page.read_text().count("<span ") >= 4
    assert page.read_text().count("<text ") == 24
    picture = page.with_suffix(".svg")
    call("segments", run, data, "--split", "all", "--length", 24, "--out", picture, *CPU)
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    drawn = "".join(node.text for node in root.iter("{http://www.w3.org/2000/svg}text"))
    assert drawn == "one two three four five "
    assert len(list(root.iter("{http://www.w3.org/2000/svg}line"))) == 4
    assert "already exists" in refuse(capsys, "segments", run, data, "--out", page, *CPU)
    message = refuse(capsys, "segments", run, data, "--start", "999999", *CPU)
    assert "expected a part of the text" in message
