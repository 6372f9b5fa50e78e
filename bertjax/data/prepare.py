"""Text to token store: `prepare` reads, tokenizes in several processes, and writes.

One process reads the corpus and writes the store; the others decode, cut into sentences and
tokenize. Only a few chunks are on their way at any moment, and results are written in the
order of the corpus, so memory is bounded and the bytes do not depend on the number of workers.
Where one machine is too few, the workers of a Beam runner read and tokenize (see `beam`); the
one process then writes what they leave, the same bytes.
"""

import contextlib
import dataclasses
import logging
import os
import time
import types
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from bertjax import storage
from bertjax.config import Config, Data
from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.data import corpus, identity, report, sources, tokenizer, train_tokenizer, used
from bertjax.data.store import Writer
from bertjax.data.tfrecord import index
from bertjax.data.tokenize import Tokenized, tokenize_all
from bertjax.errors import DataError, StorageError, UsageError
from bertjax.processes import lock, terminal

_log = logging.getLogger(__name__)

# Text that a tokenizer learns from, in bytes; SentencePiece holds it all, about twenty times over.
# Each component of a mixture gives its weight's part of it, or all it has.
TRAINING_BYTES = {"wordpiece": 256 << 20, "sentencepiece": 32 << 20, "byte_bpe": 256 << 20}


def prepare(
    config: Config,
    workdir: Path,
    *,
    beam_options: Sequence[str] | None = None,
    progress: bool = True,
    locked: bool = False,
) -> dict:
    """Builds `workdir/store` and `workdir/tokenizer` from the corpus of `config.data`.

    A mixture becomes one store for each component, `workdir/store/NAME`, and one tokenizer.
    Everything is built beside its place and renamed into it when whole; what was there before is
    replaced. Without `config.tokenizer.path` a tokenizer is first trained on the documents that
    are not held out.

    Args:
      beam_options: tokenize with Apache Beam, given these options (`--runner=...` and the
        runner's own); by default in processes of this machine.
      progress: show progress, where a command has a terminal for it.
      locked: the caller holds W's lock.

    Returns:
      The manifest of the store (see `store`), its "report" in words included; of a mixture,
      `{component: manifest}`.

    Raises:
      UsageError: the config names no corpus, or a vocabulary smaller than the tokenizer's; Beam
        is not installed or refuses its options; another process uses the same `workdir`; the
        weights in `workdir` read their ids by another tokenizer.
      DataError: the corpus or the tokenizer is missing or damaged, or holds no text.
      StorageError: the disk is full or refuses to be written.
    """
    workdir = storage.path(workdir)
    console = Console(stderr=True, quiet=not (progress and terminal.is_shown()))
    started = time.monotonic()
    try:
        with contextlib.nullcontext() if locked else lock.Lock(workdir, "prepare"):
            recorded = used.tokenizer_of(config, workdir)
            for line in used.changes(config, workdir, recorded):
                _log.info(line, extra=terminal.STDERR)
            _remove_leftovers(workdir)
            scratch = workdir / f"store.tmp-{os.getpid()}"
            try:
                manifests = _build(config, recorded, scratch, beam_options, console)
                lock.require(workdir)
                _install(scratch, workdir)
            finally:
                storage.remove(scratch)
    except OSError as error:
        raise StorageError(f"{error.filename or workdir}: {error.strerror or error}") from None
    facts, warnings = zip(*(report.split(m["report"]) for m in manifests.values()), strict=True)
    _log.info("\n".join(facts), extra=terminal.STDERR)
    seconds = time.monotonic() - started
    written = f"{'written':12}{workdir / 'store'} in {seconds:.0f} s"
    _log.info(written, extra=terminal.STDERR)
    for warning in filter(None, warnings):
        _log.warning(warning, extra=terminal.ALARM)
    return manifests if config.mixture else manifests[""]


def _remove_leftovers(workdir: Path) -> None:
    for name in storage.folders(workdir):
        if name.startswith("store.tmp-"):
            storage.remove(workdir / name)


def _install(scratch: Path, workdir: Path) -> None:
    # Between the two removals and the renames there is no store at all, never one that does not
    # match the tokenizer. Of objects the manifests go first and come last.
    store, saved = workdir / "store", workdir / "tokenizer"
    if storage.is_remote(store):
        parts = [store, *(store / name for name in storage.folders(store))]
        storage.remove(
            store, first=tuple(f"{part.relative_to(store)}/manifest.json" for part in parts)
        )
    elif store.exists():
        store.rename(scratch / "replaced")
    if not used.has_weights(workdir) or not storage.is_directory(saved):
        # Else it is the same one, and a kill between these lines would lose it.
        storage.remove(saved)
        storage.move(scratch / "tokenizer", saved)
    storage.move(scratch / "store", store, last="manifest.json")


