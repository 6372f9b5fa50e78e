"""The manifest of a checkpoint: size and SHA-256 of every file, shapes of every array.

Orbax restores flipped bits without a word. A step directory counts only if `integrity.json` lies
in it and every byte is as recorded, the manifest's own included.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
from pathlib import Path

MANIFEST = "integrity.json"


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What re-reading one step directory found."""

    step: int
    num_files: int
    num_bytes: int
    problems: tuple[str, ...]  # one line for every damaged file; empty where the step is whole

    def __str__(self):
        if not self.problems:
            return f"step {self.step}: whole, {self.num_files} files, {self.num_bytes:,} bytes"
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"step {self.step}: {self.problems[0]}{more}"


def write(step_dir: Path, shapes: dict):
    """Hashes every file of a committed step and writes its manifest, last and at once."""
    names = _files(step_dir)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        entries = pool.map(lambda name: _entry(step_dir / name, sync=True), names)
    manifest = {
        "format": 1,
        "step": int(step_dir.name),
        "arrays": shapes,
        "files": dict(zip(names, entries, strict=True)),
    }
    partial = step_dir / f"{MANIFEST}.tmp"
    with open(partial, "wb") as file:
        file.write(_dump(manifest))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, step_dir / MANIFEST)
    for directory in (step_dir, step_dir.parent):
        descriptor = os.open(directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _dump(manifest: dict) -> bytes:
    """The only bytes that stand for this manifest, its own hash included."""
    body = json.dumps(manifest, sort_keys=True)
    own = hashlib.sha256(body.encode()).hexdigest()
    return json.dumps({**manifest, "sha256": own}, indent=1, sort_keys=True).encode() + b"\n"


def load(step_dir: Path) -> dict:
    """Raises ValueError, saying what is wrong, unless every byte is as written."""
    try:
        raw = (step_dir / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{MANIFEST} is missing (its save never finished)") from None
    try:
        manifest = json.loads(raw)
        del manifest["sha256"]
        intact = _dump(manifest) == raw and manifest["step"] == int(step_dir.name)
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise ValueError(f"{MANIFEST} is damaged (it does not match its own hash)")
    return manifest


def _files(step_dir: Path) -> list[str]:
    found = (path for path in step_dir.rglob("*") if not path.is_dir())
    return sorted(path.relative_to(step_dir).as_posix() for path in found if path.name != MANIFEST)


def _entry(path: Path, *, sync: bool = False) -> dict:
    with open(path, "rb") as file:
        if sync:  # a power cut after this leaves the file as it is hashed here
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def inspect(step_dir: Path) -> StepReport:
    """Re-reads every byte of a step directory and compares it with the manifest."""
    step = int(step_dir.name)
    try:
        expected = load(step_dir)["files"]
    except (ValueError, OSError) as error:
        return StepReport(step, 0, 0, (str(error),))
    names = sorted(expected.keys() | set(_files(step_dir)))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        problems = pool.map(lambda name: _problem(step_dir, name, expected.get(name)), names)
    num_bytes = sum(entry["bytes"] for entry in expected.values())
    return StepReport(step, len(names), num_bytes, tuple(p for p in problems if p))


def _problem(step_dir: Path, name: str, expected: dict | None) -> str | None:
    if expected is None:
        return f"{name}: not part of this checkpoint"
    try:
        found = _entry(step_dir / name)
    except FileNotFoundError:
        return f"{name}: missing"
    except OSError as error:
        return f"{name}: cannot be read ({error.strerror})"
    for what in ("bytes", "sha256"):
        if found[what] != expected[what]:
            return f"{name}: expected {what} {expected[what]}, found {found[what]}"
    return None
