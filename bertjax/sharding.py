"""Placement: the mesh, one table for parameters, one rule for batches. The model knows none of it."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax import config as config_lib
from bertjax.config import stages
from bertjax.errors import UsageError
from bertjax.models.placement import Kernel

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
    (r"masked_lm/transform/bias", (None,)),
    (r"masked_lm/bias", ("vocab",)),
    (r"\w+/dense/kernel", (None, None)),  # the few logits of any other head
    (r"\w+/dense/bias", (None,)),
)

# Array in use, by the name that the model calls it -> what its dimensions are split over.
USED = {
    "hidden": ("rows", None, None),
    "heads": ("rows", None, "tensor", None),
    "ids": ("rows", None),
    "query_words": ("rows", "tensor", None),
    "micro_batches": (None, "data", "fsdp"),
    "word_embedding": ("tensor", None),
    "position_embedding": (None, None),
    "token_type_embedding": (None, None),
}


def make_mesh(config: config_lib.Mesh, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh `data x fsdp x tensor` over all devices; an axis of -1 takes what the others leave.

    Where the devices are several TPU slices, `data` spans them and the other axes lie within.

    Raises:
      UsageError: the axes do not multiply to the number of devices, or `data` does not divide by
        the slices.
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
    slices = num_slices(devices)
    if slices > 1 and sizes[0] % slices:
        raise UsageError(
            f"config.mesh.data={sizes[0]}: does not divide by the {slices} slices, which only "
            f"`data` spans; take a multiple of {slices} (fsdp and tensor stay within a slice)"
        )
    return Mesh(_arrange(sizes, devices, slices), AXES, axis_types=(AxisType.Auto,) * 3)


def num_slices(devices: Sequence[jax.Device]) -> int:
    """TPU slices that the devices belong to; 1 of devices that know none."""
    return len({getattr(d, "slice_index", None) for d in devices if d.platform == "tpu"}) or 1


def _arrange(sizes: list[int], devices: Sequence[jax.Device], slices: int) -> np.ndarray:
    """Devices in the form of a mesh, neighbors by wire next to each other.

    TPU slices are wired as boxes. Where the axes are not products of a box's sides, sides are
    split, and collectives over such an axis share wires.
    """

    def arrange(**options: bool) -> np.ndarray:
        if slices > 1:
            within = [sizes[0] // slices, *sizes[1:]]
            between = [slices, 1, 1]  # over the data-center network
            return mesh_utils.create_hybrid_device_mesh(within, between, devices, **options)
        return mesh_utils.create_device_mesh(sizes, devices, **options)

    try:
        return arrange()
    except NotImplementedError:
        return arrange(allow_split_physical_axes=True)


def check(config: config_lib.Config, mesh: Mesh, *, training: bool = True) -> None:
    """Raises UsageError, naming the field, where a batch or a layer does not divide by the mesh."""
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    for field, value, size, fix in _batch_sizes(config, rows, training):
        if size % rows:
            raise UsageError(
                f"config.{field}={value}: does not divide by the mesh's data x fsdp = {rows} "
                f"devices; take {fix}"
            )
    check_model(config.model, mesh)


def check_model(model: config_lib.Model, mesh: Mesh, whose: str = "config.model.") -> None:
    """Raises UsageError where a layer does not divide by the mesh; `whose` model goes before a field."""
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    for field, size, ways, axis in (
        ("num_attention_heads", model.num_attention_heads, tensor, "tensor"),
        ("intermediate_size", model.intermediate_size, tensor, "tensor"),
        ("vocab_size, padded to", model.padded_vocab_size, tensor, "tensor"),
        ("hidden_size", model.hidden_size, fsdp, "fsdp"),
    ):
        if size % ways:
            raise UsageError(f"config.mesh.{axis}={ways}: must divide {whose}{field}={size}")


def _batch_sizes(
    config: config_lib.Config, rows: int, training: bool
) -> Iterator[tuple[str, int, int, int]]:
    """`(field, its value, size of batch computed at once, value to take)` of all a run's batches.

    Every fix supposes that the sizes before it divide by `rows`.
    """
    size = config.evaluation.batch_size
    yield "evaluation.batch_size", size, size, -(-size // rows) * rows
    for stage in stages.of(config) if training else ():
        name, phase = stage.name, config.phases[stage.name]
        whole, start, micro = phase.batch_size, phase.ramp_from, phase.micro_batch_size
        yield f"phases.{name}.batch_size", whole, whole, -(-whole // rows) * rows
        doubled = (start << i for i in range(32))
        fix = next((n for n in doubled if n % rows == 0 and n < whole), 0)
        yield f"phases.{name}.ramp_from", start, stage.phase.batch_size, fix
        size = stage.phase.batch_size // stage.micro_batches
        fix = next(n for n in range(rows, whole + 1, rows) if whole % n == 0 and n >= micro)
        yield f"phases.{name}.micro_batch_size", micro, size, fix


def leaf_name(path: tuple) -> str:
    """`params/blocks/query/kernel`, of the path that `jax.tree_util` gives with a leaf.

    So the table above, checkpoints and messages name a parameter.
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


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
            return P(*(LOGICAL.get(axis or "") for axis in axes))
    raise ValueError(f"{path}: no row of sharding.PARAMETERS matches")


