"""Task distillation: the terms against PyTorch, what a teacher is fed, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from finetune_examples import TOKENIZER
from finetune_runs import config, write_task
from teachers import teacher, write_teacher

from bertjax import config as config_lib
from bertjax import models, objectives, sharding, train
from bertjax.data import wordpiece
from bertjax.distill.teacher import Teacher
from bertjax.errors import UsageError
from bertjax.finetune import opening
from bertjax.finetune.job import Finetuning
from bertjax.finetune.tasks import Task
from bertjax.models.placement import Unplaced

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed

T = 3.0
HALVES = config_lib.Objective(mlm=0.0, nsp=0.0, task=0.5, distill=0.25)


def taught(kind, **fields):
    """A job of a kind whose teacher's logits come from the test."""
    asked = config_lib.Config(
        task=config_lib.Task(kind=kind, **fields),
        objective=HALVES,
        teacher=config_lib.Teacher(temperature=T),
    )
    given = Teacher("hf:T", config_lib.Model(), {})
    return Finetuning(asked, Task(kind, kind, kind), TOKENIZER, None, {}, teacher=given)


def found(job, logits, theirs, batch):
    """The loss, its gradient to the logits, and all means."""

    def loss(logits):
        whole = batch | {"teacher_logits": jnp.asarray(theirs)}
        means = objectives.means(train.measure(job, {"logits": logits}, whole))
        return objectives.total(job.config.objective, means), means

    (value, means), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(logits))
    return value, gradient, means


def same_as_torch(ours, logits, hard, soft):
    """`logits` is a leaf of PyTorch, of which `hard` and `soft` are the two losses."""
    value, gradient, means = ours
    whole = HALVES.task * hard + HALVES.distill * soft
    whole.backward()
    np.testing.assert_allclose(means["task_loss"], hard.item(), rtol=1e-5)
    np.testing.assert_allclose(means["distill_loss"], soft.item(), rtol=1e-5)
    np.testing.assert_allclose(value, whole.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), rtol=1e-4, atol=1e-7)


def drawn(*shape, scale=3.0):
    rng = np.random.default_rng(0)
    both = [rng.normal(size=shape).astype(np.float32) * scale for _ in range(2)]
    return *both, torch.tensor(both[0], requires_grad=True), torch.tensor(both[1])


def kl(student, teacher):
    """As run_squad_w_distillation.py reduces it."""
    ours, theirs = F.log_softmax(student / T, -1), F.softmax(teacher / T, -1)
    return F.kl_div(ours, theirs, reduction="batchmean") * T**2


@pytest.mark.parametrize("kind", ["single", "pair", "multiple_choice"])
def test_classes_and_choices_have_pytorchs_loss_and_gradient(kind):
    """The third row fills up the batch: it weighs nothing."""
    logits, theirs, student, teacher = drawn(4, 3)
    labels, real = np.array([2, 0, -1, 1]), [0, 1, 3]
    batch = {"example_ids": np.array([5, 0, -1, 2]), "labels": labels}
    ours = found(taught(kind), logits, theirs, batch)
    hard = F.cross_entropy(student[real], torch.tensor(labels[real]))
    same_as_torch(ours, student, hard, kl(student[real], teacher[real]))
    agreed = np.mean(logits[real].argmax(-1) == theirs[real].argmax(-1))
    np.testing.assert_allclose(ours[2]["agreement"], agreed, rtol=1e-6)


def test_scores_have_pytorchs_loss_and_gradient():
    logits, theirs, student, teacher = drawn(3, 1)
    scores = np.array([4.5, 0.0, 2.0], np.float32)
    batch = {"example_ids": np.array([1, -1, 0]), "labels": scores}
    ours = found(taught("regression", target_scale=5.0), logits, theirs, batch)
    real, targets = [0, 2], torch.tensor(scores[[0, 2]] / 5)
    hard = F.mse_loss(student[real, 0], targets)
    same_as_torch(ours, student, hard, F.mse_loss(student[real, 0], teacher[real, 0]))
    assert "agreement" not in ours[2]


def test_words_have_pytorchs_loss_and_gradient():
    logits, theirs, student, teacher = drawn(2, 4, 3)
    labels = np.array([[-1, 1, -1, 0], [-1, 2, 1, 1]], np.int32)
    batch = {"example_ids": np.array([0, -1]), "labels": labels}
    ours = found(taught("token"), logits, theirs, batch)
    words = student[0, [1, 3]], teacher[0, [1, 3]]
    hard = F.cross_entropy(words[0], torch.tensor([1, 0]))
    same_as_torch(ours, student, hard, kl(*words))


