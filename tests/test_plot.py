"""Laws of bertjax.plot: a picture from whatever was logged, one line where nothing was."""

import json
import math

import numpy as np
import pytest

from bertjax import plot
from bertjax.errors import DataError, StorageError
from bertjax.metrics import writer as metrics_writer


def log(workdir, steps, eval_every=0):
    writer = metrics_writer.MetricsWriter(workdir, 0, tensorboard=False)
    for step in range(1, steps + 1):
        values = {"mlm_loss": 10 / step, "mlm_accuracy": 0.1, "learning_rate": 1e-4}
        if step == 3:
            values["mlm_loss"] = math.nan
        writer.write(step, values)
        if eval_every and step % eval_every == 0:
            writer.write(step, {"mlm_loss": 11 / step, "nsp_accuracy": 0.6}, prefix="eval")
    writer.close()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("steps", "eval_every"), [(1, 0), (200, 20)])
def test_a_picture_is_written(tmp_path, steps, eval_every):
    log(tmp_path, steps, eval_every)
    path = plot.plot(tmp_path)
    assert path == tmp_path / "plot.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    before = path.read_bytes()
    assert plot.plot(tmp_path, tmp_path / "other.png").read_bytes() == before


def test_the_unigram_entropy_comes_from_the_store(tmp_path):
    log(tmp_path, 5)
    without = plot.plot(tmp_path).read_bytes()
    (tmp_path / "store").mkdir()
    manifest = {"format": 1, "unigram_entropy": 7.1}
    (tmp_path / "store/manifest.json").write_text(json.dumps(manifest))
    assert plot._unigram_entropy(tmp_path) == 7.1
    assert plot.plot(tmp_path).read_bytes() != without


def test_series_leave_out_what_is_missing_or_not_finite(tmp_path):
    log(tmp_path, 6, eval_every=3)
    entries = metrics_writer.read(tmp_path / "metrics.jsonl")
    steps, values = plot._series(entries, "mlm_loss")
    assert steps.tolist() == [1, 2, 4, 5, 6]
    assert values.tolist() == [10 / s for s in (1, 2, 4, 5, 6)]
    assert plot._series(entries, "eval/mlm_loss")[0].tolist() == [3, 6]
    assert plot._series(entries, "nothing")[0].size == 0


@pytest.mark.parametrize("count", [1, 79, 80, 401])
def test_smoothing_is_the_mean_of_the_window(count):
    values = np.random.default_rng(0).standard_normal(count)
    half = count // 80
    expected = [values[max(0, i - half) : i + half + 1].mean() for i in range(count)]
    np.testing.assert_allclose(plot._smoothed(values), expected, atol=1e-12)


def test_nothing_to_draw_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.jsonl: no such file"):
        plot.plot(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "lo')
    with pytest.raises(DataError, match="holds no metrics yet"):
        plot.plot(tmp_path)


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path):
    log(tmp_path, 2)
    with pytest.raises(StorageError, match="cannot be written"):
        plot.plot(tmp_path, tmp_path / "missing" / "plot.png")
