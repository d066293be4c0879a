"""WebDataset shards with random access: tars in which a sample is a run of files of one stem.

An index beside each shard (`shard_index`) says where its samples begin; reading one is
one read of its stretch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from clip_eval.data.class_names import CLASSES_FILE, ClassNames, choose_names
from clip_eval.data.faults import BadSample, DataError
from clip_eval.data.images import IMAGE_SUFFIXES
from clip_eval.data.readers.sidecars import LabelKeys, parse_json, read_captions, read_labels
from clip_eval.data.samples import Sample, class_captions
from clip_eval.data.shards.cache import ShardCache, ShardFile
from clip_eval.data.shards.open_files import FileView, view_file
from clip_eval.data.shards.paths import find_shards
from clip_eval.data.shards.shard_index import (
    IndexedShards,
    IndexedSource,
    Scan,
    make_scan,
)
from clip_eval.data.shards.tar_headers import Member, TarDamage, iter_members, tar_ends_at
from clip_eval.data.templates import check_templates


class WebDataset(IndexedSource):
    """Samples in tar shards, by index.

    Of each sample the first image is used, with `.txt` (one caption a line), `.cls` (label)
    and `.json` (`caption`, `captions` or `text`; `label` or `cls`) where present.

    Args:
        pattern: A directory of tars, one tar, a glob, or a brace range such as
            `data/{000..012}.tar`; or a URL of a tar, with brace ranges, or of a directory in
            the layout of CLIP_benchmark. In a directory, `classnames.txt`,
            `zeroshot_classification_templates.txt` and `<split>/nshards.txt` are honoured.
        classnames: Class names in label order, instead of those in the directory.
        templates: Caption templates, instead of those in the directory.
        split: Which split: a folder of shards below the directory, or a word in their names.
        default_split: `train` for the split that training reads, instead of evaluation's.
        image_key: Extension of the image to use, or several separated by semicolons.
        caption_key: Extension of the text, or key of the JSON, that holds the captions; several
            separated by semicolons, the first that is there counts.
        label_key: Extension or JSON key that holds the label; `cls`, `label` or `labels` if empty.
        first_label: Number of the first class in the data; 0 if None.
        cache: Where shards behind a URL are kept.

    Raises:
        DataError: A shard is missing, or no sample is found.
    """

    kind = "wds"

    def __init__(
        self,
        pattern: str | Path,
        *,
        classnames: ClassNames | None = None,
        templates: Sequence[str] | None = None,
        split: str | None = None,
        default_split: str | None = None,
        image_key: str = "",
        caption_key: str = "",
        label_key: str = "",
        first_label: int | None = None,
        cache: ShardCache | None = None,
    ) -> None:
        layout = find_shards(str(pattern), split=split, default_split=default_split)
        self.name = layout.name
        self.shards = layout.shards
        self.split, self.splits, self.warnings = layout.split, layout.splits, layout.warnings
        self.templates = layout.templates if templates is None else check_templates(templates)
        self.classnames = choose_names(
            layout.classnames, classnames, where=f"{layout.name}: {CLASSES_FILE}"
        )
        self._image_key, self._caption_key = image_key, caption_key
        self._label_key, self._first_label = label_key, first_label
        files = [ShardFile(path, cache or ShardCache()) for path in layout.shards]
        super().__init__(IndexedShards(files, _scan_tar, tar_ends_at))
        if not len(self):
            found = "; ".join(map(str, self.faults[:3])) or "the shards are empty"
            raise DataError(f"{self.name}: no sample in its shards ({found})")

    def read(self, index: int) -> Sample:
        """Sample number `index`, in the order of the shards.

        Raises:
            BadSample: Its stretch of the shard changed, holds no image, or bad text.
        """
        data, members = self._members(index)
        key = f"{self.shard_name(index)}/{stem_of(members[0].name)}"
        parts: dict[str, bytes] = {}
        for member in members:
            content = data[member.offset : member.offset + member.size]
            parts.setdefault(extension_of(member.name), content)
        return sample_from_files(
            key,
            parts,
            image_key=self._image_key,
            caption_key=self._caption_key,
            label_key=self._label_key,
            first_label=self._first_label,
            classnames=self.classnames,
            templates=self.templates,
        )

    def _members(self, index: int) -> tuple[bytes, list[Member]]:
        """The stretch of a sample, and its members therein."""
        data = self.read_stretch(index)
        try:
            members = list(_first_run(data))
        except TarDamage as error:
            raise BadSample("changed", str(error), self.place(index)) from error
        if not members:
            raise BadSample("changed", "no file where its sample was", self.place(index))
        return data, members


def sample_from_files(
    key: str,
    parts: Mapping[str, bytes],
    *,
    image_key: str = "",
    caption_key: str = "",
    label_key: str = "",
    first_label: int | None = None,
    classnames: tuple[str, ...] | None = None,
    templates: tuple[str, ...] | None = None,
) -> Sample:
    """The sample that a group of files makes.

    Args:
        key: Names it.
        parts: Content by extension, lower case.
        image_key: Extensions that may hold the image, separated by semicolons; those of
            `IMAGE_SUFFIXES` if empty.
        caption_key: Extensions or JSON keys that may hold captions.
        label_key: Extension or JSON key that holds the label.
        first_label: Number of the first class; 0 if None.
        classnames: What labels mean.
        templates: What a class name is put into where there is no caption.

    Raises:
        BadSample: There is no image, or its text or label cannot be read.
        DataError: A label is in no class, or marks of several classes are neither 0 nor 1.
    """
    wanted = (
        image_key.lower().split(";")
        if image_key
        else [name for name in parts if f".{name}" in IMAGE_SUFFIXES]
    )
    image = next((parts[name] for name in wanted if name in parts), None)
    if image is None:
        raise BadSample("no-image", f"only {', '.join(parts)}", key)
    record = parse_json(parts["json"], key) if "json" in parts else {}
    keys = LabelKeys(label_key=label_key, classnames=classnames, first_label=first_label)
    label, targets = read_labels(parts, record, key, keys)
    captions = read_captions(parts, record, key, caption_key)
    captions = captions or class_captions(label, classnames, templates, key)
    return Sample(key, image, captions, label, targets)


def _first_run(data: bytes) -> Iterator[Member]:
    """Members of the first sample in a stretch, hidden files left out."""
    run: SampleRun | None = None
    for member in iter_members(data, whole=False):
        if is_hidden(member.name):
            continue
        if run is None:
            run = SampleRun(member)
        elif run.ends_before(member):
            return
        run.add(member)
        yield member


def _scan_tar(path: Path) -> Scan:
    """Where the samples of a shard begin, and its damage; contents are not touched."""
    with view_file(path) as view:
        if view[:2] == b"\x1f\x8b":
            raise DataError(
                f"{path}: compressed, so its samples cannot be found by position; "
                "decompress it with gunzip"
            )
        offsets, damage = _find_runs(view, path)
    return make_scan(path, offsets, "tar", "" if damage is None else str(damage))


def _find_runs(view: bytes | FileView, path: Path) -> tuple[list[int], TarDamage | None]:
    """The begin of each whole sample and the end of the last, and any damage after it.

    Raises:
        DataError: The files of a sample do not follow each other.
    """
    seen: dict[str, set[str]] = {}  # extensions of each stem so far
    starts: list[int] = []
    run: SampleRun | None = None
    expected: set[str] = set()  # extensions of the sample before
    end = 0
    damage: TarDamage | None = None
    try:
        for member in iter_members(view):
            if not is_hidden(member.name):
                if run is None or run.ends_before(member):
                    starts.append(member.start)
                    expected = run.extensions if run else expected
                    run = SampleRun(member)
                    if not seen.get(run.stem, {extension_of(member.name)}) & {
                        extension_of(member.name)
                    }:
                        raise DataError(_describe_order(path, member.name))
                run.add(member)
                seen.setdefault(run.stem, set()).add(extension_of(member.name))
            end = member.end
    except TarDamage as error:
        damage = error
        cut_through = run is not None and not expected <= run.extensions
        if starts and cut_through:
            end = starts.pop()
    return [*starts, end], damage


def _describe_order(path: Path, name: str) -> str:
    folder = path.with_suffix("").name
    return (
        f"{path}: not sorted by name: {name} does not follow the other files of its sample; "
        f"sort it, as in `mkdir {folder} && tar -xf {path.name} -C {folder} && "
        f"tar --sort=name -cf sorted.tar -C {folder} .`"
    )


class SampleRun:
    """The files of one sample: consecutive members of one stem."""

    def __init__(self, first: Member) -> None:
        self.stem = stem_of(first.name)
        self.extensions: set[str] = set()

    def add(self, member: Member) -> None:
        """Note a file of the sample."""
        self.extensions.add(extension_of(member.name))

    def ends_before(self, member: Member) -> bool:
        """Whether a file belongs to the next sample."""
        return stem_of(member.name) != self.stem or extension_of(member.name) in self.extensions


def stem_of(name: str) -> str:
    """A member's path up to the first dot of its last part: what a sample has in common."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def extension_of(name: str) -> str:
    """What follows the first dot of a member's last part, in lower case."""
    return name.rpartition("/")[2].partition(".")[2].lower()


def is_hidden(name: str) -> bool:
    """Whether a member is no part of any sample."""
    base = name.rpartition("/")[2]
    return base.startswith((".", "__")) or name.startswith("__MACOSX/")
