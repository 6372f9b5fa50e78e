"""What `prepare` respects in a W that was used before: weights whose token ids mean something."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from bertjax import storage
from bertjax.config import Config
from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.data import corpus, identity, store, tokenizer
from bertjax.errors import DataError, UsageError


class Source(NamedTuple):
    """Where a store's tokenizer comes from.

    `path` is None where it is to be trained; `fields` are what the manifest says of one that the
    config does not name.
    """

    path: str | None
    fields: dict


def has_weights(workdir: Path) -> bool:
    """Whether W/checkpoints holds a step. An empty folder is what a refused run leaves."""
    return any(name.isdigit() for name in storage.folders(workdir / "checkpoints"))


def tokenizer_of(config: Config, workdir: Path) -> Source:
    """The tokenizer that a new store of W takes.

    Weights that lie in W, converted or trained, read their ids by W's own tokenizer: it is taken
    where the config names none, and another one is refused.

    Raises:
      UsageError: the weights in W read their ids by another tokenizer, or by one that is lost.
      DataError: a tokenizer is missing or damaged.
    """
    asked, mine = config.tokenizer, workdir / "tokenizer"
    if not has_weights(workdir):
        return Source(asked.path, {})
    if not asked.path and not storage.is_directory(mine):
        raise UsageError(
            f"config.tokenizer.path is unset, and {mine}, by which the weights in "
            f"{workdir}/checkpoints read their ids, is not there; set it to theirs"
        )
    made, found = _of_weights(asked, workdir), identity.Findings()
    if made:
        identity.compare_tokenizer(asked, made, found)
    if found.differences:
        raise UsageError(
            f"{'; '.join(found.differences)}: the weights in {workdir}/checkpoints read their ids "
            f"by the tokenizer in {mine}; take that one, or another --workdir"
        )
    if asked.path:
        return Source(asked.path, {})
    kept = ("tokenizer", "tokenizer_from")
    return Source(str(mine), {name: made[name] for name in kept if made and name in made})


def _of_weights(asked: TokenizerConfig, workdir: Path) -> dict | None:
    """The tokenizer of the weights in W, as a manifest says it; None where nothing tells it."""
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
    """Lines on what the weights in W go on with: their own tokenizer, and another text."""
    lines = []
    if source.path and source.path != config.tokenizer.path:
        lines.append(f"{'tokenizer':12}{source.path}, by which the weights in W read their ids")
    held, found = manifests(workdir), identity.Findings()
    if held and has_weights(workdir):
        for part in corpus.of(config):
            if part.name in held:
                identity.compare(part.place, part.data, held[part.name], found)
            else:
                found.differences.append(f"{part.place}, which {workdir}/store has not")
    if found.differences:
        said = "; ".join(found.differences)
        lines.append(f"{'note':12}the weights in W go on with other text: {said}")
    return lines
