"""Every kind of corpus gives its documents, and every broken corpus gives one clear line."""

import gzip
import itertools
import json
import tracemalloc
from collections import Counter

import pytest
from corpora import WRAPPED

from bertjax.config import Data
from bertjax.data import documents, sample, sources
from bertjax.data.readers import text_files
from bertjax.errors import DataError, UsageError


def read(path, dropped=None, **fields):
    """The sentences of each document."""
    data = Data(files=str(path), **fields) if path else Data(**fields)
    found = []
    for chunk in sources.chunks(data):
        if dropped is not None:
            dropped.update(chunk.dropped)
        for record in chunk.records:
            lines = documents.paragraphs(documents.read_text(record, data.text_field), record.form)
            if record.form != "sentences":
                lines = [s for line in lines for s in documents.segment(line, data.language)]
            found.append(lines)
    return found


def write_jsonl(path, texts):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


REFERENCE_FORM = """\
The first document has two sentences.
Dr. Smith wrote this one on Jan. 5, and it stays whole.

The second document starts here.
It has a heading without a full stop
And it ends here.
"""


def test_reference_form(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(REFERENCE_FORM)
    expected = [block.split("\n") for block in REFERENCE_FORM.strip().split("\n\n")]
    assert read(path) == expected
    assert read(path, txt_format="sentences") == expected
    path.write_bytes(b"\xef\xbb\xbf" + REFERENCE_FORM.replace("\n", "\r\n").encode())
    assert read(path) == expected


ENDS = {"CR": b"\r", "CRLF": b"\r\n", "CRLF twice": b"\r\r\n", "mixed": b""}


def with_ends(text, kind):
    """The text with other line endings; mixed: LF, CRLF and CR in turn."""
    if kind != "mixed":
        return text.encode().replace(b"\n", ENDS[kind])
    ends = itertools.cycle([b"\n", b"\r\n", b"\r"])
    # A CR before a LF would be one line ending with it.
    lines = text.replace("\n\n", "\n\v\n").encode().split(b"\n")
    return b"".join(line + next(ends) for line in lines).replace(b"\v", b" ")


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("kind", ENDS)
def test_every_end_of_a_line(tmp_path, monkeypatch, kind, block):
    monkeypatch.setattr("bertjax.data.lines.BLOCK_BYTES", block)
    path = tmp_path / "a.txt"
    path.write_bytes(with_ends(REFERENCE_FORM, kind))
    expected = [part.split("\n") for part in REFERENCE_FORM.strip().split("\n\n")]
    assert read(path) == expected  # the form is recognized too
    assert read(path, txt_format="sentences") == expected
    path.write_text(WRAPPED)
    prose = read(path)
    path.write_bytes(with_ends(WRAPPED, kind))
    assert read(path) == prose
    lines = "".join(json.dumps({"text": f"It is {i}."}) + "\n" for i in range(5))
    (tmp_path / "a.jsonl").write_bytes(with_ends(lines, kind))
    assert read(tmp_path / "a.jsonl") == [[f"It is {i}."] for i in range(5)]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n", b"\r\r\n"])
def test_errors_name_line_and_byte_whatever_ends_a_line(tmp_path, end):
    good = b'{"text": "It is."}' + end
    (tmp_path / "a.jsonl").write_bytes(good * 2 + b'{"text": "\xe9"}' + end)
    with pytest.raises(DataError, match=f"a.jsonl:3: not UTF-8 at byte {2 * len(good) + 10};"):
        read(tmp_path / "a.jsonl")
    head = b"One is." + end + b"Two is." + end
    (tmp_path / "a.txt").write_bytes(head + b"\xe9")
    with pytest.raises(DataError, match=f"a.txt:3: not UTF-8 at byte {len(head)};"):
        read(tmp_path / "a.txt")


@pytest.mark.parametrize("end", ["\r", "\f", "\v", "\x85", "\u2028", "\u2029"])
def test_a_line_of_a_document_ends_at_any_break_of_unicode(tmp_path, end):
    write_jsonl(tmp_path / "a.jsonl", [f"A heading{end}One is. Two is."])
    assert read(tmp_path / "a.jsonl") == [["A heading", "One is.", "Two is."]]
    (tmp_path / "a.txt").write_text(f"A heading{end}It goes on.\n", newline="")
    assert read(tmp_path / "a.txt", txt_format="sentences") == [["A heading", "It goes on."]]


def test_a_raw_line_separator_does_not_end_a_json_record(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "One is.\u2028Two is.\x85Three is."}\n')
    assert read(tmp_path / "a.jsonl") == [["One is.", "Two is.", "Three is."]]


def test_files_put_one_after_the_other_keep_no_byte_order_marks(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffOne is.\nTwo is.\n\n\ufeffThree is.\nFour is.\n")
    assert read(tmp_path / "a.txt") == [["One is.", "Two is."], ["Three is.", "Four is."]]
    (tmp_path / "a.jsonl").write_text('\ufeff{"text": "One."}\n\ufeff{"text": "Two."}\n')
    assert read(tmp_path / "a.jsonl") == [["One."], ["Two."]]


def test_wrapped_prose_is_one_document_of_whole_sentences(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(WRAPPED)
    (sentences,) = read(path)
    assert len(sentences) == 4
    assert sentences[0] == "It was a bright cold day in April, and the clocks were striking."
    assert sentences[1].startswith("A man went through the glass")


def test_prose_with_a_paragraph_a_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("One is here. Two is here.\nHeading\nThree is here. Four is here.\n")
    assert read(path) == [
        ["One is here.", "Two is here.", "Heading", "Three is here.", "Four is here."]
    ]


def test_long_prose_is_cut_at_blank_lines_and_loses_nothing(tmp_path):
    path = tmp_path / "a.txt"
    paragraph = "This is sentence number {}. It is followed by another one.\n\n"
    path.write_text("".join(paragraph.format(i) for i in range(5000)))
    found = read(path, txt_format="prose")
    assert len(found) == pytest.approx(path.stat().st_size / text_files.PROSE_DOCUMENT, abs=1)
    assert sum(map(len, found)) == 10_000


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl(tmp_path, name):
    path = write_jsonl(tmp_path / name, ["One is here. Two is here.\nThree is here.", "Four."])
    assert read(path) == [["One is here.", "Two is here.", "Three is here."], ["Four."]]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [f"Document {i}. It ends." for i in range(600)]
    table = pyarrow.table({"body": [*texts, None], "id": list(range(601))})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    dropped = Counter()
    found = read(tmp_path / "a.parquet", dropped, text_field="body")
    assert found == [[f"Document {i}.", "It ends."] for i in range(600)]
    assert dropped == {"empty document": 1}
    with pytest.raises(DataError, match="no field 'text', it has body, id"):
        read(tmp_path / "a.parquet")


def test_globs_in_order_without_repeats(tmp_path):
    for name in "cab":
        write_jsonl(tmp_path / f"{name}.jsonl", [f"This is {name}."])
    found = read(f"{tmp_path}/c.jsonl, {tmp_path}/*.jsonl")
    assert found == [["This is c."], ["This is a."], ["This is b."]]


def test_a_file_under_two_names_is_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", ["This is a."])
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    data = Data(files="*.jsonl, ./a.jsonl, a.jsonl")
    assert sources.find_files(data) == ["a.jsonl"]
    assert sources.aliases(data) == 2
    assert sources.aliases(Data(files="a.jsonl, a.jsonl")) == 0
    assert read("*.jsonl, ./a.jsonl") == [["This is a."]]


def test_tfds(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class TinyProse(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(300):
                yield i, {"text": f"Number {i} has an é. It ends."}

    builder = TinyProse(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    data = Data(source="tfds", tfds_name="tiny_prose", tfds_data_dir=str(tmp_path))
    assert sources.size(data) == 300
    assert sources.tfds_version(data) == ("tiny_prose/1.0.0", 300)
    found = read(None, source="tfds", tfds_name="tiny_prose", tfds_data_dir=str(tmp_path))
    assert sorted(found) == sorted([f"Number {i} has an é.", "It ends."] for i in range(300))
    with pytest.raises(DataError, match="no field 'body', it has text"):
        read(
            None,
            source="tfds",
            tfds_name="tiny_prose",
            tfds_data_dir=str(tmp_path),
            text_field="body",
        )
    with pytest.raises(DataError, match="tfds_name='no_such_set'"):
        read(None, source="tfds", tfds_name="no_such_set", tfds_data_dir=str(tmp_path))
    with pytest.raises(UsageError, match="tfds_name is unset"):
        read(None, source="tfds")


def test_sample_is_distinct_english_prose(monkeypatch):
    monkeypatch.setattr(sample, "MOST_BYTES", 1_000_000)  # the whole sample takes longer
    sample.documents.cache_clear()
    texts = sample.documents()
    assert 1e6 <= sum(len(text.encode()) for text in texts) < 1.2e6
    paragraphs = [p for text in texts for p in text.split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs)
    joined = "\n".join(paragraphs)
    assert ">>>" not in joined
    letters = sum(c.isalpha() or c.isspace() for c in joined)
    assert letters > 0.93 * len(joined)  # English prose has about .96, this source file .75
    words = Counter(joined.lower().split())
    assert words["the"] == max(words.values())
    sample.documents.cache_clear()
    assert sample.documents() == texts
    sample.documents.cache_clear()


def test_sample_reads_no_code(tmp_path):
    module = tmp_path / "m.py"
    body = "The module explains itself in a whole sentence of prose."
    module.write_text(f'"""{body}"""\nraise SystemExit\n\ndef f():\n    """{body * 20}"""\n')
    assert sample._docstrings(module).startswith(body)
    module.write_text("def broken(:\n" + '"""' + "x" * 2000 + '"""')
    assert sample._docstrings(module) == ""


def test_lines_are_joined_only_where_a_margin_broke_them():
    wrapped = "a" * 60 + "\n" + "b" * 60 + "\n" + "c" * 10
    assert len(documents.paragraphs(wrapped, "prose")) == 1
    ended = wrapped.replace("\n", ".\n")
    assert len(documents.paragraphs(ended, "prose")) == 3
    assert len(documents.paragraphs("Short\nlist\nof items", "prose")) == 3
    assert len(documents.paragraphs(wrapped, "sentences")) == 3


def test_no_sentence_is_longer_than_the_limit():
    limit = documents.LONGEST_SENTENCE
    text = "word " * limit
    sentences = documents.segment(text, "en")
    assert max(map(len, sentences)) <= limit
    assert " ".join(sentences) == text.strip()
    blob = "x" * (2 * limit + 1)
    assert "".join(documents.segment(blob, "en")) == blob


def test_lone_surrogate_does_not_stop_the_run(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Half a pair \\ud83d here."}\n')
    assert read(path) == [["Half a pair ? here."]]


def one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (None, UsageError, r"config.data.files is unset"),
        ("nothing-*.txt", DataError, r"nothing-\*.txt': no file matches"),
        ("folder", DataError, r"'folder': no file matches; the folder is empty$"),
        ("latin1.txt", DataError, r"latin1.txt:4: not UTF-8 at byte 24"),
        ("latin1.jsonl", DataError, r"latin1.jsonl:2: not UTF-8 at byte 24"),
        ("binary.txt", DataError, r"binary.txt: binary, or not UTF-8: NUL at byte 2"),
        ("utf16.txt", DataError, r"utf16.txt: UTF-16 text; convert it: iconv"),
        ("cut.jsonl.gz", DataError, r"cut.jsonl.gz: truncated or damaged gzip"),
        ("broken.jsonl", DataError, r"broken.jsonl:2: not JSON"),
        ("list.jsonl", DataError, r"list.jsonl:1: a JSON list, expected an object"),
        ("field.jsonl", DataError, r"field.jsonl:1: no field 'text', it has body; set"),
        ("number.jsonl", DataError, r"number.jsonl:1: field 'text' is int"),
        ("text.parquet", DataError, r"text.parquet: damaged parquet"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, files, error, message):
    monkeypatch.chdir(tmp_path)
    good = b'{"text": "It is here."}\n'
    contents = {
        "latin1.txt": b"One is here.\nTwo.\n\nA caf\xe9 is here.\n",
        "latin1.jsonl": good + b'\xe9{"text": ""}\n',
        "binary.txt": b"\x7fE\0LF",
        "utf16.txt": "日本".encode("utf-16"),
        "cut.jsonl.gz": gzip.compress(good * 1000)[:-20],
        "broken.jsonl": good + b'{"text": "It is\n',
        "list.jsonl": b"[1]\n",
        "field.jsonl": b'{"body": "It is here."}\n',
        "number.jsonl": b'{"text": 3}\n',
        "text.parquet": b"this is no parquet file",
    }
    (tmp_path / "folder").mkdir()
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        read(files)
    assert one_line(caught)


def test_empty_files_and_lines_are_counted(tmp_path):
    (tmp_path / "empty.txt").touch()
    write_jsonl(tmp_path / "some.jsonl", ["It is here."])
    dropped = Counter()
    assert read(f"{tmp_path}/*", dropped) == [["It is here."]]
    assert dropped == {"empty file": 1}


def test_a_100_mb_line_is_left_out_in_bounded_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "Before."}\n{"text": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "After."}\n')
    dropped = Counter()
    tracemalloc.start()
    found = read(path, dropped)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [["Before."], ["After."]]
    assert dropped == {"line over 16 MiB": 1}
    assert peak < 3 * documents.LONGEST_RECORD


def test_positions_reach_the_size(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["It is here. " * 1000] * 500)
    data = Data(files=str(path))
    found = list(sources.chunks(data))
    positions = [chunk.position for chunk in found]
    assert len(found) > 3
    assert positions == sorted(positions)
    assert positions[-1] == sources.size(data)


def test_pieces_read_alone_are_the_whole(tmp_path):
    texts = [f"Document {i}. It is here." for i in range(50)]
    write_jsonl(tmp_path / "a.jsonl", texts[:20])
    write_jsonl(tmp_path / "b.jsonl.gz", texts[20:])
    (tmp_path / "c.txt").write_text("")
    data = Data(files=f"{tmp_path}/*")
    pieces = sources.pieces(data)
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    assert pieces[0].start == 0
    assert pieces[-1].end == sources.size(data)
    together = list(sources.chunks(data))
    alone = [list(sources.chunks(data, [piece])) for piece in pieces]
    assert [c.dropped for c in alone[2]] == [{"empty file": 1}]
    for chunks in (together, [chunk for some in alone for chunk in some]):
        assert [json.loads(r.data)["text"] for c in chunks for r in c.records] == texts
        assert sum((c.dropped for c in chunks), Counter()) == {"empty file": 1}
    assert alone[1][-1].position == pieces[1].end
