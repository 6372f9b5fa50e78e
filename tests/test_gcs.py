"""Runs on gs://: whatever works on a disk works there, against a server over loopback."""

import contextlib
import functools
import gzip
import json
import os
import subprocess
import sys
import textwrap

import corpus_files
import fake_gcs
import jax
import labeled
import numpy as np
import pyarrow
import pytest
import tfrecords
from batches import NO_NSP, STORE, make
from pyarrow import parquet
from runs import assert_same_run, cluster, losses, make_project, wait_for_step
from states import abstract, assert_same, make_state
from xla_flags import CHEAP

from bertjax import __main__ as program
from bertjax import convert, errors, plot, storage
from bertjax.checkpoints import integrity, manager
from bertjax.checkpoints.manager import Checkpoints
from bertjax.config import Config, Data, Examples, Objective, Phase, Tokenizer, stages
from bertjax.data import prepare, remote, sources, store, tokenizer
from bertjax.data.tfrecord import batches as stored
from bertjax.errors import DataError, StorageError, UsageError
from bertjax.metrics import remote_log
from bertjax.metrics import writer as metrics_writer
from bertjax.processes.compilation_cache import Programs

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed


@pytest.fixture(scope="module")
def running():
    """One server for the module: TensorStore asks once where the server is."""
    with fake_gcs.serving("bucket") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in fake_gcs.environment(server.url).items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def server(running):
    running.buckets["bucket"].clear()
    running.requests.clear()
    running.refuse = lambda *_: 0
    yield running
    running.refuse = lambda *_: 0


@pytest.fixture
def bucket(server):
    """{name: Blob} of gs://bucket."""
    return server.buckets["bucket"]


def upload(server, directory, prefix):
    for path in directory.rglob("*"):
        if path.is_file():
            name = f"{prefix}/{path.relative_to(directory).as_posix()}"
            server.put("bucket", name, path.read_bytes())


def kinds(server, kind):
    return [name for _, k, name in server.requests if k == kind]


# Paths and files


def test_a_path_joins_and_prints_alike_wherever_it_is(server):
    for text in ("gs://bucket/run", "/tmp/run", "run"):
        place = storage.path(text)
        assert str(place / "a" / "b.json") == f"{text}/a/b.json"
        assert storage.path(place) == place
    assert str(storage.absolute("gs://bucket/run")) == "gs://bucket/run"
    for text in ("s3://bucket/run", "gs://", "http://bucket/x"):
        with pytest.raises(UsageError, match="neither a local path nor gs://BUCKET"):
            storage.path(text)


def test_compiled_programs_are_kept_and_a_damaged_one_is_not_taken(server, bucket, capfd):
    directory = storage.path("gs://bucket/W/compilation_cache")
    Programs(directory).put("key", b"a program")
    (name,) = bucket
    assert Programs(directory).get("key") == b"a program"
    assert Programs(directory).get("other") is None  # in the list, so no request for each
    server.put("bucket", name, bucket[name].data[:-1])
    assert Programs(directory).get("key") is None
    assert "damaged; compiled again" in capfd.readouterr().err


def test_files_and_directories_answer_as_on_a_disk(server, tmp_path):
    contents = {"a.txt": b"1", "deep/b.txt": b"22", "deep/er/c.bin": bytes(300_000)}
    for name, data in contents.items():
        server.put("bucket", f"top/{name}", data)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    there = storage.path("gs://bucket/top")
    for ask in (storage.exists, storage.is_file, storage.is_directory):
        for name in ("a.txt", "deep", "deep/b.txt", "none", "a.tx"):
            assert ask(there / name) == ask(tmp_path / name), (ask, name)
    for name in ("", "deep", "none"):
        assert sorted(storage.folders(there / name)) == sorted(storage.folders(tmp_path / name))
    for pattern in ("*.txt", "*/*.txt", "**/*.txt", "deep/b.txt", "none*"):
        found = [p.removeprefix(str(there)) for p in storage.find(f"{there}/{pattern}")]
        assert found == [
            p.removeprefix(str(tmp_path)) for p in storage.find(f"{tmp_path}/{pattern}")
        ]
    names = list(contents)
    assert storage.sizes([there / name for name in names]) == [1, 2, 300_000]
    assert [storage.read(there / name) for name in names] == list(contents.values())
    with pytest.raises(FileNotFoundError):
        storage.read(there / "none")


