"""Pretraining beside a teacher: the three losses and whole steps against `transformers`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from random_models import SIZE, random_model

from bertjax import config as config_lib
from bertjax import models, optimizer, sharding, train
from bertjax.config import Objective, Optimizer
from bertjax.convert import hf
from bertjax.convert.pretrained import Pretrained
from bertjax.distill import student, teacher, terms
from bertjax.errors import UsageError
from bertjax.pretraining import Pretraining

B, L, P, STEPS = 8, 24, 5, 20
OBJECTIVE = Objective(mlm=2.0, nsp=0.0, distill=5.0, cosine=1.0)


def small(kind, seed, **fields):
    """Random weights, a fifth as large: the softmax is neither flat nor a one-hot."""
    found = random_model(kind, seed=seed, head="masked_lm", **fields)
    return dataclasses.replace(found, params=jax.tree.map(lambda x: 0.2 * x, found.params))


TEACHER = small("bert", 1, num_hidden_layers=3)
STUDENT = small("distilbert", 2)


def config(dropout=0.0, **groups):
    return config_lib.Config(
        **{
            "model": dataclasses.replace(
                STUDENT.config.model,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
            ),
            "objective": OBJECTIVE,
            "teacher": config_lib.Teacher(init_from="hf:teacher"),
            "phases": {"phase1": config_lib.Phase(steps=STEPS, sequence_length=L, batch_size=B)},
            "optimizer": Optimizer(
                name="adamw",
                learning_rate=1e-3,
                warmup_steps=5,
                schedule="warmup_then_decay",
                b2=0.98,
                weight_decay=0.0,
                clip_norm=5.0,
            ),
        }
        | groups
    )


def job(of=None, source=TEACHER, devices=1):
    of = config() if of is None else of
    mesh = sharding.make_mesh(of.mesh, jax.devices()[:devices])
    model = teacher.model_of(source.config.model, of, teacher.PRETRAINING)
    placed = teacher.place(source.params, model, mesh)
    taught = teacher.Teacher("hf:teacher", model, placed, teacher.digest(source.params), source)
    return Pretraining(of, teacher=taught), mesh


def batch(step=0, rows=B, length=L):
    """Pairs of different lengths with token types, masked."""
    rng = np.random.default_rng(step)
    lengths = rng.integers(10, L + 1, rows)
    places = np.arange(length)
    found = {
        "input_ids": rng.integers(5, SIZE["vocab_size"], (rows, length)),
        "attention_mask": places < lengths[:, None],
        "token_type_ids": (places >= lengths[:, None] // 2) & (places < lengths[:, None]),
        "example_ids": np.arange(rows),
        "masked_lm_positions": np.sort(
            np.array([rng.choice(n, P, replace=False) for n in np.full(rows, 10)]), axis=1
        ),
        "masked_lm_ids": rng.integers(5, SIZE["vocab_size"], (rows, P)),
    }
    found = {name: np.asarray(x, np.int32) for name, x in found.items()}
    found["input_ids"] *= found["attention_mask"]
    used = rng.integers(1, P + 1, rows)
    weights = (np.arange(P) < used[:, None]).astype(np.float32)
    for name in ("masked_lm_positions", "masked_lm_ids"):
        found[name] = np.where(weights > 0, found[name], 0).astype(np.int32)
    return found | {"masked_lm_weights": weights}


def step_of(job, mesh, micro_batches=1):
    return train.compile_step(job, mesh, lambda x: x, micro_batches)


def start(job, mesh, params=STUDENT.params):
    placed = train.abstract_state(job, mesh)["params"]
    params = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), params, placed)
    state = jax.jit(functools.partial(train.init_state, job.config, job.init))()
    return state | {"params": params}


class Reference:
    """The original's step in PyTorch: its selections, its reductions, its weights 5, 2, 1."""

    def __init__(self, folder):
        for name, source in (("student", STUDENT), ("teacher", TEACHER)):
            hf.write(Pretrained(source.config, None, source.params), folder / name)
        load = functools.partial(dict, output_hidden_states=True, attn_implementation="eager")
        self.student = transformers.DistilBertForMaskedLM.from_pretrained(
            folder / "student", dropout=0.0, attention_dropout=0.0, **load()
        ).train()
        self.teacher = transformers.BertForMaskedLM.from_pretrained(folder / "teacher", **load())
        self.teacher.eval()
        self.adam = torch.optim.AdamW(
            self.student.parameters(), betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0
        )

    def losses(self, batch):
        ids, mask, types = (
            torch.tensor(batch[n], dtype=torch.long)
            for n in ("input_ids", "attention_mask", "token_type_ids")
        )
        labels = torch.full(ids.shape, -100)
        for row in range(len(ids)):
            for place in np.flatnonzero(batch["masked_lm_weights"][row]):
                where = batch["masked_lm_positions"][row, place]
                labels[row, where] = int(batch["masked_lm_ids"][row, place])
        ours = self.student(input_ids=ids, attention_mask=mask)
        with torch.no_grad():
            theirs = self.teacher(input_ids=ids, attention_mask=mask, token_type_ids=types)
        kept = mask.bool()
        distill = torch.nn.KLDivLoss(reduction="batchmean")(
            torch.log_softmax(ours.logits[kept] / 2.0, -1),
            torch.softmax(theirs.logits[kept] / 2.0, -1),
        )
        size = ours.logits.shape[-1]
        mlm = torch.nn.CrossEntropyLoss(ignore_index=-100)(
            ours.logits.view(-1, size), labels.view(-1)
        )
        hidden = [out.hidden_states[-1][kept] for out in (ours, theirs)]
        same = torch.ones(len(hidden[0]))
        cosine = torch.nn.CosineEmbeddingLoss(reduction="mean")(*hidden, same)
        return {"distill_loss": 4.0 * distill, "mlm_loss": mlm, "cosine_loss": cosine}

    def step(self, batch, rate):
        losses = self.losses(batch)
        total = 5 * losses["distill_loss"] + 2 * losses["mlm_loss"] + losses["cosine_loss"]
        self.adam.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        return {name: float(x.detach()) for name, x in losses.items()} | {
            "loss": float(total.detach())
        }


