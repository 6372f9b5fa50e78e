"""Tokens added to a vocabulary after its training. Their spelling in a text becomes their id.

The library `tokenizers` matches them. The five core special tokens ([MASK], <mask>...) are not
among them: their spelling in a text is text.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

import tokenizers

from bertjax.errors import DataError

FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


@dataclasses.dataclass(frozen=True)
class Added:
    """One added token.

    Attributes:
      special: the token stands for no text. Masking predicts it only with `choose_special`, and
        never draws it with `random_special=False`.
      lstrip, rstrip: white space on the left or right of the token belongs to the token.
      single_word: the token matches only if no letter or digit is next to it.
      normalized: the token is searched in the normalized text (for example lower-cased).
    """

    content: str
    id: int
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = True


def parse(entry: dict, token_id: int, name: str) -> Added:
    """The token of an entry of tokenizer.json or tokenizer_config.json; raises DataError."""
    content = entry.get("content") if isinstance(entry, dict) else None
    if not isinstance(content, str) or not content:
        raise DataError(f"{name}: added token {str(content or entry)[:60]!r} has no content")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise DataError(f"{name}: added token {content[:60]!a} is not valid text") from None
    if type(token_id) is not int:
        raise DataError(f"{name}: added token {content[:60]!r} has the id {str(token_id)[:40]!r}")
    special = entry.get("special", False)
    flags = {"special": special, "normalized": not special}
    flags |= {flag: entry[flag] for flag in FLAGS if flag in entry}
    wrong = [flag for flag, value in flags.items() if type(value) is not bool]
    if wrong:
        raise DataError(f"{name}: added token {content[:60]!r}: {wrong[0]} must be true or false")
    return Added(content, token_id, **flags)


def complete(pieces: list[str], added: Iterable[Added], name: str) -> list[str]:
    """All pieces in the order of their ids: `pieces`, then the added tokens that `pieces` lacks.

    Raises:
      DataError: the ids of the added tokens have gaps, or a token has two ids.
    """
    ids = {piece: i for i, piece in enumerate(pieces)}
    result = list(pieces)
    for token in sorted(added, key=lambda token: token.id):
        shown = f"{name}: added token {token.content[:60]!r}"
        known = ids.get(token.content)
        if known not in (None, token.id):
            raise DataError(f"{shown} has two ids, {known} and {token.id}")
        if known is None and token.id != len(result):
            raise DataError(
                f"{shown} has the id {token.id}, but the next free one is {len(result)}; "
                "ids with gaps are not supported"
            )
        if known is None:
            ids[token.content] = token.id
            result.append(token.content)
    return result


def register(backend: tokenizers.Tokenizer, added: Iterable[Added], *, as_saved: bool) -> None:
    """Adds tokens to a backend, in the order of their ids.

    Args:
      as_saved: keep the flag `special`, for the saved file. Without the flag, a backend that
        encodes the spelling of special tokens as text still finds these tokens.
    """
    ordered = sorted(added, key=lambda token: token.id)
    flags = [{flag: getattr(token, flag) for flag in FLAGS} for token in ordered]
    if not as_saved:
        flags = [each | {"special": False} for each in flags]
    # One call for all tokens, because every call rebuilds the search.
    backend.add_tokens(
        [tokenizers.AddedToken(t.content, **f) for t, f in zip(ordered, flags, strict=True)]
    )
    for token in ordered:
        if backend.token_to_id(token.content) != token.id:
            raise DataError(f"added token {token.content[:60]!r} cannot have the id {token.id}")


def any_of(contents: list[str]) -> re.Pattern | None:
    """A pattern that finds texts with one of `contents`; None if there are none."""
    return re.compile("|".join(map(re.escape, contents))) if contents else None


def across_spaces(added: Iterable[Added], normalize: Callable[[str], str]) -> re.Pattern | None:
    """A pattern that finds texts in which cutting at spaces could split an added token, or None.

    A token that is searched in the normalized text may be in any text, so every text matches.
    """
    apart = [a for a in added if re.search(r"\s", a.content + normalize(a.content))]
    return any_of(["" if a.normalized else a.content for a in apart])
