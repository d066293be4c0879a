"""Sub-commands of `clip-eval` that embed images or texts, and search among embedded images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from clip_models.devices import choose_device

from clip_eval.cli.options import data_options
from clip_eval.data.readers.image_files import ImageFiles
from clip_eval.data.samples import Source
from clip_eval.data.text_files import read_text
from clip_eval.encoding.batches import LoaderConfig
from clip_eval.encoding.embedding_files import (
    Embeddings,
    choose_writer,
    embed_texts,
    write_embeddings,
)
from clip_eval.encoding.embedding_parts import (
    choose_task,
    embed_parts,
    missing_parts,
    open_parts,
    plan_parts,
    read_embedding_file,
)
from clip_eval.encoding.encoder import Encoder, make_encoder
from clip_eval.errors import EvaluationError
from clip_eval.models.directory import load_for_evaluation
from clip_eval.models.fingerprints import weights_fingerprint
from clip_eval.plurals import count_noun
from clip_eval.prompts.named_data import open_data
from clip_eval.report.search_page import format_matches, match_record, render_matches
from clip_eval.results.files import refuse_existing, write_text
from clip_eval.search.image_search import THUMBNAIL, ImageSearch, embed_images_of
from clip_eval.search.remembered_models import recall_model, remember_model


def write_embeddings_of(arguments: argparse.Namespace) -> None:
    """Write embeddings of photos, of a data set's images, or of texts."""
    given = (arguments.photos, arguments.data, arguments.texts)
    if sum(map(bool, given)) != 1:
        raise EvaluationError("expected one of: image files and folders, --data, or --texts")
    if arguments.rows_per_file is None:
        if arguments.task or arguments.format:
            raise EvaluationError("--task and --format are for --rows-per-file")
        refuse_existing(arguments.out, overwrite=arguments.overwrite)
        choose_writer(arguments.out)  # before any work
    elif arguments.texts or arguments.overwrite:
        raise EvaluationError("--rows-per-file is for images, without --overwrite")
    photos = ImageFiles(arguments.photos, recursive=True) if arguments.photos else None
    if photos is not None:
        photos.exif_orientation = arguments.exif_orientation
    device = choose_device(arguments.device)
    loaded = load_for_evaluation(arguments.model, device=device)
    encoder = make_encoder(loaded, device=device, batch_size=arguments.batch_size)
    if arguments.rows_per_file is not None:
        _write_parts(arguments, encoder, photos or _open(arguments))
        return
    found = _embed(arguments, encoder, photos)
    write_embeddings(arguments.out, found)
    remember_model(found.weights, arguments.model)
    n, width = found.features.shape
    kept, skipped = count_noun(n, "embedding"), len(found.skipped)
    print(f"wrote {arguments.out}: {kept} of {width}, {skipped:,} skipped")
    for s in found.skipped:
        print(f"skipped: {s.key}: {s.reason}: {s.detail}")


def _embed(
    arguments: argparse.Namespace, encoder: Encoder, photos: ImageFiles | None
) -> Embeddings:
    if arguments.texts is not None:
        lines = [line for line in read_text(arguments.texts).split("\n") if line.strip()]
        if not lines:
            raise EvaluationError(f"{arguments.texts}: expected at least one text, got none")
        return embed_texts(encoder, lines)._replace(weights=weights_fingerprint(encoder.model))
    source = photos or _open(arguments)
    return embed_images_of(encoder, source, _loader(arguments), thumbnail=_thumbnail(arguments))


def _write_parts(arguments: argparse.Namespace, encoder: Encoder, source: Source) -> None:
    """Write this process's files of a directory, except those that are there."""
    parts = plan_parts(
        encoder,
        source,
        rows_per_file=arguments.rows_per_file,
        suffix=f".{arguments.format or 'npz'}",
        thumbnail=_thumbnail(arguments),
    )
    task = choose_task(arguments.task)
    open_parts(arguments.out, parts)
    remember_model(parts.weights, arguments.model)
    for path, found in embed_parts(encoder, source, _loader(arguments), arguments.out, parts, task):
        kept, skipped = count_noun(len(found.keys), "embedding"), len(found.skipped)
        print(f"wrote {path}: {kept}, {skipped:,} skipped", flush=True)
        for s in found.skipped:
            print(f"skipped: {s.key}: {s.reason}: {s.detail}")
    missing = len(missing_parts(arguments.out, parts))
    state = f"{missing:,} of {len(parts):,} files are missing" if missing else "complete"
    print(f"{arguments.out}: {state}")


def _loader(arguments: argparse.Namespace) -> LoaderConfig:
    return LoaderConfig(
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        progress=not arguments.quiet,
    )


def _thumbnail(arguments: argparse.Namespace) -> int:
    if arguments.thumbnails is not None:
        return int(arguments.thumbnails)
    return THUMBNAIL if arguments.photos else 0


def _open(arguments: argparse.Namespace) -> Source:
    names, split = arguments.classnames, arguments.split
    return open_data(arguments.data, classnames=names, split=split, **data_options(arguments))[0]


def search_images(arguments: argparse.Namespace) -> None:
    """Print the best images for words or images, or write them as a page."""
    if not arguments.words and not arguments.image:
        raise EvaluationError('expected words, as in clip-eval search "a red bus", or --image FILE')
    if arguments.out is not None:
        refuse_existing(arguments.out, overwrite=arguments.overwrite)
    images = [(str(path), path.read_bytes()) for path in arguments.image]
    embeddings = read_embedding_file(arguments.embeddings)
    device = choose_device(arguments.device)
    loaded = load_for_evaluation(_choose_model(arguments, embeddings), device=device)
    search = ImageSearch(loaded, embeddings, index=arguments.index, device=device)
    names = [*arguments.words, *(name for name, _ in images)]
    pictures = [*(b"" for _ in arguments.words), *(data for _, data in images)]
    found = search.find_all([*arguments.words, *arguments.image], top=arguments.top)
    results = list(zip(names, found, strict=True))
    if arguments.out is not None:
        views = list(zip(names, pictures, found, strict=True))
        title = f"Search in {Path(arguments.embeddings).name}"
        write_text(arguments.out, render_matches(search, views, title=title))
    if arguments.json:
        for name, matches in results:
            print(json.dumps(match_record(name, matches), ensure_ascii=False, allow_nan=False))
        return
    print("\n\n".join(format_matches(name, matches) for name, matches in results))
    if arguments.out is not None:
        print(f"\nwrote {arguments.out}")


def _choose_model(arguments: argparse.Namespace, embeddings: Embeddings) -> str:
    """Return the model that the user names, now or when the images were embedded."""
    model = arguments.model or recall_model(embeddings.weights)
    if model is None:
        raise EvaluationError(
            f"which model made {arguments.embeddings} is not known here; name it with --model"
        )
    return str(model)
