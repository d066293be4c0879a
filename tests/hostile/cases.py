"""The corpus: what is made, which command reads it, and what may come of it.

`error`: exit code 2 and one line; `counted`: exit code 0, and the fault is in what the command
reports; `either`: one of the two; `harmless`: exit code 0 and the output of the undamaged input, or
an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from damage import (
    BYTES,
    JSON,
    PLACES,
    TOML,
    Damage,
    Data,
    content,
    made,
    put,
    wrong_values,
)
from formats import (
    bad_examples,
    bad_images,
    bad_indices,
    bad_notes,
    bad_parquet,
    bad_pickles,
    bad_shards,
    bad_sidecars,
    bad_tables,
    bad_weights,
    packed_bombs,
)

Make = Callable[[Path], None]
INSPECT = ("clip-eval", "inspect", "--quiet", "--json")


@dataclass(frozen=True)
class Case:
    """One hostile input and the command that reads it, with `{here}` for its directory."""

    name: str
    argv: tuple[str, ...]
    make: Make
    expected: str = "either"
    good: tuple[str, ...] = ()  # the command on the undamaged input, for `harmless`
    environment: tuple[tuple[str, str], ...] = ()


def every_case(good: Path) -> Iterator[Case]:
    """All cases, from the good artefacts in a directory."""
    for make in (
        data_cases,
        stream_cases,
        list_cases,
        config_cases,
        model_cases,
        vocabulary_cases,
        result_cases,
        run_cases,
        environment_cases,
    ):
        yield from make(good)


def quick_cases(good: Path) -> Iterator[Case]:
    """The cases that need no training run."""
    for make in (data_cases, list_cases, model_cases, vocabulary_cases, result_cases):
        yield from make(good)


def data_cases(good: Path) -> Iterator[Case]:
    """Data of every format."""

    def one(kind: str, name: str, make: Make, data: str, expected: str = "either") -> Case:
        argv = (*INSPECT, data.replace("DATA", "{here}"))
        return Case(f"{kind}/{name}", argv, make, expected)

    for name, data in bad_images():
        yield one("image", name, beside_good_images(good, content(data)), "DATA/images")
    for name, damage in PLACES.items():
        image = beside_good_images(good, damage)
        yield one("image", name, image, "DATA/images")
        table = damaged(good / "table", "red/0.png", damage, "table")
        yield one("csv", f"entry-{name}", table, "csv:DATA/table/table.csv", "counted")
        yield one("coco", f"entry-{name}", table, "coco:DATA/table/coco.json", "counted")
        for kind, file in (("csv", "table.csv"), ("coco", "coco.json")):
            broken = damaged(good / "table", file, damage, "table")
            yield one(kind, name, broken, f"{kind}:DATA/table/{file}", "error")
    for name, expected, files in bad_shards():
        yield one("wds", name, write_all("shards", files), "wds:DATA/shards", expected)
    for name, files in bad_sidecars():
        yield one("sidecar", name, write_all("shards", files), "wds:DATA/shards")
    for kind, file in (("wds", "a.tar"), ("tfrecord", "a.tfrecord"), ("parquet", "a.parquet")):
        for name, damage in {**BYTES, **PLACES}.items():
            broken = damaged(good / kind, file, damage, kind)
            yield one(kind, f"file-{name}", broken, f"{kind}:DATA/{kind}/{file}")
    for name, files in bad_examples():
        yield one("tfrecord", name, write_all("records", files), "tfrecord:DATA/records/a.tfrecord")
    for name, damage in bad_indices(good):
        index = damaged(good / "wds", "a.tar.idx", damage, "wds")
        yield one("idx", name, index, "wds:DATA/wds/a.tar")
        record_index = damaged(good / "tfrecord", "a.tfrecord.idx", damage, "tfrecord")
        yield one("idx", f"record-{name}", record_index, "tfrecord:DATA/tfrecord/a.tfrecord")
    for name, data in bad_tables():
        table = damaged(good / "table", "table.csv", content(data), "table")
        yield one("csv", name, table, "csv:DATA/table/table.csv")
    for name, data in bad_notes():
        notes = damaged(good / "table", "coco.json", content(data), "table")
        yield one("coco", name, notes, "coco:DATA/table/coco.json")
    for name, write in bad_parquet():
        yield one("parquet", name, at("p/a.parquet", write), "parquet:DATA/p/a.parquet")
    for name, metadata, sample in bad_pickles():
        yield one("corenet", name, corenet(good, metadata, sample), "corenet:DATA/corenet")
    for name, damage in {**BYTES, **PLACES}.items():
        for file in ("metadata.pkl", "0.tar.gz"):
            broken = damaged(good / "corenet", file, damage, "corenet")
            yield one("corenet", f"{file}-{name}", broken, "corenet:DATA/corenet")


def stream_cases(good: Path) -> Iterator[Case]:
    """Tars that training reads from begin to end."""
    argv = ("clip-train", "run", str(good / "train.toml"), "--dry-run", "--quiet")
    argv = (*argv, "--data.order", "stream", "--data.epoch-samples", "8", "--data.train")
    for name, _, files in bad_shards():
        yield Case(f"stream/{name}", (*argv, "wds:{here}/shards"), write_all("shards", files))
    for name, sidecars in bad_sidecars():
        yield Case(f"stream/{name}", (*argv, "wds:{here}/shards"), write_all("shards", sidecars))
    bombs = {f"bomb-{name}": content(data) for name, data in packed_bombs()}
    for name, damage in {**BYTES, **PLACES, **bombs}.items():
        shard = damaged(good / "wds", "a.tar", damage, "wds")
        for scheme in ("", "file://"):
            case = f"stream/{scheme}file-{name}"
            yield Case(case, (*argv, f"wds:{scheme}{{here}}/wds/a.tar"), shard)


def list_cases(good: Path) -> Iterator[Case]:
    """Lists of class names, templates, shards and texts."""
    damages = {**BYTES, **PLACES, "long-line": content(b"x" * 10**7)}
    for name, damage in damages.items():
        names = damaged(good / "names.txt", "", damage, "names.txt")
        argv = (*INSPECT, str(good / "folder"), "--classnames", "{here}/names.txt")
        yield Case(f"classnames/{name}", argv, names, "error")
        if name in BYTES:  # the user named it, so it is read to its end
            argv = ("clip-tokenizer", "count", "{here}/names.txt")
            yield Case(f"texts/{name}", argv, names, "either")
        for file in ("nshards.txt", "classnames.txt", "zeroshot_classification_templates.txt"):
            shards = damaged(good / "shards", file, damage, "shards")
            yield Case(f"{file}/{name}", (*INSPECT, "wds:{here}/shards"), shards, "either")
    for name, damage in JSON.items():
        names = damaged(good / "names.json", "", damage, "names.json")
        argv = (*INSPECT, str(good / "folder"), "--classnames", "{here}/names.json")
        yield Case(f"classnames-json/{name}", argv, names, "error")
    for number in ("99999999999", "9" * 5000, "-1", "1e9", "²", ""):
        shards = damaged(good / "shards", "nshards.txt", content(number.encode()), "shards")
        yield Case(f"nshards/{number[:12]}", (*INSPECT, "wds:{here}/shards"), shards, "error")
    for spec in (
        *("wds:{here}/{{0..99999999999}}.tar", "wds:pipe:touch PWNED", "pipe:touch PWNED #.tar"),
        *(
            "wds:exec://x/a.tar",
            "wds:http://127.0.0.1:9/a::b.tar",
            "wds:/dev/zero",
            "csv:/dev/zero",
        ),
        *("wds:{here}/{{0..9}}{{0..9}}{{0..9}}{{0..9}}{{0..9}}{{0..9}}{{0..9}}.tar", "x" * 5000),
        *("imagefolder:/dev/null", "corenet:/dev", "wds:\x00.tar", "csv:a\x00b", "cifar10:/dev"),
        *("parquet:/proc/self/mem", "tfrecord:/dev/stdin", "coco:/proc/self/environ"),
    ):
        argv = (*INSPECT, spec.replace("{{", "{").replace("}}", "}"))
        yield Case(f"spec/{spec[:30]!r}", argv, lambda here: None, "error")


def config_cases(good: Path) -> Iterator[Case]:
    """Configs of runs, of models and of spaces."""
    run = ("clip-train", "run", "{here}/train.toml", "--dry-run", "--quiet")
    for name, damage in {**BYTES, **PLACES, **TOML}.items():
        config = damaged(good / "train.toml", "", damage, "train.toml")
        yield Case(f"toml/{name}", run, config, "error")
        argv = ("clip-train", "plan", "{here}/train.toml", "--num-samples", "9")
        yield Case(f"toml/plan-{name}", argv, config, "error")
    for key, values in {
        "train.steps": ("-1", "1e400", '"x"', "[]", "{}", "true", "9" * 40, "nan"),
        "train.batch_size": ("0", "1" + "0" * 15, "2.5", "[2]"),
        "model.name": ('"../../etc/passwd"', '"os:system"', "7", '"\\u0000"', '""'),
        "data.train": ('"pipe:touch PWNED"', '"wds:pipe:touch PWNED"', "3", '"/dev/zero"'),
        "data.order": ('"stream"', '"x"'),
        "tokenizer.kind": ('"os"', "1", '"x"'),
        "tokenizer.path": ('"/dev/zero"', '"/proc/self/mem"', "0"),
        "optim.lr": ("nan", "inf", '"x"', "-1", "1e999"),
        "extends": ('"/dev/zero"', '"../x"', "[]", '"https://example.org/x"'),
        "no.such.key": ("1",),
    }.items():
        for value in values:
            text = f"{key} = {value}\n".encode()
            at_top = key in ("extends", "no.such.key")
            config = at(
                "train.toml", content(text if at_top else b'extends = "shapes-tiny"\n' + text)
            )
            yield Case(f"toml/{key}={value[:14]}", run, config, "error")
    shape = ("clip-models", "convert", str(good / "weights.pt"), "--to", "clip-models", "--out")
    argv = (*shape, "{here}/out", "--model", "{here}/shape.json")
    for name, damage in {**BYTES, **PLACES, **JSON}.items():
        config = damaged(good / "model" / "clip_config.json", "", damage, "shape.json")
        yield Case(f"shape/{name}", argv, config, "error")
    for name, damage in {**BYTES, **PLACES, **JSON}.items():
        space = damaged(good / "names.json", "", damage, "space.json")
        argv = ("osf", "sample", "tiny_module:make", "--space", "{here}/space.json")
        yield Case(f"space/{name}", argv, space)
    for name, damage in {**BYTES, **PLACES, "deep": content(b"a: " + b"[" * 20_000)}.items():
        recipe = at("recipe.yaml", damage, b"model:\n  a: 1\n")
        argv = ("clip-train", "translate", "corenet", "{here}/recipe.yaml")
        yield Case(f"recipe/{name}", argv, recipe)


def model_cases(good: Path) -> Iterator[Case]:
    """Model directories and files of weights."""
    info = ("clip-models", "info", "--json")
    of_model = (*info, str(good / "model"))
    for name, damage in {**BYTES, **PLACES, **JSON}.items():
        model = damaged(good / "model", "clip_config.json", damage, "model")
        yield Case(f"model/config-{name}", (*info, "{here}/model"), model, "error")
    for name, damage in wrong_values(good / "model" / "clip_config.json", 30):
        model = damaged(good / "model", "clip_config.json", damage, "model")
        yield Case(f"model/{name}", (*info, "{here}/model"), model)
    for name, damage in {**BYTES, **PLACES, **bad_weights("safetensors", good)}.items():
        model = damaged(good / "model", "model.safetensors", damage, "model")
        yield Case(f"weights/{name}", (*info, "{here}/model"), model, "harmless", of_model)
    for suffix in ("pt", "npz"):
        of_file = (*info, str(good / f"weights.{suffix}"))
        for name, damage in {**BYTES, **PLACES, **bad_weights(suffix, good)}.items():
            weights = damaged(good / f"weights.{suffix}", "", damage, f"w.{suffix}")
            argv = (*info, f"{{here}}/w.{suffix}")
            yield Case(f"weights/{suffix}-{name}", argv, weights, "harmless", of_file)


def vocabulary_cases(good: Path) -> Iterator[Case]:
    """Files of tokenizers."""
    count = ("clip-tokenizer", "count", str(good / "words.txt"), "--json", "--tokenizer")
    of_ours = (*count, str(good / "vocabulary"))
    for file in ("vocab.json", "tokenizer_config.json", "merges.txt"):
        damages = {**BYTES, **PLACES, **({} if file == "merges.txt" else JSON)}
        for name, damage in damages.items():
            vocabulary = damaged(good / "vocabulary", file, damage, "vocabulary")
            argv = (*count, "{here}/vocabulary")
            yield Case(f"vocabulary/{file}-{name}", argv, vocabulary, "harmless", of_ours)
    for name, damage in wrong_values(good / "vocabulary" / "tokenizer_config.json", 8):
        vocabulary = damaged(good / "vocabulary", "tokenizer_config.json", damage, "vocabulary")
        argv = (*count, "{here}/vocabulary")
        yield Case(f"vocabulary/{name}", argv, vocabulary)
    of_theirs = (*count, str(good / "tokenizer"))
    for name, damage in {**BYTES, **PLACES, **JSON}.items():
        vocabulary = damaged(good / "tokenizer", "tokenizer.json", damage, "tokenizer")
        argv = (*count, "{here}/tokenizer")
        yield Case(f"vocabulary/json-{name}", argv, vocabulary, "harmless", of_theirs)
    of_merges = (*count, str(good / "merges.txt.gz"))
    for name, damage in {**BYTES, **PLACES, **bad_weights("gz", good)}.items():
        vocabulary = damaged(good / "merges.txt.gz", "", damage, "m.txt.gz")
        argv = (*count, "{here}/m.txt.gz")
        yield Case(f"vocabulary/gz-{name}", argv, vocabulary, "harmless", of_merges)


def result_cases(good: Path) -> Iterator[Case]:
    """Results, predictions, embeddings and other tools' results."""
    report = ("clip-eval", "report", "{here}/results", "--out", "{here}/page.html")
    compare = ("clip-eval", "compare", "{here}/results", str(good / "results-b"), "--json")
    export = ("clip-eval", "export", "{here}/results", "--out", "{here}/table.csv")
    for name, damage in {**BYTES, **PLACES, **JSON}.items():
        result = damaged(good / "results", "result.json", damage, "results")
        for argv in (report, compare, export):
            yield Case(f"result/{argv[1]}-{name}", argv, result, "error")
        lines = damaged(good / "results", "predictions.jsonl", damage, "results")
        yield Case(f"predictions/{name}", compare, lines, "error")
    for name, damage in wrong_values(good / "results" / "result.json", 30):
        result = damaged(good / "results", "result.json", damage, "results")
        for argv in (report, compare, export):
            yield Case(f"result/{argv[1]}-{name}", argv, result)
    for suffix in ("json", "jsonl"):
        for name, damage in {**BYTES, **PLACES, **JSON}.items():
            foreign = damaged(good / f"foreign.{suffix}", "", damage, f"f.{suffix}")
            argv = ("clip-eval", "import-results", f"{{here}}/f.{suffix}", "--out", "{here}/out")
            yield Case(f"foreign/{suffix}-{name}", argv, foreign, "either")
        for name, damage in wrong_values(good / "foreign.json", 6):
            foreign = damaged(good / f"foreign.{suffix}", "", damage, f"f.{suffix}")
            argv = ("clip-eval", "import-results", f"{{here}}/f.{suffix}", "--out", "{here}/out")
            yield Case(f"foreign/{suffix}-{name}", argv, foreign, "either")


