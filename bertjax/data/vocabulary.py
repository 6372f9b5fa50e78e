"""Reading the files that vocabularies are kept in, which somebody else may have made."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from bertjax import storage
from bertjax.data import added_tokens
from bertjax.data.added_tokens import Added
from bertjax.errors import DataError, UsageError, one_line

# LaBSE, the published BERT with most pieces, has 501,153: 14 MB as an indented tokenizer.json.
MAX_BYTES = 16 << 20
MAX_PIECES = 1 << 19
MAX_JSON_VALUES = 3 << 18  # strings, lists and objects; as many lists take 80 MB to hold


def read_bytes(path: Path) -> bytes:
    """The contents of a file; raises DataError where it cannot be read or is far too large."""
    try:
        (size,) = storage.sizes([path])
        if size > MAX_BYTES:
            raise DataError(f"tokenizer {path}: {size:,} bytes; none has over {MAX_BYTES:,}")
        contents = storage.read(path)
    except OSError as error:
        raise DataError(f"tokenizer {path}: {error.strerror or 'no such object'}") from None
    # Each piece has one in text, and in SentencePiece's encoding two: the tags of field 1.
    if contents.count(b"\n") > 2 * MAX_PIECES:
        raise DataError(f"tokenizer {path}: no vocabulary has over {MAX_PIECES:,} pieces")
    return contents


def read_text(path: Path) -> str:
    """As `read_bytes`, and raises DataError where it is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; expected a vocabulary") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a file, which only line feeds end: other separators may be pieces.

    Raises:
      DataError: as `read_text`, or there are far too many.
    """
    text = read_text(path)
    if text.count("\n") > MAX_PIECES:
        raise DataError(f"tokenizer {path}: over {MAX_PIECES:,} lines; no vocabulary has as many")
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]


def read_json(path: Path) -> Any:
    """What a .json file holds; raises DataError where it is damaged or far too much."""
    text = read_text(path)
    if text.count('"') // 2 + text.count("[") + text.count("{") > MAX_JSON_VALUES:
        raise DataError(
            f"tokenizer {path}: over {MAX_JSON_VALUES:,} values; no vocabulary has them"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({one_line(error, longest=200)})") from None


def read_pieces(path: Path) -> list[str]:
    """The pieces of a vocab.txt, one a line; raises DataError where one is there twice."""
    lines = read_lines(path)
    repeated = [piece for piece, count in Counter(lines).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: {repeated[0]!r} appears more than once; ids would be ambiguous")
    return lines


def as_lines(pieces: list[str]) -> str:
    """The text of a vocab.txt; raises UsageError where a piece does not fit on a line."""
    broken = [piece for piece in pieces if "\n" in piece or piece.endswith("\r")]
    if broken:
        raise UsageError(f"vocab.txt: the piece {broken[0]!r} does not fit on one line of it")
    return "".join(f"{piece}\n" for piece in pieces)


def in_order(ids: dict[str, int], name: str) -> list[str]:
    """The pieces of a vocabulary by their ids.

    Raises:
      DataError: the ids are not 0, 1, 2... with each one once, or far too many.
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
    """The pieces of a tokenizer.json by their ids, and the tokens added to them.

    Early files hold the core special tokens `specials` in `added_tokens` only; here they are pieces.

    Raises:
      DataError: the ids have gaps, a token has two, or a core special token is not special.
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
    """Raises DataError where a section of a tokenizer.json asks for what is not reproduced here.

    Args:
      allowed: the values that a field may have; None among them where it may be absent.
    """
    for field, values in allowed.items():
        if section.get(field) not in values:
            kind, value = (repr(section.get(key))[:60] for key in ("type", field))
            raise DataError(f"{name}: {kind} with {field}={value} is not supported")
