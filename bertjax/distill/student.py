"""Starts a student from its teacher's blocks (Sanh et al. 2019, section 3)."""

import dataclasses

import numpy as np

from bertjax import config as config_lib
from bertjax import initial, sharding
from bertjax.convert.pretrained import Pretrained
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.distill import teacher

_BIAS = "masked_lm/bias"


def prepared(config: config_lib.Config, source: Pretrained | None) -> config_lib.Config:
    """The config resolved against its teacher, if it has one, before text is prepared.

    Raises:
      UsageError, DataError: as `teacher.resolved` and `check`.
    """
    if source is None:
        return config
    config = teacher.resolved(config, source)
    check(config, source)
    return config


def check(config: config_lib.Config, source: Pretrained) -> None:
    """Raises UsageError if a student cannot start from the blocks in `config.teacher.layers`."""
    if config.teacher.layers:
        initial.require_fit(
            config, _offered(config, source)[0], None, config.teacher.layers, initial.TEACHER
        )


def start(
    config: config_lib.Config, source: Pretrained, params: dict, tokenizer: Tokenizer | None
) -> tuple[dict, list[str]]:
    """Copies the teacher's embeddings, head and chosen blocks into a student's parameters.

    A student may have no token types although its teacher adds the vector of type 0 to every token.
    `config.teacher.token_types` says whether that vector is folded into the positions or dropped.

    Args:
      source: the teacher.
      params: the student's fresh parameters, on their final devices.

    Returns:
      The parameters, and lines for the log.

    Raises:
      UsageError: sizes, activations or tokenizers differ, or the teacher has too few blocks.
    """
    layers = config.teacher.layers
    source, lines = _offered(config, source)
    params, missing = initial.fit(config, source, params, tokenizer, layers, initial.TEACHER)
    if _BIAS in missing:  # as published: the rest of the head stays random
        missing.remove(_BIAS)
        head = params["masked_lm"]
        bias = np.asarray(source.params["masked_lm"]["bias"])
        params["masked_lm"] = head | {"bias": sharding.put(bias, head["bias"])}
    random = [f"at random: {', '.join(missing)}"] if missing else []
    return params, [
        f"blocks {', '.join(map(str, layers))} of {config.teacher.init_from}",
        *lines,
        *random,
    ]


def _offered(config: config_lib.Config, source: Pretrained) -> tuple[Pretrained, list[str]]:
    """The parts of a teacher that a student may copy, and lines on changes to them."""
    how, theirs, lines = config.teacher, source.config.model, []
    kept = dict(source.params)
    head = "masked_lm" if how.copy_head else "none"
    if theirs.type_vocab_size and not config.model.type_vocab_size:
        kept["embeddings"], line = _without_types(kept["embeddings"], how.token_types)
        lines.append(line)
    model = dataclasses.replace(theirs, head=head)
    whole = dataclasses.replace(source.config, model=model)
    return dataclasses.replace(source, params=kept, config=whole), lines


def _without_types(embeddings: dict, how: str) -> tuple[dict, str]:
    """The embeddings without the table of token types, for a student that has no types."""
    if how == "drop":
        return embeddings, "token types of the teacher: left out, as published"
    first = np.asarray(embeddings["token_type"]["embedding"])[0]
    table = np.asarray(embeddings["position"]["embedding"]) + first
    folded = embeddings | {"position": {"embedding": table}}
    return folded, "token type 0 of the teacher: added to every position"
