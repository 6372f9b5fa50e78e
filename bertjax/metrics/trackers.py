"""Experiment trackers beside metrics.jsonl: Weights & Biases and MLflow.

A tracker is somebody else's program, and often somebody else's server. Each works in a thread of its
own: training never waits for one. One that fails is named in a line and left out; the run goes on.

    W/trackers.json      {"wandb": run id, "mlflow": run id}: a run that resumes goes on under them
"""

import contextlib
import functools
import itertools
import json
import logging
import math
import netrc
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax

from bertjax import config as config_lib
from bertjax import storage
from bertjax.errors import StorageError, one_line

_log = logging.getLogger(__name__)

_PROJECT = "bertjax"  # where WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME do not say another
_MOST_WAITING = 10_000  # lines that a tracker has not taken yet
CLOSE_SECONDS = 10.0  # for what a tracker still holds back; a preempted run has some 30
_MLFLOW_BATCH, _MLFLOW_VALUE = 100, 500  # parameters of a request, characters of a value


class Tracker(Protocol):
    """One run of one tracker."""

    id: str

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the figures of a step; steps come in order."""

    def finish(self) -> None:
        """No more figures come."""


# `(name of the run, its fields, W, the id of the run that goes on, or None) -> tracker`.
Opener = Callable[[str, dict[str, Any], Path, str | None], Tracker]


class Trackers:
    """The trackers of a run, each fed by a thread of its own; raises nothing of theirs.

    Args:
      names: of `OPENERS`.
      directory: W.
      fields: the config's, by their names on the command line.
    """

    def __init__(self, names: tuple[str, ...], directory: Path, fields: dict[str, Any]) -> None:
        self._path, self._mutex = storage.path(directory) / "trackers.json", threading.Lock()
        self._ids = _read_ids(self._path)
        self._feeds = []
        for name in names:

            def opened(name: str = name) -> Tracker:
                return OPENERS[name](directory.name, fields, directory, self._ids.get(name))

            self._feeds.append(_Feed(name, opened, functools.partial(self._keep, name)))

    def write(self, step: int, metrics: dict[str, float], prefix: str) -> None:
        """Passes on the finite ones of some figures, as `prefix/name`."""
        finite = {f"{prefix}/{k}": float(v) for k, v in metrics.items() if math.isfinite(v)}
        for feed in self._feeds:
            feed.put(step, finite)

    def close(self) -> None:
        """Waits, not long, until the trackers have taken everything."""
        deadline = time.monotonic() + CLOSE_SECONDS
        for feed in self._feeds:
            feed.close(deadline)

    def _keep(self, name: str, id: str) -> None:
        with self._mutex:
            self._ids[name] = id
            if not storage.is_remote(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            storage.write(self._path, (json.dumps(self._ids) + "\n").encode())


class _Feed:
    """A queue of figures, and the thread that hands them to one tracker."""

    def __init__(
        self, name: str, opened: Callable[[], Tracker], keep: Callable[[str], None]
    ) -> None:
        self._name, self._opened, self._keep = name, opened, keep
        self._waiting: queue.Queue = queue.Queue(_MOST_WAITING)
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, step: int, metrics: dict[str, float]) -> None:
        try:
            if not self._is_over:
                self._waiting.put_nowait((step, metrics))
        except queue.Full:
            self._leave_out(f"does not keep up, {_MOST_WAITING:,} lines behind")

    def close(self, deadline: float) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._thread.is_alive() and not self._is_over:
            self._leave_out(f"took no more for {CLOSE_SECONDS:.0f} s; its last figures may lack")

    def _run(self) -> None:
        try:
            tracker = self._opened()
            if self._is_over:  # the run has ended, and W may be gone
                return
            self._keep(tracker.id)
            while not self._is_over and (item := self._waiting.get()) is not None:
                tracker.log(*item)
            tracker.finish()
        except ImportError as error:
            self._leave_out(f"{one_line(error)}; pip install 'bertjax[{self._name}]'")
        except (Exception, SystemExit) as error:
            self._leave_out(f"{type(error).__name__}: {one_line(error, longest=300)}")

    def _leave_out(self, reason: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        field = f"config.logging.trackers={self._name}"
        _log.warning(f"{field}: {reason}; the run goes on without this tracker")


def of(config: config_lib.Config, directory: Path) -> Trackers | None:
    """The trackers that a config asks for, in process 0; else None."""
    names = config.logging.tracker_names
    if not names or jax.process_index() != 0:
        return None
    return Trackers(names, directory, config_lib.leaves(config))


def _read_ids(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(storage.read(path)))
    except (OSError, StorageError, ValueError, TypeError):  # none yet, or damaged: new runs begin
        return {}


class _Wandb:
    """A run of Weights & Biases; without a key and without WANDB_MODE an offline one, in W/wandb.

    A step that it has seen is not taken again: a run that resumes writes the same figures.
    """

    def __init__(self, name: str, fields: dict, directory: Path, id: str | None) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off", reinit="create_new")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=name,
            id=id or secrets.token_hex(4),
            resume="allow",
            config={field.removeprefix("config."): value for field, value in fields.items()},
            dir=None if storage.is_remote(directory) else str(directory),
            mode=None if "WANDB_MODE" in os.environ or _has_wandb_key() else "offline",
            settings=settings,
        )
        self.id = self._run.id

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def finish(self) -> None:
        self._run.finish()


def _has_wandb_key() -> bool:
    """Whether W&B can be reached without asking for a key on the terminal."""
    if "WANDB_API_KEY" in os.environ:
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rpartition("//")[2]
    try:
        return netrc.netrc().authenticators(host.split("/")[0].split(":")[0]) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class _Mlflow:
    """A run of MLflow, where MLFLOW_TRACKING_URI or `mlflow.set_tracking_uri` says."""

    def __init__(self, name: str, fields: dict, directory: Path, id: str | None) -> None:
        import mlflow
        from mlflow.entities import Metric, Param

        logger = logging.getLogger("mlflow")
        if logger.level == logging.INFO:  # its default, at which it prints how it makes a database
            logger.setLevel(logging.WARNING)
        self._metric, self._client = Metric, mlflow.MlflowClient()
        held: dict[str, str] = {}
        if id is not None:
            held = self._client.get_run(id).data.params
            self._client.update_run(id, status="RUNNING")
        self.id = id or self._new_run(name)
        params = {field.removeprefix("config."): value for field, value in fields.items()}
        new = [(k, str(v)[:_MLFLOW_VALUE]) for k, v in params.items() if k not in held]
        for start in range(0, len(new), _MLFLOW_BATCH):
            some = itertools.starmap(Param, new[start : start + _MLFLOW_BATCH])
            self._client.log_batch(self.id, params=list(some))

    def _new_run(self, name: str) -> str:
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self._client.get_experiment_by_name(title)
        experiment = self._client.create_experiment(title) if found is None else found.experiment_id
        return str(self._client.create_run(experiment, run_name=name).info.run_id)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        now = round(1000 * time.time())
        self._client.log_batch(
            self.id,
            metrics=[self._metric(name, value, now, step) for name, value in metrics.items()],
        )

    def finish(self) -> None:
        self._client.set_terminated(self.id)


OPENERS: dict[str, Opener] = {"wandb": _Wandb, "mlflow": _Mlflow}
