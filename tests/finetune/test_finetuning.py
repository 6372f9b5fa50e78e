"""Fine-tuning as a job: every head learns, losses by hand, parts of a batch, several devices."""

import json

import jax
import numpy as np
import pytest
from finetune_examples import TOKENIZER
from finetune_runs import ONE_OF_EACH_KIND, config, run, write_task

from bertjax import config as config_lib
from bertjax import models, sharding, train
from bertjax.finetune import opening
from bertjax.finetune.job import Finetuning
from bertjax.finetune.scoring import squad_scores
from bertjax.finetune.tasks import TASKS, Task
from bertjax.metrics import writer

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed

# What must be reached on the examples that were trained on.
LEARNED = {
    "sst2": {"accuracy": 1.0},
    "rte": {"accuracy": 1.0},
    "stsb": {"pearson": 0.99, "spearman": 0.9},
    "swag": {"accuracy": 1.0},
    "squad": {"exact": 1.0, "f1": 1.0},
    "token": {"f1": 1.0, "precision": 1.0, "recall": 1.0},
}


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("task", ONE_OF_EACH_KIND)
def test_every_head_overfits_32_examples(task, tmp_path):
    write_task(tmp_path, task, same=True)
    epochs = 80 if task == "stsb" else 40
    how = {"finetune__epochs": epochs, "finetune__buckets": 0, "evaluation__every_steps": 1000}
    (result,) = run(tmp_path, task, tmp_path / "w", **how)
    assert result["degenerate"] is False
    for name, least in LEARNED[task].items():
        assert result["figures"][name] >= least, result


def log_softmax(x, axis=-1):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def job_of(task, **fields):
    asked = config_lib.Config(task=config_lib.Task(name=task, **fields))
    return Finetuning(asked, TASKS[task], TOKENIZER, None, {})


# The third row fills up a batch: it has no example.
SPANS = {
    "attention_mask": np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]),
    "start_positions": np.array([1, 0, -1]),
    "end_positions": np.array([2, 0, -1]),
    "example_ids": np.array([5, 0, -1]),
}


@pytest.mark.parametrize("softmax", ["published", "own"])
def test_the_loss_of_spans_is_over_the_row_or_over_its_own_tokens(softmax):
    job, rng = job_of("squad", span_loss=softmax), np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 2)).astype(np.float32) * 3
    expected = 0.0
    for row in range(2):
        length = 3 if (row, softmax) == (0, "own") else 4
        for i, name in enumerate(("start_positions", "end_positions")):
            expected -= log_softmax(logits[row, :length, i])[SPANS[name][row]] / 2
    found = job.sums({"logits": logits}, SPANS)
    np.testing.assert_allclose(found["task_loss"], expected, rtol=1e-5)
    assert job.weights(SPANS) == {"task_loss": 2.0}


def test_padding_rows_weigh_nothing_and_targets_are_scaled():
    ids, logits = np.array([3, -1, 0, -1]), np.array([[0.5], [9.0], [2.0], [7.0]], np.float32)
    batch = {"example_ids": ids, "labels": np.array([1.0, 0.0, 4.0, 0.0], np.float32)}
    job = job_of("stsb", target_scale=5.0)
    found = job.sums({"logits": logits}, batch)["task_loss"]
    np.testing.assert_allclose(found, (0.5 - 0.2) ** 2 + (2.0 - 0.8) ** 2, rtol=1e-6)
    assert job.weights(batch) == {"task_loss": 2.0}
    job, batch["labels"] = job_of("mnli"), np.array([2, -1, 0, -1], np.int32)
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    found = job.sums({"logits": logits}, batch)
    expected = -log_softmax(logits)[0, 2] - log_softmax(logits)[2, 0]
    np.testing.assert_allclose(found["task_loss"], expected, rtol=1e-5)
    right = int(logits[0].argmax() == 2) + int(logits[2].argmax() == 0)
    assert found["task_accuracy"] == right
    assert job.weights(batch) == {"task_loss": 2.0, "task_accuracy": 2.0}


def test_words_count_at_their_first_piece_in_rows_that_are_there():
    job = Finetuning(config_lib.Config(), Task("token", "token", "token"), TOKENIZER, None, {})
    batch = {
        "example_ids": np.array([0, -1]),
        "labels": np.array([[-1, 1, -1, 0], [-1, 1, 1, 1]], np.int32),
    }
    logits = np.random.default_rng(0).normal(size=(2, 4, 2)).astype(np.float32)
    expected = -log_softmax(logits)[0, 1, 1] - log_softmax(logits)[0, 3, 0]
    found = job.sums({"logits": logits}, batch)
    np.testing.assert_allclose(found["task_loss"], expected, rtol=1e-5)
    assert job.weights(batch) == {"task_loss": 2.0, "task_accuracy": 2.0}


