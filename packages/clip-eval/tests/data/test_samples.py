from __future__ import annotations

import pytest
from clip_eval.data import DataError, Sample, Source


class Two(Source):
    def __len__(self) -> int:
        return 2

    def read(self, index: int) -> Sample:
        return Sample(f"{index}", b"", label=index)


def test_a_reader_needs_a_length_and_read() -> None:
    class Nothing(Source):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()


def test_everything_else_has_a_default() -> None:
    source = Two()
    assert (source.kind, source.name, source.split) == ("", "data", None)
    assert source.classnames is source.templates is source.shard_sizes is source.working_set is None
    assert source.faults == source.warnings == ()
    assert [source.label(index) for index in range(2)] == [0, 1]
    assert source.place(1) == "data, sample 1"


def test_a_label_becomes_captions_if_it_is_in_a_class() -> None:
    source = Two()
    assert source.class_captions(0, "k") == ()
    source.classnames = ("cat", "dog")
    assert source.class_captions(None, "k") == ()
    assert source.class_captions(1, "k") == ("a photo of a dog.",)
    source.templates = ("a {c}", "{c} {c}", "a {c}")
    assert source.class_captions(0, "k") == ("a cat", "cat cat")
    for label in (-1, 2):
        with pytest.raises(DataError, match=f"k: label {label} is in no class; .* has 2"):
            source.class_captions(label, "k")
