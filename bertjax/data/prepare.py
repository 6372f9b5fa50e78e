"""Text to token store: `prepare` reads, tokenises in several processes, and writes.

One process reads the corpus and writes the store; the others decode, cut into sentences and
tokenise. Only a few chunks are on their way at any moment, and results are written in the
order of the corpus, so memory is bounded and the bytes do not depend on the number of workers.
"""

import contextlib
import dataclasses
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bertjax.config import Config, Data
from bertjax.data import sources, tokenizer, train_tokenizer
from bertjax.data.documents import paragraphs, read_text
from bertjax.data.store import Writer
from bertjax.data.tokenise import share, tokenise_all
from bertjax.errors import DataError, StorageError, UsageError

# Text that a tokenizer learns from, in bytes; SentencePiece holds it all, about twenty times over.
TRAINING_BYTES = {"wordpiece": 256 << 20, "sentencepiece": 32 << 20}

# Fields of config.data that do not change what is written.
_RUNTIME_FIELDS = ("num_workers", "prefetch_batches")


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
    config = _with_tokenizer_of_weights(config, workdir)
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


def _with_tokenizer_of_weights(config: Config, workdir: Path) -> Config:
    """Weights that lie in W already, converted or trained, read their ids by W's own tokenizer."""
    mine = workdir / "tokenizer"
    if config.tokenizer.path or not (mine.is_dir() and (workdir / "checkpoints").is_dir()):
        return config
    return dataclasses.replace(
        config, tokenizer=dataclasses.replace(config.tokenizer, path=str(mine))
    )


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
    """Writes `scratch/store` and `scratch/tokenizer`; returns the manifest."""
    scratch.mkdir()
    with console.status("opening the corpus"):
        size = sources.size(config.data)
    dropped = Counter()
    model = _get_tokenizer(config, size, dropped, console)
    vocab_size = config.model.vocab_size
    if 0 < vocab_size < model.vocab_size:
        raise UsageError(
            f"config.model.vocab_size={vocab_size}: the tokenizer has {model.vocab_size} tokens; "
            "set it to that, or to 0 to take the tokenizer's size"
        )
    saved = model.save(scratch / "tokenizer")
    with Writer(scratch / "store", model.vocab_size) as writer:
        text_bytes = _fill(writer, config.data, size, saved, dropped, console)
        dropped = dict(sorted(dropped.items()))
        if not writer.counts["train"]["documents"]:
            why = _reasons(dropped) or "no text"
            raise DataError(f"{_name(config.data)}: no document is left ({why})")
        data = dataclasses.asdict(config.data)
        return writer.finish(
            tokenizer_sha256=model.sha256,
            text_bytes=text_bytes,
            dropped=dropped,
            data={name: data[name] for name in data if name not in _RUNTIME_FIELDS},
            tokenizer=dataclasses.asdict(config.tokenizer),
            report=describe(writer.counts, text_bytes, dropped, model),
        )


def _fill(writer, data, size, saved, dropped, console):
    """Tokenises the corpus into `writer`; returns the bytes of its text."""
    text_bytes = 0
    with contextlib.closing(tokenise_all(sources.chunks(data, dropped), data, saved)) as results:
        for result in _watched(results, size, "tokenise", console):
            _write(writer, result, data.heldout_fraction)
            dropped.update(result.dropped)
            text_bytes += result.text_bytes
    return text_bytes


def _reasons(dropped):
    return "; ".join(f"{count:,} x {reason}" for reason, count in dropped.items())


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
    lines.append(f"{'left out':12}{_reasons(dropped) or 'nothing'}")
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


def _get_tokenizer(config, size, dropped, console):
    if config.tokenizer.path:
        return tokenizer.load(config.tokenizer.path, config.tokenizer.lowercase)
    with contextlib.closing(_training_texts(config, size, console)) as texts:
        if config.tokenizer.kind == "sentencepiece":
            return train_tokenizer.train(
                config.tokenizer, train_tokenizer.fit_lines(texts, dropped)
            )
        return train_tokenizer.train(config.tokenizer, texts)


def _training_texts(config, size, console):
    """Paragraphs of documents that are not held out, thinned to `TRAINING_BYTES` in all.

    The same hash that holds documents out decides which of the others stay.
    """
    data, low = config.data, config.data.heldout_fraction
    wanted = TRAINING_BYTES[config.tokenizer.kind] / max(sources.estimate_bytes(data), 1)
    high = low + (1 - low) * min(wanted, 1.0)
    first = True
    with contextlib.closing(sources.chunks(data, Counter())) as chunks:
        for chunk in _watched(chunks, size, "read for vocabulary", console):
            for record in chunk.records:
                text = read_text(record, data.text_field)
                if first or low <= share(text) < high:
                    found = paragraphs(text, record.form)
                    first = first and not found
                    yield from found
    console.print(f"learning a vocabulary of {config.tokenizer.vocab_size:,} tokens ...")


def _watched(items, size, title, console):
    """Passes chunks or results on and shows how far they reach, their rate and the time left."""
    columns = (
        TextColumn("{task.description:20}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]:.1f} MB/s"),
        TimeRemainingColumn(),
    )
    done, started = 0, time.monotonic()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=size, rate=0.0)
        for item in items:
            done += item.text_bytes
            rate = done / (time.monotonic() - started) / 1e6
            bar.update(task, completed=item.position, rate=rate)
            yield item
