"""Chunks of a corpus to token ids, in several processes."""

import hashlib
import multiprocessing
import os
import re
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bertjax.config import Data
from bertjax.data import tokenizer
from bertjax.data.documents import Record, paragraphs, read_text, segment
from bertjax.data.readers import text_files
from bertjax.data.sources import Chunk
from bertjax.errors import BertjaxError

ENCODED_AT_ONCE = 1 << 17  # characters, so that what the tokenizer returns stays small
IN_FLIGHT = 3  # chunks handed out per worker
UNSPACED = ("ja", "zh")  # languages that put no space between sentences
OBSERVED = 1000  # characters at the start of a document, for the report
_OF_LINES = ("sentences", "paragraphs")  # forms whose documents a blank line ends
SAMPLED = 32  # one sentence in so many, about, may be searched for words that are unknown
_SMALL_LETTER = re.compile("[a-zà-öø-ÿα-ωа-я]")  # of scripts that have capitals
_MARKUP = re.compile(
    r"</?(p|div|br|span|a|table|t[dr]|[ou]l|li|h[1-6]|b|i)( [a-z-]+=[^<>]*)?/?>|&(#?\w{2,8});"
)
_WORD = re.compile(r"\w+|[^\w\s]")


class Tokenized(NamedTuple):
    """What a worker makes of one chunk: D documents, S sentences, T tokens."""

    tokens: np.ndarray  # [T]
    sentence_lengths: np.ndarray  # [S] tokens
    document_lengths: np.ndarray  # [D] sentences
    shares: np.ndarray  # [D] float64 in [0, 1), a stable hash of each document's text
    text_bytes: int
    position: int  # of the chunk
    dropped: Counter
    seen: Counter  # documents and tokens by what they showed (see `_observe`)
    unknown_words: Counter  # of a sample: see `SAMPLED`


def tokenize_all(
    chunks: Iterable[Chunk], data: Data, saved: Path
) -> Generator[Tokenized, None, None]:
    """Tokenizes every chunk in `data.num_workers` processes; results come in order.

    Args:
      saved: the tokenizer's file, which each process loads.
    """
    workers = data.num_workers or len(os.sched_getaffinity(0))
    if workers == 1:
        encoder = tokenizer.load(saved)
        yield from (tokenize(chunk, data, encoder) for chunk in chunks)
        return
    # Not fork: threads of this process (JAX has many) would not survive it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (saved, data))
    try:
        yield from in_order(pool, _tokenize_here, chunks, IN_FLIGHT * workers)
    except BrokenProcessPool:
        raise BertjaxError(
            f"a worker process died, most likely for lack of memory; "
            f"set config.data.num_workers below {workers}; of a Python script, put the call under "
            "if __name__ == '__main__':"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(pool: Executor, function: Callable, items: Iterable, ahead: int) -> Iterator:
    """`map` in a pool, with at most `ahead` results and items on their way."""
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_encoder: tokenizer.Tokenizer  # of a worker, and so is the next
_data: Data


def _start_worker(saved: Path, data: Data) -> None:
    # The parent answers Ctrl-C, and a worker must not outlive it, however it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core already
    global _encoder, _data
    _encoder, _data = tokenizer.load(saved), data


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _tokenize_here(chunk: Chunk) -> Tokenized:
    return tokenize(chunk, _data, _encoder)


def tokenize(chunk: Chunk, data: Data, encoder: tokenizer.Tokenizer) -> Tokenized:
    """Documents of a chunk to token ids; a document or sentence without tokens is left out.

    Where the tokenizer marks spaces, a sentence has the space before it that stood between it and
    the one before: the ids of a document are those of its sentences in one line.
    """
    dropped, seen, unknown_words = Counter(chunk.dropped), Counter(), Counter()
    ids, sentence_lengths, document_lengths, shares = [], [], [], []
    text_bytes = 0
    for record in chunk.records:
        text = read_text(record, data.text_field, dropped)
        if text is None:
            continue
        sentences = paragraphs(text, record.form)
        if record.form != "sentences":
            sentences = [s for p in sentences for s in segment(p, data.language)]
        if encoder.marks_spaces and data.language not in UNSPACED:
            sentences = sentences[:1] + [" " + s for s in sentences[1:]]
        first = len(ids)
        lengths = _encode(sentences, encoder, ids)
        if not lengths.any():
            dropped["empty document"] += 1
            continue
        shares.append(share(text))
        unknown = np.concatenate([part == encoder.unk_id for part in ids[first:]])
        if unknown.any():
            seen["unknown tokens"] += int(np.count_nonzero(unknown))
            if len(sentences) >= SAMPLED or shares[-1] * 4096 % 1 < 1 / SAMPLED:
                sentence = np.searchsorted(np.cumsum(lengths), np.argmax(unknown), "right")
                unknown_words.update(_unknown_words(sentences[sentence], encoder))
        _observe(seen, record, text)
        dropped["sentence without tokens"] += int((lengths == 0).sum())
        lengths = lengths[lengths > 0]
        sentence_lengths.append(lengths)
        document_lengths.append(len(lengths))
        text_bytes += len(text.encode())
    seen["documents"] = len(document_lengths)
    seen["one sentence"] = document_lengths.count(1)
    return Tokenized(
        np.concatenate(ids) if ids else np.empty(0, np.uint16),
        np.concatenate(sentence_lengths) if sentence_lengths else np.empty(0, np.int64),
        np.array(document_lengths, np.int64),
        np.array(shares),
        text_bytes,
        chunk.position,
        +dropped,
        +seen,
        unknown_words,
    )


def _observe(seen: Counter, record: Record, text: str) -> None:
    """Counts a document by what its start shows: a part of the text, so that it costs little."""
    start, form = text[:OBSERVED], record.form
    seen[form] += 1
    if form in _OF_LINES and len(record.data) >= text_files.SENTENCES_DOCUMENT:
        seen["cut"] += 1
    if start != start.lower():
        seen["capitals"] += 1
        seen["letters"] += 1
    elif _SMALL_LETTER.search(start):
        seen["letters"] += 1
    if ("<" in start or "&" in start) and _MARKUP.search(start):
        seen["markup"] += 1
    if "\ufffd" in start or "â€" in start:
        seen["garbled"] += 1


def _unknown_words(sentence: str, encoder: tokenizer.Tokenizer) -> list[str]:
    """The words and signs of a sentence that hold something unknown."""
    words = _WORD.findall(sentence[:OBSERVED])
    return [w for w, ids in zip(words, encoder.encode(words), strict=True) if encoder.unk_id in ids]


def _encode(
    sentences: list[str], encoder: tokenizer.Tokenizer, ids: list[np.ndarray]
) -> np.ndarray:
    """Appends arrays of ids to `ids`; returns the number of ids of each sentence."""
    lengths, batch, held = [np.empty(0, np.int64)], [], 0
    for i, sentence in enumerate(sentences, 1):
        batch.append(sentence)
        held += len(sentence)
        if held >= ENCODED_AT_ONCE or i == len(sentences):
            encoded, counts = encoder.encode_flat(batch)
            ids.append(encoded)
            lengths.append(counts)
            batch, held = [], 0
    return np.concatenate(lengths)


def share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little") / (1 << 48)
