"""A tiny byte-level BPE vocabulary, texts that are hard to cut, and `transformers` on them."""

import gzip
import json
import os
from itertools import islice
from pathlib import Path

import pytest
import transformers
from tokenizers import pre_tokenizers

MERGES = [("h", "e"), ("Ġ", "t"), ("Ġt", "he"), ("l", "o"), ("Ġ", "w"), ("o", "r"), ("Ġw", "or"),
          ("Ċ", "Ċ"), ("Ġ", "Ġ"), ("'", "s"), ("Ã", "©"), ("he", "l"), ("hel", "lo")]  # fmt: skip
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


def mask_that_swallows_space():
    """RoBERTa's mask token as its published tokenizer_config.json describes it."""
    return transformers.AddedToken("<mask>", lstrip=True, normalized=False, special=True)


def transformers_tokenizer(pieces, merges, **options):
    """The other side, given the vocabulary itself rather than files of ours."""
    vocab = {piece: i for i, piece in enumerate(pieces)}
    mask = mask_that_swallows_space()
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges, mask_token=mask, **options)


def data_directory():
    """The directory of real data; skips the test where there is none."""
    if "BERTJAX_TEST_DATA" not in os.environ:
        pytest.skip("BERTJAX_TEST_DATA is unset: no published vocabularies or texts here")
    return Path(os.environ["BERTJAX_TEST_DATA"])


def real_texts(count):
    """Documents of the pretraining sample."""
    with gzip.open(
        data_directory() / "pretrain" / "small.jsonl.gz", "rt", encoding="utf-8"
    ) as lines:
        return [json.loads(line)["text"] for line in islice(lines, count)]
