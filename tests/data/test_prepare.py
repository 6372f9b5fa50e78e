"""Text in, store out: complete, the same for any number of workers, and never half written."""

# ruff: noqa: F811 (a fixture of another module)

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from corpora import VOCAB, WORDS, change, config, corpus, write_jsonl  # noqa: F401 (a fixture)

from bertjax import config as configs
from bertjax.data import identity, store, tokenizer
from bertjax.data.prepare import prepare
from bertjax.data.tokenize import share
from bertjax.errors import DataError, StorageError, UsageError
from bertjax.processes.lock import Lock

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed

ROOT = Path(__file__).parents[2]


def run(config, workdir):
    return prepare(config, workdir, progress=False)


def texts_of(workdir, split):
    opened = store.open_store(workdir / "store", split)
    model = tokenizer.load(workdir / "tokenizer")
    for first, last in zip(opened.documents[:-1], opened.documents[1:], strict=True):
        yield [
            model.decode(opened.tokens[opened.sentences[s] : opened.sentences[s + 1]])
            for s in range(first, last)
        ]


def test_every_document_is_stored_once_in_order(config, tmp_path):
    manifest = run(config, tmp_path / "w")
    expected = [[s + "." for s in t.lower().rstrip(".").split(". ")] for t in corpus(400)]
    split = {s: list(texts_of(tmp_path / "w", s)) for s in store.SPLITS}
    assert [d for d in expected if d in split["train"]] == split["train"]
    assert [d for d in expected if d in split["heldout"]] == split["heldout"]
    assert sum(map(len, split.values())) == 400
    counts = manifest["splits"]
    assert counts["train"]["documents"] == len(split["train"])
    assert sum(c["sentences"] for c in counts.values()) == sum(map(len, expected))
    store.verify(tmp_path / "w" / "store")


def test_manifest_names_the_tokenizer_and_the_config(config, tmp_path):
    manifest = run(config, tmp_path / "w")
    saved = (tmp_path / "w" / "tokenizer" / "tokenizer.json").read_bytes()
    assert manifest["tokenizer_sha256"] == hashlib.sha256(saved).hexdigest()
    assert manifest["vocab_size"] == len(VOCAB)
    assert manifest["data"]["heldout_fraction"] == 0.1
    documents = manifest["splits"]["train"]["documents"]
    assert f"train{documents:>21}" in manifest["report"]
    assert "left out    nothing" in manifest["report"]


def test_bytes_do_not_depend_on_the_number_of_workers(config, tmp_path, monkeypatch):
    monkeypatch.setattr("bertjax.data.sources.CHUNK_BYTES", 1000)
    files = []
    for workers in (1, 2, 3):
        workdir = tmp_path / str(workers)
        run(change(config, data={"num_workers": workers}), workdir)
        found = sorted(path for path in workdir.rglob("*") if path.is_file())
        files.append({str(p.relative_to(workdir)): p.read_bytes() for p in found})
    assert len(files[0]) == 9  # six arrays, the counts, the manifest, the tokenizer
    assert files[0] == files[1] == files[2]


def test_heldout_share_and_stability(config, tmp_path):
    run(config, tmp_path / "all")
    heldout = list(texts_of(tmp_path / "all", "heldout"))
    assert 20 < len(heldout) < 60  # 400 documents at .1: 40 +- 3.3 deviations
    write_jsonl(tmp_path / "corpus.jsonl", corpus(400)[200:])
    run(config, tmp_path / "half")
    again = list(texts_of(tmp_path / "half", "heldout"))
    assert again
    assert all(document in heldout for document in again)


def test_one_document_trains(config, tmp_path):
    write_jsonl(tmp_path / "corpus.jsonl", corpus(1))
    config = change(config, data={"heldout_fraction": 0.999}, objective={"nsp": 0.0})
    manifest = run(config, tmp_path / "w")
    assert manifest["splits"]["train"]["documents"] == 1
    assert manifest["splits"]["heldout"]["documents"] == 0
    assert "no document is held out" in manifest["report"]


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_tokenizer_is_trained_on_train_documents_only(config, tmp_path, kind):
    texts = corpus(300)
    run(config, tmp_path / "w")
    texts += [f"{'zq' * (i % 5 + 1)} " * 50 + str(i) + "." for i in range(40)]
    held = [t for t in texts if share(t) < 0.1]
    texts = [t for t in texts if "zq" not in t or t in held]  # z and q are only in held-out texts
    assert "zq" in "".join(texts)
    write_jsonl(tmp_path / "corpus.jsonl", texts)
    settings = {"path": None, "kind": kind, "vocab_size": 100}
    manifest = run(change(config, tokenizer=settings, model={"vocab_size": 0}), tmp_path / "w")
    model = tokenizer.load(tmp_path / "w" / "tokenizer")
    assert manifest["vocab_size"] == model.vocab_size <= 100
    assert manifest["tokenizer_sha256"] == model.sha256
    pieces = "".join(model.tokens(range(model.vocab_size)))
    assert "w" in pieces
    assert "z" not in pieces
    assert model.unk_id in store.open_store(tmp_path / "w" / "store", "heldout").tokens


