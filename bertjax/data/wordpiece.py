"""WordPiece, the tokenizer of BERT, with one of two sets of rules.

huggingface: the rules of `transformers` (`tokenizers.normalizers.BertNormalizer`).
google: the rules of google-research/bert's `tokenization.py`. They differ in these points:

- A capital sigma at the end of a word becomes a final sigma when lower-cased.
- A word is unknown from 201 characters on, not from 101.
- Private-use characters are kept.
- Characters are classified by today's Unicode, and U+2B820 to U+2B91F are CJK ideographs.
  `tokenization.py` itself uses the Unicode version of its Python: characters assigned or
  reclassified since then may differ.
"""

import functools
import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from bertjax.data import added_tokens, vocabulary
from bertjax.data.added_tokens import Added
from bertjax.data.tokenizer_base import Tokenizer, WordMemory, backend_offsets
from bertjax.errors import DataError, UsageError, one_line

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
RULES = ("huggingface", "google")
LONGEST_WORD = {"huggingface": 100, "google": 200}  # characters; beyond, a word is [UNK]

# The rule of Python's str.lower: a sigma is final if a cased letter precedes it and none follows;
# case-ignorable characters (quotes, accents) between them do not count. "\K" drops the text before
# the sigma from the match.
_IGNORED, _CASED = r"\p{Case_Ignorable}*", r"[\p{Cased}&&[^\p{Case_Ignorable}]]"
_FINAL_SIGMA = rf"{_CASED}{_IGNORED}\KΣ(?!{_IGNORED}{_CASED})"
_REMOVED = r"[\p{Cc}\p{Cf}\x{FFFD}&&[^\t\n\r]]"
_PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"
_IDEOGRAPHS = (
    r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}"
    r"\x{2B740}-\x{2B81F}\x{2B820}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}]"
)


