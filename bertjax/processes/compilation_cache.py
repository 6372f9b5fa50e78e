"""Compiled programs kept on disk, so that the next start of a run compiles nothing.

    W/compilation_cache/NAME-KEY-MACHINE      SHA-256 of a program, then the program as JAX packs it

JAX has such a cache of its own, and its keys are used here. Its files are not: it writes them in
place, so that a kill leaves half a program, which it never replaces; it checks no bytes of a
program that it is going to run; and on a CPU its key leaves out the instruction set.

Nothing here ends a run. What cannot be read or written is said once and compiled again.
"""

import contextlib
import hashlib
import logging
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import jax
from jax._src import compilation_cache as jax_cache  # a cache of one's own has no public name
from jax._src.compilation_cache_interface import CacheInterface

from bertjax import storage
from bertjax.errors import StorageError, one_line

_log = logging.getLogger(__name__)

VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # where it is set, JAX alone decides
MOST_BYTES = 2 << 30  # of one directory; a program takes 0.3 MB (CPU) to some 50 MB
_DIGEST = 32  # bytes of a SHA-256

# What JAX is told while a directory is kept, and the variable that keeps it from being told.
_OPTIONS = {
    # A start runs dozens of programs that compile in less.
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    # XLA's files on autotuning carry no hash, and a damaged one ends the compilation.
    "jax_persistent_cache_enable_xla_caches": "none",
}


@contextlib.contextmanager
def kept(directory: Path | None) -> Iterator[None]:
    """While entered, programs that JAX compiles are kept in `directory`, and taken from there.

    Does nothing for None, or where JAX has a directory already: by JAX_COMPILATION_CACHE_DIR, which
    may be empty for none, or by `jax.config`. With several processes all read, process 0 writes.
    """
    is_set = VARIABLE in os.environ or getattr(jax.config, VARIABLE.lower())
    if directory is None or is_set:
        yield
        return
    options = {name: v for name, v in _OPTIONS.items() if name.upper() not in os.environ}
    options[VARIABLE.lower()] = os.fspath(directory)
    before = {name: getattr(jax.config, name) for name in options}
    jax_cache.reset_cache()
    jax_cache._cache, jax_cache._cache_initialized = Programs(directory), True
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        jax_cache.reset_cache()


class Programs(CacheInterface):
    """The files of one directory, in the form that JAX asks of a cache: `get` and `put`.

    Args:
      directory: local or on gs://; made when something is put there.
      most_bytes: where a program would go beyond, those that this process has not used leave first.
    """

    def __init__(self, directory: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._most = directory, most_bytes
        self._machine = _instruction_set() if jax.default_backend() == "cpu" else "any"
        self._used: set[str] = set()
        self._held: dict[str, int] = {}  # name -> bytes
        self._quiet = jax.process_index() != 0
        with self._patience("read"):
            self._held = _files(directory)

    def get(self, key: str) -> bytes | None:
        """The program of a key; None where there is none, or its bytes have changed."""
        name = f"{key}-{self._machine}"
        if name not in self._held:
            return None
        with self._patience("read"):
            try:
                data = storage.read(self._path / name)
            except FileNotFoundError:  # another run of this directory made room
                del self._held[name]
                return None
            if hashlib.sha256(data[_DIGEST:]).digest() == data[:_DIGEST]:
                self._used.add(name)
                return data[_DIGEST:]
            self._say(f"{self._path / name}: damaged; compiled again")
        del self._held[name]
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keeps the program of a key, whole or not at all."""
        name, data = f"{key}-{self._machine}", hashlib.sha256(value).digest() + value
        with self._patience("written"):
            if self._make_room(len(data)):
                if not storage.is_remote(self._path):
                    self._path.mkdir(parents=True, exist_ok=True)
                storage.write(self._path / name, data)
                self._held[name] = len(data)
                self._used.add(name)

    def _make_room(self, size: int) -> bool:
        """Whether `size` more bytes may be written."""
        for name in sorted(self._held.keys() - self._used):
            if sum(self._held.values()) + size <= self._most:
                break
            (self._path / name).unlink(missing_ok=True)
            del self._held[name]
        return sum(self._held.values()) + size <= self._most

    @contextlib.contextmanager
    def _patience(self, done: str) -> Iterator[None]:
        """What the disk or the bucket refuses within is said once, and that is all."""
        try:
            yield
        except (OSError, StorageError) as error:
            why = getattr(error, "strerror", None) or one_line(error)
            self._say(f"{self._path}: cannot be {done}: {why}; programs are compiled again")
            self._quiet = True

    def _say(self, line: str) -> None:
        if not self._quiet:
            _log.warning(line)


def _files(directory: Path) -> dict[str, int]:
    """`{name: bytes}` of the files in a directory, {} where it is not there."""
    if storage.is_remote(directory):
        return {name: facts["bytes"] for name, facts in storage.checksums(directory).items()}
    if not directory.is_dir():
        return {}
    found = (path for path in directory.iterdir() if path.is_file())
    return {path.name: path.stat().st_size for path in found}


def _instruction_set() -> str:
    """Of this machine's processor, as a short hash: XLA compiles for exactly what it has."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        text = ""
    found = re.findall(r"^(model name|CPU part|flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    said = dict(reversed(found)) or platform.processor()  # of the first core
    return hashlib.sha256(f"{platform.machine()} {said}".encode()).hexdigest()[:8]
