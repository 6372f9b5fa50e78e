"""Plans a run by compiling its own train step for devices that need not be present."""

import dataclasses
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bertjax import config as config_lib
from bertjax import kernels, models, sharding, train
from bertjax.config import stages
from bertjax.errors import UsageError, one_line
from bertjax.job import Job
from bertjax.plan import budget, hlo, hlo_cost, roofline, topology
from bertjax.plan.target import Target

Say = Callable[[str], None]  # called with a line before each compilation
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def compile_stage(job: Job, mesh: Mesh, stage: stages.Stage) -> jax.stages.Compiled:
    """The compiled train step of a stage, as `loop` runs it; in pretraining with the masking."""
    placed = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=placed)
        for name, shape in job.shapes(stage).items()
    }
    step = train.compile_step(job, mesh, job.prepare(stage), stage.micro_batches)
    return step.lower(
        train.abstract_state(job, mesh), train.abstract_frozen(job, mesh), batch
    ).compile()


def plan_stage(job: Job, target: Target, stage: stages.Stage) -> dict:
    """Compiles one stage and reports what a device needs for it, as plain values for JSON.

    Raises:
      UsageError: the mesh does not divide the devices or the batch; or attention cannot be
        computed as asked.
    """
    config, phase = job.config, stage.phase
    mesh = sharding.make_mesh(config.mesh, target.devices)
    sharding.check(config, mesh)
    if teacher := getattr(job, "teacher", None):
        sharding.check_model(teacher.model, mesh, "the teacher's ")
    tokens = phase.batch_size * phase.sequence_length
    needed = job.flops(stage)
    state = train.abstract_state(job, mesh)
    kernel = kernels.attention(config, mesh, phase.sequence_length)
    report = {
        "phase": stage.name,
        "steps": stage.steps,
        "batch_size": phase.batch_size,
        "micro_batch_size": phase.batch_size // stage.micro_batches,
        "sequence_length": phase.sequence_length,
        "mesh": dict(mesh.shape),
        "fsdp_gather": sharding.fsdp_gather(config.mesh, mesh, stage.micro_batches),
        "remat": config.model.remat,
        "attention": kernel,
        "layer_norm": kernels.layer_norm(config, mesh, phase.sequence_length),
        "parameter_bytes_per_device": bytes_per_device(state["params"]),
        "optimizer_bytes_per_device": bytes_per_device(state["opt_state"]),
        "frozen_bytes_per_device": bytes_per_device(train.abstract_frozen(job, mesh)),
        "hbm_limit_bytes": target.hbm_limit,
        "model_flops_per_step_per_device": needed / mesh.size,
        "model_flops_per_token": needed / tokens,
    }
    started = time.monotonic()
    try:
        compiled = compile_stage(job, mesh, stage)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        report |= dict.fromkeys(_MEASURED) | {"hbm_bytes_per_device": _wanted(str(error))}
        return report | {"fits": False, "compile_seconds": time.monotonic() - started}
    seconds = time.monotonic() - started
    hidden = kernel_flops(config.model, phase) if kernel == "cudnn" else 0
    hidden += _teacher_kernel_flops(job, mesh, phase)
    return (
        report | _read(compiled, target, tokens, hidden / mesh.size) | {"compile_seconds": seconds}
    )


_MEASURED = (
    "flops_per_step_per_device",
    "flops_per_token",
    "hbm_traffic_bytes_per_step",
    "kernels",
    "kernels_per_step",
    "collectives",
    "predicted_step_seconds",
    "prediction",
)


def kernel_flops(model: config_lib.Model, phase: config_lib.Phase) -> int:
    """FLOPs of cuDNN's attention in a step, which the compiled program does not show.

    They are products of the size of `[L, K] x [K, L]`: two forward, five backward (the scores once
    more) and, with `remat=full`, the two of the forward pass again.
    """
    return _attention_flops(model, phase, products=9 if model.remat == "full" else 7)


def _attention_flops(model: config_lib.Model, phase: config_lib.Phase, products: int) -> int:
    """FLOPs of `products` times `[L, K] x [K, L]` for every head, layer and row of a step."""
    row = 2 * phase.sequence_length**2 * model.hidden_size * model.num_hidden_layers
    return products * row * phase.batch_size


def _teacher_kernel_flops(job: Job, mesh: Mesh, phase: config_lib.Phase) -> int:
    """As `kernel_flops`, for the forward pass of a job's teacher; 0 without a teacher."""
    if (teacher := getattr(job, "teacher", None)) is None:
        return 0
    model, placement = teacher.model, train.placement_of(job.config, mesh)
    if models.attention_kernel(model, placement, phase.sequence_length) != "cudnn":
        return 0
    return _attention_flops(model, phase, products=2)


def _text(compiled: jax.stages.Compiled) -> str:
    try:
        return compiled.as_text() or ""
    except jax.errors.JaxRuntimeError as error:
        raise UsageError(
            f"jaxlib {jax.lib.__version__} cannot read what the compiler wrote, which is of another "
            "version; install the one that JAX asks for: pip install 'bertjax[tpu]' or "
            f"'bertjax[cuda]' ({one_line(error, longest=200, first=True)})"
        ) from error


