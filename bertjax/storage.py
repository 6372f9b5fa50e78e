"""Files on a disk, or objects in Google Cloud Storage (gs://, extra `gcs`).

A local path is a `pathlib.Path`, a gs:// path is an `etils.epath.Path`; both join and print alike.
This module hides the other differences. An object appears atomically, and the store knows its
checksum. But an object cannot grow, and there are no directories: a rename copies every object.

A refusal by the store is a StorageError of one line; no answer is Unavailable. A missing object
raises FileNotFoundError, as on a disk.
"""

import base64
import contextlib
import functools
import glob
import io
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bertjax.errors import StorageError, Unavailable, UsageError, one_line

_PREFIX = "gs://"
_BLOCK = 16 << 20  # bytes of one request when a file is read or written in order

# Libraries whose exceptions count as failures of the object store.
_CLIENTS = ("aiohttp", "fsspec", "gcsfs", "google", "requests")
# Class names of their exceptions that have no HTTP status and mean a network failure.
_LOST = {"ClientConnectionError", "ClientPayloadError", "ConnectionError", "Timeout"}
_LOST |= {"TransportError", "TimeoutError"}


def path(name: str | os.PathLike) -> Path:
    """`name` as a path whose methods work, local or gs://; a leading ~ is the home directory.

    Raises:
      UsageError: the scheme is unknown, or gs:// is used without the extra `gcs`.
    """
    text = os.fspath(name)
    if "://" not in text:
        return Path(os.path.expanduser(text))
    if not text.startswith(_PREFIX) or not text.removeprefix(_PREFIX).strip("/"):
        raise UsageError(f"{text}: neither a local path nor gs://BUCKET/...")
    _objects()
    from etils import epath

    return epath.Path(text)


def absolute(name: str | os.PathLike) -> Path:
    """The absolute `path`; gs:// stays as it is, since `epath` would take it for a local folder."""
    found = path(name)
    return found if is_remote(found) else found.absolute()


def is_remote(name: str | os.PathLike) -> bool:
    """Whether the path is in an object store."""
    return os.fspath(name).startswith(_PREFIX)


@functools.cache
def _objects() -> Any:
    """The fsspec file system that `epath` uses too, so that both share credentials."""
    try:
        import fsspec
        import gcsfs  # noqa: F401 (fsspec imports it by name)
        from etils import epath  # noqa: F401
    except ImportError as error:
        raise UsageError(f"gs://: {error}; install the extra: pip install 'bertjax[gcs]'") from None
    # TensorStore and other hosts write too, so a cached listing would be out of date.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    for name in ("gcsfs", "google.auth"):  # bertjax reports the exception itself, once
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with refusals("gs://"):
        return fsspec.filesystem("gcs", finalize_on_close=True)


def refusal(error: BaseException) -> str | None:
    """One line why the object store or the network refused; None for any other error."""
    text = one_line(error)
    forbidden = isinstance(error, OSError) and text.startswith("Forbidden")  # gcsfs raises this
    lost = isinstance(error, (TimeoutError, ConnectionError))
    if type(error).__module__.partition(".")[0] not in _CLIENTS and not forbidden and not lost:
        return None
    if forbidden or getattr(error, "code", None) in (401, 403) or "redential" in text:
        text += (
            "; let the account of this machine use the bucket (Storage Object Admin and "
            "storage.buckets.get), or log in: gcloud auth application-default login"
        )
    return text


def kind_of(error: BaseException) -> type[StorageError]:
    """Unavailable for a temporary outage, StorageError for a lasting refusal."""
    found = (getattr(error, name, None) for name in ("code", "status"))
    status = next((number for number in found if isinstance(number, int)), None)
    if status is not None:
        passes = status in (408, 429) or status >= 500
    else:  # TensorStore puts the status into the text of a ValueError
        names = {base.__name__ for base in type(error).__mro__}
        text = re.match(r"(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED)\b", str(error))
        passes = bool(names & _LOST or text or getattr(error, "retryable", False))
    return Unavailable if passes else StorageError


@contextlib.contextmanager
def refusals(name: str | os.PathLike) -> Iterator[None]:
    """Turns an object store's refusals inside the block into a StorageError that names `name`."""
    try:
        yield
    except Exception as error:
        reason = refusal(error)
        if reason is None:
            raise
        raise kind_of(error)(f"{name}: {reason}") from error


def require_bucket(name: str | os.PathLike) -> None:
    """Requests the bucket of a gs:// path, so that a typing error ends the run at once.

    Raises:
      StorageError: there is no such bucket, no right to list it, or no credentials.
    """
    if is_remote(name):
        bucket = os.fspath(name).removeprefix(_PREFIX).split("/")[0]
        try:
            with refusals(name):
                _objects().call("GET", "b/{}/o", bucket, maxResults=1)
        except FileNotFoundError:
            raise StorageError(f"{name}: there is no bucket {_PREFIX}{bucket}") from None


# Files


def open_file(name: str | os.PathLike, mode: str = "rb") -> Any:
    """Opens a binary file to read ("rb") or write ("wb") it in order, in bounded memory."""
    if not is_remote(name):
        return open(name, mode)
    with refusals(name):
        file = _objects().open(os.fspath(name), mode, block_size=_BLOCK)
    return io.BufferedReader(file, 1 << 20) if mode == "rb" else file


def read(name: str | os.PathLike, parts: int = 1) -> bytes:
    """The bytes of a file; a large object is read in up to `parts` parallel parts."""
    if not is_remote(name):
        return Path(name).read_bytes()
    with refusals(name):
        return _objects().cat_file(os.fspath(name), concurrency=parts)


