"""Sharding tables, one for parameters, one for arrays in use. Models depend on neither."""

import dataclasses
import math
import re
from typing import ClassVar

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax.models.placement import Kernel
from bertjax.sharding.mesh import BATCH_AXES

# Logical axis -> mesh axis. A logical axis that is not in the table is not split.
LOGICAL = {
    "batch": BATCH_AXES,
    "vocab": "tensor",
    "heads": "tensor",
    "mlp": "tensor",
    "embed": "fsdp",
}

# Parameter path -> logical axis of every dimension; the first match counts, no match is an error.
# `blocks` have a leading layer axis, which `scan` runs over.
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

# Array in use, by the model's name for it -> what splits its dimensions: mesh axes, `mapped` (the
# axes that `vmap` runs over) or `rows` (the other axes of BATCH_AXES).
USED = {
    "hidden": ("rows", None, None),
    "heads": ("rows", None, "tensor", None),
    "ids": ("rows", None),
    "head_biases": ("tensor", None),
    "query_words": ("rows", "tensor", None),
    "feature": (None,),
    "micro_batches": (None, "mapped", "rows"),
    "word_embedding": ("tensor", None),
    "position_embedding": (None, None),
    "token_type_embedding": (None, None),
}


def leaf_name(path: tuple) -> str:
    """The name of a leaf, `params/blocks/query/kernel`, from its path in `jax.tree_util`.

    The table above, checkpoints and messages use these names.
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def spec(path: str, ndim: int) -> P:
    """The PartitionSpec of the array at `path`, which ends in a parameter's path.

    Optimizer moments repeat the parameter tree (`opt_state/0/mu/blocks/query/kernel`), so they are
    sharded as their parameters. Scalars (step, counts) are on every device.

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
    raise ValueError(f"{path}: no row of PARAMETERS in bertjax/sharding/table.py matches")


def over_data(own: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The spec of a parameter's moments: `own`, the parameter's spec, with `data` added.

    `data` splits the longest dimension that it divides. The last dimension is taken only if `data`
    divides no other, because a TPU pads it to 128 elements. If `data` divides none, the result is
    `own`.
    """
    parts = [
        size // math.prod(mesh.shape[axis] for axis in axes_of(entry))
        for size, entry in zip(shape, own, strict=True)
    ]
    divided = [dim for dim, size in enumerate(parts) if size % mesh.shape["data"] == 0]
    if not divided:
        return own
    chosen = max(divided, key=lambda dim: (dim < len(shape) - 1, parts[dim]))
    return P(*((*axes_of(e), "data") if dim == chosen else e for dim, e in enumerate(own)))


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Mesh axes that split a dimension, from its entry in a PartitionSpec."""
    return (entry,) if isinstance(entry, str) else entry or ()


def without(own: P, axes: tuple[str, ...]) -> P:
    """`own` without `axes`: no dimension is split over them."""
    return P(*(tuple(a for a in axes_of(entry) if a not in axes) or None for entry in own))


def abstract(mesh: Mesh, shapes: dict, *, optimizer_over_data: bool = False) -> dict:
    """`shapes` (`jax.ShapeDtypeStruct`s whose paths end in parameter paths) with shardings.

    Args:
      optimizer_over_data: shard the leaves under `opt_state` by `over_data`.
    """

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = leaf_name(path)
        own = spec(name, leaf.ndim)
        if optimizer_over_data and name.startswith("opt_state/"):
            own = over_data(own, leaf.shape, mesh)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, own))

    return jax.tree_util.tree_map_with_path(place, shapes)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Shardings of a model's arrays in use; `models.apply` knows nothing else of devices.

    Without these shardings the partitioner may gather the batch instead of the FSDP weights: after
    a lookup in a table split over `fsdp`, every device had the hidden states of the whole batch.

    Attributes:
      mapped: axes that the function around the model is mapped over, each part on its own rows.
    """

    mesh: Mesh
    mapped: tuple[str, ...] = ()
    unsplit: ClassVar[None] = None

    def within(self, mapped: tuple[str, ...]) -> "Placement":
        """The placement inside a function that is mapped over these axes."""
        return dataclasses.replace(self, mapped=mapped)

    def spec(self, name: str) -> P:
        """The PartitionSpec of an array in use, by its name in `USED`."""
        rows = tuple(axis for axis in BATCH_AXES if axis not in self.mapped)
        meant = {"rows": rows or None, "mapped": self.mapped}
        return P(*(meant.get(axis or "", axis) for axis in USED[name]))

    def gathered(self, params: dict) -> dict:
        """Parameters without a split over the mapped axes, whose devices all hold the same."""

        def place(path: tuple, x: jax.Array) -> jax.Array:
            own = without(spec(leaf_name(path), x.ndim), self.mapped)
            return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, own))

        return jax.tree_util.tree_map_with_path(place, params)

    @property
    def device(self) -> jax.Device:
        """A device of the mesh. It may not be on this machine if a program is only compiled."""
        return self.mesh.devices.flat[0]

    def __call__(self, name: str, array: jax.Array) -> jax.Array:
        """`array` with the sharding that `USED` has for `name`.

        The word table's gradient gets the sharding of the stored table. With the sharding of the
        table in use, whole on every device of `fsdp`, the gradient was reduced whole, and once more
        for the lookup.
        """
        used = NamedSharding(self.mesh, self.spec(name))
        if name != "word_embedding":
            return jax.lax.with_sharding_constraint(array, used)
        own = without(spec("embeddings/word/embedding", array.ndim), self.mapped)
        kept = NamedSharding(self.mesh, own)
        place = jax.custom_vjp(lambda x: jax.lax.with_sharding_constraint(x, used))
        place.defvjp(
            lambda x: (jax.lax.with_sharding_constraint(x, used), None),
            lambda _, gradient: (jax.lax.with_sharding_constraint(gradient, kept),),
        )
        return place(array)

    def per_shard(self, kernel: Kernel, names: tuple[str, ...]) -> Kernel:
        """`kernel`, run by each device on its share of the arguments.

        This is for kernels that the partitioner cannot look into. `names` are the arguments' names
        in `USED`; results are sharded as the first argument.
        """
        specs = tuple(self.spec(name) for name in names)
        return jax.shard_map(
            kernel,
            mesh=self.mesh,
            in_specs=specs,
            out_specs=specs[0],
            check_vma=False,  # a kernel's result does not declare over which axes it varies
        )
