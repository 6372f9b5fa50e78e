"""Learns a WordPiece, SentencePiece or byte-level BPE vocabulary from a corpus."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.data import byte_bpe, wordpiece
from bertjax.data.byte_bpe import ByteBPE
from bertjax.data.documents import cut
from bertjax.data.sentence_piece import SentencePiece
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.data.wordpiece import SPECIALS as WORDPIECE_SPECIALS
from bertjax.data.wordpiece import WordPiece
from bertjax.errors import DataError, UsageError, one_line

COUNTED_WORDS = 1 << 21  # distinct words held while counting; beyond, rare words are dropped
ALPHABET = 1000  # number of most frequent characters that are kept
LONGEST_PIECE = 100  # characters; a longer word is [UNK], in the reference too
SENTENCEPIECE_LINE = 4192  # bytes


def train(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Learns a vocabulary of at most `config.vocab_size` pieces.

    The result depends only on the config and the texts: it is the same in every run and on any
    number of cores. It is lower-cased unless `config.lowercase` is False; byte-level BPE keeps case
    and accents.

    Raises:
      DataError: the texts hold no words, or SentencePiece finds too few.
      UsageError: `vocab_size` is too small for the bytes of byte-level BPE, or the config sets a
        field that the kind does not have.
    """
    if config.rules is not None and config.kind != "wordpiece":
        raise UsageError(f"config.tokenizer.rules={config.rules}: {config.kind} has no such choice")
    if config.kind == "sentencepiece":
        return _train_sentencepiece(config, texts)
    if config.kind == "byte_bpe":
        return _train_byte_bpe(config, texts)
    return _train_wordpiece(config, texts)


def _train_wordpiece(config: TokenizerConfig, texts: Iterable[str]) -> WordPiece:
    """Counts words here and leaves the merges to `tokenizers`.

    The trainer of `tokenizers` numbers characters in the order of a randomly seeded hash table and
    breaks ties by these numbers, so two runs on one corpus differ. Naming every character as a
    special token beforehand fixes the numbers.
    """
    lowercase, rules = config.lowercase is not False, config.rules or "huggingface"
    normalizer, splitter = wordpiece.parts_of(rules, lowercase)
    words = _count_words(texts, str.split)
    pieces = _count_pieces(words, normalizer, splitter)
    characters = Counter()
    for piece, count in pieces.items():
        for character in piece:
            characters[character] += count
    if not characters:
        raise DataError("no words to train a tokenizer on")
    frequent = sorted(characters, key=lambda c: (-characters[c], c))[:ALPHABET]
    alphabet = sorted(frequent)
    kept = set(alphabet)
    first = [*WORDPIECE_SPECIALS, *alphabet, *("##" + c for c in alphabet)]
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size, min_frequency=2, special_tokens=first, show_progress=False
    )
    words = {p: n for p, n in pieces.items() if len(p) <= LONGEST_PIECE and kept.issuperset(p)}
    backend.train_from_iterator(_repeat(words), trainer)
    vocab = backend.get_vocab()
    pieces = sorted(vocab, key=vocab.__getitem__)
    return WordPiece(pieces, lowercase, "trained vocabulary", ruleset=rules)


def _train_byte_bpe(config: TokenizerConfig, texts: Iterable[str]) -> ByteBPE:
    """Counts the pieces of GPT-2's pattern here and leaves the merges to `tokenizers`.

    The most frequent pair of neighbors is merged next. Among equal pairs, the pair with the lower
    id of the left piece, then of the right piece, comes first (bytes have the lowest ids, in the
    order of their characters). Overlapping pairs all count: "aaa" holds two. Unlike in WordPiece,
    nothing depends on the order of a hash table.

    Ids, as in RoBERTa: <s>, <pad>, </s>, <unk>, the pieces, <mask>. A special token cannot be
    learned as a piece, because the pattern separates words from punctuation.
    """
    if config.lowercase:
        raise UsageError(
            "config.tokenizer.lowercase=True: byte-level BPE keeps case; leave it unset"
        )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = len(byte_bpe.SPECIALS)
    if config.vocab_size < specials + len(alphabet):
        raise UsageError(
            f"config.tokenizer.vocab_size={config.vocab_size}: byte-level BPE begins with "
            f"{specials} special tokens and {len(alphabet)} bytes; set it to at least "
            f"{specials + len(alphabet)}"
        )
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = Counter()
    for word, count in _count_words(texts, byte_bpe.words).items():
        for piece, _ in splitter.pre_tokenize_str(word):
            pieces[piece] += count
    if not pieces:
        raise DataError("no words to train a tokenizer on")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - specials,
        min_frequency=2,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(_repeat(pieces), trainer)
    model = json.loads(backend.to_str())["model"]
    learned = sorted(model["vocab"], key=model["vocab"].get)
    merges = [(left, right) for left, right in model["merges"]]
    return byte_bpe.ByteBPE(
        ["<s>", "<pad>", "</s>", "<unk>", *learned, "<mask>"], merges, name="trained vocabulary"
    )


def _count_words(texts: Iterable[str], split: Callable[[str], list[str]]) -> Counter:
    """The number of occurrences of each word, counted in bounded memory."""
    words = Counter()
    for text in texts:
        words.update(split(text))
        if len(words) > COUNTED_WORDS:
            rare = sorted(words.values())[len(words) // 2]
            words = Counter({word: count for word, count in words.items() if count > rare})
    return words


def _count_pieces(words: Counter, normalizer: Any, splitter: Any) -> Counter:
    """The number of occurrences of each piece between spaces and punctuation."""
    by_count = {}
    for word, count in words.items():
        by_count.setdefault(count, []).append(word)
    pieces = Counter()
    for count, same in by_count.items():
        for i in range(0, len(same), 1000):
            text = normalizer.normalize_str(" ".join(same[i : i + 1000]))
            for piece, _ in splitter.pre_tokenize_str(text):
                pieces[piece] += count
    return pieces


def _repeat(counts: dict[str, int]) -> Iterator[str]:
    """Texts in which each word occurs as often as counted."""
    for word in sorted(counts):
        for start in range(0, counts[word], 10_000):
            yield " ".join([word] * min(10_000, counts[word] - start))


def _train_sentencepiece(config: TokenizerConfig, texts: Iterable[str]) -> SentencePiece:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.vocab_size,
            hard_vocab_limit=False,  # a small corpus may give fewer pieces
            max_sentence_length=SENTENCEPIECE_LINE,
            normalization_rule_name="nmt_nfkc" if config.lowercase is False else "nmt_nfkc_cf",
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece="<pad>",
            control_symbols=["[CLS]", "[SEP]", "[MASK]"],
            num_threads=4,  # sums differ in the last bit with the number of threads
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(f"SentencePiece cannot train on this corpus: {one_line(error)}") from None
    return SentencePiece(model.getvalue())


def fit_lines(texts: Iterable[str], report: Counter) -> Iterator[str]:
    """Cuts texts so that the SentencePiece trainer takes every line.

    The trainer silently skips lines over `SENTENCEPIECE_LINE` bytes and lines with a reserved
    character. This function cuts the long lines, leaves out the others, and counts both in
    `report`.
    """
    for text in texts:
        if "\0" in text or "▅" in text:
            report["tokenizer training: line with a reserved character"] += 1
        elif len(text.encode()) <= SENTENCEPIECE_LINE:
            yield text
        else:
            report["tokenizer training: long line, cut"] += 1
            yield from cut(text, SENTENCEPIECE_LINE // 4)  # UTF-8 takes at most 4 bytes
