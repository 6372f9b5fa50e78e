"""Checkpoints that are either whole or set aside: Orbax, and a hash of every file it wrote.

Orbax commits a step by renaming its directory, and restores flipped bits without a word. So a
step counts only once `integrity.json` lies in it: the size and SHA-256 of every other file, the
shapes of the arrays, and a hash of the manifest itself. Nothing older is deleted before that.

    W/checkpoints/200/                  a step: Orbax's files and integrity.json
    W/checkpoints/damaged-300-0/        set aside by a restore, never read again; the newest two stay

A step without a manifest is unfinished: a kill cut its save off, or a process is still at it. A
restore removes it, where an older step is whole; readers pass it by.

With several processes, process 0 alone reads the hashes and decides for all.
"""

import concurrent.futures
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from bertjax import storage
from bertjax.checkpoints import integrity, refusal, shapes, steps
from bertjax.errors import DataError
from bertjax.processes import distributed

_log = logging.getLogger(__name__)

_SAVE_SECONDS = 3600  # Orbax gives up then
_ITEM = "default"  # where Orbax's manager puts a single tree inside a step directory


class _Manager(ocp.CheckpointManager):
    """Asks nobody whether to stop.

    JAX's processes agree on the number of a call to stop at. Orbax's own calls, numbered by the step,
    would move that number to one that `distributed.StopSignals` has passed, and a SIGTERM be lost.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """Saves and restores the train state under one directory; one writer at a time.

    Args:
      directory: usually W/checkpoints; made if missing. What a killed save left is removed.
      keep: newest whole steps kept; the step `spared`, where it is set, stays too.
      identity: of the job (`Job.identity`): kept with every step, and the same in a restored one.
      in_flight_bytes: memory for writing beside the state's own, more than its largest array; None
        for as much as is fastest.

    Every method raises StorageError where the disk refuses; what was saved before stays.
    """

    def __init__(
        self,
        directory: Path,
        keep: int,
        *,
        identity: dict[str, str] | None = None,
        in_flight_bytes: int | None = None,
    ) -> None:
        _silence_orbax()
        self._directory = storage.absolute(directory)
        self._keep, self._identity = keep, identity or {}
        self.spared: int | None = None
        self._sealing: concurrent.futures.Future | None = None
        self._last: int | None = None  # of steps, the last saved or restored here
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        with refusal.storage_errors(self._directory):
            is_remote = storage.is_remote(self._directory)
            if not is_remote:
                self._directory.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                steps.remove_leftovers(self._directory)
            # Orbax's own pruning knows nothing of manifests: max_to_keep stays unset.
            options = ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=not is_remote,
                async_options=ocp.AsyncOptions(timeout_secs=_SAVE_SECONDS),
            )
            limit = None if in_flight_bytes is None else in_flight_bytes / 1e9
            handler = ocp.PyTreeCheckpointHandler(save_concurrent_gb=limit)
            self._manager = _Manager(self._directory, options=options, item_handlers=handler)

    def save(self, step: int, state: Any) -> None:
        """Saves a pytree of jax arrays in the background; `state` may be donated at once.

        Returns when the arrays are copied to the host, after the save before it is whole. A step
        that is there already is left alone: the same run at the same step has the same state.

        Raises:
          StorageError: this save could not start, or the one before it failed.
        """
        self.wait()
        # The step in memory comes first: on a shared disk, hosts may disagree about which are there.
        if step == self._last or step in steps.numbers(self._directory):
            return
        self._last = step
        with refusal.storage_errors(self._directory):
            self._manager.save(step, args=ocp.args.PyTreeSave(state), force=True)
        self._sealing = self._background.submit(self._seal, step, shapes.of(state))

    def _seal(self, step: int, shapes: dict) -> None:
        with refusal.storage_errors(self._directory):
            self._manager.wait_until_finished()  # with several processes, Orbax's commit barrier
            if jax.process_index() == 0:
                integrity.write(self._directory / str(step), shapes, self._identity)
                steps.prune(self._directory, self._keep, self.spared)
        # Nobody leaves, or reports a step as saved, while process 0 still hashes it.
        distributed.wait_for_all(f"{self._directory}/{step} is whole")

    def restore(self, abstract_state: Any) -> Any:
        """`(step, state)` of the newest whole step, or None where nothing was saved yet.

        Newer steps that are damaged are moved to `damaged-<step>-<n>`, and a line says why; the
        two with the highest n stay. Newer steps that are unfinished are removed, and a line says
        so. If the only step is step 0 of a training, nothing was learned: it leaves too, and None
        is returned.

        Args:
          abstract_state: pytree of `jax.ShapeDtypeStruct`, with the shardings wanted; the mesh
            need not be the one that saved. It may hold only some of the state's top-level keys.

        Raises:
          DataError: steps exist but none is whole (nothing is moved or removed then), or the
            state saved has other names, shapes or types.
          UsageError: it was trained beside other frozen parameters.
        """
        self.wait()
        step = self._last = _agreed(self._directory, self._choose)
        with refusal.storage_errors(self._directory):
            self._manager.reload()
        if step is None:
            return None
        integrity.require_same(self._directory / str(step), self._identity)
        return step, _read(self._directory / str(step), abstract_state)

    def _choose(self) -> int | None:
        step, others = steps.newest_whole(self._directory)
        if step is None and any(not self._is_a_start(report.step) for report in others):
            raise steps.no_whole_step(self._directory, others)
        with refusal.storage_errors(self._directory):
            for report in reversed(others):
                leave = steps.remove_unfinished if report.unfinished else steps.set_aside
                leave(self._directory, report)
        return step

    def _is_a_start(self, step: int) -> bool:
        """Whether a step holds what the same command would make anew: step 0 of a training.

        Converted weights may be a step 0 too. They come without an optimizer's state.
        """
        for name in (f"{_ITEM}/_METADATA", integrity.MANIFEST) if step == 0 else ():
            with contextlib.suppress(FileNotFoundError):
                if b"opt_state" in storage.read(self._directory / "0" / name):
                    return True
        return False

    def wait(self) -> None:
        """Blocks until the last save is whole; raises StorageError if it failed."""
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            sealing.result()

    def close(self) -> None:
        """Waits, then releases Orbax's threads."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            with refusal.storage_errors(self._directory):
                self._manager.close()