@pytest.mark.parametrize("softmax", ["published", "own"])
def test_spans_have_pytorchs_loss_and_gradient(softmax):
    logits, theirs, student, teacher = drawn(3, 5, 2)
    lengths = [3, 5] if softmax == "own" else [5, 5]
    batch = {
        "attention_mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]),
        "start_positions": np.array([1, 0, -1]),
        "end_positions": np.array([2, 4, -1]),
        "example_ids": np.array([5, 0, -1]),
    }
    ours = found(taught("span", span_loss=softmax), logits, theirs, batch)
    hard = soft = agreed = 0.0
    for row, length in enumerate(lengths):
        for i, name in enumerate(("start_positions", "end_positions")):
            one, other = student[row : row + 1, :length, i], teacher[row : row + 1, :length, i]
            hard += F.cross_entropy(one, torch.tensor(batch[name][row : row + 1])) / 4
            soft += kl(one, other) / 4
            agreed += bool(one.argmax() == other.argmax()) / 4
    same_as_torch(ours, student, hard, soft)
    np.testing.assert_allclose(ours[2]["agreement"], agreed, rtol=1e-6)


def test_dev_questions_without_a_known_answer_are_compared_all_the_same():
    batch = {
        "attention_mask": np.ones((2, 3), int),
        "start_positions": np.array([1, -1]),
        "end_positions": np.array([2, -1]),
        "example_ids": np.array([0, 1]),
    }
    weights = taught("span").weights(batch)
    assert weights == {"task_loss": 1.0, "distill_loss": 2.0, "agreement": 2.0}


def test_distant_logits_stay_finite():
    logits = np.array([[0.0, -1e4, 3e4]], np.float32)
    batch = {"example_ids": np.array([0]), "labels": np.array([0])}
    value, gradient, _ = found(taught("single"), logits, -logits, batch)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


DISTILLED = {"objective__distill": 1.0}
# A student of DistilBERT's form: without token types.
BARE = {"model__type_vocab_size": 0, "model__pooler_act": "relu"}


def opened(root, task, name="w", *, given=None, student=(), **fields):
    """A job beside a teacher of random weights."""
    if not (root / task).exists():
        write_task(root, task, 16, 5)
    asked = config(root, task)
    place = write_teacher(root, f"{name}-teacher", asked, **(given or {}))
    asked = config(root, task, **DISTILLED, **dict(student), teacher__init_from=place, **fields)
    return opening.open(asked, root / name)


def first_batch(job):
    [stage] = config_lib.stages.of(job.config)
    return job.batches(stage).batch(0)


def targets(job, batch):
    teach = jax.jit(lambda frozen, batch: job.targets(frozen, batch, Unplaced()))
    return np.asarray(teach(job.frozen, batch)["teacher_logits"])


def alone(given, batch):
    """The logits of a teacher that knows of no student."""
    ids, model = batch["input_ids"], given.config.model
    names = ("input_ids", "token_type_ids", "attention_mask")
    tokens = {name: batch[name].reshape(-1, ids.shape[-1]) for name in names}
    outputs = jax.jit(models.apply, static_argnums=0)(model, given.params, tokens)
    logits = np.asarray(outputs[model.head_record.parts[-1].gives])
    return logits.reshape(ids.shape[:2]) if ids.ndim == 3 else logits


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("task", ["rte", "stsb", "swag", "squad", "token"])
def test_a_teacher_in_the_step_is_the_teacher_alone(task, tmp_path):
    """Its rows are those of its own fine-tuning, token types too; it drops nothing."""
    write_task(tmp_path, task, 16, 5)
    job = opened(tmp_path, task, student=BARE, given={"hidden_dropout_prob": 0.3})
    batch, given = first_batch(job), teacher(tmp_path, config(tmp_path, task))
    own = opening.open(config(tmp_path, task), tmp_path / "own")  # with token types
    for name, value in first_batch(own).items():
        np.testing.assert_array_equal(batch[name], value, err_msg=name)
    assert batch["token_type_ids"].any() == (task != "token")
    theirs = targets(job, batch)
    np.testing.assert_allclose(theirs, alone(given, batch), rtol=1e-5, atol=1e-5)
    untyped = batch | {"token_type_ids": np.zeros_like(batch["token_type_ids"])}
    if task != "token":
        assert np.abs(theirs - alone(given, untyped)).max() > 0.01


