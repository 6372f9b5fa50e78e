"""Beam's workers make the same store as the processes of this machine."""

import dataclasses
import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_gcs
import psutil
import pyarrow
import pytest
from pyarrow import parquet

from bertjax import __main__, config
from bertjax.data import sources
from bertjax.data.prepare import prepare
from bertjax.errors import BertjaxError, DataError, StorageError, UsageError

beam = pytest.importorskip("bertjax.data.beam", reason="apache-beam is not installed")

ROOT = Path(__file__).parents[2]
DATA = os.environ.get("BERTJAX_TEST_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="BERTJAX_TEST_DATA is unset: no real text here")
IN_MEMORY = ["--runner=FnApiRunner"]
TWO_PROCESSES = [*IN_MEMORY, "--direct_num_workers=2", "--direct_running_mode=multi_processing"]


def texts(count, longest):
    """The beginnings of real documents."""
    with gzip.open(f"{DATA}/pretrain/small.jsonl.gz") as file:
        return [json.loads(line)["text"][:longest] for line in itertools.islice(file, count)]


def write_jsonl(path, documents):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


def write_corpus(folder, documents):
    """Writes a quarter of the documents to each kind of file."""
    quarter = len(documents) // 4
    write_jsonl(folder / "a.jsonl", documents[:quarter])
    write_jsonl(folder / "b.jsonl.gz", documents[quarter : 2 * quarter])
    (folder / "c.txt").write_text("\n\n".join(documents[2 * quarter : 3 * quarter]))
    table = pyarrow.table({"text": documents[3 * quarter :]})
    parquet.write_table(table, folder / "d.parquet", row_group_size=20)


def configured(files, **groups):
    data = {"files": str(files), "num_workers": 1, "heldout_fraction": 0.1}
    trained = {"kind": "wordpiece", "vocab_size": 500}
    return config.from_config_dict({"data": data, "tokenizer": trained} | groups)


def contents(workdir):
    paths = [path for path in workdir.rglob("*") if path.is_file()]
    return {str(path.relative_to(workdir)): path.read_bytes() for path in paths}


def assert_same(settings, tmp_path, options=IN_MEMORY):
    """Prepares here and on Beam, asserts that the stores are equal, and returns the manifest."""
    here = prepare(settings, tmp_path / "here", progress=False)
    there = prepare(settings, tmp_path / "there", beam_options=options, progress=False)
    assert there == here
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"store", "tokenizer"}
    return here


@needs_data
def test_same_bytes_from_every_kind_of_file(tmp_path, monkeypatch):
    monkeypatch.setattr("bertjax.data.sources.CHUNK_BYTES", 20_000)
    write_corpus(tmp_path, texts(200, 2000))
    manifest = assert_same(configured(f"{tmp_path}/[a-d].*"), tmp_path)
    assert manifest["text_bytes"] > 300_000
    assert all(manifest["splits"][split]["documents"] > 10 for split in ("train", "heldout"))


@needs_data
def test_same_bytes_of_a_mixture(tmp_path, monkeypatch):
    monkeypatch.setattr("bertjax.data.sources.CHUNK_BYTES", 20_000)
    write_corpus(tmp_path, texts(100, 2000))
    (tmp_path / "empty.jsonl").write_text("")
    data = {"heldout_fraction": 0.1, "num_workers": 1}
    mixture = {
        "wiki": {"weight": 3.0, "data": data | {"files": f"{tmp_path}/empty.jsonl,{tmp_path}/a.*"}},
        "books": {"weight": 1.0, "data": data | {"files": f"{tmp_path}/*.txt,{tmp_path}/d.*"}},
    }
    tokenizer = {"kind": "byte_bpe", "vocab_size": 300}
    manifests = assert_same(configured("", mixture=mixture, tokenizer=tokenizer), tmp_path)
    assert set(manifests) == {"wiki", "books"}
    assert manifests["wiki"]["dropped"] == {"empty file": 1}


def test_warnings_are_the_same(tmp_path):
    """Beam has many small chunks; here the files share one chunk."""
    for i in range(4):
        documents = [f"It was zq{i * j % 7}. " * 40 for j in range(10)]
        write_jsonl(tmp_path / f"{i}.jsonl", documents)
    settings = configured(f"{tmp_path}/?.jsonl", tokenizer=tiny(tmp_path))
    report = assert_same(settings, tmp_path)["report"]
    assert "('It', 'was', '.' most often)" in report


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert-base-cased-vocab.txt", "albert_spiece.model"])
def test_same_bytes_from_two_worker_processes(tmp_path, name):
    write_corpus(tmp_path, texts(300, 50_000))
    tokenizer = {"path": f"{DATA}/vocab/{name}"}
    settings = configured(f"{tmp_path}/[a-d].*", tokenizer=tokenizer)
    manifest = assert_same(settings, tmp_path, TWO_PROCESSES)
    assert manifest["text_bytes"] > 4 * sources.CHUNK_BYTES