def test_sample_prepares_without_any_file(tmp_path, monkeypatch):
    monkeypatch.setattr("bertjax.data.sample.documents", lambda: corpus(50))
    tree = {"data": {"source": "sample", "num_workers": 1}, "tokenizer": {"vocab_size": 100}}
    manifest = run(configs.from_config_dict(tree), tmp_path / "w")
    assert manifest["splits"]["train"]["documents"] >= 40


def test_what_is_left_out_is_counted(config, tmp_path):
    texts = ["It was slow.", "", "   \n ", "\u200b", "It was up.\n\u200b"]
    write_jsonl(tmp_path / "corpus.jsonl", texts)
    manifest = run(change(config, data={"heldout_fraction": 0.0}), tmp_path / "w")
    assert manifest["dropped"] == {"empty document": 3, "sentence without tokens": 1}
    assert "left out    3 x empty document; 1 x sentence without tokens" in manifest["report"]
    assert list(texts_of(tmp_path / "w", "train")) == [["it was slow."], ["it was up."]]


@pytest.mark.parametrize(
    ("contents", "why"),
    [
        (b"", "1 x empty file"),
        (b"\n\n", "no text"),
        (b'{"text": ""}\n', "1 x empty document"),
        (b'{"text": "' + b"x" * 100_000_000, "1 x line over 16 MiB"),
    ],
    ids=["empty file", "blank lines", "empty document", "100 MB line"],
)
def test_a_corpus_of_nothing(config, tmp_path, contents, why):
    (tmp_path / "corpus.jsonl").write_bytes(contents)
    message = rf"corpus.jsonl': no document is left \({why}\)"
    with pytest.raises(DataError, match=message):
        run(config, tmp_path / "w")
    assert list((tmp_path / "w").iterdir()) == []
    untrained = change(config, tokenizer={"path": None})
    with pytest.raises(DataError, match="no words to train a tokenizer on"):
        run(untrained, tmp_path / "w")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("path", "kind"), [("vocab.txt", "wordpiece"), (None, "wordpiece"), (None, "sentencepiece")]
)
def test_bad_record_in_any_process_is_one_clear_line(config, tmp_path, workers, path, kind):
    with (tmp_path / "corpus.jsonl").open("a") as file:
        file.write('{"text": "It was\n')
    tokenizer_fields = {"path": path and str(tmp_path / path), "kind": kind, "vocab_size": 90}
    config = change(config, data={"num_workers": workers}, tokenizer=tokenizer_fields)
    with pytest.raises(DataError, match=r"corpus.jsonl:401: not JSON") as caught:
        run(config, tmp_path / "w")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "w").iterdir()) == []


def test_a_vocabulary_larger_than_the_model(config, tmp_path):
    size = len(VOCAB)
    with pytest.raises(UsageError, match=f"vocab_size={size - 1}: the tokenizer has {size} tokens"):
        run(change(config, model={"vocab_size": size - 1}), tmp_path / "w")
    for fits in (size, size + 1, 0):
        assert run(change(config, model={"vocab_size": fits}), tmp_path / "w")["vocab_size"] == size


def test_a_failure_leaves_the_former_store_alone(config, tmp_path):
    before = run(config, tmp_path / "w")
    (tmp_path / "corpus.jsonl").write_text("{")
    with pytest.raises(DataError):
        run(config, tmp_path / "w")
    assert store.read_manifest(tmp_path / "w" / "store") == before
    store.verify(tmp_path / "w" / "store")
    assert {p.name for p in (tmp_path / "w").iterdir()} == {"store", "tokenizer"}


def test_a_new_store_replaces_the_former_one_and_leftovers(config, tmp_path):
    first = run(config, tmp_path / "w")
    leftover = tmp_path / "w" / "store.tmp-1" / "store"
    leftover.mkdir(parents=True)
    write_jsonl(tmp_path / "corpus.jsonl", corpus(10))
    second = run(config, tmp_path / "w")
    assert first["splits"] != second["splits"]
    assert store.read_manifest(tmp_path / "w" / "store") == second
    assert {p.name for p in (tmp_path / "w").iterdir()} == {"store", "tokenizer"}


def test_one_at_a_time_in_a_workdir(config, tmp_path):
    before = run(config, tmp_path / "w")
    with Lock(tmp_path / "w", "pretrain"), pytest.raises(UsageError, match="in use by pretrain on"):
        run(config, tmp_path / "w")
    assert run(config, tmp_path / "w") == before


