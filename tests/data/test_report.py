"""The report of `prepare` on a corpus: it warns if text or vocabulary are most likely wrong."""

import json
import re

import corpus_files
import pytest

from bertjax import config as configs
from bertjax.data import report, sources, store, tokenizer
from bertjax.data.prepare import prepare
from bertjax.errors import DataError

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed

WORDS = {
    "cased": ["The", "Old", "Clock", "Was", "Slow", "the", "old", "clock", "was", "slow"],
    "uncased": ["the", "old", "clock", "was", "slow"],
}


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def configured(tmp_path, texts=None, vocab="uncased", lowercase=True, **groups):
    """A config for a corpus of `texts`, with a vocabulary of ten words."""
    path = tmp_path / f"{vocab}.txt"
    pieces = [*tokenizer.WORDPIECE_SPECIALS, *WORDS[vocab], "."]
    path.write_text("\n".join(pieces) + "\n")
    if vocab == "cased" and lowercase:  # refused for a vocab.txt; a tokenizer.json may say so
        path = tokenizer.WordPiece(pieces, lowercase=True).save(tmp_path / "tokenizer")
    tree = {
        "data": {"num_workers": 1, "heldout_fraction": 0.2},
        "tokenizer": {"path": str(path), "lowercase": lowercase},
        "model": {"vocab_size": 0},
    }
    if texts is not None:
        tree["data"]["files"] = write_jsonl(tmp_path / "a.jsonl", texts)
    for group, fields in groups.items():
        tree[group] = tree.get(group, {}) | fields
    return configs.from_config_dict(tree)


def said(config, tmp_path, **options):
    """The notes and the warnings of a report."""
    manifest = prepare(config, tmp_path / "w", progress=False, **options)
    facts, warnings = report.split(manifest["report"])
    notes = [line for line in facts.split("\n") if line.startswith("note")]
    return "\n".join(notes), warnings


CAPITALS = ["The old clock was slow. The clock was old."] * 30
SMALL = [text.lower() for text in CAPITALS]
FOREIGN = ["An old uhr was slow. A clock was old."] * 30


@pytest.mark.parametrize(
    ("texts", "vocab", "lowercase", "expected"),
    [
        (CAPITALS, "uncased", True, ""),
        (CAPITALS, "cased", False, ""),
        (SMALL, "uncased", True, ""),
        (SMALL, "uncased", False, ""),
        (["日本 。the"] * 30, "cased", True, "the vocabulary is cased"),
        (
            CAPITALS,
            "cased",
            True,
            "the vocabulary is cased .45% of its pieces have a capital, such as 'The'., but text "
            "is lower-cased first: .* take the files of a cased tokenizer",
        ),
        (
            SMALL,
            "cased",
            False,
            "the vocabulary is cased .*, but 100.0% of the documents have no "
            "capital letter: their text was lower-cased before; take the original text",
        ),
        (
            CAPITALS,
            "uncased",
            False,
            "no piece of the vocabulary has a capital, but 100% of the "
            "documents have one, and text is not lower-cased; set config.tokenizer.lowercase=True",
        ),
        (CAPITALS, "uncased", False, r"18.2% of the tokens are unknown .*tokenizer.path"),
        (FOREIGN, "uncased", True, r"27.3% of the tokens are unknown to the vocabulary.*: take"),
    ],
)
def test_text_and_vocabulary_that_do_not_fit(tmp_path, texts, vocab, lowercase, expected):
    config = configured(tmp_path, texts, vocab, lowercase)
    _, warnings = said(config, tmp_path)
    if expected:
        assert any(re.search(expected, line) for line in warnings.split("\n")), warnings
    else:
        assert warnings == ""


def test_letters_without_capitals_are_no_lower_cased_text(tmp_path):
    """Chinese or Georgian text, as with the cased multilingual vocabulary."""
    _, warnings = said(configured(tmp_path, ["日本 ქართული."] * 30, "cased", False), tmp_path)
    assert "was lower-cased before" not in warnings


