"""The mesh of a run's devices, and checks that a config divides by it."""

import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from bertjax import config as config_lib
from bertjax.config import stages
from bertjax.errors import UsageError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(config: config_lib.Mesh, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh `data x fsdp x tensor` over all devices; an axis of -1 takes what the others leave.

    With several TPU slices, `data` spans the slices and the other axes stay within a slice.

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
            f"not fit {len(devices)} devices; make their product {len(devices)}, or one axis -1"
        )
    slices = num_slices(devices)
    if slices > 1 and sizes[0] % slices:
        raise UsageError(
            f"config.mesh.data={sizes[0]}: does not divide by the {slices} slices, which only "
            f"`data` spans; take a multiple of {slices} (fsdp and tensor stay within a slice)"
        )
    return Mesh(_arrange(sizes, devices, slices), AXES, axis_types=(AxisType.Auto,) * 3)


def num_slices(devices: Sequence[jax.Device]) -> int:
    """Number of TPU slices that the devices belong to; 1 for devices without slices."""
    return len({getattr(d, "slice_index", None) for d in devices if d.platform == "tpu"}) or 1


def _arrange(sizes: list[int], devices: Sequence[jax.Device], slices: int) -> np.ndarray:
    """Arranges devices as a mesh, with wired neighbors next to each other.

    TPU slices are wired as boxes. If an axis is not a product of a box's sides, a side is split,
    and collectives over that axis share wires.
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
    """Raises UsageError, naming the field, if a batch or a layer does not divide by the mesh."""
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    for field, value, size, fix in _batch_sizes(config, rows, training):
        if size % rows:
            raise UsageError(
                f"config.{field}={value}: does not divide by the mesh's data x fsdp = {rows} "
                f"devices; take {fix}"
            )
    check_model(config.model, mesh)


def check_model(model: config_lib.Model, mesh: Mesh, whose: str = "config.model.") -> None:
    """Raises UsageError if a layer does not divide by the mesh; `whose` precedes a field's name."""
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
    """`(field, its value, rows computed at once, value to take)` for every batch of a run.

    Every value to take assumes that the sizes before it divide by `rows`.
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
