"""Reading the files that vocabularies are kept in, which somebody else may have made."""

import json
from pathlib import Path

from bertjax.data.documents import one_line
from bertjax.errors import DataError

MAX_BYTES = 64 << 20  # a tokenizer.json of 250,000 pieces has 20 MB


def read_bytes(path: Path) -> bytes:
    """The contents of a file; raises DataError where it cannot be read or is far too large."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"tokenizer {path}: {size:,} bytes; none has over {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"tokenizer {path}: {error.strerror}") from None


def read_text(path: Path) -> str:
    """As `read_bytes`, and raises DataError where it is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; expected a vocabulary") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a file, which only line feeds end: other separators may be pieces."""
    return [line.rstrip("\r") for line in read_text(path).removesuffix("\n").split("\n")]


def read_json(path: Path):
    """What a .json file holds; raises DataError where it is damaged."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({one_line(error)[:200]})") from None


def in_order(ids: dict[str, int], name: str) -> list[str]:
    """The pieces of a vocabulary by their ids.

    Raises:
      DataError: the ids are not 0, 1, 2... with each one once.
    """
    if not isinstance(ids, dict) or not all(type(i) is int for i in ids.values()):
        raise DataError(f"{name}: expected a vocabulary, an object of piece: id")
    pieces = sorted(ids, key=ids.get)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise DataError(f"{name}: ids are not 0..{len(pieces) - 1}, each once")
    return pieces


def all_pieces(tree: dict, name: str) -> list[str]:
    """The pieces of a tokenizer.json by their ids, its added tokens among them.

    Raises:
      DataError: the ids have gaps; or a token is added that is found in plain text too.
    """
    ids = dict(tree["model"]["vocab"])
    for token in tree.get("added_tokens") or ():
        if token["special"] is not True:
            raise DataError(f"{name}: added token {str(token['content'])[:60]!r} is not supported")
        if ids.setdefault(token["content"], token["id"]) != token["id"]:
            raise DataError(f"{name}: {token['content'][:60]!r} has two ids")
    return in_order(ids, name)


def require(section: dict, name: str, **allowed: tuple):
    """Raises DataError where a section of a tokenizer.json asks for what is not reproduced here.

    Args:
      allowed: the values that a field may have; None among them where it may be absent.
    """
    for field, values in allowed.items():
        if section.get(field) not in values:
            kind, value = (repr(section.get(key))[:60] for key in ("type", field))
            raise DataError(f"{name}: {kind} with {field}={value} is not supported")
