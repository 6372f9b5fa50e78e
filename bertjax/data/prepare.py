"""Text to token store: `prepare` reads, tokenises in several processes, and writes.

One process reads the corpus and writes the store; the others decode, cut into sentences and
tokenise. Only a few chunks are on their way at any moment, and results are written in the
order of the corpus, so memory is bounded and the bytes do not depend on the number of workers.
"""

import contextlib
import dataclasses
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter, deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bertjax.config import Config, Data
from bertjax.data import sources, tokenizer, train_tokenizer
from bertjax.data.documents import paragraphs, read_text, segment
from bertjax.data.store import Writer
from bertjax.errors import BertjaxError, DataError, StorageError, UsageError

TRAINING_BYTES = {
    "wordpiece": 256 << 20,
    "sentencepiece": 32 << 20,
}  # of text a tokenizer learns from
ENCODED_AT_ONCE = 1 << 17  # characters, so that what the tokenizer returns stays small
IN_FLIGHT = 3  # chunks handed out per worker

# Fields of config.data that do not change what is written.
_RUNTIME_FIELDS = ("num_workers", "prefetch_batches")


class Tokenised(NamedTuple):
    """What a worker makes of one chunk: D documents, S sentences, T tokens."""

    tokens: np.ndarray  # [T]
    sentence_lengths: np.ndarray  # [S] tokens
    document_lengths: np.ndarray  # [D] sentences
    shares: np.ndarray  # [D] float64 in [0, 1), a stable hash of each document's text
    text_bytes: int
    dropped: Counter


def prepare(config: Config, workdir: Path, *, progress: bool = True) -> dict:
    """Builds `workdir/store` and `workdir/tokenizer` from the corpus of `config.data`.

    The store is built beside its place and renamed into it when whole; one that was there before
    is replaced. Without `config.tokenizer.path` a tokenizer is first trained on the documents
    that are not held out.

    Args:
      progress: show progress and print the report on stderr.

    Returns:
      The manifest of the store (see `store`), its "report" in words included.

    Raises:
      UsageError: the config names no corpus, or a vocabulary smaller than the tokenizer's.
      DataError: the corpus or the tokenizer is missing or damaged, or holds no text.
      StorageError: the disk is full or refuses to be written.
    """
    workdir = Path(workdir)
    console = Console(stderr=True, quiet=not progress)
    started = time.monotonic()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(workdir)
        scratch = workdir / f"store.tmp-{os.getpid()}"
        try:
            manifest = _build(config, scratch, console)
            _install(scratch, workdir)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{error.filename or workdir}: {error.strerror or error}") from None
    console.print(manifest["report"], highlight=False, markup=False)
    seconds = time.monotonic() - started
    console.print(f"{'written':12}{workdir / 'store'} in {seconds:.0f} s", highlight=False)
    return manifest


def _remove_leftovers(workdir):
    for path in workdir.glob("store.tmp-*"):
        shutil.rmtree(path)


def _install(scratch, workdir):
    # Between the two removals and the renames there is no store at all, never one that does not
    # match the tokenizer.
    store, saved = workdir / "store", workdir / "tokenizer"
    if store.exists():
        store.rename(scratch / "replaced")
    shutil.rmtree(saved, ignore_errors=True)
    (scratch / "tokenizer").rename(saved)
    (scratch / "store").rename(store)


def _build(config, scratch, console):
    report = Counter()
    scratch.mkdir()
    model = _get_tokenizer(config, report, console)
    size = config.model.vocab_size
    if 0 < size < model.vocab_size:
        raise UsageError(
            f"config.model.vocab_size={size}: the tokenizer has {model.vocab_size} tokens; "
            "set it to that, or to 0 to take the tokenizer's size"
        )
    saved = model.save(scratch / "tokenizer")
    text_bytes = 0
    with Writer(scratch / "store", model.vocab_size) as writer:
        for result in _tokenise_all(config, saved, report, console):
            _write(writer, result, config.data.heldout_fraction)
            report.update(result.dropped)
            text_bytes += result.text_bytes
        if not writer.counts["train"]["documents"]:
            why = ", ".join(f"{count} x {reason}" for reason, count in sorted(report.items()))
            raise DataError(f"{_name(config.data)}: no document is left ({why or 'no text'})")
        data = {
            k: v for k, v in dataclasses.asdict(config.data).items() if k not in _RUNTIME_FIELDS
        }
        dropped = dict(sorted(report.items()))
        return writer.finish(
            tokenizer_sha256=model.sha256,
            text_bytes=text_bytes,
            dropped=dropped,
            data=data,
            tokenizer=dataclasses.asdict(config.tokenizer),
            report=describe(writer.counts, text_bytes, dropped, model),
        )


def _name(data: Data) -> str:
    names = {"files": f"config.data.files={data.files!r}", "tfds": f"TFDS {data.tfds_name}"}
    return names.get(data.source, f"config.data.source={data.source}")


def describe(counts: dict, text_bytes: int, dropped: dict, model: tokenizer.Tokenizer) -> str:
    """The report that a person reads: what was stored, and what was left out and why."""
    lines = [f"{'':12}{'documents':>14}{'sentences':>16}{'tokens':>18}"]
    for split, count in counts.items():
        documents, sentences, tokens = (count[k] for k in ("documents", "sentences", "tokens"))
        lines.append(f"{split:12}{documents:14,}{sentences:16,}{tokens:18,}")
    tokens = sum(count["tokens"] for count in counts.values())
    lines.append(
        f"{'text':12}{text_bytes / 1e6:,.1f} MB, {text_bytes / max(tokens, 1):.2f} bytes a token"
    )
    lines.append(f"{'vocabulary':12}{model.vocab_size:,} tokens, sha256 {model.sha256[:12]}")
    reasons = [f"{count:,} x {reason}" for reason, count in dropped.items()]
    lines.append(f"{'left out':12}{'; '.join(reasons) or 'nothing'}")
    if not counts["heldout"]["documents"]:
        lines.append(f"{'note':12}no document is held out for evaluation: the corpus is too small")
    return "\n".join(lines)