@pytest.mark.slow
def test_same_bytes_from_ranges_of_tfds(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    class TinyTales(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from ((i, {"text": text}) for i, text in enumerate(synthetic(300)))

    TinyTales(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    monkeypatch.setattr("bertjax.data.sources.TFDS_PIECE", 70)
    data = {"source": "tfds", "tfds_name": "tiny_tales", "tfds_data_dir": str(tmp_path)}
    manifest = assert_same(configured("", data=data | {"num_workers": 1}), tmp_path)
    assert sum(counts["documents"] for counts in manifest["splits"].values()) == 300


def synthetic(count):
    return [f"Tale {i} is short. It ends {'so ' * (i % 7)}." for i in range(count)]


def tiny(folder):
    """The config fields of a tokenizer that knows two letters."""
    path = folder / "two_letters"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nt\n##a\n")
    return {"path": str(path)}


def test_rules_that_look_across_files(tmp_path, monkeypatch):
    """The first document is in `train`, wherever it is; documents left out are counted once."""
    written = []
    write_part = beam._write_part
    monkeypatch.setattr(beam, "_write_part", lambda *a: (written.append(a[0]), write_part(*a)))
    write_jsonl(tmp_path / "a.jsonl", ["", " "])
    (tmp_path / "b.jsonl").write_text("")
    write_jsonl(tmp_path / "c.jsonl.gz", ["\u200b", *synthetic(40), "Up.\n\u200b"])
    write_jsonl(tmp_path / "d.jsonl", [*synthetic(5), ""])
    data = {"files": f"{tmp_path}/[a-d].*", "heldout_fraction": 0.999999, "num_workers": 1}
    # Every bundle of work runs twice, as after the loss of a machine.
    options = [*IN_MEMORY, "--direct_runner_bundle_repeat=1"]
    manifest = assert_same(configured("", data=data, tokenizer=tiny(tmp_path)), tmp_path, options)
    assert len(set(written)) == 2 * 4  # two parts for each of four files
    assert manifest["splits"]["train"]["documents"] == 1
    assert manifest["splits"]["heldout"]["documents"] == 45
    assert manifest["dropped"] == {
        "empty document": 4,
        "empty file": 1,
        "sentence without tokens": 1,
    }


def broken(folder, kind):
    if kind == "json":
        (folder / "z.jsonl").write_text('{"text": "It was\n')
    elif kind == "gzip":
        (folder / "z.jsonl.gz").write_bytes(gzip.compress(b'{"text": "It was."}\n' * 99)[:-20])
    elif kind == "binary":
        (folder / "z.txt").write_bytes(b"text\0")


@pytest.mark.parametrize("kind", ["json", "gzip", "binary"])
def test_a_bad_file_is_the_same_clear_line(tmp_path, capfd, kind):
    folder = tmp_path / "text"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", synthetic(50))
    broken(folder, kind)
    mixture = {"tales": {"data": {"files": f"{folder}/*", "num_workers": 1}}}
    settings = configured("", mixture=mixture, tokenizer=tiny(tmp_path))
    said = []
    for options in (None, IN_MEMORY):
        with pytest.raises(DataError, match=r"config\.mixture\.tales: .*z\.") as caught:
            prepare(settings, tmp_path / "w", beam_options=options, progress=False)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    assert "Traceback" not in capfd.readouterr().err
    assert list((tmp_path / "w").iterdir()) == []


def test_after_an_error_workers_stop(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text('{"text": "t"}\n' * 100)
    tried = []

    def tokenize(chunk, *_):
        tried.append(chunk)
        raise DataError("bad")

    monkeypatch.setattr("bertjax.data.sources.CHUNK_BYTES", 1)
    monkeypatch.setattr(beam, "tokenize", tokenize)
    settings = configured(tmp_path / "a.jsonl", tokenizer=tiny(tmp_path))
    with pytest.raises(DataError, match="bad"):
        prepare(settings, tmp_path / "w", beam_options=IN_MEMORY, progress=False)
    assert len(tried) == 1


@pytest.fixture
def tales(tmp_path):
    write_jsonl(tmp_path / "tales.jsonl", synthetic(50))
    return configured(tmp_path / "tales.jsonl", tokenizer=tiny(tmp_path))


def test_a_pipeline_that_fails_is_one_line(tales, tmp_path, monkeypatch):
    def tokenize(*_):
        raise ZeroDivisionError("no such thing")

    monkeypatch.setattr(beam, "tokenize", tokenize)
    with pytest.raises(BertjaxError, match="Beam: ZeroDivisionError: no such thing") as caught:
        prepare(tales, tmp_path / "w", beam_options=IN_MEMORY, progress=False)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "w").iterdir()) == []


def test_workers_that_do_not_share_the_workdir(tales, tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "_write_index", lambda *_: None)
    with pytest.raises(StorageError, match="Beam's workers wrote nothing here; --workdir must be"):
        prepare(tales, tmp_path / "w", beam_options=IN_MEMORY, progress=False)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--runner=NoRunner"], "Unexpected pipeline runner: NoRunner"),
        (["--runner=FnApiRunner", "--", "--direct_num_workers=x"], "invalid int value: 'x'"),
        (["--", "--direct_num_workers=2"], "'--direct_num_workers=2'; options of Beam need"),
    ],
)
def test_options_that_beam_refuses(tales, tmp_path, capsys, flags, why):
    argv = ["bertjax", "prepare", f"--config={ROOT}/configs/bert_base.py", f"--workdir={tmp_path}"]
    argv.append(f"--config.data.files={tales.data.files}")
    argv.append(f"--config.tokenizer.path={tales.tokenizer.path}")
    assert __main__.run([*argv, *flags]) == 64
    said = capsys.readouterr().err
    assert why in said.splitlines()[-1]


