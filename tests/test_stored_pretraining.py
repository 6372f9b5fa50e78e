"""Pretraining on TFRecords: the job asks for no masks, and its accuracy is run_pretraining.py's."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tfrecords

from bertjax import config as configs
from bertjax import pretraining
from bertjax.config import stages
from bertjax.data import prepare
from bertjax.data.tokenizer import WORDPIECE_SPECIALS
from bertjax.errors import DataError
from bertjax.plan import budget


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    (root / "vocab.txt").write_text("\n".join([*WORDPIECE_SPECIALS, *(f"w{i}" for i in range(45))]))
    tfrecords.write(root / "train", tfrecords.make(40))
    tfrecords.write(root / "eval", tfrecords.make(11, seed=1))
    prepare.prepare(config_of(root), root / "w", progress=False)
    return root


def config_of(root, **data):
    files = {"files": str(root / "train"), "heldout_files": str(root / "eval")} | data
    phase = {"steps": 9, "batch_size": 8, "sequence_length": 16, "max_predictions_per_seq": 3}
    return configs.from_config_dict(
        {
            "data": {"source": "bert_tfrecord"} | files,
            "tokenizer": {"path": str(root / "vocab.txt")},
            "model": {"vocab_size": 0, "hidden_size": 8, "num_attention_heads": 2},
            "phases": {"phase1": phase},
            "evaluation": {"batch_size": 4},
        }
    )


def test_batches_are_those_the_plan_compiles_for_and_stay_as_they_are(root):
    job = pretraining.open(config_of(root), root / "w", build=False)
    stage = stages.of(job.config)[0]
    batch = job.batches(stage).batch(0)
    assert {name: value.shape for name, value in batch.items()} == job.shapes(stage)
    prepared = job.prepare(stage)({name: jnp.asarray(value) for name, value in batch.items()})
    np.testing.assert_array_equal(prepared["input_ids"], batch["input_ids"])
    _, rows = budget.corpus(config_of(root), root / "w")
    assert rows == [40]


def test_the_accuracy_is_that_of_run_pretraining(root):
    """`tf.metrics.accuracy(labels, argmax, weights)` over all batches: sum(w * right) / sum(w).

    The last of three batches has 3 examples and a row that fills it.
    """
    job = pretraining.open(config_of(root), root / "w", build=False)
    stage = stages.of(job.config)[0]
    heldout, rng, totals = job.heldout(stage), np.random.default_rng(0), {}
    right = weight = loss = nsp = 0.0
    for step in range(heldout.num_batches):
        batch = job.prepare(stage)(
            {name: jnp.asarray(value) for name, value in heldout.batch(step).items()}
        )
        logits = rng.normal(size=(4, 3, 50)).astype(np.float32)
        pairs = rng.normal(size=(4, 2)).astype(np.float32)
        # Half of the answers are right.
        np.put_along_axis(logits[::2], np.asarray(batch["masked_lm_ids"])[::2, :, None], 9.0, 2)
        outputs = {
            "masked_lm_logits": jnp.asarray(logits),
            "next_sentence_logits": jnp.asarray(pairs),
        }
        sums, weights = job.sums(outputs, batch), job.weights(batch)
        for name in sums:
            total, of = totals.get(name, (0.0, 0.0))
            totals[name] = total + sums[name], of + weights[name]
        for row in range(min(4, 11 - 4 * step)):
            nsp += int(pairs[row].argmax()) == int(batch["next_sentence_labels"][row])
            for k in range(3):
                w, label = (
                    float(batch["masked_lm_weights"][row, k]),
                    int(batch["masked_lm_ids"][row, k]),
                )
                weight += w
                right += w * (logits[row, k].argmax() == label)
                loss += w * (np.log(np.exp(logits[row, k]).sum()) - logits[row, k, label])
    figures = job.figures(totals, {})
    assert 0.4 < right / weight < 0.9
    np.testing.assert_allclose(figures["mlm_accuracy"], right / weight, rtol=1e-6)
    np.testing.assert_allclose(figures["mlm_loss"], loss / weight, rtol=1e-5)
    np.testing.assert_allclose(figures["nsp_accuracy"], nsp / 11, rtol=1e-6)


def test_other_files_than_the_index_is_of_are_refused(root, tmp_path):
    other = tfrecords.write(tmp_path / "other", tfrecords.make(40, seed=5))
    with pytest.raises(DataError, match=r"config.data.files='.*other', made with '.*train'"):
        pretraining.open(config_of(root, files=str(other)), root / "w", build=False)
    text = dataclasses.replace(config_of(root).data, source="sample", heldout_files=None)
    config = dataclasses.replace(config_of(root), data=text)
    with pytest.raises(DataError, match=r"config.data.source='sample', made with 'bert_tfrecord'"):
        pretraining.open(config, root / "w", build=False)
    unnamed = config_of(root, files=None, heldout_files=None)
    assert pretraining.open(unnamed, root / "w", build=False).config.data == config_of(root).data
