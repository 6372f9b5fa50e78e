"""Reads checkpoints of every supported form (`read`) and converts them (`convert`).

A source or destination is a URI, `FORM:PATH`; a path without a form is a run's directory. Readers
return a `Pretrained`, and writers take one. Output is written beside its destination and renamed
into place once it is complete.
"""

import contextlib
import dataclasses
import importlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bertjax
from bertjax import storage
from bertjax.convert import sources
from bertjax.convert.pretrained import Hints, Pretrained
from bertjax.errors import StorageError, UsageError

# Form -> (module of this package that reads it, module that writes it, kind of path). The function
# `write_HOW` of MODULE writes the form MODULE-HOW.
FORMS = {
    "orbax": ("orbax", "orbax", "DIR"),
    "hf": ("hf", "hf", "DIR"),
    "hub": ("hub", "hub", "OWNER/NAME[@REVISION]"),
    "tf1": ("tf1", "tf1", "PREFIX"),
    "fairseq": ("fairseq", None, "FILE"),
    "onnx": (None, "onnx", "FILE"),
    "onnx-float16": (None, "onnx", "FILE"),
    "onnx-int8": (None, "onnx", "FILE"),
    "onnx-int8-weights": (None, "onnx", "FILE"),
    "stablehlo": (None, "stablehlo", "FILE"),
}
# Suffix of a destination without a form -> the URI that the user probably means.
_BY_SUFFIX = {
    ".onnx": "onnx:FILE.onnx",
    ".ckpt": "tf1:DIR/NAME.ckpt",
    ".safetensors": "hf:DIR",
    ".bin": "hf:DIR",
    ".pt": "hf:DIR",
}
_KEEP_MOMENTS = ("orbax", "tf1")  # the forms that hold a whole train state


def read(uri: str, hints: Hints = Hints(), *, moments: bool = False) -> Pretrained:  # noqa: B008
    """The weights at `uri`, with their config and tokenizer.

    Args:
      moments: also read Adam's moments, if the source has them.

    Raises:
      UsageError: the form is unknown or can only be written, or the source needs a hint.
      DataError: the source is missing, damaged, hostile, or not a model that bertjax computes.
    """
    form, path = parse(uri)
    module = FORMS[form][0]
    if module is None:
        readable = ", ".join(name for name, (reader, *_) in FORMS.items() if reader)
        raise UsageError(f"{uri}: {form} is only written; sources are {readable}")
    reader = importlib.import_module(f"bertjax.convert.{module}").read
    place = path if form == "hub" else sources.place(form, path)
    more = {"moments": moments} if form in _KEEP_MOMENTS else {}
    pretrained = reader(place, hints, **more)
    if place == path:
        return pretrained
    return dataclasses.replace(pretrained, notes=(f"{uri}: reads {place}", *pretrained.notes))


def convert(source: str, destination: str, hints: Hints = Hints()) -> list[str]:  # noqa: B008
    """Calls `transfer`; returns notes for the user on what was decided or left out."""
    return list(transfer(source, destination, hints).notes)


def transfer(source: str, destination: str, hints: Hints) -> Pretrained:
    """Writes the weights at `source` to `destination`, which must not exist yet.

    Returns:
      The weights as written, with the notes of reader and writer.

    Raises:
      UsageError, DataError: as `read`; or the destination exists or cannot hold this model.
      StorageError: writing fails; nothing is left at the destination.
    """
    form, _ = _writable(destination)
    return write(read(source, hints, moments=form in _KEEP_MOMENTS), destination)


def write(pretrained: Pretrained, destination: str) -> Pretrained:
    """As `transfer`, of weights at hand."""
    form, path = _writable(destination)
    writer = _writer(form)
    with contextlib.nullcontext(path) if form == "hub" else _in_place(form, path) as place:
        more = writer(pretrained, place) or ()
    return dataclasses.replace(pretrained, notes=(*pretrained.notes, *more))


def _writable(destination: str) -> tuple[str, Any]:
    """`(form, path)` of a destination; refused before a source is read for it."""
    form, path = parse(destination)
    meant = _BY_SUFFIX.get(Path(destination).suffix)
    if meant and form == "orbax" and not destination.startswith("orbax:"):
        raise UsageError(f"{destination}: a path alone is a run's directory; write {meant}")
    if FORMS[form][1] is None:
        writable = ", ".join(name for name, (_, writer, _) in FORMS.items() if writer)
        raise UsageError(f"{destination}: {form} is only read; destinations are {writable}")
    if form != "hub":
        if storage.is_remote(path):
            raise UsageError(f"{destination}: write to a local disk, then copy the result there")
        _refuse_existing(_target(form, path))
    return form, path


def parse(uri: str) -> tuple[str, Path | str]:
    """`(form, path)` of a URI; raises UsageError for an unknown form or a path it cannot have."""
    form, colon, rest = uri.partition(":")
    if storage.is_remote(uri) or not colon or not re.fullmatch(r"[a-z][a-z0-9\-]+", form):
        form, rest = "orbax", uri
    if form not in FORMS:
        known = " ".join(f"{name}:{path}" for name, (_, _, path) in FORMS.items())
        raise UsageError(f"{uri}: no such form {form!r}; one of {known}")
    if not rest:
        raise UsageError(f"{uri}: names no place; expected {form}:{FORMS[form][2]}")
    if form == "hub":
        return form, rest
    if storage.is_remote(rest) and form != "orbax":
        raise UsageError(f"{uri}: from gs:// only runs (orbax:) can be read; copy it to a disk")
    return form, storage.path(rest)


def _writer(form: str) -> Callable:
    module = importlib.import_module(f"bertjax.convert.{FORMS[form][1]}")
    how = form.partition("-")[2].replace("-", "_")
    return getattr(module, f"write_{how}" if how else "write")


def _target(form: str, path: Path) -> Path:
    """The path that must not exist yet; for tf1, whose files share a prefix, the directory."""
    return path.absolute().parent if form == "tf1" else path.absolute()


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target}: exists already; name a new place, nothing is overwritten")


@contextlib.contextmanager
def _in_place(form: str, path: Path) -> Iterator[Path]:
    """Yields a path in a scratch directory beside the target; moves the result in at the end."""
    target = _target(form, path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    inside = scratch / target.name
    try:
        scratch.mkdir(parents=True)
        yield inside / path.name if form == "tf1" else inside
        # stablehlo:FILE has a second file, and another process may have made one of them since.
        places = {written: target.with_name(written.name) for written in scratch.iterdir()}
        for place in places.values():
            _refuse_existing(place)
        for written, place in places.items():
            os.rename(written, place)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"{target}: {reason}; nothing was written there") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


sys.modules[__name__].__class__ = bertjax.FunctionPackage  # `bertjax.convert(...)`