def test_the_words_that_are_unknown_are_named(tmp_path):
    texts = ["The uhr was slow. " * 40 + "The uhr was langsam. "] * 5
    _, warnings = said(configured(tmp_path, texts), tmp_path)
    assert "20.5% of the tokens are unknown to the vocabulary ('uhr' most often): take" in warnings


def test_warnings_come_last_and_loud(tmp_path, capsys):
    config = configured(tmp_path, FOREIGN)
    manifest = prepare(config, tmp_path / "w")
    shown = capsys.readouterr().err.rstrip()
    assert shown.index("left out") < shown.index("\nwritten") < shown.index("\nwarning     27.3%")
    assert manifest["report"].split("\n")[-1].startswith("warning     27.3% of the tokens")
    assert store.read_manifest(tmp_path / "w" / "store")["report"] == manifest["report"]


def test_each_component_of_a_mixture_has_its_own(tmp_path, capsys):
    mixture = {
        name: {"data": {"files": write_jsonl(tmp_path / f"{name}.jsonl", texts), "num_workers": 1}}
        for name, texts in (("good", CAPITALS), ("foreign", FOREIGN))
    }
    manifests = prepare(configured(tmp_path, mixture=mixture), tmp_path / "w")
    assert "warning" not in manifests["good"]["report"]
    line = "warning     config.mixture.foreign: 27.3% of the tokens"
    assert line in manifests["foreign"]["report"]
    shown = capsys.readouterr().err
    assert shown.index("\nwritten") < shown.index(line)


def test_documents_of_one_sentence(tmp_path):
    texts = ["The clock was old."] * 16 + CAPITALS[:4]
    _, warnings = said(configured(tmp_path, texts), tmp_path)
    assert "80% of the documents have one sentence" in warnings
    assert 'at least 90% of the next-sentence labels are "random"' in warnings
    without = configured(tmp_path, texts, objective={"nsp": 0.0})
    assert said(without, tmp_path)[1] == ""
    _, warnings = said(configured(tmp_path, CAPITALS[:15] + texts[:5]), tmp_path)
    assert warnings == ""


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_one_document_is_refused_before_anything_is_prepared(tmp_path, monkeypatch, name):
    text = "The old clock was slow.\nThe clock was old.\n"
    write_jsonl(tmp_path / "a.jsonl", ["", text, " "])
    (tmp_path / "a.txt").write_text(f"\n\n{text}\n\n")
    monkeypatch.setattr("bertjax.data.prepare.tokenize_all", None)
    files = {"data": {"files": str(tmp_path / name)}}
    with pytest.raises(DataError, match=rf"{name}'.* holds one document, .*config.objective.nsp=0"):
        prepare(configured(tmp_path, **files), tmp_path / "w", progress=False)
    mixture = {
        "few": files,
        "many": {"data": {"files": write_jsonl(tmp_path / "many.jsonl", CAPITALS)}},
    }
    with pytest.raises(DataError, match=r"^config.mixture.few.data.files=.* holds one document"):
        prepare(configured(tmp_path, mixture=mixture), tmp_path / "w", progress=False)
    assert list((tmp_path / "w").iterdir()) == []


def test_every_component_is_looked_at_before_the_first_is_tokenized(tmp_path, monkeypatch):
    monkeypatch.setattr("bertjax.data.prepare.tokenize_all", None)
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", CAPITALS) for name in "ab"]
    mixture = {
        "a": {"data": {"files": paths[0]}},
        "b": {"data": {"files": paths[1], "text_field": "body"}},
    }
    with pytest.raises(DataError, match=r"no field 'body'.* set config.mixture.b.data.text_field"):
        prepare(configured(tmp_path, mixture=mixture), tmp_path / "w", progress=False)


