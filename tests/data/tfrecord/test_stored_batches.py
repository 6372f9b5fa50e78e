"""Laws of bertjax.data.tfrecord.index, records and batches: rows of files that stay where they are."""

import dataclasses
import gzip
import json

import jax.numpy as jnp
import numpy as np
import pytest
import tfrecords

from bertjax import config as configs
from bertjax.config import stages
from bertjax.data import prepare, store
from bertjax.data import tokenizer as tokenizer_lib
from bertjax.data.tfrecord.batches import Batches, HeldoutBatches, as_masked, batch_shapes
from bertjax.errors import DataError, NothingHeldOut, UsageError

TRAIN, LONG, HELDOUT = (
    tfrecords.make(53),
    tfrecords.make(20, 24, 4, seed=1),
    tfrecords.make(11, seed=2),
)
NAMES = {  # in a batch
    "input_ids": "input_ids",
    "attention_mask": "input_mask",
    "token_type_ids": "segment_ids",
    "masked_lm_positions": "masked_lm_positions",
    "masked_lm_ids": "masked_lm_ids",
    "masked_lm_weights": "masked_lm_weights",
    "next_sentence_labels": "next_sentence_labels",
}


@pytest.fixture
def config(tmp_path):
    """A config for files in `tmp_path`: two lengths, a phase of each, gzip among them."""
    vocab = [*tokenizer_lib.WORDPIECE_SPECIALS, *(f"w{i}" for i in range(45))]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n")
    tfrecords.write(tmp_path / "train-0", TRAIN[:30])
    tfrecords.write(tmp_path / "train-1", LONG)
    tfrecords.write(tmp_path / "train-2", TRAIN[30:], compress=True)
    tfrecords.write(tmp_path / "train-3", [])
    tfrecords.write(tmp_path / "eval", HELDOUT)
    rows = {"steps": 100, "batch_size": 8}
    return configs.from_config_dict(
        {
            "data": {
                "source": "bert_tfrecord",
                "files": f"{tmp_path}/train-*",
                "heldout_files": f"{tmp_path}/eval",
            },
            "tokenizer": {"path": str(tmp_path / "vocab.txt")},
            "model": {"vocab_size": 0, "max_position_embeddings": 24},
            "phases": {
                "phase1": rows | {"sequence_length": 16, "max_predictions_per_seq": 3},
                "phase2": rows | {"sequence_length": 24, "max_predictions_per_seq": 4},
            },
            "evaluation": {"batch_size": 4},
        }
    )


def change(config, **groups):
    return dataclasses.replace(
        config,
        **{name: dataclasses.replace(getattr(config, name), **f) for name, f in groups.items()},
    )


@pytest.fixture
def made(config, tmp_path):
    prepare.prepare(config, tmp_path / "w", progress=False)
    return tmp_path / "w"


def opened(config, workdir, cls=Batches, phase=0):
    tokenizer = tokenizer_lib.load(workdir / "tokenizer")
    return cls(config, workdir, tokenizer, stages.of(config)[phase])


def keys_of(batch):
    """A row of a batch, and an example of a file, as what can be compared."""
    count = len(batch["input_ids"])
    return [tuple(tuple(np.ravel(batch[n][i]).tolist()) for n in NAMES) for i in range(count)]


def key_of(example):
    return tuple(tuple(example[name]) for name in NAMES.values())


def sorted_keys(examples):
    return sorted(map(key_of, examples))


def test_the_index_does_not_depend_on_the_number_of_threads(config, tmp_path):
    tfrecords.write(tmp_path / "train-00", TRAIN[5:], compress=True)
    indexes = []
    for threads in (1, 5):
        some = change(config, data={"num_workers": threads, "heldout_files": None})
        indexes.append(prepare.prepare(some, tmp_path / f"w{threads}", progress=False))
    assert list(indexes[0]["files"].items()) == list(indexes[1]["files"].items())
    assert indexes[0]["records"] == indexes[1]["records"]
    assert [name for name in indexes[0]["files"] if "copies" in name] == [
        "copies/00000.tfrecord",
        "copies/00001.tfrecord",
    ]


