"""Whole runs of every input format, packed and mixed: stopped and resumed, they are the same run."""

import dataclasses
import functools
import json
import os
import signal

import jax
import numpy as np
import pytest
from devices import pretend_platform
from runs import losses

from bertjax import config as config_lib
from bertjax import convert, loop, pretraining, sharding
from bertjax.data import prepare
from bertjax.errors import Preempted

BUILDERS = ("segment_pair_nsp", "sentence_pair_nsp", "full_sentences", "doc_sentences")
MODES = ("alone", "packed", "mixture", "packed mixture")


def make_config(root, builder, mode, **changes):
    nsp = builder.endswith("_nsp")
    fields = {
        "model": config_lib.Model(
            vocab_size=0,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            head="pretraining" if nsp else "masked_lm",
        ),
        "tokenizer": config_lib.Tokenizer(vocab_size=400),
        "data": config_lib.Data(files=f"{root}/0.jsonl", num_workers=1, heldout_fraction=0.2),
        "examples": config_lib.Examples(builder, max_per_row=4 if "packed" in mode else 1),
        "objective": config_lib.Objective(nsp=float(nsp)),
        "phases": {
            "phase1": config_lib.Phase(
                steps=12, sequence_length=48, batch_size=16, max_predictions_per_seq=12
            )
        },
        "optimizer": config_lib.Optimizer(learning_rate=1e-3, warmup_steps=3),
        "evaluation": config_lib.Evaluation(every_steps=6, num_examples=40, batch_size=8),
        "logging": config_lib.Logging(every_steps=1, tensorboard=False),
    }
    if "mixture" in mode:
        data = fields["data"]
        fields["mixture"] = {
            name: config_lib.Component(
                weight, dataclasses.replace(data, files=f"{root}/{number}.jsonl")
            )
            for number, (name, weight) in enumerate((("books", 0.75), ("wiki", 0.25)))
        }
    return config_lib.Config(**fields | changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two corpora of real text (the language reference that Python carries), and their stores."""
    from pydoc_data import topics

    root = tmp_path_factory.mktemp("recipes")
    texts = ["\n".join(t.split("\n\n")) for t in topics.topics.values()]
    for number, part in enumerate((texts[:25], texts[25:60])):
        lines = (json.dumps({"text": text}) for text in part)
        (root / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    for mode in ("alone", "mixture"):
        prepare.prepare(make_config(root, "doc_sentences", mode), root / mode, progress=False)
    return root


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    """Eight fake devices on two cores spend their time waiting for each other."""
    make = functools.partial(sharding.make_mesh, devices=jax.devices()[:2])
    monkeypatch.setattr(sharding, "make_mesh", make)


def start(root, config, directory):
    """A workdir with the corpus prepared already."""
    directory.mkdir()
    prepared = root / ("mixture" if config.mixture else "alone")
    for name in ("store", "tokenizer"):
        (directory / name).symlink_to(prepared / name)
    return directory


def stop_at(monkeypatch, step):
    """SIGTERM to this process when the loop reports `step`."""
    report = loop.Trainer._report

    def reporting(trainer, pending, *rest):
        report(trainer, pending, *rest)
        if pending and pending[0] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Trainer, "_report", reporting)


def check_resumes(root, tmp_path, monkeypatch, config, step):
    whole = start(root, config, tmp_path / "whole")
    pretraining.pretrain(config, whole)
    stopped = start(root, config, tmp_path / "stopped")
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Preempted):
            pretraining.pretrain(config, stopped)
    assert 0 < len(losses(stopped)) < len(losses(whole))
    pretraining.pretrain(config, stopped)
    assert losses(stopped) == losses(whole)
    states = [convert.read(str(directory)).params for directory in (stopped, whole)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    return losses(whole)


@pytest.mark.slow
def test_lamb_on_packed_pairs_in_micro_batches_resumes(root, tmp_path, monkeypatch):
    config = make_config(
        root,
        "sentence_pair_nsp",
        "packed",
        optimizer=config_lib.Optimizer(name="lamb", learning_rate=1e-2, decay_power=0.5),
        phases={
            "a": config_lib.Phase(
                steps=8,
                sequence_length=48,
                batch_size=32,
                micro_batch_size=8,
                max_predictions_per_seq=12,
                learning_rate=1e-2,
                warmup_steps=2,
            ),
            "b": config_lib.Phase(
                steps=4,
                sequence_length=64,
                batch_size=16,
                max_predictions_per_seq=16,
                learning_rate=5e-3,
                warmup_steps=2,
            ),
        },
    )
    lines = check_resumes(root, tmp_path, monkeypatch, config, 9)
    rates = {line["step"]: line["learning_rate"] for line in lines if "learning_rate" in line}
    # Each phase warms up anew: `learning_rate` of a line is that of its own step, counted from 0.
    assert rates[1] == rates[9] == 0
    np.testing.assert_allclose([rates[2], rates[10]], [5e-3, 2.5e-3], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_fused_kernels_resume(root, tmp_path, monkeypatch, platform):
    """Its kernels run in JAX's interpreter."""
    pretend_platform(monkeypatch, platform)
    config = make_config(root, "sentence_pair_nsp", "packed")
    phase = dataclasses.replace(config.phases["phase1"], sequence_length=128, batch_size=4)
    config = dataclasses.replace(config, phases={"phase1": phase})
    norm = "fused" if platform == "gpu" else "xla"
    fields = {"attention": "flash", "layer_norm": norm, "hidden_size": 64}
    config = config.with_model(**fields, max_position_embeddings=128)
    check_resumes(root, tmp_path, monkeypatch, config, 7)


@pytest.mark.slow
def test_a_ramp_on_mixed_blocks_resumes_within_a_stage(root, tmp_path, monkeypatch):
    phase = config_lib.Phase(
        steps=12,
        sequence_length=48,
        batch_size=32,
        max_predictions_per_seq=12,
        ramp_from=16,
        ramp_steps=5,
        micro_batch_size=16,
    )
    masking = config_lib.Masking(rounding="probabilistic", unit="span")
    config = make_config(
        root, "full_sentences", "mixture", phases={"phase1": phase}, masking=masking
    )
    check_resumes(root, tmp_path, monkeypatch, config, 8)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("builder", BUILDERS)
def test_every_format_resumes_to_the_bit(root, tmp_path, monkeypatch, builder, mode):
    masking = config_lib.Masking(static_patterns=2 if builder == "doc_sentences" else 0)
    config = make_config(root, builder, mode, masking=masking)
    check_resumes(root, tmp_path, monkeypatch, config, 7)