@pytest.mark.usefixtures("one_device")
def test_a_model_of_one_token_type_gives_it_to_every_token(tmp_path):
    """Beside a teacher of two; and as a teacher beside a student of two."""
    job = opened(tmp_path, "rte", student={"model__type_vocab_size": 1})
    batch = first_batch(job)
    untyped = batch | {"token_type_ids": np.zeros_like(batch["token_type_ids"])}
    params = jax.jit(models.init, static_argnums=0)(job.config.model, jax.random.key(0))
    how = {"dropout_key": None, "placement": Unplaced()}
    both = [np.asarray(job.apply(params, each, **how)["logits"]) for each in (batch, untyped)]
    np.testing.assert_array_equal(*both)
    job = opened(tmp_path, "rte", "other", given={"type_vocab_size": 1})
    assert first_batch(job)["token_type_ids"].any()
    np.testing.assert_array_equal(targets(job, batch), targets(job, untyped))


@pytest.mark.usefixtures("one_device")
def test_labels_go_by_name(tmp_path, capsys):
    ours = opened(tmp_path, "rte", "one", given={"labels": ("entailment", "not_entailment")})
    batch = first_batch(ours)
    turned = opened(tmp_path, "rte", "two", given={"labels": ("Not-Entailment", "ENTAILMENT")})
    np.testing.assert_allclose(targets(turned, batch), targets(ours, batch)[:, ::-1], rtol=1e-5)
    said = capsys.readouterr().out
    assert "teacher: classifier: kept by name: entailment (row 1), not_entailment (row 0)" in said
    more = opened(tmp_path, "rte", "more", given={"labels": ("x", "entailment", "not_entailment")})
    assert targets(more, batch).shape == (16, 2)
    assert "not used: x" in capsys.readouterr().out
    unnamed = opened(tmp_path, "rte", "unnamed", given={"labels": ()})
    np.testing.assert_array_equal(targets(unnamed, batch), targets(ours, batch))
    assert "have no names; rows are kept by position" in capsys.readouterr().out


@pytest.mark.usefixtures("one_device")
def test_scores_are_in_the_students_units(tmp_path, capsys):
    write_task(tmp_path, "stsb", 16, 5)
    plain = opened(tmp_path, "stsb", "plain")
    assert "logits times 1 (assumed: it names no scale)" in capsys.readouterr().out
    of = {"task": {"name": "stsb", "target_scale": 5.0}}
    scaled = opened(tmp_path, "stsb", "scaled", given=of, task__target_scale=2.0)
    assert "teacher: its scores are its logits times 5\n" in capsys.readouterr().out
    batch = first_batch(plain)
    np.testing.assert_allclose(targets(scaled, batch), 2.5 * targets(plain, batch), rtol=1e-5)


@pytest.mark.usefixtures("one_device")
def test_a_student_drops_the_same_with_and_without_a_teacher(tmp_path):
    drop = {"model__hidden_dropout_prob": 0.2, "model__attention_probs_dropout_prob": 0.2}
    job = opened(tmp_path, "sst2", **drop)
    objective = dataclasses.replace(job.config.objective, distill=0.0)
    job = dataclasses.replace(job, config=dataclasses.replace(job.config, objective=objective))
    bare, batch = dataclasses.replace(job, teacher=None), first_batch(job)
    params = jax.jit(models.init, static_argnums=0)(job.config.model, jax.random.key(0))
    key = jax.random.key(1)

    def of(job):
        step = jax.jit(lambda frozen: train.gradients(job, params, frozen, batch, key, Unplaced()))
        return step(job.frozen)

    (grads, metrics), (same_grads, same) = of(job), of(bare)
    assert metrics["distill_loss"] > 0
    np.testing.assert_allclose(metrics["loss"], same["loss"], rtol=1e-6)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)  # noqa: E731
    jax.tree.map(close, grads, same_grads)


def test_parts_of_a_batch_give_the_terms_of_the_whole(tmp_path):
    """Words are never equal in number; rows that fill up are all in one part."""
    job = opened(tmp_path, "token", phases__phase1__batch_size=8)
    batch = first_batch(job)
    batch["example_ids"][[0, 4]] = -1
    placement = sharding.Placement(sharding.make_mesh(job.config.mesh, jax.devices()[:1]))
    params = jax.jit(models.init, static_argnums=0)(job.config.model, jax.random.key(0))
    frozen = jax.device_get(job.frozen)

    @jax.jit
    def both(frozen):
        return [
            train.reduced_gradients(job, params, frozen, batch, None, placement, parts)
            for parts in (1, 4)
        ]

    (one, terms), (four, same_terms) = both(frozen)
    assert terms["distill_loss"] > 0
    for name, value in terms.items():
        np.testing.assert_allclose(same_terms[name], value, rtol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), four, one)