def test_twenty_steps_equal_those_of_transformers(tmp_path):
    reference = Reference(tmp_path)
    mine, mesh = job()
    state, step = start(mine, mesh), step_of(mine, mesh)
    rate = optimizer.learning_rate(mine.config)
    losses = []
    for number in range(STEPS):
        rows = batch(number % 4)
        state, found = step(state, mine.frozen, rows)
        wanted = reference.step(rows, float(rate(number)))
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=f"{name} {number}")
        losses.append(wanted["loss"])
    assert losses[-4] < losses[0] - 0.3  # of the same batch: they are not where they were
    params = dict(reference.student.named_parameters())
    table = params["distilbert.embeddings.word_embeddings.weight"].detach().numpy()
    ours = state["params"]["embeddings"]["word"]["embedding"][: len(table)]
    np.testing.assert_allclose(ours, table, atol=1e-4)


def test_the_teacher_in_the_step_is_the_teacher_alone():
    """On pairs, with a student that drops: token types reach the teacher, dropout does not."""
    mine, mesh = job(config(dropout=0.5))
    rows = batch()
    place = sharding.Placement(mesh)
    found = jax.jit(lambda frozen, rows: mine.targets(frozen, rows, place)["teacher"])(
        mine.frozen, rows
    )
    alone = jax.jit(functools.partial(models.apply, TEACHER.config.model))
    places = np.broadcast_to(np.arange(L), (B, L)).astype(np.int32)
    wanted = alone(TEACHER.params, rows | {"masked_lm_positions": places})
    states, table, bias = found["decoder"]
    logits = (states @ table.T + bias)[..., : SIZE["vocab_size"]]
    np.testing.assert_allclose(
        logits, wanted["masked_lm_logits"][..., : SIZE["vocab_size"]], atol=1e-5
    )
    np.testing.assert_allclose(found["hidden"], wanted["hidden"], atol=1e-5)
    without = alone(TEACHER.params, rows | {"token_type_ids": np.zeros((B, L), np.int32)})
    assert np.abs(without["hidden"] - wanted["hidden"]).max() > 1e-3


