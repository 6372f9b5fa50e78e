"""The blocked soft-target loss against the plain one, in PyTorch and in JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bertjax.distill import soft_targets
from bertjax.distill.soft_targets import Rule, Tokens
from bertjax.models import Decoder

ROWS, LENGTH, WIDTH, VOCAB, PADDED = 3, 10, 8, 50, 64


def factors(seed, width=WIDTH, dtype=np.float32):
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((PADDED, width), np.float32)
    table[VOCAB:] = 0
    states = rng.standard_normal((ROWS, LENGTH, width), np.float32)
    bias = rng.standard_normal(PADDED, np.float32)
    return Decoder(jnp.asarray(states, dtype), jnp.asarray(table, dtype), jnp.asarray(bias))


def tokens():
    rng = np.random.default_rng(7)
    weights = (rng.random((ROWS, LENGTH)) < 0.7).astype(np.float32)
    labels = rng.integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)
    labeled = weights * (rng.random((ROWS, LENGTH)) < 0.4)
    return Tokens(jnp.asarray(weights), jnp.asarray(labels), jnp.asarray(labeled, jnp.float32))


def plain_torch(student, teacher, own, temperature):
    """As the original: KLDivLoss over the selected tokens, here as a sum, times T squared."""
    ours = [torch.tensor(np.asarray(x), requires_grad=True) for x in student]
    theirs = [torch.tensor(np.asarray(x)) for x in teacher]
    logits = [(states @ table.T + bias)[..., :VOCAB] for states, table, bias in (ours, theirs)]
    chosen = torch.tensor(np.asarray(own.weights)) > 0
    student_logits, teacher_logits = (x[chosen] for x in logits)
    loss = torch.nn.functional.kl_div(
        torch.log_softmax(student_logits / temperature, -1),
        torch.softmax(teacher_logits / temperature, -1),
        reduction="sum",
    )
    loss = loss * temperature**2
    loss.backward()
    best, their_best = (x.argmax(-1) for x in (student_logits, teacher_logits))
    labels = torch.tensor(np.asarray(own.labels))
    known = torch.tensor(np.asarray(own.labeled)) > 0
    right = (logits[1].argmax(-1) == labels)[known].sum()
    gradient = [x.grad.numpy() for x in ours]
    return float(loss.detach()), int((best == their_best).sum()), int(right), gradient


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("block", [1, 3, 9, 12, 21, 30, 1000])  # tokens: 1 to 10 positions of a row
def test_equals_pytorch_in_blocks_of_any_size(block, temperature):
    student, teacher, own = factors(0), factors(1, width=12), tokens()
    rule = Rule(temperature, VOCAB, block)
    loss = jax.jit(
        jax.value_and_grad(
            lambda x: (lambda found: (found.loss, found))(soft_targets.sums(rule, x, teacher, own)),
            has_aux=True,
        )
    )
    (value, found), gradient = loss(student)
    wanted, agreement, right, their_gradient = plain_torch(student, teacher, own, temperature)
    assert wanted > 1
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    assert (found.agreement, found.correct) == (agreement, right)
    for ours, theirs in zip(gradient, their_gradient, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    np.testing.assert_array_equal(gradient.table[VOCAB:], 0)
    again = soft_targets.sums(rule, student, teacher, own)
    np.testing.assert_allclose(again.loss, value, rtol=1e-6)


def test_a_student_that_is_the_teacher_loses_nothing_and_has_no_gradient():
    student, own = factors(0), tokens()
    rule = Rule(2.0, VOCAB, 6)

    def loss(x):
        return soft_targets.sums(rule, x, student, own).loss

    value, gradient = jax.value_and_grad(loss)(student)
    assert abs(value) < 1e-4
    assert max(float(jnp.abs(x).max()) for x in gradient) < 1e-4


def test_neither_the_teacher_nor_the_other_sums_have_a_gradient():
    student, teacher, own = factors(0), factors(1), tokens()
    rule = Rule(2.0, VOCAB, 6)
    of_teacher = jax.grad(lambda x: soft_targets.sums(rule, student, x, own).loss)(teacher)
    of_agreement = jax.grad(lambda x: soft_targets.sums(rule, x, teacher, own).agreement)(student)
    for leaf in jax.tree.leaves((of_teacher, of_agreement)):
        np.testing.assert_array_equal(leaf, 0)


def test_bfloat16_stays_near_float32():
    rule, own = Rule(2.0, VOCAB, 6), tokens()

    def run(dtype):
        teacher = factors(1, dtype=dtype)
        return jax.value_and_grad(lambda x: soft_targets.sums(rule, x, teacher, own).loss)(
            factors(0, dtype=dtype)
        )

    (value, gradient), (exact, exact_gradient) = run(jnp.bfloat16), run(jnp.float32)
    assert gradient.table.dtype == jnp.bfloat16
    assert gradient.bias.dtype == jnp.float32
    np.testing.assert_allclose(value, exact, rtol=2e-2)
    for ours, theirs in zip(gradient, exact_gradient, strict=True):
        largest = np.abs(theirs).max()
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=0, atol=3e-2 * largest)


def test_under_vmap_each_part_has_its_own_sums():
    teacher, own = factors(1), tokens()
    rule = Rule(2.0, VOCAB, 3)

    def loss(student):
        return soft_targets.sums(rule, student, teacher, own).loss

    parts = [factors(0), factors(2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *parts)
    gradients = jax.vmap(jax.grad(loss))(stacked)
    for index, part in enumerate(parts):
        for ours, theirs in zip(gradients, jax.grad(loss)(part), strict=True):
            np.testing.assert_allclose(ours[index], theirs, rtol=1e-4, atol=1e-5)


def test_the_logits_of_a_batch_never_stand_in_the_compiled_program():
    """Temporaries of forward and backward pass: under two blocks of logits for each model and one
    gradient of the table; written plainly they are four times the logits of the batch."""
    rows, length, width, vocab = 8, 256, 64, 8192
    rule = Rule(2.0, vocab, 256)
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    of_model = Decoder(shape((rows, length, width)), shape((vocab, width)), shape((vocab,)))
    own = Tokens(
        shape((rows, length)),
        jax.ShapeDtypeStruct((rows, length), jnp.int32),
        shape((rows, length)),
    )

    def blocked(student, teacher, own):
        return soft_targets.sums(rule, student, teacher, own).loss

    def plain(student, teacher, own):
        whole = Rule(2.0, vocab, rows * length)
        return soft_targets._block(whole, student, teacher, own)[0].loss

    def temporaries(function):
        compiled = jax.jit(jax.grad(function)).lower(of_model, of_model, own).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 4 * rows * length * vocab
    assert temporaries(plain) > 2 * logits
    assert temporaries(blocked) < logits
