"""The manifest of a checkpoint: size and hash of every file, shapes of every array.

Orbax restores flipped bits without an error. So a step directory is whole only if it has an
`integrity.json` that matches every byte, the manifest's own bytes included. On a disk, the hash is
SHA-256. On gs://, the hash is the CRC32C that the store keeps for every object, so one listing
compares all files.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
from pathlib import Path

import google_crc32c

from bertjax import storage
from bertjax.errors import UsageError

MANIFEST = "integrity.json"

_BLOCK = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class StepReport:
    """The result of re-reading one step directory."""

    step: int
    num_files: int
    num_bytes: int
    problems: tuple[str, ...]  # one line for every damaged file; empty if the step is whole
    unfinished: bool = False  # no manifest: the save was cut off or is still under way

    def __str__(self) -> str:
        if self.unfinished:
            return f"step {self.step}: unfinished: its save was cut off, or is still under way"
        if not self.problems:
            return f"step {self.step}: whole, {self.num_files} files, {self.num_bytes:,} bytes"
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"step {self.step}: {self.problems[0]}{more}"


def write(step_dir: Path, shapes: dict, identity: dict[str, str]) -> None:
    """Hashes every file of a committed step, then writes the step's manifest atomically.

    Args:
      shapes: name, dtype and shape of every array (`shapes.of`).
      identity: the job's `Job.identity`.
    """
    if storage.is_remote(step_dir):
        files = _objects(step_dir)
    else:
        names = _files(step_dir)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            entries = pool.map(lambda name: _entry(step_dir / name, sync=True), names)
        files = dict(zip(names, entries, strict=True))
    manifest = {"format": 1, "step": int(step_dir.name), "arrays": shapes, "files": files}
    manifest |= {"identity": identity} if identity else {}
    storage.write(step_dir / MANIFEST, _dump(manifest))
    if storage.is_remote(step_dir):
        return
    for directory in (step_dir, step_dir.parent):
        descriptor = os.open(directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _dump(manifest: dict) -> bytes:
    """The bytes of a manifest with its own hash; equal manifests give equal bytes."""
    body = json.dumps(manifest, sort_keys=True)
    own = hashlib.sha256(body.encode()).hexdigest()
    return json.dumps({**manifest, "sha256": own}, indent=1, sort_keys=True).encode() + b"\n"


def load(step_dir: Path) -> dict:
    """The manifest of a step directory.

    Raises:
      ValueError: the manifest is damaged; the message says how.
      FileNotFoundError: there is no manifest.
    """
    raw = storage.read(step_dir / MANIFEST)
    try:
        manifest = json.loads(raw)
        del manifest["sha256"]
        intact = _dump(manifest) == raw and manifest["step"] == int(step_dir.name)
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise ValueError(f"{MANIFEST} is damaged (it does not match its own hash)")
    return manifest


def require_same(step_dir: Path, identity: dict[str, str]) -> None:
    """Raises UsageError if a whole step was trained with other frozen parameters."""
    held = load(step_dir).get("identity", {})
    for name in sorted(held.keys() | identity.keys()):
        before, now = held.get(name), identity.get(name)
        if before == now:
            continue
        if before is None:
            raise UsageError(
                f"config.{name}: {step_dir} was trained without one; take another --workdir, with "
                "config.init_from to start from these weights"
            )
        raise UsageError(
            f"config.{name}: {step_dir} was trained with another {name} (SHA-256 {before[:12]}, "
            f"now {(now or 'none')[:12]}); name the same one, or take another --workdir"
        )


def _files(step_dir: Path) -> list[str]:
    found = (path for path in step_dir.rglob("*") if not path.is_dir())
    return sorted(path.relative_to(step_dir).as_posix() for path in found if path.name != MANIFEST)


def _objects(step_dir: Path) -> dict[str, dict]:
    """Size and CRC32C of every file, as the object store lists them."""
    entries = storage.checksums(step_dir)
    entries.pop(MANIFEST, None)
    return entries


def _entry(path: Path, kind: str = "sha256", *, sync: bool = False) -> dict:
    with storage.open_file(path) as file:
        if sync:  # after a power cut, the disk still holds the bytes that are hashed here
            os.fsync(file.fileno())
        if kind == "sha256":
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            checksum = google_crc32c.Checksum()
            while block := file.read(_BLOCK):
                checksum.update(block)
            digest = checksum.hexdigest().decode()
        return {"bytes": file.tell(), kind: digest}


def inspect(step_dir: Path, *, reread: bool = True) -> StepReport:
    """Re-reads every byte of a step directory and compares it with the manifest.

    Args:
      reread: False trusts the checksums of an object store and reads no file there.

    Raises:
      StorageError: the object store refuses access.
    """
    step = int(step_dir.name)
    try:
        expected = load(step_dir)["files"]
    except FileNotFoundError:
        return StepReport(step, 0, 0, (f"{MANIFEST} is missing",), unfinished=True)
    except (ValueError, OSError) as error:
        return StepReport(step, 0, 0, (str(error),))
    is_remote = storage.is_remote(step_dir)
    listed = _objects(step_dir) if is_remote else {}
    names = sorted(expected.keys() | (listed if is_remote else set(_files(step_dir))))

    def problem(name: str) -> str | None:
        known = None if reread else listed.get(name)
        return _problem(step_dir / name, name, expected.get(name), known)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        problems = pool.map(problem, names)
    num_bytes = sum(entry["bytes"] for entry in expected.values())
    return StepReport(step, len(names), num_bytes, tuple(p for p in problems if p))


def _problem(path: Path, name: str, expected: dict | None, known: dict | None) -> str | None:
    if expected is None:
        return f"{name}: not part of this checkpoint"
    kind = "crc32c" if "crc32c" in expected else "sha256"  # depends on where the step was saved
    try:
        with storage.refusals(path):
            found = known if known and kind in known else _entry(path, kind)
    except FileNotFoundError:
        return f"{name}: missing"
    except OSError as error:
        return f"{name}: cannot be read ({error.strerror})"
    for what in ("bytes", kind):
        if found[what] != expected[what]:
            return f"{name}: expected {what} {expected[what]}, found {found[what]}"
    return None
