"""Evaluation during training: the numbers of clip-eval, the best model, and an early end."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_eval import PairEmbeddings
from clip_eval.cli.main import main as clip_eval
from clip_models.files import load_tensors
from clip_train import Config, Interrupted, resume, train
from clip_train.cli.main import main
from clip_train.config.training import LossConfig
from clip_train.data.validation import METRICS, WatchedMetric
from clip_train.distributed.single import SingleBackend
from clip_train.engine.data_components import build_data_components
from clip_train.engine.trainer import Trainer
from clip_train.engine.validation import BestModel, evaluate_set
from clip_train.logs.metric_names import name_shares
from clip_train.objectives.validation import validation_loss
from open_clip.loss import ClipLoss, SigLipLoss
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.functional import normalize

processes = runpy.run_path(str(Path(__file__).parents[1] / "workers" / "processes.py"))


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    for name, values in sections.items():
        section = dataclasses.replace(getattr(config, name), **values)
        config = dataclasses.replace(config, **{name: section})
    return config


def rows(path: Path, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["kind"] == kind]


def retrieved(model: Path, data: str, out: Path) -> dict[str, Any]:
    """What `clip-eval run --task retrieval` measures."""
    words = ["run", "--model", str(model), "--data", data, "--task", "retrieval", "--out", str(out)]
    assert clip_eval([*words, "--quiet", "--no-cache"]) == 0
    metrics: dict[str, Any] = json.loads((out / "result.json").read_text())["metrics"]
    return metrics


def assert_same_recalls(row: dict[str, Any], metrics: dict[str, Any]) -> None:
    assert len(metrics) == 6
    assert {name: row[name] for name in metrics} == metrics


def test_retrieval_during_training_is_that_of_the_command(
    tiny_config: Config, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"wds:{shapes}/train"
    config = changed(
        tiny_config, data={"val": data}, eval={"every_steps": 5}, checkpoint={"keep_last": 9}
    )
    run = tmp_path / "run"
    train(config, run, progress=False)
    found = {row["step"]: row for row in rows(run, "eval")}
    assert list(found) == [5, 10, 14]
    assert {row["task"] for row in found.values()} == {"zeroshot_retrieval"}
    assert_same_recalls(found[14], retrieved(run, data, tmp_path / "final"))
    step_5 = run / "checkpoints" / "step-0000005"
    assert_same_recalls(found[5], retrieved(step_5, data, tmp_path / "early"))
    assert all(0.5 < row["loss"] < 2 * np.log(8) for row in found.values())
    with Image.open(run / "curves.png") as picture:
        assert picture.size[0] > 500
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("eval/loss")] == [5, 10, 14]
    assert "eval/text_retrieval_recall@5" in events.Tags()["scalars"]


def test_retrieval_on_two_processes_is_that_of_the_command(
    tiny_config: Config, shapes: Path, tmp_path: Path
) -> None:
    data = f"wds:{shapes}/train"
    words = ["run", str(tmp_path / "c.toml"), "--out", str(tmp_path / "two")]
    (tmp_path / "c.toml").write_text(
        f'[data]\ntrain = "{data}"\nval = "{data}"\nworkers = 0\n[model]\nname = "Compact-48"\n'
        '[tokenizer]\nkind = "bytes"\n[train]\nsteps = 3\nbatch_size = 8\n[eval]\nbatch_size = 16\n'
    )
    started = processes["start_processes"](
        2, "command.py", arguments=words, output=str(tmp_path / "output")
    )
    for process, receiver in started:
        assert receiver.poll(300)
        assert receiver.recv() == (True, 0)
        process.join()
        receiver.close()
    (row,) = rows(tmp_path / "two", "eval")
    assert_same_recalls(row, retrieved(tmp_path / "two", data, tmp_path / "out"))
    assert main(["run", *words[1:2], "--out", str(tmp_path / "one"), "--quiet"]) == 0
    (alone,) = rows(tmp_path / "one", "eval")
    assert row["loss"] == pytest.approx(alone["loss"], rel=1e-4)


class Scale(torch.nn.Module):
    logit_scale = torch.tensor(2.0)
    logit_bias = torch.tensor(-3.0)


def embeddings(count: int, pairs: list[tuple[int, int]], seed: int = 0) -> PairEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    images = normalize(torch.randn(count, 6, generator=generator), dim=1).numpy()
    captions = max(caption for _, caption in pairs) + 1
    texts = normalize(torch.randn(captions, 6, generator=generator), dim=1).numpy()
    return PairEmbeddings(images, texts, np.array(pairs))


@pytest.mark.parametrize("kind", ["infonce", "multi_positive", "sigmoid"])
def test_the_validation_loss_is_that_of_open_clip(kind: str) -> None:
    """Mean over batches, by size, as its `evaluate` has it; the last batch is smaller."""
    found = embeddings(10, [(n, n) for n in range(10)])
    images, texts = torch.from_numpy(found.images), torch.from_numpy(found.texts)
    scale, total = Scale.logit_scale.exp(), 0.0
    for start in range(0, 10, 4):
        part = images[start : start + 4], texts[start : start + 4]
        if kind == "sigmoid":
            loss = SigLipLoss()(*part, scale, Scale.logit_bias)
        else:
            loss = ClipLoss()(*part, scale)
        total += float(loss) * len(part[0])
    config = LossConfig(kind=kind)  # type: ignore[arg-type]
    ours = validation_loss(Scale(), found, config, 4)  # type: ignore[arg-type]
    assert ours == pytest.approx(total / 10, rel=1e-5)


def test_a_batch_of_the_validation_loss_rarely_repeats_an_image() -> None:
    pairs = [(n, 3 * n + k) for n in range(4) for k in range(3)]
    grouped = embeddings(4, pairs)
    order = [3 * n + k for k in range(3) for n in range(4)]  # first captions first
    spread = PairEmbeddings(*grouped[:2], grouped.pairs[order])
    config = LossConfig(kind="infonce")
    found = validation_loss(Scale(), grouped, config, 4)  # type: ignore[arg-type]
    assert found == validation_loss(Scale(), spread, config, 4)  # type: ignore[arg-type]
    images, texts = (torch.from_numpy(part) for part in grouped[:2])
    parts = [ClipLoss()(images, texts[k::3], Scale.logit_scale.exp()) for k in range(3)]
    assert found == pytest.approx(float(sum(parts)) / 3, rel=1e-5)


def test_several_sets_have_their_names_everywhere(
    tiny_config: Config, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = changed(
        tiny_config,
        data={"val": (f"{shapes}/val", f"wds:{shapes}/train")},
        eval={"names": ("held-out", "pairs")},
        train={"steps": 2},
    )
    result = train(config, tmp_path / "run", progress=False)
    assert result is not None
    found = {row["data"]: row for row in rows(tmp_path / "run", "eval")}
    assert list(found) == ["held-out", "pairs"]
    assert found["held-out"]["acc1"] == result.metrics["acc1"]
    for name, task in (("held-out", "classify"), ("pairs", "retrieval")):
        assert set(METRICS[task]) <= found[name].keys()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"eval/held-out/acc1", "eval/pairs/loss", "eval/pairs/image_retrieval_recall@1"} <= {
        *tags
    }


def test_lists_on_the_command_line(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "shapes-tiny", "--train.steps", "1", "--data.train", f"wds:{shapes}/train"]
    words += ["--train.batch_size", "8", "--optim.warmup_steps", "0", "--tokenizer.kind", "bytes"]
    words += ["--data.val", f"{shapes}/val", f"wds:{shapes}/train", "--eval.names", "a", "b"]
    out = tmp_path / "run"
    assert main([*words, "--eval.kind", "classify", "retrieval", "--out", str(out), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "a: zero-shot top-1 " in printed
    assert "b: image recall@1 " in printed
    assert main([*words, "--eval.kind", "classify", "clasify", "--out", str(tmp_path / "x")]) == 2
    assert "eval.kind must be one of auto, classify" in capsys.readouterr().err


def test_a_set_is_called_zero_shot_where_its_classes_are_new(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, old, new = tmp_path / "seen", tmp_path / "old", tmp_path / "new"
    for folder, names in ((seen, ("Cat", "dog")), (old, ("cat", "hen")), (new, ("cow", "hen"))):
        for shade, name in enumerate(names):
            (folder / name).mkdir(parents=True)
            for number in range(4):
                color = (99 * shade, 40 * number, 9)
                Image.new("RGB", (48, 48), color).save(folder / name / f"{number}.png")
    words = ["run", "shapes-tiny", "--train.steps", "1", "--train.batch_size", "4", "--quiet"]
    words += ["--data.train", f"{seen}::wds:{shapes}/train", "--tokenizer.kind", "bytes"]
    words += ["--optim.warmup_steps", "0", "--data.val", f"{new}", f"{old}"]
    words += ["--eval.names", "new", "old", "--out", f"{tmp_path / 'run'}"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no templates
        assert main(words) == 0
    printed = capsys.readouterr().out
    assert "new: zero-shot top-1 " in printed
    assert "old: top-1 " in printed
    found = {row["data"]: row.get("zero_shot") for row in rows(tmp_path / "run", "eval")}
    assert found == {"new": True, "old": None}
    assert name_shares({})["acc1"] == "top-1"


def wordnet(root: Path) -> Path:
    for number, wnid in enumerate(("n01440764", "n02123045", "n04467665")):
        (root / wnid).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (48, 48), (80 * number, 99 * index, 9)).save(
                root / wnid / f"{index}.png"
            )
    return root


@pytest.mark.parametrize("names", ["", "imagenet1k"])
def test_imagenet_while_training_is_that_of_the_command(
    names: str, shapes: Path, tmp_path: Path
) -> None:
    """Folders of WordNet ids have ImageNet's names and templates, not `a photo of a n02123045.`"""
    folder = wordnet(tmp_path / "inet" / "val")
    words = ["run", "shapes-tiny", "--train.steps", "2", "--data.train", f"wds:{shapes}/train"]
    words += ["--train.batch_size", "8", "--optim.warmup_steps", "0", "--tokenizer.kind", "bytes"]
    one = ["--data.templates", "a photo of the {c}."]  # of a thousand classes
    words += ["--eval.classnames", names, *one] if names else []
    words += ["--model.text.context_length", "32", "--data.val", f"imagefolder:{folder}"]
    assert main([*words, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    (row,) = rows(tmp_path / "run", "eval")
    assert not any("templates" in text for text in row.get("warnings", ()))
    command = ["run", "--model", str(tmp_path / "run"), "--data", f"imagefolder:{folder}"]
    command += ["--out", str(tmp_path / "out"), "--quiet"]
    assert clip_eval([*command, *(["--classnames", names] if names else [])]) == 0
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert len(record["templates"]) == (1 if names else 80)
    assert record["n_classes"] == (1000 if names else 3)
    for name in ("acc1", "acc5", "mean_per_class_recall"):
        assert row[name] == record["metrics"][name]
    assert row["chance"] == record["chance"]


def test_training_on_wordnet_folders_has_their_names(tmp_path: Path) -> None:
    from clip_train.config.data import DataConfig
    from clip_train.data.sources import open_training_source

    folder = wordnet(tmp_path / "train")
    with pytest.warns(UserWarning, match="as in --data.templates imagenet1k"):
        source = open_training_source(DataConfig(train=f"imagefolder:{folder}"))
    assert source.read(2).captions == ("a photo of a tabby cat.",)
    data = DataConfig(train=f"imagefolder:{folder}", templates=("imagenet1k",))
    assert len(open_training_source(data).read(0).captions) == 80


@pytest.mark.parametrize(("workers", "expected"), [(0, 0), (1, None)])
def test_without_data_workers_an_evaluation_starts_none(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, workers: int, expected: int | None
) -> None:
    data = build_data_components(changed(tiny_config, data={"workers": workers}))
    given = []

    def note(*_: Any, config: Any, **__: Any) -> Any:
        given.append(config.workers)
        raise KeyboardInterrupt

    monkeypatch.setattr("clip_train.engine.validation.evaluate", note)
    model = torch.nn.Linear(1, 1)
    with pytest.raises(KeyboardInterrupt):
        evaluate_set(model, data.val_sets[0], data, SingleBackend(torch.device("cpu")))  # type: ignore[arg-type]
    assert given == [expected]


def test_the_best_of_a_series() -> None:
    best = BestModel(WatchedMetric("a", "acc1"), patience=2)
    values = [(1, 0.5), (2, 0.5), (3, 0.6), (4, None), (5, float("nan")), (6, 0.1)]
    assert [best.update(*value) for value in values] == [True, False, True, False, False, False]
    assert (best.step, best.value, best.stale, best.is_exhausted) == (3, 0.6, 2, True)
    other = BestModel(WatchedMetric("a", "acc1"), patience=2)
    other.load(json.loads(json.dumps(best.state())))
    assert other == best
    falling = BestModel(WatchedMetric("a", "loss"), patience=None)
    falling.load(best.state())  # of another metric
    assert falling.step is None
    assert [falling.update(n, value) for n, value in enumerate((2.0, 1.0, 1.5))] == [
        True,
        True,
        False,
    ]
    assert not falling.is_exhausted


def steady(config: Config, shapes: Path) -> Config:
    """Evaluated every second step; the learning rate is too low for the model to get better."""
    return changed(
        config,
        data={"val": f"wds:{shapes}/train"},
        eval={"every_steps": 2, "metric": "loss", "patience": 2},
        optim={"lr": 1e-12},
        checkpoint={"every_steps": 3},
    )


def test_patience_ends_a_run_and_the_best_model_is_kept(
    tiny_config: Config, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([3.0, 1.0, 2.0, 4.0, 0.5])
    monkeypatch.setattr("clip_train.engine.validation.validation_loss", lambda *_: next(values))
    config = changed(steady(tiny_config, shapes), optim={"lr": 1e-2})
    run = tmp_path / "run"
    train(config, run, progress=False)
    assert [row["step"] for row in rows(run, "eval")] == [2, 4, 6, 8]
    (end,) = rows(run, "early_end")
    assert (end["step"], end["total_steps"], end["best"]["step"]) == (8, 14, 4)
    assert json.loads((run / "best" / "best.json").read_text())["value"] == 1.0
    assert (run / "model.safetensors").is_file()
    last, best = (
        load_tensors(run / "model.safetensors"),
        load_tensors(run / "best/model.safetensors"),
    )
    assert not torch.equal(last["text_projection"], best["text_projection"])
    assert not [path for path in run.iterdir() if path.name.startswith(".best")]
    evaluation = tmp_path / "of-best"
    metrics = retrieved(run / "best", f"wds:{shapes}/train", evaluation)
    assert_same_recalls(rows(run, "eval")[1], metrics)


@pytest.mark.parametrize("stop_at", [4, 5, 7])
def test_patience_and_best_are_resumed(
    tiny_config: Config,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: int,
) -> None:
    """Wherever it is stopped, the run ends at the same step with the same best model."""
    config = steady(tiny_config, shapes)
    series = {2: 3.0, 4: 2.0, 6: 5.0, 8: 4.0}

    def loss(*_: object) -> float:
        return series[current[0].steps_done]

    current: list[Trainer] = []
    step = Trainer.step

    def step_and_stop(self: Trainer, batch: Any) -> None:
        current[:] = [self]
        step(self, batch)
        if self.steps_done == stop_at and stops:
            stops.pop()
            os.kill(os.getpid(), signal.SIGINT)

    def evaluate(self: Trainer) -> None:
        current[:] = [self]
        plain(self)

    plain = Trainer.evaluate
    monkeypatch.setattr("clip_train.engine.validation.validation_loss", loss)
    monkeypatch.setattr(Trainer, "step", step_and_stop)
    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    stops: list[int] = []
    whole, path = tmp_path / "whole", tmp_path / "stopped"
    train(config, whole, progress=False)
    stops = [1]
    with pytest.raises(Interrupted):
        train(config, path, progress=False)
    resume(path, progress=False)
    assert [row["step"] for row in rows(path, "eval")] == [2, 4, 6, 8]
    assert (path / "best/best.json").read_text() == (whole / "best/best.json").read_text()
    for name in ("model.safetensors", "best/model.safetensors"):
        assert (path / name).read_bytes() == (whole / name).read_bytes()
    states = [
        json.loads((p / "checkpoints/step-0000008/state.json").read_text())["state"]["progress"]
        for p in (whole, path)
    ]
    assert states[0] == states[1]
    assert states[0]["best"]["stale"] == 2


def test_an_early_end_that_was_killed_ends_when_resumed(
    tiny_config: Config, shapes: Path, tmp_path: Path
) -> None:
    config = changed(steady(tiny_config, shapes), train={"steps": 30})
    path = tmp_path / "run"
    train(config, path, progress=False)
    steps = [row["step"] for row in rows(path, "eval")]
    assert steps[-1] < 30
    (path / "model.safetensors").unlink()
    shutil.rmtree(path / "best")
    resume(path, progress=False)
    assert [row["step"] for row in rows(path, "eval")] == steps
    assert (path / "model.safetensors").is_file()
