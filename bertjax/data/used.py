"""The tokenizer of a W that was used before: `prepare` must keep it for the weights in W."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from bertjax import storage
from bertjax.config import Config
from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.data import corpus, identity, store, tokenizer
from bertjax.errors import DataError, UsageError


class Source(NamedTuple):
    """The origin of a store's tokenizer.

    `path` is None if the tokenizer must be trained. `fields` are the manifest's fields for a
    tokenizer that the config does not name.
    """

    path: str | None
    fields: dict


def has_weights(workdir: Path) -> bool:
    """Whether W/checkpoints holds a step. A refused run leaves an empty folder."""
    return any(name.isdigit() for name in storage.folders(workdir / "checkpoints"))


def tokenizer_of(config: Config, workdir: Path) -> Source:
    """The tokenizer for a new store in W.

    Weights in W, converted or trained, fit only the tokenizer of W. A config that names no
    tokenizer gets this one; another tokenizer is refused.

    Raises:
      UsageError: the weights in W belong to another tokenizer, or their tokenizer is lost.
      DataError: a tokenizer is missing or damaged.
    """
    asked, mine = config.tokenizer, workdir / "tokenizer"
    if not has_weights(workdir):
        return Source(asked.path, {})
    if not asked.path and not storage.is_directory(mine):
        raise UsageError(
            f"config.tokenizer.path is unset, and {mine}, the tokenizer of the weights in "
            f"{workdir}/checkpoints, is missing; set the field to a copy of that tokenizer"
        )
    made, found = _of_weights(asked, workdir), identity.Findings()
    if made:
        identity.compare_tokenizer(asked, made, found)
    if found.differences:
        raise UsageError(
            f"{'; '.join(found.differences)}: the weights in {workdir}/checkpoints need the "
            f"tokenizer in {mine}; take that one, or another --workdir"
        )
    if asked.path:
        return Source(asked.path, {})
    kept = ("tokenizer", "tokenizer_from")
    return Source(str(mine), {name: made[name] for name in kept if made and name in made})


def _of_weights(asked: TokenizerConfig, workdir: Path) -> dict | None:
    """The manifest fields for the tokenizer of the weights in W; None if nothing records it."""
    mine, held = workdir / "tokenizer", next(iter(manifests(workdir).values()), None)
    if not storage.is_directory(mine):
        return held
    sha256 = tokenizer.load(mine).sha256
    if held and held["tokenizer_sha256"] == sha256 and identity.is_trained(held):
        return held
    fields = dataclasses.asdict(asked) | {"path": str(mine)}
    return {"tokenizer_sha256": sha256, "tokenizer": fields, "tokenizer_from": identity.WEIGHTS}


def manifests(workdir: Path) -> dict[str, dict]:
    """The manifest of every component in W/store that can be read."""
    found = {}
    for name in store.components(workdir / "store"):
        try:
            found[name] = store.read_manifest(workdir / "store" / name)
        except DataError:  # of another version, or damaged: it is about to be replaced
            continue
    return found


def changes(config: Config, workdir: Path, source: Source) -> list[str]:
    """Lines for the user: the weights in W keep their own tokenizer, or continue on other text."""
    lines = []
    if source.path and source.path != config.tokenizer.path:
        lines.append(f"{'tokenizer':12}{source.path}, the tokenizer of the weights in W")
    held, found = manifests(workdir), identity.Findings()
    if held and has_weights(workdir):
        for part in corpus.of(config):
            if part.name in held:
                identity.compare(part.place, part.data, held[part.name], found)
            else:
                found.differences.append(f"{part.place}, which is not in {workdir}/store")
    if found.differences:
        said = "; ".join(found.differences)
        lines.append(f"{'note':12}the weights in W continue on other text: {said}")
    return lines
