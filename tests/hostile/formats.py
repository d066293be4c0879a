"""Hostile files of each format, made by hand: sizes, counts and references that lie."""

from __future__ import annotations

import base64
import bz2
import functools
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from artefacts import (
    coco,
    example,
    field,
    good_records,
    good_tar,
    image_file,
    png_chunk,
    png_file,
    record,
    tar_file,
    varint,
)
from damage import Damage, Data, content, replace
from PIL import Image

POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(PWNED) (w) file closefile\nshowpage\n"
)
ENDLESS = 2**62


class Evil:
    """Its pickle runs a command."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        import os

        return os.system, ("touch PWNED",)


def bad_images() -> Iterator[tuple[str, Data]]:
    """Images that are none, that lie about their size, or that take long."""
    good = image_file()
    jpeg, gif = image_file(kind="JPEG"), image_file(kind="GIF")
    yield from (("empty", b""), ("text", b"no image"), ("cut", good[:50]), ("head", good[:8]))
    yield from (("postscript", POSTSCRIPT), ("pdf", b"%PDF-1.4\n"), ("html", b"<html></html>"))
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "line-80M", lambda: png_file(80_000_000, 1, 0, 1, 1)
    yield "column-8M", lambda: png_file(1, 8_000_000, 0, 1, 1)
    yield "gray16-80M", lambda: png_file(8000, 10_000, 0, 16, 1)
    yield "alpha-40M", lambda: png_file(5000, 8000, 6, 8, 4)
    yield "gray-89M", lambda: png_file(8900, 10_000, 0, 1, 1)
    yield "too-many-pixels", lambda: png_file(30_000, 30_000, 0, 1, 1)
    yield "no-pixels", png_file(0, 0, 0, 8, 1)
    yield "size-lies", good[:16] + struct.pack(">II", 9000, 9000) + good[24:]
    yield "size-4G", good[:16] + struct.pack(">II", 2**32 - 1, 2**32 - 1) + good[24:]
    yield (
        "text-bomb",
        lambda: good[:33] + png_chunk(b"zTXt", b"a\0\0" + _deflated(2**27)) + good[33:],
    )
    yield (
        "icc-bomb",
        lambda: good[:33] + png_chunk(b"iCCP", b"a\0\0" + _deflated(2**27)) + good[33:],
    )
    yield "data-bomb", lambda: good[:33] + png_chunk(b"IDAT", _deflated(2**27)) + good[-12:]
    yield "many-chunks", good[:33] + png_chunk(b"tEXt", b"a\0b") * 100_000 + good[33:]
    scan = jpeg[jpeg.rfind(b"\xff\xda") : -2]
    yield "jpeg-passes", lambda: _jpeg_of_passes(3000, 5000)
    yield "jpeg-cut", jpeg[:-100]
    yield "jpeg-two-scans", jpeg[:-2] + scan + jpeg[-2:]
    yield "jpeg-no-end", jpeg[:-2]
    yield "jpeg-exif", jpeg[:2] + b"\xff\xe1\xff\xfeExif\0\0" + b"II*\0\x08\0\0\0" * 8000 + jpeg[2:]
    yield "gif-frames", gif[:-1] + gif[gif.index(b"\x2c") : -1] * 100_000 + b";"
    yield (
        "gif-frame-lies",
        gif.replace(struct.pack("<HH", 16, 16), struct.pack("<HH", 65535, 65535)),
    )
    yield "gif-screen", gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:]
    yield "qoi-slow", b"qoif" + struct.pack(">IIBB", 8000, 8000, 3, 0) + bytes(32_000_000)
    yield "qoi-run", b"qoif" + struct.pack(">IIBB", 9000, 9000, 3, 0) + b"\xfd" * 1_400_000
    yield "qoi-size", b"qoif" + struct.pack(">IIBB", 2**31, 2**31, 3, 0)
    yield "ppm-huge", b"P6\n99999 99999\n255\n" + bytes(99)
    yield "ppm-digits", b"P6\n" + b"9" * 10_000 + b" 1\n255\n"
    yield "ppm-plain", b"P3\n3000 3000\n255\n" + b"1 " * 9000
    yield "ppm-comment", b"P6\n#" + b"x" * 10**7
    yield "bmp-rle", lambda: _bmp_of_runs(8000, 10_000)
    yield (
        "bmp-negative",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", *(99, 0, 0, 54, 40, -9, -9, 1), *(24,) + (0,) * 6),
    )
    yield (
        "tiff-loop",
        b"II*\0\x08\0\0\0" + b"\1\0" + struct.pack("<HHII", 256, 4, 1, 9) + struct.pack("<I", 8),
    )
    yield "tiff-counts", _tiff({256: 16, 257: 16, 258: 2**31, 273: 2**31})
    yield "tiff-huge", _tiff({256: 2**31, 257: 2**31, 259: 1, 273: 8, 278: 2**31, 279: 2**31})
    yield (
        "tiff-rows",
        _tiff({256: 16, 257: 16, 258: 8, 259: 5, 262: 1, 273: 8, 278: 2**31, 279: 99}),
    )
    yield "tga", b"\0\0\x0a" + bytes(9) + struct.pack("<HHBB", 65535, 65535, 32, 0) + b"\xff" * 99
    yield (
        "ico",
        b"\0\0\1\0\1\0"
        + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, 10**5, 22)
        + png_file(20_000, 20_000, 0, 1, 1),
    )
    yield "webp-lies", image_file(kind="WEBP").replace(b"WEBP", b"WEBQ")
    yield "webp-cut", image_file(kind="WEBP")[:40]
    yield "avif-cut", image_file(kind="AVIF")[:200]
    yield (
        "jp2-lies",
        b"\xff\x4f\xff\x51\0\x29\0\0"
        + struct.pack(">8I", 60000, 60000, 0, 0, 60000, 60000, 0, 0)
        + b"\0\1\7\1\1",
    )
    yield "eps-in-tiff", b"II*\0" + POSTSCRIPT
    yield "fits", b"SIMPLE  =                    T" + b" " * 2850
    yield "wmf", b"\xd7\xcd\xc6\x9a" + bytes(200)
    yield "mic", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(4096)


def bad_shards() -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """Tars with headers that lie; the second value is what is expected."""
    whole = good_tar()
    size = slice(124, 136)
    for name, text in {
        "size-negative": b"-0000000001\0",
        "size-words": b"nonsense\0\0\0\0",
        "size-all-sevens": b"777777777777",
        "size-base256": b"\x80" + b"\xff" * 11,
        "size-base256-negative": b"\xff" * 12,
        "size-base256-near": b"\x80\0\0\0" + (2**63).to_bytes(8, "big"),
        "size-plus": b"+0000000001\0",
        "size-underscore": b"0000_0001\0\0\0",
    }.items():
        data = bytearray(whole)
        data[size] = text
        yield name, "either", {"a.tar": _with_checksum(data)}
        data = bytearray(whole)
        second = 1024
        data[second + 124 : second + 136] = text
        yield f"second-{name}", "either", {"a.tar": _with_checksum(data, second)}
    for name, records in {
        "pax-size-negative": b"16 size=-999999\n",
        "pax-size-huge": b"31 size=99999999999999999999999\n",
        "pax-size-digits": b"5010 size=" + b"9" * 5000,
        "pax-size-word": b"10 size=x\n",
        "pax-length-zero": b"0 path=x\n",
        "pax-length-huge": b"999999999999999999999 path=x\n",
        "pax-length-negative": b"-5 path=x\n",
        "pax-no-space": b"9" * 512,
        "pax-not-utf8": b"16 path=\xff\xfe\xfd.png\n",
        "pax-many": b"6 a=b\n" * 50_000,
        "pax-path-up": b"28 path=../../../../etc/x.png\n",
    }.items():
        header = tarfile.TarInfo("PaxHeader")
        header.type, header.size = tarfile.XHDTYPE, len(records)
        padding = bytes(-len(records) % 512)
        pax = header.tobuf(tarfile.USTAR_FORMAT) + records + padding
        yield name, "either", {"a.tar": pax + whole}
    for kind, count in ((tarfile.GNUTYPE_LONGNAME, 2**26), (tarfile.XHDTYPE, 2**26)):
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, count
        long = header.tobuf(tarfile.USTAR_FORMAT) + b"a" * count
        yield f"name-of-64-MB-{kind.decode()}", "either", {"a.tar": long + whole}
    links = io.BytesIO()
    with tarfile.open(fileobj=links, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("0.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    yield "links", "error", {"a.tar": links.getvalue()}
    yield "many-empty", "either", {"a.tar": tar_file({f"{n}.png": b"" for n in range(3000)})}
    yield "same-names", "either", {"a.tar": whole[:-10240] + whole}
    yield "absolute-names", "counted", {"a.tar": tar_file({"/etc/a.png": b"x", "/etc/a.txt": b"x"})}
    names = {"pipe:touch PWNED #.tar": whole, "-rf.tar": whole, "$(touch PWNED).tar": whole}
    yield "names-of-shards", "either", names
    yield "name-not-utf8", "harmless", {"a.tar": _renamed(whole, b"0.png", b"\xff\xfe.png")}
    yield "name-of-nothing", "either", {"a.tar": _renamed(whole, b"0.png", b"")}
    yield "only-zeros", "error", {"a.tar": bytes(10**6)}
    yield "gzipped", "error", {"a.tar": gzip.compress(whole)}
    yield "no-end", "counted", {"a.tar": whole[: whole.rindex(b"ustar") + 1000]}
    numbers = {f"{n}.tar": whole for n in (0, 10**15)}
    yield "gap-of-10^15", "error", numbers
    yield "number-of-many-digits", "either", {f"{'9' * 200}.tar": whole, "0.tar": whole}


def packed_bombs() -> Iterator[tuple[str, Data]]:
    """Small compressed tars that unpack to gigabytes of nothing."""
    hidden = tarfile.TarInfo("__hidden")
    hidden.size = 2**40
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    for name, pack in (("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)):
        start = hidden.tobuf()
        yield f"{name}-hidden", lambda pack=pack, start=start: pack(start + bytes(2**29))
        yield f"{name}-folders", lambda pack=pack: pack(folder.tobuf() * 2**20)


def bad_sidecars() -> Iterator[tuple[str, dict[str, Data]]]:
    """Captions, labels and arrays beside an image in a shard."""

    def one(**parts: bytes) -> dict[str, Data]:
        files = {f"0.{extension}": data for extension, data in parts.items()}
        files |= {"1.png": image_file("blue"), "1.txt": b"a blue thing", "1.cls": b"1"}
        return {"a.tar": tar_file({"0.png": image_file(), **files})}

    yield "caption-10-MB", one(txt=b"word " * 2_000_000)
    yield "captions-5M", one(txt=b"a\n" * 5_000_000)
    yield "caption-not-utf8", one(txt=b"\xff\xfe")
    yield "caption-nul", one(txt=b"a\0b")
    yield "caption-json-deep", one(json=b"[" * 10**5)
    yield "caption-json-digits", one(json=b'{"label": ' + b"9" * 5000 + b"}")
    yield "caption-json-kinds", one(json=b'{"caption": {"a": [1]}, "label": "x"}')
    yield "caption-json-surrogate", one(json=b'{"caption": "\\ud800"}')
    yield "caption-json-long", one(json=json.dumps({"caption": "x" * 10**7}).encode())
    yield "caption-json-label", one(json=b'{"label": 1e999}')
    for text in (b"-1", b"9" * 5000, b"9" * 30, b"1.5", b"", b"0x1", b"NaN", "²".encode()):
        yield f"label-{text[:5].decode()}-{len(text)}", one(cls=text)
    for name, data in bad_arrays():
        yield f"npy-{name}", one(npy=data)
    yield "no-image", {"a.tar": tar_file({"0.txt": b"x", "1.txt": b"y"})}
    yield "image-of-300-MB", {"a.tar": lambda: tar_file({"0.png": bytes(300 * 2**20)})}


def bad_arrays() -> Iterator[tuple[str, bytes]]:
    """`.npy` files whose header lies."""

    def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
        text = header.encode()
        size = struct.pack("<H" if version[0] == 1 else "<I", len(text))
        return b"\x93NUMPY" + version + size + text + body

    plain = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }"
    yield "400-GB", npy(plain % ("<f8", "(50000000000,)"))
    yield "huge-product", npy(plain % ("<f8", "(4294967296, 4294967296)"))
    yield "negative", npy(plain % ("<f8", "(-5,)"))
    yield "objects", npy(plain % ("|O", "(1,)"), pickle.dumps([Evil()]))
    yield "object-record", npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,), }")
    yield "expression", npy("__import__('os').system('touch PWNED')")
    yield "deep", npy("(" * 60_000)
    yield "long-header", npy("1" * 60_000)
    yield "header-2-GB", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31 - 1)
    yield "version-9", npy(plain % ("<f8", "(1,)"), bytes(8), b"\x09\x00")
    yield "cut", npy(plain % ("<f8", "(9,)"), bytes(8))
    yield "too-long", npy(plain % ("<f8", "(1,)"), bytes(80))
    yield "width-huge", npy(plain % ("<U999999999", "(1,)"))
    yield "many-dimensions", npy(plain % ("<f8", "(" + "1," * 200 + ")"))
    yield "empty-dimension", npy(plain % ("<f8", "(0, 99999999999999)"))
    yield "true-shape", npy(plain % ("<f8", "(True,)"), bytes(8))
    yield "text-shape", npy(plain % ("<f8", "('x',)"))
    yield "nan", npy(plain % ("<f8", "(3,)"), struct.pack("<3d", np.nan, np.inf, 1))


def bad_examples() -> Iterator[tuple[str, dict[str, bytes]]]:
    """TFRecord files with lengths and messages that lie."""
    whole = good_records()
    first = struct.unpack("<Q", whole[:8])[0]

    def file(data: bytes) -> dict[str, bytes]:
        return {"a.tfrecord": data}

    for name, length in {
        "huge": 2**63,
        "largest": 2**64 - 1,
        "zero": 0,
        "long": first + 99,
    }.items():
        head = struct.pack("<Q", length)
        from clip_eval.data.shards.crc32c import masked_crc32c

        check = struct.pack("<I", masked_crc32c(head))
        yield f"length-{name}", file(head + check + whole[12:])
        yield f"second-length-{name}", file(whole[: first + 16] + head + check + bytes(99))
    yield "header-check", file(whole[:8] + b"\0\0\0\0" + whole[12:])
    yield "message-check", file(whole[:100] + b"?" + whole[101:])
    for name, message in {
        "empty": b"",
        "no-example": b"\xff" * 40,
        "nested": field(1, field(1, field(1, b"png") + field(2, field(1, field(1, b"x"))))),
        "length-4G": b"\x0a" + varint(2**32),
        "length-2^64": b"\x0a" + varint(2**64 - 1),
        "long-varint": b"\x08" + b"\x80" * 100_000,
        "many-features": b"".join(
            field(1, field(1, str(n).encode()) + field(2, b"")) for n in range(20_000)
        ),
        "groups": b"\x0b" * 1000 + b"\x0c" * 1000,
        "many-integers": example({"png": image_file()})
        + field(1, field(1, field(1, b"label") + field(2, field(3, field(1, b"\1" * 30_000_000))))),
        "label-huge": example({"png": image_file(), "label": 2**63 - 1, "caption": b"x"}),
        "caption-10-MB": example({"png": image_file(), "caption": b"x" * 10**7}),
        "caption-not-utf8": example({"png": image_file(), "caption": b"\xff"}),
        "name-not-utf8": example({"png": image_file(), "key": b"\xff", "caption": b"x"}),
        "image-is-integer": example({"png": 7, "caption": b"x"}),
    }.items():
        yield name, file(record(message) + whole)
    yield (
        "wrapped-features",
        file(
            record(field(1, b"".join(field(1, field(1, str(n).encode())) for n in range(20_000))))
            + whole
        ),
    )
    yield "many-empty-records", file(record(b"") * 3000)


def bad_indices(good: Path) -> Iterator[tuple[str, Damage]]:
    """Index files that lie, newer than their shards."""

    def numbers(*values: int) -> Damage:
        return content(struct.pack(f"<{len(values)}Q", *values))

    end = len(good_tar())
    yield "empty", content(b"")
    yield "odd", content(b"\0" * 9)
    yield "one", numbers(0)
    yield "backwards", numbers(0, 4096, 1024, end - 1024)
    yield "beyond", numbers(0, 2**40, 2**41)
    yield "largest", numbers(0, 2**64 - 1, 2**64 - 1, 2**64 - 1)
    yield "signed", numbers(0, 2**63, 2**63 + 512, 2**63)
    yield "between-blocks", numbers(0, 700, 1500, end - 1024)
    yield "ends-right", replace(lambda data: data[:8] + b"\xff" * (len(data) - 16) + data[-8:])
    yield "zero-lengths", replace(lambda data: data[:8] * (len(data) // 8 - 1) + data[-8:])
    yield "many", replace(lambda data: bytes(2**20) + data[-8:])
    yield "text", content(b"0\n1024\n2048\n")


def bad_tables() -> Iterator[tuple[str, bytes]]:
    """CSV files."""
    head = b"filepath,caption\n"
    yield "no-rows", head
    yield "no-header", b"red/0.png,a\n"
    yield "not-utf8", head + b"red/0.png,\xff\n"
    yield "utf16", "filepath,caption\nred/0.png,a\n".encode("utf-16")
    yield "nul", head + b"red/0.png,a\0b\n"
    yield "nul-path", head + b"red/\x000.png,a\nred/0.png,b\n"
    yield "open-quote", head + b'red/0.png,"a\n' * 9
    yield "field-10-MB", head + b"red/0.png," + b"x" * 10**7 + b"\n"
    yield "caption-120-KB", head + b"red/0.png," + b"x" * 120_000 + b"\nred/0.png,b\n"
    yield "many-columns", b"filepath,caption" + b",c" * 100_000 + b"\nred/0.png,a\n"
    yield "more-fields", head + b"red/0.png,a,b,c\n"
    yield "fewer-fields", head + b"red/0.png\n"
    yield "same-columns", b"filepath,filepath,filepath\nred/0.png,a,b\n"
    yield "path-up", head + b"../../../../../../etc/passwd,a\nred/0.png,b\n"
    yield "path-absolute", head + b"/etc/passwd,a\nred/0.png,b\n"
    yield "path-device", head + b"/dev/zero,a\n/dev/stdin,a\n/proc/self/mem,a\nred/0.png,b\n"
    yield "path-long", head + b"x" * 9000 + b",a\nred/0.png,b\n"
    yield "path-empty", head + b",a\nred/0.png,b\n"
    yield "path-pipe", head + b"pipe:touch PWNED,a\nred/0.png,b\n"
    yield "path-url", head + b"http://127.0.0.1:9/x.png,a\nred/0.png,b\n"
    yield "formula", head + b"=cmd|' /C calc'!A0,a\nred/0.png,b\n"
    yield "label-huge", b"filepath,label\nred/0.png," + b"9" * 5000 + b"\n"
    yield "label-negative", b"filepath,label\nred/0.png,-1\n"
    yield "label-mixed", b"filepath,label\nred/0.png,1\nred/1.png,x\n"
    yield "cr-only", b"filepath,caption\rred/0.png,a\r"
    yield "html", b"<!DOCTYPE html><p>404"


def bad_notes() -> Iterator[tuple[str, bytes]]:
    """COCO's and Karpathy's JSON."""
    kinds: tuple[object, ...] = (None, 7, "x", [], {}, [None], [7], ["x"], [[]], [{}], 10**30, True)
    for key in ("images", "annotations"):
        for number, value in enumerate(kinds):
            yield f"{key}-{number}", json.dumps({**coco(), key: value}).encode()
    for place, key in (("images", "file_name"), ("images", "id"), ("annotations", "caption")):
        for number, value in enumerate(kinds[:7]):
            whole = coco()
            whole[place][0][key] = value
            yield f"{place}-{key}-{number}", json.dumps(whole).encode()
    for number, value in enumerate(("/dev/zero", "../" * 20 + "etc/passwd", "a\0b", "\ud800", "")):
        whole = coco()
        whole["images"][0]["file_name"] = value
        yield f"path-{number}", json.dumps(whole).encode()
    whole = coco()
    whole["annotations"][0]["caption"] = "x" * 10**7
    yield "caption-10-MB", json.dumps(whole).encode()
    for number, value in enumerate(kinds):
        image = {"filename": "red/0.png", "split": "test", "sentences": value}
        yield f"sentences-{number}", json.dumps({"images": [image]}).encode()
        image = {"filename": value, "split": value, "sentences": [{"raw": "x"}]}
        yield f"split-{number}", json.dumps({"images": [image]}).encode()


def bad_parquet() -> Iterator[tuple[str, Damage]]:
    """Parquet files whose rows are more than their bytes."""
    import pyarrow
    import pyarrow.parquet

    def table(**columns: Any) -> Damage:
        return lambda path: pyarrow.parquet.write_table(pyarrow.table(columns), path)

    yield (
        "no-rows",
        table(
            image=pyarrow.array([], pyarrow.binary()), caption=pyarrow.array([], pyarrow.string())
        ),
    )
    yield "nulls", table(image=pyarrow.nulls(3, pyarrow.binary()), caption=["a", "b", "c"])
    yield (
        "nulls-5M",
        table(
            image=pyarrow.nulls(5_000_000, pyarrow.binary()),
            caption=pyarrow.nulls(5_000_000, pyarrow.string()),
        ),
    )
    yield "one-image-many-times", table(image=[bytes(10**6)] * 2000, caption=["x"] * 2000)
    yield "one-caption-many-times", table(image=[image_file()] * 500, caption=["x" * 10**6] * 500)
    yield "caption-10-MB", table(image=[image_file()], caption=["x" * 10**7])
    yield "integers", table(image=[1, 2], caption=[1, 2])
    yield "lists", table(image=[[b"x"]], caption=[["a", None, "b"]])
    yield "label-huge", table(image=[image_file()], label=[2**63 - 1])
    yield "paths", table(image=["/dev/zero", "/etc/passwd", "a\0b", ""], caption=["a"] * 4)
    yield "no-column", table(a=[1])
    yield "footer-lies", content(b"PAR1" + bytes(40) + struct.pack("<I", 2**31 - 1) + b"PAR1")
    yield "footer-deep", content(b"PAR1" + b"\x1c" * 5000 + struct.pack("<I", 5000) + b"PAR1")


def bad_pickles() -> Iterator[tuple[str, bytes | None, Data | None]]:
    """CoreNet's metadata and samples; None leaves the good file."""
    text = base64.b64encode(image_file())
    bombs: dict[str, bytes] = {
        "command": pickle.dumps(Evil()),
        "command-2": b"cos\nsystem\n(S'touch PWNED'\ntR.",
        "builtins": b"cbuiltins\neval\n(S'1'\ntR.",
        "build": b"c_codecs\nencode\n}S'a'\nS'b'\nsb.",
        "persistent": b"Px\n.",
        "extension": b"\x82\x01.",
        "bytearray-2.4-GB": b"\x80\x05\x96" + struct.pack("<Q", 2_400_000_000) + b".",
        "bytes-2.4-GB": b"\x80\x04\x8e" + struct.pack("<Q", 2_400_000_000) + b".",
        "text-2.4-GB": b"\x80\x04\x8d" + struct.pack("<Q", 2_400_000_000) + b".",
        "memo": b"]r" + struct.pack("<I", 300_000_000) + b".",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.",
        "long": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".",
        "long-negative": b"\x80\x02\x8b" + struct.pack("<i", -5) + b".",
        "digits": b"L" + b"9" * 5000 + b"L\n.",
        "deep": b"(" * 10**5 + b"l" * 10**5 + b".",
        "laughs": b"]q\0" + b"".join(b"](h%cq%ce" % (n, n + 1) for n in range(99)) + b".",
        "encode-again": b"c_codecs\nencode\nq\0X"
        + struct.pack("<I", 10**6)
        + b"x" * 10**6
        + b"q\1"
        + b"h\0h\1X\6\0\0\0latin1\x86R0" * 5000
        + b"N.",
        "dup": b"]" + b"2" * 10**6 + b".",
        "stop-missing": b"]",
        "empty": b"",
        "text": b"hello",
        "list": pickle.dumps([1]),
        "ten-million": pickle.dumps({"total_tar_files": 1, "tar_file_names": list(range(10**6))}),
        "count-huge": pickle.dumps({"total_tar_files": 10**9}),
        "count-digits": pickle.dumps({"total_tar_files": 10**5000}),
        "count-negative": pickle.dumps({"total_tar_files": -1}),
        "count-true": pickle.dumps({"total_tar_files": 1, "tar_file_names": [["a"] * 9]}),
        "names-up": pickle.dumps({"total_tar_files": 1, "tar_file_names": ["../../etc/passwd"]}),
        "names-odd": pickle.dumps({"total_tar_files": 1, "tar_file_names": [b"x"]}),
    }
    for name, data in bombs.items():
        yield f"metadata-{name}", data, None
        yield f"sample-{name}", None, functools.partial(_packed, data)
    for name, value in {
        "no-image": {"text": "x"},
        "image-text": {"image": "not base64!", "text": "x"},
        "image-number": {"image": 7, "text": "x"},
        "text-number": {"image": text, "text": 7},
        "text-deep": {"image": text, "text": [["x"]]},
        "text-10-MB": {"image": text, "text": "x" * 10**7},
        "texts-many": {"image": text, "texts": ["x"] * 80_000},
    }.items():
        yield f"sample-{name}", None, functools.partial(_packed, pickle.dumps(value))
    yield "gzip-bomb", None, lambda: gzip.compress(tar_file({"0/0.pkl": bytes(300 * 2**20)}))
    yield "gzip-zeros", None, lambda: gzip.compress(bytes(2**28))
    yield "gzip-many", None, gzip.compress(b"") * 50_000


