from __future__ import annotations

import json
import os
import signal
import sys

import pytest
from dtp_pooling.cli import main, override
from dtp_pooling.training.config import PRESETS
from dtp_pooling.training.trainer import Trainer

TEXT = "one two three four five six seven eight nine ten eleven twelve " * 40
SMALL = [
    "model.width=16",
    "model.num_heads=2",
    "model.head_dim=8",
    "model.feedforward=16",
    "model.shortened_layers=1",
    "steps=4",
    "context=64",
    "batch_size=2",
    "evaluate_every=2",
    "log_every=2",
    "evaluation_window=64",
    "evaluation_stride=32",
]


@pytest.fixture
def run(tmp_path, capsys):
    data, out = tmp_path / "text.txt", tmp_path / "run"
    data.write_text(TEXT, encoding="utf-8")
    start = ["train", str(data), "--out", str(out), "--preset", "cpu-gumbel", "--device", "cpu"]
    main([*start, "--set", *SMALL])
    capsys.readouterr()
    return data, out


def test_train_eval_generate_curves(run, tmp_path, capsys):
    data, out = run
    main(["eval", str(out), str(data), "--split", "test", "--device", "cpu"])
    result = json.loads(capsys.readouterr().out)
    assert result["characters"] == len(TEXT) - len(TEXT) * 95 // 100
    main(["eval", str(out), str(data), "--quantize", "int8", "--device", "cpu"])
    rounded = json.loads(capsys.readouterr().out)
    assert rounded["characters"] == result["characters"]
    assert rounded["bits"] != result["bits"]
    assert 0 < result["bits"] < 10
    main(["eval", str(out), str(data), "--split", "all", "--device", "cpu"])
    assert json.loads(capsys.readouterr().out)["characters"] == len(TEXT)
    main(["generate", str(out), "--prompt", "one tw", "--length", "20", "--seed", "3"])
    first = capsys.readouterr().out
    assert first.startswith("one tw")
    assert len(first) == 27
    main(["generate", str(out), "--prompt", "one tw", "--length", "20", "--seed", "3"])
    assert capsys.readouterr().out == first
    main(["curves", str(out), "--out", str(tmp_path / "curves.png")])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_resume_goes_on_and_keeps_its_configuration(run, capsys):
    data, out = run
    before = (out / "metrics.jsonl").read_text()
    main(["train", str(data), "--out", str(out), "--resume", "--device", "cpu"])
    assert (out / "metrics.jsonl").read_text() == before  # it was at its last step
    with pytest.raises(SystemExit, match="keeps its configuration"):
        main(["train", str(data), "--out", str(out), "--resume", "--set", "steps=9"])
    with pytest.raises(SystemExit, match="keeps its configuration"):
        main(["train", str(data), "--out", str(out), "--resume", "--preset", "cpu-random"])
    with pytest.raises(SystemExit, match=r"dtp-lm: .* holds a run; resume it"):
        main(["train", str(data), "--out", str(out), "--preset", "cpu-gumbel"])


def test_the_first_signal_saves_and_stops(run, tmp_path, monkeypatch, capsys):
    data, _ = run
    out = tmp_path / "stopped"
    step = Trainer.step

    def step_under_a_signal(trainer):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", step_under_a_signal)
    before = signal.getsignal(signal.SIGTERM)
    start = ["train", str(data), "--out", str(out), "--preset", "cpu-gumbel", "--device", "cpu"]
    with pytest.raises(SystemExit, match=r"stopped and saved: .* is at step 1 of 4; --resume"):
        main([*start, "--set", SMALL[0], "--set", *SMALL[1:]])
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    main(["train", str(data), "--out", str(out), "--resume", "--device", "cpu"])
    assert capsys.readouterr().err.endswith("is at step 4 of 4\n")
    ours, whole = (folder / "checkpoint" / "model.safetensors" for folder in (out, run[1]))
    assert ours.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.txt", "--out", "x"], r"dtp-lm: .*No such file.*nowhere\.txt"),
        (["eval", "nowhere", "{data}"], "dtp-lm: nowhere holds no run"),
        (["train", "{data}", "--out", "x", "--resume"], "dtp-lm: x holds no run"),
        (["train", "{data}", "--out", "x", "--set", "step=3"], "did you mean 'steps'"),
        (["train", "{data}", "--out", "x", "--set", "steps=0"], "dtp-lm: steps must be at least 1"),
        (["train", "{data}", "--out", "x", "--set", "context=9999"], "needs 79992 symbols"),
        (["eval", "{out}", "{other}"], r"dtp-lm: the text has characters outside .*'Z'"),
        (["generate", "{out}", "--prompt", ""], "expected a prompt"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, tmp_path, monkeypatch, arguments, message):
    data, out = run
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text("Z" * 100, encoding="utf-8")
    places = {"data": data, "out": out, "other": tmp_path / "other.txt"}
    with pytest.raises(SystemExit, match=message):
        main([argument.format(**places) for argument in arguments])


