"""The base class of all tokenizers: text to ids and back, and the file of the tokenizer."""

import dataclasses
import hashlib
from array import array
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import tokenizers

from bertjax import storage
from bertjax.data.added_tokens import Added
from bertjax.data.store import token_dtype
from bertjax.errors import DataError

REMEMBERED_WORDS = 1 << 18  # about 60 MB in each process
LONGEST_REMEMBERED = 64  # characters; in a language without spaces a word is a whole sentence


class Tokenizer:
    """Text to ids and back.

    Attributes:
      kind: the value of `config.tokenizer.kind`.
      vocab_size: number of ids.
      pad_id, unk_id, cls_id, sep_id, mask_id: the core special ids.
      added: tokens added to the vocabulary, ascending by id. Tokens that the vocabulary lacks have
        the last ids.
      marker_ids: ids of the special tokens in `added`, ascending; they are no text to predict.
      special_ids: all special ids, ascending.
      lowercase: text is lower-cased before it is cut into pieces.
      sha256: hash of the file that `save` writes.
      marks_spaces: a space is part of the word after it, so "word" and " word" differ.
    """

    kind: str
    file_name: str
    marks_spaces = False
    lowercase = False

    def __init__(
        self,
        contents: bytes,
        pieces: list[str],
        specials: tuple,
        name: str,
        added: Iterable[Added] = (),
    ) -> None:
        self._contents = contents
        self._pieces = pieces
        ids = {piece: i for i, piece in enumerate(pieces)}
        missing = [s for s in specials if s not in ids]
        if missing:
            raise DataError(
                f"{name}: vocabulary lacks {', '.join(missing)}; BERT needs all of them"
            )
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            ids[s] for s in specials
        )
        self.added = tuple(sorted(added, key=lambda token: token.id))
        self.marker_ids = tuple(token.id for token in self.added if token.special)
        self.special_ids = tuple(sorted({*(ids[s] for s in specials), *self.marker_ids}))
        self.vocab_size = len(pieces)
        self.sha256 = hashlib.sha256(contents).hexdigest()

    @property
    def rules(self) -> dict[str, object]:
        """The rules by which text is cut, without the pieces: name -> plain value, with `kind`.

        Two tokenizers with the same pieces and equal rules give the same ids. A message about two
        tokenizers names the rule that differs.
        """
        added = {token.content: dataclasses.asdict(token) for token in self.added}
        return {"kind": self.kind, "lowercase": self.lowercase, "added_tokens": added}

    def encode_flat(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes many texts at once, without special tokens.

        Returns:
          The ids [T] of all texts, one text after the other (uint16, or uint32 beyond 65,536
          tokens), and the number of ids of each text [S] (int64).
        """
        raise NotImplementedError

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without special tokens."""
        ids, lengths = self.encode_flat(texts)
        return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] if texts else []

    def encode_with_offsets(self, texts: list[str]) -> list[tuple[list[int], np.ndarray]]:
        """The ids of each text as from `encode`, and the place of each piece in the text.

        Returns:
          For each text, T ids and the characters [T, 2] (int32) of each piece in the given text:
          the first character, and the one after the last. White space before a word is not part
          of its first piece. A combining mark that the rules remove is part of the piece before
          it. If several pieces make one character (its bytes, its jamo), each piece has the whole
          character. A piece of only white space has no characters.
        """
        raise NotImplementedError

    def encode_with_masks(self, text: str) -> list[int]:
        """The ids of a text in which the spelling of the mask token stands for the mask.

        Other core special tokens in the text are encoded as text. None are added at the ends.
        """
        first, *others = self.encode(self._split_at_masks(text))
        return first + [i for ids in others for i in (self.mask_id, *ids)]

    def _split_at_masks(self, text: str) -> list[str]:
        return text.split(self._pieces[self.mask_id])

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The pieces as the vocabulary spells them."""
        return [self._pieces[i] for i in ids]

    def id_of(self, piece: str) -> int:
        """The id of a piece that the vocabulary has."""
        return self._pieces.index(piece)

    def decode(self, ids: Iterable[int]) -> str:
        """Readable text; special tokens are kept."""
        raise NotImplementedError

    def word_starts(self) -> np.ndarray:
        """bool [V]: True where a piece begins a word, special tokens included."""
        raise NotImplementedError

    def save(self, directory: Path) -> Path:
        """Writes the one file that `load` reads back, and returns its path."""
        path = storage.path(directory) / self.file_name
        if not storage.is_remote(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        storage.write(path, self._contents)
        return path


def backend_offsets(
    backend: tokenizers.Tokenizer, texts: list[str]
) -> list[tuple[list[int], np.ndarray]]:
    """Like `Tokenizer.encode_with_offsets`, but from `tokenizers`: removed marks have no piece."""
    encoded = backend.encode_batch(texts, add_special_tokens=False)
    return [(e.ids, np.array(e.offsets, np.int32).reshape(-1, 2)) for e in encoded]


class WordMemory:
    """Encodes texts that are cut into words, and remembers the ids of words, because most recur.

    Only for tokenizers that encode each of these words independently of its neighbors.
    """

    def __init__(self, backend: tokenizers.Tokenizer, vocab_size: int) -> None:
        self._backend = backend
        self._dtype = token_dtype(vocab_size)
        self._bytes_of_word: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._bytes_of_word)

    def encode_flat(self, texts: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Like `Tokenizer.encode_flat`, for the words of each text."""
        known, dtype = self._bytes_of_word, self._dtype
        new = list(set(chain.from_iterable(texts)).difference(known))
        encoded = self._backend.encode_batch_fast(new, add_special_tokens=False)
        known.update(
            (w, array(dtype.char, e.ids).tobytes()) for w, e in zip(new, encoded, strict=True)
        )
        parts = [b"".join([known[word] for word in words]) for words in texts]
        for word in new:  # frequent words come early, so a full memory forgets the new words
            if len(known) > REMEMBERED_WORDS or len(word) > LONGEST_REMEMBERED:
                del known[word]
        lengths = np.fromiter(map(len, parts), np.int64, len(parts)) // dtype.itemsize
        return np.frombuffer(b"".join(parts), dtype), lengths
