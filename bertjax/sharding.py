"""Placement: the mesh, one table for parameters, one rule for batches. The model knows none of it."""

import math
import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax import config as config_lib
from bertjax import stages
from bertjax.errors import UsageError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# Logical axis -> mesh axis. What is not here is not split.
LOGICAL = {
    "batch": BATCH_AXES,
    "vocab": "tensor",
    "heads": "tensor",
    "mlp": "tensor",
    "embed": "fsdp",
}

# Parameter path -> logical axis of every dimension; the first match counts, no match is an error.
# `blocks` have a leading layer axis that scan walks over.
PARAMETERS = (
    (r"embeddings/word/embedding", ("vocab", "embed")),
    (r"embeddings/(position|token_type)/embedding", (None, "embed")),
    (r"blocks/(query|key|value)/kernel", (None, "embed", "heads")),
    (r"blocks/(query|key|value)/bias", (None, "heads")),
    (r"blocks/attention_output/kernel", (None, "heads", "embed")),
    (r"blocks/intermediate/kernel", (None, "embed", "mlp")),
    (r"blocks/intermediate/bias", (None, "mlp")),
    (r"blocks/output/kernel", (None, "mlp", "embed")),
    (r"blocks/\w+/(bias|scale)", (None, None)),
    (r"(embeddings|masked_lm)/layer_norm/(bias|scale)", (None,)),
    (r"pooler/dense/kernel", ("embed", None)),
    (r"masked_lm/transform/kernel", ("embed", None)),
    (r"(next_sentence|classifier|span)/dense/kernel", (None, None)),
    (r"(pooler|next_sentence|classifier|span)/dense/bias|masked_lm/transform/bias", (None,)),
    (r"masked_lm/bias", ("vocab",)),
)


def make_mesh(config: config_lib.Mesh, devices=None) -> Mesh:
    """Mesh `data x fsdp x tensor` over all devices; an axis of -1 takes what the others leave.

    Raises:
      UsageError: the axes do not multiply to the number of devices, or a TPU slice cannot be
        divided so.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    known = math.prod(s for s in sizes if s != -1)
    sizes = [len(devices) // known if s == -1 else s for s in sizes]
    if math.prod(sizes) != len(devices):
        raise UsageError(
            f"config.mesh: data={config.data} x fsdp={config.fsdp} x tensor={config.tensor} does "
            f"not fit {len(devices)} devices; let their product be {len(devices)}, or one axis -1"
        )
    try:
        return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    except NotImplementedError:  # a TPU slice is wired as a box, whose sides an axis cannot split
        names = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UsageError(
            f"config.mesh: {names} does not fit the sides of this {devices[0].device_kind} slice; "
            "let each axis be the product of some of them (of 4x4x4: 4, 16 or 64)"
        ) from None


def check(config: config_lib.Config, mesh: Mesh, *, training: bool = True):
    """Raises UsageError, naming the field, where a batch or a layer does not divide by the mesh."""
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    for field, value, size, fix in _batch_sizes(config, rows, training):
        if size % rows:
            raise UsageError(
                f"config.{field}={value}: does not divide by the mesh's data x fsdp = {rows} "
                f"devices; take {fix}"
            )
    model, fsdp, tensor = config.model, mesh.shape["fsdp"], mesh.shape["tensor"]
    for field, ways, axis in (
        ("num_attention_heads", tensor, "tensor"),
        ("intermediate_size", tensor, "tensor"),
        ("hidden_size", fsdp, "fsdp"),
    ):
        size = getattr(model, field)
        if size % ways:
            raise UsageError(f"config.mesh.{axis}={ways}: must divide config.model.{field}={size}")


def _batch_sizes(config: config_lib.Config, rows: int, training: bool):
    """`(field, its value, size of batch computed at once, value to take)` of all a run's batches.

    Every fix supposes that the sizes before it divide by `rows`.
    """
    size = config.evaluation.batch_size
    yield "evaluation.batch_size", size, size, -(-size // rows) * rows
    phases = [(name, phase) for name, phase in config.phases.items() if phase.steps]
    for stage in stages.of(config) if training else ():
        name, phase = phases[stage.phase_index]
        whole, start, micro = phase.batch_size, phase.ramp_from, phase.micro_batch_size
        yield f"phases.{name}.batch_size", whole, whole, -(-whole // rows) * rows
        doubled = (start << i for i in range(32))
        fix = next((n for n in doubled if n % rows == 0 and n < whole), 0)
        yield f"phases.{name}.ramp_from", start, stage.phase.batch_size, fix
        size = stage.phase.batch_size // stage.micro_batches
        fix = next(n for n in range(rows, whole + 1, rows) if whole % n == 0 and n >= micro)
        yield f"phases.{name}.micro_batch_size", micro, size, fix


def spec(path: str, ndim: int) -> P:
    """The PartitionSpec of the array at `path`, which ends in a parameter's path.

    Optimizer moments repeat the parameter tree (`opt_state/0/mu/blocks/query/kernel`), so they
    lie where their parameters lie; scalars (step, counts) are on every device.

    Raises:
      ValueError: no row of the table matches, or its rank is not `ndim`.
    """
    if ndim == 0:
        return P()
    for pattern, axes in PARAMETERS:
        if re.search(rf"(^|/)({pattern})$", path):
            if len(axes) != ndim:
                raise ValueError(f"{path}: table has {len(axes)} dimensions, parameter has {ndim}")
            return P(*(LOGICAL.get(axis) for axis in axes))
    raise ValueError(f"{path}: no row of sharding.PARAMETERS matches")


def abstract(mesh: Mesh, shapes):
    """`shapes` (`jax.ShapeDtypeStruct`s whose paths end in parameter paths) with shardings."""

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        sharding = NamedSharding(mesh, spec(name, leaf.ndim))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, shapes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over `data` and `fsdp`; the rest of an array whole."""
    return NamedSharding(mesh, P(BATCH_AXES))


def constrain(mesh: Mesh):
    """`(name, array) -> array` for `models.apply`: where things lie while they are used.

    Without it the partitioner is free to gather the batch instead of the FSDP weights: looked up
    in a table split over `fsdp`, the hidden states of the whole batch came out on every device.
    """
    placements = {
        "hidden": P(BATCH_AXES, None, None),
        "micro_batches": P(None, BATCH_AXES),
        "word_embedding": P("tensor", None),
        "position_embedding": P(None, None),
        "token_type_embedding": P(None, None),
    }

    def place(name, array):
        return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, placements[name]))

    return place


def local_rows(mesh: Mesh, batch_size: int) -> slice:
    """The contiguous rows of a global batch that this process's devices hold."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    spans = [(i[0].start or 0, batch_size if i[0].stop is None else i[0].stop) for i in indices]
    return slice(min(s for s, _ in spans), max(e for _, e in spans))


def to_global(mesh: Mesh, batch: dict[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
    """Global arrays `[batch_size, ...]` from this process's rows (`local_rows`) of each."""
    sharding = batch_sharding(mesh)

    def place(rows):
        return jax.make_array_from_process_local_data(sharding, rows, (batch_size, *rows.shape[1:]))

    return jax.tree.map(place, batch)
