"""What a pretraining refuses: a store that is not what its config asks for, above all."""

# ruff: noqa: F811 (a fixture of another module)

import dataclasses
import json
import os
import shutil

import fake_gcs
import jax
import pytest
from corpora import change, config, corpus, write_jsonl  # noqa: F401 (a fixture)

from bertjax import config as configs
from bertjax import convert, pretraining, processor, storage, workdir
from bertjax.config import Config
from bertjax.data import identity, prepare
from bertjax.errors import DataError, UsageError
from bertjax.processes.lock import Lock


def test_a_workdir_that_not_all_hosts_see_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    with pytest.raises(DataError, match=r"not seen by process 3.*a --workdir that all see"):
        pretraining.open(Config(), tmp_path, build=True)


@pytest.fixture
def made(config, tmp_path):
    """The config that `tmp_path/w` is prepared for."""
    prepare.prepare(config, tmp_path / "w", progress=False)
    return said(config)


def said(config):
    """With all that a vocab.txt of small letters leaves to be found out."""
    return change(config, tokenizer={"lowercase": True, "rules": "huggingface"})


def opened(config, place):
    return pretraining.open(config, place, build=False).config


def refused(config, place, *parts):
    """The one line that refuses it."""
    with pytest.raises(DataError) as caught:
        opened(config, place)
    said = str(caught.value)
    assert said.startswith(f"{place}/store: not what the config asks for: ")
    assert said.endswith("; run bertjax prepare again with this config, or take another --workdir")
    assert "\n" not in said
    for part in parts:
        assert part in said
    return said


def edit_manifest(place, **changes):
    path = place / "store" / "manifest.json"
    kept = {k: v for k, v in (json.loads(path.read_text()) | changes).items() if v is not None}
    path.write_text(json.dumps(kept))


def test_what_was_prepared_is_opened_without_a_word(made, tmp_path, caplog):
    assert opened(made, tmp_path / "w") == made
    unset = change(made, tokenizer={"lowercase": None, "rules": None})
    assert opened(unset, tmp_path / "w") == made
    runtime = change(made, data={"num_workers": 2, "prefetch_batches": 9})
    assert opened(runtime, tmp_path / "w") == runtime
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("source", "sample", "config.data.source='sample', made with 'files'"),
        ("text_field", "body", "config.data.text_field='body', made with 'text'"),
        ("language", "de", "config.data.language='de', made with 'en'"),
        ("heldout_fraction", 0.3, "config.data.heldout_fraction=0.3, made with 0.1"),
        ("files", "no.txt", "config.data.files='no.txt', made with '"),
        ("files", "no.txt", "corpus.jsonl' (no such file)"),
    ],
)
@pytest.mark.parametrize("text", [True, False], ids=["now", "a manifest of before"])
def test_another_corpus_is_refused_with_both_values(made, tmp_path, field, value, said, text):
    if not text:
        edit_manifest(tmp_path / "w", text=None)
        said = said.replace(" (no such file)", "")
    refused(change(made, data={field: value}), tmp_path / "w", said)


def test_every_field_is_named_at_once(made, tmp_path):
    other = change(
        made,
        data={"files": "no.txt", "heldout_fraction": 0.2},
        tokenizer={"path": "no-vocab.txt", "lowercase": False},
    )
    said = refused(other, tmp_path / "w")
    for name in ("data.files", "data.heldout_fraction", "tokenizer.path", "tokenizer.lowercase"):
        assert said.count(f"config.{name}=") == 1


def test_fields_that_read_nothing_here_do_not_matter(made, tmp_path):
    unread = {"txt_format": "prose", "tfds_name": "x", "tfds_split": "test"}
    opened(change(made, data=unread), tmp_path / "w")


