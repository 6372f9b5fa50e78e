import contextlib
import dataclasses
import gc
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from bertjax.config import Config, Evaluation, Masking, Objective, Phase
from bertjax.data import examples, masking, pipeline
from bertjax.errors import DataError

TOKENIZER = SimpleNamespace(pad_id=0, cls_id=1, sep_id=2, mask_id=3, vocab_size=60_000)
PHASE = Phase(steps=100, sequence_length=32, batch_size=16)


def make_store(num_documents=60, seed=0):
    """Realistic proportions; token t of the corpus has id t + 4."""
    rng = np.random.default_rng(seed)
    sizes = rng.geometric(1 / 12, num_documents)
    sentences = np.cumsum([0, *rng.geometric(1 / 9, sizes.sum())])
    tokens = np.arange(4, 4 + sentences[-1], dtype=np.uint16)
    return SimpleNamespace(tokens=tokens, sentences=sentences, documents=np.cumsum([0, *sizes]))


STORE = make_store()


def make(cls=pipeline.Batches, store=STORE, phase=PHASE, phase_index=0, **config):
    return cls(store, TOKENIZER, Config(**config), phase, phase_index)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def differs(a, b):
    return (a["input_ids"] != b["input_ids"]).any()


def epoch_of(batches, epoch):
    """All batches of one epoch, one after the other."""
    first = epoch * batches.batches_per_epoch
    parts = [batches.batch(first + i) for i in range(batches.batches_per_epoch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_rows_hold_the_tokens_of_their_example():
    batch = make().batch(3)
    rng = pipeline._rng(Config(), 0, 0, pipeline._PAIRS)
    index = examples.build_index(STORE, sequence_length=32, short_seq_prob=0.1, rng=rng)
    for row, i in enumerate(batch["example_ids"]):
        a = STORE.tokens[index.a_start[i] :][: index.a_length[i]].tolist()
        b = STORE.tokens[index.b_start[i] :][: index.b_length[i]].tolist()
        padding = [0] * (32 - 3 - len(a) - len(b))
        assert batch["input_ids"][row].tolist() == [1, *a, 2, *b, 2, *padding]
        types = [0] * (len(a) + 2) + [1] * (len(b) + 1) + padding
        assert batch["token_type_ids"][row].tolist() == types
        attended = [1] * (len(a) + len(b) + 3) + padding
        assert batch["attention_mask"][row].tolist() == attended
        assert batch["next_sentence_labels"][row] == index.is_random[i]
    assert all(values.dtype == np.int32 for values in batch.values())
    assert batch["epochs"].tolist() == [0] * 16


def test_an_epoch_shows_every_example_once():
    batches = make()
    ids = epoch_of(batches, 0)["example_ids"]
    assert len(ids) == batches.num_examples // 16 * 16
    assert len(set(ids)) == len(ids)
    assert ids.max() < batches.num_examples
    assert (np.diff(ids) < 0).any()  # shuffled over all documents
    assert abs(np.corrcoef(ids, np.arange(len(ids)))[0, 1]) < 4 / len(ids) ** 0.5


def test_epochs_of_other_lengths_are_dropped_or_wrapped():
    batches = make()
    lengths = {e: len(batches._epoch(e)[0]) for e in range(1, 20)}
    used = batches.batches_per_epoch * 16
    longer = max(lengths, key=lengths.get)
    shorter = min(lengths, key=lengths.get)
    assert lengths[shorter] < used < lengths[longer]
    ids = epoch_of(batches, longer)["example_ids"]
    assert len(set(ids)) == used
    ids = epoch_of(batches, shorter)["example_ids"]
    assert len(set(ids)) == lengths[shorter]
    missing = used - lengths[shorter]
    assert ids[-missing:].tolist() == ids[:missing].tolist()


def test_batch_is_a_function_of_the_step():
    forward, backward = make(), make()
    steps = [0, 1, forward.batches_per_epoch, 5 * forward.batches_per_epoch - 1, 10**6]
    expected = [forward.batch(step) for step in steps]
    for step, batch in reversed(list(zip(steps, expected, strict=True))):
        assert_same(backward.batch(step), batch)
    for i, batch in enumerate(expected):
        assert all(differs(batch, other) for other in expected[:i])
    assert expected[-1]["epochs"][0] == 10**6 // forward.batches_per_epoch


def test_seed_phase_and_epoch_draw_other_examples():
    batch = make().batch(0)
    assert_same(make().batch(0), batch)
    assert differs(make(seed=1).batch(0), batch)
    assert differs(make(phase_index=1).batch(0), batch)
    batches = make()
    texts = [{r.tobytes() for r in epoch_of(batches, e)["input_ids"]} for e in range(2)]
    assert len(texts[0] & texts[1]) < 0.5 * len(texts[0])


@pytest.mark.parametrize("rows", [slice(0, 4), slice(12, 16), slice(4, 12)])
def test_rows_are_the_rows_of_the_global_batch(rows):
    part, whole = make().batch(7, rows), make().batch(7)
    assert_same(part, {name: values[rows] for name, values in whole.items()})


def test_a_far_step_builds_no_more_than_its_own_epoch(monkeypatch):
    """Beside epoch 0, which every start builds for the length of an epoch."""
    built = []
    build = examples.build_index

    def counted(*args, **kwargs):
        built.append(1)
        return build(*args, **kwargs)

    monkeypatch.setattr(examples, "build_index", counted)
    make().batch(1)
    assert len(built) == 1
    batches = make()
    batches.batch(10**6)
    assert len(built) == 1 + 2
    batches.batch(10**9)
    assert len(built) == 1 + 3


def test_at_most_two_epochs_are_kept():
    batches = make()
    for epoch in (1, 2, 5, 3):
        batches.batch(epoch * batches.batches_per_epoch)
        assert len(batches._epochs) <= 2
        assert epoch in batches._epochs


def mask(batch):
    key = jax.random.key(0, impl="threefry2x32")
    return masking.mask_tokens(key, batch, TOKENIZER, Masking(), 5)


def test_static_patterns_repeat_examples_with_their_masks():
    static = make(masking=Masking(static_patterns=2))
    epochs = [mask(epoch_of(static, e)) for e in range(4)]
    by_id = [
        {
            i: row.tobytes()
            for i, row in zip(e["example_ids"].tolist(), np.asarray(e["input_ids"]), strict=True)
        }
        for e in epochs
    ]
    for first, again in ((0, 2), (1, 3)):
        common = by_id[first].keys() & by_id[again].keys()
        assert len(common) > 0.8 * len(by_id[first])
        assert all(by_id[first][i] == by_id[again][i] for i in common)
        assert (epochs[first]["example_ids"] != epochs[again]["example_ids"]).any()
    assert sum(by_id[0][i] != by_id[1][i] for i in by_id[0].keys() & by_id[1].keys()) > 100
    dynamic = make()
    again = {r.tobytes() for r in np.asarray(mask(epoch_of(dynamic, 2))["input_ids"])}
    assert not again & set(by_id[0].values())


# ---- held-out


@pytest.mark.parametrize(("most", "batch_size"), [(10_000, 16), (50, 16), (48, 16), (3, 8)])
def test_heldout_examples_come_once(most, batch_size):
    evaluation = Evaluation(num_examples=most, batch_size=batch_size)
    batches = make(pipeline.HeldoutBatches, evaluation=evaluation)
    parts = [batches.batch(i) for i in range(batches.num_batches)]
    ids = np.concatenate([part["example_ids"] for part in parts])
    assert all(part["input_ids"].shape == (batch_size, 32) for part in parts)
    assert batches.num_examples == min(most, make().num_examples)
    assert (ids[: batches.num_examples] >= 0).all()
    assert len(set(ids[: batches.num_examples])) == batches.num_examples
    assert (ids[batches.num_examples :] == -1).all()
    assert len(ids) - batches.num_examples < batch_size
    # Rows that pad hold a sequence, so that nothing divides by its length 0.
    assert (np.concatenate([part["attention_mask"] for part in parts]).sum(1) >= 4).all()
    for i, part in enumerate(parts):
        assert_same(batches.batch(i), part)
        assert_same(batches.batch(i, slice(2, 5)), {name: v[2:5] for name, v in part.items()})
        weights = np.asarray(mask(part)["masked_lm_weights"])
        assert ((weights.sum(1) > 0) == (part["example_ids"] >= 0)).all()


def test_few_heldout_examples_are_spread_over_the_documents():
    batches = make(pipeline.HeldoutBatches, evaluation=Evaluation(num_examples=32, batch_size=32))
    positions = batches.batch(0)["input_ids"][:, 1]
    assert len(set(np.searchsorted(STORE.sentences[STORE.documents], positions))) > 10


# ---- Grain


@pytest.mark.parametrize("prefetch", [1, 4, 16])
def test_iterate_gives_the_batches_in_order(prefetch):
    batches = make()
    start = batches.batches_per_epoch - 5
    rows = slice(4, 8)
    with contextlib.closing(
        pipeline.iterate(batches, start, start + 10, rows=rows, prefetch=prefetch)
    ) as reader:
        seen = list(reader)
    assert len(seen) == 10
    fresh = make()
    for i, batch in enumerate(seen):
        assert_same(batch, fresh.batch(start + i, rows))


def test_iterate_starts_anywhere_and_may_be_empty():
    batches = make()
    reader = pipeline.iterate(batches, 10**6, 10**9, prefetch=2)
    assert_same(next(reader), batches.batch(10**6))
    reader.close()
    assert list(pipeline.iterate(batches, 5, 5, prefetch=2)) == []


def test_closing_the_iterator_ends_its_threads():
    def count():
        return sum("grain-prefetch" in t.name for t in threading.enumerate())

    gc.collect()  # iterators of other tests
    before = count()
    reader = pipeline.iterate(make(), 0, 10**6, prefetch=4)
    next(reader)
    assert count() > before
    reader.close()
    deadline = time.monotonic() + 10
    while count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert count() <= before


def test_errors_of_the_threads_reach_the_reader():
    store = SimpleNamespace(**vars(STORE))
    batches = make(store=store)
    store.tokens = np.full_like(STORE.tokens, 60_000)
    with pytest.raises(DataError, match="token id 60000, but the vocabulary has 60000"):
        next(pipeline.iterate(batches, 0, 10, prefetch=2))


# ---- bad input


def store_of(sentence_counts):
    total = sum(sentence_counts)
    return SimpleNamespace(
        tokens=np.full(5 * total, 9, np.uint16),
        sentences=np.arange(total + 1) * 5,
        documents=np.cumsum([0, *sentence_counts]),
    )


NO_NSP = Objective(nsp=0.0)


@pytest.mark.parametrize(
    ("sentence_counts", "objective", "message"),
    [
        ([1], Objective(), "train split has 1 document where 2 are needed .*nsp=0.*add documents"),
        ([9], Objective(), "train split has 1 document where 2 are needed"),
        ([], Objective(), "train split has 0 documents where 2 are needed"),
        ([], NO_NSP, "train split has 0 documents where 1 is needed: add"),
        ([1], NO_NSP, "give 1 examples of 32 tokens, fewer than batch_size=16: lower"),
        ([1, 1], Objective(), "give 2 examples of 32 tokens, fewer than batch_size=16: lower"),
    ],
)
def test_too_little_text_is_one_clear_line(sentence_counts, objective, message):
    with pytest.raises(DataError, match=message) as error:
        make(store=store_of(sentence_counts), objective=objective)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sentence_counts", [[], [5]])
def test_too_little_heldout_text_names_its_fix(sentence_counts):
    with pytest.raises(DataError, match=r"held-out split .* raise data\.heldout_fraction"):
        make(pipeline.HeldoutBatches, store=store_of(sentence_counts))


def test_one_document_trains_without_next_sentence_prediction():
    phase = dataclasses.replace(PHASE, batch_size=1)
    batches = make(store=store_of([1]), phase=phase, objective=NO_NSP)
    assert batches.batch(0)["input_ids"][0, :9].tolist() == [1, 9, 9, 9, 9, 9, 2, 2, 0]
    phase = dataclasses.replace(PHASE, batch_size=4)
    batches = make(store=store_of([200]), phase=phase, objective=NO_NSP)
    assert not epoch_of(batches, 0)["next_sentence_labels"].any()