class WordPiece(Tokenizer):
    """BERT's tokenizer.

    Attributes:
      ruleset: "huggingface" or "google", see above.
      lowercase: text is lower-cased first.
      strip_accents: accents are removed; None means the value of `lowercase`.
      handle_chinese_chars: each CJK ideograph is a word.
      vocabulary: the pieces of words: all pieces except the added tokens with the last ids.
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
        ruleset: str = "huggingface",
        added: Sequence[Added] = (),
    ) -> None:
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.handle_chinese_chars = handle_chinese_chars
        self.ruleset = ruleset
        self.vocabulary = vocab
        parts = parts_of(ruleset, lowercase, strip_accents, handle_chinese_chars)
        pieces = added_tokens.complete(vocab, added, name)
        backend = _backend(vocab, ruleset, *parts)
        added_tokens.register(backend, added, as_saved=True)
        contents = backend.to_str(pretty=True).encode()
        super().__init__(contents, pieces, SPECIALS, name, added)
        if self.marker_ids:
            backend = _backend(vocab, ruleset, *parts)
            added_tokens.register(backend, added, as_saved=False)
        backend.encode_special_tokens = True
        self._backend = backend
        self._memory = WordMemory(backend, self.vocab_size)
        self._across = added_tokens.across_spaces(added, parts[0].normalize_str)

    @property
    def rules(self) -> dict:
        strip = self.lowercase if self.strip_accents is None else self.strip_accents
        return super().rules | {
            "rules": self.ruleset,
            "strip_accents": strip,
            "handle_chinese_chars": self.handle_chinese_chars,
        }

    def encode_flat(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        # BERT's normalizer, splitter and WordPiece never look across a space. Only an added token
        # may hold one.
        if self._across is None:
            return self._memory.encode_flat([text.split(" ") for text in texts])
        whole = self._across.search
        return self._memory.encode_flat([[t] if whole(t) else t.split(" ") for t in texts])

    def encode_with_offsets(self, texts: list[str]) -> list[tuple[list[int], np.ndarray]]:
        encoded = backend_offsets(self._backend, texts)
        for text, (_, offsets) in zip(texts, encoded, strict=True):
            if len(offsets) and not text.isascii():
                _take_lost_marks(text, offsets)
        return encoded

    def decode(self, ids: Iterable[int]) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def word_starts(self) -> np.ndarray:
        flags = np.array([not piece.startswith("##") for piece in self._pieces])
        flags[[token.id for token in self.added]] = True
        return flags


def _take_lost_marks(text: str, offsets: np.ndarray) -> None:
    """Moves each end in `offsets` [T, 2] behind the combining marks that belong to no piece."""
    starts, ends = offsets[:, 0].tolist(), offsets[:, 1].tolist()
    for index, (end, until) in enumerate(zip(ends, [*starts[1:], len(text)], strict=True)):
        while end < until and unicodedata.category(text[end])[0] == "M":
            end += 1
        offsets[index, 1] = end


def parts_of(
    ruleset: str,
    lowercase: bool,
    strip_accents: bool | None = None,
    handle_chinese_chars: bool = True,
) -> tuple[Any, Any]:
    """`(normalizer, pre-tokenizer)` of a set of rules.

    Raises:
      UsageError: `ruleset` is "google", and accents or ideographs are set against its rules.
    """
    if ruleset == "google":
        if strip_accents not in (None, lowercase) or not handle_chinese_chars:
            raise UsageError(
                "tokenizer.rules=google: strips accents where it lower-cases, and makes each "
                "ideograph a word; strip_accents and tokenize_chinese_chars cannot be set"
            )
        steps: list[Any] = [normalizers.Replace(Regex(_REMOVED), "")]
        if lowercase:
            steps += [normalizers.Replace(Regex(_FINAL_SIGMA), "ς"), normalizers.Lowercase()]
            steps += [normalizers.NFD(), normalizers.Replace(Regex(r"\p{Mn}"), "")]
        split: list[Any] = [pre_tokenizers.WhitespaceSplit()]
        for pattern in (_PUNCTUATION, _IDEOGRAPHS):
            split.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
        return normalizers.Sequence(steps), pre_tokenizers.Sequence(split)
    normalizer = normalizers.BertNormalizer(
        lowercase=lowercase,
        strip_accents=strip_accents,
        handle_chinese_chars=handle_chinese_chars,
    )
    return normalizer, pre_tokenizers.BertPreTokenizer()


def _backend(
    vocab: Iterable[str], ruleset: str, normalizer: Any, pre_tokenizer: Any
) -> tokenizers.Tokenizer:
    ids = {piece: i for i, piece in enumerate(vocab)}
    longest = LONGEST_WORD[ruleset]
    model = models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=longest)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.WordPiece()
    if all(special in ids for special in SPECIALS):
        backend.add_special_tokens(list(SPECIALS))
        # Only for other libraries that open the saved file.
        ends = (("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
        backend.post_processor = processors.BertProcessing(*ends)
    return backend


@functools.cache
def _google_parts(lowercase: bool) -> tuple[dict, dict]:
    """The normalizer and pre-tokenizer of Google's rules as JSON trees of a tokenizer.json."""
    backend = tokenizers.Tokenizer(models.WordPiece())
    backend.normalizer, backend.pre_tokenizer = parts_of("google", lowercase)
    tree = json.loads(backend.to_str())
    return tree["normalizer"], tree["pre_tokenizer"]


def from_json(tree: dict, name: str) -> WordPiece:
    """The tokenizer of a tokenizer.json; raises DataError if its kind is not supported."""
    model = tree["model"]
    vocabulary.require(model, name, type=("WordPiece", None), unk_token=("[UNK]",))
    vocabulary.require(model, name, continuing_subword_prefix=("##",))
    pieces, added = vocabulary.all_pieces(tree, SPECIALS, name)
    normalizer = tree["normalizer"]
    for lowercase in (True, False):
        if (normalizer, tree["pre_tokenizer"]) == _google_parts(lowercase):
            longest = LONGEST_WORD["google"]
            vocabulary.require(model, name, max_input_chars_per_word=(longest,))
            return WordPiece(pieces, lowercase, name, ruleset="google", added=added)
    vocabulary.require(model, name, max_input_chars_per_word=(LONGEST_WORD["huggingface"],))
    vocabulary.require(tree["pre_tokenizer"], name, type=("BertPreTokenizer",))
    if normalizer["type"] != "BertNormalizer":
        raise DataError(
            f"{name}: WordPiece with the normalizer {one_line(str(normalizer), longest=100)} is not "
            "supported; BertNormalizer is"
        )
    vocabulary.require(normalizer, name, clean_text=(True,))
    return WordPiece(
        pieces,
        normalizer["lowercase"],
        name,
        strip_accents=normalizer["strip_accents"],
        handle_chinese_chars=normalizer["handle_chinese_chars"],
        added=added,
    )
