"""Stores compiled programs on disk, so that the next start of a run compiles nothing.

    W/compilation_cache/NAME-KEY-MACHINE      a program's SHA-256, then the program as JAX packs it

JAX has its own cache, whose keys are used here. Its files are not used, for three reasons: JAX
writes them in place, so a kill leaves half a program, which JAX never replaces; JAX does not check
the bytes of a program before running it; and on a CPU, the key leaves out the instruction set.

No error here ends a run. If a file cannot be read or written, one line says so, and the program is
compiled again.
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
from jax._src import compilation_cache as jax_cache  # JAX has no public API for a custom cache
from jax._src.compilation_cache_interface import CacheInterface

from bertjax import processor, storage
from bertjax.errors import StorageError, one_line

_log = logging.getLogger(__name__)

VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # if set, JAX's own cache is used instead
MOST_BYTES = 2 << 30  # the limit of one directory; a program takes 0.3 MB (CPU) to some 50 MB
_DIGEST = 32  # bytes of a SHA-256

# JAX's options while a directory is in use. An option set as an environment variable is left alone.
_OPTIONS = {
    # JAX's default is 1 s, but a start runs dozens of programs that compile faster.
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    # XLA's autotuning files have no hash, and a damaged one ends the compilation.
    "jax_persistent_cache_enable_xla_caches": "none",
}


@contextlib.contextmanager
def kept(directory: Path | None) -> Iterator[None]:
    """While entered, JAX stores compiled programs in `directory` and loads them from there.

    Does nothing for None, or if JAX already has a directory from `jax.config` or from
    JAX_COMPILATION_CACHE_DIR; an empty variable means no cache at all. With several processes, all
    processes read and process 0 writes.
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
    """The files of one directory, as a cache with JAX's interface: `get` and `put`.

    Args:
      directory: a local directory or gs://; created by the first `put`.
      most_bytes: the limit of the directory. Programs that this process has not used make room for
        a new one.
    """

    def __init__(self, directory: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._most = directory, most_bytes
        self._machine = _instruction_set() if jax.default_backend() == "cpu" else "any"
        self._used: set[str] = set()
        self._held: dict[str, int] = {}  # name -> bytes
        self._quiet = jax.process_index() != 0
        with self._refusals_reported("read"):
            self._held = _files(directory)

    def get(self, key: str) -> bytes | None:
        """The program of a key; None if there is no program or its bytes have changed."""
        name = f"{key}-{self._machine}"
        if name not in self._held:
            return None
        with self._refusals_reported("read"):
            try:
                data = storage.read(self._path / name)
            except FileNotFoundError:  # another run with this directory made room
                del self._held[name]
                return None
            if hashlib.sha256(data[_DIGEST:]).digest() == data[:_DIGEST]:
                self._used.add(name)
                return data[_DIGEST:]
            self._say(f"{self._path / name}: damaged; compiled again")
        del self._held[name]
        return None

    def put(self, key: str, value: bytes) -> None:
        """Stores the program of a key atomically."""
        name, data = f"{key}-{self._machine}", hashlib.sha256(value).digest() + value
        with self._refusals_reported("written"):
            if self._make_room(len(data)):
                if not storage.is_remote(self._path):
                    self._path.mkdir(parents=True, exist_ok=True)
                storage.write(self._path / name, data)
                self._held[name] = len(data)
                self._used.add(name)

    def _make_room(self, size: int) -> bool:
        """Removes unused programs if needed; returns whether `size` more bytes fit."""
        for name in sorted(self._held.keys() - self._used):
            if sum(self._held.values()) + size <= self._most:
                break
            (self._path / name).unlink(missing_ok=True)
            del self._held[name]
        return sum(self._held.values()) + size <= self._most

    @contextlib.contextmanager
    def _refusals_reported(self, done: str) -> Iterator[None]:
        """Turns the first refusal of the disk or bucket into a line; later ones are silent."""
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
    """`{name: bytes}` of the files in a directory; {} if the directory does not exist."""
    if storage.is_remote(directory):
        return {name: facts["bytes"] for name, facts in storage.checksums(directory).items()}
    if not directory.is_dir():
        return {}
    found = (path for path in directory.iterdir() if path.is_file())
    return {path.name: path.stat().st_size for path in found}


def _instruction_set() -> str:
    """A short hash of this processor's instruction set, which XLA's CPU programs depend on."""
    pattern = r"^(model name|CPU part|flags|Features)\s*:\s*(.*)$"
    found = re.findall(pattern, processor.cpuinfo(), re.MULTILINE)
    said = dict(reversed(found)) or platform.processor()  # the first core's values win
    return hashlib.sha256(f"{platform.machine()} {said}".encode()).hexdigest()[:8]
