"""One raw record to sentences: decoding, JSON, paragraphs, segmentation.

Sentences come from `sentencex`, chosen for speed: tens of MB/s where syntok, pysbd and blingfire
make 0.1 to 8. It cuts nine paragraphs of Wikipedia and novels in ten exactly as syntok does; most
other times it keeps a quotation of several sentences whole.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import sentencex

from bertjax.data.readers import wiki_extractor
from bertjax.errors import DataError, one_line

LONGEST_RECORD = 16 << 20  # bytes; a longer one is no document
_LINES = ("sentences", "paragraphs", "wiki", "wiki_json")  # forms whose lines are never wrapped
LONGEST_SENTENCE = 10_000  # characters; a longer one is cut at a space

# What may end a sentence, closing quotes and brackets after it included.
_TERMINAL = re.compile("[.!?:;…。\uff01\uff1f][\"'”\u2019»)\\]]*$")
_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")
_BREAKS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029\ufeff"
_LINE_END = re.compile(rb"\r*\n|\r")


class Record(NamedTuple):
    """One document as it lies in its file."""

    path: str
    line: int  # of its first line, from 1
    offset: int  # of its first byte in the file, decompressed
    form: str  # row (of a table), or what `readers.forms` calls a text file
    data: bytes


def read_text(record: Record, text_field: str, dropped: Counter | None = None) -> str | None:
    """The document's text, lone surrogates replaced.

    Args:
      dropped: counts, by reason, what is left out of an article of WikiExtractor.

    Returns:
      None for an article that is left out as a whole, which `dropped` has then counted.

    Raises:
      DataError: not UTF-8, not JSON, or no such field; the message names file and line.
    """
    path, line, offset, form, raw = record
    dropped = Counter() if dropped is None else dropped
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line += len(_LINE_END.findall(raw, 0, error.start))
        where = f"{path}:{line}"
        raise DataError(f"{where}: not UTF-8 at byte {offset + error.start}; convert it") from None
    if form == "wiki":
        return wiki_extractor.text_of(unix_lines(text), dropped)
    if form not in ("json", "oscar", "wiki_json"):
        return text
    tree = _json_object(text, f"{path}:{line}")
    text = _json_text(tree, f"{path}:{line}", "content" if form == "oscar" else text_field)
    if form == "wiki_json":
        return wiki_extractor.cleaned(str(tree.get("title")), unix_lines(text), dropped)
    return text


def _json_object(text: str, where: str) -> dict:
    try:
        tree = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {one_line(error)}") from None
    if not isinstance(tree, dict):
        raise DataError(f"{where}: a JSON {type(tree).__name__}, expected an object")
    return tree


def _json_text(tree: dict, where: str, field: str) -> str:
    try:
        value = value_of(tree, field)
    except KeyError:
        raise DataError(no_field(where, field, tree)) from None
    value = "" if value is None else value
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} is {type(value).__name__}, expected a string")
    return value.encode("utf-8", "replace").decode()


def value_of(tree: Any, field: str) -> Any:
    """The field of that name, or else the one that `outer.inner` leads to.

    Raises:
      KeyError: there is no such field.
    """
    for name in [field] if field in tree else field.split("."):
        if not isinstance(tree, dict):
            raise KeyError(name)
        tree = tree[name]
    return tree


def text_record(path: str, row: int, value: Any, field: str, dropped: Counter) -> Record | None:
    """A value as a record, or None for one that is left out, and counted."""
    if value is None:
        dropped["empty document"] += 1
        return None
    value = value.encode("utf-8", "replace") if isinstance(value, str) else value
    if not isinstance(value, bytes):
        raise DataError(f"{path}, row {row}: {field!r} is {type(value).__name__}, expected text")
    if len(value) > LONGEST_RECORD:
        dropped[f"line over {LONGEST_RECORD >> 20} MiB"] += 1
        return None
    return Record(path, row, 0, "row", value)


def no_field(where: str, field: str, present: Iterable[str]) -> str:
    """What to tell a user whose records have other fields."""
    names = ", ".join(sorted(map(str, present))) or "no fields"
    return f"{where}: no field {field!r}, it has {names}; set config.data.text_field"


def paragraphs(text: str, form: str) -> list[str]:
    """The lines of a document that are paragraphs, stripped and not empty.

    In the forms of `_LINES` every line counts. Elsewhere lines are joined where the text was
    wrapped at a margin. See `unix_lines` for what ends a line.
    """
    text = unix_lines(text)
    if form in _LINES:
        return [line for line in map(str.strip, text.split("\n")) if line]
    found = []
    for block in _BLANK_LINES.split(text):
        lines = [line for line in map(str.strip, block.split("\n")) if line]
        found += [" ".join(lines)] if _is_wrapped(lines) else lines
    return found


def unix_lines(text: str) -> str:
    """The text with each line ended by a line feed, and without byte order marks.

    What ends a line is what Unicode calls a mandatory break (UAX #14), as `str.splitlines` has it:
    LF, CRLF, a lone CR, but also form feed, vertical tab, U+0085, U+2028 and U+2029. The last five
    end a line within a document; a file is cut into records at LF and CR only (see `sources`).
    """
    if not any(character in text for character in _BREAKS):
        return text
    if "\r\r" in text:  # files that were converted to CRLF twice
        text = re.sub("\r+\n", "\n", text)
    if "\ufeff" in text:  # files that were put one after the other
        text = text.replace("\ufeff", "")
    return "\n".join(text.splitlines())


def _is_wrapped(lines: list[str]) -> bool:
    """Whether the lines of a block break at a margin: long, but not over 120, and seldom at the
    end of a sentence."""
    full = lines[:-1]
    if not full or max(map(len, full)) > 120 or sum(map(len, full)) < 40 * len(full):
        return False
    return 2 * sum(bool(_TERMINAL.search(line)) for line in full) < len(full)


def segment(paragraph: str, language: str) -> list[str]:
    """The sentences of a paragraph, none empty, none over `LONGEST_SENTENCE` characters."""
    sentences = []
    for sentence in sentencex.segment(language, paragraph):
        sentence = " ".join(sentence.split())
        if len(sentence) > LONGEST_SENTENCE:
            sentences += cut(sentence, LONGEST_SENTENCE)
        elif sentence:
            sentences.append(sentence)
    return sentences


def cut(text: str, limit: int) -> list[str]:
    """Pieces of at most `limit` characters, ending at spaces where there are any."""
    pieces = []
    while len(text) > limit:
        end = text.rfind(" ", 1, limit + 1)
        end = limit if end < 0 else end
        pieces.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return [*pieces, text] if text else pieces


def one_sentence_a_line(head: str, language: str) -> bool:
    """Whether the start of a .txt looks like google-research/bert's form: most lines are one
    sentence, and there are several of them between blank lines."""
    blocks = _line_blocks(head)
    lines = [line.strip() for block in blocks for line in block]
    if len(lines) < 1.5 * len(blocks):
        return False
    whole = sum(
        bool(_TERMINAL.search(line)) and len(segment(line, language)) == 1 for line in lines
    )
    return whole > 0.6 * len(lines)


def one_paragraph_a_line(head: str) -> bool:
    """Whether the start of a text looks like CC-100's form: several lines between blank lines,
    and most such blocks are not one paragraph that was wrapped at a margin."""
    blocks = _line_blocks(head)
    several = [block for block in blocks if len(block) > 1]
    wrapped = sum(_is_wrapped([line.strip() for line in block]) for block in several)
    return len(blocks) > 1 and 2 * len(several) > len(blocks) and 2 * wrapped < len(several)


def _line_blocks(head: str) -> list[list[str]]:
    """The lines between blank lines."""
    return [block.split("\n") for block in _BLANK_LINES.split(unix_lines(head).strip())]