def test_a_disk_that_refuses(config, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(StorageError, match=r"file.*: Not a directory"):
        run(config, tmp_path / "file" / "w")


PROGRAM = """
import json, resource, sys
from pathlib import Path
from bertjax import config
from bertjax.data.prepare import prepare
if __name__ == "__main__":
    tree, workdir, most = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        prepare(config.from_config_dict(tree), workdir, progress=False)
    except Exception as error:
        print(type(error).__name__, error)
"""


def start(config, tmp_path, most=0):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [
        sys.executable,
        program,
        json.dumps(configs.to_dict(config)),
        tmp_path / "w",
        str(most),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_full_disk_leaves_nothing_half_written(config, tmp_path):
    """A limit on file sizes makes the write fail in the middle, as on a full disk."""
    output, _ = start(config, tmp_path, most=4096).communicate(timeout=60)
    assert output.startswith("StorageError ")
    assert output.strip().endswith("File too large")
    assert output.count("\n") == 1
    assert list((tmp_path / "w").iterdir()) == []


def test_kill_leaves_no_store_and_no_process(config, tmp_path):
    write_jsonl(tmp_path / "corpus.jsonl", [t * 500 for t in corpus(2000)])
    process = start(change(config, data={"num_workers": 2}), tmp_path)
    while not list((tmp_path / "w").glob("store.tmp-*/store/train/tokens.bin")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    with pytest.raises(DataError, match="no token store here"):
        store.open_store(tmp_path / "w" / "store", "train")
    write_jsonl(tmp_path / "corpus.jsonl", corpus(10))
    run(config, tmp_path / "w")
    assert {p.name for p in (tmp_path / "w").iterdir()} == {"store", "tokenizer"}


def test_workers_do_not_load_jax():
    program = "import sys, bertjax.data.tokenize; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


# Into a W that holds weights


@pytest.fixture
def trained(config, tmp_path):
    """A W with a tokenizer trained on its corpus, and a step of weights."""
    config = change(config, tokenizer={"path": None, "vocab_size": 100}, model={"vocab_size": 0})
    run(config, tmp_path / "w")
    (tmp_path / "w" / "checkpoints" / "3").mkdir(parents=True)
    return config


def files_of(directory):
    found = (path for path in directory.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in found}


def test_weights_keep_their_tokenizer(trained, tmp_path):
    before = files_of(tmp_path / "w")
    (tmp_path / "corpus.jsonl").write_text("not read: this is refused before anything is built")
    for fields, said in (
        ({"path": str(tmp_path / "vocab.txt")}, r"vocab.txt', made with None \(another tokenizer"),
        ({"vocab_size": 90}, "config.tokenizer.vocab_size=90, made with 100"),
        ({"lowercase": False}, "config.tokenizer.lowercase=False, made with True"),
    ):
        with pytest.raises(UsageError, match=f"{said}.*: the weights in .*w/checkpoints need"):
            run(change(trained, tokenizer=fields), tmp_path / "w")
    assert files_of(tmp_path / "w") == before


def test_weights_go_on_with_other_text_and_that_is_said(trained, tmp_path, capsys):
    before = (tmp_path / "w" / "tokenizer" / "tokenizer.json").read_bytes()
    first = store.read_manifest(tmp_path / "w" / "store")
    write_jsonl(tmp_path / "more.jsonl", [f"The zebra was {i}." for i in range(50)])
    other = change(trained, data={"files": str(tmp_path / "more.jsonl")})
    second = prepare(other, tmp_path / "w")
    said = " ".join(capsys.readouterr().err.split())
    assert "the weights in W continue on other text: config.data.files=" in said
    assert "/w/tokenizer, the tokenizer of the weights in W" in said
    assert (tmp_path / "w" / "tokenizer" / "tokenizer.json").read_bytes() == before
    assert second["tokenizer"] == first["tokenizer"]
    assert second["tokenizer_sha256"] == first["tokenizer_sha256"]
    named = change(other, tokenizer={"path": str(tmp_path / "w/tokenizer")})
    assert run(named, tmp_path / "w")["tokenizer_sha256"] == first["tokenizer_sha256"]


def test_what_a_refused_run_left_is_no_weights(trained, tmp_path):
    (tmp_path / "w" / "checkpoints" / "3").rmdir()
    assert run(change(trained, tokenizer={"lowercase": False}), tmp_path / "w")


def test_weights_whose_tokenizer_is_lost_get_no_new_one(trained, tmp_path):
    saved = tmp_path / "w" / "tokenizer"
    saved.rename(tmp_path / "aside")
    with pytest.raises(UsageError, match=r"tokenizer\.path is unset, and .* is missing; set the"):
        run(trained, tmp_path / "w")
    with pytest.raises(UsageError, match="another tokenizer"):  # the store holds its hash
        run(change(trained, tokenizer={"path": str(tmp_path / "vocab.txt")}), tmp_path / "w")
    run(change(trained, tokenizer={"path": str(tmp_path / "aside")}), tmp_path / "w")
    assert saved.is_dir()


def test_weights_that_were_converted_bring_their_tokenizer(config, tmp_path):
    place = tmp_path / "w"
    (place / "checkpoints" / "0").mkdir(parents=True)
    theirs = tokenizer.load(tmp_path / "vocab.txt", lowercase=False)
    theirs.save(place / "tokenizer")
    with pytest.raises(UsageError, match="another tokenizer"):  # this one lower-cases
        run(config, place)
    manifest = run(change(config, tokenizer={"path": None}), place)
    assert manifest["tokenizer_sha256"] == theirs.sha256
    assert manifest["tokenizer_from"] == "weights"
    found = identity.Findings()
    identity.compare_tokenizer(configs.Tokenizer(vocab_size=7), manifest, found)
    assert found == identity.Findings()
