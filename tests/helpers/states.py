"""A small training state, and a comparison of two states to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def make_state(step, width=16):
    """A state of float32, bfloat16 and int leaves under optax's named tuples, made from `step`."""
    key = jax.random.fold_in(jax.random.key(0), step)
    params = {
        "blocks": {"query": {"kernel": jax.random.normal(key, (2, width, width))}},
        "embeddings": {"word": {"embedding": jnp.full((128, width), 1e-7 * step, jnp.bfloat16)}},
    }
    optimizer = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1))
    opt_state = jax.tree.map(lambda x: x + step, optimizer.init(params))
    return {"params": params, "opt_state": opt_state, "step": jnp.int32(step)}


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        assert np.asarray(a).tobytes() == np.asarray(e).tobytes()
