"""Encoded rows in W/encoded, made once per set of examples, tokenizer and settings."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from bertjax import storage
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import StorageError
from bertjax.finetune.encoding import encode
from bertjax.finetune.rows import Rows, Settings

VERSION = 1  # raise it with every change of the encoding that changes the rows
_DIGEST = 32  # bytes of SHA-256, at the end of a file


def key(examples: Sequence, tokenizer: Tokenizer, settings: Settings) -> str:
    """SHA-256 (hex) of everything the rows depend on: examples, tokenizer, settings, versions."""
    facts = {
        "version": VERSION,
        "tokenizers": tokenizers.__version__,
        "tokenizer": tokenizer.sha256,
        "rules": tokenizer.rules,
        "settings": dataclasses.asdict(settings),
    }
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for example in examples:
        found.update(b"\n" + json.dumps(example).encode())  # JSON text has no raw line break
    return found.hexdigest()


def rows(
    directory: Path,
    examples: Sequence,
    tokenizer: Tokenizer,
    settings: Settings,
    *,
    writes: bool = True,
) -> Rows:
    """The rows of examples: read from `directory` if an undamaged file is there, else encoded.

    Args:
      directory: W/encoded, local or gs://.
      writes: write newly encoded rows to `directory`. Of several processes with one W, only one
        writes.

    Raises:
      DataError, UsageError: see `encoding.encode`.
      StorageError: the rows cannot be read or written.
    """
    path = storage.path(directory) / f"{key(examples, tokenizer, settings)}.npz"
    notes: tuple[str, ...] = ()
    try:
        found = _loaded(storage.read(path))
        if found is not None:
            return found
        notes = (f"{path}: damaged; the examples are encoded again",)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from None
    made = encode(examples, tokenizer, settings)
    if writes:
        _write(path, made)
    return dataclasses.replace(made, notes=made.notes + notes)


def _write(path: Path, made: Rows) -> None:
    """Writes an .npz followed by the SHA-256 of its bytes; .npz readers ignore trailing bytes."""
    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    arrays: dict[str, Any] = {
        name: np.asarray(value) for name, value in fields.items() if value is not None
    }
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.write(hashlib.sha256(file.getbuffer()).digest())
    try:
        if not storage.is_remote(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        storage.write(path, file.getvalue())
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from None


def _loaded(raw: bytes) -> Rows | None:
    """The rows in a file's bytes; None if the SHA-256 at the end does not match."""
    if hashlib.sha256(memoryview(raw)[:-_DIGEST]).digest() != raw[-_DIGEST:]:
        return None
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        fields: dict = dict(file)
    fields |= {
        "kind": str(fields["kind"]),
        "choices": int(fields["choices"]),
        "notes": tuple(fields["notes"].tolist()),
    }
    return Rows(**fields)
