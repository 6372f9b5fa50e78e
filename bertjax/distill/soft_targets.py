"""The soft-target loss in blocks of tokens, so that the logits `[B, L, V]` never exist as a whole.

A scan goes over blocks of positions. For each block it makes the logits of both models and the
loss. In training it also makes the gradient at once, which is `T * (p_student - p_teacher)` for the
student's logits, so that neither the logits nor their gradient outlive the block.

Shape suffixes: B batch, L length, D hidden, V vocab (padded), N blocks, C positions of a block.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bertjax.models import Decoder

BLOCK_TOKENS = 1024  # with 30,592 float32 logits each: 125 MB for each of the two models
_MASKED = -1e30  # logit of ids that pad the vocabulary; finite, because logits are subtracted


class Rule(NamedTuple):
    """Settings that are the same for every batch.

    Attributes:
      temperature: T, by which both models' logits are divided.
      vocab_size: V without padding.
      block_tokens: maximum of tokens in a block, which has at least one position of every row.
    """

    temperature: float
    vocab_size: int
    block_tokens: int = BLOCK_TOKENS


class Tokens(NamedTuple):
    """The tokens of a batch.

    Attributes:
      weights: float32 `[B, L]`: 1 where the models are compared, else 0.
      labels: int32 `[B, L]`: the id to predict.
      labeled: float32 `[B, L]`: 1 where there is an id to predict, else 0.
    """

    weights: jax.Array
    labels: jax.Array
    labeled: jax.Array


class Sums(NamedTuple):
    """Sums over the tokens of a batch, float32.

    Attributes:
      loss: T squared times KL(teacher || student) of the distributions at temperature T, in nats
        (Hinton et al. 2015).
      agreement: tokens for which both models give the same id the largest logit.
      correct: labeled tokens for which the teacher gives the label the largest logit.
    """

    loss: jax.Array
    agreement: jax.Array
    correct: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sums(rule: Rule, student: Decoder, teacher: Decoder, tokens: Tokens) -> Sums:
    """The sums over all tokens; only `loss` has a gradient, and only for the student."""

    def add(total: Sums, block: tuple) -> tuple[Sums, None]:
        found, _ = _block(rule, *_of_block(student, teacher, block))
        return jax.tree.map(jnp.add, total, found), None

    return jax.lax.scan(add, _nothing(), _blocks(rule, student, teacher, tokens))[0]


def _forward(
    rule: Rule, student: Decoder, teacher: Decoder, tokens: Tokens
) -> tuple[Sums, Decoder]:
    """The sums, and the gradient of `loss` for the student's factors."""
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def add(total: tuple, block: tuple) -> tuple[tuple, jax.Array]:
        ours, theirs, own = _of_block(student, teacher, block)
        found, of_logits = _block(rule, ours, theirs, own)
        of_bias = jnp.sum(of_logits, axis=(0, 1))
        of_logits = of_logits.astype(ours.table.dtype)
        of_table = product("BCV,BCD->VD", of_logits, ours.states)
        of_states = product("BCV,VD->BCD", of_logits, ours.table)
        total = jax.tree.map(jnp.add, total, (found, of_table, of_bias))
        return total, of_states.astype(ours.states.dtype)

    zeros = jnp.zeros(student.table.shape, jnp.float32), jnp.zeros(student.bias.shape, jnp.float32)
    blocks = _blocks(rule, student, teacher, tokens)
    (found, of_table, of_bias), of_states = jax.lax.scan(add, (_nothing(), *zeros), blocks)
    rows, length, width = student.states.shape
    of_states = jnp.moveaxis(of_states, 0, 1).reshape(rows, -1, width)[:, :length]
    return found, Decoder(of_states, of_table.astype(student.table.dtype), of_bias)


def _backward(rule: Rule, gradient: Decoder, given: Sums) -> tuple[Decoder, None, None]:
    return jax.tree.map(lambda x: (given.loss * x).astype(x.dtype), gradient), None, None


sums.defvjp(_forward, _backward)


def _blocks(rule: Rule, student: Decoder, teacher: Decoder, tokens: Tokens) -> tuple:
    """`(the student's states, the teacher's, tokens)`, each `[N, B, C, ...]`.

    The positions are cut and not the rows, because the rows are on different devices.
    """
    rows, length, _ = student.states.shape
    size = max(1, min(rule.block_tokens // rows, length))

    def cut(x: jax.Array) -> jax.Array:
        """`[B, L, ...]` -> `[N, B, C, ...]`; padding at the end has weight 0."""
        x = jnp.pad(x, [(0, 0), (0, -length % size), *[(0, 0)] * (x.ndim - 2)])
        return jnp.moveaxis(x.reshape(rows, -1, size, *x.shape[2:]), 1, 0)

    return jax.tree.map(cut, (student.states, teacher.states, tokens))


def _nothing() -> Sums:
    zero = jnp.zeros((), jnp.float32)
    return Sums(zero, zero, zero)


def _of_block(student: Decoder, teacher: Decoder, block: tuple) -> tuple[Decoder, Decoder, Tokens]:
    states, their_states, tokens = block
    return student._replace(states=states), teacher._replace(states=their_states), tokens


def _block(
    rule: Rule, student: Decoder, teacher: Decoder, tokens: Tokens
) -> tuple[Sums, jax.Array]:
    """The sums of one block, and the loss's gradient for the student's logits `[B, C, V]`."""
    ours, theirs = _logits(rule, student), _logits(rule, teacher)
    best, their_best = jnp.argmax(ours, axis=-1), jnp.argmax(theirs, axis=-1)
    ours, theirs = ours / rule.temperature, theirs / rule.temperature
    ours -= jax.nn.logsumexp(ours, axis=-1, keepdims=True)
    theirs -= jax.nn.logsumexp(theirs, axis=-1, keepdims=True)
    wanted = jnp.exp(theirs)
    divergence = jnp.sum(wanted * (theirs - ours), axis=-1)
    values = Sums(
        rule.temperature**2 * jnp.sum(divergence * tokens.weights),
        jnp.sum((best == their_best) * tokens.weights),
        jnp.sum((their_best == tokens.labels) * tokens.labeled),
    )
    gradient = rule.temperature * (jnp.exp(ours) - wanted) * tokens.weights[..., None]
    return values, gradient


def _logits(rule: Rule, factors: Decoder) -> jax.Array:
    """`[B, C, V]`, float32."""
    logits = jnp.einsum(
        "BCD,VD->BCV", factors.states, factors.table, preferred_element_type=jnp.float32
    )
    real = jnp.arange(logits.shape[-1]) < rule.vocab_size
    return jnp.where(real, logits + factors.bias, _MASKED)
