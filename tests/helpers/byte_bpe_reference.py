"""References for byte-level BPE: `transformers`, and merges learned in plain Python.

A tiny vocabulary and texts that are hard to cut come with them.
"""

import gzip
import json
import os
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import pytest
import regex
import transformers
from tokenizers import pre_tokenizers

MERGES = [
    ("h", "e"),
    ("Ġ", "t"),
    ("Ġt", "he"),
    ("l", "o"),
    ("Ġ", "w"),
    ("o", "r"),
    ("Ġw", "or"),
    ("Ċ", "Ċ"),
    ("Ġ", "Ġ"),
    ("'", "s"),
    ("Ã", "©"),
    ("he", "l"),
    ("hel", "lo"),
]
PIECES = [
    *("<s>", "<pad>", "</s>", "<unk>"),
    *sorted(pre_tokenizers.ByteLevel.alphabet()),
    *("".join(merge) for merge in MERGES),
    "<mask>",
]
NASTY = [
    "",
    " ",
    "hello the world's hello, don't!  two  spaces ",
    "\tthe\n\nworld\r\n the\u00a0end\u3000wide\u2028line",
    "Café naïve Ångström e\u0301 ﬁ ß İstanbul ΑΣ",
    "日本語 中文,한국어 שלום مرحبا ไทย",
    "👩‍👩‍👧 🇫🇷 \U0001f600\ufe0f",
    "zero\u200bwidth \ufeffmark \x00nul \x07bell \x1cseparator \x85next \ufffd",
    "x" * 150 + " 1234567890 ½ ² 3.14e-10 #hash @at <html> {} ~`",
    "<|endoftext|> [mask] < mask > madeupword0000 ##ing Ġhello Ċ",
]
# Parts of text that are cut differently depending on their neighbors.
HARD = [
    *" \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000",
    *"\u200b\u2060\ufeff\u00ad\u180e\u0301\u0327\u20e3\ufe0f\u200d\u0e31\u093f",
    *"aéßΣжאعठ日ก01٣½²Ⅷ'\u2019\"-.,_#@<>😀👩🇫",
    "  ",
    "   ",
    "'s",
    "'ll",
    " '",
    "the",
    " w",
]
# The pattern of openai/gpt-2's encoder.py.
PATTERN = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)


def byte_characters():
    """The character of each byte: its Latin-1 character if visible, else characters from 256 on."""
    seen = [b for b in range(256) if 33 <= b <= 126 or (161 <= b <= 255 and b != 173)]
    others = [b for b in range(256) if b not in seen]
    return {b: chr(b) for b in seen} | {b: chr(256 + i) for i, b in enumerate(others)}


def library_pieces(text):
    """The pieces from `tokenizers`, with a character for each byte."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return [piece for piece, _ in splitter.pre_tokenize_str(text)]


def learn_merges(texts, count):
    """At most `count` merges of pairs that occur twice or more; pairs are recounted every time.

    Among equally frequent pairs, the pair with the oldest pieces comes first. Bytes are the oldest,
    in the order of their characters.
    """
    characters = byte_characters()
    age = {character: i for i, character in enumerate(sorted(characters.values()))}
    pieces = Counter(piece for text in texts for piece in PATTERN.findall(text))
    pieces = [([characters[b] for b in piece.encode()], n) for piece, n in pieces.items()]
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for piece, n in pieces:
            for pair in pairwise(piece):
                pairs[pair] += n
        if not pairs or max(pairs.values()) < 2:
            break
        best = min(pairs, key=lambda p: (-pairs[p], age[p[0]], age[p[1]]))
        merges.append(best)
        age["".join(best)] = len(age)
        for piece, _ in pieces:
            i = 0
            while i < len(piece) - 1:
                if (piece[i], piece[i + 1]) == best:
                    piece[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def mask_that_swallows_space():
    """RoBERTa's mask token as its published tokenizer_config.json describes it."""
    return transformers.AddedToken("<mask>", lstrip=True, normalized=False, special=True)


def transformers_tokenizer(pieces, merges, **options):
    """The reference tokenizer, made from the vocabulary and not from files that bertjax wrote."""
    vocab = {piece: i for i, piece in enumerate(pieces)}
    mask = mask_that_swallows_space()
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges, mask_token=mask, **options)


def data_directory():
    """The directory of real data; skips the test without one."""
    if "BERTJAX_TEST_DATA" not in os.environ:
        pytest.skip("BERTJAX_TEST_DATA is unset: no published vocabularies or texts here")
    return Path(os.environ["BERTJAX_TEST_DATA"])


def real_texts(count):
    """Documents of the pretraining sample."""
    with gzip.open(
        data_directory() / "pretrain" / "small.jsonl.gz", "rt", encoding="utf-8"
    ) as lines:
        return [json.loads(line)["text"] for line in islice(lines, count)]
