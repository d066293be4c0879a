"""URLs that data may lie behind: a closed list of schemes, and never a command."""

from __future__ import annotations

import errno
import importlib
import re
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, url2pathname, urlopen

from clip_eval.data.bounds import TEXT, open_regular, refuse_larger
from clip_eval.data.faults import DataError

TIMEOUT = 60.0  # seconds without a byte
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
WEB_SCHEMES = ("http", "https", "file")
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "hf", "memory")
"""Schemes read through fsspec. The list is closed: others of its schemes start programs, open
connections of their own or wrap a second URL."""

PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    "oci": "ocifs",
    "hf": "huggingface_hub",
}
"""The package that fsspec needs for a scheme."""


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error, or a cause of it, says that there is no way to the host.

    Trying again is of no use then, unlike with a connection that breaks.
    """
    while error is not None:
        name = type(error).__name__  # of httpx, which need not be installed
        if name in ("ConnectError", "ConnectTimeout", "gaierror", "ConnectionRefusedError"):
            return True
        if getattr(error, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return True
        reason = getattr(error, "reason", None)
        cause = error.__cause__ or error.__context__
        error = reason if isinstance(reason, BaseException) else cause
    return False


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than a path."""
    return URL.match(text) is not None


def check_url(url: str) -> str:
    """The scheme of a URL, lower case.

    Raises:
        DataError: It is not one that is read here.
    """
    scheme = url.partition("://")[0].lower()
    known = (*WEB_SCHEMES, *OBJECT_STORES)
    if scheme not in known:
        raise DataError(f"{url}: expected a URL of {', '.join(known)}, got {scheme}://")
    if "::" in url:
        raise DataError(f"{url}: expected one URL, got several joined by ::")
    return scheme


def base_name(location: str) -> str:
    """The last part of a path, or of the path of a URL."""
    path = unquote(urlsplit(location).path) if is_url(location) else location
    return path.rpartition("/")[2]


def open_location(location: str) -> IO[bytes]:
    """A file on disk or behind a URL as a stream of bytes; a name is never run as a command.

    Args:
        location: Path, or URL of a scheme in `WEB_SCHEMES` or `OBJECT_STORES`.

    Raises:
        DataError: The URL's scheme is not read here.
        OSError: It cannot be opened.
    """
    if not is_url(location):
        return open(open_regular(location), "rb")
    scheme = check_url(location)
    if scheme == "file":
        _, host, path, _, _ = urlsplit(location)
        if host not in ("", "localhost"):
            raise FileNotFoundError(errno.ENOENT, "not on this machine", location)
        return open(open_regular(url2pathname(path)), "rb")
    if scheme in WEB_SCHEMES:
        request = Request(location, headers={"User-Agent": "clip-eval"})
        try:
            stream: IO[bytes] = urlopen(request, timeout=TIMEOUT)
        except URLError as error:
            if isinstance(error.reason, OSError):
                raise error.reason from error
            raise
        return stream
    try:
        fsspec: Any = importlib.import_module("fsspec")  # it has no types
        opened: IO[bytes] = fsspec.open(location, "rb").open()
    except ImportError as error:
        raise DataError(
            f"{location}: {scheme}:// needs the package {PACKAGES.get(scheme, 'fsspec')}, which is "
            f"not installed; pip install fsspec {PACKAGES.get(scheme, '')}".rstrip()
        ) from error
    return opened


def read_url(url: str) -> bytes | None:
    """The content of a small file behind a URL; None where there is no such file.

    Raises:
        OSError: The server does not answer, or the file is too large.
    """
    try:
        with open_location(url) as stream:
            content: bytes = stream.read(TEXT.value() + 1)
        refuse_larger(len(content), TEXT, url)
        return content
    except FileNotFoundError:
        return None
    except HTTPError as error:
        if 400 <= error.code < 500:
            return None
        raise
