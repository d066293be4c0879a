from __future__ import annotations

import resource

import pytest
import torch
from dtp_pooling.training.run_directory import append_metrics, create_run, read_run, replace_file
from dtp_pooling.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def small_files():
    """Files of more than 4 KiB cannot be written, as on a full disk or above a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_of_metrics_that_was_cut_short_is_dropped(tmp_path, small, train):
    train(tmp_path, small("none"), until=3)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 4, "ki')
    train(tmp_path, small("none"), until=0)
    assert path.read_text() == whole


def test_a_run_that_never_began_is_written_over(tmp_path, small, text):
    unigram = small("unigram", alphabet="bytes")
    create_run(tmp_path, unigram, text + "é", text)
    with pytest.raises(ValueError, match="marks characters"):
        Trainer(tmp_path, text + "é", text, CPU)
    create_run(tmp_path, small("none"), text, "")
    with pytest.raises(ValueError, match="validation text is empty"):
        Trainer(tmp_path, text, "", CPU)
    with pytest.raises(ValueError, match="needs a text with spaces"):
        create_run(tmp_path, small("whitespace", alphabet="characters"), "abc", "abc")
    create_run(tmp_path, small("none"), text, text)
    Trainer(tmp_path, text, text, CPU)
    create_run(tmp_path, small("none", steps=3), text, text)
    assert Trainer(tmp_path, text, text, CPU).config.steps == 3


def test_the_alphabet_is_that_of_all_texts(tmp_path, small, text):
    config = small("none", alphabet="characters")
    run = create_run(tmp_path, config, text, text + "é", "ß")
    assert set(run.alphabet.characters) == set(text + "éß")
    with pytest.raises(ValueError, match=r"outside .*'é'.*use the alphabet 'characters'"):
        create_run(tmp_path, small("none"), text, text + "é")


def test_run_is_fitted_to_the_alphabet_and_read_back(tmp_path, small, text):
    config = small("whitespace", alphabet="bytes")
    run = create_run(tmp_path, config, text, text)
    assert run.config.model.vocabulary == 256
    assert run.config.model.boundaries.space == 32
    assert read_run(tmp_path) == run
    Trainer(tmp_path, text, text, CPU).run(until=1)
    with pytest.raises(FileExistsError, match="holds a run"):
        create_run(tmp_path, config, text, text)
    with pytest.raises(FileNotFoundError, match="is not a run directory"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("key", ["teacher", "pruned_from"])
def test_another_alphabet_or_a_run_without_checkpoint_is_refused(tmp_path, key, small, train, text):
    create_run(tmp_path / "bytes", small("none", alphabet="bytes"), text, text)
    with pytest.raises(ValueError, match="has another alphabet"):
        train(tmp_path / "a", small("none", **{key: str(tmp_path / "bytes")}))
    create_run(tmp_path / "fresh", small("none"), text, text)
    with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
        train(tmp_path / "b", small("none", **{key: str(tmp_path / "fresh")}))


@pytest.mark.usefixtures("small_files")
def test_files_that_cannot_be_written_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(OSError, match="File too large; there is no part of it") as caught:
        replace_file(path, b"a" * 9999)
    assert caught.value.filename == str(path)
    replace_file(path, b"{}\n")
    with pytest.raises(OSError, match="the earlier file is unchanged"):
        replace_file(path, b"a" * 9999)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="File too large; its earlier lines are whole") as caught:
        append_metrics(tmp_path, {"text": "a" * 9999})
    assert caught.value.filename == str(path)
    assert path.read_text().startswith("{}\n")