@pytest.mark.parametrize(
    ("spelling", "setting"),
    [("corpus*.jsonl", "glob"), ("corpus.jsonl", "relative"), ("moved/*", "moved")],
)
def test_the_same_text_by_another_name_goes_on_and_is_said(
    made, tmp_path, monkeypatch, caplog, spelling, setting
):
    monkeypatch.chdir(tmp_path)
    if setting == "moved":
        (tmp_path / "moved").mkdir()
        shutil.move(tmp_path / "corpus.jsonl", tmp_path / "moved" / "other.jsonl")
    config = change(made, data={"files": spelling})
    assert opened(config, tmp_path / "w") == config
    said = caplog.text
    assert f"config.data.files='{spelling}' is the text of '{made.data.files}'" in said
    assert said.count("\n") == 1


def test_text_that_is_gone_goes_on_and_is_said(made, tmp_path, caplog):
    (tmp_path / "corpus.jsonl").unlink()
    opened(made, tmp_path / "w")
    said = caplog.text
    assert f"config.data.files='{made.data.files}': not there any more, so not compared" in said


def test_some_files_that_are_gone_go_on_and_others_are_compared(config, tmp_path, caplog):
    for name, texts in (("a", corpus(100)), ("b", corpus(400)[100:])):
        write_jsonl(tmp_path / f"part-{name}.jsonl", texts)
    config = change(config, data={"files": str(tmp_path / "part-*.jsonl")})
    prepare.prepare(config, tmp_path / "w", progress=False)
    (tmp_path / "part-a.jsonl").rename(tmp_path / "aside")
    opened(config, tmp_path / "w")
    assert "1 of 2 files of config.data.files=" in caplog.text
    one = change(config, data={"files": str(tmp_path / "part-b.jsonl")})
    refused(one, tmp_path / "w", f"(lacks {tmp_path}/part-a.jsonl)")
    (tmp_path / "aside").rename(tmp_path / "part-a.jsonl")
    write_jsonl(tmp_path / "part-c.jsonl", corpus(3))
    refused(config, tmp_path / "w", f"({tmp_path}/part-c.jsonl is none of its files)")


def test_a_file_that_changed_since_is_named(made, tmp_path):
    path = tmp_path / "corpus.jsonl"
    before = path.read_bytes()
    size = len(before)
    path.write_bytes(before + b"\n")
    said = f"{path} has changed since: {size:,} bytes then, {size + 1:,} now"
    refused(made, tmp_path / "w", said)
    path.write_bytes(before.replace(b"house", b"mouse"))
    refused(made, tmp_path / "w", f"{path} has changed since: {size:,} bytes then, as many, others")
    path.write_bytes(before)  # as it was, but for its time
    os.utime(path, (1, 1))
    opened(made, tmp_path / "w")


@pytest.mark.parametrize("place", [0, 200_000, 399_999])
def test_a_large_file_is_told_by_three_of_its_parts(tmp_path, place):
    contents = bytearray(400_000)
    (tmp_path / "a.txt").write_bytes(contents)
    data = configs.Data(files=str(tmp_path / "a.txt"))
    text = identity.text_of(data)
    (file,) = text["files"]
    assert file["bytes"] == 400_000
    contents[place] = 1
    (tmp_path / "a.txt").write_bytes(contents)
    assert identity.text_of(data)["files"][0]["sample"] != file["sample"]
    found = identity.Findings()
    manifest = {"data": dataclasses.asdict(data), "text": text}
    identity.compare("config.data", data, manifest, found)
    assert len(found.differences) == 1


def test_the_form_of_txt_matters_where_there_is_a_txt(config, tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(corpus(50)))
    config = change(config, data={"files": str(tmp_path / "a.txt")}, objective={"nsp": 0.0})
    prepare.prepare(config, tmp_path / "w", progress=False)
    # A .txt may hold JSON lines, so its field counts too.
    field = change(config, data={"text_field": "body"})
    refused(field, tmp_path / "w", "config.data.text_field='body', made with 'text'")
    prose = change(config, data={"txt_format": "prose"})
    refused(prose, tmp_path / "w", "config.data.txt_format='prose', made with 'auto'")


def test_what_names_no_text_takes_that_of_the_store(made, tmp_path):
    unset = change(made, data={"files": None})
    assert opened(unset, tmp_path / "w").data.files == made.data.files


