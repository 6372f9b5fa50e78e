"""Loads weights into a run: its starting weights (`config.init_from`) or its teacher's."""

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

START, TEACHER = "init_from", "teacher.init_from"  # the config fields that name a source

# Model fields that change the meaning of weights without changing their shapes.
_MEANING = ("num_attention_heads", "position_offset", "hidden_act", "layer_norm_eps", "pooler_act")


def check(config: config_lib.Config, workdir: Path) -> None:
    """Checks `config.init_from` before the corpus is prepared, so that `fit` does not fail later.

    If `workdir` holds checkpoints, nothing is checked: the run resumes from them, with the
    tokenizer beside them.

    Raises:
      UsageError, DataError: see `read` and `fit`; or the config trains a new vocabulary, which
        cannot be the vocabulary of the weights.
    """
    if config.init_from is None or storage.is_directory(storage.path(workdir) / "checkpoints"):
        return
    source, ours = read(config), None
    if config.tokenizer.path:
        ours, _ = tokenizer_lib.read(config.tokenizer)
    elif source.tokenizer is not None:
        raise UsageError(
            f"config.init_from={config.init_from}: these weights do not fit a new vocabulary trained "
            f"on the corpus; set {_settings(config.init_from, config, source.tokenizer, None)}"
        )
    size = source.config.model.vocab_size if ours is None else ours.vocab_size
    if not config.model.vocab_size:
        config = config.with_model(vocab_size=size)
    require_fit(config, source, ours, None)


def named(config: config_lib.Config, field: str) -> str:
    """The value of a field (`init_from` or `teacher.init_from`), which must be set."""
    uri = config.teacher.init_from if field == TEACHER else config.init_from
    assert uri is not None
    return uri


def read(config: config_lib.Config, field: str = START) -> Pretrained:
    """Reads the weights from the source in a field.

    Raises:
      UsageError, DataError: see `convert.read`.
    """
    uri = named(config, field)
    try:
        # No hint about the casing: the source knows the casing of its training text.
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
    """`(params, missing)`: `params` with the source's values, on the same devices.

    Parameters that only the source has are ignored.

    Args:
      tokenizer: the tokenizer of this run's text; None if it is the source's own.
      layers: the source's encoder blocks that become the model's blocks, in order (DistilBERT takes
        every second block of its teacher); None takes all blocks.
      field: the config field that names the source.

    Returns:
      `missing`: the paths of the parameters that keep their values (heads, which start at random).

    Raises:
      UsageError: the source's encoder or tokenizer differs from this run's.
    """
    import jax  # imported late, because `check` runs without JAX

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
    """The paths of the parameters that the source lacks; UsageError if its model does not fit."""
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
    """Raises UsageError if the source's weights would mean something else in this model."""
    ours, theirs = config.model, source.config.model
    for name in _MEANING:
        our, their = getattr(ours, name), getattr(theirs, name)
        if our != their and not (name == "pooler_act" and not theirs.has_pooler):
            raise UsageError(
                f"config.model.{name}={our!r}: {named(config, field)} has {their!r}; set this "
                "value, or train from random weights"
            )


def require_same_tokenizer(
    config: config_lib.Config, source: Pretrained, ours: Tokenizer | None, field: str = START
) -> None:
    """Raises UsageError if the source was trained with another tokenizer than `ours`.

    Without one of the two tokenizers, nothing is compared.
    """
    theirs, uri = source.tokenizer, named(config, field)
    difference = tokenizer_difference(theirs, ours)
    if difference and theirs is not None:
        fix = f"set {_settings(uri, config, theirs, ours)}, and prepare again"
        raise UsageError(f"config.{field}={uri}: {difference}; {fix}")


def tokenizer_difference(theirs: Tokenizer | None, ours: Tokenizer | None) -> str:
    """How another tokenizer differs from this text's tokenizer; "" if the two agree.

    If one of them is None, nothing is compared.
    """
    if theirs is None or ours is None:
        return ""
    if theirs.vocab_size != ours.vocab_size:
        return (
            f"its vocabulary has {theirs.vocab_size:,} pieces, this corpus's vocabulary "
            f"{ours.vocab_size:,}"
        )
    pieces = [tokenizer.tokens(range(tokenizer.vocab_size)) for tokenizer in (theirs, ours)]
    for i, (their, our) in enumerate(zip(*pieces, strict=True)):
        if their != our:
            return f"piece {i} of its vocabulary is {their!r}, here {our!r}"
    their_rules, our_rules = theirs.rules, ours.rules
    for rule in sorted(their_rules.keys() | our_rules.keys()):
        their, our = (str(rules.get(rule))[:40] for rules in (their_rules, our_rules))
        if their_rules.get(rule) != our_rules.get(rule):
            return f"its tokenizer has {rule}={their}, this corpus's tokenizer {rule}={our}"
    return ""


def tokenizer_place(uri: str) -> str | None:
    """The path of a source's tokenizer files; None if they are part of other files."""
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
    """The config settings that give this run the source's tokenizer."""
    place = tokenizer_place(uri) or f"DIR, after bertjax convert {uri} hf:DIR"
    asked = dataclasses.asdict(config.tokenizer) if ours is None else ours.rules
    settings = [
        f"config.tokenizer.{name}={theirs.rules[name]}"
        for name in ("lowercase", "rules")
        if None not in (theirs.rules.get(name), asked.get(name))
        and theirs.rules[name] != asked[name]
    ]
    return " and ".join([*settings, f"config.tokenizer.path={place}"])
