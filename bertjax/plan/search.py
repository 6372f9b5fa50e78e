"""Searches micro-batches, meshes and recomputation with which a config fits; compiles each."""

import dataclasses
from collections.abc import Iterator

from bertjax import config as config_lib
from bertjax import sharding, train
from bertjax.config import stages
from bertjax.errors import UsageError
from bertjax.job import Job
from bertjax.plan import gpus
from bertjax.plan.stage import Say, changed, plan_stage
from bertjax.plan.target import Target

_TRIES = 3  # maximum of candidates to compile


def would_fit(job: Job, target: Target, report: dict, say: Say) -> str:
    """The fields with which a stage would fit, as text that says whether they were compiled.

    Args:
      report: from `stage.plan_stage`, for the stage that does not fit.
      say: called with a line before each compilation.
    """
    if share := gpus.larger_share(target.chip, report["hbm_bytes_per_device"]):
        return f"it fits with XLA_CLIENT_MEM_FRACTION={share} in the environment"
    config = job.config
    number, name = _stage_of(config, report), report["phase"]
    smaller = micro_batch_sizes(config, report, 2)[1:]
    smallest = min([*smaller, report["micro_batch_size"]])
    tries = [(size, config.model.remat) for size in _likely(report, smaller)]
    if config.model.remat != "full":
        tries = [*tries[: _TRIES - 1], (smallest, "full")]
    for size, remat in tries[:_TRIES]:
        fields = _fields(config, report, size, remat)
        say(f"does {fields} fit?")
        other = with_micro_batch(config.with_model(remat=remat), name, size)
        tried = plan_stage(changed(job, other), target, stages.of(other)[number])
        if tried["fits"]:
            return f"{fields} fits: {tried['hbm_bytes_per_device'] / 2**30:.1f} GiB (compiled)"
    fsdp = report["mesh"]["fsdp"] * 4
    ways = fsdp * report["mesh"]["tensor"]
    if (
        config.mesh.data == -1
        and config.model.hidden_size % fsdp == 0 == len(target.devices) % ways
    ):
        others = _fields(config, report, smallest, "full")
        others = f"--config.mesh.fsdp={fsdp} --config.mesh.fsdp_gather=layer {others}"
        return f"perhaps {others} (not checked), or more devices"
    return "nothing that was tried fits; take more devices"


def _fields(config: config_lib.Config, report: dict, size: int, remat: str) -> str:
    """The flags that set a stage's micro-batch size and recomputation."""
    flags = []
    if size != report["micro_batch_size"]:
        flags.append(f"--config.phases.{report['phase']}.micro_batch_size={size}")
    if remat != config.model.remat:
        flags.append(f"--config.model.remat={remat}")
    return " ".join(flags)


def _likely(report: dict, sizes: list[int]) -> list[int]:
    """The sizes that should fit if memory besides the state grows in proportion to the rows."""
    needed, limit = report["hbm_bytes_per_device"], report["hbm_limit_bytes"]
    if needed is None or limit is None:
        return sizes
    state = sum(report[f"{part}_bytes_per_device"] for part in ("parameter", "optimizer", "frozen"))
    row = (needed - state) / report["micro_batch_size"]
    return [size for size in sizes if state + size * row < limit]


def micro_batch_sizes(config: config_lib.Config, report: dict, step: int) -> list[int]:
    """Sizes from the current one down, each `step` times smaller, that the mesh divides.

    Only the current size if micro-batches are clipped one by one: others would train differently.
    """
    rows = report["mesh"]["data"] * report["mesh"]["fsdp"]
    size, sizes = report["micro_batch_size"], []
    while size >= rows and size % rows == 0:
        sizes.append(size)
        if size % step or train.clips_per_shard(config):
            break
        size //= step
    return sizes


def with_micro_batch(config: config_lib.Config, name: str, size: int) -> config_lib.Config:
    """A config with the micro-batches of one phase changed."""
    phase = dataclasses.replace(config.phases[name], micro_batch_size=size)
    return dataclasses.replace(config, phases=config.phases | {name: phase})


def _stage_of(config: config_lib.Config, report: dict) -> int:
    found = [(stage.name, stage.phase.batch_size) for stage in stages.of(config)]
    return found.index((report["phase"], report["batch_size"]))


def table(job: Job, target: Target, say: Say) -> Iterator[dict]:
    """Yields reports of every phase's largest batch, over meshes, recomputation and micro-batches.

    For each mesh (fsdp of 1, 4 and all devices) and each `remat`, the search starts with the whole
    batch at once and goes down by quarters until a micro-batch fits. Sizes that do not fit are
    reported too.

    Args:
      say: called with a line before each compilation, or with the reason why a mesh is left out; a
        row takes up to a minute.

    Raises:
      UsageError: the config's own mesh or batches do not divide, so no other mesh would.
    """
    job = changed(job, target.resolved(job.config))
    config = job.config
    made = sharding.make_mesh(config.mesh, target.devices)
    sharding.check(config, made)
    tensor = made.shape["tensor"]
    last = {stage.name: number for number, stage in enumerate(stages.of(config))}
    for name, number in last.items():
        for fsdp in sorted({1, 4, made.size // tensor}):
            mesh = dataclasses.replace(config.mesh, data=-1, fsdp=fsdp, tensor=tensor)
            for remat in ("none", "dots", "full"):
                other = dataclasses.replace(config, mesh=mesh).with_model(remat=remat)
                yield from _until_one_fits(changed(job, other), target, name, number, say)


def _until_one_fits(job: Job, target: Target, name: str, number: int, say: Say) -> Iterator[dict]:
    config = job.config
    size = config.phases[name].batch_size
    while size:
        other = with_micro_batch(config, name, size)
        say(f"{name}: fsdp={config.mesh.fsdp}, remat={config.model.remat}, micro-batch {size:,}")
        try:
            report = plan_stage(changed(job, other), target, stages.of(other)[number])
        except UsageError as error:  # the mesh does not divide the devices or the model
            say(f"  left out: {error}")
            return
        yield report
        smaller = micro_batch_sizes(config, report, 4)[1:]
        size = 0 if report["fits"] or not smaller else smaller[0]