def read_newest(
    directory: Path, abstract_state: Any, *, on_host: bool = False, wanted: int | None = None
) -> tuple[int | None, Any]:
    """`(step, state)` of the newest whole step, changing nothing on disk (see `restore`).

    For readers that may run beside the training that owns the directory.

    Args:
      on_host: as NumPy arrays, whatever devices there are.
      wanted: the step to read where it is whole, however old.

    Raises:
      DataError: no step is whole, or the state saved has other names, shapes or types.
    """
    _silence_orbax()
    directory = storage.absolute(directory)

    def choose() -> int:
        if wanted in steps.numbers(directory):
            report = integrity.inspect(directory / str(wanted), reread=False)
            if not report.problems:
                return report.step
            _log.warning(f"checkpoint skipped: {report}")
        step, others = steps.newest_whole(directory)
        if step is None:
            raise steps.no_whole_step(directory, others)
        for report in others:
            _log.warning(f"checkpoint skipped: {report}")
        return step

    step = _agreed(directory, choose)
    return step, _read(directory / str(step), abstract_state, on_host)


def holds(directory: Path, group: str) -> bool:
    """Whether the newest step has arrays under `group` (`params`, `opt_state`), by its manifest."""
    directory = storage.absolute(directory)
    for step in reversed(steps.numbers(directory)):
        with contextlib.suppress(ValueError, OSError):
            return any(name.startswith(f"{group}/") for name in shapes.saved(directory / str(step)))
    return False


def verify(directory: Path) -> list[integrity.StepReport]:
    """Re-reads every byte of every step against its manifest, oldest step first.

    Raises:
      DataError: there is no step to verify.
    """
    directory = storage.absolute(directory)
    if not (found := steps.numbers(directory)):
        raise steps.no_whole_step(directory, [])
    return [integrity.inspect(directory / str(step)) for step in found]


def _agreed(directory: Path, choose: Callable[[], int | None]) -> int | None:
    """The step that process 0 chooses; where it fails, so do the others."""
    if jax.process_count() == 1:
        return choose()
    none, failed = -1, -2
    step, failure = failed, None
    if jax.process_index() == 0:
        try:
            chosen = choose()
            step = none if chosen is None else chosen
        except Exception as error:
            failure = error
    step = distributed.first_decides(step)
    if failure is not None:
        raise failure
    if step == failed:
        distributed.wait_for_news()
        raise DataError(f"{directory}: process 0 found no checkpoint to restore, and says why")
    return None if step == none else step


def _read(step_dir: Path, abstract_state: Any, on_host: bool = False) -> Any:
    shapes.check(step_dir, shapes.of(abstract_state))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or here),
        abstract_state,
    )
    if on_host:
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), placed)
    else:
        how = ocp.checkpoint_utils.construct_restore_args(placed)
    args = ocp.args.PyTreeRestore(placed, restore_args=how, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(step_dir / _ITEM, args=args)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _silence_orbax() -> None:
    """Orbax logs a failure's traceback up to six times; the exception itself tells it once."""
    logging.getLogger("absl").addFilter(_not_from_orbax)
