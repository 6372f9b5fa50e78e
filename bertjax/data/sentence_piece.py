"""SentencePiece, the tokenizer of ALBERT; the library `sentencepiece` does the work."""

import unicodedata
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import sentencepiece

from bertjax.data.store import token_dtype
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError, one_line

SPECIALS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
_WORD_START = "▁"


class SentencePiece(Tokenizer):
    """A SentencePiece model with the special pieces of ALBERT.

    Attributes:
      lowercase: the model folds case itself.
    """

    kind = "sentencepiece"
    file_name = "spiece.model"

    def __init__(self, contents: bytes, name: str = "model") -> None:
        try:
            self._backend = sentencepiece.SentencePieceProcessor(model_proto=contents)
        except RuntimeError as error:
            raise DataError(f"{name}: not a SentencePiece model ({one_line(error)})") from None
        size = self._backend.get_piece_size()
        pieces = [self._backend.id_to_piece(i) for i in range(size)]
        super().__init__(contents, pieces, SPECIALS, name)
        self.lowercase = "B" not in self._backend.normalize("B")
        for special in self.special_ids:
            # The library would find a user-defined piece in plain text.
            if not (self._backend.is_control(special) or self._backend.is_unknown(special)):
                raise DataError(f"{name}: {pieces[special]} must be a control piece")

    @property
    def rules(self) -> dict:
        return super().rules | {"model": self.sha256}  # the model file holds all rules

    def encode_flat(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        parts = self._backend.encode(list(texts), num_threads=1)
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        dtype = token_dtype(self.vocab_size)
        return np.fromiter(chain.from_iterable(parts), dtype, lengths.sum()), lengths

    def encode_with_offsets(self, texts: list[str]) -> list[tuple[list[int], np.ndarray]]:
        protos = self._backend.encode(list(texts), return_type="proto", num_threads=1)
        return [_pieces(text, proto) for text, proto in zip(texts, protos, strict=True)]

    def decode(self, ids: Iterable[int]) -> str:
        return self._backend.decode(list(ids))

    def word_starts(self) -> np.ndarray:
        # As in ALBERT's masking, punctuation is a word of its own without the mark of a word start.
        def starts(piece: str) -> bool:
            return piece.startswith(_WORD_START) or (
                len(piece) == 1 and unicodedata.category(piece)[0] in "PS"
            )

        flags = np.array([starts(piece) for piece in self._pieces])
        flags[list(self.special_ids)] = True
        return flags


def _pieces(text: str, proto: Any) -> tuple[list[int], np.ndarray]:
    """The ids and characters [T, 2] of a `SentencePieceText`, which counts the bytes of UTF-8."""
    ids = [piece.id for piece in proto.pieces]
    ends = [(piece.begin, piece.end) for piece in proto.pieces]
    raw = np.frombuffer(text.encode(), np.uint8)
    # A byte belongs to the character of the nearest first byte at or before it.
    character = np.append(np.cumsum((raw & 0xC0) != 0x80) - 1, len(text)).astype(np.int32)
    offsets = character[np.array(ends, np.int64).reshape(-1, 2)]
    for span in offsets:
        while span[0] < span[1] and text[span[0]].isspace():
            span[0] += 1
    return ids, offsets
