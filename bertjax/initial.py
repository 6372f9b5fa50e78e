"""The start of a run from somebody's weights: `config.init_from`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bertjax import config as config_lib
from bertjax import convert, storage
from bertjax.convert import names
from bertjax.convert.pretrained import Hints, Pretrained
from bertjax.data import tokenizer as tokenizer_lib
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError, UsageError

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
            f"be that of these weights; set {_settings(config, source.tokenizer, None)}"
        )
    size = source.config.model.vocab_size if ours is None else ours.vocab_size
    if not config.model.vocab_size:
        config = config.with_model(vocab_size=size)
    _require_fit(config, source, ours, None)


def read(config: config_lib.Config) -> Pretrained:
    """The weights at `config.init_from`.

    Raises:
      UsageError, DataError: as `convert.read`.
    """
    uri = config.init_from
    assert uri is not None
    try:
        # Casing is not hinted: the source says which one its weights were trained with.
        hidden_act = None if config.is_finetuning else config.model.hidden_act
        return convert.read(uri, Hints(hidden_act=hidden_act))
    except (UsageError, DataError) as error:
        if "--" not in str(error):
            raise
        raise type(error)(
            f"{error}; bertjax convert {uri} DIR takes such options, then set config.init_from=DIR"
        ) from None


def fit(
    config: config_lib.Config,
    source: Pretrained,
    params: dict,
    tokenizer: Tokenizer | None = None,
    layers: Sequence[int] | None = None,
) -> tuple[dict, list[str]]:
    """`(params, missing)`: `params` with all that the source has, placed as they are.

    What the source has beyond the model is left.

    Args:
      tokenizer: what cuts the text of this run; None where it is the source's own.
      layers: the source's encoder blocks that become the model's, in order (DistilBERT takes every
        second one of its teacher); all of them, if not given.

    Returns:
      `missing`: the paths of the parameters that stay as they were (heads: they start at random).

    Raises:
      UsageError: the source's encoder is another model, or its tokenizer another one.
    """
    import jax  # `check` needs none of it

    from bertjax import sharding

    missing = _require_fit(config, source, tokenizer, layers)

    def take(path: tuple, leaf: "jax.Array") -> "jax.Array":
        name = sharding.leaf_name(path)
        if name in missing:
            return leaf
        value = np.asarray(names.lookup(source.params, name))
        if layers is not None and name.startswith("blocks/"):
            value = value[list(layers)]
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda i: value[i])

    return jax.tree_util.tree_map_with_path(take, params), missing


def _require_fit(
    config: config_lib.Config,
    source: Pretrained,
    tokenizer: Tokenizer | None,
    layers: Sequence[int] | None,
) -> list[str]:
    """The parameters that the source lacks; raises UsageError where it is of another model."""
    _require_same_meaning(config, source)
    require_same_tokenizer(config, source, tokenizer)
    uri, model, their_model = config.init_from, config.model, source.config.model
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
                f"config.init_from={uri}: its {path} has shape {list(theirs[path])}, this model's "
                f"{list(shape)}; give config.model the sizes of {uri}"
            )
        if path not in theirs:
            missing.append(path)
    if any(path.startswith(("embeddings", "blocks")) for path in missing):
        raise UsageError(f"config.init_from={uri}: lacks {missing[0]}, which this model has")
    return missing


def _require_same_meaning(config: config_lib.Config, source: Pretrained) -> None:
    """Raises UsageError where the source's weights mean something else in this model."""
    ours, theirs = config.model, source.config.model
    for field in _MEANING:
        our, their = getattr(ours, field), getattr(theirs, field)
        if our != their and not (field == "pooler_act" and not theirs.has_pooler):
            raise UsageError(
                f"config.model.{field}={our!r}: {config.init_from} has {their!r}; set it so, or "
                "train anew"
            )


def require_same_tokenizer(
    config: config_lib.Config, source: Pretrained, ours: Tokenizer | None
) -> None:
    """Raises UsageError where the source's text was cut by another tokenizer than `ours`.

    Nothing is compared where one of them has no tokenizer.
    """
    theirs = source.tokenizer
    if theirs is None or ours is None:
        return
    uri, fix = config.init_from, f"set {_settings(config, theirs, ours)}, and prepare again"
    if theirs.vocab_size != ours.vocab_size:
        raise UsageError(
            f"config.init_from={uri}: its vocabulary of {theirs.vocab_size:,} pieces is not that "
            f"of this corpus ({ours.vocab_size:,}); {fix}"
        )
    pieces = [tokenizer.tokens(range(tokenizer.vocab_size)) for tokenizer in (theirs, ours)]
    for i, (their, our) in enumerate(zip(*pieces, strict=True)):
        if their != our:
            raise UsageError(
                f"config.init_from={uri}: piece {i} of its vocabulary is {their!r}, here {our!r}; "
                f"{fix}"
            )
    their_rules, our_rules = theirs.rules, ours.rules
    for rule in sorted(their_rules.keys() | our_rules.keys()):
        their, our = their_rules.get(rule), our_rules.get(rule)
        if their != our:
            raise UsageError(
                f"config.init_from={uri}: its tokenizer has {rule}={str(their)[:40]}, that of this "
                f"corpus {rule}={str(our)[:40]}; {fix}"
            )


def _settings(config: config_lib.Config, theirs: Tokenizer, ours: Tokenizer | None) -> str:
    """What to set so that text is cut as the source's was."""
    form, path = convert.parse(config.init_from or "")
    place = {
        "hf": path,
        "tf1": storage.path(path).parent,
        "fairseq": storage.path(path).parent,
        "orbax": storage.path(path) / "tokenizer",
    }.get(form)
    if place is None:
        place = f"DIR, after bertjax convert {config.init_from} hf:DIR"
    asked = dataclasses.asdict(config.tokenizer) if ours is None else ours.rules
    settings = [
        f"config.tokenizer.{name}={theirs.rules[name]}"
        for name in ("lowercase", "rules")
        if None not in (theirs.rules.get(name), asked.get(name))
        and theirs.rules[name] != asked[name]
    ]
    return " and ".join([*settings, f"config.tokenizer.path={place}"])
