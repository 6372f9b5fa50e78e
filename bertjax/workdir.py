"""What a run keeps in its directory W: the resolved config, the store, the tokenizer."""

import dataclasses
import json
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from bertjax import config as config_lib
from bertjax import distributed, storage
from bertjax.data import corpus, prepare, store, tokenizer
from bertjax.errors import DataError, StorageError, UsageError


def open_corpus(config: config_lib.Config, workdir: Path, *, build: bool):
    """`(config, tokenizer)` that fit `W/store`, which is made first where it is missing and may be.

    The config comes back with `model.vocab_size` filled in where it was 0, and with `tokenizer` as
    the one in W is. What is there stays:
    a changed `data` is read when somebody prepares again.

    Raises:
      DataError: no store (and `build` is False), one that another tokenizer made, or one of
        another mixture.
      UsageError: `model.vocab_size` is smaller than the tokenizer's, or the model has no head to
        predict masked tokens with.
    """
    if not config.model.has_masked_lm:
        raise UsageError(
            f"config.model.head={config.model.head!r}: predicts no masked tokens; "
            "take pretraining or masked_lm"
        )
    directory = storage.path(workdir) / "store"
    if build:
        if jax.process_index() == 0 and not _components(directory):
            prepare.prepare(config, workdir)
        distributed.wait_for_all("store")  # which process 0 may take hours to make
        multihost_utils.sync_global_devices("store")  # connects devices while all are here
        if jax.process_index() != 0 and not _components(directory):
            raise DataError(
                f"{directory}: not seen by process {jax.process_index()}, though process 0 has it; "
                "with several hosts take a --workdir that all see: gs://..., or a shared disk"
            )
    manifests = {path: store.read_manifest(path) for path in _store_directories(config, workdir)}
    encoder = tokenizer.load(storage.path(workdir) / "tokenizer")
    for path, manifest in manifests.items():
        if encoder.sha256 != manifest["tokenizer_sha256"]:
            raise DataError(
                f"{path}: made with another tokenizer than {workdir}/tokenizer holds; "
                "run bertjax prepare again"
            )
    size = config.model.vocab_size or encoder.vocab_size
    if size < encoder.vocab_size:
        raise UsageError(
            f"config.model.vocab_size={size}: the store has token ids up to "
            f"{encoder.vocab_size - 1}; set it to {encoder.vocab_size}, or to 0"
        )
    config = dataclasses.replace(config, tokenizer=tokenizer.resolved(config.tokenizer, encoder))
    return config.with_model(vocab_size=size), encoder


def open_stores(config: config_lib.Config, workdir: Path, split: str) -> list[store.Store]:
    """One split ("train" or "heldout") of everything that a run reads.

    Returns:
      A store for each component of `config.mixture`, in its order (by name); one without a
      mixture.

    Raises:
      DataError: a store is missing or damaged, or `W/store` was made for another mixture.
    """
    return [store.open_store(path, split) for path in _store_directories(config, workdir)]


def _store_directories(config, workdir) -> list[Path]:
    """Where the stores of a config's corpora are; refused where W/store was made of others."""
    directory = storage.path(workdir) / "store"
    held, wanted = _components(directory), [part.name for part in corpus.of(config)]
    if held and not set(wanted) <= set(held):
        raise DataError(
            f"{directory}: holds {_named(held)}, the config reads {_named(wanted)}; "
            "run bertjax prepare again, or take another --workdir"
        )
    return [directory / name for name in wanted]


def _components(directory: Path) -> list[str]:
    """Names of the stores within W/store, [""] where it is one itself, [] where there is none."""
    if storage.exists(directory / "manifest.json"):
        return [""]
    found = storage.folders(directory)
    return sorted(name for name in found if storage.exists(directory / name / "manifest.json"))


def _named(components: list[str]) -> str:
    return "one corpus" if components == [""] else f"a mixture of {', '.join(components)}"


def read_config(workdir: Path) -> config_lib.Config:
    """The resolved config of a run, from `W/config.json`.

    Raises:
      DataError: there is none, or it cannot be read.
    """
    path = storage.path(workdir) / "config.json"
    try:
        return config_lib.from_config_dict(json.loads(storage.read(path)))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: missing; is {workdir} the --workdir of a bertjax run?") from None
    except (ValueError, RecursionError, UsageError) as error:
        raise DataError(f"{path}: not a config of this version ({error})") from None


def write_config(config: config_lib.Config, workdir: Path) -> list[str]:
    """Writes `W/config.json`; returns a line for each field that differs from what was there."""
    if jax.process_index() != 0:
        return []
    path = storage.path(workdir) / "config.json"
    changes = _changes(read_config(workdir), config) if storage.exists(path) else []
    try:
        storage.write(path, (json.dumps(config_lib.to_dict(config), indent=2) + "\n").encode())
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from None
    return changes


def _changes(old: config_lib.Config, new: config_lib.Config) -> list[str]:
    before, after = config_lib.leaves(old), config_lib.leaves(new)
    return [
        f"{field}: {before.get(field)!r} -> {after.get(field)!r}"
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
    ]
