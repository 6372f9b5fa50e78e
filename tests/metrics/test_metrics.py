"""Laws of bertjax.metrics: FLOPs against a traced program's, a file that survives kills, quiet output."""

import io
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import config as config_lib
from bertjax.errors import StorageError
from bertjax.metrics import flops as metrics_flops
from bertjax.metrics import progress as progress_lib
from bertjax.metrics import writer as metrics_writer
from bertjax.processes import terminal as terminal_lib

TINY = config_lib.Model(
    vocab_size=96,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=80,
    max_position_embeddings=64,
)


def test_model_flops_are_the_matrix_products_of_a_forward_pass_times_three():
    """Against the dot_generals of the same products, traced."""
    c, batch, length, predictions = TINY, 2, 16, 5
    width, inner = c.hidden_size, c.intermediate_size
    ones = jnp.ones

    def products(x_BLD):
        out = []
        for _ in range(c.num_hidden_layers):
            out += [x_BLD @ ones((width, width)) for _ in range(4)]
            scores_BLL = jnp.einsum("bld,bmd->blm", x_BLD, x_BLD)
            out += [scores_BLL, jnp.einsum("blm,bmd->bld", scores_BLL, x_BLD)]
            out += [x_BLD @ ones((width, inner)) @ ones((inner, width))]
        picked_BPD = x_BLD[:, :predictions]
        out += [picked_BPD @ ones((width, width)), picked_BPD @ ones((width, c.vocab_size))]
        out += [x_BLD[:, 0] @ ones((width, width)), x_BLD[:, 0] @ ones((width, 2))]
        return out

    counted = 0
    jaxpr = jax.make_jaxpr(products)(ones((batch, length, width)))
    for eqn in jaxpr.jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            inner_size = math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
            counted += 2 * inner_size * math.prod(eqn.outvars[0].aval.shape)
    assert metrics_flops.model_flops_per_step(c, batch, length, predictions) == 3 * counted


def test_model_flops_of_bert_base_are_near_six_flops_a_parameter_and_token():
    flops = metrics_flops.model_flops_per_step(config_lib.Model(), 256, 128, 20)
    encoder = 12 * (4 * 768**2 + 2 * 768 * 3072)
    assert 1.0 < flops / (6 * encoder * 256 * 128) < 1.1


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA GeForce GTX 1080", None),
        ("cpu", None),
    ],
)
def test_peak_flops(kind, peak):
    assert metrics_flops.peak_flops(types.SimpleNamespace(device_kind=kind)) == peak


def test_speed(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics_flops.time, "perf_counter", lambda: now[0])
    speed = metrics_flops.Speed(step=0, flops_per_token=10**9, peak=4e12)
    for tokens in [1000] * 9 + [500, 500, 1000]:  # two short batches
        speed.add(tokens)
    now[0] += 5
    assert speed.rates(12) == {
        "seconds_per_step": 5 / 12,
        "tokens_per_second": 2200.0,
        "mfu": 0.55,
    }
    now[0] += 60  # an evaluation
    speed.restart(12)
    now[0] += 1
    assert speed.rates(14)["seconds_per_step"] == 0.5
    unknown = metrics_flops.Speed(0, 1, None)
    now[0] += 1
    assert "mfu" not in unknown.rates(1)


def write(workdir, resumed_at, last, tensorboard=False):
    """Training lines from the step after `resumed_at`; every fifth step is evaluated."""
    writer = metrics_writer.MetricsWriter(workdir, resumed_at, tensorboard=tensorboard)
    for step in range(resumed_at, last + 1):
        loss = np.float32(np.random.default_rng(step).standard_normal())
        if step > resumed_at:
            writer.write(step, {"loss": loss, "grad_norm": jnp.float32(loss) / 3})
        if step and step % 5 == 0:
            writer.write(step, {"mlm_loss": loss / 7}, prefix="eval")
    writer.close()
    return (workdir / "metrics.jsonl").read_bytes()