def run_cases(good: Path) -> Iterator[Case]:
    """Run directories of all trainers."""
    train = ("clip-train", "resume", "{here}/train-run", "--quiet")
    state = "checkpoints/step-0000002/state.json"
    for file, damages in {
        "config.toml": {**BYTES, **PLACES, **TOML},
        state: {**BYTES, **PLACES, **JSON},
        "metrics.jsonl": {**BYTES, **PLACES, **JSON},
        "tokenizer.json": {**BYTES, **PLACES},
    }.items():
        for name, damage in damages.items():
            run = damaged(good / "train-run", file, damage, "train-run")
            yield Case(f"run/{Path(file).name}-{name}", train, run)
    for name, damage in {**BYTES, **bad_weights("safetensors", good)}.items():
        weights = "checkpoints/step-0000002/model.safetensors"
        run = damaged(good / "train-run", weights, damage, "train-run")
        yield Case(f"run/weights-{name}", train, run)
    text = str(good / "short.txt")
    evaluate = ("dtp-lm", "eval", "{here}/dtp-run", text, "--split", "all", "--json")
    curves = ("dtp-lm", "curves", "{here}/dtp-run", "--out", "{here}/c.png")
    for name, damage in {**BYTES, **PLACES, **JSON}.items():
        run = damaged(good / "dtp-run", "run.json", damage, "dtp-run")
        yield Case(f"dtp/run-{name}", evaluate, run, "error")
        run = damaged(good / "dtp-run", "metrics.jsonl", damage, "dtp-run")
        yield Case(f"dtp/metrics-{name}", curves, run)
        yield Case(f"dtp/resume-{name}", ("dtp-lm", "resume", "{here}/dtp-run"), run)
    for name, damage in wrong_values(good / "dtp-run" / "run.json", 20):
        run = damaged(good / "dtp-run", "run.json", damage, "dtp-run")
        yield Case(f"dtp/{name}", evaluate, run)
    for name, damage in {**BYTES, **PLACES, **bad_weights("gz", good)}.items():
        if name != "pipe":  # which the user named
            words = at("text.txt.gz", damage, b"")
            argv = ("dtp-lm", "eval", str(good / "dtp-run"), "{here}/text.txt.gz", "--split", "all")
            yield Case(f"dtp/text-{name}", argv, words)
    verify = ("osf", "verify", "tiny_module:make", "--supernet", "{here}/osf-run", "--samples", "1")
    for file in sorted(path.name for path in (good / "osf-run").glob("*.json")):
        for name, damage in {**BYTES, **PLACES, **JSON}.items():
            run = damaged(good / "osf-run", file, damage, "osf-run")
            yield Case(f"osf/{file}-{name}", verify, run)
    for name, damage in {**BYTES, **PLACES, **bad_weights("safetensors", good)}.items():
        if name != "sparse":  # a digest takes as long as the file is large
            run = damaged(good / "osf-run", "model.safetensors", damage, "osf-run")
            yield Case(f"osf/weights-{name}", verify, run)


