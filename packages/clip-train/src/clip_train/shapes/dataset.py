"""Files of the shapes data set.

DIR/shapes.json                   what made the set
DIR/train/shapes-000000.tar …     WebDataset shards, `jpg` + `txt`
DIR/val/<class name>/0000.jpg …   held-out combinations as an image folder, with
                                  classnames.txt and zeroshot_classification_templates.txt
DIR/val-wds/                      the same pictures in the layout of CLIP_benchmark
                                  (test/nshards.txt, test/0.tar …, `jpg` + `cls`)
"""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import webdataset
from clip_eval.data import TEMPLATES_FILE
from PIL.Image import Image
from tqdm import tqdm

from clip_train.errors import ShapesError
from clip_train.logs.files import write_lines
from clip_train.logs.progress import progress_bar
from clip_train.shapes.drawing import MIN_IMAGE_SIZE
from clip_train.shapes.scenes import Scene
from clip_train.shapes.splits import draw_held_out_image, draw_training_sample, held_out_scenes

TEMPLATES = (
    "a {c}",
    "a photo of a {c}.",
    "an image of a {c}.",
    "a picture of a {c}",
    "there is a {c}.",
)
_MARKER = "shapes.json"


@dataclass(frozen=True, kw_only=True)
class ShapesSummary:
    """What `write_shapes` wrote."""

    directory: Path
    num_train: int
    num_train_shards: int
    num_val: int
    classnames: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The arguments of a data set, as `shapes.json` holds them."""

    num_train: int
    image_size: int
    num_val_per_class: int
    shard_size: int
    seed: int
    num_classes: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = {"image_size": MIN_IMAGE_SIZE, "seed": 0}.get(name, 1)
            if not least <= value < 2**63:
                raise ShapesError(f"{name} must be an integer of at least {least}, got {value}")

    @property
    def num_val(self) -> int:
        """Number of pictures of all held-out classes."""
        return self.num_val_per_class * self.num_classes


def write_shapes(
    directory: str | Path,
    *,
    num_train: int = 20000,
    image_size: int = 64,
    num_val_per_class: int = 6,
    shard_size: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> ShapesSummary:
    """Write the data set and return what was written.

    Equal arguments give byte-identical files. The set is written into `DIRECTORY.partial` and
    renamed when it is complete, so that an interrupted run leaves nothing that looks finished.

    Args:
        directory: Directory of the set; must not exist or be empty.
        num_train: Number of training pictures.
        image_size: Side of the pictures in pixels.
        num_val_per_class: Number of pictures for each held-out class.
        shard_size: Maximum number of pictures per shard.
        seed: Random seed of everything but the held-out combinations, which are always the same.
        progress: Show a progress bar.

    Raises:
        ShapesError: An argument is out of range, or the directory is not empty or not writable.
    """
    classes = held_out_scenes()
    settings = _Settings(
        num_train=num_train,
        image_size=image_size,
        num_val_per_class=num_val_per_class,
        shard_size=shard_size,
        seed=seed,
        num_classes=len(classes),
    )
    target = Path(directory).resolve()
    num_shards = _write_set(target, settings, classes, progress=progress)
    return ShapesSummary(
        directory=target,
        num_train=num_train,
        num_train_shards=num_shards,
        num_val=settings.num_val,
        classnames=tuple(scene.phrase for scene in classes),
    )


def _write_set(
    target: Path, settings: _Settings, classes: tuple[Scene, ...], *, progress: bool
) -> int:
    """Write everything under another name and rename it; returns the number of training shards."""
    try:
        _check_free(target)
        partial = target.with_name(target.name + ".partial")
        _make_partial(partial, settings)
        total = settings.num_train + settings.num_val
        try:
            with progress_bar(total=total, desc="draw", unit="image", show=progress) as bar:
                num_shards = _write_train(partial / "train", settings, bar)
                _write_val(partial, settings, classes, bar)
            if target.exists():
                target.rmdir()  # it was empty; an OSError if it no longer is
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # it is gone unless something failed
    except OSError as error:
        raise ShapesError(
            f"cannot write the shapes set to {target}: {error.strerror or error}; "
            "choose a directory that can be written"
        ) from error
    return num_shards


def _check_free(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise ShapesError(f"{target} must be a directory, but is a file; choose another name")
    if target.is_dir() and any(target.iterdir()):
        raise ShapesError(
            f"{target} must be empty or new, but holds files; choose another directory, or pass "
            "--overwrite"
        )


def _make_partial(partial: Path, settings: _Settings) -> None:
    """Create the directory for partial files, instead of one that an interrupted run left."""
    if (partial / _MARKER).is_file():
        shutil.rmtree(partial)
    if partial.exists():
        raise ShapesError(
            f"{partial} is needed for partial files, but exists and is none of ours; "
            "move it or choose another directory"
        )
    partial.mkdir(parents=True)
    write_lines(partial / _MARKER, json.dumps(asdict(settings), indent=2).splitlines())


def _write_train(folder: Path, settings: _Settings, bar: tqdm[None]) -> int:
    """Write the training shards and return their number."""
    folder.mkdir()
    starts = range(0, settings.num_train, settings.shard_size)
    for shard, start in enumerate(starts):
        with _open_shard(folder / f"shapes-{shard:06d}.tar") as writer:
            for index in range(start, min(start + settings.shard_size, settings.num_train)):
                image, caption = draw_training_sample(
                    index, image_size=settings.image_size, seed=settings.seed
                )
                writer.write(
                    {"__key__": f"{index:09d}", "jpg": _to_jpeg(image), "txt": caption.encode()}
                )
                bar.update()
    return len(starts)


def _write_val(
    root: Path, settings: _Settings, classes: tuple[Scene, ...], bar: tqdm[None]
) -> None:
    """Write the held-out pictures, as an image folder and in the layout of CLIP_benchmark."""
    test = root / "val-wds" / "test"
    test.mkdir(parents=True)
    samples = list(itertools.product(range(len(classes)), range(settings.num_val_per_class)))
    starts = range(0, len(samples), settings.shard_size)
    for shard, start in enumerate(starts):
        with _open_shard(test / f"{shard}.tar") as writer:
            stop = min(start + settings.shard_size, len(samples))
            for index in range(start, stop):
                label, number = samples[index]
                image = draw_held_out_image(
                    classes[label], index, image_size=settings.image_size, seed=settings.seed
                )
                jpeg = _to_jpeg(image)
                folder = root / "val" / classes[label].phrase
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number:04d}.jpg").write_bytes(jpeg)
                writer.write({"__key__": f"{index:09d}", "jpg": jpeg, "cls": b"%d" % label})
                bar.update()
    write_lines(test / "nshards.txt", [str(len(starts))])
    for folder in (root / "val", root / "val-wds"):
        write_lines(folder / "classnames.txt", [scene.phrase for scene in classes])
        write_lines(folder / TEMPLATES_FILE, TEMPLATES)


@contextmanager
def _open_shard(path: Path) -> Iterator[webdataset.TarWriter]:
    with (
        path.open("wb") as stream,
        webdataset.TarWriter(
            stream, user="", group="", mode=0o644, mtime=0, encoder=False
        ) as writer,
    ):
        yield writer


def _to_jpeg(image: Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90, subsampling=0)
    return stream.getvalue()
