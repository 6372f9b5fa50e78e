"""What every tokenizer is: text to ids and back, and the file it is kept in."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bertjax.errors import DataError


class Tokenizer:
    """Text to ids and back.

    Attributes:
      kind: its name in `config.tokenizer.kind`.
      vocab_size: number of ids.
      pad_id, unk_id, cls_id, sep_id, mask_id: the special ids; special_ids holds them sorted.
      sha256: hash of the file that `save` writes.
    """

    kind: str
    file_name: str

    def __init__(self, contents: bytes, pieces: list[str], specials: tuple, name: str):
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
        self.special_ids = tuple(sorted(ids[s] for s in specials))
        self.vocab_size = len(pieces)
        self.sha256 = hashlib.sha256(contents).hexdigest()

    def encode_flat(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes many texts at once, without special tokens.

        Returns:
          ids [T] of all the texts, one after the other (uint16, or uint32 beyond 65,536 tokens),
          and the number of ids of each text [S] (int64).
        """
        raise NotImplementedError

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without special tokens."""
        ids, lengths = self.encode_flat(texts)
        return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] if texts else []

    def encode_with_masks(self, text: str) -> list[int]:
        """The ids of a text in which the mask token's spelling stands for the mask.

        Nothing else that looks like a special token is one, and none is added at the ends.
        """
        first, *others = self.encode(self._split_at_masks(text))
        return first + [i for ids in others for i in (self.mask_id, *ids)]

    def _split_at_masks(self, text: str) -> list[str]:
        return text.split(self._pieces[self.mask_id])

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The pieces as the vocabulary spells them."""
        return [self._pieces[i] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Readable text; special tokens are kept."""
        raise NotImplementedError

    def word_starts(self) -> np.ndarray:
        """bool [V]: True where a piece begins a word, special tokens included."""
        raise NotImplementedError

    def save(self, directory: Path) -> Path:
        """Writes the one file that `load` reads back, and returns its path."""
        path = Path(directory) / self.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._contents)
        return path
