"""Prepares a fine-tuning: reads and encodes the labeled files, and resolves the config."""

import dataclasses
import functools
from pathlib import Path

import jax

from bertjax import config as config_lib
from bertjax import initial, storage, workdir
from bertjax.config.model_fields import Model
from bertjax.convert.pretrained import Pretrained
from bertjax.data import tokenizer as tokenizer_lib
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError, UsageError
from bertjax.finetune import cache, distillation, resolve
from bertjax.finetune.job import Finetuning, Split
from bertjax.finetune.readers import sources
from bertjax.finetune.rows import Settings
from bertjax.metrics.progress import say

_USED_SPLITS = ("train", "dev", "dev_mismatched")  # the splits that training and evaluation use


def open(config: config_lib.Config, directory: Path) -> Finetuning:
    """The job of a config, after checking that task, files and weights fit; writes W/tokenizer.

    If W already holds a run, the model and the tokenizer of that run are used.

    Raises:
      UsageError: there is no such task, or other config fields do not fit the task; or W holds a
        pretraining or a fine-tuning on another task.
      DataError: files, labels or weights are missing or damaged; there is no tokenizer.
      Both also for a teacher, see `distillation.read` and `distillation.fitted`.
    """
    kind = sources.kind_of(config)
    taught_by = distillation.read(config)
    held = _held(config, directory)
    if held is not None:  # a restart may leave init_from out; the first start's value counts
        config = dataclasses.replace(config, init_from=held.init_from)
    read = functools.cache(functools.partial(initial.read, config)) if config.init_from else None
    if held is None:
        tokenizer, base = _tokenizer(config, read)
    else:
        tokenizer = tokenizer_lib.load(storage.path(directory) / "tokenizer")
        base = held.model
    dataset = sources.read(config)
    for note in dataset.notes:
        say(note)
    labels = dataset.labels
    task = resolve.task_of(config, kind, labels)
    resolve.require_metric(config, task)
    config = dataclasses.replace(
        config, tokenizer=tokenizer_lib.resolved(config.tokenizer, tokenizer)
    )
    model = resolve.model_of(config, base, kind, labels)
    config = dataclasses.replace(config, model=model)
    [phase, *_] = config.phases.values()  # `resolve.config_of` below refuses several phases
    settings = resolve.settings_of(config, kind, labels, phase.sequence_length)
    if taught_by is not None:
        taught_by, lines = distillation.fitted(config, taught_by, tokenizer, kind, labels)
        for line in lines:
            say(line)
        types = max(settings.type_vocab_size, taught_by.config.model.type_vocab_size)
        settings = dataclasses.replace(settings, type_vocab_size=types)
    others = dict(dataset.splits)
    wanted = {name: others.pop(name) for name in _USED_SPLITS if name in others}
    splits = encoded(wanted, tokenizer, settings, directory)
    if "train" not in splits:
        raise DataError(f"{config.data.files}: no training examples; name a file of them")
    train = splits.pop("train")
    resolve.require_split(config, splits)
    config = resolve.config_of(config, model, len(train.rows))
    if jax.process_index() == 0 and held is None:
        tokenizer.save(storage.path(directory) / "tokenizer")
    teacher = None
    if taught_by is not None:
        teacher = distillation.placed(config, taught_by, tokenizer, kind)
    nulls = settings.null_answers
    return Finetuning(config, task, tokenizer, train, splits, nulls, read, others, teacher)


def settings_of(job: Finetuning) -> Settings:
    """The settings that encode the examples of a job."""
    [phase] = job.config.phases.values()
    model = job.config.model
    return resolve.settings_of(job.config, job.task.kind, model.label_names, phase.sequence_length)


def _held(config: config_lib.Config, directory: Path) -> config_lib.Config | None:
    """The config of the runs in W, or None; raises UsageError if these runs do not fit."""
    place = storage.path(directory)
    if not (storage.exists(place / "config.json") and storage.is_directory(place / "tokenizer")):
        return None
    held = workdir.read_config(directory)
    if not held.is_finetuning:
        raise UsageError(
            f"{directory}: holds a pretraining; take another --workdir, with "
            f"config.init_from={directory} to start from it"
        )
    if (held.task.name, held.task.kind) != (config.task.name, config.task.kind):
        raise UsageError(
            f"{directory}: holds a fine-tuning on {held.task.name or held.task.kind}, "
            f"not on {config.task.name or config.task.kind}; take another --workdir"
        )
    if config.init_from not in (None, held.init_from):
        raise UsageError(
            f"config.init_from={config.init_from!r}: {directory} holds runs that start from "
            f"{held.init_from or 'random weights'}; take another --workdir"
        )
    return held


def _tokenizer(
    config: config_lib.Config, read: "functools._lru_cache_wrapper | None"
) -> tuple[Tokenizer, Model | None]:
    """The tokenizer and the model to start from: the source's, or those that the config names."""
    if read is None:
        if not config.tokenizer.path:
            raise UsageError(
                "config.init_from is unset: name weights to start from; to start from random ones, "
                "name a tokenizer: config.tokenizer.path"
            )
        tokenizer, notes = tokenizer_lib.read(config.tokenizer)
        for note in notes:
            say(note)
        return tokenizer, config.with_model(vocab_size=tokenizer.vocab_size).model
    source: Pretrained = read()
    for note in source.notes:
        say(note)
    if source.tokenizer is not None and not config.tokenizer.path:
        return source.tokenizer, source.config.model
    if not config.tokenizer.path:
        raise DataError(
            f"{config.init_from}: has no tokenizer; name its file or folder: config.tokenizer.path"
        )
    tokenizer, _ = tokenizer_lib.read(config.tokenizer)
    initial.require_same_tokenizer(config, source, tokenizer)
    return tokenizer, source.config.model


def encoded(
    splits: dict[str, list], tokenizer: Tokenizer, settings: Settings, directory: Path
) -> dict[str, Split]:
    """Each split's examples with their rows, which W/encoded caches."""
    found = {}
    for name, examples in splits.items():
        own = dataclasses.replace(settings, training=name == "train")
        kept, writes = storage.path(directory) / "encoded", jax.process_index() == 0
        rows = cache.rows(kept, examples, tokenizer, own, writes=writes)
        for note in rows.notes:
            say(f"{name}: {note}")
        found[name] = Split(examples, rows)
    return found
