"""What a run keeps in its directory W: the resolved config, the store, the tokenizer."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from bertjax import config as config_lib
from bertjax import storage
from bertjax.data import corpus, identity, prepare, store, tokenizer
from bertjax.errors import DataError, StorageError, UsageError
from bertjax.processes import distributed


def open_corpus(config: config_lib.Config, workdir: Path, *, build: bool):
    """`(config, tokenizer)` that fit `W/store`, which is made first where it is missing and may be.

    The config comes back resolved: what it leaves unset of `model.vocab_size` and of where the
    text is, as the store has it. With `build`, the caller holds W's lock.

    Raises:
      DataError: no store (and `build` is False), or one that was made of another text, by another
        tokenizer or for another mixture than the config asks for; the message names the fields.
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
        if jax.process_index() == 0 and not store.components(directory):
            prepare.prepare(config, workdir, locked=True)
        distributed.wait_for_all("store")  # which process 0 may take hours to make
        multihost_utils.sync_global_devices("store")  # connects devices while all are here
        if jax.process_index() != 0 and not store.components(directory):
            raise DataError(
                f"{directory}: not seen by process {jax.process_index()}, though process 0 has it; "
                "with several hosts take a --workdir that all see: gs://..., or a shared disk"
            )
    places = _store_directories(config, workdir)
    manifests = {name: store.read_manifest(place) for name, place in places.items()}
    encoder = tokenizer.load(storage.path(workdir) / "tokenizer")
    for name, manifest in manifests.items():
        if encoder.sha256 != manifest["tokenizer_sha256"]:
            raise DataError(
                f"{places[name]}: made with another tokenizer than {workdir}/tokenizer holds; "
                "run bertjax prepare again"
            )
    if jax.process_index() == 0:  # other hosts need not have the text
        _require_same(config, directory, manifests)
    size = config.model.vocab_size or encoder.vocab_size
    if size < encoder.vocab_size:
        raise UsageError(
            f"config.model.vocab_size={size}: the store has token ids up to "
            f"{encoder.vocab_size - 1}; set it to {encoder.vocab_size}, or to 0"
        )
    return _resolved(config, manifests, encoder).with_model(vocab_size=size), encoder


def _require_same(config, directory, manifests):
    """Raises where a config asks for other stores than there are; says what could not be told."""
    found = identity.Findings()
    for part in corpus.of(config):
        identity.compare(part.place, part.data, manifests[part.name], found)
    # One tokenizer made all of them.
    identity.compare_tokenizer(config.tokenizer, next(iter(manifests.values())), found)
    if found.differences:
        raise DataError(
            f"{directory}: not what the config asks for: {'; '.join(found.differences)}; "
            "run bertjax prepare again with this config, or take another --workdir"
        )
    for note in found.notes:
        print(f"{directory}: {note}", file=sys.stderr, flush=True)


def _resolved(config, manifests, encoder):
    """The config with what it leaves open, or says and nobody reads, as the stores have it."""
    cut = tokenizer.resolved(config.tokenizer, encoder)
    if not config.mixture:
        data = identity.filled(config.data, manifests[""])
        return dataclasses.replace(config, tokenizer=cut, data=data)
    mixture = {
        name: dataclasses.replace(part, data=identity.filled(part.data, manifests[name]))
        for name, part in config.mixture.items()
    }
    return dataclasses.replace(config, tokenizer=cut, mixture=mixture)


def open_stores(config: config_lib.Config, workdir: Path, split: str) -> list[store.Store]:
    """One split ("train" or "heldout") of everything that a run reads.

    Returns:
      A store for each component of `config.mixture`, in its order (by name); one without a
      mixture.

    Raises:
      DataError: a store is missing or damaged, or `W/store` was made for another mixture.
    """
    places = _store_directories(config, workdir).values()
    return [store.open_store(place, split) for place in places]


def _store_directories(config, workdir) -> dict[str, Path]:
    """Where the store of each component is; refused where W/store was made of others."""
    directory = storage.path(workdir) / "store"
    held, wanted = store.components(directory), [part.name for part in corpus.of(config)]
    if held and not set(wanted) <= set(held):
        raise DataError(
            f"{directory}: holds {_named(held)}, the config reads {_named(wanted)}; "
            "run bertjax prepare again with this config, or take another --workdir"
        )
    return {name: directory / name for name in wanted}


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


def resumed(config: config_lib.Config, workdir: Path) -> config_lib.Config:
    """The config of a run that goes on from its checkpoints: they started where W/config.json says.

    Raises:
      UsageError: `init_from` names other weights, which nothing would read.
    """
    if not storage.exists(storage.path(workdir) / "config.json"):
        return config
    started = read_config(workdir).init_from
    if config.init_from not in (None, started):
        raise UsageError(
            f"config.init_from={config.init_from!r}: {workdir}/checkpoints holds weights already, "
            f"which started from {started or 'random ones'}; unset it to go on with them, or take "
            "another --workdir"
        )
    return dataclasses.replace(config, init_from=started)


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
