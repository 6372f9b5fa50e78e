"""Held-out sentences with a word missing (the cloze procedure, Taylor 1953)."""

import itertools
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bertjax.data.store import Store
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError

SHORTEST, LONGEST = 8, 40  # tokens of a sentence


class Question(NamedTuple):
    """A sentence, without special tokens, whose token at `position` is missing."""

    ids: tuple[int, ...]
    position: int

    @property
    def answer(self) -> int:
        return self.ids[self.position]

    def masked(self, mask_id: int) -> list[int]:
        """The ids with the mask in place of the answer."""
        return [*self.ids[: self.position], mask_id, *self.ids[self.position + 1 :]]


def questions(heldout: Store, tokenizer: Tokenizer, count: int) -> list[Question]:
    """The first `count` questions of a held-out split, or all that it has.

    Documents take turns, each with its sentences in the order of a hash. The hash also decides
    which word of a sentence is missing: a word of letters that is one token, "the" as likely as
    any other. The text alone decides, so the questions are fixed before a model is trained.

    Raises:
      DataError: no held-out sentence has such a word.
    """
    can_be_missing = _words(tokenizer)
    starts = tokenizer.word_starts()
    of_documents = [
        _of_document(heldout, document, can_be_missing, starts)
        for document in range(heldout.num_documents)
    ]
    found = list(itertools.islice(_in_turn(of_documents), count))
    if not found:
        raise DataError(
            f"no held-out sentence of {SHORTEST} to {LONGEST} tokens has a word of one token; "
            "raise config.data.heldout_fraction and prepare again"
        )
    return found


def _in_turn(of_documents: list[Iterator[Question]]) -> Iterator[Question]:
    """The first question of each document, then the second: a document is read at its turn."""
    while of_documents:
        remaining = []
        for questions_of in of_documents:
            if question := next(questions_of, None):
                yield question
                remaining.append(questions_of)
        of_documents = remaining


def _of_document(
    heldout: Store, document: int, can_be_missing: np.ndarray, starts: np.ndarray
) -> Iterator[Question]:
    first, end = heldout.documents[document : document + 2]
    bounds = heldout.sentences[first : end + 1]
    sentences = np.split(heldout.slice(bounds[0], bounds[-1]), bounds[1:-1] - bounds[0])
    read = [ids for ids in sentences if SHORTEST <= len(ids) <= LONGEST]
    for number, ids in sorted((zlib.crc32(x.astype("<u4").tobytes()), tuple(x)) for x in read):
        sentence = np.array(ids)
        ends_word = np.append(starts[sentence[1:]], True)
        candidates = np.flatnonzero(can_be_missing[sentence] & ends_word)
        if len(candidates):
            yield Question(tuple(sentence.tolist()), int(candidates[number % len(candidates)]))


def _words(tokenizer: Tokenizer) -> np.ndarray:
    """bool [V]: True where a token begins a word and is letters alone."""
    words = tokenizer.word_starts()
    words[list(tokenizer.special_ids)] = False
    for token in np.flatnonzero(words):
        words[token] = tokenizer.decode([int(token)]).strip().isalpha()
    return words
