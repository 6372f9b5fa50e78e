"""Reads vocabulary files, which may come from anybody: sizes are checked before parsing."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from bertjax import storage
from bertjax.data import added_tokens
from bertjax.data.added_tokens import Added
from bertjax.errors import DataError, UsageError, one_line

# LaBSE, the published BERT with most pieces, has 501,153 of them: 14 MB as an indented JSON file.
MAX_BYTES = 16 << 20
MAX_PIECES = 1 << 19
MAX_JSON_VALUES = 3 << 18  # strings, lists and objects; this many lists take 80 MB of memory


def read_bytes(path: Path) -> bytes:
    """The contents of a file; raises DataError if the file cannot be read or is far too large."""
    try:
        (size,) = storage.sizes([path])
        if size > MAX_BYTES:
            raise DataError(
                f"tokenizer {path}: {size:,} bytes; no vocabulary has over {MAX_BYTES:,}"
            )
        contents = storage.read(path)
    except OSError as error:
        raise DataError(f"tokenizer {path}: {error.strerror or 'no such object'}") from None
    # A piece has one "\n" in a text file, and two in a SentencePiece model: the tags of field 1.
    if contents.count(b"\n") > 2 * MAX_PIECES:
        raise DataError(f"tokenizer {path}: no vocabulary has over {MAX_PIECES:,} pieces")
    return contents


def read_text(path: Path) -> str:
    """The text of a file; raises DataError as `read_bytes`, or if the file is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; expected a vocabulary") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a file. Only line feeds end a line, because other separators may be pieces.

    Raises:
      DataError: as for `read_text`, or there are far too many lines.
    """
    text = read_text(path)
    if text.count("\n") > MAX_PIECES:
        raise DataError(f"tokenizer {path}: over {MAX_PIECES:,} lines; no vocabulary has so many")
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]


def read_json(path: Path) -> Any:
    """The value of a .json file; raises DataError if the file is damaged or far too large."""
    text = read_text(path)
    if text.count('"') // 2 + text.count("[") + text.count("{") > MAX_JSON_VALUES:
        raise DataError(
            f"tokenizer {path}: over {MAX_JSON_VALUES:,} values; no vocabulary has so many"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({one_line(error, longest=200)})") from None


def read_pieces(path: Path) -> list[str]:
    """The pieces of a vocab.txt, one a line; raises DataError if a piece is repeated."""
    lines = read_lines(path)
    repeated = [piece for piece, count in Counter(lines).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: {repeated[0]!r} appears more than once; ids would be ambiguous")
    return lines


def as_lines(pieces: list[str]) -> str:
    """The text of a vocab.txt; raises UsageError if a piece does not fit on one line."""
    broken = [piece for piece in pieces if "\n" in piece or piece.endswith("\r")]
    if broken:
        raise UsageError(f"vocab.txt: the piece {broken[0]!r} does not fit on one line")
    return "".join(f"{piece}\n" for piece in pieces)


def in_order(ids: dict[str, int], name: str) -> list[str]:
    """The pieces of a vocabulary in the order of their ids.

    Raises:
      DataError: the ids are not 0, 1, 2... with each id once, or there are far too many.
    """
    if not isinstance(ids, dict) or not all(type(i) is int for i in ids.values()):
        raise DataError(f"{name}: expected a vocabulary, an object of piece: id")
    if len(ids) > MAX_PIECES:
        raise DataError(f"{name}: {len(ids):,} pieces; no vocabulary has over {MAX_PIECES:,}")
    pieces = sorted(ids, key=ids.__getitem__)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise DataError(f"{name}: ids are not 0..{len(pieces) - 1}, each once")
    return pieces


def all_pieces(tree: dict, specials: tuple, name: str) -> tuple[list[str], list[Added]]:
    """The pieces of a tokenizer.json in the order of their ids, and the added tokens.

    Early files list the core special tokens `specials` only in `added_tokens`. They are pieces
    here.

    Raises:
      DataError: the ids have gaps, a token has two ids, or a core special token is not special.
    """
    ids, added = dict(tree["model"]["vocab"]), {}
    for entry in tree.get("added_tokens") or ():
        token = added_tokens.parse(entry, entry["id"], name)
        if token.content not in specials:
            known = added.setdefault(token.content, token).id
        elif token.special:
            known = ids.setdefault(token.content, token.id)
        else:
            raise DataError(f"{name}: added token {token.content!r} must be special")
        if known != token.id:
            raise DataError(f"{name}: {token.content[:60]!r} has two ids")
    return in_order(ids, name), list(added.values())


def require(section: dict, name: str, **allowed: tuple) -> None:
    """Raises DataError if a section of a tokenizer.json has a setting that is not supported here.

    Args:
      allowed: the values that each field may have, with None if the field may be absent.
    """
    for field, values in allowed.items():
        if section.get(field) not in values:
            kind, value = (repr(section.get(key))[:60] for key in ("type", field))
            raise DataError(f"{name}: {kind} with {field}={value} is not supported")
