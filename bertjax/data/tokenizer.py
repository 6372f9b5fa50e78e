"""Opens a tokenizer: WordPiece, SentencePiece or byte-level BPE, from any of their files.

`tokenizers` and `sentencepiece` do the work. Text is always encoded as text: a literal "[MASK]"
in a corpus becomes pieces, never the special token. Tokens added to a vocabulary are recognized.
"""

import dataclasses
from pathlib import Path

from bertjax.config.data_fields import Tokenizer as TokenizerConfig
from bertjax.data import tokenizer_files
from bertjax.data.sentence_piece import SPECIALS as SENTENCEPIECE_SPECIALS
from bertjax.data.sentence_piece import SentencePiece
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.data.tokenizer_files import Wish
from bertjax.data.wordpiece import SPECIALS as WORDPIECE_SPECIALS
from bertjax.data.wordpiece import WordPiece

__all__ = [
    "SENTENCEPIECE_SPECIALS",
    "WORDPIECE_SPECIALS",
    "SentencePiece",
    "Tokenizer",
    "WordPiece",
    "load",
    "read",
    "resolved",
]


def read(config: TokenizerConfig) -> tuple[Tokenizer, list[str]]:
    """The tokenizer at `config.path`, and a line for each setting guessed from the vocabulary.

    Raises:
      DataError, UsageError: as for `load`.
    """
    assert config.path is not None
    return tokenizer_files.read(config.path, Wish(config.lowercase, config.rules))


def load(path: Path | str, lowercase: bool | None = None, rules: str | None = None) -> Tokenizer:
    """Opens a file that `save` wrote, or the tokenizer files of a published model.

    Args:
      path: a tokenizer.json; a SentencePiece .model; a vocab.txt; a vocab.json beside its
        merges.txt; GPT-2's encoder.json beside vocab.bpe and fairseq's dict.txt; or a directory
        that holds one of these, searched in this order. Settings in tokenizer_config.json,
        special_tokens_map.json and added_tokens.json in the same folder apply.
      lowercase, rules: as in `config.tokenizer`; None takes them from the files.

    Raises:
      DataError: the file is missing or in none of these formats, a special token is missing, or
        the files contradict each other.
      UsageError: the files contradict `lowercase` or `rules`.
    """
    return tokenizer_files.read(path, Wish(lowercase, rules))[0]


def resolved(config: TokenizerConfig, found: Tokenizer) -> TokenizerConfig:
    """The config with `kind`, `lowercase` and `rules` of the tokenizer `found`."""
    rules = found.ruleset if isinstance(found, WordPiece) else None
    return dataclasses.replace(config, kind=found.kind, lowercase=found.lowercase, rules=rules)