def _packed(sample: bytes) -> bytes:
    """CoreNet's archive of a sample, twice."""
    return gzip.compress(tar_file({"0/0.pkl": sample, "0/1.pkl": sample}), 1)


def bad_weights(suffix: str, good: Path) -> dict[str, Damage]:
    """Files of weights or archives whose headers lie."""
    return {
        "safetensors": _bad_safetensors,
        "pt": _bad_torch_files,
        "npz": _bad_archives,
        "gz": _bad_gzip,
    }[suffix]()


def _bad_safetensors() -> dict[str, Damage]:
    def file(header: object, body: bytes = b"", size: int | None = None) -> Damage:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return content(struct.pack("<Q", len(text) if size is None else size) + text + body)

    def tensor(kind: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> Damage:
        return file({"a": {"dtype": kind, "shape": shape, "data_offsets": offsets}}, bytes(4))

    return {
        "header-huge": file({}, size=2**63),
        "header-largest": file({}, size=2**64 - 1),
        "header-cut": file({}, size=99),
        "header-empty": file(b""),
        "header-deep": file(b"[" * 10**5),
        "header-list": file([]),
        "header-null": file(b"null"),
        "header-binary": file(b"\xff\xfe"),
        "header-spaces": file(b" " * 10**6),
        "header-many": file({str(n): {} for n in range(10**5)}),
        "same-name": file(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2, bytes(4)),
        "kind": tensor("F7"),
        "kind-number": tensor(7),
        "shape-huge": tensor(shape=(2**40, 2**40)),
        "shape-negative": tensor(shape=(-1,)),
        "shape-text": tensor(shape="x"),
        "shape-deep": tensor(shape=[[1]]),
        "offsets-back": tensor(offsets=(4, 0)),
        "offsets-beyond": tensor(offsets=(0, 2**40)),
        "offsets-largest": tensor(offsets=(2**64 - 4, 2**64 - 1)),
        "offsets-three": tensor(offsets=(0, 1, 2)),
        "hole": file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
        "overlap": file(
            {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, bytes(4)
        ),
        "other-tensors": tensor(),
        "metadata": file({"__metadata__": {"a": 1}}),
        "flipped": replace(lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:]),
        "more-bytes": replace(lambda data: data + bytes(64)),
        "fewer-bytes": replace(lambda data: data[:-4]),
    }


def _bad_torch_files() -> dict[str, Damage]:
    def archive(pickled: bytes, **more: bytes) -> Damage:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as zipped:
            zipped.writestr("archive/data.pkl", pickled)
            zipped.writestr("archive/version", b"3\n")
            for name, data in more.items():
                zipped.writestr(f"archive/{name}", data)
        return content(out.getvalue())

    selfish: dict[str, Any] = {}
    selfish["state_dict"] = selfish
    nested: Any = {}
    for _ in range(100):
        nested = {"state_dict": nested}
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    storage = b"((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nL9999999999L\ntQ"
    return {
        "command": content(pickle.dumps(Evil())),
        "command-zip": archive(pickle.dumps(Evil())),
        "command-nested": archive(pickle.dumps({"state_dict": {"a": Evil()}})),
        "torchscript": archive(
            pickle.dumps({}), **{"constants.pkl": b"\x80\x02).", "code/x.py": b"import os"}
        ),
        "torchscript-command": archive(pickle.dumps(Evil()), **{"constants.pkl": b"\x80\x02)."}),
        "contains-itself": archive(pickle.dumps(selfish, 2)),
        "deep": archive(pickle.dumps(nested, 2)),
        "no-state-dict": archive(pickle.dumps([1, 2], 2)),
        "numbers": archive(pickle.dumps({"a": 1}, 2)),
        "huge-storage": archive(
            rebuild + storage + b"I0\n(I9999999999\nt(I1\nt\x89c__builtin__\ndict\n)RtR."
        ),
        "memo": archive(b"]r" + struct.pack("<I", 300_000_000) + b"."),
        "bytearray": archive(b"\x80\x05\x96" + struct.pack("<Q", 2_400_000_000) + b"."),
        "legacy-magic": content(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)),
        "zip-empty": content(b"PK\x05\x06" + bytes(18)),
        "zip-lies": replace(lambda data: data[:-22] + data[-22:-12] + b"\xff" * 12),
        "zip-bomb": content(lambda: _zip_bomb("archive/data.pkl")),
        "names-up": content(_zip({"../../PWNED": b"x", "archive/data.pkl": b"}."})),
        "two-roots": content(_zip({"a/data.pkl": b"}.", "b/data.pkl": b"}."})),
    }


