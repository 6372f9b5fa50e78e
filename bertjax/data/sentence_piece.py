"""SentencePiece, the tokenizer of ALBERT; the library of that name does the work."""

import unicodedata
from collections.abc import Iterable
from itertools import chain

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
            # A user-defined piece would be found in plain text.
            if not (self._backend.is_control(special) or self._backend.is_unknown(special)):
                raise DataError(f"{name}: {pieces[special]} must be a control piece")

    @property
    def rules(self) -> dict:
        return super().rules | {"model": self.sha256}  # the model file says all of them

    def encode_flat(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        parts = self._backend.encode(list(texts), num_threads=1)
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        dtype = token_dtype(self.vocab_size)
        return np.fromiter(chain.from_iterable(parts), dtype, lengths.sum()), lengths

    def decode(self, ids: Iterable[int]) -> str:
        return self._backend.decode(list(ids))

    def word_starts(self) -> np.ndarray:
        # Punctuation stands alone without the mark of a word start, as ALBERT's masking has it.
        def starts(piece: str) -> bool:
            return piece.startswith(_WORD_START) or (
                len(piece) == 1 and unicodedata.category(piece)[0] in "PS"
            )

        flags = np.array([starts(piece) for piece in self._pieces])
        flags[list(self.special_ids)] = True
        return flags
