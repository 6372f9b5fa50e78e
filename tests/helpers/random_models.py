"""Small models of every architecture and head with random weights, in the form of the readers."""

import jax
import numpy as np

from bertjax import config as config_lib
from bertjax.convert import names
from bertjax.convert.pretrained import Pretrained, config_of

SIZE = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
KINDS = {
    "bert": {},
    "roberta": {"position_offset": 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "distilbert": {"type_vocab_size": 0, "pooler_act": "relu"},
}
HEADS = ("pretraining", "masked_lm", "classification", "token", "multiple_choice", "span")
HEADS += ("pooler", "none")
MODELS = [{"kind": kind, "head": head} for kind in KINDS for head in HEADS]


def random_tree(rng, model) -> dict:
    """Random parameters, with zeros where the vocabulary is padded."""
    params: dict = {}
    for path, shape in names.shapes(model).items():
        value = rng.standard_normal(shape, np.float32)
        if path in names.VOCAB_ROWS:
            value[model.vocab_size :] = 0
        names.insert(params, path, value)
    return params


def random_model(kind="bert", *, seed=0, moments=False, **fields) -> Pretrained:
    """A model at step 17 without a tokenizer; `moments` adds Adam's moments."""
    model = config_lib.Model(**SIZE | KINDS[kind] | fields)
    rng = np.random.default_rng(seed)
    params = random_tree(rng, model)
    slots = {"mu": random_tree(rng, model), "nu": random_tree(rng, model)} if moments else None
    config = config_of(model, config_lib.Tokenizer(), "test")
    return Pretrained(config, None, params, step=17, moments=slots)


def equal(a, b):
    """Asserts that two trees have the same names and the same bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