def test_a_teacher_with_one_token_type_gives_it_to_every_token():
    mine, mesh = job(source=small("roberta", 6))
    place = sharding.Placement(mesh)
    of = jax.jit(lambda rows: mine.targets(mine.frozen, rows, place)["teacher"]["hidden"])
    rows = batch()
    plain = rows | {"token_type_ids": np.zeros_like(rows["token_type_ids"])}
    assert rows["token_type_ids"].any()
    np.testing.assert_array_equal(of(rows), of(plain))


def test_the_student_drops_the_same_with_and_without_a_teacher():
    weights = Objective(mlm=2.0, nsp=0.0)
    of = config(dropout=0.3, objective=weights)
    beside, mesh = job(of)
    alone = Pretraining(dataclasses.replace(of, teacher=config_lib.Teacher()))
    rows = batch()
    states = [start(each, mesh) for each in (beside, alone)]
    found = [
        step_of(each, mesh)(state, each.frozen, rows)
        for each, state in zip((beside, alone), states, strict=True)
    ]
    for name in ("mlm_loss", "loss", "grad_norm"):
        np.testing.assert_allclose(found[0][1][name], found[1][1][name], rtol=1e-6)
    assert found[0][1]["distill_loss"] > 0


def metrics_of(rows, micro_batches=1, **groups):
    mine, mesh = job(config(**groups))
    _, found = step_of(mine, mesh, micro_batches)(start(mine, mesh), mine.frozen, rows)
    return {name: float(x) for name, x in found.items()}


@pytest.mark.parametrize("soft_tokens", ["attended", "masked"])
def test_unequal_parts_and_more_padding_change_no_loss_and_no_gradient(soft_tokens):
    """One part holds rows of ten tokens, the other of L; then all rows are padded to 40."""
    of = config_lib.Teacher(init_from="hf:teacher", soft_tokens=soft_tokens)
    rows = batch()
    short = np.arange(B) % 2 == 0  # a part is every second row
    rows["attention_mask"] = np.where(
        short[:, None], np.arange(L) < 10, rows["attention_mask"]
    ).astype(np.int32)
    whole = metrics_of(rows, teacher=of)
    parts = metrics_of(rows, micro_batches=2, teacher=of)
    wider = {
        name: np.pad(x, ((0, 0), (0, 40 - L))) if x.shape == (B, L) else x
        for name, x in rows.items()
    }
    wide = metrics_of(wider, teacher=of)
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=2e-5, err_msg=name)
        np.testing.assert_allclose(wide[name], whole[name], rtol=2e-5, err_msg=name)


NSP = small("bert", 4)
NSP = dataclasses.replace(
    NSP.config.model, head="pretraining", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
)


def pairs():
    """`batch` with next-sentence labels, and the same examples two in a row."""
    rows = batch() | {"next_sentence_labels": np.arange(B, dtype=np.int32) % 2}
    half = B // 2

    def beside(x, shift=0):
        return np.concatenate([x[:half], x[half:] + shift], axis=1)

    packed = {name: beside(rows[name]) for name in ("input_ids", "token_type_ids")}
    # No padding between the two: what lies there attends to nothing and is of no example.
    segments = beside(rows["attention_mask"])
    segments[:, L:] *= 2
    packed |= {
        "segment_ids": segments,
        "attention_mask": np.ones_like(segments),
        "position_ids": np.broadcast_to(np.arange(2 * L) % L, (half, 2 * L)).astype(np.int32),
        "cls_positions": np.broadcast_to([0, L], (half, 2)).astype(np.int32),
        "masked_lm_positions": beside(rows["masked_lm_positions"], L),
        "masked_lm_ids": beside(rows["masked_lm_ids"]),
        "masked_lm_weights": beside(rows["masked_lm_weights"]),
    }
    for name in ("example_ids", "next_sentence_labels"):
        packed[name] = np.stack([rows[name][:half], rows[name][half:]], axis=1)
    return rows, packed


