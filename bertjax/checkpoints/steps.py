"""The steps under W/checkpoints: lists them, finds the newest whole one, removes the others.

A directory is renamed before it is removed or set aside, so a kill never leaves half a step. On
gs://, where a rename is not atomic, the files that mark a complete step are removed first.

    W/checkpoints/pruned-100/           local disks: being removed; the next start finishes that
    W/checkpoints/damaged-300-0/        set aside by a restore
"""

import logging
import re
from pathlib import Path

from bertjax import storage
from bertjax.checkpoints import integrity
from bertjax.errors import DataError

_log = logging.getLogger(__name__)

_PRUNED = "pruned-"  # a directory that is being removed and no longer counts as a step
_DAMAGED = re.compile(r"damaged-\d+-(\d+)")
_DAMAGED_KEPT = 2
# Files that mark a complete step: Orbax's, which it writes on gs:// only, and ours.
_MARKS = ("commit_success.txt", integrity.MANIFEST)


def numbers(directory: Path) -> list[int]:
    """All steps in the directory, whole or not, in order."""
    names = storage.folders(directory)
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))


def newest_whole(directory: Path) -> tuple[int | None, list[integrity.StepReport]]:
    """The newest whole step, and the reports of the newer damaged and unfinished steps.

    On gs://, only the checksums that the object store keeps are compared; no file is read again.
    """
    others = []
    for step in reversed(numbers(directory)):
        report = integrity.inspect(directory / str(step), reread=False)
        if not report.problems:
            return step, others
        others.append(report)
    return None, others


def no_whole_step(directory: Path, others: list[integrity.StepReport]) -> DataError:
    """The error for a directory without a whole step."""
    if not others:
        return DataError(f"{directory}: holds no checkpoints; run bertjax pretrain first")
    reasons = "; ".join(str(report) for report in others)
    wait = "wait for the training that saves it, " if others[0].unfinished else ""
    return DataError(
        f"{directory}: no checkpoint is whole ({reasons}); "
        f"{wait}put back a copy, or move the directory away to start from zero"
    )


def prune(directory: Path, keep: int, spared: int | None = None) -> None:
    """Removes the steps with a manifest, except the newest `keep` and the step `spared`."""
    places = [directory / str(step) for step in numbers(directory)]
    sealed = [place for place in places if storage.exists(place / integrity.MANIFEST)]
    for leaving in sealed[:-keep]:
        if leaving.name != str(spared):
            _remove(leaving)


def _remove(place: Path) -> None:
    # After the rename, a kill half-way leaves no step that looks damaged.
    if not storage.is_remote(place):
        place = place.rename(place.with_name(f"{_PRUNED}{place.name}"))
    storage.remove(place, first=_MARKS)


def remove_unfinished(directory: Path, report: integrity.StepReport) -> None:
    """Removes a step without a manifest, with a log line."""
    place = directory / str(report.step)
    _remove(place)
    _log.warning(f"checkpoint unfinished, removed: {place}: its save was cut off")


def set_aside(directory: Path, report: integrity.StepReport) -> None:
    """Moves a damaged step to `damaged-<step>-<n>`, with a log line; the two highest n stay."""
    matches = map(_DAMAGED.fullmatch, storage.folders(directory))
    aside = {int(match[1]): directory / match[0] for match in matches if match}
    target = directory / f"damaged-{report.step}-{max(aside, default=-1) + 1}"
    storage.move(directory / str(report.step), target)
    _log.warning(f"checkpoint damaged, moved to {target}: {report}")
    for number in sorted(aside)[: 1 - _DAMAGED_KEPT]:
        storage.remove(aside[number])


def remove_leftovers(directory: Path) -> None:
    """Removes what a killed save or pruning left."""
    for name in storage.folders(directory):
        if name.startswith(_PRUNED):
            storage.remove(directory / name)
    if storage.is_remote(directory):
        for step in numbers(directory):
            if not any(storage.exists(directory / str(step) / mark) for mark in _MARKS):
                storage.remove(directory / str(step))
