"""Tokens added to a vocabulary after its training: a text that spells one has its id there.

They are matched as `tokenizers` matches them, by that library. The five core special tokens
([MASK], <mask>...) are none of these: their spelling in a text is text.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

import tokenizers

from bertjax.errors import DataError

FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


@dataclasses.dataclass(frozen=True)
class Added:
    """One token.

    Attributes:
      special: it stands for no text; masking neither predicts nor, where told so, draws it.
      lstrip, rstrip: white space on that side of it belongs to it.
      single_word: it is found only where no letter or digit stands next to it.
      normalized: it is looked for in the normalized text (lower-cased, say), as spelled there.
    """

    content: str
    id: int
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = True


def parse(entry: dict, token_id: int, name: str) -> Added:
    """A token as tokenizer.json and tokenizer_config.json write it; raises DataError."""
    content = entry.get("content") if isinstance(entry, dict) else None
    if not isinstance(content, str) or not content:
        raise DataError(f"{name}: added token {str(content or entry)[:60]!r} has no content")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise DataError(f"{name}: added token {content[:60]!a} is no text") from None
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
    """All pieces by their ids: those of the vocabulary, then the added tokens that it lacks.

    Raises:
      DataError: the ids of the added tokens have gaps, or a token has two.
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
      as_saved: with the flag `special`; without it special ones are found too by a backend that
        takes the spelling of special tokens for text.
    """
    ordered = sorted(added, key=lambda token: token.id)
    flags = [{flag: getattr(token, flag) for flag in FLAGS} for token in ordered]
    if not as_saved:
        flags = [each | {"special": False} for each in flags]
    # In one call: each of them builds the search anew.
    backend.add_tokens(
        [tokenizers.AddedToken(t.content, **f) for t, f in zip(ordered, flags, strict=True)]
    )
    for token in ordered:
        if backend.token_to_id(token.content) != token.id:
            raise DataError(f"added token {token.content[:60]!r} cannot have the id {token.id}")


def any_of(contents: list[str]) -> re.Pattern | None:
    """Finds texts that hold one of these; None where there are none."""
    return re.compile("|".join(map(re.escape, contents))) if contents else None


def across_spaces(added: Iterable[Added], normalize: Callable[[str], str]) -> re.Pattern | None:
    """Finds texts with a token that a cut at the text's spaces could take apart; None: no such.

    One that is looked for in the normalized text may be in any.
    """
    apart = [a for a in added if re.search(r"\s", a.content + normalize(a.content))]
    return any_of(["" if a.normalized else a.content for a in apart])
