"""What a file holds is told by its content, whatever it is called and however it is compressed."""

import json

import pyarrow
import pytest
from corpora import WRAPPED
from corpus_files import (
    COMPRESSIONS,
    NAMES,
    article,
    lines_of,
    nested_parquet,
    oscar,
    saved_dataset,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.config import Data
from bertjax.data import documents, sources
from bertjax.data.readers import forms, text_files
from bertjax.errors import DataError

TEXTS = [f"Document {i} is here. It has an é & more.\nIt ends." for i in range(30)]
SENTENCES = [[f"Document {i} is here.", "It has an é & more.", "It ends."] for i in range(30)]


def read(files, **fields):
    """The sentences of each document, as `tokenize` makes them."""
    data, found = Data(files=str(files), **fields), []
    sources.refuse_others(data)
    for record in (record for chunk in sources.chunks(data) for record in chunk.records):
        lines = documents.paragraphs(documents.read_text(record, data.text_field), record.form)
        if record.form != "sentences":
            lines = [s for line in lines for s in documents.segment(line, data.language)]
        found.append(lines)
    return found


def write(tmp_path, form, texts, compressed=""):
    path = tmp_path / f"{NAMES[form]}{compressed}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(COMPRESSIONS[compressed](lines_of(form)(texts)))
    return path


@pytest.mark.parametrize("compressed", COMPRESSIONS)
@pytest.mark.parametrize("form", NAMES)
def test_every_form_in_every_compression(tmp_path, form, compressed):
    texts = [text.replace("&", "&amp;") for text in TEXTS] if form.startswith("wiki") else TEXTS
    path = write(tmp_path, form, texts, compressed)
    assert read(path, txt_format="paragraphs") == SENTENCES
    other = tmp_path / "named_otherwise"
    path.rename(other)
    assert read(other) == SENTENCES


WORD = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=8)
# Under 40 characters: longer lines of JSON may be taken for a wrapped paragraph.
PARAGRAPH = st.lists(WORD, min_size=1, max_size=4).map(" ".join)
TEXT = st.lists(PARAGRAPH, min_size=1, max_size=4).map("\n".join)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(TEXT, min_size=2, max_size=5),
    st.sampled_from(sorted(NAMES)),
    st.sampled_from(sorted(COMPRESSIONS)),
)
def test_the_documents_depend_on_neither_form_nor_compression(
    tmp_path_factory, texts, form, compressed
):
    folder = tmp_path_factory.mktemp("law")
    found = read(write(folder, form, texts, compressed), txt_format="paragraphs")
    assert found == read(write(folder, "datatrove", texts))


def test_tables(tmp_path):
    columns = {"text": TEXTS, "meta": [{"body": text} for text in TEXTS]}
    saved = saved_dataset(tmp_path / "saved", columns, shards=3)
    assert read(saved) == SENTENCES
    assert read(saved, text_field="meta.body") == SENTENCES
    (tmp_path / "copy").write_bytes((saved / "data-00000-of-00003.arrow").read_bytes())
    assert read(tmp_path / "copy") == SENTENCES[:10]
    nested = nested_parquet(tmp_path / "a.parquet", TEXTS)
    assert read(nested, text_field="doc.text") == SENTENCES
    assert read(nested.rename(tmp_path / "b"), text_field="doc.text") == SENTENCES
    table = pyarrow.table(columns)
    with pyarrow.ipc.new_file(str(tmp_path / "a.feather"), table.schema) as writer:
        writer.write_table(table)
    assert read(tmp_path / "a.feather") == SENTENCES


def test_a_field_in_an_object(tmp_path):
    (tmp_path / "a").write_text('{"warc": {"text": "It is."}}\n{"warc.text": "It was."}\n')
    assert read(tmp_path / "a", text_field="warc.text") == [["It is."], ["It was."]]
    for field in ("warc.body", "warc.text.more", "body"):
        with pytest.raises(DataError, match=f"a:1: no field '{field}', it has warc; set config"):
            read(tmp_path / "a", text_field=field)


def test_oscar_is_known_however_long_its_first_record_is(tmp_path):
    long = "It is here. " * 20_000
    assert len(long) > text_files.SNIFFED
    (tmp_path / "a.jsonl").write_text(oscar(0, long) + oscar(1, "It ends."))
    assert [len(found) for found in read(tmp_path / "a.jsonl")] == [20_000, 1]
    assert read(tmp_path / "a.jsonl", text_field="metadata.identification.label")[1] == ["en"]
    (tmp_path / "b.jsonl").write_text('{"content": "It is."}\n')
    with pytest.raises(DataError, match=r"b.jsonl:1: no field 'text', it has content; set config"):
        read(tmp_path / "b.jsonl")


# As the sentences of BooksCorpus look, which were tokenized and lower-cased.
BOOK = """\
usually , he would be tearing around the yard , playing with his dogs .
`` are n't you a good boy ? ''
she said .
he 'd seen the film almost by mistake , considering that he was too young for it .
"""