def test_damaged_files_of_a_run_are_named(run):
    data, out = run
    files = ("run.json", "checkpoint/config.json", "checkpoint/model.safetensors")
    evaluate = ["eval", str(out), str(data), "--device", "cpu"]
    resume = ["train", str(data), "--out", str(out), "--resume", "--device", "cpu"]
    for name in (*files, "checkpoint/optimizer.pt"):
        path = out / name
        whole = path.read_bytes()
        for damaged in (b"{", b"{}", b"[]", whole[:-9]):
            path.write_bytes(damaged)
            for command in (evaluate, resume)[name.endswith("pt") :]:
                with pytest.raises(SystemExit, match=r"dtp-lm: .*(run\.json|checkpoint)") as raised:
                    main(command)
                assert "weights_only" not in str(raised.value)
        path.write_bytes(whole)
    main(resume)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("evaluation_stride=600", "evaluation_stride must be at most evaluation_window = 512"),
        ("model.attention_dropout=2", r"attention_dropout must be in \[0, 1\)"),
        ("model.boundaries.hidden=-1", "hidden must be at least 1"),
        ("model.boundaries.weight=NaN", "weight must be at least 0"),
        ("seed=100000000000000", "seed must be within"),
    ],
)
def test_settings_out_of_range_begin_no_run(tmp_path, setting, message):
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match=f"dtp-lm: {message}"):
        main(["train", "x", "--out", str(out), "--preset", "cpu-gumbel", "--set", setting])
    assert not out.exists()


def test_other_texts_are_evaluated_whole(run, tmp_path, capsys):
    data, out = run
    valid, other = tmp_path / "valid.txt", tmp_path / "run2"
    valid.write_text(TEXT[:300], encoding="utf-8")
    start = ["train", str(data), "--out", str(other), "--valid", str(valid), "--device", "cpu"]
    main([*start, "--preset", "cpu-gumbel", "--set", *SMALL])
    capsys.readouterr()
    for folder, text, note in ((out, valid, ""), (other, valid, ""), (other, data, "trained on")):
        main(["eval", str(folder), str(text), "--device", "cpu"])
        printed = capsys.readouterr()
        assert json.loads(printed.out)["characters"] == len(text.read_text(encoding="utf-8"))
        assert note in printed.err
        assert bool(note) == bool(printed.err)


def test_rare_characters_anywhere_belong_to_the_alphabet(tmp_path, capsys):
    data, out = tmp_path / "text.txt", str(tmp_path / "run")
    data.write_text(TEXT[:-200] + "é" + TEXT[-200:] + "ß", encoding="utf-8")
    start = ["train", str(data), "--out", out, "--preset", "cpu-gumbel", "--device", "cpu"]
    main([*start, "--set", *SMALL, "alphabet=characters"])
    main(["eval", out, str(data), "--device", "cpu"])  # the last 5 %
    with pytest.raises(SystemExit, match=r"outside the alphabet, \['E', 'H'\]; use only those"):
        main(["generate", out, "--prompt", "HE"])


def test_a_missing_extra_is_named(run, tmp_path, monkeypatch):
    _, out = run
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit, match=r"pip install 'dtp-pooling\[plot\]'"):
        main(["curves", str(out), "--out", str(tmp_path / "curves.png")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--batch", "0"], "expected at least 1, got 0"), (["--device", "abacus"], "cannot be used")],
)
def test_wrong_flags_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["eval", "run", "text.txt", *arguments])
    assert message in capsys.readouterr().err


def test_presets_are_listed_and_printed(capsys):
    main(["presets"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == list(PRESETS)
    main(["presets", "text8-fixed-3"])
    assert json.loads(capsys.readouterr().out)["model"]["boundaries"]["factor"] == 3
    with pytest.raises(SystemExit, match="no preset 'text9'"):
        main(["presets", "text9"])


def test_overrides():
    config = override(PRESETS["cpu-gumbel"], ["model.boundaries.kind=random", "steps=7"])
    assert (config.model.boundaries.kind, config.steps) == ("random", 7)
    assert config.model.width == PRESETS["cpu-gumbel"].model.width
    with pytest.raises(SystemExit, match="expected KEY=VALUE"):
        override(config, ["steps"])
    with pytest.raises(SystemExit, match="no section"):
        override(config, ["modle.width=3"])
    with pytest.raises(ValueError, match="did you mean 'steps'"):
        override(config, ["step=3"])