def test_a_corpus_in_a_bucket(config, tmp_path, monkeypatch, caplog):
    with fake_gcs.serving("text") as server:
        for name, value in fake_gcs.environment(server.url).items():
            monkeypatch.setenv(name, value)
        storage._objects.cache_clear()
        contents = (tmp_path / "corpus.jsonl").read_bytes()
        server.put("text", "corpus.jsonl", contents)
        there = change(config, data={"files": "gs://text/corpus.jsonl"})
        prepare.prepare(there, tmp_path / "w", progress=False)
        with monkeypatch.context() as patch:
            patch.setattr(identity, "_sample", lambda *_: pytest.fail("reads it to know it"))
            opened(there, tmp_path / "w")
        assert caplog.messages == []
        opened(config, tmp_path / "w")  # the copy on the disk
        assert "is the text of 'gs://text/corpus.jsonl'" in caplog.text
        server.put("text", "corpus.jsonl", contents.replace(b"house", b"mouse"))
        refused(there, tmp_path / "w", "gs://text/corpus.jsonl has changed since")
    storage._objects.cache_clear()


def test_tfds_is_told_by_its_version_and_its_size(config, tmp_path, monkeypatch, caplog):
    data = configs.Data(source="tfds", tfds_name="prose")
    manifest = {"data": dataclasses.asdict(data), "text": {"tfds": "prose/1.0.0", "examples": 7}}
    now = ["prose/1.0.0", 7]

    def found(**fields):
        result = identity.Findings()
        identity.compare("config.data", dataclasses.replace(data, **fields), manifest, result)
        return result

    def version(data):
        if now[0] is None:
            raise DataError("no such dataset")
        return tuple(now)

    monkeypatch.setattr(identity.sources, "tfds_version", version)
    assert found() == identity.Findings()
    spelled = found(tfds_name="prose:1.0.0")
    assert not spelled.differences
    assert "is prose/1.0.0, as stored" in spelled.notes[0]
    assert "tfds_split='test', made with 'train'" in found(tfds_split="test").differences[0]
    now[1] = 8
    assert "8 examples of prose/1.0.0 now, 7 of prose/1.0.0 then" in found().differences[0]
    now[0] = None
    assert "not compared (no such dataset)" in found().notes[0]
    assert "made with 'prose' (no such dataset)" in found(tfds_name="verse").differences[0]


# The tokenizer


def test_another_tokenizer_is_refused(made, tmp_path):
    place = tmp_path / "w"
    cased = change(made, tokenizer={"lowercase": False})
    refused(cased, place, "config.tokenizer.lowercase=False, made with True")
    words = (tmp_path / "vocab.txt").read_text().splitlines()
    (tmp_path / "other.txt").write_text("\n".join([*words, "more"]))
    other = change(made, tokenizer={"path": str(tmp_path / "other.txt")})
    refused(other, place, "other.txt', made with '", "vocab.txt' (another tokenizer)")
    trained = change(made, tokenizer={"path": None})
    refused(trained, place, "config.tokenizer.path=None, made with '")
    missing = change(made, tokenizer={"path": "none.txt"})
    refused(missing, place, "config.tokenizer.path='none.txt', made with", "(no such file)")


def test_the_same_tokenizer_elsewhere_goes_on(made, tmp_path, caplog):
    shutil.move(tmp_path / "vocab.txt", tmp_path / "moved.txt")
    opened(change(made, tokenizer={"path": str(tmp_path / "moved.txt")}), tmp_path / "w")
    opened(change(made, tokenizer={"path": str(tmp_path / "w/tokenizer")}), tmp_path / "w")
    assert caplog.messages == []
    opened(made, tmp_path / "w")  # by its old name, under which there is nothing now
    assert "is not there, so not compared" in caplog.text


@pytest.mark.parametrize(("flags", "dtype"), [("avx512_bf16", "bfloat16"), ("avx2", "float32")])
def test_auto_becomes_the_type_that_the_run_computes_in(made, tmp_path, monkeypatch, flags, dtype):
    monkeypatch.setattr(processor, "cpuinfo", lambda: f"flags : {flags}")
    assert opened(change(made, model={"dtype": "auto"}), tmp_path / "w").model.dtype == dtype