def _build(
    config: Config,
    recorded: used.Source,
    scratch: Path,
    beam_options: Sequence[str] | None,
    console: Console,
) -> dict[str, dict]:
    """Writes `scratch/store` and `scratch/tokenizer`; returns the manifests by component."""
    if not storage.is_remote(scratch):
        scratch.mkdir(parents=True)
    if config.data.holds_examples:
        return {"": _index_examples(config, recorded, scratch, beam_options, console)}
    corpora = corpus.of(config)
    with console.status("opening the corpus"):
        for part in corpora:
            part.open()
        for part in corpora:
            part.peek(2 if config.objective.nsp else 1)
        texts = {part.name: part.identity() for part in corpora}
    model = _get_tokenizer(config.tokenizer, recorded, corpora, console)
    saved, description = _save_tokenizer(config, recorded, model, scratch)
    manifests = {}
    tokenized = _tokenized(corpora, saved, scratch / "parts", beam_options, console)
    for part, results in zip(corpora, tokenized, strict=True):
        with part.blamed(), Writer(scratch / "store" / part.name, model.vocab_size) as writer:
            text_bytes = _fill(writer, part, results, console)
            manifests[part.name] = writer.finish(
                text_bytes=text_bytes,
                dropped=dict(sorted(part.dropped.items())),
                data=_fields(part.data),
                text=texts[part.name],
                **description,
                report=report.describe(part, writer.counts, text_bytes, model, config),
            )
    return manifests


def _index_examples(
    config: Config,
    recorded: used.Source,
    scratch: Path,
    beam_options: Sequence[str] | None,
    console: Console,
) -> dict:
    """As `_build`, of examples that are masked already; raises as `index.build` too."""
    if beam_options is not None:
        raise UsageError("--runner: config.data.source=bert_tfrecord has nothing to tokenize")
    files = index.find(config.data)
    if not recorded.path:
        raise UsageError(
            "config.tokenizer.path is unset: the files of config.data.source=bert_tfrecord hold "
            "token ids only; name the vocab.txt that they were made with"
        )
    model = _get_tokenizer(config.tokenizer, recorded, [], console)
    _, description = _save_tokenizer(config, recorded, model, scratch)
    place, description = scratch / "store", description | {"data": _fields(config.data)}
    return index.build(config, files, model, place, console, description)


def _fields(data: Data) -> dict:
    """What a manifest keeps of a corpus' fields."""
    fields = dataclasses.asdict(data)
    return {name: fields[name] for name in fields if name not in identity.RUNTIME_FIELDS}


def _save_tokenizer(
    config: Config, recorded: used.Source, model: tokenizer.Tokenizer, scratch: Path
) -> tuple[Path, dict]:
    """Writes `scratch/tokenizer`; returns its file, and what the manifests say of it."""
    vocab_size = config.model.vocab_size
    if 0 < vocab_size < model.vocab_size:
        raise UsageError(
            f"config.model.vocab_size={vocab_size}: the tokenizer has {model.vocab_size} tokens; "
            "set it to that, or to 0 to take the tokenizer's size"
        )
    saved = model.save(scratch / "tokenizer")
    fields = dataclasses.asdict(tokenizer.resolved(config.tokenizer, model))
    return saved, {"tokenizer_sha256": model.sha256, "tokenizer": fields} | recorded.fields


def _get_tokenizer(
    config: TokenizerConfig,
    recorded: used.Source,
    corpora: list[corpus.Corpus],
    console: Console,
) -> tokenizer.Tokenizer:
    if recorded.path:
        found, notes = tokenizer.read(dataclasses.replace(config, path=recorded.path))
        for note in notes:
            _log.info(note, extra=terminal.STDERR)
        return found
    with contextlib.closing(_training_texts(config, corpora, console)) as texts:
        return train_tokenizer.train(config, texts)


def _training_texts(
    config: TokenizerConfig, corpora: list[corpus.Corpus], console: Console
) -> Generator[str, None, None]:
    """Text of every corpus, `TRAINING_BYTES` in all: a tokenizer sees them as the model will."""
    for part in corpora:
        most = TRAINING_BYTES[config.kind] * part.proportion
        with part.blamed(), contextlib.closing(part.training_texts(most, console)) as texts:
            if config.kind == "sentencepiece":
                yield from train_tokenizer.fit_lines(texts, part.dropped)
            else:
                yield from texts
    learning = f"learning a vocabulary of {config.vocab_size:,} tokens ..."
    _log.info(learning, extra=terminal.STDERR)


def _tokenized(
    corpora: list[corpus.Corpus],
    saved: Path,
    directory: Path,
    beam_options: Sequence[str] | None,
    console: Console,
) -> list[Generator[Tokenized, None, None]]:
    """The chunks of each corpus as tokens, in order."""
    if beam_options is None:
        return [tokenize_all(sources.chunks(part.data), part.data, saved) for part in corpora]
    with console.status(f"Beam tokenizes ({' '.join(beam_options)})"):
        return _beam().tokenize_all(corpora, saved, directory, beam_options)


def _beam() -> types.ModuleType:
    try:
        from bertjax.data import beam  # an extra, and slow to import
    except ImportError as error:
        raise UsageError(f"Apache Beam: {error}; pip install 'bertjax[beam]'") from None
    return beam


def _fill(
    writer: Writer, part: corpus.Corpus, results: Generator[Tokenized, None, None], console: Console
) -> int:
    """Writes the chunks of a corpus; returns the bytes of its text."""
    text_bytes = 0
    with contextlib.closing(results):
        for result in part.watched(results, "tokenize", console):
            _write(writer, result, part.data.heldout_fraction)
            part.observe(result)
            text_bytes += result.text_bytes
    if not writer.counts["train"]["documents"]:
        raise DataError(f"{part}: no document is left ({part.reasons or 'no text'})")
    return text_bytes


def _write(writer: Writer, result: Tokenized, heldout_fraction: float) -> None:
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