def _write(writer, result, heldout_fraction):
    """Appends a chunk. The first document always trains, so that there is something to train on."""
    heldout = result.shares < heldout_fraction
    if not writer.counts["train"]["documents"] and len(heldout):
        heldout[0] = False
    for split, chosen in (("train", ~heldout), ("heldout", heldout)):
        if not chosen.any():
            continue
        sentences = np.repeat(chosen, result.document_lengths)
        tokens = np.repeat(sentences, result.sentence_lengths)
        writer.append(
            split,
            result.tokens[tokens],
            result.sentence_lengths[sentences],
            result.document_lengths[chosen],
        )


def _get_tokenizer(config, report, console):
    if config.tokenizer.path:
        return tokenizer.load(config.tokenizer.path, config.tokenizer.lowercase)
    texts = _training_texts(config, console)
    if config.tokenizer.kind == "sentencepiece":
        texts = train_tokenizer.fit_lines(texts, report)
    return train_tokenizer.train(config.tokenizer, texts)


def _training_texts(config, console):
    """Paragraphs of documents that are not held out, thinned to `TRAINING_BYTES` in all.

    Which documents stay is drawn from the same hash as the held-out ones. The size of the text
    is only known from the files: a compressed one counts threefold.
    """
    data = config.data
    low, high = data.heldout_fraction, 1.0
    expected = max(sources.size(data), 1) * (3 if data.source == "files" else 4096)
    high = min(1.0, low + (1 - low) * TRAINING_BYTES[config.tokenizer.kind] / expected)
    first = True
    for chunk in _watched(sources.chunks(data, Counter()), data, "train tokenizer", console):
        for record in chunk.records:
            text = read_text(record, data.text_field)
            if first or low <= _share(text) < high:
                found = paragraphs(text, record.form)
                first = first and not found
                yield from found


def _share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little") / (1 << 48)


def _watched(chunks, data, title, console):
    """Passes chunks on and shows how far reading has come, its rate and the time left."""
    columns = (
        TextColumn("{task.description:16}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]:.1f} MB/s of text"),
        TimeRemainingColumn(),
    )
    done, started = 0, time.monotonic()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=sources.size(data), rate=0.0)
        for chunk in chunks:
            yield chunk
            done += sum(len(record.data) for record in chunk.records)
            rate = done / (time.monotonic() - started) / 1e6
            bar.update(task, completed=chunk.position, rate=rate)


def _tokenise_all(config, saved, report, console):
    """Yields `Tokenised` for every chunk, in order."""
    workers = config.data.num_workers or len(os.sched_getaffinity(0))
    chunks = sources.chunks(config.data, report)
    with contextlib.ExitStack() as stack:
        if workers == 1:
            encoder = tokenizer.load(saved)
            for chunk in _watched(chunks, config.data, "tokenise", console):
                yield tokenise(chunk, config.data, encoder)
            return
        # Threads of this process (JAX has many) do not survive a fork.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, context, _start_worker, (str(saved), config.data))
        stack.callback(pool.shutdown, cancel_futures=True)
        waiting = deque()
        try:
            for chunk in _watched(chunks, config.data, "tokenise", console):
                waiting.append(pool.submit(_tokenise_here, chunk))
                if len(waiting) > IN_FLIGHT * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise BertjaxError(
                "a worker process died, most likely for lack of memory; "
                f"lower config.data.num_workers={workers}"
            ) from None


def _start_worker(saved, data):
    # The parent answers Ctrl-C, and a worker must not outlive it, however it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core already
    global _encoder, _data
    _encoder, _data = tokenizer.load(saved), data


def _exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _tokenise_here(chunk):
    return tokenise(chunk, _data, _encoder)


def tokenise(chunk: sources.Chunk, data: Data, encoder: tokenizer.Tokenizer) -> Tokenised:
    """Documents of a chunk to token ids; a document or sentence without tokens is left out."""
    dropped = Counter()
    ids, sentence_lengths, document_lengths, shares = [], [], [], []
    text_bytes = 0
    for record in chunk.records:
        text = read_text(record, data.text_field)
        sentences = paragraphs(text, record.form)
        if record.form != "sentences":
            sentences = [s for p in sentences for s in segment(p, data.language)]
        lengths = _encode(sentences, encoder, ids)
        if not lengths.any():
            dropped["empty document"] += 1
            continue
        dropped["sentence without tokens"] += int((lengths == 0).sum())
        lengths = lengths[lengths > 0]
        sentence_lengths.append(lengths)
        document_lengths.append(len(lengths))
        shares.append(_share(text))
        text_bytes += len(text.encode())
    return Tokenised(
        np.concatenate(ids) if ids else np.empty(0, np.uint16),
        np.concatenate(sentence_lengths) if sentence_lengths else np.empty(0, np.int64),
        np.array(document_lengths, np.int64),
        np.array(shares),
        text_bytes,
        +dropped,
    )


def _encode(sentences, encoder, ids):
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
