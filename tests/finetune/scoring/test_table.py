"""Laws of the summaries, tables and pictures of runs."""

import json
import math

import pytest

from bertjax.errors import StorageError
from bertjax.finetune.scoring import picture, summary, table
from bertjax.finetune.tasks import TASKS


def run(task, seed, value, *, rate=2e-5, batch=32, epochs=3.0, degenerate=False, **figures):
    record = TASKS.get(task)
    metric = record.metrics[0] if record else "macro_f1"
    return {
        "task": task,
        "title": record.title if record else task,
        "seed": seed,
        "learning_rate": rate,
        "batch_size": batch,
        "epochs": epochs,
        "step": 100,
        "metric": metric,
        "value": value,
        "figures": {metric: value} | figures,
        "train_loss": 0.1234,
        "degenerate": degenerate,
        "seconds": 63.1,
    }


MRPC = [run("mrpc", seed, f1, accuracy=f1 - 0.1) for seed, f1 in enumerate((0.90, 0.92, 0.85))]
COLA = [run("cola", 0, 0.5), run("cola", 1, None, degenerate="every prediction is acceptable")]


def test_a_summary_by_hand():
    got = summary.summarize(MRPC, "f1")
    assert got.runs == 3
    assert got.mean == pytest.approx(0.89)
    assert got.median == pytest.approx(0.90)
    assert got.std == pytest.approx(math.sqrt((0.01**2 + 0.03**2 + 0.04**2) / 2))
    assert got.best == 0.92
    assert got.degenerate == 0


def test_an_undefined_figure_counts_zero_and_its_run_is_degenerate():
    got = summary.summarize(COLA, "matthews")
    assert (got.mean, got.median, got.best, got.degenerate) == (0.25, 0.25, 0.5, 1)
    alone = summary.summarize(COLA[1:], "matthews")
    assert (alone.best, alone.degenerate) == (0.0, 1)


def test_one_run_has_no_spread_and_json_has_no_nan():
    got = summary.summarize(MRPC[:1], "f1")
    assert math.isnan(got.std)
    assert got.as_json()["std"] is None
    lost = [run("x", 0, 0.5, loss=math.nan), run("x", 1, 0.5, loss=0.5)]
    assert summary.summarize(lost, "loss").best == 0.5
    json.dumps(summary.summarize(lost, "loss").as_json(), allow_nan=False)


def grid():
    """Two cells: the second has the better mean, the first the best run."""
    return [
        run("mrpc", 1, 0.80, rate=5e-5),
        run("mrpc", 0, 0.95, rate=5e-5, accuracy=0.9),
        run("mrpc", 0, 0.90, rate=2e-5, accuracy=0.86),
        run("mrpc", 1, 0.89, rate=2e-5, accuracy=0.85),
    ]


def test_cells_are_sorted_whatever_the_order_of_the_runs():
    cells = summary.cells(grid())
    assert list(cells) == [(2e-5, 32, 3.0), (5e-5, 32, 3.0)]
    assert [[r["seed"] for r in cell] for cell in cells.values()] == [[0, 1], [0, 1]]
    assert table.grid_table(grid()) == table.grid_table(grid()[::-1])


def test_glue_takes_the_cell_with_the_best_mean():
    rows = table.glue(grid())["tasks"]
    assert [row["metric"] for row in rows] == ["f1", "accuracy"]
    assert rows[0]["learning_rate"] == 2e-5
    assert rows[0]["mean"] == pytest.approx(0.895)
    line = "MRPC: rate 2e-05, batch 32, epochs 3: the best mean of 2 cells"
    assert table.glue_table(grid()).endswith("\n\n" + line)


