"""What a corpus file holds, told by how it starts: its form, or why it is none that is read.

| form | one record |
|---|---|
| parquet, arrow | a row's field `config.data.text_field` |
| json | a line, an object: its field `config.data.text_field` |
| oscar | as json, the text in `content` beside `warc_headers` |
| wiki, wiki_json | an article as WikiExtractor writes it (see `wiki_extractor`) |
| sentences, paragraphs, prose | a document of a text file (see `text_files`) |

A name tells only what the content leaves open: that a first line which is no JSON is a damaged
one, and that text in a .txt without a sentence a line is prose (as it was before paragraphs were
known: stores that are there stay as they would be made again).
"""

import codecs
import json
import re

from bertjax.config import Data
from bertjax.data import compression
from bertjax.data.documents import one_paragraph_a_line, one_sentence_a_line
from bertjax.data.readers import wiki_extractor
from bertjax.data.tfrecord import framing
from bertjax.errors import DataError

READ = "what is read: text, JSON lines, WikiExtractor's articles, Parquet, Arrow; gzip, bzip2, xz, zstd"
_JSON = re.compile(rb'\s*\{\s*(?:"(?:[^"\\\n]|\\.)*"\s*:|\}\s)')
_OF_TABLE = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")  # the last of an Arrow stream
_OF_OSCAR = {"content", "warc_headers"}
_OF_WIKI = {"id", "url", "title", "text"}

# What people have lying beside text, by its first bytes.
_FOREIGN = (
    (b"%PDF", "a PDF document"),
    (b"PK\3\4", "a zip archive; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"\x04\x22\x4d\x18", "compressed with lz4; decompress it"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"version https://git-lfs.", "a pointer of Git LFS; get the file itself: git lfs pull"),
    (b"WARC/1.", "a WARC file of web pages; extract its text first, with datatrove for one"),
    (b"<mediawiki", "a dump of a wiki; extract its text first, with WikiExtractor"),
)
_MARKUP = (  # not asked of a .txt
    (re.compile(rb"\s*<(?:!doctype html|html)\b", re.IGNORECASE), "an HTML page"),
    (re.compile(rb"\s*<\?xml\b"), "an XML file"),
    (re.compile(rb"\s*\[\s*[{\[\"]"), "one JSON array; write an object a line: jq -c '.[]'"),
)


def refuse(path: str, head: bytes) -> None:
    """Raises DataError, in one line, for a file that is none of the forms, nor a table.

    Args:
      head: how the file starts, decompressed.
    """
    name = stem(path)
    found = next((what for magic, what in _FOREIGN if head.startswith(magic)), None)
    if found is None and not name.endswith((".txt", ".jsonl")):
        found = next((what for pattern, what in _MARKUP if pattern.match(head)), None)
    if found is None and name.endswith((".csv", ".tsv")):
        found = "a table of text; write JSON lines, an object a line"
    if head[257:262] == b"ustar":
        found = "a tar archive; unpack it"
    if framing.is_header(head[: framing.HEADER]):
        found = "a TFRecord file; config.data.source=bert_tfrecord reads those of BERT's examples"
    if head.startswith(_OF_TABLE):
        found = "a compressed Parquet or Arrow file; decompress it, they compress their columns"
    if found:
        raise DataError(f"{path}: {found}; {READ}")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8")
    if b"\0" in head:
        raise DataError(f"{path}: binary, or not UTF-8: NUL at byte {head.index(0)}; {READ}")


def is_table(path: str, first: bytes) -> bool:
    """Whether a file is Parquet or Arrow; one that its name calls so, and is not, is damaged."""
    return path.endswith((".parquet", ".arrow")) or first.startswith(_OF_TABLE)


def form_of(path: str, head: bytes, data: Data) -> str:
    """The form of a text file, by its start.

    Args:
      head: decompressed, without a byte order mark; of a JSON file at least its first line.

    Raises:
      DataError: as `refuse`.
    """
    refuse(path, head)
    if wiki_extractor.HEAD.match(head):
        return "wiki"
    if stem(path).endswith((".jsonl", ".json")) or _JSON.match(head):
        return _json_form(head, data)
    if data.txt_format != "auto":
        return data.txt_format
    text = head.decode("utf-8", "ignore")
    if one_sentence_a_line(text, data.language):
        return "sentences"
    if not path.endswith(".txt") and one_paragraph_a_line(text):
        return "paragraphs"
    return "prose"


def _json_form(head: bytes, data: Data) -> str:
    try:
        record = json.loads(head.lstrip().partition(b"\n")[0])
    except (ValueError, RecursionError):
        record = None  # damaged, which reading it says
    if isinstance(record, dict) and data.text_field == "text":
        if record.keys() >= _OF_WIKI and "?curid=" in str(record["url"]):
            return "wiki_json"
        if record.keys() >= _OF_OSCAR and "text" not in record:
            return "oscar"
    return "json"


def named(path: str) -> str:
    """What a name says that a file holds: text, records with fields, or "", nothing."""
    name = stem(path)
    fields = name.endswith((".jsonl", ".json", ".parquet", ".arrow"))
    return "text" if name.endswith(".txt") else "records" if fields else ""


def stem(path: str) -> str:
    """A file's name without the ending of a compression."""
    for suffix in compression.SUFFIXES:
        path = path.removesuffix(suffix)
    return path
