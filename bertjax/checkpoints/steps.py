"""The steps under W/checkpoints: which there are, which are whole, and how the others leave.

A directory is renamed before it is removed or set aside, so a kill leaves no half of a step. On
gs://, where that is no single act, the marks of a step go first.

    W/checkpoints/pruned-100/           local, on its way out: what a kill left of it goes first
    W/checkpoints/damaged-300-0/        set aside by a restore
"""

import logging
import re
from pathlib import Path

from bertjax import storage
from bertjax.checkpoints import integrity
from bertjax.errors import DataError

_log = logging.getLogger(__name__)

_PRUNED = "pruned-"  # a directory on its way out: no longer a step, whatever is left of it
_DAMAGED = re.compile(r"damaged-\d+-(\d+)")
_DAMAGED_KEPT = 2
# Files whose presence marks a complete step on gs://: Orbax's, which it writes there only, and ours.
_MARKS = ("commit_success.txt", integrity.MANIFEST)


def numbers(directory: Path) -> list[int]:
    """The steps that are there, whole or not, in order."""
    names = storage.folders(directory)
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))


def newest_whole(directory: Path) -> tuple[int | None, list[integrity.StepReport]]:
    """The newest whole step, and the reports of the damaged and unfinished ones that are newer.

    On gs:// the checksums that the object store keeps are compared, and nothing is read.
    """
    others = []
    for step in reversed(numbers(directory)):
        report = integrity.inspect(directory / str(step), reread=False)
        if not report.problems:
            return step, others
        others.append(report)
    return None, others


def no_whole_step(directory: Path, others: list[integrity.StepReport]) -> DataError:
    """The error of a directory without a whole step."""
    if not others:
        return DataError(f"{directory}: holds no checkpoints; run bertjax pretrain first")
    reasons = "; ".join(str(report) for report in others)
    wait = "wait for the training that saves it, " if others[0].unfinished else ""
    return DataError(
        f"{directory}: no checkpoint is whole ({reasons}); "
        f"{wait}put back a copy, or move the directory away to start from zero"
    )


def prune(directory: Path, keep: int, spared: int | None = None) -> None:
    """Removes all but the newest `keep` steps that have a manifest, and the one that is spared."""
    places = [directory / str(step) for step in numbers(directory)]
    sealed = [place for place in places if storage.exists(place / integrity.MANIFEST)]
    for leaving in sealed[:-keep]:
        if leaving.name != str(spared):
            _remove(leaving)


def _remove(place: Path) -> None:
    # A kill half-way through leaves no step that looks damaged.
    if not storage.is_remote(place):
        place = place.rename(place.with_name(f"{_PRUNED}{place.name}"))
    storage.remove(place, first=_MARKS)


def remove_unfinished(directory: Path, report: integrity.StepReport) -> None:
    """Removes a step without a manifest, and says so."""
    place = directory / str(report.step)
    _remove(place)
    _log.warning(f"checkpoint unfinished, removed: {place}: its save was cut off")


def set_aside(directory: Path, report: integrity.StepReport) -> None:
    """Moves a damaged step to `damaged-<step>-<n>` and says so; the two highest n stay."""
    matches = map(_DAMAGED.fullmatch, storage.folders(directory))
    aside = {int(match[1]): directory / match[0] for match in matches if match}
    target = directory / f"damaged-{report.step}-{max(aside, default=-1) + 1}"
    storage.move(directory / str(report.step), target)
    _log.warning(f"checkpoint damaged, moved to {target}: {report}")
    for number in sorted(aside)[: 1 - _DAMAGED_KEPT]:
        storage.remove(aside[number])


def remove_leftovers(directory: Path) -> None:
    """What a killed save or pruning left."""
    for name in storage.folders(directory):
        if name.startswith(_PRUNED):
            storage.remove(directory / name)
    if storage.is_remote(directory):
        for step in numbers(directory):
            if not any(storage.exists(directory / str(step) / mark) for mark in _MARKS):
                storage.remove(directory / str(step))