@pytest.mark.parametrize("task", ONE_OF_EACH_KIND)
def test_parts_of_a_batch_give_the_gradients_of_the_whole(task, tmp_path):
    """Where the parts weigh differently: rows that fill up are all in one, words are never equal."""
    write_task(tmp_path, task, 16, 4)
    how = {"phases__phase1__batch_size": 8, "model__hidden_dropout_prob": 0.1}
    job = opening.open(config(tmp_path, task, **how), tmp_path / "w")
    (stage,) = config_lib.stages.of(job.config)
    batch = job.batches(stage).batch(0)
    batch["example_ids"][[0, 2, 4]] = -1
    mesh = sharding.make_mesh(job.config.mesh, jax.devices()[:1])
    placement = sharding.Placement(mesh)
    params = jax.jit(models.init, static_argnums=0)(job.config.model, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 8)  # of the rows: they drop the same in any part

    @jax.jit
    def in_one_and_in_four(params, batch):
        return [
            train.reduced_gradients(job, params, job.frozen, batch, keys, placement, parts)
            for parts in (1, 4)
        ]

    (one, terms), (four, same_terms) = in_one_and_in_four(params, batch)
    assert np.isfinite(terms["loss"])
    assert terms["loss"] > 0
    for name, value in terms.items():
        np.testing.assert_allclose(same_terms[name], value, rtol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), four, one)


def test_each_split_is_scored_by_its_own_rows(tmp_path):
    """MNLI's two dev sets, gathered in batches that hold rows of one, then of the other."""
    folder = tmp_path / "mnli"
    folder.mkdir()
    labels = TASKS["mnli"].labels
    for name, count in (("train", 6), ("dev_matched", 5), ("dev_mismatched", 4)):
        lines = [f"{i}\tann was\tit\t{labels[i % 3]}" for i in range(count)]
        text = "\n".join(["index\tsentence1\tsentence2\tgold_label", *lines])
        (folder / f"{name}.tsv").write_text(text + "\n")
    job = opening.open(config(tmp_path, "mnli"), tmp_path / "w")
    assert list(job.heldout_splits) == ["dev", "dev_mismatched"]
    (stage,) = config_lib.stages.of(job.config)
    heldout = job.heldout(stage)
    assert heldout.num_batches == 2
    gathered = {"split": [], "example_ids": [], "logits": []}
    for step in range(2):
        batch = heldout.batch(step)
        ids, split = batch["example_ids"], batch["split"]
        assert sorted(ids[ids >= 0]) == list(range(5 - step))
        right = np.eye(3)[ids % 3]
        wrong = (split == 1) & (ids == 0)  # one of the four mismatched ones
        gathered["logits"].append(np.where(wrong[:, None], -right, right).astype(np.float32))
        gathered["split"].append(split)
        gathered["example_ids"].append(ids)
    figures = job.figures({"task_loss": (np.float32(18.0), np.float32(9.0))}, gathered)
    assert figures["loss"] == 2.0
    assert figures["accuracy"] == 1.0
    assert figures["mismatched_accuracy"] == 0.75


@pytest.mark.usefixtures("one_device")
def test_questions_without_an_answer_are_scored_at_three_thresholds(tmp_path, capsys):
    write_task(tmp_path, "squad2", 16, 8)
    how = {"finetune__epochs": 1.0, "finetune__buckets": 0}
    (result,) = run(tmp_path, "squad2", tmp_path / "w", **how)
    names = {"exact", "f1", "tuned_exact", "tuned_f1", "crossed_exact", "crossed_f1", "threshold"}
    assert names <= result["figures"].keys()
    assert result["figures"]["tuned_f1"] >= result["figures"]["f1"]
    assert result["metric"] == "f1"
    files = ("predictions", "null_odds", "best_answers")
    answers, odds, best = (json.loads((tmp_path / f"w/{name}.json").read_text()) for name in files)
    assert answers.keys() == {f"dev{i}" for i in range(8)}
    threshold = result["figures"]["threshold"]
    assert answers == {q: "" if odds[q] > threshold else best[q] for q in best}
    golds = golds_of(tmp_path / "squad2/dev.json")
    scored = squad_scores.score(golds, answers, null_answers=True)
    assert np.mean(list(scored.f1.values())) == pytest.approx(result["figures"]["tuned_f1"])
    assert f"8 dev questions at threshold {threshold:.4f}" in capsys.readouterr().out


def golds_of(path):
    """The texts of the answers by question, as a file of SQuAD has them."""
    [article] = json.loads(path.read_text())["data"]
    entries = [qa for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
    return {qa["id"]: [answer["text"] for answer in qa["answers"]] for qa in entries}


@pytest.mark.usefixtures("one_device")
def test_answers_are_handed_in_as_the_weights_that_count_give_them(tmp_path):
    """Of a run whose best evaluation is not the last: predictions.json has the best one's F1."""
    write_task(tmp_path, "squad", 16, 8)
    how = {"finetune__epochs": 4.0, "finetune__buckets": 0, "finetune__select": "best"}
    (result,) = run(tmp_path, "squad", tmp_path / "w", evaluation__every_steps=1, **how)
    answers = json.loads((tmp_path / "w/predictions.json").read_text())
    scored = squad_scores.score(golds_of(tmp_path / "squad/dev.json"), answers, null_answers=False)
    for name, values in (("f1", scored.f1), ("exact", scored.exact)):
        assert np.mean(list(values.values())) == pytest.approx(result["figures"][name])
    assert not (tmp_path / "w/null_odds.json").exists()


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("task", ["stsb", "squad"])
def test_bfloat16_trains_and_is_scored(task, tmp_path):
    write_task(tmp_path, task, 32, 8)
    how = {"finetune__epochs": 2.0, "finetune__buckets": 0, "model__dtype": "bfloat16"}
    (result,) = run(tmp_path, task, tmp_path / "w", **how)
    lines = writer.read(tmp_path / "w/metrics.jsonl")
    curve = [line["loss"] for line in lines if "loss" in line]
    assert np.isfinite(curve).all()
    assert curve[-1] < curve[0]
    assert np.isfinite(result["figures"]["loss"])
