"""WordPiece and SentencePiece, and `load` for these and byte-level BPE.

`tokenizers` and `sentencepiece` do the work. Text is always encoded as text: a literal "[MASK]"
in a corpus becomes pieces, never the special token.
"""

import unicodedata
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bertjax import storage
from bertjax.data import byte_bpe, vocabulary
from bertjax.data.documents import one_line
from bertjax.data.store import token_dtype
from bertjax.data.tokenizer_base import Tokenizer, WordMemory
from bertjax.errors import DataError

WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SENTENCEPIECE_SPECIALS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
_WORD_START = "▁"


class WordPiece(Tokenizer):
    """BERT's tokenizer (google-research/bert `FullTokenizer`).

    Attributes:
      lowercase: text is lower-cased first.
      strip_accents: accents are removed; None does so where `lowercase` is set.
      handle_chinese_chars: each CJK ideograph is a word.
    """

    kind = "wordpiece"
    file_name = "tokenizer.json"

    def __init__(
        self,
        vocab: list[str],
        lowercase: bool,
        name: str = "vocabulary",
        *,
        strip_accents: bool | None = None,
        handle_chinese_chars: bool = True,
    ):
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.handle_chinese_chars = handle_chinese_chars
        normalizer = normalizers.BertNormalizer(
            lowercase=lowercase,
            strip_accents=strip_accents,
            handle_chinese_chars=handle_chinese_chars,
        )
        backend = _wordpiece_backend(vocab, normalizer)
        super().__init__(backend.to_str(pretty=True).encode(), vocab, WORDPIECE_SPECIALS, name)
        backend.encode_special_tokens = True
        self._backend = backend
        self._memory = WordMemory(backend, self.vocab_size)

    @property
    def rules(self):
        strip = self.lowercase if self.strip_accents is None else self.strip_accents
        return {
            "kind": self.kind,
            "lowercase": self.lowercase,
            "strip_accents": strip,
            "handle_chinese_chars": self.handle_chinese_chars,
        }

    def encode_flat(self, texts):
        # Nothing that BERT's normaliser, splitter or WordPiece does looks across a space.
        return self._memory.encode_flat([text.split(" ") for text in texts])

    def decode(self, ids):
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def word_starts(self):
        return np.array([not piece.startswith("##") for piece in self._pieces])


class SentencePiece(Tokenizer):
    """A SentencePiece model with the special pieces of ALBERT."""

    kind = "sentencepiece"
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

    @property
    def rules(self):
        return {"kind": self.kind, "model": self.sha256}  # the model file says all of them

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


def _wordpiece_backend(vocab, normalizer):
    ids = {piece: i for i, piece in enumerate(vocab)}
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    if all(special in ids for special in WORDPIECE_SPECIALS):
        backend.add_special_tokens(list(WORDPIECE_SPECIALS))
        # Only for whoever opens the saved file with another library.
        ends = (("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
        backend.post_processor = processors.BertProcessing(*ends)
    return backend


def load(path: Path | str, lowercase: bool = True) -> Tokenizer:
    """Opens what `save` wrote, or the files that published models come with.

    Args:
      path: a tokenizer.json; a vocab.txt; a SentencePiece .model; a vocab.json beside its
        merges.txt; GPT-2's encoder.json beside vocab.bpe and fairseq's dict.txt; or a directory
        that holds one of these, looked for in this order.
      lowercase: lower-case and strip accents; read for vocab.txt only, the others say it themselves.

    Raises:
      DataError: no such file, not one of these formats, or a special token is missing.
    """
    path = storage.path(path)
    if storage.is_directory(path):
        names = ("tokenizer.json", "spiece.model", "vocab.txt", "vocab.json", "encoder.json")
        found = [path / name for name in names if storage.is_file(path / name)]
        if not found:
            raise DataError(f"{path}: holds none of {', '.join(names)}")
        path = found[0]
    if path.name == "vocab.json":
        return byte_bpe.from_files(path, path.with_name("merges.txt"))
    if path.name == "encoder.json":
        beside = (path.with_name(name) for name in ("vocab.bpe", "dict.txt"))
        return byte_bpe.from_gpt2(path, *beside)
    if path.suffix == ".model":
        return SentencePiece(vocabulary.read_bytes(path), str(path))
    if path.suffix == ".json":
        return _from_json(vocabulary.read_json(path), str(path))
    return WordPiece(read_vocab(path), lowercase, name=str(path))


def read_vocab(path: Path) -> list[str]:
    """The pieces of a vocab.txt, one a line."""
    lines = vocabulary.read_lines(path)
    repeated = [piece for piece, count in Counter(lines).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: {repeated[0]!r} appears more than once; ids would be ambiguous")
    return lines


def _from_json(tree, name):
    """The tokenizer that a tokenizer.json holds; its padding and truncation are of no interest."""
    try:
        model = tree["model"]
        # Files of early versions do not name the model.
        if model.get("type", "BPE" if "merges" in model else "WordPiece") == "BPE":
            return byte_bpe.from_json(tree, name)
        vocabulary.require(model, name, type=("WordPiece", None), unk_token=("[UNK]",))
        vocabulary.require(model, name, continuing_subword_prefix=("##",))
        vocabulary.require(model, name, max_input_chars_per_word=(100,))
        vocabulary.require(tree["pre_tokenizer"], name, type=("BertPreTokenizer",))
        normalizer = tree["normalizer"]
        vocabulary.require(normalizer, name, type=("BertNormalizer",), clean_text=(True,))
        return WordPiece(
            vocabulary.all_pieces(tree, name),
            normalizer["lowercase"],
            name,
            strip_accents=normalizer["strip_accents"],
            handle_chinese_chars=normalizer["handle_chinese_chars"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{name}: not a tokenizer.json ({one_line(error)[:200]})") from None
