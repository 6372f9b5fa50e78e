"""Orbax: a run's directory (see `workdir`) as a source and as a destination.

A destination gets `config.json`, `tokenizer/` and one checkpoint. The checkpoint holds the weights
alone or, with Adam's moments, the whole train state, from which `pretrain` continues.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bertjax import config as config_lib
from bertjax import storage
from bertjax.convert import names
from bertjax.convert.pretrained import Hints, Pretrained
from bertjax.data import tokenizer as tokenizer_lib
from bertjax.data import tokenizer_files, used
from bertjax.errors import DataError


def read(path: Path, hints: Hints, *, moments: bool = False) -> Pretrained:
    """The newest complete checkpoint of a run; for a finished fine-tuning, the selected one.

    Args:
      moments: also read Adam's moments, if the checkpoint has them.

    Raises:
      DataError: no run, no complete checkpoint, a checkpoint that does not match the run's config,
        or a tokenizer that did not make the run's store.
    """
    from bertjax import models, workdir
    from bertjax.checkpoints import manager

    config = workdir.read_config(path)
    directory = path / "tokenizer"
    tokenizer, notes = None, []
    if hints.tokenizer is not None:
        tokenizer, notes = tokenizer_files.read(hints.tokenizer, hints.tokenizer_wish)
    elif storage.is_directory(directory):
        tokenizer = tokenizer_lib.load(directory)
        _require_own(tokenizer, path)
    if tokenizer is not None:
        group = tokenizer_lib.resolved(config.tokenizer, tokenizer)
        config = dataclasses.replace(config, tokenizer=group)
    abstract = {"params": models.abstract_params(config.model)}
    if moments and manager.holds(path / "checkpoints", "opt_state"):
        abstract = _abstract_state(config)
    wanted, metric = workdir.selected(path) or (None, None)
    step, state = manager.read_newest(path / "checkpoints", abstract, on_host=True, wanted=wanted)
    figures = _figures(path, step)
    if metric in figures:  # the metric that selected the checkpoint comes first
        figures = {metric: figures[metric], **figures}
    return Pretrained(
        config,
        tokenizer,
        state["params"],
        step=step,
        moments=_moments(state["opt_state"]) if "opt_state" in state else None,
        figures=figures,
        notes=tuple(notes),
    )


def _require_own(tokenizer: tokenizer_lib.Tokenizer | None, path: Path) -> None:
    """Raises DataError if W/tokenizer did not make W/store, and so does not fit the weights."""
    for manifest in used.manifests(path).values() if tokenizer else ():
        if manifest["tokenizer_sha256"] != tokenizer.sha256:
            raise DataError(
                f"{path}/tokenizer: not the tokenizer that made {path}/store; put that one back, "
                "or name it with --tokenizer"
            )


def _abstract_state(config: config_lib.Config) -> dict:
    import functools

    import jax

    from bertjax import models, train

    init = functools.partial(models.init, config.model)
    return jax.eval_shape(lambda: train.init_state(config, init))


def _moments(opt_state: Iterable) -> dict | None:
    """Adam's moments, from the part of the optimizer's chain that has them; None if no part has."""
    for part in opt_state:
        fields = part if isinstance(part, dict) else getattr(part, "_asdict", dict)()
        if {"mu", "nu"} <= fields.keys():
            return {"mu": fields["mu"], "nu": fields["nu"]}
    return None


def _figures(path: Path, step: int) -> dict[str, float]:
    """The last held-out figures that the run recorded up to `step`."""
    from bertjax.metrics import writer

    if not storage.is_file(path / "metrics.jsonl"):
        return {}
    found = writer.evaluations(writer.read(path / "metrics.jsonl"))
    return max(((at, f) for at, f in found.items() if at <= step), default=(0, {}))[1]


def write(pretrained: Pretrained, path: Path) -> None:
    """Writes a run's directory with one checkpoint, at the step of the source."""
    import jax

    from bertjax import workdir
    from bertjax.checkpoints import manager

    path.mkdir(parents=True)
    workdir.write_config(_with_tokenizer(pretrained), path)
    if pretrained.tokenizer is not None:
        pretrained.tokenizer.save(path / "tokenizer")
    state = _state(pretrained)
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(state))
    limit = largest + (1 << 20)
    checkpoints = manager.Checkpoints(path / "checkpoints", keep=2, in_flight_bytes=limit)
    checkpoints.save(pretrained.step, state)
    checkpoints.close()


def _with_tokenizer(pretrained: Pretrained) -> config_lib.Config:
    """The config whose tokenizer is the one saved beside it."""
    config = pretrained.config
    return dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, path=None))


def _state(pretrained: Pretrained) -> dict:
    """The checkpoint's tree of jax arrays, in the host's memory if JAX has its CPU backend."""
    import jax

    from bertjax import sharding

    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS=tpu leaves the CPU out
        host = jax.local_devices()[0]
    if pretrained.moments is None:
        return jax.device_put({"params": pretrained.params}, host)
    moments, step = pretrained.moments, np.int32(pretrained.step)

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray | np.int32:
        name = sharding.leaf_name(path)
        for part in ("mu", "nu"):
            _, found, parameter = name.partition(f"/{part}/")
            if found:
                return names.lookup(moments[part], parameter)
        if name.startswith("params/"):
            return names.lookup(pretrained.params, name.removeprefix("params/"))
        return step  # `step`, and the counts that the optimizer keeps

    abstract = _abstract_state(pretrained.config)
    return jax.device_put(jax.tree_util.tree_map_with_path(fill, abstract), host)