def test_a_directory_moves_with_what_makes_it_whole_last_and_leaves_with_it_first(server, bucket):
    for name in ("manifest.json", "train/tokens.bin", "a.bin"):
        server.put("bucket", f"from/{name}", name.encode())
    place = storage.path("gs://bucket")
    storage.move(place / "from", place / "to", last="manifest.json")
    assert {n: blob.data for n, blob in bucket.items()} == {
        f"to/{n}": n.encode() for n in ("manifest.json", "train/tokens.bin", "a.bin")
    }
    assert kinds(server, "copy")[-1] == "from/manifest.json"
    assert kinds(server, "delete")[0] == "from/manifest.json"
    server.requests.clear()
    storage.remove(place / "to", first=("manifest.json", "none"))
    assert not bucket
    assert kinds(server, "delete")[0] == "to/manifest.json"
    storage.remove(place / "to")  # is not there


def test_a_large_file_is_written_and_read_in_parts(server, bucket):
    data = np.random.default_rng(0).bytes(40_000_001)
    with storage.open_file("gs://bucket/large", "wb") as file:
        for start in range(0, len(data), 1 << 20):
            file.write(data[start : start + (1 << 20)])
    assert bucket["large"].data == data
    with storage.open_file("gs://bucket/large") as file:
        assert file.read() == data
    ranges = [(0, 10), (39_999_990, 40_000_001), (5, 5)]
    found = storage.read_ranges(
        ["gs://bucket/large"] * len(ranges), *map(list, zip(*ranges, strict=True))
    )
    assert found == [data[a:b] for a, b in ranges]


# Corpora


def texts(data):
    return [[(r.form, r.data) for r in chunk.records] for chunk in sources.chunks(data)]


def test_a_corpus_reads_as_on_a_disk(server, tmp_path):
    documents = [f"Document {i} is here. " * (1 + i % 7) + "It ends." for i in range(3000)]
    lines = "".join(json.dumps({"text": t}) + "\n" for t in documents).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.txt").write_text("\n\n".join(documents))
    parquet.write_table(pyarrow.table({"text": documents}), tmp_path / "d.parquet")
    (tmp_path / "e.zst").write_bytes(corpus_files.zstd(lines))
    (tmp_path / "AA").mkdir()
    (tmp_path / "AA" / "wiki_00").write_text(corpus_files.article(1, "A", documents[0]))
    corpus_files.saved_dataset(tmp_path / "saved", {"text": documents})
    upload(server, tmp_path, "text")
    names = ("a.jsonl", "*.gz", "c.txt", "d.parquet", "e.zst", "AA", "saved", "*")
    for name in names:
        there, here = (Data(files=f"{root}/{name}") for root in ("gs://bucket/text", tmp_path))
        assert texts(there) == texts(here), name
        assert sources.size(there) == sources.size(here)
        sources.refuse_others(there)


def test_an_empty_object_is_left_out_as_on_a_disk(server):
    server.put("bucket", "text/a.txt", b"The clock was slow.\n")
    server.put("bucket", "text/b", b"")
    data = Data(files="gs://bucket/text/*")
    sources.refuse_others(data)
    [chunk] = sources.chunks(data)
    assert chunk.dropped == {"empty file": 1}
    assert len(chunk.records) == 1


def test_a_tokenizer_is_loaded_and_saved(server, tmp_path):
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab))
    here = tokenizer.load(tmp_path)
    upload(server, tmp_path, "tokenizer")
    there = tokenizer.load("gs://bucket/tokenizer")
    saved = there.save(storage.path("gs://bucket/saved"))
    assert tokenizer.load(saved).sha256 == there.sha256 == here.sha256
    with pytest.raises(DataError, match="no such object"):
        tokenizer.load("gs://bucket/none.json")


# The store


def write_store(directory):
    """The corpus of test_pipeline, in a store."""
    lengths = np.diff(STORE.sentences), np.diff(STORE.documents)
    with store.Writer(directory, 60_000) as writer:
        writer.append("train", STORE.tokens, *lengths)
        writer.finish(tokenizer_sha256="")


@pytest.fixture
def stores(server, tmp_path, monkeypatch):
    """The same store, mapped and remote."""
    write_store(tmp_path / "store")
    write_store("gs://bucket/store")
    monkeypatch.setattr(store, "HELD_BYTES", 0)
    return [store.open_store(place, "train") for place in (tmp_path / "store", "gs://bucket/store")]