def environment_cases(good: Path) -> Iterator[Case]:
    """Variables of the environment that are no numbers."""
    run = ("clip-eval", "run", "--model", str(good / "model"), "--data", str(good / "folder"))
    run = (*run, "--task", "classify", "--no-cache", "--quiet", "--out", "{here}/out")
    train = ("clip-train", "run", str(good / "train.toml"), "--out", "{here}/out", "--quiet")
    words = ("dtp-lm", "train", str(good / "text.txt"), "--out", "{here}/out", "--quiet")
    supernet = ("osf", "train", "tiny_module:make", "--images", str(good / "split"), "--quiet")
    supernet = (*supernet, "--image-size", "16", "--steps", "1", "--out", "{here}/out")
    for name, values in {
        "WORLD_SIZE": ("x", "-1", "0", "9" * 5000, "1.5", " "),
        "RANK": ("x", "-1", "7", ""),
        "LOCAL_RANK": ("x", "-1", ""),
        "MASTER_PORT": ("x", "99999999"),
        "CLIP_EVAL_MAX_SAMPLE_MB": ("x", "0", "1e9"),
    }.items():
        for value in values:
            several = (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0"))
            fixed = (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29512"))
            given = dict((*several, *fixed, (name, value)))
            if name.startswith("CLIP"):
                given = {name: value}
            others = () if name.startswith("CLIP") else (words, supernet)
            for argv in (run, train, *others):
                label = f"environment/{argv[0]}-{name}={value[:9]}"
                yield Case(label, argv, lambda here: None, "error", (), tuple(given.items()))


def beside_good_images(good: Path, damage: Damage) -> Make:
    """An image folder in which one image is hostile."""

    def make(here: Path) -> None:
        put(good / "folder", here / "images", {"red/0.png": damage})

    return make


def damaged(good: Path, file: str, damage: Damage, name: str) -> Make:
    """A copy of something good in which a file is damaged."""
    return lambda here: put(good, here / name, {file: damage})


def at(name: str, damage: Damage, before: bytes | None = None) -> Make:
    """A file that a damage makes, in place of what was there before."""

    def make(here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        if before is not None:
            (here / name).write_bytes(before)
        damage(here / name)

    return make


def write_all(folder: str, files: Mapping[str, Data]) -> Make:
    """A directory of files."""

    def make(here: Path) -> None:
        (here / folder).mkdir()
        for name, data in files.items():
            (here / folder / name).write_bytes(made(data))

    return make


def corenet(good: Path, metadata: bytes | None, archive: Data | None) -> Make:
    """CoreNet's layout with other metadata, or another archive."""
    changes = {"metadata.pkl": metadata, "0.tar.gz": archive}
    given = {name: content(data) for name, data in changes.items() if data is not None}
    return lambda here: put(good / "corenet", here / "corenet", given)