def test_packed_rows_and_any_mesh_give_the_losses_of_examples_alone():
    """A student with a next-sentence head, beside the teacher, on 8 devices: 2 x 2 x 2."""
    of = config(model=NSP, objective=dataclasses.replace(OBJECTIVE, nsp=1.0))
    fresh = jax.device_get(jax.jit(lambda: models.init(of.model, jax.random.key(5)))())
    found = []
    rows, packed = pairs()
    split = config_lib.Mesh(fsdp=2, tensor=2)
    for given, mesh_of in ((rows, config_lib.Mesh()), (packed, config_lib.Mesh()), (rows, split)):
        mine, mesh = job(
            dataclasses.replace(of, mesh=mesh_of), devices=8 if mesh_of.fsdp > 1 else 1
        )
        _, metrics = step_of(mine, mesh)(start(mine, mesh, fresh), mine.frozen, given)
        found.append({name: float(x) for name, x in metrics.items()})
    assert {"nsp_loss", "mlm_loss", "distill_loss", "cosine_loss"} < found[0].keys()
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_allclose(other[name], value, rtol=5e-5, err_msg=name)


def test_soft_targets_of_the_masked_tokens_are_those_alone():
    rows = batch()
    only = dict(rows, attention_mask=rows["attention_mask"])
    of = config_lib.Teacher(init_from="hf:teacher", soft_tokens="masked")
    masked = metrics_of(only, teacher=of)
    attended = metrics_of(only)
    assert masked["distill_loss"] != attended["distill_loss"]
    assert masked["teacher_mlm_accuracy"] == attended["teacher_mlm_accuracy"]
    assert masked["mlm_loss"] == pytest.approx(attended["mlm_loss"], rel=1e-6)


def test_padding_rows_of_an_evaluation_weigh_nothing():
    rows = batch()
    rows["example_ids"][-1] = -1
    mine, _ = job()
    found = terms.weights(mine.config, mine.teacher, rows)
    assert found["distill_loss"] == rows["attention_mask"][:-1].sum() == found["cosine_loss"]
    packed = rows | {
        "segment_ids": rows["attention_mask"] * (1 + rows["token_type_ids"]),
        "example_ids": np.stack([rows["example_ids"], np.full(B, -1)], axis=1),
    }
    first = (packed["segment_ids"] == 1)[:-1].sum()
    assert terms.attended(packed).sum() == first


# --- the start


def started(**how):
    of = config(
        teacher=config_lib.Teacher(init_from="hf:teacher", layers=(0, 2), **how),
    )
    fresh = jax.tree.map(jnp.asarray, small("distilbert", 9).params)
    return of, fresh, *student.start(of, TEACHER, fresh, None)


def test_a_folded_start_has_the_embeddings_of_the_teacher_for_type_0():
    of, _, params, lines = started()
    rows = batch() | {"token_type_ids": np.zeros((B, L), np.int32)}
    no_blocks = dataclasses.replace(of.model, num_hidden_layers=1)

    def embedded(model, params):
        """The hidden states of a model whose only block passes on what it gets, scaled."""
        blocks = jax.tree.map(lambda x: jnp.zeros_like(x[:1]), params["blocks"])
        for name in ("attention_layer_norm", "output_layer_norm"):
            blocks[name]["scale"] = jnp.ones_like(blocks[name]["scale"])
        model = dataclasses.replace(model, num_hidden_layers=1, head="none")
        kept = {"embeddings": params["embeddings"], "blocks": blocks}
        return models.apply(model, kept, rows)["hidden"]

    ours = embedded(no_blocks, params)
    theirs = embedded(TEACHER.config.model, jax.tree.map(jnp.asarray, TEACHER.params))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert lines[1] == "token type 0 of the teacher: added to every position"
    _, _, dropped, lines = started(token_types="drop")
    assert np.abs(embedded(no_blocks, dropped) - theirs).max() > 0.1
    assert "left out, as published" in lines[1]