def test_a_remote_store_is_written_as_a_local_one(server, bucket, stores, tmp_path):
    local = {p.name: p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file()}
    there = {n.rpartition("/")[2]: blob.data for n, blob in bucket.items() if "heldout" not in n}
    assert there == {name: local[name] for name in there}
    store.verify("gs://bucket/store")
    counts = store.read_unigrams(tmp_path / "store")
    np.testing.assert_array_equal(store.read_unigrams("gs://bucket/store"), counts)
    assert isinstance(stores[1].tokens, remote.Tokens)
    server.put(
        "bucket", "store/train/tokens.bin", bytes(len(bucket["store/train/tokens.bin"].data))
    )
    with pytest.raises(DataError, match=r"train/tokens.bin: bytes differ"):
        store.verify("gs://bucket/store")


@pytest.mark.parametrize("builder", ["segment_pair_nsp", "full_sentences"])
@pytest.mark.parametrize("max_per_row", [1, 6])
def test_batches_of_a_remote_store_equal_those_of_a_mapped_one(
    server, stores, builder, max_per_row
):
    examples = Examples(builder=builder, max_per_row=max_per_row)
    objective = Objective() if examples.has_next_sentence else NO_NSP
    mapped, there = (make(store=s, examples=examples, objective=objective) for s in stores)
    server.requests.clear()
    for step in (0, 1, 50):
        a, b = mapped.batch(step), there.batch(step)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert set(kinds(server, "get_object")) == {"store/train/tokens.bin"}
    # A thread that an earlier test left may still list the bucket.
    of_store = [path for _, _, path in server.requests if path.startswith("store/")]
    assert len(of_store) == len(kinds(server, "get_object"))


def test_tfrecords_in_a_bucket_give_the_batches_of_a_disk(server, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*tokenizer.WORDPIECE_SPECIALS, *"abcde"]))
    examples = tfrecords.make(30, vocab_size=10)
    for name, part in (("a", examples[:20]), ("b", examples[20:])):
        tfrecords.write(tmp_path / name, part, compress=name == "b")
    upload(server, tmp_path, "records")
    batches = []
    there, here = "gs://bucket", str(tmp_path)
    for files, root in (
        (f"{there}/records", there),
        (here, here),
        (f"{there}/records", f"{here}/x"),
    ):
        phase = Phase(steps=9, batch_size=8, sequence_length=16, max_predictions_per_seq=3)
        config = Config(
            data=Data(source="bert_tfrecord", files=f"{files}/[ab]"),
            tokenizer=Tokenizer(path=f"{tmp_path}/vocab.txt"),
            phases={"phase1": phase},
        ).with_model(vocab_size=0)
        prepare.prepare(config, storage.path(f"{root}/w"), progress=False)
        model, (stage,) = tokenizer.load(tmp_path / "vocab.txt"), stages.of(config)
        batches.append(stored.Batches(config, storage.path(f"{root}/w"), model, stage))
    for step in range(5):
        first, *others = (made.batch(step) for made in batches)
        for other in others:
            jax.tree.map(np.testing.assert_array_equal, first, other)


