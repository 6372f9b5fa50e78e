"""The weights that a fine-tuning starts from: a source's weights, or new random ones."""

import dataclasses

import jax
import jax.numpy as jnp

from bertjax import config as config_lib
from bertjax import initial
from bertjax.convert.pretrained import Pretrained
from bertjax.errors import UsageError
from bertjax.finetune import label_order


def start(
    config: config_lib.Config, source: Pretrained | None, params: dict
) -> tuple[dict, list[str]]:
    """The parameters that training starts from, and lines to log.

    Args:
      source: the weights to start from; None keeps `params`.
      params: new random parameters.

    Raises:
      UsageError: see `initial.fit`; or `finetune.reinit_layers` exceeds the number of blocks.
    """
    if source is None or config.finetune.random_start:
        return params, ["weights: all at random"]
    source, lines = _with_labels(config, source)
    fitted, missing = initial.fit(config, source, params)
    left = sorted(source.params.keys() - params.keys())
    line = f"weights of {config.init_from}"
    line += f"; at random: {', '.join(missing)}" if missing else ""
    line += f"; not used: {', '.join(left)}" if left else ""
    if config.finetune.reinit_layers:
        fitted, more = _drawn_anew(config, fitted, params)
        lines.append(more)
    return fitted, [line, *lines]


def _with_labels(config: config_lib.Config, source: Pretrained) -> tuple[Pretrained, list[str]]:
    """The source with its classifier's rows in the order of the task's labels, and a line to log.

    The classifier is kept only if the source has every label of the task; otherwise the whole
    classifier is new and random.
    """
    head, theirs = config.model.head_record, source.config.model
    part = head.parts[-1]
    if part.width != "num_labels" or part.name not in source.params:
        return source, []
    names = theirs.label_names or tuple(f"LABEL_{i}" for i in range(theirs.num_labels))
    ours = config.model.label_names or tuple(f"LABEL_{i}" for i in range(config.model.num_labels))
    rows, line = label_order.reorder(names, ours)
    if (config.model.problem_type == "regression") != (theirs.num_labels == 1):
        rows, line = (
            [None],
            "classifier: reinitialized: one is for regression, the other for classes",
        )
    model = dataclasses.replace(theirs, num_labels=len(ours), label_names=config.model.label_names)
    params = {name: value for name, value in source.params.items() if name != part.name}
    kept = [row for row in rows if row is not None]
    if len(kept) == len(rows):
        dense = source.params[part.name]["dense"]
        chosen = {"kernel": dense["kernel"][:, kept], "bias": dense["bias"][kept]}
        params[part.name] = {"dense": chosen}
    else:
        model = dataclasses.replace(model, head="pooler" if "pooler" in params else "none")
        line += "" if not kept else "; as a label is missing, all of it is reinitialized"
    config_of_source = dataclasses.replace(source.config, model=model)
    return dataclasses.replace(source, config=config_of_source, params=params), [line]


def _drawn_anew(config: config_lib.Config, fitted: dict, fresh: dict) -> tuple[dict, str]:
    """Replaces the top blocks and the pooler by fresh ones (Zhang et al. 2020, "Revisiting...")."""
    layers, blocks = config.finetune.reinit_layers, config.model.num_hidden_layers
    if layers > blocks:
        raise UsageError(
            f"config.finetune.reinit_layers={layers}: there are {blocks} blocks; take fewer"
        )

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        top = jnp.arange(blocks) >= blocks - layers
        return jnp.where(top.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    shardings = jax.tree.map(lambda x: x.sharding, fitted["blocks"])
    mixed = jax.jit(lambda new, old: jax.tree.map(choose, new, old), out_shardings=shardings)
    result = fitted | {"blocks": mixed(fresh["blocks"], fitted["blocks"])}
    pooler = {"pooler": fresh["pooler"]} if "pooler" in fresh else {}
    said = f"reinitialized: the top {layers} blocks{' and the pooler' if pooler else ''}"
    return result | pooler, said