def abstract(mesh: Mesh, shapes: dict) -> dict:
    """`shapes` (`jax.ShapeDtypeStruct`s whose paths end in parameter paths) with shardings."""

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = leaf_name(path)
        sharding = NamedSharding(mesh, spec(name, leaf.ndim))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, shapes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over `data` and `fsdp`; the rest of an array whole."""
    return NamedSharding(mesh, P(BATCH_AXES))


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a model's arrays lie while they are used: what `models.apply` knows of devices.

    Without it the partitioner is free to gather the batch instead of the FSDP weights: looked up
    in a table split over `fsdp`, the hidden states of the whole batch came out on every device.
    """

    mesh: Mesh
    rows: tuple[str, ...] = BATCH_AXES
    unsplit: ClassVar[None] = None

    @property
    def of_shard(self) -> "Placement":
        """The placement within a function that is mapped over `data`, each on its own rows."""
        return dataclasses.replace(self, rows=("fsdp",))

    def spec(self, name: str) -> P:
        """What the dimensions of an array in use are split over."""
        return P(*(self.rows if axis == "rows" else axis for axis in USED[name]))

    @property
    def device(self) -> jax.Device:
        """One of the mesh's, which need not be at hand: a program may be compiled for others."""
        return self.mesh.devices.flat[0]

    def __call__(self, name: str, array: jax.Array) -> jax.Array:
        """`array`, placed as `USED` says of `name`.

        The gradient of the word table goes to where the table lies. Wanted where the table is used,
        on every device of `fsdp`, it was reduced whole, and once more for the lookup.
        """
        used = NamedSharding(self.mesh, self.spec(name))
        if name != "word_embedding":
            return jax.lax.with_sharding_constraint(array, used)
        kept = NamedSharding(self.mesh, spec("embeddings/word/embedding", array.ndim))
        place = jax.custom_vjp(lambda x: jax.lax.with_sharding_constraint(x, used))
        place.defvjp(
            lambda x: (jax.lax.with_sharding_constraint(x, used), None),
            lambda _, gradient: (jax.lax.with_sharding_constraint(gradient, kept),),
        )
        return place(array)

    def per_shard(self, kernel: Kernel, names: tuple[str, ...]) -> Kernel:
        """`kernel`, run by each device on its share of arguments that `USED` has these names for.

        For kernels that the partitioner cannot look into. The result lies as the first argument.
        """
        specs = tuple(self.spec(name) for name in names)
        return jax.shard_map(
            kernel,
            mesh=self.mesh,
            in_specs=specs,
            out_specs=specs[0],
            check_vma=False,  # a kernel's result does not say over which axes it varies
        )


def put(value: np.ndarray, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """A host array where `like` lies; each process gives its own devices what they hold."""
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: value[index])


@functools.cache  # asked for at every step
def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, in order.

    A slice's wiring, not its hosts, orders the devices of a mesh: they need not be consecutive.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[i] for i in indices]))


def to_global(mesh: Mesh, batch: dict[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
    """Global arrays `[batch_size, ...]` from this process's rows (`local_rows`) of each."""
    sharding, numbers = batch_sharding(mesh), local_rows(mesh, batch_size)

    def place(rows: np.ndarray) -> jax.Array:
        def shard(index: tuple[slice, ...] | None) -> Any:
            assert index is not None
            start, stop, _ = index[0].indices(batch_size)
            at = np.searchsorted(numbers, start)  # a device's rows are consecutive
            return rows[at : at + stop - start]

        return jax.make_array_from_callback((batch_size, *rows.shape[1:]), sharding, shard)

    return jax.tree.map(place, batch)
