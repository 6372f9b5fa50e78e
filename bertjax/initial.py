"""Somebody's weights in a run: those that it starts from (`config.init_from`), or its teacher's."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bertjax import config as config_lib
from bertjax import storage
from bertjax.convert import names, parse
from bertjax.convert import read as read_source
from bertjax.convert.pretrained import Hints, Pretrained
from bertjax.data import tokenizer as tokenizer_lib
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError, UsageError

START, TEACHER = "init_from", "teacher.init_from"  # fields that name a source

# Fields of the model that change what weights mean without changing their shapes.
_MEANING = ("num_attention_heads", "position_offset", "hidden_act", "layer_norm_eps", "pooler_act")


def check(config: config_lib.Config, workdir: Path) -> None:
    """Refuses now what `fit` would refuse of `config.init_from` once the corpus is prepared.

    Nothing is checked where `workdir` holds checkpoints: a run goes on from these, with the
    tokenizer beside them.

    Raises:
      UsageError, DataError: as `read` and `fit`; or a new vocabulary
        would be trained on the corpus, which cannot be that of the weights.
    """
    if config.init_from is None or storage.is_directory(storage.path(workdir) / "checkpoints"):
        return
    source, ours = read(config), None
    if config.tokenizer.path:
        ours, _ = tokenizer_lib.read(config.tokenizer)
    elif source.tokenizer is not None:
        raise UsageError(
            f"config.init_from={config.init_from}: a vocabulary newly trained on the corpus cannot "
            f"be that of these weights; set {_settings(config.init_from, config, source.tokenizer, None)}"
        )
    size = source.config.model.vocab_size if ours is None else ours.vocab_size
    if not config.model.vocab_size:
        config = config.with_model(vocab_size=size)
    require_fit(config, source, ours, None)


def named(config: config_lib.Config, field: str) -> str:
    """The source that a field (`init_from`, `teacher.init_from`) names, which is set."""
    uri = config.teacher.init_from if field == TEACHER else config.init_from
    assert uri is not None
    return uri


def read(config: config_lib.Config, field: str = START) -> Pretrained:
    """The weights at the source that a field names.

    Raises:
      UsageError, DataError: as `convert.read`.
    """
    uri = named(config, field)
    try:
        # Casing is not hinted: the source says which one its weights were trained with.
        hidden_act = None if config.is_finetuning else config.model.hidden_act
        return read_source(uri, Hints(hidden_act=hidden_act))
    except (UsageError, DataError) as error:
        if "--" not in str(error):
            raise
        raise type(error)(
            f"{error}; bertjax convert {uri} DIR takes such options, then set config.{field}=DIR"
        ) from None


def fit(
    config: config_lib.Config,
    source: Pretrained,
    params: dict,
    tokenizer: Tokenizer | None = None,
    layers: Sequence[int] | None = None,
    field: str = START,
) -> tuple[dict, list[str]]:
    """`(params, missing)`: `params` with all that the source has, placed as they are.

    What the source has beyond the model is left.

    Args:
      tokenizer: what cuts the text of this run; None where it is the source's own.
      layers: the source's encoder blocks that become the model's, in order (DistilBERT takes every
        second one of its teacher); all of them, if not given.
      field: the one that names the source.

    Returns:
      `missing`: the paths of the parameters that stay as they were (heads: they start at random).

    Raises:
      UsageError: the source's encoder is another model, or its tokenizer another one.
    """
    import jax  # `check` needs none of it

    from bertjax import sharding

    missing = require_fit(config, source, tokenizer, layers, field)

    def take(path: tuple, leaf: "jax.Array") -> "jax.Array":
        name = sharding.leaf_name(path)
        if name in missing:
            return leaf
        value = np.asarray(names.lookup(source.params, name))
        if layers is not None and name.startswith("blocks/"):
            value = value[list(layers)]
        return sharding.put(value, leaf)

    return jax.tree_util.tree_map_with_path(take, params), missing


def require_fit(
    config: config_lib.Config,
    source: Pretrained,
    tokenizer: Tokenizer | None,
    layers: Sequence[int] | None,
    field: str = START,
) -> list[str]:
    """The parameters that the source lacks; raises UsageError where it is of another model."""
    _require_same_meaning(config, source, field)
    require_same_tokenizer(config, source, tokenizer, field)
    uri, model, their_model = named(config, field), config.model, source.config.model
    if layers is not None:
        if not all(0 <= layer < their_model.num_hidden_layers for layer in layers):
            raise UsageError(
                f"layers {list(layers)}: {uri} has {their_model.num_hidden_layers} blocks, counted "
                "from 0"
            )
        their_model = dataclasses.replace(their_model, num_hidden_layers=len(layers))
    theirs, missing = names.shapes(their_model), []
    for path, shape in names.shapes(model).items():
        if theirs.get(path, shape) != shape:
            raise UsageError(
                f"config.{field}={uri}: its {path} has shape {list(theirs[path])}, this model's "
                f"{list(shape)}; give config.model the sizes of {uri}"
            )
        if path not in theirs:
            missing.append(path)
    if any(path.startswith(("embeddings", "blocks")) for path in missing):
        raise UsageError(f"config.{field}={uri}: lacks {missing[0]}, which this model has")
    return missing


def _require_same_meaning(config: config_lib.Config, source: Pretrained, field: str) -> None:
    """Raises UsageError where the source's weights mean something else in this model."""
    ours, theirs = config.model, source.config.model
    for name in _MEANING:
        our, their = getattr(ours, name), getattr(theirs, name)
        if our != their and not (name == "pooler_act" and not theirs.has_pooler):
            raise UsageError(
                f"config.model.{name}={our!r}: {named(config, field)} has {their!r}; set it so, or "
                "train anew"
            )


