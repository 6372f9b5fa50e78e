"""What a mesh costs on each device: the compiled training step of a config on 8 fake CPU devices.

Bytes are what XLA reports for one device: arguments (state and batch) and temporaries. Nothing is
run. Collectives are counted in the compiled program, a scanned block's once.

    python -m benchmarks.placement --hidden_size=768 --layers=12 --batch=64
"""

import argparse
import os
import re

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp

from bertjax import config as config_lib
from bertjax import sharding, train
from bertjax.pretraining import Pretraining

MESHES = ((8, 1, 1), (4, 2, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2))
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden_size", type=int, default=768, help="width (768)")
    parser.add_argument("--layers", type=int, default=12, help="encoder blocks (12)")
    parser.add_argument("--batch", type=int, default=64, help="sequences in the global batch (64)")
    parser.add_argument("--length", type=int, default=128, help="tokens in a sequence (128)")
    return parser.parse_args()


def compile_for(args, data, fsdp, tensor):
    model = config_lib.Model(
        hidden_size=args.hidden_size,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // 64,
        intermediate_size=4 * args.hidden_size,
    )
    phase = config_lib.Phase(steps=1, sequence_length=args.length, batch_size=args.batch)
    config = config_lib.Config(
        model=model, phases={"phase1": phase}, mesh=config_lib.Mesh(data, fsdp, tensor)
    )
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
    step = train.compile_step(Pretraining(config), mesh, lambda batch: batch)
    return step.lower(train.abstract_state(Pretraining(config), mesh), {}, batch).compile()


def main():
    args = parse_arguments()
    print(
        f"{args.layers} x {args.hidden_size}, batch {args.batch} x {args.length}, jax {jax.__version__}"
    )
    print(
        "| data x fsdp x tensor | arguments MB | temporaries MB | collectives |\n|---|---|---|---|"
    )
    for sizes in MESHES:
        compiled = compile_for(args, *sizes)
        memory, text = compiled.memory_analysis(), compiled.as_text()
        counts = {c: len(re.findall(rf" {c}(?:-start)?\(", text)) for c in COLLECTIVES}
        named = ", ".join(f"{n} {c}" for c, n in counts.items() if n)
        print(
            f"| {' x '.join(map(str, sizes))} | {memory.argument_size_in_bytes / 1e6:.0f} "
            f"| {memory.temp_size_in_bytes / 1e6:.0f} | {named} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
