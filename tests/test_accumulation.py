"""Micro-batches: the same update as the whole batch at once, on any mesh, in less memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import config as config_lib
from bertjax import keys, models, sharding, train

MODEL = config_lib.Model(
    vocab_size=500, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=128, max_position_embeddings=32, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)  # fmt: skip
PHASE = config_lib.Phase(steps=100, sequence_length=32, batch_size=256, max_predictions_per_seq=5)
PARTS = 8


def make_config(name="bert_adamw", mesh=None, **model):
    return config_lib.Config(
        model=dataclasses.replace(MODEL, **model),
        phases={"phase1": PHASE},
        optimizer=config_lib.Optimizer(name=name, learning_rate=1e-2, warmup_steps=2),
        mesh=mesh or config_lib.Mesh(),
    )


def make_batch(step):
    """A batch masked already, whose parts `i % 8` differ in predictions and in rows that pad."""
    rng = np.random.default_rng(step)
    rows, length, predictions = PHASE.batch_size, 32, PHASE.max_predictions_per_seq
    part = np.arange(rows) % PARTS
    real = rng.random(rows) < (1 + part) / PARTS
    attended = np.arange(length) < rng.integers(8, length + 1, (rows, 1))
    positions = np.stack([rng.choice(8, predictions, replace=False) for _ in range(rows)])
    weights = (np.arange(predictions) <= part[:, None] * predictions // PARTS) & real[:, None]
    return {
        "input_ids": rng.integers(5, 500, (rows, length)).astype(np.int32) * attended,
        "token_type_ids": (np.arange(length) > 10).astype(np.int32) * attended,
        "attention_mask": attended.astype(np.int32),
        "next_sentence_labels": rng.integers(0, 2, rows).astype(np.int32),
        "example_ids": np.where(real, np.arange(rows), -1).astype(np.int32),
        "masked_lm_positions": np.sort(positions).astype(np.int32),
        "masked_lm_ids": rng.integers(5, 500, (rows, predictions)).astype(np.int32),
        "masked_lm_weights": weights.astype(np.float32),
    }


def run(config, num_devices, micro_batches, steps=5):
    """Metrics of `steps` steps and the parameters after them, on a mesh of the first devices."""
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:num_devices])
    shardings = jax.tree.map(lambda x: x.sharding, train.abstract_state(config, mesh))
    state = jax.jit(lambda: train.init_state(config), out_shardings=shardings)()
    step_fn = train.compile_step(config, mesh, lambda batch: batch, micro_batches)
    metrics = []
    for step in range(steps):
        batch = sharding.to_global(mesh, make_batch(step), PHASE.batch_size)
        state, values = step_fn(state, batch)
        metrics.append(jax.device_get(values))
    return metrics, jax.device_get(state["params"])


def differences(got, expected):
    """`{parameter: norm of the difference / norm}`."""
    def relative(a, b):
        return np.linalg.norm((a - b).ravel()) / np.linalg.norm(b.ravel())
    found = jax.tree.map(relative, got, expected)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): value
            for path, value in jax.tree_util.tree_leaves_with_path(found)}