def read_ranges(names: Sequence, starts: list[int], ends: list[int]) -> list[bytes]:
    """Bytes `starts[i]` to `ends[i] - 1` of object `names[i]`, for all i, 128 requests in parallel."""
    paths = [os.fspath(name) for name in names]
    with refusals(", ".join(sorted({*paths})[:1])):
        return _objects().cat_ranges(paths, starts, ends, on_error="raise")


def write(name: str | os.PathLike, data: bytes) -> None:
    """Writes a file atomically, even if this process or the machine dies."""
    if is_remote(name):
        with refusals(name):
            return _objects().pipe_file(os.fspath(name), data)
    partial = f"{os.fspath(name)}.{os.getpid()}.tmp"  # several processes may write a shared file
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return os.replace(partial, name)


def request(method: str, name: str | os.PathLike, **query: Any) -> Any:
    """The answer (headers, body) of Google's JSON API: GET, DELETE, or POST `data` as the object.

    Raises FileExistsError if a precondition in `query` does not hold.
    """
    bucket, _, key = os.fspath(name).removeprefix(_PREFIX).partition("/")
    with refusals(name):
        if method != "POST":
            return _objects().call(method, "b/{}/o/{}", bucket, key, **query)
        address = _objects().base.replace("/storage/", "/upload/storage/") + "b/{}/o"
        return _objects().call(method, address, bucket, name=key, **query)


def exists(name: str | os.PathLike) -> bool:
    """Whether a file or directory exists."""
    if not is_remote(name):
        return os.path.exists(name)
    with refusals(name):
        return _objects().exists(os.fspath(name))


def is_file(name: str | os.PathLike) -> bool:
    """Whether the path is a file, not a directory."""
    return os.path.isfile(name) if not is_remote(name) else _info(name).get("type") == "file"


def is_directory(name: str | os.PathLike) -> bool:
    """Whether the path is a directory."""
    return os.path.isdir(name) if not is_remote(name) else _info(name).get("type") == "directory"


def sizes(names: Sequence[str | os.PathLike]) -> list[int]:
    """The bytes of each file; objects are requested in parallel."""
    remote = [os.fspath(name) for name in names if is_remote(name)]
    with refusals(remote[0] if remote else ""):
        found = dict(zip(remote, _objects().sizes(remote) if remote else [], strict=True))
    return [found[os.fspath(n)] if is_remote(n) else os.stat(n).st_size for n in names]


def facts(name: str | os.PathLike) -> dict:
    """Facts that tell versions of a file apart: `bytes`, and `modified` (ns) or `crc32c`."""
    if is_remote(name):
        with refusals(name):
            return _checked(_objects().info(os.fspath(name)))
    found = os.stat(name)
    return {"bytes": found.st_size, "modified": found.st_mtime_ns}


def _checked(info: dict) -> dict:
    return {"bytes": info["size"], "crc32c": base64.b64decode(info["crc32c"]).hex()}


def _info(name: str | os.PathLike) -> dict:
    with refusals(name), contextlib.suppress(FileNotFoundError):
        return _objects().info(os.fspath(name))
    return {}


def find(pattern: str) -> list[str]:
    """The files that match a glob pattern, sorted."""
    if not is_remote(pattern):
        found = glob.glob(os.path.expanduser(pattern), recursive=True)
        return [path for path in sorted(found) if os.path.isfile(path)]
    with refusals(pattern):
        found = _objects().glob(pattern, detail=True)
    return sorted(_PREFIX + name for name, info in found.items() if info["type"] == "file")


# Directories


def folders(directory: Path) -> list[str]:
    """The names of the directories in a directory; [] if `directory` does not exist."""
    if not is_remote(directory):
        return [p.name for p in directory.iterdir() if p.is_dir()] if directory.is_dir() else []
    try:
        with refusals(directory):
            found = _objects().ls(os.fspath(directory), detail=True)
    except FileNotFoundError:
        return []
    names = (info["name"].rstrip("/") for info in found if info["type"] == "directory")
    return [name.rpartition("/")[2] for name in names]


def checksums(directory: Path) -> dict[str, dict]:
    """`{name: {"bytes", "crc32c"}}` of every object under a gs:// directory, from the store.

    One request lists a thousand objects; no object is read.
    """
    with refusals(directory):
        found = _objects().find(os.fspath(directory), detail=True)
    root = os.fspath(directory).removeprefix(_PREFIX).rstrip("/") + "/"
    return {name.removeprefix(root): _checked(info) for name, info in found.items()}


def remove(directory: Path, first: tuple[str, ...] = ()) -> None:
    """Removes a directory with its content, if it exists.

    Args:
      first: the names of objects that are removed first, one after the other, on gs:// only.
    """
    if not is_remote(directory):
        return shutil.rmtree(directory, ignore_errors=not os.path.exists(directory))
    for name in (*(directory / name for name in first), directory):
        with refusals(directory), contextlib.suppress(FileNotFoundError):
            _objects().rm(os.fspath(name), recursive=name == directory)
    return None


def move(source: Path, target: Path, last: str = "") -> None:
    """Renames a directory; on gs://, the store copies every object, then the source is removed.

    Args:
      last: the name of objects to copy after all others, because they mark the target as whole.
    """
    if not is_remote(source):
        return os.rename(source, target)
    names = sorted(checksums(source), key=lambda name: name.rpartition("/")[2] == last)
    late = [name for name in names if name.rpartition("/")[2] == last]
    with refusals(target):
        for some in (names[: len(names) - len(late)], late):
            pairs = [[f"{os.fspath(root)}/{name}" for name in some] for root in (source, target)]
            _objects().copy(*pairs)
    return remove(source, first=tuple(late))