def test_the_blocks_and_the_head_are_the_teachers():
    _, fresh, params, lines = started()
    for name in ("query", "output"):
        np.testing.assert_array_equal(
            params["blocks"][name]["kernel"], TEACHER.params["blocks"][name]["kernel"][[0, 2]]
        )
    np.testing.assert_array_equal(params["masked_lm"]["bias"], TEACHER.params["masked_lm"]["bias"])
    assert lines[0] == "blocks 0, 2 of hf:teacher"
    _, fresh, params, lines = started(copy_head=False)
    np.testing.assert_array_equal(
        params["masked_lm"]["transform"]["kernel"], fresh["masked_lm"]["transform"]["kernel"]
    )
    np.testing.assert_array_equal(params["masked_lm"]["bias"], TEACHER.params["masked_lm"]["bias"])
    assert "masked_lm/transform/kernel" in lines[-1]
    assert "bias" not in lines[-1].replace("transform/bias", "").replace("layer_norm/bias", "")


def changed(**model):
    found = config(teacher=config_lib.Teacher(init_from="hf:teacher", layers=(0, 2)))
    return found.with_model(**model)


@pytest.mark.parametrize(
    ("of", "source", "said"),
    [
        (changed(), random_model("bert", head="pooler"), "its head is pooler, without masked_lm"),
        (changed(vocab_size=100), TEACHER, "vocab_size=100: the teacher hf:teacher has 99"),
        (
            changed(),
            random_model("bert", head="masked_lm", max_position_embeddings=16),
            "has positions for 16 tokens, a phase has 24",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(of, source, said):
    with pytest.raises(UsageError, match=said):
        teacher.check(of, source, teacher.PRETRAINING)


def test_a_start_that_does_not_fit_is_refused():
    few = random_model("bert", head="masked_lm")  # two blocks
    with pytest.raises(UsageError, match=r"layers \[0, 2\]: hf:teacher has 2 blocks"):
        student.check(changed(), few)
    with pytest.raises(UsageError, match=r"config.teacher.init_from=hf:teacher: its .* has shape"):
        student.check(changed(hidden_size=16), TEACHER)
    with pytest.raises(UsageError, match=r"config.model.num_attention_heads=2: hf:teacher has 4"):
        student.check(changed(num_attention_heads=2), TEACHER)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"objective": {"distill": 1.0}}, r"config.objective.distill=1.0: needs a teacher; name"),
        ({"objective": {"cosine": 1.0}}, r"config.objective.cosine=1.0: needs a teacher; name"),
        ({"teacher": {"layers": (0,)}, "model": {"num_hidden_layers": 1}}, "there is no teacher"),
    ],
)
def test_a_loss_without_a_teacher_is_refused(tree, said):
    with pytest.raises(UsageError, match=said):
        teacher.read(config_lib.from_config_dict(tree))


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"teacher": {"layers": (0, 1)}}, r"must be as many as model.num_hidden_layers=12"),
        (
            {"teacher": {"layers": (0,)}, "model": {"num_hidden_layers": 1}, "init_from": "hf:x"},
            "the model starts from config.init_from=hf:x; unset one of them",
        ),
        ({"teacher": {"layers": (-1,)}, "model": {"num_hidden_layers": 1}}, "counted from 0"),
    ],
)
def test_fields_that_contradict_are_refused(tree, said):
    with pytest.raises(UsageError, match=said):
        config_lib.from_config_dict(tree)


def test_hidden_states_of_another_width_are_not_compared():
    wide = small("bert", 3, hidden_size=64)
    mine, mesh = job(source=wide)
    _, found = step_of(mine, mesh)(start(mine, mesh), mine.frozen, batch())
    assert "cosine_loss" not in found
    assert "hidden states are 64 wide, the model's 32" in mine.start({})[1][-1]
    assert found["distill_loss"] > 0