def test_floats_read_back_to_the_bit(tmp_path):
    write(tmp_path, 0, 5)
    entries = metrics_writer.read(tmp_path / "metrics.jsonl")
    assert [e["step"] for e in entries] == [1, 2, 3, 4, 5, 5]
    for entry in entries[:5]:
        loss = np.float32(np.random.default_rng(entry["step"]).standard_normal())
        assert np.float32(entry["loss"]).tobytes() == loss.tobytes()
        assert entry["grad_norm"] == float(jnp.float32(loss) / 3)
    assert set(entries[5]) == {"step", "eval/mlm_loss"}


def test_nan_and_infinities_stay_valid_json(tmp_path):
    writer = metrics_writer.MetricsWriter(tmp_path, 0, tensorboard=False)
    writer.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    writer.close()

    def forbid(constant):
        raise AssertionError(constant)

    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=forbid)
    (entry,) = metrics_writer.read(tmp_path / "metrics.jsonl")
    assert math.isnan(entry["a"])
    assert (entry["b"], entry["c"]) == (math.inf, -math.inf)


@pytest.mark.parametrize("torn", [0, 1, 30])
@pytest.mark.parametrize("killed_at", [10, 13])
def test_a_resumed_file_equals_the_uninterrupted_one(tmp_path, torn, killed_at):
    """The checkpoint is step 10's, where the evaluation is on disk, torn, or not there yet."""
    expected = write(tmp_path / "once", 0, 20)
    raw = write(tmp_path / "twice", 0, killed_at)
    (tmp_path / "twice/metrics.jsonl").write_bytes(raw[: len(raw) - torn])
    assert write(tmp_path / "twice", 10, 20) == expected


def test_a_line_cut_short_at_the_resumed_step_goes(tmp_path):
    raw = write(tmp_path, 0, 3)
    (tmp_path / "metrics.jsonl").write_bytes(raw + b'{"step": 3, "lo')
    assert write(tmp_path, 3, 3) == raw


def test_a_fresh_start_empties_an_old_file(tmp_path):
    write(tmp_path, 0, 20)
    assert write(tmp_path, 0, 2).count(b"\n") == 2


def test_lines_are_on_disk_before_close(tmp_path):
    writer = metrics_writer.MetricsWriter(tmp_path, 0, tensorboard=False)
    writer.write(1, {"loss": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'
    writer.close()


def test_tensorboard_holds_the_same_values(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    write(tmp_path, 0, 5, tensorboard=True)
    (log,) = (tmp_path / "tensorboard").iterdir()
    raw, values, at = log.read_bytes(), {}, 0
    while at < len(raw):  # TFRecord: length u64, its crc u32, data, crc u32
        length = int.from_bytes(raw[at : at + 8], "little")
        event = Event.FromString(raw[at + 12 : at + 12 + length])
        values |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
        at += length + 16
    entries = metrics_writer.read(tmp_path / "metrics.jsonl")
    assert values["train/loss", 3] == pytest.approx(entries[2]["loss"])
    assert values["eval/mlm_loss", 5] == pytest.approx(entries[5]["eval/mlm_loss"])


def test_a_workdir_that_refuses_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"metrics\.jsonl: cannot be written") as error:
        metrics_writer.MetricsWriter(tmp_path / "file", 0, tensorboard=False)
    assert "\n" not in str(error.value)


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch, caplog):
    now = [0.0]
    caplog.set_level("INFO", "bertjax")
    monkeypatch.setattr(metrics_flops.time, "monotonic", lambda: now[0])
    with progress_lib.Progress(100, 0, seconds=10) as progress:
        for step in range(1, 101):
            now[0] += 1
            progress.update(step, "phase1", {"loss": 2.5, "mlm_accuracy": 0.125})
    lines = caplog.messages
    assert lines[0] == "phase1  1/100  loss 2.500  mlm 12.5%  eta 0:01:39"
    assert len(lines) == 11
    assert lines[-1].startswith("phase1  100/100")


def test_on_a_terminal_progress_is_live(monkeypatch):
    terminal = io.StringIO()
    console = progress_lib.Console(file=terminal, force_terminal=True, width=80)
    monkeypatch.setattr(progress_lib, "Console", lambda: console)
    with terminal_lib.shown(), progress_lib.Progress(100, 0) as progress:
        progress.update(40, "phase1", {"loss": 2.5})
    assert "40/100" in terminal.getvalue()
    assert "loss 2.500" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()