def test_an_epoch_has_every_record_once_as_stored(config, made):
    batches = opened(config, made)
    assert batches.num_rows == len(TRAIN)
    epochs = []
    for epoch in range(2):
        numbers = np.arange(epoch * 53, (epoch + 1) * 53)
        whole = [batches.batch(step) for step in range(14)]
        rows = [row for batch in whole for row in keys_of(batch)]
        ids = np.concatenate([batch["example_ids"] for batch in whole])
        epochs.append([rows[i] for i in numbers])
        assert sorted(ids[numbers]) == list(range(53))
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted_keys(TRAIN)
    assert epochs[0] != epochs[1] != [key_of(example) for example in TRAIN]


def test_a_batch_is_a_function_of_its_step_and_the_parts_of_two_hosts_make_it(config, made):
    batches = opened(config, made)
    for step in (0, 6, 1_000_003):  # within an epoch, over the end of one, far off
        whole = batches.batch(step)
        shapes = {name: value.shape for name, value in whole.items()}
        assert shapes == batch_shapes(config.phases["phase1"])
        assert {value.dtype for value in whole.values()} == {np.dtype(np.int32)}
        halves = [opened(config, made).batch(step, rows) for rows in (slice(0, 4), slice(4, 8))]
        for name, value in whole.items():
            np.testing.assert_array_equal(value, np.concatenate([half[name] for half in halves]))
    other = opened(dataclasses.replace(config, seed=1), made).batch(0)
    assert keys_of(other) != keys_of(batches.batch(0))


def test_each_phase_reads_the_records_of_its_lengths(config, made):
    second = opened(config, made, phase=1)
    rows = [row for step in range(3) for row in keys_of(second.batch(step))][:20]
    assert sorted(rows) == sorted_keys(LONG)
    with pytest.raises(
        NothingHeldOut, match=r"phase2.sequence_length=24 .*heldout_files have 16 and 3"
    ):
        opened(config, made, HeldoutBatches, phase=1)


def test_held_out_files_are_read_once_in_their_order(config, made):
    heldout = opened(config, made, HeldoutBatches)
    batches = [heldout.batch(step) for step in range(heldout.num_batches)]
    rows = [row for batch in batches for row in keys_of(batch)]
    assert rows[:11] == [key_of(example) for example in HELDOUT]
    assert [list(batch["example_ids"]) for batch in batches[-1:]] == [[8, 9, 10, -1]]
    assert batches[-1]["masked_lm_weights"].any(1).tolist() == [True, True, True, False]
    few = change(config, evaluation={"num_examples": 5})
    some = keys_of(opened(few, made, HeldoutBatches).batch(0))
    assert set(some) < set(rows)
    assert len(set(some)) == 4


def test_a_share_of_the_records_is_held_out(config, tmp_path):
    config = change(config, data={"heldout_files": None, "heldout_fraction": 0.3})
    prepare.prepare(config, tmp_path / "w", progress=False)
    train, heldout = (opened(config, tmp_path / "w", cls) for cls in (Batches, HeldoutBatches))
    count = heldout.num_examples
    assert train.num_rows == len(TRAIN) - count
    assert 5 < count < 30
    rows = [row for step in range(heldout.num_batches) for row in keys_of(heldout.batch(step))]
    trained = [row for step in range(8) for row in keys_of(train.batch(step))]
    rows = rows[:count]  # those after fill the last batch
    assert sorted(set(rows) | set(trained)) == sorted_keys(TRAIN)
    assert not set(rows) & set(trained)


def test_masks_are_not_drawn_again(config, made):
    batch = opened(config, made).batch(0)
    masked = as_masked({name: jnp.asarray(value) for name, value in batch.items()})
    assert masked.keys() == batch.keys()
    for name, value in batch.items():
        np.testing.assert_array_equal(masked[name], value)
    assert masked["masked_lm_weights"].dtype == jnp.float32