def require_same_tokenizer(
    config: config_lib.Config, source: Pretrained, ours: Tokenizer | None, field: str = START
) -> None:
    """Raises UsageError where the source's text was cut by another tokenizer than `ours`.

    Nothing is compared where one of them has no tokenizer.
    """
    theirs, uri = source.tokenizer, named(config, field)
    difference = tokenizer_difference(theirs, ours)
    if difference and theirs is not None:
        fix = f"set {_settings(uri, config, theirs, ours)}, and prepare again"
        raise UsageError(f"config.{field}={uri}: {difference}; {fix}")


def tokenizer_difference(theirs: Tokenizer | None, ours: Tokenizer | None) -> str:
    """In what another tokenizer differs from the one that cuts this text; "" where in nothing.

    Nothing is compared where one of them is None.
    """
    if theirs is None or ours is None:
        return ""
    if theirs.vocab_size != ours.vocab_size:
        return (
            f"its vocabulary of {theirs.vocab_size:,} pieces is not that of this corpus "
            f"({ours.vocab_size:,})"
        )
    pieces = [tokenizer.tokens(range(tokenizer.vocab_size)) for tokenizer in (theirs, ours)]
    for i, (their, our) in enumerate(zip(*pieces, strict=True)):
        if their != our:
            return f"piece {i} of its vocabulary is {their!r}, here {our!r}"
    their_rules, our_rules = theirs.rules, ours.rules
    for rule in sorted(their_rules.keys() | our_rules.keys()):
        their, our = (str(rules.get(rule))[:40] for rules in (their_rules, our_rules))
        if their_rules.get(rule) != our_rules.get(rule):
            return f"its tokenizer has {rule}={their}, that of this corpus {rule}={our}"
    return ""


def tokenizer_place(uri: str) -> str | None:
    """Where the tokenizer's files of a source lie; None where they are a part of other files."""
    form, path = parse(uri)
    places = {
        "hf": path,
        "tf1": storage.path(path).parent,
        "fairseq": storage.path(path).parent,
        "orbax": storage.path(path) / "tokenizer",
    }
    return str(places[form]) if form in places else None


def _settings(
    uri: str, config: config_lib.Config, theirs: Tokenizer, ours: Tokenizer | None
) -> str:
    """What to set so that text is cut as the source's was."""
    place = tokenizer_place(uri) or f"DIR, after bertjax convert {uri} hf:DIR"
    asked = dataclasses.asdict(config.tokenizer) if ours is None else ours.rules
    settings = [
        f"config.tokenizer.{name}={theirs.rules[name]}"
        for name in ("lowercase", "rules")
        if None not in (theirs.rules.get(name), asked.get(name))
        and theirs.rules[name] != asked[name]
    ]
    return " and ".join([*settings, f"config.tokenizer.path={place}"])
