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
from pathlib import Path

import numpy as np
from rich.console import Console

from bertjax.config import Config
from bertjax.data import corpus, sources, tokenizer, train_tokenizer
from bertjax.data.store import Writer
from bertjax.data.tokenise import tokenise_all
from bertjax.errors import DataError, StorageError, UsageError

# Text that a tokenizer learns from, in bytes; SentencePiece holds it all, about twenty times over.
# Each component of a mixture gives its weight's part of it, or all it has.
TRAINING_BYTES = {"wordpiece": 256 << 20, "sentencepiece": 32 << 20, "byte_bpe": 256 << 20}

# Fields of config.data that do not change what is written.
_RUNTIME_FIELDS = ("num_workers", "prefetch_batches")


def prepare(config: Config, workdir: Path, *, progress: bool = True) -> dict:
    """Builds `workdir/store` and `workdir/tokenizer` from the corpus of `config.data`.

    A mixture becomes one store for each component, `workdir/store/NAME`, and one tokenizer.
    Everything is built beside its place and renamed into it when whole; what was there before is
    replaced. Without `config.tokenizer.path` a tokenizer is first trained on the documents that
    are not held out.

    Args:
      progress: show progress and print the report on stderr.

    Returns:
      The manifest of the store (see `store`), its "report" in words included; of a mixture,
      `{component: manifest}`.

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
            manifests = _build(config, scratch, console)
            _install(scratch, workdir)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{error.filename or workdir}: {error.strerror or error}") from None
    for manifest in manifests.values():
        console.print(manifest["report"], highlight=False, markup=False)
    seconds = time.monotonic() - started
    console.print(f"{'written':12}{workdir / 'store'} in {seconds:.0f} s", highlight=False)
    return manifests if config.mixture else manifest


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
    """Writes `scratch/store` and `scratch/tokenizer`; returns the manifests by component."""
    scratch.mkdir()
    corpora = corpus.of(config)
    with console.status("opening the corpus"):
        for part in corpora:
            part.open()
    model = _get_tokenizer(config.tokenizer, corpora, console)
    vocab_size = config.model.vocab_size
    if 0 < vocab_size < model.vocab_size:
        raise UsageError(
            f"config.model.vocab_size={vocab_size}: the tokenizer has {model.vocab_size} tokens; "
            "set it to that, or to 0 to take the tokenizer's size"
        )
    saved = model.save(scratch / "tokenizer")
    manifests = {}
    for part in corpora:
        with part.blamed(), Writer(scratch / "store" / part.name, model.vocab_size) as writer:
            text_bytes = _fill(writer, part, saved, console)
            data = dataclasses.asdict(part.data)
            manifests[part.name] = writer.finish(
                tokenizer_sha256=model.sha256,
                text_bytes=text_bytes,
                dropped=dict(sorted(part.dropped.items())),
                data={name: data[name] for name in data if name not in _RUNTIME_FIELDS},
                tokenizer=dataclasses.asdict(config.tokenizer),
                report=describe(part, writer.counts, text_bytes, model),
            )
    return manifests


def _get_tokenizer(config, corpora, console):
    if config.path:
        return tokenizer.load(config.path, config.lowercase)
    with contextlib.closing(_training_texts(config, corpora, console)) as texts:
        return train_tokenizer.train(config, texts)


def _training_texts(config, corpora, console):
    """Text of every corpus, `TRAINING_BYTES` in all: a tokenizer sees them as the model will."""
    for part in corpora:
        most = TRAINING_BYTES[config.kind] * part.proportion
        with part.blamed(), contextlib.closing(part.training_texts(most, console)) as texts:
            if config.kind == "sentencepiece":
                yield from train_tokenizer.fit_lines(texts, part.dropped)
            else:
                yield from texts
    console.print(f"learning a vocabulary of {config.vocab_size:,} tokens ...")


def _fill(writer, part, saved, console):
    """Tokenises a corpus into `writer`; returns the bytes of its text."""
    text_bytes = 0
    chunks = sources.chunks(part.data, part.dropped)
    with contextlib.closing(tokenise_all(chunks, part.data, saved)) as results:
        for result in part.watched(results, "tokenise", console):
            _write(writer, result, part.data.heldout_fraction)
            part.dropped.update(result.dropped)
            text_bytes += result.text_bytes
    if not writer.counts["train"]["documents"]:
        raise DataError(f"{part}: no document is left ({part.reasons or 'no text'})")
    return text_bytes


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


def describe(part: corpus.Corpus, counts: dict, text_bytes: int, model: tokenizer.Tokenizer) -> str:
    """The report that a person reads: what was stored, and what was left out and why."""
    lines = [f"{part.name:12}{'documents':>14}{'sentences':>16}{'tokens':>18}"]
    for split, count in counts.items():
        documents, sentences, tokens = (count[k] for k in ("documents", "sentences", "tokens"))
        lines.append(f"{split:12}{documents:14,}{sentences:16,}{tokens:18,}")
    tokens = sum(count["tokens"] for count in counts.values())
    lines.append(
        f"{'text':12}{text_bytes / 1e6:,.1f} MB, {text_bytes / max(tokens, 1):.2f} bytes a token"
    )
    lines.append(f"{'vocabulary':12}{model.vocab_size:,} tokens, sha256 {model.sha256[:12]}")
    lines.append(f"{'left out':12}{part.reasons or 'nothing'}")
    if not counts["heldout"]["documents"]:
        lines.append(f"{'note':12}no document is held out for evaluation: the corpus is too small")
    return "\n".join(lines)
