"""Saves and restores checkpoints with Orbax, and verifies them by a hash of every file.

Orbax commits a step by renaming its directory, and restores flipped bits without an error. So a
step counts only once it has an `integrity.json`: the size and hash of every other file, the shapes
of the arrays, and a hash of the manifest itself. Older steps are deleted only after that.

    W/checkpoints/200/                  a step: Orbax's files and integrity.json
    W/checkpoints/damaged-300-0/        a damaged step, never read again; the newest two stay

A step without a manifest is unfinished: its save was killed or is still running. A restore removes
an unfinished step if an older step is whole; readers skip it.

With several processes, only process 0 reads the hashes, and it decides for all.
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
from bertjax.processes import distributed, lock

_log = logging.getLogger(__name__)

_SAVE_SECONDS = 3600  # Orbax's limit for one save
_ITEM = "default"  # the folder of a step directory in which Orbax's manager puts a single tree


class _Manager(ocp.CheckpointManager):
    """Never asks JAX whether to stop.

    JAX's processes agree on the number of the call at which all of them stop. Orbax would ask with
    the step as the call's number. `distributed.StopSignals` has its own numbers, so the agreed
    number could be one that it has passed already, and the SIGTERM would be lost.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """Saves and restores the train state under one directory; one writer at a time.

    Args:
      directory: usually W/checkpoints; created if missing. Leftovers of a killed save are removed.
      keep: the number of newest whole steps to keep; the step `spared`, if set, is kept too.
      identity: the job's `Job.identity`, stored with every step; a restored step must have it too.
      in_flight_bytes: the memory for writing beside the state's own memory, larger than the largest
        array; None takes as much as is fastest.

    Every method raises StorageError if the storage refuses; earlier steps stay intact.
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
        self._last: int | None = None  # the step last saved or restored by this object
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        with refusal.storage_errors(self._directory):
            is_remote = storage.is_remote(self._directory)
            if not is_remote:
                self._directory.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                steps.remove_leftovers(self._directory)
            # max_to_keep stays unset, because Orbax's own pruning ignores manifests.
            options = ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=not is_remote,
                async_options=ocp.AsyncOptions(timeout_secs=_SAVE_SECONDS),
            )
            limit = None if in_flight_bytes is None else in_flight_bytes / 1e9
            handler = ocp.PyTreeCheckpointHandler(save_concurrent_gb=limit)
            self._manager = _Manager(self._directory, options=options, item_handlers=handler)

    def save(self, step: int, state: Any) -> None:
        """Saves a pytree of jax arrays in the background; afterwards, `state` may be donated.

        Waits for the previous save, then returns when the arrays are copied to the host. An
        existing step is not written again: the same run at the same step has the same state.

        Raises:
          StorageError: this save could not start, or the previous save failed.
          UsageError: as `lock.require`, of this save or the previous one.
        """
        self.wait()
        # `_last` is tested first, since hosts may see different steps on a shared disk.
        if step == self._last or step in steps.numbers(self._directory):
            return
        self._last = step
        lock.require(self._directory)
        with refusal.storage_errors(self._directory):
            self._manager.save(step, args=ocp.args.PyTreeSave(state), force=True)
        self._sealing = self._background.submit(self._seal, step, shapes.of(state))

    def _seal(self, step: int, shapes: dict) -> None:
        with refusal.storage_errors(self._directory):
            self._manager.wait_until_finished()  # with several processes, Orbax's commit barrier
            if jax.process_index() == 0:
                lock.require(self._directory)  # without a manifest the step does not count
                integrity.write(self._directory / str(step), shapes, self._identity)
                steps.prune(self._directory, self._keep, self.spared)
        # No process may exit or report the step as saved while process 0 still hashes it.
        distributed.wait_for_all(f"{self._directory}/{step} is whole")

    def restore(self, abstract_state: Any) -> Any:
        """`(step, state)` of the newest whole step, or None if nothing was saved yet.

        Newer damaged steps are moved to `damaged-<step>-<n>`, each with a log line that says why;
        the two with the highest n stay. Newer unfinished steps are removed with a log line. If no
        step is whole but the only step is step 0 of a training, that step is set aside or removed
        too, since nothing was learned, and the result is None.

        Args:
          abstract_state: a pytree of `jax.ShapeDtypeStruct` with the wanted shardings; the mesh may
            differ from the mesh at the save. Some of the state's top-level keys may be left out.

        Raises:
          DataError: steps exist but none is whole (then nothing is moved or removed), or the saved
            state has other names, shapes or types.
          UsageError: the step was trained with other frozen parameters.
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
        """Whether a step is step 0 of a training, which the same command would create again.

        Converted weights may be a step 0 too, but they have no optimizer state.
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
        """Waits for the last save, then releases Orbax's threads."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            with refusal.storage_errors(self._directory):
                self._manager.close()


def read_newest(
    directory: Path, abstract_state: Any, *, on_host: bool = False, wanted: int | None = None
) -> tuple[int | None, Any]:
    """`(step, state)` of the newest whole step, without changes on disk (see `restore`).

    A reader may call this while a training writes to the directory.

    Args:
      on_host: return NumPy arrays, whatever devices there are.
      wanted: a step to read instead of the newest, if it is whole.

    Raises:
      DataError: no step is whole, or the saved state has other names, shapes or types.
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
    """Whether the newest step with a manifest has arrays under `group` (`params`, `opt_state`)."""
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
    """The step that process 0 chooses; if process 0 fails, the other processes fail too."""
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
    """Silences Orbax, which logs a failure's traceback up to six times beside the exception."""
    logging.getLogger("absl").addFilter(_not_from_orbax)
