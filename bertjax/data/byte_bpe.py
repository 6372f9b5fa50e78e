"""Byte-level BPE, the tokenizer of GPT-2 and RoBERTa, from any of its file formats.

Each byte of a text is written as one printable character (a space as "Ġ"), so 256 pieces cover
every text and nothing is unknown. `tokenizers` does the work.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from bertjax.data import added_tokens, vocabulary
from bertjax.data.added_tokens import Added
from bertjax.data.store import token_dtype
from bertjax.data.tokenizer_base import Tokenizer, WordMemory, backend_offsets
from bertjax.errors import DataError, one_line

ROWS = "rows"  # field of a tokenizer.json: pieces with this id or a higher one are <unk>
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
_WHITE_SPACE = "".join(
    # Unicode's White_Space, as in `tokenizers`; Python's isspace adds four separators.
    c
    for c in map(chr, range(0x3001))
    if c.isspace() and c not in "\x1c\x1d\x1e\x1f"
)
_SPACE_MARKS = tuple(chr(0x100 + ord(c)) for c in "\t\n\v\f\r ")  # their byte-level BPE spellings
_WORD_BREAK = re.compile(r"(?= \S)")


class ByteBPE(Tokenizer):
    """RoBERTa's tokenizer (openai/gpt-2 `encoder.py` with the special tokens of fairseq).

    Attributes:
      merges: pairs of pieces in order of rank.
      add_prefix_space: a text is cut as if a space preceded it (RoBERTa: False).
      vocabulary: the pieces that merges make: all pieces except added tokens with the last ids.
    """

    kind = "byte_bpe"
    file_name = "tokenizer.json"
    marks_spaces = True

    def __init__(
        self,
        pieces: list[str],
        merges: list[tuple[str, str]],
        add_prefix_space: bool = False,
        unk_token: str | None = None,
        name: str = "vocabulary",
        added: Sequence[Added] = (),
    ) -> None:
        everything = added_tokens.complete(pieces, added, name)
        backend = _backend(pieces, merges, add_prefix_space, unk_token, name)
        added_tokens.register(backend, added, as_saved=True)
        contents = backend.to_str(pretty=True).encode()
        super().__init__(contents, everything, SPECIALS, name, added)
        if self.marker_ids:
            backend = _backend(pieces, merges, add_prefix_space, unk_token, name)
            added_tokens.register(backend, added, as_saved=False)
        backend.encode_special_tokens = True
        self._backend = backend
        self._memory = WordMemory(backend, self.vocab_size)
        self._added = added_tokens.any_of([token.content for token in self.added])
        self.vocabulary = pieces
        self.merges = merges
        self.add_prefix_space = add_prefix_space
        self.unk_token = unk_token

    @property
    def rules(self) -> dict:
        merges = hashlib.sha256("\n".join(map(" ".join, self.merges)).encode()).hexdigest()
        return super().rules | {"add_prefix_space": self.add_prefix_space, "merges": merges}

    def encode_flat(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if self._added is None:
            return self._memory.encode_flat([words(text) for text in texts])
        # The text before an added token ends there, trailing spaces included, so cutting at spaces
        # would change its ids: such a text stays whole.
        whole = self._added.search
        return self._memory.encode_flat([[t] if whole(t) else words(t) for t in texts])

    def encode_with_offsets(self, texts: list[str]) -> list[tuple[list[int], np.ndarray]]:
        return backend_offsets(self._backend, texts)

    def _split_at_masks(self, text: str) -> list[str]:
        # RoBERTa's mask replaces a word and the space before the word.
        *before, last = super()._split_at_masks(text)
        return [part.rstrip(_WHITE_SPACE) for part in before] + [last]

    def decode(self, ids: Iterable[int]) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def word_starts(self) -> np.ndarray:
        # By fairseq's rule a word starts with a space, and fairseq's texts are single lines. Here
        # a line break or tab ends a word too. Punctuation belongs to the word before it. The first
        # word of a text has no space; it starts a word because a special token precedes it.
        flags = np.array([piece.startswith(_SPACE_MARKS) for piece in self._pieces])
        flags[list(self.special_ids)] = True
        flags[[token.id for token in self.added]] = True
        return flags


class PartialBPE(ByteBPE):
    """GPT-2's byte-level BPE with a dictionary that lacks some of GPT-2's pieces.

    As in fairseq, all of GPT-2's merges cut the text, and then a piece that is not in the
    dictionary becomes <unk>. The file that `save` writes lists these pieces last, and its field
    `rows` gives their first id. Other libraries do not know this field and refuse the file.

    Attributes:
      absent: the pieces that become <unk>.
    """

    def __init__(self, pieces: list[str], merges: list, absent: list[str], name: str) -> None:
        super().__init__([*pieces, *absent], merges, name=name)
        tree = {ROWS: len(pieces)} | json.loads(self._contents)
        self._contents = json.dumps(tree, indent=2, ensure_ascii=False).encode()
        self.sha256 = hashlib.sha256(self._contents).hexdigest()
        self._pieces, self.vocab_size, self.absent = pieces, len(pieces), tuple(absent)

    def encode_flat(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, lengths = super().encode_flat(texts)
        known = np.where(ids < self.vocab_size, ids, self.unk_id)
        return known.astype(token_dtype(self.vocab_size)), lengths

    def encode_with_offsets(self, texts: list[str]) -> list[tuple[list[int], np.ndarray]]:
        known, unknown = self.vocab_size, self.unk_id
        return [
            ([i if i < known else unknown for i in ids], offsets)
            for ids, offsets in super().encode_with_offsets(texts)
        ]


def _partial_from_json(tree: dict, name: str) -> PartialBPE:
    rows = tree[ROWS]
    whole = from_json({field: part for field, part in tree.items() if field != ROWS}, name)
    if type(rows) is not int or not len(SPECIALS) <= rows < whole.vocab_size:
        raise DataError(f"{name}: {ROWS}={rows!r:.60}; expected a number of its pieces")
    pieces = whole.tokens(range(whole.vocab_size))
    if not set(SPECIALS) <= set(pieces[:rows]):
        raise DataError(f"{name}: a special token has no row among the first {rows}")
    return PartialBPE(pieces[:rows], whole.merges, pieces[rows:], name)


def _backend(
    pieces: list[str], merges: list, add_prefix_space: bool, unk_token: str | None, name: str
) -> tokenizers.Tokenizer:
    ids = {piece: i for i, piece in enumerate(pieces)}
    try:
        model = models.BPE(ids, merges, unk_token=unk_token)
    except Exception as error:  # the library has no error class of its own
        raise DataError(f"{name}: not a byte-level BPE ({one_line(error)})") from None
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    if ids.keys() >= set(SPECIALS):
        # Only for other libraries that open the saved file.
        mask = AddedToken("<mask>", lstrip=True, normalized=False, special=True)
        backend.add_special_tokens([*SPECIALS[:-1], mask])
        ends = (("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
        backend.post_processor = processors.RobertaProcessing(
            *ends, trim_offsets=True, add_prefix_space=add_prefix_space
        )
    return backend


def words(text: str) -> list[str]:
    """Cuts a text before each space that is followed by something other than white space.

    GPT-2's pattern always starts a piece there and never looks across. Of a run of white space,
    the last space goes to the next word; a run at the end of a text is cut like a run before a
    space. So the ids of a text are the ids of its words, one after the other.
    """
    return _WORD_BREAK.split(text)


def from_json(tree: dict, name: str) -> ByteBPE:
    """The tokenizer of a tokenizer.json; raises DataError if its kind is not supported."""
    if ROWS in tree:
        return _partial_from_json(tree, name)
    model, splitter = tree["model"], tree["pre_tokenizer"]
    vocabulary.require(
        model,
        name,
        dropout=(None,),
        unk_token=(None, "<unk>"),
        continuing_subword_prefix=(None, ""),
        end_of_word_suffix=(None, ""),
        byte_fallback=(None, False),
        ignore_merges=(None, False),
    )
    vocabulary.require(splitter, name, type=("ByteLevel",), use_regex=(None, True))
    vocabulary.require(splitter, name, add_prefix_space=(True, False))
    if tree.get("normalizer") is not None:
        normalizer = str(tree["normalizer"])[:60]
        raise DataError(f"{name}: BPE with the normalizer {normalizer} is not supported")
    pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    merges = [(left, right) for left, right in pairs]
    pieces, added = vocabulary.all_pieces(tree, SPECIALS, name)
    space, unk_token = splitter["add_prefix_space"], model.get("unk_token")
    return ByteBPE(pieces, merges, space, unk_token, name, added)


def from_files(vocab: Path, merges: Path, add_prefix_space: bool = False) -> ByteBPE:
    """The tokenizer of `vocab.json` + `merges.txt`."""
    pieces = vocabulary.in_order(vocabulary.read_json(vocab), str(vocab))
    return ByteBPE(pieces, _read_merges(merges), add_prefix_space, name=str(vocab))


def from_gpt2(encoder: Path, merges: Path, dictionary: Path) -> ByteBPE:
    """GPT-2's `encoder.json` + `vocab.bpe`, with ids in the order of fairseq's `dict.txt`.

    The rows of a fairseq model are <s>, <pad>, </s>, <unk>, the lines of the dictionary (each
    line is an id of GPT-2, or "madeupword0000" and the like), and <mask> (fairseq `Dictionary` and
    its masked-LM task). Hugging Face's vocab.json of RoBERTa has the same order. The dictionary of
    somebody's own text may lack pieces; they are <unk> in fairseq and here.

    Raises:
      DataError: a file is missing or damaged, or the three files do not belong together.
    """
    gpt2 = vocabulary.in_order(vocabulary.read_json(encoder), str(encoder))
    piece_of = {str(i): piece for i, piece in enumerate(gpt2)}
    pieces = ["<s>", "<pad>", "</s>", "<unk>"]
    for number, line in enumerate(vocabulary.read_lines(dictionary), 1):
        row = line.rsplit(" ", 1)[0]
        if row not in piece_of and not row.startswith("madeupword"):
            raise DataError(f"{dictionary}: line {number}: {encoder.name} has no id {row[:40]!r}")
        pieces.append(piece_of.get(row, row))
    pieces.append("<mask>")
    if len(set(pieces)) < len(pieces):
        raise DataError(f"{dictionary}: lists a piece twice of {encoder.name}")
    listed = set(pieces)
    absent = [piece for piece in gpt2 if piece not in listed]
    if absent:
        return PartialBPE(pieces, _read_merges(merges), absent, str(encoder))
    return ByteBPE(pieces, _read_merges(merges), name=str(encoder))


def _read_merges(path: Path) -> list[tuple[str, str]]:
    lines = vocabulary.read_lines(path)
    first = 1 if lines[0].startswith("#version") else 0
    merges: list[Any] = [tuple(line.split(" ")) for line in lines[first:]]
    for number, merge in enumerate(merges, first + 1):
        if len(merge) != 2:
            raise DataError(f"{path}: line {number}: expected two pieces, got {len(merge)}")
    return merges