def test_config_json_gets_the_kind_that_was_read(made, tmp_path):
    other = change(made, tokenizer={"kind": "byte_bpe"})
    assert opened(other, tmp_path / "w").tokenizer.kind == "wordpiece"


@pytest.mark.parametrize(
    ("field", "value"), [("kind", "sentencepiece"), ("vocab_size", 80), ("lowercase", False)]
)
def test_a_trained_tokenizer_is_told_by_its_settings(config, tmp_path, field, value):
    trained = said(change(config, tokenizer={"path": None, "vocab_size": 100}))
    prepare.prepare(trained, tmp_path / "w", progress=False)
    assert opened(trained, tmp_path / "w").tokenizer == trained.tokenizer
    other = change(trained, tokenizer={field: value})
    made = getattr(trained.tokenizer, field)
    refused(other, tmp_path / "w", f"config.tokenizer.{field}={value!r}, made with {made!r}")
    # Where nothing is said of the case, a trained one lower-cases.
    opened(change(trained, tokenizer={"lowercase": None}), tmp_path / "w")


# A mixture


def test_each_component_of_a_mixture_is_compared(config, tmp_path):
    write_jsonl(tmp_path / "books.jsonl", corpus(30))
    books = dataclasses.replace(config.data, files=str(tmp_path / "books.jsonl"))
    parts = {"books": configs.Component(1.0, books), "wiki": configs.Component(3.0, config.data)}
    mixed = dataclasses.replace(config, mixture=parts, data=configs.Data())
    prepare.prepare(mixed, tmp_path / "w", progress=False)
    weighed = parts | {"wiki": configs.Component(1.0, config.data)}
    opened(dataclasses.replace(mixed, mixture=weighed), tmp_path / "w")
    other = dataclasses.replace(config.data, files="no.txt", language="de")
    changed = dataclasses.replace(mixed, mixture=parts | {"wiki": configs.Component(3.0, other)})
    said = refused(changed, tmp_path / "w", "config.mixture.wiki.data.language='de', made with")
    assert "config.mixture.wiki.data.files='no.txt'" in said
    assert "books" not in said


# config.json


@pytest.fixture
def runnable(made):
    """A config of one small step, that `tmp_path/w` is prepared for."""
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 0,
        "max_position_embeddings": 16,
    }
    phases = {"one": configs.Phase(1, 16, batch_size=8, max_predictions_per_seq=2)}
    return change(dataclasses.replace(made, phases=phases), model=small)


def test_a_refused_run_leaves_config_json_alone(runnable, tmp_path):
    place = tmp_path / "w"
    for other in (
        change(runnable, data={"files": "no.txt"}),
        dataclasses.replace(runnable, init_from=f"hf:{tmp_path}/none"),
    ):
        with pytest.raises(DataError):
            pretraining.pretrain(other, place)
        assert not (place / "config.json").exists()
        assert not (place / "lock").exists()
        assert not list(place.glob("checkpoints/*"))  # nor weights that nobody trained
    workdir.write_config(runnable, place)
    before = (place / "config.json").read_bytes()
    with pytest.raises(DataError):
        pretraining.pretrain(change(runnable, data={"files": "no.txt"}), place)
    assert (place / "config.json").read_bytes() == before


def test_a_second_run_is_refused_before_it_touches_anything(runnable, tmp_path):
    place = tmp_path / "w"
    with Lock(place, "pretrain"):
        before = sorted(place.rglob("*"))
        with pytest.raises(UsageError, match=rf"in use by pretrain on .* process {os.getpid()}, s"):
            pretraining.pretrain(runnable, place)
        assert sorted(place.rglob("*")) == before
        opened(runnable, place)  # who only reads asks for no lock


def test_weights_beside_another_tokenizer_are_not_read(runnable, tmp_path):
    workdir.write_config(runnable, tmp_path / "w")
    path = tmp_path / "w/tokenizer/tokenizer.json"
    path.write_text(path.read_text().replace('"house"', '"mouse"'))
    with pytest.raises(
        DataError, match=r"tokenizer: not the tokenizer that made .*/store; put that"
    ):
        convert.read(str(tmp_path / "w"))
