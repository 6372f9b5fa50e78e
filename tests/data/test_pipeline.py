import contextlib
import dataclasses
import gc
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from batches import NO_NSP, PHASE, STORE, TOKENIZER, make, make_store

from bertjax.config import Component, Data, Evaluation, Examples, Masking, Objective
from bertjax.data import epochs as epochs_lib
from bertjax.data import masking, pipeline
from bertjax.errors import DataError


def num_rows(batches):
    return batches._corpora[0].num_rows


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def differs(a, b):
    return (a["input_ids"] != b["input_ids"]).any()


def epoch_of(batches, epoch):
    """All rows of one epoch in order; a batch may also hold rows of a neighboring epoch."""
    first, end = epoch * num_rows(batches), (epoch + 1) * num_rows(batches)
    size = batches._stage.phase.batch_size
    steps = range(first // size, -(-end // size))
    parts = [batches.batch(step) for step in steps]
    kept = slice(first - steps[0] * size, end - steps[0] * size)
    return {name: np.concatenate([part[name] for part in parts])[kept] for name in parts[0]}


def test_rows_hold_the_tokens_of_their_example():
    batch = make().batch(3)
    index = make()._corpora[0].index(0)
    for row, i in enumerate(batch["example_ids"]):
        a, b = (
            STORE.tokens[index.part_start[k] :][: index.part_length[k]].tolist()
            for k in (2 * i, 2 * i + 1)
        )
        padding = [0] * (32 - 3 - len(a) - len(b))
        assert batch["input_ids"][row].tolist() == [1, *a, 2, *b, 2, *padding]
        types = [0] * (len(a) + 2) + [1] * (len(b) + 1) + padding
        assert batch["token_type_ids"][row].tolist() == types
        attended = [1] * (len(a) + len(b) + 3) + padding
        assert batch["attention_mask"][row].tolist() == attended
        assert batch["next_sentence_labels"][row] == index.is_random[i]
    assert all(values.dtype == np.int32 for values in batch.values())
    assert batch["mask_epochs"].tolist() == [0] * 16


def test_an_epoch_shows_every_example_once():
    batches = make()
    ids = epoch_of(batches, 0)["example_ids"]
    assert sorted(ids) == list(range(num_rows(batches)))
    assert (np.diff(ids) < 0).any()  # shuffled over all documents
    assert abs(np.corrcoef(ids, np.arange(len(ids)))[0, 1]) < 4 / len(ids) ** 0.5


def test_epochs_of_other_lengths_are_dropped_or_wrapped():
    batches = make()
    lengths = {e: len(batches._corpora[0].index(e)) for e in range(1, 20)}
    used = num_rows(batches)
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
    last = num_rows(forward) // 16  # holds the end of the first epoch and the start of the next
    assert set(forward.batch(last)["mask_epochs"]) == {0, 1}
    steps = [0, 1, last, 5 * last, 10**6]
    expected = [forward.batch(step) for step in steps]
    for step, batch in reversed(list(zip(steps, expected, strict=True))):
        assert_same(backward.batch(step), batch)
    for i, batch in enumerate(expected):
        assert all(differs(batch, other) for other in expected[:i])
    assert expected[-1]["mask_epochs"][0] == 16 * 10**6 // num_rows(forward)


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
    """The exception is epoch 0: every start builds it for the length of an epoch."""
    built = []
    build = epochs_lib.build_index

    def counted(*args, **kwargs):
        built.append(1)
        return build(*args, **kwargs)

    monkeypatch.setattr(epochs_lib, "build_index", counted)
    make().batch(1)
    assert len(built) == 1
    batches = make()
    batches.batch(10**6)
    assert len(built) == 1 + 2
    batches.batch(10**9)
    assert len(built) == 1 + 3


def test_at_most_two_epochs_are_kept():
    corpus = make()._corpora[0]
    for epoch in (1, 2, 5, 3):
        corpus.index(epoch)
        assert len(corpus._epochs) <= 2
        assert epoch in corpus._epochs


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
    assert len(again & set(by_id[0].values())) < 0.02 * len(again)  # short examples, by chance


# ---- held-out


@pytest.mark.parametrize(("most", "batch_size"), [(10_000, 16), (50, 16), (48, 16), (3, 8)])
def test_heldout_examples_come_once(most, batch_size):
    evaluation = Evaluation(num_examples=most, batch_size=batch_size)
    batches = make(pipeline.HeldoutBatches, evaluation=evaluation)
    parts = [batches.batch(i) for i in range(batches.num_batches)]
    ids = np.concatenate([part["example_ids"] for part in parts])
    assert all(part["input_ids"].shape == (batch_size, 32) for part in parts)
    assert batches.num_examples == min(most, num_rows(make()))
    assert (ids[: batches.num_examples] >= 0).all()
    assert len(set(ids[: batches.num_examples])) == batches.num_examples
    assert (ids[batches.num_examples :] == -1).all()
    assert len(ids) - batches.num_examples < batch_size
    # Rows that fill the batch hold a sequence, so that nothing divides by a length of 0.
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
    start = num_rows(batches) // 16 - 5
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


@pytest.mark.parametrize(
    ("sentence_counts", "objective", "message"),
    [
        ([1], Objective(), "train split has 1 document where 2 are needed .*nsp=0.*add documents"),
        ([9], Objective(), "train split has 1 document where 2 are needed"),
        ([], Objective(), "train split has 0 documents where 2 are needed"),
        ([], NO_NSP, "train split has 0 documents where 1 is needed: add"),
    ],
)
def test_too_little_text_is_one_clear_line(sentence_counts, objective, message):
    with pytest.raises(DataError, match=message) as error:
        make(store=store_of(sentence_counts), objective=objective)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sentence_counts", [[], [5]])
def test_too_little_heldout_text_names_its_fix(sentence_counts):
    with pytest.raises(
        DataError, match=r"held-out split .* raise config\.data\.heldout_fraction and prepare"
    ):
        make(pipeline.HeldoutBatches, store=store_of(sentence_counts))


def test_one_document_trains_without_next_sentence_prediction():
    phase = dataclasses.replace(PHASE, batch_size=1)
    batches = make(store=store_of([1]), phase=phase, objective=NO_NSP)
    assert batches.batch(0)["input_ids"][0, :9].tolist() == [1, 9, 9, 9, 9, 9, 2, 2, 0]
    phase = dataclasses.replace(PHASE, batch_size=4)
    batches = make(store=store_of([200]), phase=phase, objective=NO_NSP)
    assert not epoch_of(batches, 0)["next_sentence_labels"].any()


def test_a_batch_may_hold_many_epochs_of_a_small_corpus():
    batches = make(store=store_of([1, 1]))
    batch = batches.batch(3)
    assert batch["mask_epochs"].tolist() == [n // 2 for n in range(48, 64)]
    for epoch in range(24, 32):
        assert sorted(batch["example_ids"][batch["mask_epochs"] == epoch]) == [0, 1]


# ---- every builder, packed or not, and mixtures

BUILDERS = ("segment_pair_nsp", "sentence_pair_nsp", "full_sentences", "doc_sentences")
OTHER = make_store(40, seed=1)
MIXTURE = {"a": Component(0.7, Data()), "b": Component(0.3, Data())}
MODES = {
    "alone": {},
    "packed": {"max_per_row": 6},
    "mixture": {"mixture": MIXTURE},
    "packed mixture": {"max_per_row": 6, "mixture": MIXTURE},
}


def make_mode(builder, mode, cls=pipeline.Batches, **config):
    fields = dict(MODES[mode])
    examples = Examples(builder=builder, max_per_row=fields.pop("max_per_row", 1))
    config |= fields
    if not examples.has_next_sentence:
        config["objective"] = NO_NSP
    stores = [STORE, OTHER] if "mixture" in config else STORE
    return make(cls, store=stores, examples=examples, **config)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("builder", BUILDERS)
def test_batches_are_the_same_from_any_step_on_any_number_of_shards(builder, mode):
    batches = make_mode(builder, mode)
    steps = [0, 40, 700]
    whole = [batches.batch(step) for step in steps]
    assert differs(whole[0], whole[1])
    for shards in (1, 2, 4, 8):
        fresh, size = make_mode(builder, mode), 16 // shards
        for step, batch in reversed(list(zip(steps, whole, strict=True))):
            parts = [fresh.batch(step, slice(i, i + size)) for i in range(0, 16, size)]
            joined = {name: np.concatenate([part[name] for part in parts]) for name in batch}
            assert_same(joined, batch)


def unpack(batch):
    """The examples of a packed batch as rows of an unpacked one, and the row of each."""
    length = batch["input_ids"].shape[1]
    rows, slots = np.nonzero(batch["example_ids"] >= 0)
    out = {
        name: np.zeros((len(rows), length), np.int32)
        for name in ("input_ids", "token_type_ids", "attention_mask")
    }
    for i, (row, slot) in enumerate(zip(rows, slots, strict=True)):
        mine = batch["segment_ids"][row] == slot + 1
        count = mine.sum()
        # An example is one stretch of the row, starts at its [CLS] position, and counts from 0.
        assert np.flatnonzero(mine).tolist() == list(
            range(batch["cls_positions"][row, slot], batch["cls_positions"][row, slot] + count)
        )
        assert batch["position_ids"][row, mine].tolist() == list(range(count))
        for name, values in out.items():
            values[i, :count] = batch[name][row, mine]
    out["mask_epochs"] = batch["mask_epochs"][rows]
    for name in ("example_ids", "next_sentence_labels"):
        if name in batch:
            out[name] = batch[name][rows, slots]
    return out, rows


@pytest.mark.parametrize("builder", BUILDERS)
def test_packed_rows_hold_the_examples_of_unpacked_ones(builder):
    alone, packed = make_mode(builder, "alone"), make_mode(builder, "packed")
    expected = epoch_of(alone, 0)
    batch = epoch_of(packed, 0)
    found, _ = unpack(batch)
    order, mine = np.argsort(expected["example_ids"]), np.argsort(found["example_ids"])
    assert_same(
        {name: values[mine] for name, values in found.items()},
        {name: values[order] for name, values in expected.items()},
    )
    # Places outside examples are padding in every field.
    padding = batch["segment_ids"] == 0
    np.testing.assert_array_equal(padding, batch["attention_mask"] == 0)
    for name in ("input_ids", "token_type_ids", "position_ids"):
        assert not batch[name][padding].any()
    unused = batch["example_ids"] < 0
    assert not batch["cls_positions"][unused].any()
    if builder in ("sentence_pair_nsp", "doc_sentences"):
        assert num_rows(packed) < 0.9 * num_rows(alone)
    assert ("next_sentence_labels" in batch) == builder.endswith("_nsp")


def test_described_fill_is_that_of_the_batches():
    packed = make_mode("sentence_pair_nsp", "packed")
    full = epoch_of(packed, 0)["attention_mask"].mean()
    alone = epoch_of(make_mode("sentence_pair_nsp", "alone"), 0)["attention_mask"].mean()
    assert f"rows {full:.1%} full" in packed.describe()
    assert f"{alone:.1%} full alone" in packed.describe()


@pytest.mark.parametrize("builder", BUILDERS)
def test_blocks_become_rows_with_a_separator_between_documents(builder):
    batch = make_mode(builder, "alone").batch(0)
    for row in range(16):
        ids = batch["input_ids"][row][batch["attention_mask"][row] == 1]
        assert ids[0] == 1
        assert ids[-1] == 2
        assert (ids == 1).sum() == 1
        parts = (ids == 2).sum()
        types = batch["token_type_ids"][row]
        if builder.endswith("_nsp"):
            assert parts == 2
            first = ids.tolist().index(2)
            assert types.tolist() == [0] * (first + 1) + [1] * (len(ids) - first - 1) + [0] * (
                32 - len(ids)
            )
        else:
            assert not types.any()
            starts = ids[1:][np.isin(ids[:-1], (1, 2))] - 4  # token t has id t + 4
            documents = np.searchsorted(STORE.sentences[STORE.documents], starts, "right")
            assert len(set(documents)) == parts
            assert parts == 1 or builder == "full_sentences"


def test_components_have_their_share_and_their_own_masks():
    batches = make_mode("full_sentences", "mixture")
    many = [batches.batch(step) for step in range(250)]
    component = np.concatenate([batch["components"] for batch in many])
    assert abs(component.mean() - 0.3) < 4 * (0.21 / len(component)) ** 0.5
    for number, corpus in enumerate((STORE, OTHER)):
        mine = np.concatenate([batch["input_ids"] for batch in many])[component == number]
        assert mine.max() < 4 + corpus.sentences[-1]
    passes = np.concatenate([batch["mask_epochs"] for batch in many])
    assert (np.diff(passes[component == 0]) >= 0).all()
    assert (np.diff(passes[component == 1]) >= 0).all()


def test_a_mixture_masks_as_if_the_epochs_of_its_components_took_turns():
    batch = make_mode("full_sentences", "mixture").batch(200)
    key = jax.random.key(0, impl="threefry2x32")
    turn = batch["mask_epochs"] * 2 + batch["components"]
    assert set(turn) == {9, 14}
    alone = {name: values for name, values in batch.items() if name != "components"}
    expected = masking.mask_tokens(key, alone | {"mask_epochs": turn}, TOKENIZER, Masking(), 8)
    found = masking.mask_tokens(key, batch, TOKENIZER, Masking(), 8, num_components=2)
    for name in ("input_ids", "masked_lm_positions", "masked_lm_ids"):
        np.testing.assert_array_equal(found[name], expected[name])
    with pytest.raises(ValueError, match=r"num_components=1, batch has .*components"):
        masking.mask_tokens(key, batch, TOKENIZER, Masking(), 8)


def heldout_examples(mode):
    """The batches of `mode`, and the sorted (component, example id) of all their examples."""
    evaluation = Evaluation(num_examples=40, batch_size=16)
    batches = make_mode("sentence_pair_nsp", mode, pipeline.HeldoutBatches, evaluation=evaluation)
    parts = [batches.batch(i) for i in range(batches.num_batches)]
    rows = [
        zip(p.get("components", [0] * 16), p["example_ids"].reshape(16, -1), strict=True)
        for p in parts
    ]
    found = [(component, i) for row in rows for component, ids in row for i in ids if i >= 0]
    return batches, sorted(found)


@pytest.mark.parametrize("mode", MODES)
def test_heldout_examples_are_the_same_packed(mode):
    batches, found = heldout_examples(mode)
    assert found == heldout_examples(mode.removeprefix("packed ").replace("packed", "alone"))[1]
    assert len(found) == len(set(found)) == batches.num_examples == 40
    shares = [28, 12] if "mixture" in mode else [40]
    assert np.bincount([component for component, _ in found]).tolist() == shares
    count = batches.num_batches
    assert count * 16 - 16 < sum(c.num_rows for c in batches._corpora) <= count * 16


def test_stages_go_on_where_the_last_one_stopped():
    """A ramp of batch sizes reads the same rows as a single batch size."""
    whole = make()
    later = make(first_row=5 * 16, phase=dataclasses.replace(PHASE, batch_size=32))
    expected = [whole.batch(5), whole.batch(6)]
    joined = {name: np.concatenate([e[name] for e in expected]) for name in expected[0]}
    assert_same(later.batch(0), joined)


def of_sentences(counts, length=9):
    """A store whose documents have `counts` sentences of `length` tokens."""
    documents = np.cumsum([0, *counts])
    sentences = np.arange(documents[-1] + 1) * length
    tokens = np.arange(4, 4 + sentences[-1], dtype=np.uint16)
    return SimpleNamespace(tokens=tokens, sentences=sentences, documents=documents)


@pytest.mark.parametrize("builder", ["segment_pair_nsp", "sentence_pair_nsp"])
def test_labels_that_are_all_random_are_refused(builder):
    """Tweets or titles, or sentences that each fill an example."""
    lines = {"counts": [1] * 150}, {"counts": [5] * 50, "length": 40}
    for fields in lines[: 1 + (builder == "segment_pair_nsp")]:
        with pytest.raises(DataError, match=r'^100.0% of the next-sentence labels are "random"'):
            make(store=of_sentences(**fields), examples=Examples(builder=builder))
        for off in (
            {"objective": Objective(nsp=0.0), "examples": Examples(builder=builder)},
            {"objective": Objective(nsp=0.0), "examples": Examples(builder="full_sentences")},
        ):
            assert "next-sentence" not in make(store=of_sentences(**fields), **off).describe()


def test_labels_that_are_mostly_random_are_said():
    assert "100.0% of the next-sentence labels" in make(store=of_sentences([1] * 50)).describe()
    said = make(store=of_sentences([1] * 200 + [2] * 50)).describe()
    share = float(said.split('% of the next-sentence labels "random" (WARNING')[0].split()[-1])
    assert 85 < share < 94  # 200 pairs are random, 50 more with probability one half
    said = make(store=of_sentences([4] * 100)).describe()
    assert '% of the next-sentence labels "random"' in said
    assert "WARNING" not in said


def test_labels_of_a_mixture_count_by_weight():
    stores = [of_sentences([1] * 150), of_sentences([4] * 50)]
    parts = {"tales": Component(weight=9.0), "tweets": Component(weight=1.0)}
    make(store=stores[::-1], mixture=parts)
    parts = {"tales": Component(weight=1.0), "tweets": Component(weight=19.0)}
    with pytest.raises(DataError, match="next-sentence labels"):
        make(store=stores[::-1], mixture=parts)
