"""The stores that a run reads: their places in W, and checks that they match the config."""

import dataclasses
import logging
from pathlib import Path

from bertjax import config as config_lib
from bertjax import storage
from bertjax.data import corpus, identity, store
from bertjax.data import tokenizer as tokenizer_lib
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError, UsageError

_log = logging.getLogger(__name__)


def read(config: config_lib.Config, workdir: Path) -> tuple[dict[str, dict], Tokenizer]:
    """The manifest of every component that a config reads, and the tokenizer that made the stores.

    Raises:
      DataError: a store is missing, damaged, or made with another tokenizer than W/tokenizer.
    """
    places = _places(config, workdir)
    manifests = {name: store.read_manifest(place) for name, place in places.items()}
    tokenizer = tokenizer_lib.load(storage.path(workdir) / "tokenizer")
    _require_tokenizer(tokenizer, manifests, places, workdir)
    return manifests, tokenizer


def _require_tokenizer(
    tokenizer: Tokenizer, manifests: dict[str, dict], places: dict[str, Path], directory: Path
) -> None:
    for name, manifest in manifests.items():
        if tokenizer.sha256 != manifest["tokenizer_sha256"]:
            raise DataError(
                f"{places[name]}: made with another tokenizer than {directory}/tokenizer holds; "
                "run bertjax prepare again"
            )


def require_same(config: config_lib.Config, workdir: Path, manifests: dict[str, dict]) -> None:
    """Raises DataError if the stores in W differ from the config; prints what it cannot compare."""
    directory, found = storage.path(workdir) / "store", identity.Findings()
    for part in corpus.of(config):
        identity.compare(part.place, part.data, manifests[part.name], found)
    # One tokenizer made all stores.
    identity.compare_tokenizer(config.tokenizer, next(iter(manifests.values())), found)
    if found.differences:
        raise DataError(
            f"{directory}: not what the config asks for: {'; '.join(found.differences)}; "
            "run bertjax prepare again with this config, or take another --workdir"
        )
    for note in found.notes:
        _log.warning(f"{directory}: {note}")


def resolved(
    config: config_lib.Config, manifests: dict[str, dict], tokenizer: Tokenizer
) -> config_lib.Config:
    """The config with its open fields, and fields that a run ignores, set to the stores' values."""
    size = config.model.vocab_size or tokenizer.vocab_size
    if size < tokenizer.vocab_size:
        raise UsageError(
            f"config.model.vocab_size={size}: the store has token ids up to "
            f"{tokenizer.vocab_size - 1}; set it to {tokenizer.vocab_size}, or to 0"
        )
    cut = tokenizer_lib.resolved(config.tokenizer, tokenizer)
    config = dataclasses.replace(config.with_model(vocab_size=size), tokenizer=cut)
    if not config.mixture:
        return dataclasses.replace(config, data=identity.filled(config.data, manifests[""]))
    mixture = {
        name: dataclasses.replace(part, data=identity.filled(part.data, manifests[name]))
        for name, part in config.mixture.items()
    }
    return dataclasses.replace(config, mixture=mixture)


def open_split(config: config_lib.Config, directory: Path, split: str) -> list[store.Store]:
    """One split ("train" or "heldout") of every corpus that a run reads.

    Returns:
      A store for each component of `config.mixture`, in the order of the names; a single store
      without a mixture.

    Raises:
      DataError: a store is missing or damaged, or `W/store` was made for another mixture.
    """
    places = _places(config, directory).values()
    return [store.open_store(place, split) for place in places]


def _places(config: config_lib.Config, workdir: Path) -> dict[str, Path]:
    """The place of each component's store; DataError if W/store lacks a component."""
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