def test_the_glue_table():
    got = table.glue_table([*COLA, *MRPC])
    assert got.splitlines() == [
        "task  metric    mean   std  median  best  runs  degenerate",
        "----  --------  ----  ----  ------  ----  ----  ----------",
        "CoLA  Matthews  25.0  35.4    25.0  50.0     2           1",
        "MRPC  F1        89.0   3.6    90.0  92.0     3           0",
        "MRPC  accuracy  79.0   3.6    80.0  82.0     3           0",
        "",
        "average                                                 of means  of medians",
        "------------------------------------------------------  --------  ----------",
        "BERT (MNLI twice, no WNLI), 2 of 9 tasks                    57.0        57.5",
        "RoBERTa dev (accuracy, Pearson, no WNLI), 2 of 8 tasks      52.0        52.5",
        "DistilBERT (with WNLI), 2 of 9 tasks                        54.5        55.0",
        "DistilBERT without WNLI, 2 of 8 tasks                       54.5        55.0",
        "GLUE leaderboard, 2 of 9 tasks                              54.5        55.0",
    ]


def whole():
    both = {"f1": 0.5, "accuracy": 0.7}
    runs = [run(t, 0, 0.6, accuracy=0.6) for t in ("qnli", "sst2", "rte", "wnli")]
    runs += [run(t, 0, 0.5, **both) for t in ("mrpc", "qqp")]
    runs += [run("cola", 0, 0.4), run("stsb", 0, 0.8, pearson=0.9)]
    return [*runs, run("mnli", 0, 0.8, mismatched_accuracy=0.7)]


def test_the_order_is_berts_and_whole_averages_bear_no_mark():
    got = table.glue_table(whole())
    order = [line.split()[0] for line in got.split("\n\n")[0].splitlines()[2:]]
    wanted = "MNLI QQP QNLI SST-2 CoLA STS-B MRPC RTE WNLI"
    assert " ".join(dict.fromkeys(order)) == wanted
    assert " of 9 tasks" not in got
    rows = {a["name"].split()[0]: a for a in reversed(table.glue(whole())["averages"])}
    # 0.8 + 0.7 (MNLI) + 3 * 0.6 + 0.4 + 0.5 + 0.5 + 0.8
    assert rows["BERT"]["mean"] == pytest.approx(5.5 / 9)
    # 0.75 + 3 * 0.6 + 0.4 + 0.6 + 0.6 + 0.85 + 0.6
    assert rows["GLUE"]["mean"] == pytest.approx(5.6 / 9)


def test_no_runs_and_other_tasks_make_an_empty_table():
    for runs in ([], [run("squad", 0, 0.5, exact=0.4)]):
        assert len(table.glue_table(runs).splitlines()) == 2
        assert all(a["mean"] is None for a in table.glue(runs)["averages"])


def test_the_grid_table():
    runs = [*grid()[2:], *COLA, run("mine", 0, 0.25)]
    got = table.grid_table(runs)
    of_runs, of_cells = got.split("\n\n")
    head = "task rate batch epochs seed metric value train loss seconds degenerate"
    assert " ".join(of_runs.splitlines()[0].split()) == head
    assert "every prediction is acceptable" in of_runs
    assert of_runs.splitlines()[3].split()[6] == "-"  # undefined
    assert of_cells.splitlines()[-1].split() == (
        ["mine", "2e-05", "32", "3", "macro_f1", "25.0", "-", "25.0", "25.0", "1", "0"]
    )
    assert of_cells.splitlines()[3].split()[5:] == ["89.5", "0.7", "89.5", "90.0", "2", "0"]


def test_grid_as_json():
    got = table.grid([*grid(), *COLA[1:]])
    json.dumps(got, allow_nan=False)
    assert [row["task"] for row in got] == ["cola", "mrpc", "mrpc"]
    assert got[0]["std"] is None
    assert got[1]["seeds"] == [0, 1]
    assert got[1]["learning_rate"] == 2e-5


@pytest.mark.filterwarnings("error")
def test_a_picture_is_the_same_whatever_the_order(tmp_path):
    runs = [*grid(), *COLA, *MRPC]
    path = picture.draw(tmp_path / "grid.png", runs, "GLUE")
    assert path.read_bytes().startswith(b"\x89PNG")
    before = path.read_bytes()
    assert picture.draw(tmp_path / "again.png", runs, "GLUE").read_bytes() == before
    assert picture.draw(tmp_path / "other.png", runs[:-1], "GLUE").read_bytes() != before
    assert b"<svg" in picture.draw(tmp_path / "grid.svg", whole()).read_bytes()


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(StorageError):
        picture.draw(tmp_path / "no" / "such" / "grid.png", COLA)