def test_a_teacher_is_split_as_a_student_and_in_the_type_that_is_asked(tmp_path):
    how = {"mesh__fsdp": 2, "mesh__tensor": 2, "teacher__dtype": "bfloat16"}
    job = opened(tmp_path, "sst2", **how)
    for path, leaf in jax.tree_util.tree_leaves_with_path(job.frozen["teacher"]):
        assert leaf.sharding.spec == sharding.spec(sharding.leaf_name(path), leaf.ndim)
        assert leaf.dtype == jnp.bfloat16
    given = teacher(tmp_path, config(tmp_path, "sst2"))
    kept = jax.device_get(job.frozen["teacher"]["blocks"]["query"]["kernel"])
    np.testing.assert_allclose(
        kept.astype(np.float32), given.params["blocks"]["query"]["kernel"], rtol=1e-2
    )


@pytest.mark.usefixtures("one_device")
def test_a_program_is_that_of_a_teacher_of_its_size(tmp_path):
    one = opened(tmp_path, "sst2", "one")
    other = opened(tmp_path, "sst2", "other", given={"seed": 8})
    large = opened(tmp_path, "sst2", "large", given={"num_hidden_layers": 2})
    bare = opening.open(config(tmp_path, "sst2"), tmp_path / "bare")
    warm = opened(tmp_path, "sst2", "warm", teacher__temperature=3.0)
    assert one.program == other.program
    assert len({job.program for job in (one, large, bare, warm)}) == 4
    assert one.identity != other.identity
    [stage] = config_lib.stages.of(one.config)
    assert bare.flops(stage) < one.flops(stage) < large.flops(stage)


LETTERS = wordpiece.WordPiece([*wordpiece.SPECIALS, *"abcdefghij"], lowercase=True)
REFUSED = {
    "no teacher": ({}, None, "objective.distill=1.0: needs a teacher"),
    "cosine": ({"objective__cosine": 1.0}, {}, "compares logits, not hidden states; set it to 0"),
    "layers": ({"teacher__layers": (0, 1)}, {}, "name the model to fine-tune: config.init_from"),
    "no loss": (
        {"objective__task": 0.0, "objective__distill": 0.0},
        {},
        "there is no loss; set one of them to 1",
    ),
    "head": ({}, {"head": "span"}, "its head is span, sst2 needs classification"),
    "choices": ({}, {"head": "multiple_choice"}, "its head is multiple_choice"),
    "labels": ({}, {"labels": ("negative", "neutral")}, "lacks positive .it has negative, neutral"),
    "unnamed": ({}, {"labels": (), "num_labels": 3}, "lacks negative, positive"),
    "numbers": ({}, {"problem_type": "regression", "num_labels": 1, "labels": ()}, "predicts numbers"),
    "several": ({}, {"problem_type": "multi_label_classification"}, "several labels at once"),
    "vocabulary": ({}, {"tokenizer": LETTERS}, "has a vocabulary of 15, the model one of"),
    "positions": ({}, {"max_position_embeddings": 16}, "set config.phases.phase1.sequence_length=16"),
}  # fmt: skip


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_a_line(name, tmp_path):
    fields, given, message = REFUSED[name]
    write_task(tmp_path, "sst2", 16, 5)
    asked = config(tmp_path, "sst2")
    place = None if given is None else write_teacher(tmp_path, "t", asked, **given)
    more = {**DISTILLED, **({} if place is None else {"teacher__init_from": place}), **fields}
    with pytest.raises(UsageError, match=message) as error:
        opening.open(config(tmp_path, "sst2", **more), tmp_path / "w")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "w").exists()


def test_a_teacher_of_classes_and_other_pieces_are_refused(tmp_path):
    write_task(tmp_path, "stsb", 16, 5)
    asked = config(tmp_path, "stsb")
    classes = {"labels": ("a", "b"), "problem_type": None, "num_labels": 2}
    place = write_teacher(tmp_path, "classes", asked, **classes)
    how = DISTILLED | {"teacher__init_from": place}
    with pytest.raises(UsageError, match="predicts classes, which stsb cannot use"):
        opening.open(config(tmp_path, "stsb", **how), tmp_path / "w")
    pieces = (tmp_path / "vocab.txt").read_text().split("\n")[:-1]
    turned = wordpiece.WordPiece([*pieces[:-2], *pieces[:-3:-1]], lowercase=True)
    place = write_teacher(tmp_path, "turned", asked, tokenizer=turned)
    how = DISTILLED | {"teacher__init_from": place}
    with pytest.raises(UsageError, match="take a teacher with the model's tokenizer"):
        opening.open(config(tmp_path, "stsb", **how), tmp_path / "w")


def test_a_teacher_that_the_mesh_does_not_divide_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"mesh.tensor=2: must divide the teacher's num_attention"):
        opened(tmp_path, "sst2", mesh__tensor=2, given={"num_attention_heads": 1})
