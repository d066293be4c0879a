"""Workers that die, stop, hang or are interrupted: one line, soon, and no process left."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clip_eval import EvaluationConfig, EvaluationError, evaluate
from clip_eval.cli.main import main
from clip_eval.data import FORMATS, DataError, Format, Sample, Source, register_format
from clip_eval.encoding import workers
from clip_eval.errors import WorkerError
from PIL import Image

MAIN = os.getpid()


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    if "ODD_MARK" in os.environ:
        Path(os.environ["ODD_MARK"]).write_text(str(os.getpid()))
    time.sleep(60)


def run_out() -> None:
    raise OSError(24, "Too many open files", "shard.tar")


def refuse() -> None:
    raise DataError("the index was shortened")


EVENTS = {event.__name__: event for event in (stop, kill, hang, run_out, refuse)}


class Odd(Source):
    """Red and blue images; reading the fifth one is an event, in a worker only."""

    name = "odd"
    classnames = ("red", "blue")

    def __init__(self, event: str = "") -> None:
        self.event = event

    def __len__(self) -> int:
        return 12

    def read(self, index: int) -> Sample:
        if index == 5 and self.event and os.getpid() != MAIN:
            EVENTS[self.event]()
        return Sample(
            str(index), Image.new("RGB", (8, 8), self.classnames[index % 2]), (), index % 2
        )

    def place(self, index: int) -> str:
        return f"image {index} of {self.name}"


@pytest.fixture
def odd_format() -> Iterator[None]:
    odd = {"kind": "odd", "form": "odd:EVENT", "content": "odd"}
    register_format(Format(**odd, reader=Odd, accepts=(), is_on_disk=False))
    yield
    FORMATS.pop("odd")


@pytest.fixture
def measure(
    color_model: Any, color_tokenizer: Any, color_preprocess: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.setattr(workers, "STOPPED_SECONDS", 0.5)
    monkeypatch.setattr(workers, "STALL_SECONDS", 1.5)
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.3)

    def call(event: str = "", count: int = 2) -> Any:
        config = EvaluationConfig(templates=("{c}",), workers=count, batch_size=2)
        parts = {"tokenizer": color_tokenizer, "preprocess": color_preprocess}
        return evaluate(color_model, Odd(event), **parts, config=config)

    return call


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ("kill", "a data worker died .*image 5 of odd.*fewer --workers"),
        ("stop", "has been stopped for .*image 5 of odd"),
        ("hang", "no progress for .*image 5 of odd"),
    ],
)
def test_a_worker_that_is_lost(event: str, words: str, measure: Callable[..., Any]) -> None:
    started, handler = time.monotonic(), signal.getsignal(signal.SIGCHLD)
    with pytest.raises(WorkerError, match=words):
        measure(event)
    assert time.monotonic() - started < 15
    assert not multiprocessing.active_children()
    assert measure().metrics["acc1"] == 1.0
    assert signal.getsignal(signal.SIGCHLD) == handler or handler is signal.SIG_DFL


@pytest.mark.parametrize(
    ("event", "kind", "words"),
    [("run_out", OSError, "Too many open files"), ("refuse", DataError, "^the index was short")],
)
def test_an_error_of_a_worker_has_no_traceback_in_its_message(
    event: str, kind: type[Exception], words: str, measure: Callable[..., Any]
) -> None:
    with pytest.raises(kind, match=words) as found:
        measure(event)
    assert "Traceback" not in str(found.value)


def test_any_number_of_workers_gives_the_same(measure: Callable[..., Any]) -> None:
    first, second = measure(count=0), measure(count=2)
    assert (first.metrics, first.content) == (second.metrics, second.content)


def command(trained_directory: Path, tmp_path: Path, event: str) -> list[str]:
    model = ["--model", str(trained_directory), "--data", f"odd:{event}", "--quiet", "--no-cache"]
    return ["run", *model, "--workers", "2", "--batch-size", "2", "--out", str(tmp_path / "out")]


@pytest.mark.usefixtures("odd_format")
def test_ctrl_c_ends_a_run_whose_workers_are_busy(
    trained_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pressed: list[float] = []
    mark = tmp_path / "mark"
    monkeypatch.setenv("ODD_MARK", str(mark))

    def press() -> None:
        while not (mark.exists() and mark.read_text()):
            time.sleep(0.05)
        time.sleep(0.3)
        pressed.append(time.monotonic())
        for process in (int(mark.read_text()), MAIN):  # a terminal sends it to both
            os.kill(process, signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    assert main(command(trained_directory, tmp_path, "hang")) == 130
    assert time.monotonic() - pressed[0] < 2
    assert capsys.readouterr().err == "clip-eval: interrupted; nothing unfinished was written\n"
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("odd_format")
def test_a_killed_worker_ends_the_command_in_one_line(
    trained_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(trained_directory, tmp_path, "kill")) == 1
    error = capsys.readouterr().err
    assert error.startswith("clip-eval: error: a data worker died")
    assert error.count("\n") == 1
    assert issubclass(WorkerError, EvaluationError)


def test_the_time_left_does_not_count_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from clip_eval.encoding import embed

    now = [0.0]
    bars: list[Any] = []

    class Clocked(embed.tqdm):  # type: ignore[type-arg]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options, mininterval=0, file=io.StringIO())
            self._time = lambda: now[0]
            self.start_t = self.last_print_t = now[0]
            bars.append(self)

    monkeypatch.setattr(embed, "tqdm", Clocked)
    with embed._progress(100, show=True) as advance:
        for seconds in (60.0, 1.0, 1.0):  # workers start in a minute, then 10 images a second
            now[0] += seconds
            advance(10)
        assert [bar.initial for bar in bars] == [0, 10]
        assert bars[1].n == 30
        assert bars[1].format_dict["rate"] == pytest.approx(10)
