"""Small models to export, and the outputs that their exports must compute."""

import dataclasses
import functools

import jax
import numpy as np
from random_models import HEADS, KINDS, random_model

from bertjax import models
from bertjax.config import Model
from bertjax.convert.pretrained import Pretrained

CASES = [(kind, head, "gelu") for kind in KINDS for head in HEADS]
CASES += [(kind, "masked_lm", "gelu_new") for kind in KINDS]
SHAPES = [(1, 5), (3, 12), (4, 22)]  # (batch, length)
NUM_CHOICES = 3
# The reference always runs on the largest shape, so each model compiles once.
ROWS, LENGTH = 4 * NUM_CHOICES, 24


def small_model(kind: str = "bert", **fields) -> Pretrained:
    """A model with random weights of moderate size, so that every bias and scale matters."""
    pretrained = random_model(kind, **fields)
    params = jax.tree.map(lambda x: 0.25 * x, pretrained.params)
    return dataclasses.replace(pretrained, params=params)


def inputs(model: Model, batch: int, length: int) -> dict[str, np.ndarray]:
    """Inputs of an export: random tokens in rows of different lengths, padded on the right."""
    rng = np.random.default_rng(batch)
    rows = (batch, NUM_CHOICES) if model.head == "multiple_choice" else (batch,)
    lengths = rng.integers(length // 2, length, rows)
    lengths.flat[0] = length
    tokens = {
        "input_ids": rng.integers(0, model.vocab_size, (*rows, length)),
        "attention_mask": (np.arange(length) < lengths[..., None]).astype(np.int64),
    }
    if model.type_vocab_size > 1:
        tokens["token_type_ids"] = rng.integers(0, model.type_vocab_size, (*rows, length))
    return tokens


@functools.cache
def _apply(model: Model):
    return jax.jit(functools.partial(models.apply, model))


def expected(of: Pretrained, tokens: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of `models.apply`, under the names of an export's outputs."""
    # Blocks scanned: unrolled, XLA fuses and rounds them otherwise, which the bounds leave no room for.
    model = dataclasses.replace(of.config.model, scan_unroll=1)
    *leading, length = tokens["input_ids"].shape
    rows, width = np.prod(leading), max(length, LENGTH)
    padding = [(0, max(rows, ROWS) - rows), (0, width - length)]
    batch = {name: np.pad(x.reshape(rows, length), padding) for name, x in tokens.items()}
    batch.setdefault("token_type_ids", np.zeros_like(batch["input_ids"]))
    batch["masked_lm_positions"] = np.arange(width)[None].repeat(len(batch["input_ids"]), 0)
    outputs = {k: np.asarray(x)[:rows] for k, x in _apply(model)(of.params, batch).items()}
    for name in {"hidden", "masked_lm_logits", "span_logits", "token_logits"} & outputs.keys():
        outputs[name] = outputs[name][:, :length]
    words = outputs.get("masked_lm_logits", np.zeros(1))[..., : model.vocab_size]
    match model.head:
        case "none":
            return {"last_hidden_state": outputs["hidden"]}
        case "pooler":
            return {"last_hidden_state": outputs["hidden"], "pooler_output": outputs["pooled"]}
        case "masked_lm":
            return {"logits": words}
        case "pretraining":
            sentences = outputs["next_sentence_logits"]
            return {"prediction_logits": words, "seq_relationship_logits": sentences}
        case "span":
            start, end = np.moveaxis(outputs["span_logits"], -1, 0)
            return {"start_logits": start, "end_logits": end}
        case "classification":
            return {"logits": outputs["classification_logits"]}
        case "token":
            return {"logits": outputs["token_logits"]}
        case "multiple_choice":
            return {"logits": outputs["classification_logits"].reshape(leading)}


def error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest absolute difference, relative to the largest value."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype == np.float32
    return float(np.abs(got - want).max() / np.abs(want).max())
