"""Cost of a mesh on each device: the compiled training step of a config on 8 fake CPU devices.

Bytes are XLA's for one device: arguments (state and batch) and temporaries. Nothing is run.
Collectives are those that a step executes, with the bytes that they send.

    python -m benchmarks.placement --hidden_size=768 --layers=12 --batch=64
"""

import argparse
import os
from collections import defaultdict

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp

from bertjax import config as config_lib
from bertjax import sharding, train
from bertjax.plan import hlo
from bertjax.pretraining import Pretraining

MESHES = (
    config_lib.Mesh(8),
    config_lib.Mesh(8, shard_optimizer_over_data=True),
    config_lib.Mesh(2, 4, fsdp_gather="layer"),
    config_lib.Mesh(2, 4, fsdp_gather="step"),
    config_lib.Mesh(1, 8, fsdp_gather="layer"),
    config_lib.Mesh(1, 8, fsdp_gather="step"),
    config_lib.Mesh(2, 2, 2, fsdp_gather="layer"),
    config_lib.Mesh(2, 2, 2, fsdp_gather="step"),
)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden_size", type=int, default=768, help="width (768)")
    parser.add_argument("--layers", type=int, default=12, help="encoder blocks (12)")
    parser.add_argument("--batch", type=int, default=64, help="sequences in the global batch (64)")
    parser.add_argument("--length", type=int, default=128, help="tokens in a sequence (128)")
    parser.add_argument("--micro_batches", type=int, default=1, help="parts of the batch (1)")
    return parser.parse_args()


def compile_for(args, mesh):
    model = config_lib.Model(
        hidden_size=args.hidden_size,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // 64,
        intermediate_size=4 * args.hidden_size,
    )
    phase = config_lib.Phase(steps=1, sequence_length=args.length, batch_size=args.batch)
    config = config_lib.Config(model=model, phases={"phase1": phase}, mesh=mesh)
    mesh = sharding.make_mesh(config.mesh)
    rows, wide = ("next_sentence_labels", "example_ids"), (args.batch, args.length)
    masked = (args.batch, phase.max_predictions_per_seq)
    shapes = dict.fromkeys(rows, (args.batch,))
    shapes |= dict.fromkeys(("input_ids", "token_type_ids", "attention_mask"), wide)
    shapes |= {f"masked_lm_{name}": masked for name in ("positions", "ids", "weights")}
    placed = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(
            shape, jnp.float32 if name.endswith("weights") else jnp.int32, sharding=placed
        )
        for name, shape in shapes.items()
    }
    step = train.compile_step(Pretraining(config), mesh, lambda batch: batch, args.micro_batches)
    return step.lower(train.abstract_state(Pretraining(config), mesh), {}, batch).compile()


def collectives(text):
    """`4 all-gather 1.2 MB, ...` of a compiled program."""
    sums = defaultdict(lambda: [0, 0.0])
    for c in hlo.Program(text, jax.device_count()).collectives():
        sums[c.kind][0] += c.count
        sums[c.kind][1] += c.count * c.bytes / 1e6
    return ", ".join(f"{count} {kind} {size:.1f} MB" for kind, (count, size) in sums.items())


def main():
    args = parse_arguments()
    print(
        f"{args.layers} x {args.hidden_size}, batch {args.batch} x {args.length}, "
        f"{args.micro_batches} micro-batches, jax {jax.__version__}"
    )
    print("| mesh | arguments MB | temporaries MB | collectives |\n|---|---|---|---|")
    for mesh in MESHES:
        compiled = compile_for(args, mesh)
        memory = compiled.memory_analysis()
        name = f"{mesh.data} x {mesh.fsdp} x {mesh.tensor}"
        name += f", gathered by {mesh.fsdp_gather}" if mesh.fsdp > 1 else ""
        name += ", ZeRO-1" if mesh.shard_optimizer_over_data else ""
        print(
            f"| {name} | {memory.argument_size_in_bytes / 1e6:.1f} "
            f"| {memory.temp_size_in_bytes / 1e6:.1f} | {collectives(compiled.as_text())} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
