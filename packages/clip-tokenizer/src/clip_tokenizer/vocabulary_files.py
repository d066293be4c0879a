"""Vocabularies on disk: `vocab.json` + `merges.txt`, `tokenizer.json`, and OpenAI's `.txt.gz`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_tokenizer.alphabet import END_OF_WORD
from clip_tokenizer.atomic_write import save_text
from clip_tokenizer.bounded_read import MAX_MERGES_TEXT, read_file, unpack
from clip_tokenizer.errors import TokenizerError
from clip_tokenizer.vocabulary import (
    NUM_OPENAI_MERGES,
    OPENAI_SPECIAL_TOKENS,
    AddedToken,
    Vocabulary,
)

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
WORDPIECE_FILE = "vocab.txt"

OPTIONS = ("context_length", "clean", "truncate", "allow_special", "pad_token_id", "reduction")
"""Keys under `clip_tokenizer` in a config, besides `extra_special_tokens`."""
MAX_MERGES = 2_000_000
"""Merges of a vocabulary; OpenAI's has 48,894."""
KNOWN_SPECIAL_PAIRS = (OPENAI_SPECIAL_TOKENS, ("<|startoftext|>", "<|endoftext|>"))


def read_merges_text(data: bytes, *, limit: int | None = None) -> list[tuple[str, str]]:
    """The pairs of a merges file, plain or gzipped; a first line that is a comment is skipped.

    Raises:
        TokenizerError: If a line is not two symbols, or there are too many.
    """
    data = unpack(data)
    if len(data) > MAX_MERGES_TEXT:
        raise TokenizerError(f"it has more than {MAX_MERGES_TEXT:,} bytes, too many for merges")
    merges: list[tuple[str, str]] = []
    lines = io.StringIO(data.decode("utf-8"), newline="\n")
    for number, whole in enumerate(lines, start=1):
        line = whole.removesuffix("\n")
        if len(merges) == limit:
            break
        if not line.strip("\r") or (number == 1 and _is_header(line)):
            continue
        if len(merges) == MAX_MERGES:
            raise TokenizerError(f"it lists more than {MAX_MERGES:,} merges, too many")
        pair = line.strip("\r").split(" ")
        if len(pair) != 2:
            raise TokenizerError(
                f"line {number} of a merges file must be two symbols with a space between, "
                f"got {line!r}"
            )
        merges.append((pair[0], pair[1]))
    return merges


def _is_header(line: str) -> bool:
    """Whether the first line of a merges file is a header: `#version…` or OpenAI's quoted title."""
    return line.startswith(("#version", '"bpe_simple_vocab'))


def read_merges_file(path: Path, *, extra: Sequence[str] = ()) -> Vocabulary:
    """The vocabulary in CLIP's layout of a `.txt` or `.txt.gz` merges file.

    OpenAI's file lists more merges than CLIP uses; those past the 48,894th are left out.
    """
    with reporting_damage(path):
        merges = read_merges_text(read_file(path), limit=NUM_OPENAI_MERGES)
    return Vocabulary.from_merges(merges, extra=extra)


def read_directory(directory: Path) -> tuple[Vocabulary, dict[str, Any]] | None:
    """The vocabulary and the options in a directory, or None if it holds no known file.

    Files are read in this order: `vocab.json` with `merges.txt`, `tokenizer.json`, one `*.txt.gz`.
    The options are those of `tokenizer_config.json`, empty without one.

    Raises:
        TokenizerError: If a file is damaged; the message names it.
    """
    path = directory / CONFIG_FILE
    config = read_json(path) if path.is_file() else {}
    own = read_own_settings(config, path, (*OPTIONS, "extra_special_tokens"))
    with reporting_damage(path):
        length = config.get("model_max_length")
        if length is not None and 0 < length < 1_000_000:
            own.setdefault("context_length", length)
    own.pop("extra_special_tokens", None)
    vocabulary = _read_vocabulary(directory, config)
    return None if vocabulary is None else (vocabulary, own)


