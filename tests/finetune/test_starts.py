"""The weights a fine-tuning starts from: what of a source is kept, and what is drawn anew."""

import dataclasses

import jax
import numpy as np
import pytest
from random_models import random_model

from bertjax import config as config_lib
from bertjax import models, sharding
from bertjax.errors import UsageError
from bertjax.finetune import starts

MNLI = ("entailment", "neutral", "contradiction")


def source(head, labels=(), **fields):
    """A model of random weights as a reader returns it."""
    count = len(labels) or fields.pop("num_labels", 2)
    return random_model(head=head, label_names=labels, num_labels=count, **fields)


def started(of, *, head="classification", labels=(), kind=None, num_labels=0, **how):
    """What `starts.start` makes of a source for a task with these labels; fresh weights; lines."""
    model = dataclasses.replace(
        of.config.model,
        head=head,
        label_names=labels,
        num_labels=num_labels or len(labels) or 2,
        problem_type=kind,
    )
    config = config_lib.Config(
        init_from="hf:SRC", model=model, finetune=config_lib.Finetune(**how), mesh=config_lib.Mesh()
    )
    fresh = jax.jit(models.init, static_argnums=0)(model, jax.random.key(1))
    mesh = sharding.make_mesh(config.mesh)
    placed = sharding.abstract(mesh, {"params": fresh})["params"]
    fresh = jax.device_put(fresh, jax.tree.map(lambda x: x.sharding, placed))
    found, lines = starts.start(config, of, fresh)
    return jax.device_get(found), jax.device_get(fresh), lines


def same(a, b):
    return all(
        jax.tree.leaves(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), dict(a), dict(b)))
    )


def test_an_encoder_is_taken_and_the_head_drawn():
    of = source("pretraining")
    found, fresh, (line,) = started(of, labels=MNLI)
    for part in ("embeddings", "blocks", "pooler"):
        assert same(found[part], of.params[part])
    assert same(found["classifier"], fresh["classifier"])
    assert line == (
        "weights of hf:SRC; at random: classifier/dense/kernel, classifier/dense/bias; "
        "not used: masked_lm, next_sentence"
    )


def test_a_random_start_takes_nothing():
    of = source("classification", MNLI)
    found, fresh, lines = started(of, labels=MNLI, random_start=True)
    assert same(found, fresh)
    assert lines == ["weights: all at random"]


@pytest.mark.parametrize("layers", [1, 2])
def test_the_top_blocks_and_the_pooler_are_drawn_anew_and_nothing_else(layers):
    of = source("pretraining")
    found, fresh, lines = started(of, labels=MNLI, reinit_layers=layers)
    for names in ("embeddings",):
        assert same(found[names], of.params[names])
    assert same(found["pooler"], fresh["pooler"])
    for new, ours, theirs in zip(
        *map(jax.tree.leaves, (found["blocks"], fresh["blocks"], of.params["blocks"])), strict=True
    ):
        kept = 2 - layers
        np.testing.assert_array_equal(new[:kept], theirs[:kept])
        np.testing.assert_array_equal(new[kept:], ours[kept:])
    assert lines[-1] == f"reinitialized: the top {layers} blocks and the pooler"


def test_without_a_pooler_none_is_drawn():
    found, _, lines = started(source("none"), head="token", labels=("O", "B-x"), reinit_layers=1)
    assert "pooler" not in found
    assert lines[-1] == "reinitialized: the top 1 blocks"


def test_more_layers_than_there_are():
    with pytest.raises(UsageError, match=r"reinit_layers=3: there are 2 blocks; take fewer"):
        started(source("pretraining"), labels=MNLI, reinit_layers=3)


def test_a_classifier_is_kept_by_the_names_of_its_labels():
    """Of a source whose id2label has another order than the task (transformers #10401)."""
    theirs = ("contradiction", "ENTAILMENT", "neutral")
    of = source("classification", theirs)
    found, _, lines = started(of, labels=MNLI)
    dense = of.params["classifier"]["dense"]
    order = [1, 2, 0]
    np.testing.assert_array_equal(found["classifier"]["dense"]["kernel"], dense["kernel"][:, order])
    np.testing.assert_array_equal(found["classifier"]["dense"]["bias"], dense["bias"][order])
    assert same(found["pooler"], of.params["pooler"])
    assert lines == [
        "weights of hf:SRC",
        "classifier: kept by name: entailment (row 1), neutral (row 2), contradiction (row 0)",
    ]


def test_a_classifier_that_lacks_a_label_is_drawn_anew():
    """RTE from MNLI's model: entailment alone has the same name."""
    of = source("classification", MNLI)
    found, fresh, lines = started(of, labels=("entailment", "not_entailment"))
    assert same(found["classifier"], fresh["classifier"])
    assert same(found["pooler"], of.params["pooler"])
    assert same(found["blocks"], of.params["blocks"])
    assert lines[1] == (
        "classifier: kept by name: entailment (row 0); reinitialized: not_entailment; not used: "
        "neutral, contradiction; as a label is missing, all of it is reinitialized"
    )


def test_fewer_labels_of_a_larger_classifier_are_kept():
    of = source("classification", MNLI)
    found, _, _ = started(of, labels=("contradiction", "entailment"))
    kernel = of.params["classifier"]["dense"]["kernel"]
    np.testing.assert_array_equal(found["classifier"]["dense"]["kernel"], kernel[:, [2, 0]])


@pytest.mark.parametrize(
    ("labels", "more"),
    [
        ((), {"kind": "regression", "num_labels": 1}),  # STS-B from MNLI's model
        (("0", "1"), {"kind": "single_label_classification"}),  # a class from STS-B's
    ],
)
def test_regression_and_classes_do_not_share_a_classifier(labels, more):
    theirs = MNLI if more["kind"] == "regression" else ()
    of = source("classification", theirs, **({} if theirs else {"num_labels": 1}))
    found, fresh, lines = started(of, labels=labels, **more)
    assert same(found["classifier"], fresh["classifier"])
    assert same(found["blocks"], of.params["blocks"])
    assert lines[1] == "classifier: reinitialized: one is for regression, the other for classes"


def test_regression_goes_on_from_regression():
    of = source("classification", (), num_labels=1)
    found, _, lines = started(of, kind="regression", num_labels=1)
    assert same(found["classifier"], of.params["classifier"])
    assert "kept by position" in lines[1]


def test_a_span_head_is_kept_and_a_classifier_is_no_start_of_one():
    of = source("span")
    found, _, lines = started(of, head="span")
    assert same(found["span"], of.params["span"])
    assert lines == ["weights of hf:SRC"]
    found, fresh, (line,) = started(source("classification", MNLI), head="span")
    assert same(found["span"], fresh["span"])
    assert "not used: classifier, pooler" in line


def test_the_tags_of_another_data_set():
    of = source("token", ("O", "B-x", "I-x"))
    found, _, lines = started(of, head="token", labels=("O", "I-x", "B-x"))
    kernel = of.params["token"]["dense"]["kernel"]
    np.testing.assert_array_equal(found["token"]["dense"]["kernel"], kernel[:, [0, 2, 1]])
    assert "kept by name" in lines[1]