def test_the_store_says_what_it_holds_and_its_bytes_are_verified(config, made):
    manifest = store.read_manifest(made / "store")
    assert [f["records"] for f in manifest["records"]["train"]] == [30, 20, 23]
    for line in (
        "records     73 to train on, 11 held out",
        "form        16 tokens, 3 predictions, in 3 files (phase1)",
        "form        24 tokens, 4 predictions, in 1 file (phase2)",
        "1 file without a record",
        "1 file kept decompressed",
        "and config.evaluation.masked_lm_prob are not read",
    ):
        assert line in manifest["report"]
    copy = made / "store" / "copies" / "00000.tfrecord"
    assert copy.read_bytes() == b"".join(tfrecords.record(tfrecords.example(e)) for e in TRAIN[30:])
    store.verify(made / "store")
    copy.write_bytes(b"")
    with pytest.raises(DataError, match="bytes differ"):
        store.verify(made / "store")


def test_files_that_moved_are_found_and_others_refused(config, made, tmp_path):
    before = opened(config, made).batch(3)
    (tmp_path / "new").mkdir()
    for path in tmp_path.glob("train-*"):
        path.rename(tmp_path / "new" / path.name)
    with pytest.raises(DataError, match="train-0: gone or changed since it was indexed"):
        opened(config, made)
    moved = change(config, data={"files": f"{tmp_path}/new/train-*"})
    for name, value in opened(moved, made).batch(3).items():
        np.testing.assert_array_equal(value, before[name])
    tfrecords.write(tmp_path / "new" / "train-0", TRAIN[:29])
    with pytest.raises(DataError, match="train-0: gone or changed since it was indexed"):
        opened(moved, made)
    (tmp_path / "other").mkdir()
    tfrecords.write(tmp_path / "new" / "train-0", TRAIN[:30])
    (tmp_path / "other" / "train-0").write_bytes((tmp_path / "new" / "train-0").read_bytes())
    two = change(config, data={"files": f"{tmp_path}/new/train-*,{tmp_path}/other/train-0"})
    with pytest.raises(DataError, match=r"train-0: gone, and .*/new/train-0 and .*/other/train-0"):
        opened(two, made)
    data = b"".join(tfrecords.record(tfrecords.example(example)) for example in TRAIN[:30])
    (tmp_path / "new" / "train-0").write_bytes(data[1:] + b"!")
    with pytest.raises(DataError, match=r"train-0: no record of .* changed since it was indexed"):
        opened(moved, made).batch(0)


def refused(config, workdir, kind, said):
    with pytest.raises(kind, match=said) as caught:
        prepare.prepare(config, workdir, progress=False)
    assert "\n" not in str(caught.value)
    assert not (workdir / "store").exists()


def test_what_is_wrong_with_a_file_is_refused_with_its_place(config, tmp_path):
    path = tmp_path / "train-0"
    whole = path.read_bytes()
    middle = sum(len(tfrecords.record(tfrecords.example(e))) for e in TRAIN[:10])
    path.write_bytes(whole[: middle + 40] + b"!" + whole[middle + 41 :])
    refused(
        config, tmp_path / "w", DataError, rf"train-0: the data of the record at byte {middle:,} "
    )
    path.write_bytes(whole[:-3])
    refused(config, tmp_path / "w", DataError, "train-0: cut off: its last record, at byte ")
    tfrecords.write(path, [*TRAIN[:10], TRAIN[0] | {"input_ids": [2] + [50] * 15}])
    said = rf"train-0: the record at byte {middle:,} input_ids holds 50; expected 0 to 49 .the tokenizer"
    refused(config, tmp_path / "w", DataError, said)
    tfrecords.write(path, [{"text": [b"x"]}])
    refused(
        config, tmp_path / "w", DataError, "train-0: the record at byte 0 has no feature input_ids"
    )
    tfrecords.write(path, tfrecords.make(3, cls_id=4))
    refused(
        config, tmp_path / "w", DataError, r"begins with id 4, and .CLS. is 2 .*name the vocab.txt"
    )
    path.write_bytes(gzip.compress(whole)[:-9])
    refused(config, tmp_path / "w", DataError, "train-0: truncated or damaged gzip, in the member")