def _read(compiled: jax.stages.Compiled, target: Target, tokens: int, hidden_flops: float) -> dict:
    """Figures of a compiled program; `hidden_flops` are a device's FLOPs that it does not show."""
    devices, memory = len(target.devices), compiled.memory_analysis()
    assert memory is not None
    slices = sharding.num_slices(target.devices)
    program = hlo.Program(_text(compiled), devices, slices)
    flops, predicted = hlo_cost.total_flops(program) + hidden_flops, None
    if target.chip:
        sides = topology.sides(target.devices)
        predicted = roofline.predict(program, target.chip, sides, hidden_flops)
    network = "nvlink" if target.chip and target.chip.nvlink else "ici"
    hbm = memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes
    if target.devices[0].platform == "cpu":  # the peak of CPU programs leaves out temporaries
        hbm += memory.temp_size_in_bytes
    return {
        "hbm_bytes_per_device": hbm,
        # The compiler does not decide this: it has accepted programs that no chip could load.
        "fits": target.hbm_limit is None or hbm <= target.hbm_limit,
        "flops_per_step_per_device": flops,
        "flops_per_token": flops * devices / tokens,
        "hbm_traffic_bytes_per_step": hlo_cost.total_bytes(program),
        "kernels": sorted(k for k in program.kernels() if k == "tpu_custom_call" or k[:2] == "__"),
        "kernels_per_step": hlo_cost.total_kernels(program),
        "collectives": summary(program.collectives(), network),
        "predicted_step_seconds": predicted and predicted.step,
        "prediction": predicted and dataclasses.asdict(predicted),
    }


def _wanted(message: str) -> float | None:
    """Bytes that a program needs, from the compiler's message; None if it has no such number."""
    found = re.search(r"required for [^(]*\(([\d.]+)([KMGT]?)\)|Used ([\d.]+)([KMGT]?) of", message)
    if not found:
        return None
    number, unit = (part for part in found.groups() if part is not None)
    return float(number) * _UNITS[unit]


def summary(collectives: list[hlo.Collective], network: str) -> list[dict]:
    """Collectives by kind, type, group and network, most bytes first; bytes are sums over a step.

    `network` is the one between the devices of a slice or host.
    """
    groups: dict[tuple, list[float]] = defaultdict(lambda: [0, 0])
    for c in collectives:
        group = groups[c.kind, c.dtype, c.devices, "dcn" if c.over_dcn else network]
        group[0] += c.count
        group[1] += c.count * c.bytes
    names = ("kind", "dtype", "devices", "network", "count", "bytes")
    rows = [dict(zip(names, (*key, *sums), strict=True)) for key, sums in groups.items()]
    return sorted(rows, key=lambda row: -row["bytes"])


def bytes_per_device(tree: dict) -> int:
    """Bytes that one device holds of abstract arrays with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def alternatives(config: config_lib.Config, target: Target, length: int) -> list[str]:
    """Attention kernels that can compute the config; the one that the config takes comes first."""
    mesh = sharding.make_mesh(config.mesh, target.devices)
    found = [kernels.attention(config, mesh, length)]
    for name in ("xla", "flash", "cudnn"):
        try:
            found.append(kernels.attention(config.with_model(attention=name), mesh, length))
        except UsageError:
            continue
    return list(dict.fromkeys(found))


def changed(job: Job, config: config_lib.Config) -> Job:
    """The same job with another config; jobs that are planned are dataclasses."""
    changes: dict = {"config": config}
    if teacher := getattr(job, "teacher", None):
        model = dataclasses.replace(teacher.model, attention=config.model.attention)
        changes["teacher"] = dataclasses.replace(teacher, model=model)
    return dataclasses.replace(job, **changes)  # type: ignore[type-var]


def plan(
    job: Job,
    target: Target,
    rows: list[int] | None = None,
    say: Say = print,
    *,
    all_kernels: bool = True,
) -> dict:
    """The plan of a whole recipe, in plain values: `bertjax plan --json` prints it.

    Args:
      job, rows: from `budget.corpus`.
      say: called with a line before each compilation, which takes up to a minute, or some minutes
        for GPUs.
      all_kernels: also compile with the attention kernels that the config would not take.

    Returns:
      The figures of the stage that needs most memory; `stages` with the figures of all stages;
      `recipe`; and `alternatives`, the stages with the other attention kernels that can compute
      them.

    Raises:
      UsageError: the config cannot be run on these devices at all. A stage that does not fit into
        their memory is no error here: `fits` is False. If the limit is unknown, `fits` is True
        unless the compiler refused.
    """
    job = changed(job, target.resolved(job.config))
    taken, others, config = [], [], job.config
    for stage in stages.of(config):
        kernels = alternatives(config, target, stage.phase.sequence_length)
        for place, kernel in enumerate(kernels if all_kernels else kernels[:1]):
            say(
                f"compiling {stage.phase.batch_size:,} x {stage.phase.sequence_length}, "
                f"{kernel} attention, for {target.name}"
            )
            other = changed(job, config.with_model(attention=kernel))
            report = plan_stage(other, target, stage)
            (others if place else taken).append(report)
    largest = max(taken, key=lambda r: (not r["fits"], r["hbm_bytes_per_device"] or math.inf))
    return {
        "num_parameters": models.num_parameters(config.model),
        "topology": target.name,
        "num_devices": len(target.devices),
        **largest,
        "fits": all(report["fits"] for report in taken),
        "compile_seconds": sum(report["compile_seconds"] for report in taken + others),
        "measurements": [
            m._asdict() | {"predicted": m.predicted} for m in roofline.measured(target.chip)
        ],
        "assumptions": roofline.assumptions(target.chip),
        "recipe": budget.totals(job, taken, rows),
        "stages": taken,
        "alternatives": others,
    }