def _read_vocabulary(directory: Path, config: Mapping[str, Any]) -> Vocabulary | None:
    vocab_file, merges_file = directory / VOCAB_FILE, directory / MERGES_FILE
    if vocab_file.is_file() and merges_file.is_file():
        with reporting_damage(merges_file):
            merges = read_merges_text(read_file(merges_file))
        ids = read_json(vocab_file)
        with reporting_damage(vocab_file):
            vocabulary = _assemble(ids, merges, config, read_added_tokens(directory, config))
        return vocabulary
    path = directory / TOKENIZER_FILE
    if path.is_file():
        content = read_json(path)
        with reporting_damage(path):
            vocabulary = _from_tokenizer_json(
                content, config, read_added_tokens(directory, config, content)
            )
        return vocabulary
    archives = sorted(directory.glob("*.txt.gz"))
    return read_merges_file(archives[0]) if len(archives) == 1 else None


def read_own_settings(
    config: Mapping[str, Any], path: Path, known: Sequence[str]
) -> dict[str, Any]:
    """The table under `clip_tokenizer` in the config read from `path`.

    Raises:
        TokenizerError: If it is not a table of known keys.
    """
    own = config.get("clip_tokenizer", {})
    if not isinstance(own, dict) or own.keys() - set(known):
        raise TokenizerError(
            f"clip_tokenizer in {path} must be a table of {', '.join(known)}, got {own!r:.80}"
        )
    return dict(own)


def holds_tokenizer(directory: Path) -> bool:
    """Whether a directory holds the files of a tokenizer of any kind."""
    names = (TOKENIZER_FILE, MERGES_FILE, WORDPIECE_FILE)
    return any((directory / name).is_file() for name in names) or any(directory.glob("*.txt.gz"))


def holds_bpe(directory: Path) -> bool:
    """Whether the tokenizer files of a directory, if any, are those of a byte-level BPE."""
    path = directory / TOKENIZER_FILE
    if path.is_file():
        content = read_json(path)
        with reporting_damage(path):
            suffix = content["model"].get("end_of_word_suffix")
        return bool(suffix == END_OF_WORD)
    return (directory / MERGES_FILE).is_file() or any(directory.glob("*.txt.gz"))


def has_own_settings(directory: Path) -> bool:
    """Whether the tokenizer files of a directory were saved by this package."""
    path = directory / CONFIG_FILE
    return path.is_file() and "clip_tokenizer" in read_json(path)


