"""Trackers that fail at every call never end a run; what they are told is what the file has."""

import sys
import threading
import types

import pytest

from bertjax import config as config_lib
from bertjax.errors import UsageError
from bertjax.metrics import trackers, writer

CALLS = ("open", "log", "finish")


class Fake:
    """A tracker that keeps what it is told, and fails at one call."""

    def __init__(self, failing=None, id="new"):
        self.failing, self.id, self.told, self.before = failing, id, [], None
        self.fields = {}

    def open(self, name, fields, directory, before):
        self._fail("open")
        self.before, self.fields = before, fields
        return self

    def log(self, step, metrics):
        self._fail("log")
        self.told.append((step, metrics))

    def finish(self):
        self._fail("finish")
        self.told.append("end")

    def _fail(self, call):
        if call == self.failing:
            raise ConnectionError("no\nserver")


def logged(directory, *, names="wandb,mlflow"):
    """Three figures, one of which no tracker takes, and an evaluation."""
    config = config_lib.Config(logging=config_lib.Logging(tensorboard=False, trackers=names))
    metrics = writer.of(config, directory, 0)
    metrics.write(1, {"loss": 2.0, "norm": float("nan")})
    metrics.write(2, {"loss": 1.0})
    metrics.write(2, {"loss": 1.5}, prefix="eval")
    metrics.close()
    return [line["step"] for line in writer.read(directory / "metrics.jsonl")]


def test_trackers_get_the_figures_and_the_config_and_resume_under_their_id(tmp_path, monkeypatch):
    first, second = Fake(id="a"), Fake(id="b")
    monkeypatch.setattr(trackers, "OPENERS", {"wandb": first.open, "mlflow": second.open})
    assert logged(tmp_path / "w") == [1, 2, 2]
    want = [(1, {"train/loss": 2.0}), (2, {"train/loss": 1.0}), (2, {"eval/loss": 1.5}), "end"]
    assert first.told == second.told == want
    assert first.before is second.before is None
    assert first.fields["config.logging.trackers"] == "wandb,mlflow"
    logged(tmp_path / "w")
    assert (first.before, second.before) == ("a", "b")


@pytest.mark.parametrize("call", CALLS)
def test_a_tracker_that_fails_is_named_once_and_left_out(call, tmp_path, monkeypatch, caplog):
    bad, good = Fake(call), Fake()
    monkeypatch.setattr(trackers, "OPENERS", {"wandb": bad.open, "mlflow": good.open})
    assert logged(tmp_path / "w") == [1, 2, 2]
    [line] = caplog.messages
    assert line == (
        "config.logging.trackers=wandb: ConnectionError: no server; the run goes on without this "
        "tracker"
    )
    assert good.told[-1] == "end"


def test_a_tracker_that_hangs_holds_a_run_up_for_a_while_only(tmp_path, monkeypatch, caplog):
    ended = threading.Event()
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(trackers, "OPENERS", {"wandb": lambda *_: ended.wait()})
    assert logged(tmp_path / "w", names="wandb") == [1, 2, 2]
    ended.set()
    assert "took no more" in caplog.messages[0]


def test_a_tracker_that_opens_after_the_end_writes_nothing(tmp_path, monkeypatch):
    ended, late = threading.Event(), Fake()

    def slow(*args):
        ended.wait()
        return late.open(*args)

    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(trackers, "OPENERS", {"wandb": slow})
    logged(tmp_path / "w", names="wandb")
    ended.set()
    for thread in threading.enumerate():
        if thread.name == "wandb":
            thread.join(10)
    assert late.told == []
    assert not (tmp_path / "w/trackers.json").exists()


class Broken(types.ModuleType):
    """A package of which every call fails."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def fails(*_, **__):
            raise RuntimeError(f"{name} fails")

        return fails


@pytest.mark.parametrize("name", config_lib.logging_fields.TRACKERS)
@pytest.mark.parametrize("installed", [False, True])
def test_packages_that_lack_or_break(name, installed, tmp_path, monkeypatch, caplog):
    broken = Broken(name)
    monkeypatch.setitem(sys.modules, name, broken if installed else None)
    entities = types.ModuleType("mlflow.entities")
    entities.Metric = entities.Param = dict
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    assert logged(tmp_path / "w", names=name) == [1, 2, 2]
    [line] = caplog.messages
    assert line.startswith(f"config.logging.trackers={name}: ")
    assert ("fails" in line) == installed
    assert (f"pip install 'bertjax[{name}]'" in line) != installed


def test_an_unknown_tracker_is_refused():
    with pytest.raises(UsageError, match=r"config.logging.trackers='comet': 'comet' is none of"):
        config_lib.from_config_dict({"logging": {"trackers": "comet"}})