def test_gathered_ranges_are_those_asked_for_in_few_requests(server, monkeypatch):
    tokens = np.random.default_rng(0).integers(0, 60_000, 300_000).astype("<u2")
    server.put("bucket", "tokens.bin", tokens.tobytes())
    there = remote.Tokens("gs://bucket/tokens.bin", tokens.dtype, len(tokens))
    rng = np.random.default_rng(1)
    for count in (1, 2, 30):
        starts = rng.integers(0, len(tokens) - 4000, count)
        lengths = rng.integers(1, 600, count).astype(np.uint16)
        server.requests.clear()
        flat, new = there.gather(starts, lengths)
        for start, length, at in zip(starts, lengths, new, strict=True):
            assert (flat[at : at + length] == tokens[start : start + length]).all()
        # Independently: paint every token that is asked for, close the gaps, count what is left.
        painted = np.zeros(len(tokens) + 1, bool)
        for start, length in zip(starts, lengths, strict=True):
            painted[start : start + length + remote._GAP // 2 + 1] = True
        assert len(server.requests) == (np.diff(painted.astype(int)) == -1).sum()


def test_an_object_that_became_shorter_is_named(server):
    tokens = np.arange(50_000, dtype="<u2")
    there = remote.Tokens("gs://bucket/tokens.bin", tokens.dtype, len(tokens))
    server.put("bucket", "tokens.bin", tokens[:49_993].tobytes())  # ends within the last range
    with pytest.raises(DataError, match=r"tokens\.bin: 28 of 38 bytes"):
        there.gather(np.array([10, 20_000, 49_990]), np.array([5, 6, 8]))


def test_a_batch_takes_at_most_a_request_for_each_part(server, stores, monkeypatch):
    monkeypatch.setattr(remote, "_GAP", 0)
    batches = make(store=stores[1])
    server.requests.clear()
    batch = batches.batch(0)
    parts = 2 * len(batch["example_ids"])
    assert parts / 4 < len(server.requests) <= parts


def test_prepare_replaces_a_store_whole_or_leaves_none(server, bucket, tmp_path):
    texts = [f"The clock number {i} was slow.\nNobody wound it." for i in range(50)]
    server.put("bucket", "text.txt", "\n\n".join(texts).encode())
    data = Data(files="gs://bucket/text.txt", num_workers=1)
    config = Config(data=data, tokenizer=Tokenizer(vocab_size=120))

    def names():
        return {name for name in bucket if name.startswith("run/")}

    local, there = (
        prepare.prepare(config, place, progress=False) for place in (tmp_path, "gs://bucket/run")
    )
    assert there == local
    whole = {n: blob.data for n, blob in bucket.items() if n != "text.txt"}
    assert whole == {
        f"run/{p.relative_to(tmp_path).as_posix()}": p.read_bytes()
        for p in tmp_path.rglob("*")
        if p.is_file()
    }
    prepare.prepare(config, "gs://bucket/run", progress=False)
    assert names() == whole.keys()
    server.refuse = lambda method, kind, name: 403 * (kind == "copy" and "manifest" in name)
    with pytest.raises(StorageError, match="as the test asked"):
        prepare.prepare(config, "gs://bucket/run", progress=False)
    with pytest.raises(DataError, match="no token store here"):
        store.open_store("gs://bucket/run/store", "train")
    server.refuse = lambda *_: 0
    prepare.prepare(config, "gs://bucket/run", progress=False)
    assert names() == whole.keys()


# Checkpoints

STEPS = "gs://bucket/run/checkpoints"


def save(*steps, keep=10):
    checkpoints = Checkpoints(STEPS, keep)
    for step in steps:
        checkpoints.save(step, make_state(step))
    checkpoints.close()


def restore():
    checkpoints = Checkpoints(STEPS, 10)
    try:
        return checkpoints.restore(abstract(make_state(0)))
    finally:
        checkpoints.close()


def of_step(bucket, step):
    return sorted(name for name in bucket if name.startswith(f"run/checkpoints/{step}/"))


def test_what_was_saved_is_restored_and_only_the_newest_stay(server, bucket):
    assert restore() is None
    save(0, 3, 7, keep=2)
    assert {name.split("/")[2] for name in bucket} == {"3", "7"}
    step, state = restore()
    assert step == 7
    assert_same(state, make_state(7))
    assert [r.step for r in manager.verify(STEPS) if not r.problems] == [3, 7]
    save(7)  # is there already
    assert not [blob for name, blob in bucket.items() if name.endswith(".tmp")]


def test_damages_are_found_and_set_aside_and_two_stay(server, bucket, capsys):
    save(1, 2)
    pristine = dict(bucket)
    damages = {
        "flip": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        "truncate": lambda data: data[: len(data) // 2],
        "delete": lambda data: None,
    }
    checkpoints = Checkpoints(STEPS, 10)
    for number, name in enumerate(of_step(bucket, 2)):
        kind, change = list(damages.items())[number % 3]
        for kept in of_step(pristine, 2):
            bucket[kept] = pristine[kept]
        data = change(bucket.pop(name).data)
        if data is not None:
            server.put("bucket", name, data)
        inside = name.removeprefix("run/checkpoints/2/")
        (broken,) = (r for r in manager.verify(STEPS) if r.problems)
        assert broken.problems[0].split(":")[0].split()[0] == inside, kind
        step, _ = checkpoints.restore(abstract(make_state(0)))
        assert step == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        if (inside, kind) == ("integrity.json", "delete"):  # a step that was never sealed
            assert said == f"checkpoint unfinished, removed: {STEPS}/2: its save was cut off\n"
            assert not of_step(bucket, 2)
            continue
        assert f"moved to {STEPS}/damaged-2-{number}: step 2: {inside}" in said
        newest = {f"damaged-2-{n}" for n in (number - 1, number) if n >= 0}
        assert {key.split("/")[2] for key in bucket} == {"1", *newest}
    checkpoints.close()


def test_an_unfinished_step_is_removed_and_said(server, bucket, capsys):
    save(1, 2)
    del bucket[f"run/checkpoints/2/{integrity.MANIFEST}"]  # Orbax's own mark stays
    assert restore()[0] == 1
    said = capsys.readouterr().err
    assert said == f"checkpoint unfinished, removed: {STEPS}/2: its save was cut off\n"
    assert {name.split("/")[2] for name in bucket} == {"1"}
    del bucket[f"run/checkpoints/1/{integrity.MANIFEST}"]
    with pytest.raises(DataError, match=r"no checkpoint is whole \(step 1: unfinished"):
        restore()
    assert of_step(bucket, 1)


def test_a_restore_reads_no_byte_to_check_them_and_verify_reads_all(server, bucket):
    save(1)
    server.requests.clear()
    place = storage.path(STEPS) / "1"
    assert not integrity.inspect(place, reread=False).problems
    assert kinds(server, "get_object") == [f"run/checkpoints/1/{integrity.MANIFEST}"]
    name = of_step(bucket, 1)[3]
    rotten = bucket[name]._replace(data=bucket[name].data[::-1])
    bucket[name] = rotten  # below the store, which still has the old checksum
    assert not integrity.inspect(place, reread=False).problems
    (report,) = manager.verify(STEPS)
    assert [problem.split(":")[0] for problem in report.problems] == [
        name.removeprefix("run/checkpoints/1/")
    ]


@pytest.mark.parametrize("direction", ["from", "to"])
def test_a_copied_checkpoint_keeps_its_hashes(server, bucket, tmp_path, direction):
    if direction == "from":
        save(5)
        for name in of_step(bucket, 5):
            path = tmp_path / name.removeprefix("run/checkpoints/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bucket[name].data)
        place = tmp_path
    else:
        checkpoints = Checkpoints(tmp_path, 2)
        checkpoints.save(5, make_state(5))
        checkpoints.close()
        upload(server, tmp_path, "run/checkpoints")
        place = STEPS
    step, state = manager.read_newest(place, abstract(make_state(0)))
    assert step == 5
    assert_same(state, make_state(5))
    assert not manager.verify(place)[0].problems


def test_what_a_kill_left_is_removed_and_never_a_whole_step(server, bucket):
    save(1, 2, 3)
    whole = dict(bucket)
    for marks in (["commit_success.txt", integrity.MANIFEST], ["commit_success.txt"]):
        bucket.clear()
        bucket.update(whole)
        for mark in marks:  # a pruning of step 1 was killed here
            del bucket[f"run/checkpoints/1/{mark}"]
        assert restore()[0] == 3
        assert bool(of_step(bucket, 1)) == (len(marks) == 1)
        save(4, keep=2)
        assert {name.split("/")[2] for name in bucket} == {"3", "4"}


def test_a_refused_save_is_one_line_and_loses_nothing(server):
    save(1)
    server.refuse = lambda method, kind, name: 403 if kind.startswith("upload") else 0
    checkpoints = Checkpoints(STEPS, 2)
    with pytest.raises(  # noqa: PT012 (the save may fail at once or in the background)
        StorageError, match=r"not written.*earlier checkpoints are intact"
    ) as error:
        checkpoints.save(2, make_state(2))
        checkpoints.wait()
    assert "\n" not in str(error.value)
    with contextlib.suppress(StorageError):  # Orbax tells it again
        checkpoints.close()
    server.refuse = lambda *_: 0
    assert restore()[0] == 1


AGREE = """
    import os, sys
    import jax
    address, count, index = sys.argv[2:]
    jax.distributed.initialize(address, int(count), int(index))
    from bertjax.checkpoints import integrity, manager
    from bertjax.errors import DataError
    from states import abstract, assert_same, make_state
    everywhere = jax.sharding.NamedSharding(jax.make_mesh((jax.device_count(),), ("data",)),
                                            jax.sharding.PartitionSpec())
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        abstract(make_state(0)),
    )
    if jax.process_index():
        def refuse(*_, **__): raise AssertionError("only process 0 reads hashes")
        integrity.inspect = refuse
    checkpoints = manager.Checkpoints(sys.argv[1], 5)
    try:
        step, state = checkpoints.restore(wanted)
        assert_same(jax.tree.map(lambda x: x.addressable_data(0), state), make_state(step))
        print(step, flush=True)
    except DataError as error:
        print(error, flush=True)
    os._exit(0)
"""


@pytest.mark.slow
def test_process_0_decides_for_all(server, tmp_path):
    save(1, 2)
    bucket = server.buckets["bucket"]
    del bucket[of_step(bucket, 2)[0]]

    def agree():
        command = [sys.executable, "-c", textwrap.dedent(AGREE), STEPS]
        path = os.pathsep.join([os.path.dirname(fake_gcs.__file__), os.environ["PYTHONPATH"]])
        children = [
            subprocess.Popen(
                [*command, *variables.values()],
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": path},
            )
            for variables in cluster(2)
        ]
        try:
            return [child.communicate(timeout=60) for child in children]
        finally:
            for child in children:
                child.kill()

    first, second = agree()
    assert [out.splitlines()[-1] for out, _ in (first, second)] == ["1", "1"], (first, second)
    assert first[1].count("damaged-2-0") == 1
    assert "damaged" not in second[1]
    del bucket[of_step(bucket, 1)[0]]
    first, second = agree()
    assert "no checkpoint is whole (step 1:" in first[0]
    assert "process 0 found no checkpoint to restore" in second[0]


# Metrics


def test_metrics_go_on_after_a_kill(server, bucket):
    for last in (3, 6):
        writer = metrics_writer.MetricsWriter("gs://bucket/run", last - 3, tensorboard=last == 3)
        for step in range(last - 2, last + 3):
            writer.write(step, {"loss": 1 / step})
            if step == last:
                writer.save()  # and then killed, but for TensorBoard's threads
        assert metrics_writer.read("gs://bucket/run/metrics.jsonl")[-1]["step"] == last
        if writer._tensorboard:
            writer._tensorboard.close()
    assert [line["step"] for line in metrics_writer.read("gs://bucket/run/metrics.jsonl")] == [
        *range(1, 7)
    ]
    (events,) = (blob for name, blob in bucket.items() if "tensorboard" in name)
    assert events.data.count(b"train/loss") == 5
    place = plot.plot("gs://bucket/run")
    assert bucket["run/plot.png"].data.startswith(b"\x89PNG")
    assert str(place) == "gs://bucket/run/plot.png"


def test_a_growing_object_is_written_once_a_minute(server, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(remote_log.time, "monotonic", lambda: now[0])
    grown = remote_log.RemoteLog("gs://bucket/grown", b"0")
    for second in range(1, 181):
        now[0] += 1
        grown.write(b"%d" % (second % 10))
        grown.flush()
    assert len(kinds(server, "upload")) == 3
    grown.close()
    grown.close()
    assert len(kinds(server, "upload")) == 3
    assert storage.read("gs://bucket/grown") == b"0123456789" * 18 + b"0"


# Failures


async def at_once(_):
    pass


@pytest.mark.parametrize(
    ("status", "overrides", "code", "parts"),
    [
        (0, ["--workdir=gs://none/run"], errors.IO, ["there is no bucket gs://none"]),
        (
            403,
            ["--workdir=gs://bucket/run"],
            errors.IO,
            ["as the test asked", "storage.buckets.get"],
        ),
        (401, ["--workdir=gs://bucket/run"], errors.IO, ["as the test asked", "gcloud auth"]),
        (503, ["--workdir=gs://bucket/run"], errors.RESTART, ["as the test asked"]),
        (0, ["--workdir=s3://bucket/run"], errors.USAGE, ["s3://bucket/run: neither a local path"]),
        (
            0,
            ["--workdir=gs://bucket/run", "--config.data.files=gs://bucket/no*.txt"],
            errors.DATA,
            ["gs://bucket/no*.txt", "no file matches"],
        ),
    ],
)
@pytest.mark.parametrize("command", ["prepare", "evaluate"])
def test_failures_are_one_line_with_their_code(
    server, capsys, monkeypatch, tmp_path, command, status, overrides, code, parts
):
    monkeypatch.setattr("gcsfs.retry.asyncio.sleep", at_once)  # between its six tries
    server.refuse = lambda *_: status
    config = make_project(tmp_path) / "config.py"
    found = program.run(["bertjax", command, f"--config={config}", *overrides])
    if command == "evaluate" and code == errors.DATA:
        parts = ["gs://bucket/run/store: no token store here"]
    said = capsys.readouterr().err.strip().splitlines()
    assert found == code, said
    assert len(said) == 1, said
    for part in parts:
        assert part in said[0]


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setattr(storage, "_objects", functools.cache(storage._objects.__wrapped__))
    with pytest.raises(UsageError, match=r"pip install 'bertjax\[gcs\]'"):
        storage.path("gs://bucket/run")


# Whole runs

# As `python -m bertjax`, with every token read by ranges.
RUN = "from bertjax.data import store; store.HELD_BYTES = 0; from bertjax.__main__ import main; main()"


def start(root, command, workdir, *overrides):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(root / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": CHEAP,
    }
    arguments = [command, f"--config={root}/config.py", f"--workdir={workdir}", *overrides]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(*arguments):
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == errors.DONE, err
    return out


def test_labeled_files_on_gs_are_read_as_local_ones(server, tmp_path):
    tsv = "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tentailment\n1\tC\tD\tnot_entailment\n"
    labeled.write(tmp_path / "RTE", train_tsv=tsv, dev_tsv=tsv)
    rows = {"sentence1": ["A", "C"], "sentence2": ["B", "D"], "label": [0, 1]}
    labeled.write_parquet(tmp_path / "hf/rte/train.parquet", rows)
    labeled.write(tmp_path / "aclImdb/train/pos", **{"0_9_txt": "Good."})
    labeled.write(tmp_path / "aclImdb/train/neg", **{"0_3_txt": "Bad."})
    labeled.write(tmp_path / "aclImdb/test/pos", **{"0_8_txt": "Good."})
    labeled.write(tmp_path / "aclImdb/test/neg", **{"0_1_txt": "Bad."})
    upload(server, tmp_path, "labeled")
    for name, place in (("rte", ""), ("rte", "/RTE"), ("rte", "/hf"), ("imdb", "/aclImdb")):
        there = labeled.read(f"gs://bucket/labeled{place}", name)
        assert there == labeled.read(f"{tmp_path}{place}", name)
    there = labeled.read("gs://bucket/labeled/*/dev.tsv", "rte")
    assert there.splits == labeled.read(tmp_path / "RTE/dev.tsv", "rte").splits
    with pytest.raises(DataError, match=r"gs://bucket/none.tsv'?: no file or folder matches"):
        labeled.read("gs://bucket/none.tsv", "rte")


@pytest.mark.slow
def test_a_killed_run_on_gs_equals_a_whole_local_one(server, bucket, tmp_path, capsys):
    root = make_project(tmp_path)
    files = "--config.data.files=gs://bucket/text/*.jsonl"
    server.put("bucket", "text/a.jsonl", (root / "text.jsonl").read_bytes())
    run(root, "pretrain", root / "local")
    there = storage.path("gs://bucket/run")
    run(root, "prepare", there, files)
    local = {p.name: p.read_bytes() for p in (root / "local/store/train").iterdir()}
    assert {n: bucket[f"run/store/train/{n}"].data for n in local} == local
    for step in (20, 100, 130):
        process = start(root, "pretrain", there, files)
        wait_for_step(process, there, step)
        process.kill()
        process.communicate()
    run(root, "pretrain", there, files)
    assert_same_run(there, root / "local")
    assert "run/store/train/tokens.bin" in kinds(server, "get_object")

    ours, theirs = (json.loads(run(root, "evaluate", place)) for place in (there, root / "local"))
    assert ours == theirs
    assert program.run(["bertjax", "verify", f"{there}/checkpoints"]) == errors.DONE
    assert capsys.readouterr().out.count("whole") == 3
    convert.convert(str(there), f"hf:{tmp_path}/hf")
    pair = [convert.read(uri).params for uri in (f"hf:{tmp_path}/hf", str(root / "local"))]
    jax.tree.map(np.testing.assert_array_equal, *pair)
    assert losses(there)