@pytest.mark.parametrize(
    ("texts", "fields", "note"),
    [
        (CAPITALS[:2], {"heldout_fraction": 0.0}, "no document is held out for evaluation"),
        (["<p>The clock was old.</p>"] * 9, {}, "100% of the documents hold HTML tags or entit"),
        (["The clockâ€™s old. It was."] * 9, {}, "100% .* characters of a wrong decoding"),
        (["The clock was old."] * 9, {}, "5.0 tokens on average: is config.data.text_field='text'"),
    ],
)
def test_notes(tmp_path, texts, fields, note):
    notes, _ = said(configured(tmp_path, texts, data=fields), tmp_path)
    assert re.search(note, notes), notes


def test_the_form_that_was_taken_and_lines_that_never_end_a_document(tmp_path, monkeypatch):
    monkeypatch.setattr("bertjax.data.readers.text_files.SENTENCES_DOCUMENT", 100)
    (tmp_path / "a.txt").write_text("The clock was old.\n" * 20)
    (tmp_path / "b.txt").write_text("The clock was old. The clock was slow.\n\n" * 20)
    files = {"files": f"{tmp_path}/?.txt", "num_workers": 1}
    notes, _ = said(configured(tmp_path, data=files), tmp_path)
    assert "read as 4 documents of one sentence a line and 1 documents of prose" in notes
    assert "3 documents end after 1 MiB of lines without a blank line" in notes
    notes, _ = said(configured(tmp_path, data=files | {"txt_format": "sentences"}), tmp_path)
    assert "read as" not in notes


def test_forms_that_were_told_by_content_are_said(tmp_path):
    text = "The clock was old. It was slow.\nThe old clock was slow too."
    (tmp_path / "oscar").write_text("".join(corpus_files.oscar(i, text) for i in range(9)))
    (tmp_path / "cc100").write_bytes(corpus_files.lines_of("cc100")([text] * 7))
    files = {"files": f"{tmp_path}/oscar,{tmp_path}/cc100", "num_workers": 1}
    notes, _ = said(configured(tmp_path, data=files), tmp_path)
    assert "9 documents of OSCAR: their text is the field content" in notes
    assert "read as 7 documents of one paragraph a line, by the start of each file" in notes


def test_records_without_text(tmp_path):
    _, warnings = said(configured(tmp_path, CAPITALS[:3] + [""] * 5), tmp_path)
    assert "5 of 8 documents are left out (empty document): is config.data.text_field" in warnings


def test_another_name_of_a_file_is_said(tmp_path):
    config = configured(tmp_path, CAPITALS)
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
    config = configured(tmp_path, data={"files": f"{tmp_path}/*.jsonl", "num_workers": 1})
    manifest = prepare(config, tmp_path / "w", progress=False)
    assert "left out    1 x another name of a file" in manifest["report"]
    assert sum(count["documents"] for count in manifest["splits"].values()) == 30


def test_unknown_words_do_not_depend_on_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("bertjax.data.corpus.UNKNOWN_WORDS", 3)
    texts = [f"Uhr{i % 7} was slow. " * 40 for i in range(20)]
    reports = set()
    for size in (1, 2000, 1 << 20):
        monkeypatch.setattr(sources, "CHUNK_BYTES", size)
        reports.add(said(configured(tmp_path, texts), tmp_path))
    assert len(reports) == 1
    assert "'Uhr0', 'Uhr1', 'Uhr2' most often" in reports.pop()[1]


def test_capitals_of_byte_level_pieces_count_where_they_are_letters():
    class Encoder:
        kind, special_ids = "byte_bpe", (0,)

        def __init__(self, pieces):
            self._pieces = ["<S>", *pieces]
            self.vocab_size = len(self._pieces)

        def tokens(self, ids):
            return [self._pieces[i] for i in ids]

    assert report._capitals(Encoder(["A", "Ġ", "Ġthe", "Ãł"]))[1] < 1e-6
    assert report._capitals(Encoder(["A", "ĠThe", "Ġthe", "of"])) == ("ĠThe", 0.25)