def test_without_beam_it_says_what_to_install(tales, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "bertjax.data.beam")
    monkeypatch.delattr("bertjax.data.beam")
    with pytest.raises(UsageError, match=r"pip install 'bertjax\[beam\]'"):
        prepare(tales, tmp_path / "w", beam_options=IN_MEMORY, progress=False)


PROGRAM = """
import json, sys
from bertjax import config
from bertjax.data.prepare import prepare
tree, workdir, options = map(json.loads, sys.argv[1:])
prepare(config.from_config_dict(tree), workdir, beam_options=options, progress=False)
"""


def program(settings, workdir, **environment):
    """Starts a process that prepares on two worker processes."""
    arguments = [config.to_dict(settings), str(workdir), TWO_PROCESSES]
    command = [sys.executable, "-c", PROGRAM, *map(json.dumps, arguments)]
    return subprocess.Popen(command, env=os.environ | environment)


@pytest.mark.slow
def test_text_and_workdir_on_gs(tmp_path):
    pytest.importorskip("gcsfs")
    files = {"a.jsonl": synthetic(300), "b.jsonl.gz": synthetic(200)}
    with fake_gcs.serving("bucket") as server:
        for name, documents in files.items():
            write_jsonl(tmp_path / name, documents)
            server.put("bucket", f"text/{name}", (tmp_path / name).read_bytes())
        settings = configured("gs://bucket/text/*", tokenizer=tiny(tmp_path))
        for _ in range(2):  # the second replaces the first
            assert (
                program(settings, "gs://bucket/w", **fake_gcs.environment(server.url)).wait() == 0
            )
        found = {name: blob.data for name, blob in server.buckets["bucket"].items()}
    here = dataclasses.replace(settings.data, files=f"{tmp_path}/*.jsonl*")
    prepare(dataclasses.replace(settings, data=here), tmp_path / "w", progress=False)
    expected = contents(tmp_path / "w")
    assert {n.removeprefix("w/") for n in found if n.startswith("w/")} == set(expected)
    for name in expected.keys() - {"store/manifest.json"}:  # the manifest holds data.files
        assert found[f"w/{name}"] == expected[name]


@pytest.mark.slow
def test_kill_leaves_no_worker_and_the_next_run_cleans_up(tales, tmp_path):
    write_jsonl(tmp_path / "tales.jsonl", [t * 300 for t in synthetic(2000)])
    workdir = tmp_path / "w"
    process = program(tales, workdir)
    while not list(workdir.glob("store.tmp-*/parts/*.npz")):
        assert process.poll() is None
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert list(workdir.glob("store.tmp-*/parts"))
    write_jsonl(tmp_path / "tales.jsonl", synthetic(20))
    prepare(tales, workdir, beam_options=IN_MEMORY, progress=False)
    assert {path.name for path in workdir.iterdir()} == {"store", "tokenizer"}
