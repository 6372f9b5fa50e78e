"""WordPiece and SentencePiece: load, encode, decode, save.

`tokenizers` and `sentencepiece` do the work. Text is always encoded as text: a literal "[MASK]"
in a corpus becomes pieces, never the special token.
"""

import hashlib
import json
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bertjax.data.documents import one_line
from bertjax.data.store import token_dtype
from bertjax.errors import DataError

WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SENTENCEPIECE_SPECIALS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
CACHED_WORDS = 1 << 18  # about 60 MB in each process
_WORD_START = "▁"


class Tokenizer:
    """Text to ids and back.

    Attributes:
      vocab_size: number of ids.
      pad_id, unk_id, cls_id, sep_id, mask_id: the special ids; special_ids holds them sorted.
      sha256: hash of the file that `save` writes.
    """

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


class WordPiece(Tokenizer):
    """BERT's tokenizer (google-research/bert `FullTokenizer`)."""

    file_name = "tokenizer.json"

    def __init__(self, vocab: list[str], lowercase: bool, name: str = "vocabulary"):
        backend = _wordpiece_backend(vocab, lowercase)
        super().__init__(backend.to_str(pretty=True).encode(), vocab, WORDPIECE_SPECIALS, name)
        backend.encode_special_tokens = True
        self._backend = backend
        self._bytes_of_word: dict[str, bytes] = {}

    def encode_flat(self, texts):
        # Nothing that BERT's normaliser, splitter or WordPiece does looks across a space, so the
        # ids of a text are those of its space-separated words, and most words were seen before.
        known, dtype = self._bytes_of_word, token_dtype(self.vocab_size)
        words = [text.split(" ") for text in texts]
        new = list(set(chain.from_iterable(words)).difference(known))
        encoded = self._backend.encode_batch_fast(new, add_special_tokens=False)
        known.update(
            (w, array(dtype.char, e.ids).tobytes()) for w, e in zip(new, encoded, strict=True)
        )
        parts = [b"".join([known[word] for word in line]) for line in words]
        if len(known) > CACHED_WORDS:  # frequent words came early: forget the new ones
            for word in new:
                del known[word]
        lengths = np.fromiter(map(len, parts), np.int64, len(parts)) // dtype.itemsize
        return np.frombuffer(b"".join(parts), dtype), lengths

    def decode(self, ids):
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def word_starts(self):
        return np.array([not piece.startswith("##") for piece in self._pieces])


class SentencePiece(Tokenizer):
    """A SentencePiece model with the special pieces of ALBERT."""

    file_name = "spiece.model"

    def __init__(self, contents: bytes, name: str = "model"):
        try:
            self._backend = sentencepiece.SentencePieceProcessor(model_proto=contents)
        except RuntimeError as error:
            raise DataError(f"{name}: not a SentencePiece model ({one_line(error)})") from None
        size = self._backend.get_piece_size()
        pieces = [self._backend.id_to_piece(i) for i in range(size)]
        super().__init__(contents, pieces, SENTENCEPIECE_SPECIALS, name)
        for special in self.special_ids:
            # A user-defined piece would be found in plain text.
            if not (self._backend.is_control(special) or self._backend.is_unknown(special)):
                raise DataError(f"{name}: {pieces[special]} must be a control piece")

    def encode_flat(self, texts):
        parts = self._backend.encode(list(texts), num_threads=1)
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        dtype = token_dtype(self.vocab_size)
        return np.fromiter(chain.from_iterable(parts), dtype, lengths.sum()), lengths

    def decode(self, ids):
        return self._backend.decode(list(ids))

    def word_starts(self):
        # Punctuation stands alone without the mark of a word start, as ALBERT's masking has it.
        def starts(piece):
            return piece.startswith(_WORD_START) or (
                len(piece) == 1 and unicodedata.category(piece)[0] in "PS"
            )

        flags = np.array([starts(piece) for piece in self._pieces])
        flags[list(self.special_ids)] = True
        return flags


def _wordpiece_backend(vocab, lowercase):
    ids = {piece: i for i, piece in enumerate(vocab)}
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    if all(special in ids for special in WORDPIECE_SPECIALS):
        backend.add_special_tokens(list(WORDPIECE_SPECIALS))
        # Only for whoever opens the saved file with another library.
        ends = (("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
        backend.post_processor = processors.BertProcessing(*ends)
    return backend


def load(path: Path | str, lowercase: bool = True) -> Tokenizer:
    """Opens a directory that `save` wrote, a vocab.txt, a tokenizer.json or a SentencePiece .model.

    Args:
      lowercase: lower-case and strip accents; read for vocab.txt only, the others say it themselves.

    Raises:
      DataError: no such file, not one of these formats, or a special token is missing.
    """
    path = Path(path)
    if path.is_dir():
        names = (WordPiece.file_name, SentencePiece.file_name, "vocab.txt")
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise DataError(f"{path}: holds none of {', '.join(names)}")
        path = found[0]
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise DataError(f"tokenizer {path}: {error.strerror}") from None
    if path.suffix == ".model":
        return SentencePiece(contents, str(path))
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; expected a vocabulary") from None
    if path.suffix == ".json":
        return WordPiece(*_read_json(text, path), name=str(path))
    vocab = [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
    repeated = [piece for piece, count in Counter(vocab).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: {repeated[0]!r} appears more than once; ids would be ambiguous")
    return WordPiece(vocab, lowercase, name=str(path))


def _read_json(text, path):
    """`(vocab, lowercase)` of a BERT tokenizer.json."""
    try:
        tree = json.loads(text)
        kinds = [tree[k]["type"] for k in ("model", "normalizer", "pre_tokenizer")]
        if kinds != ["WordPiece", "BertNormalizer", "BertPreTokenizer"]:
            raise DataError(f"{path}: {' + '.join(kinds)}; only BERT's WordPiece is supported")
        ids = tree["model"]["vocab"]
        vocab = sorted(ids, key=ids.get)
        if [ids[piece] for piece in vocab] != list(range(len(vocab))):
            raise DataError(f"{path}: ids are not 0..{len(vocab) - 1}, each once")
        return vocab, tree["normalizer"]["lowercase"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a WordPiece tokenizer.json ({one_line(error)})") from None