@contextmanager
def reporting_damage(path: Path) -> Iterator[None]:
    """Turn any error of a reader into a TokenizerError that names the damaged file."""
    try:
        yield
    except TokenizerError as error:
        if str(path) in str(error):
            raise
        raise TokenizerError(f"{path}: {error}") from error
    except BaseException as error:
        is_panic = type(error).__name__ == "PanicException"  # of Rust, in `tokenizers`
        if not isinstance(error, Exception) and not is_panic:
            raise
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise TokenizerError(
            f"{path} cannot be read ({type(error).__name__}: {reason:.120}); is it damaged?"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        TokenizerError: If it holds something else.
    """
    with reporting_damage(path):
        content = json.loads(read_file(path).decode("utf-8"))
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def read_added_tokens(
    directory: Path, config: Mapping[str, Any], tokenizer: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """What transformers says of the tokens that it added, special ones included, by their content.

    Args:
        directory: Holds `tokenizer.json` or `added_tokens.json`, or neither.
        config: The contents of `tokenizer_config.json`.
        tokenizer: The contents of `tokenizer.json`; None reads the file if there is one.

    Raises:
        TokenizerError: Two files give one token different ids, or a file is damaged.
    """
    found: list[tuple[Path, dict[str, Any]]] = []
    path = directory / TOKENIZER_FILE
    if tokenizer is None and path.is_file():
        tokenizer = read_json(path)
    with reporting_damage(path):
        found += [(path, dict(token)) for token in (tokenizer or {}).get("added_tokens") or ()]
    path = directory / CONFIG_FILE
    with reporting_damage(path):
        listed = config.get("added_tokens_decoder") or {}
        found += [(path, {**token, "id": int(at)}) for at, token in listed.items()]
    path = directory / ADDED_FILE
    if path.is_file():
        found += [(path, {"content": token, "id": at}) for token, at in read_json(path).items()]
    tokens: dict[str, dict[str, Any]] = {}
    for path, token in found:
        with reporting_damage(path):
            known = tokens.setdefault(token["content"], token)
            if known["id"] != token["id"]:
                raise TokenizerError(
                    f"{path} gives the added token {token['content']!r} the id {token['id']}, "
                    f"another file of the directory {known['id']}; save the tokenizer again"
                )
    return tokens


def _from_tokenizer_json(
    content: Mapping[str, Any], config: Mapping[str, Any], added: Mapping[str, Mapping[str, Any]]
) -> Vocabulary:
    """The vocabulary inside a Hugging Face `tokenizer.json` of the BPE kind."""
    model = content["model"]
    if model.get("end_of_word_suffix") != END_OF_WORD:
        raise TokenizerError(
            f"tokenizer.json must hold a BPE model with end_of_word_suffix {END_OF_WORD!r}, got "
            f"model {model.get('type')!r} with {model.get('end_of_word_suffix')!r}; other kinds "
            "load through clip_tokenizer.get_tokenizer"
        )
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    merges = [(left, right) for left, right in pairs]
    return _assemble(dict(model["vocab"]), merges, config, added)


def _assemble(
    ids: dict[str, int],
    merges: Sequence[tuple[str, str]],
    config: Mapping[str, Any],
    added: Mapping[str, Mapping[str, Any]],
) -> Vocabulary:
    """A vocabulary from symbols with explicit ids and merges by symbol, and what was added."""
    for content, token in added.items():
        if ids.setdefault(content, token["id"]) != token["id"]:
            raise TokenizerError(
                f"the added token {content!r} has the id {token['id']}, in the vocabulary "
                f"{ids[content]}; the files come from different tokenizers"
            )
    sot, eot = _special_pair(ids, config)
    for pair in merges:
        for symbol in pair:
            if symbol not in ids:
                raise TokenizerError(f"merge {' '.join(pair)}: the vocabulary lacks {symbol!r}")
    made = {left + right for left, right in merges}
    unmade = [s for s in ids if s.endswith(END_OF_WORD) and s not in made and s not in added]
    unmade = [s for s in unmade if len(s) > 1 + len(END_OF_WORD)]
    if unmade:
        raise TokenizerError(
            f"no merge makes {unmade[0]!r}, nor {len(unmade) - 1} other symbols of the vocabulary; "
            "are the merges cut short?"
        )
    extra = tuple(config.get("clip_tokenizer", {}).get("extra_special_tokens", ()))
    pairs = [(ids[left], ids[right]) for left, right in merges]
    tokens = tuple(
        AddedToken(
            content=content,
            single_word=bool(token.get("single_word")),
            special=bool(token.get("special")),
        )
        for content, token in added.items()
        if content not in (sot, eot, *extra)
    )
    return Vocabulary(ids=ids, merges=pairs, sot=sot, eot=eot, extra=extra, added=tokens)


def _special_pair(ids: Mapping[str, int], config: Mapping[str, Any]) -> tuple[str, str]:
    """Start and end token: those of the config, else a known pair in the vocabulary."""
    named = tuple(_token_text(config.get(key)) for key in ("bos_token", "eos_token"))
    for sot, eot in (named, *KNOWN_SPECIAL_PAIRS):
        if sot in ids and eot in ids:
            assert sot is not None
            assert eot is not None
            return sot, eot
    raise TokenizerError(
        "the vocabulary holds no start and end token; name them as bos_token and eos_token in "
        f"{CONFIG_FILE}"
    )


def _token_text(token: object) -> str | None:
    """The text of a token in a config: a string, or an object with its content."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def write_directory(
    directory: Path,
    vocabulary: Vocabulary,
    tokenizer_json: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    """Write `vocab.json`, `merges.txt`, `tokenizer.json` and `tokenizer_config.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in vocabulary.merge_symbols()), ""]
    save_text(directory / MERGES_FILE, "\n".join(lines))
    added = {token.content: vocabulary.ids[token.content] for token in vocabulary.added}
    if added or (directory / ADDED_FILE).exists():
        save_text(directory / ADDED_FILE, json.dumps(added, ensure_ascii=False, indent=2) + "\n")
    for name, content in (
        (VOCAB_FILE, dict(sorted(vocabulary.ids.items(), key=lambda item: item[1]))),
        (TOKENIZER_FILE, tokenizer_json),
        (CONFIG_FILE, config),
    ):
        text = json.dumps(content, ensure_ascii=False, indent=None if name == VOCAB_FILE else 2)
        save_text(directory / name, text + "\n")