@pytest.mark.parametrize(
    ("groups", "kind", "said"),
    [
        (
            {"data": {"files": None, "heldout_files": None}},
            UsageError,
            "config.data.files is unset; config.data.source=bert_tfrecord needs it",
        ),
        ({"data": {"files": "no-?"}}, DataError, "config.data.files='no-.': no file matches"),
        (
            {"tokenizer": {"path": None}},
            UsageError,
            "config.tokenizer.path is unset: .*name the vocab.txt",
        ),
        (
            {"model": {"vocab_size": 49}},
            UsageError,
            "config.model.vocab_size=49: the tokenizer has 50 tokens",
        ),
    ],
)
def test_a_config_that_cannot_be_indexed(config, groups, kind, said, tmp_path):
    refused(change(config, **groups), tmp_path / "w", kind, said)


def test_a_file_is_read_once_whatever_it_is_called(config, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "train-0")
    files = f"{tmp_path}/train-*,{tmp_path}/link,{tmp_path}/../{tmp_path.name}/train-1"
    twice = change(config, data={"files": files})
    manifest = prepare.prepare(twice, tmp_path / "w", progress=False)
    assert manifest["text"] == prepare.prepare(config, tmp_path / "v", progress=False)["text"]
    linked = change(config, data={"heldout_files": f"{tmp_path}/link"})
    refused(linked, tmp_path / "u", UsageError, "link is one of config.data.files too")


def test_a_first_record_without_tokens_is_refused(config, tmp_path):
    empty = {name: [] for name in TRAIN[0]}
    tfrecords.write(tmp_path / "train-0", [empty])
    said = "train-0: the record at byte 0 has 0 input_ids and 0 masked_lm_positions"
    refused(config, tmp_path / "w", DataError, said)


def test_lengths_that_no_file_has(config, tmp_path):
    phase = dataclasses.replace(config.phases["phase1"], max_predictions_per_seq=4)
    wrong = dataclasses.replace(config, phases=config.phases | {"phase1": phase})
    said = (
        r"phase1.sequence_length=16 and .max_predictions_per_seq=4: the examples of "
        r"config.data.files have 16 and 3 and 24 and 4; set them so"
    )
    refused(wrong, tmp_path / "w", UsageError, said)
    both = change(config, data={"heldout_files": f"{tmp_path}/train-1"})
    refused(both, tmp_path / "w", UsageError, "train-1 is one of config.data.files too")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"data": {"source": "files", "heldout_files": "x"}}, "config.data.heldout_files='x'"),
        ({"examples": {"max_per_row": 4}}, "config.examples.max_per_row=4: an example of"),
        ({"mixture": {"a": {"data": {"source": "files"}}}}, "not read beside config.mixture .a."),
        ({"task": {"kind": "single"}}, "a fine-tuning reads config.data.source=files"),
        ({"model": {"type_vocab_size": 1}}, "config.model.type_vocab_size=1"),
    ],
)
def test_fields_that_do_not_go_together(fields, said):
    tree = {"data": {"source": "bert_tfrecord", "files": "f"}} | fields
    with pytest.raises(UsageError, match=said):
        configs.from_config_dict(tree)
    part = {"mixture": {"a": {"data": {"source": "bert_tfrecord"}}}}
    with pytest.raises(UsageError, match=r"config.mixture.a.data.source='bert_tfrecord'"):
        configs.from_config_dict(part)


def test_manifest_is_json_that_names_every_file(config, made, tmp_path):
    manifest = json.loads((made / "store" / "manifest.json").read_text())
    names = [file["path"] for file in manifest["text"]["files"]]
    assert names == [str(tmp_path / f"train-{i}") for i in range(4)]
    assert manifest["text"]["heldout_files"][0]["path"] == str(tmp_path / "eval")