def _bad_archives() -> dict[str, Damage]:
    arrays = {f"array-{name}": content(_zip({"a.npy": data})) for name, data in bad_arrays()}
    return {
        **arrays,
        "zip-empty": content(b"PK\x05\x06" + bytes(18)),
        "zip-bomb": content(lambda: _zip_bomb("a.npy")),
        "zip-text": content(_zip({"a.txt": b"x"})),
    }


def _bad_gzip() -> dict[str, Damage]:
    return {
        "bomb-lines": content(lambda: gzip.compress(b"a b\n" * 2**26)),
        "bomb-line": content(lambda: gzip.compress(b"a" * 2**30, 1)),
        "cut": replace(lambda data: data[:-9]),
        "garbage-after": replace(lambda data: data + b"garbage"),
        "check-wrong": replace(lambda data: data[:-8] + bytes(8)),
        "nested": replace(lambda data: gzip.compress(data)),
        "not-utf8": content(gzip.compress(b"\xff\xfe \x80\n")),
        "three-words": content(gzip.compress(b"a b c\n")),
    }


def _zip(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return out.getvalue()


def _zip_bomb(name: str) -> bytes:
    return _zip({name: bytes(2**30)})


def _deflated(count: int) -> bytes:
    import zlib

    return zlib.compress(bytes(count), 9)


def _with_checksum(data: bytearray, start: int = 0) -> bytes:
    head = data[start : start + 512]
    head[148:156] = b" " * 8
    data[start + 148 : start + 156] = f"{sum(head):06o}\0 ".encode()
    return bytes(data)


def _renamed(data: bytes, before: bytes, after: bytes) -> bytes:
    changed = bytearray(data)
    changed[: len(before)] = after.ljust(len(before), b"\0")[: len(before)]
    return _with_checksum(changed)


def _jpeg_of_passes(side: int, passes: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (side, side)).save(out, "JPEG", progressive=True)
    whole = out.getvalue()
    scan = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + scan * passes + whole[-2:]


def _bmp_of_runs(width: int, height: int) -> bytes:
    row = bytes([255, 7]) * (width // 255) + bytes([width % 255, 7]) + b"\0\0"
    data = row * height + b"\0\1"
    head = struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + head + info + bytes(1024) + data


def _tiff(tags: dict[int, int]) -> bytes:
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items())
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(200)
