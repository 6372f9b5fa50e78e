"""Learns a WordPiece or SentencePiece vocabulary from a corpus."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator

import sentencepiece
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.data.documents import cut, one_line
from bertjax.data.tokenizer import WORDPIECE_SPECIALS, SentencePiece, Tokenizer, WordPiece
from bertjax.errors import DataError, UsageError

COUNTED_WORDS = 1 << 21  # distinct words held while counting; the rare ones go first
ALPHABET = 1000  # most frequent characters kept
LONGEST_PIECE = 100  # characters; WordPiece gives [UNK] beyond, in the reference too
SENTENCEPIECE_LINE = 4192  # bytes


def train(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Learns a vocabulary of at most `config.vocab_size` pieces.

    The result depends on the texts alone: the same in every run, on any number of cores.

    Raises:
      DataError: the texts hold no words, or too few for this vocabulary size.
      UsageError: a kind of tokenizer that cannot be trained here.
    """
    if config.kind == "sentencepiece":
        return _train_sentencepiece(config, texts)
    if config.kind == "wordpiece":
        return _train_wordpiece(config, texts)
    raise UsageError(
        f"config.tokenizer.kind={config.kind}: no such tokenizer is trained here yet; set "
        "config.tokenizer.path to an encoder.json (beside vocab.bpe and dict.txt), a vocab.json "
        "(beside merges.txt) or a tokenizer.json"
    )


def _train_wordpiece(config, texts):
    """Counts words here and leaves the merges to `tokenizers`.

    Its trainer numbers characters in the order of a randomly seeded hash table and breaks ties
    by these numbers, so two runs on one corpus differ. Naming every character beforehand, as
    if it were special, fixes the numbers.
    """
    normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
    pieces = _count_pieces(texts, normalizer, pre_tokenizers.BertPreTokenizer())
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
    return WordPiece(sorted(vocab, key=vocab.get), config.lowercase, "trained vocabulary")


def _count_pieces(texts, normalizer, splitter) -> Counter:
    """How often each piece between spaces and punctuation occurs, in bounded memory."""
    words = Counter()
    for text in texts:
        words.update(text.split())
        if len(words) > COUNTED_WORDS:
            rare = sorted(words.values())[len(words) // 2]
            words = Counter({word: count for word, count in words.items() if count > rare})
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


def _train_sentencepiece(config, texts):
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.vocab_size,
            hard_vocab_limit=False,  # a small corpus may give fewer pieces
            max_sentence_length=SENTENCEPIECE_LINE,
            normalization_rule_name="nmt_nfkc_cf" if config.lowercase else "nmt_nfkc",
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

    It skips lines over `SENTENCEPIECE_LINE` bytes and lines with a character that it reserves,
    without a word; here the first are cut, the second left out, and `report` counts both.
    """
    for text in texts:
        if "\0" in text or "▅" in text:
            report["tokenizer training: line with a reserved character"] += 1
        elif len(text.encode()) <= SENTENCEPIECE_LINE:
            yield text
        else:
            report["tokenizer training: long line, cut"] += 1
            yield from cut(text, SENTENCEPIECE_LINE // 4)  # UTF-8 takes at most 4 bytes