def test_bookscorpus_is_cut_after_a_mebibyte(tmp_path):
    path = tmp_path / "books_large_p1.txt"
    path.write_text(BOOK * 12_000)
    found = read(path)
    assert [line for book in found for line in book] == BOOK.splitlines() * 12_000
    cut = text_files.SENTENCES_DOCUMENT
    sizes = [sum(len(line) + 1 for line in book) for book in found]
    assert all(cut <= size < cut + 100 for size in sizes[:-1])
    assert len(sizes) == 3


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        (
            "en.txt.xz",
            "One is. Two is.\nThree is here too.\n\nFour is.\nFive. Six is.\n",
            "paragraphs",
        ),
        ("en", "One is. Two is.\nThree is here too.\n\nFour is.\nFive. Six is.\n", "paragraphs"),
        ("en.txt", "One is. Two is.\nThree is here too.\n\nFour is.\nFive. Six is.\n", "prose"),
        ("en.txt.gz", WRAPPED, "prose"),
        ("en.txt.gz", "One is here.\nTwo is here.\n\nThree is.\n", "sentences"),
        ("en.txt.gz", "One is here. Two is here.\n\nThree is here. Four is.\n", "prose"),
        ("a.txt", '{"text": "It is."}\n', "json"),
        ("a.txt", "{It is} in braces.\n", "prose"),
        ("a.jsonl", "no JSON\n", "json"),
        ("a.txt", article(1, "A", "It is."), "wiki"),
    ],
)
def test_the_form_of_a_text(name, text, form):
    assert forms.form_of(name, text.encode(), Data(files="-")) == form


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", b"%PDF-1.7", "a PDF document"),
        ("a.zip", b"PK\3\4\x14\0", "a zip archive; unpack it"),
        ("a.tar", b"a" * 257 + b"ustar\0" + bytes(300), "a tar archive; unpack it"),
        ("a.html", b"\n<!DOCTYPE html><html>", "an HTML page"),
        ("a.xml", b'<mediawiki xmlns="http', "a dump of a wiki; extract its text first"),
        ("a.json", b'[\n{"text": "It is."}]', "one JSON array; write an object a line"),
        ("a.csv", b"id,text\n1,It is.\n", "a table of text; write JSON lines"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "damaged parquet"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("a.bin", b"\x7fELF\2\1\0", "binary, or not UTF-8: NUL at byte 6"),
        ("a", b"PAR1" + bytes(20), "damaged parquet"),
        ("a", bytes.fromhex("0500000000000000eab2043e") + b"hello", "a TFRecord file"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, name, content, message):
    for compress in COMPRESSIONS.values() if b"arquet" not in message.encode() else [bytes]:
        (tmp_path / name).write_bytes(compress(content))
        with pytest.raises(DataError, match=message) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_compressed_table_is_told_to_be_decompressed(tmp_path):
    nested_parquet(tmp_path / "a.parquet", TEXTS)
    path = tmp_path / "a.parquet.gz"
    path.write_bytes(COMPRESSIONS[".gz"]((tmp_path / "a.parquet").read_bytes()))
    with pytest.raises(DataError, match="a compressed Parquet or Arrow file; decompress it"):
        read(path)


def test_a_cut_table_is_damaged(tmp_path):
    saved = saved_dataset(tmp_path / "saved", {"text": TEXTS * 100})
    (path,) = saved.glob("*.arrow")
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(
        DataError, match=f"truncated Arrow stream: no end mark at byte {len(whole) - 8:,}"
    ):
        read(saved)
    path.write_bytes(whole[:40_000] + whole[50_000:])
    with pytest.raises(DataError, match=r"data-00000-of-00001.arrow: damaged Arrow file"):
        read(saved)
    (tmp_path / "a.parquet").write_bytes(nested_parquet(tmp_path / "b", TEXTS).read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a.parquet: damaged parquet"):
        read(tmp_path / "a.parquet")


def test_no_flipped_bit_of_a_table_is_a_traceback(tmp_path):
    saved = saved_dataset(tmp_path / "saved", {"text": ["One is.", "Two is."]})
    (path,) = saved.glob("*.arrow")
    whole, refusals = path.read_bytes(), 0
    for bit in range(3, 8 * len(whole), 11):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            read(saved)
        except DataError:
            refusals += 1
    assert refusals > 20


def test_the_lines_of_an_article_are_never_joined():
    lines = [f"The house number {i} stands on the long street by the river and" for i in range(4)]
    text = "\n".join(lines)
    assert documents.paragraphs(text, "prose") == [" ".join(lines)]
    for form in ("sentences", "paragraphs", "wiki", "wiki_json"):
        assert documents.paragraphs(text, form) == lines


def test_lists_are_no_text(tmp_path):
    saved = saved_dataset(tmp_path / "saved", {"text": [["One."], ["Two."]]})
    with pytest.raises(DataError, match="row 1: 'text' is list, expected text"):
        read(saved)
    (tmp_path / "a").write_text(json.dumps({"text": ["One."]}))
    with pytest.raises(DataError, match="a:1: field 'text' is list, expected a string"):
        read(tmp_path / "a")
