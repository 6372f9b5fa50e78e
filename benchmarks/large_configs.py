"""The large configs at their planned mesh: parameters, tokens a step, memory of a device.

Each phase's whole train step is compiled ahead of time, nothing is allocated, for as many devices
as the plan has: fake CPU devices by default, whose compiler is not the accelerator's (its temporaries
came out at 1.4 times the TPU's), or with --tpu the real slice's compiler, which needs no TPU but
the package `libtpu`. Masking is left out.

    python -m benchmarks.large_configs                          10 seconds a phase
    python -m benchmarks.large_configs --only=roberta_base --tpu    a minute or two
"""

import argparse
import os
import runpy
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=64")

import jax
import jax.numpy as jnp

from bertjax import config as config_lib
from bertjax import models, sharding, stages, train

# config file: (TPU topology, its chips, mesh), as in the header of the config
PLANS = {
    "roberta_base": ("v4:2x4x4", 32, {"fsdp": 1}),
    "roberta_large": ("v4:4x4x4", 64, {"fsdp": 4}),
    "bert_large_lamb": ("v4:4x4x4", 64, {"fsdp": 4}),
}


def load(name: str, mesh: dict) -> config_lib.Config:
    """A config file's config, with fields of the mesh changed."""
    path = Path(__file__).parent.parent / "configs" / f"{name}.py"
    tree = runpy.run_path(str(path))["get_config"]()
    tree.mesh.update(mesh)
    return config_lib.from_config_dict(tree)


def abstract_batch(config: config_lib.Config, mesh, phase: config_lib.Phase) -> dict:
    """Shapes, types and shardings of a masked batch of a phase, one example a row."""
    rows, length, predictions = (
        phase.batch_size, phase.sequence_length, phase.max_predictions_per_seq,
    )  # fmt: skip
    shapes = dict.fromkeys(("input_ids", "token_type_ids", "attention_mask"), (rows, length))
    shapes["example_ids"] = (rows,)
    if config.examples.has_next_sentence:
        shapes["next_sentence_labels"] = (rows,)
    masked = ("positions", "ids", "weights")
    shapes |= dict.fromkeys([f"masked_lm_{name}" for name in masked], (rows, predictions))
    placed = sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(
            shape, jnp.float32 if name.endswith("weights") else jnp.int32, sharding=placed
        )
        for name, shape in shapes.items()
    }


def compile_stage(config: config_lib.Config, mesh, stage: stages.Stage):
    """The compiled train step of a stage."""
    sharding.check(config, mesh)
    step = train.compile_step(config, mesh, lambda batch: batch, stage.micro_batches)
    batch = abstract_batch(config, mesh, stage.phase)
    return step.lower(train.abstract_state(config, mesh), batch).compile()


def devices_of(topology: str, chips: int, tpu: bool) -> list:
    """Devices to compile for: of a TPU slice that need not be there, or fake ones of the CPU."""
    if not tpu:
        return jax.devices()[:chips]
    from jax.experimental import topologies

    # One device a chip, as JAX has it on the slice itself.
    chip = {"chip_config_name": "megacore"} if topology.startswith("v4") else {}
    return topologies.get_topology_desc(topology, platform="tpu", **chip).devices


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PLANS, help="one config; all without it")
    parser.add_argument("--tpu", action="store_true", help="the TPU's compiler (needs libtpu)")
    args = parser.parse_args()
    print(f"jax {jax.__version__}, {'TPU' if args.tpu else 'CPU'} compiler")
    print("| config | parameters | tokens a step | devices: data x fsdp x tensor | rows a device at "
          "once | arguments GiB | temporaries GiB | compiled in s |\n|" + "---|" * 8)  # fmt: skip
    for name in [args.only] if args.only else PLANS:
        topology, chips, fields = PLANS[name]
        config = load(name, fields)
        mesh = sharding.make_mesh(config.mesh, devices_of(topology, chips, args.tpu))
        for stage in stages.of(config):
            started, phase = time.monotonic(), stage.phase
            memory = compile_stage(config, mesh, stage).memory_analysis()
            seconds = time.monotonic() - started
            rows = phase.batch_size // stage.micro_batches // (
                mesh.shape["data"] * mesh.shape["fsdp"])  # fmt: skip
            print(f"| {name}, {phase.batch_size:,} x {phase.sequence_length} "
                  f"| {models.num_parameters(config.model):,} "
                  f"| {phase.batch_size * phase.sequence_length:,} "
                  f"| {topology}: {' x '.join(str(n) for n in mesh.shape.values())} | {rows} "
                  f"| {memory.argument_size_in_bytes / 2**30:.2f} "
                  f"| {memory.temp_size_in_bytes / 2**30:.2f} | {seconds:.0f} |",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
