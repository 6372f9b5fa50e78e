"""Time of any config's train step on this machine's devices, with several variants in turns.

A variant is a comma-separated list of config fields; an empty list is the config itself. Every
variant trains on rows of the same kind: random tokens, with the lengths of BERT's pairs (90% full,
the others uniform), packed if `examples.max_per_row` says so. The step is `train.compile_step`,
masking included, with its state donated as in training.

    python -m benchmarks.step configs/bert_base.py "" model.scan_unroll=0
    python -m benchmarks.step configs/bert_large.py --batch=32 --length=512 \
        model.attention_probs_dropout_prob=0 model.attention_probs_dropout_prob=0,model.scan_unroll=0

For each variant it prints the attention kernel, seconds to compile, the median and the least
seconds per step over the rounds, tokens per second (all places, and real tokens), the utilization
for both, and memory.
"""

import argparse
import json
import os
import platform
import runpy
import statistics
import sys
import time

import jax
import numpy as np

from bertjax import config as config_lib
from bertjax import kernels, sharding, train
from bertjax.config import help as config_help
from bertjax.config import stages, values
from bertjax.config import tree as config_tree
from bertjax.data import pipeline
from bertjax.metrics import flops as metrics_flops
from bertjax.plan import budget
from bertjax.pretraining import Pretraining


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="a file of configs/")
    parser.add_argument("variants", nargs="*", default=[""], help="FIELD=VALUE,... each")
    parser.add_argument("--batch", type=int, help="sequences in a batch (the first phase's)")
    parser.add_argument("--length", type=int, help="tokens in a sequence (the first phase's)")
    parser.add_argument("--steps", type=int, default=10, help="steps of a round (10)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every variant (3)")
    parser.add_argument("--json", help="also write the rows to this file")
    return parser.parse_intermixed_args()


def make_config(args, variant: str) -> config_lib.Config:
    """The config with one phase of the size asked for, and the fields of a variant."""
    tree = runpy.run_path(args.config)["get_config"]()
    name = next(name for name in sorted(tree.phases) if tree.phases[name].steps)
    phase = tree.phases[name]
    length = args.length or phase.sequence_length
    predictions = {128: 20, 512: 77}.get(length, round(0.15 * length))
    batch = args.batch or phase.batch_size
    tree.phases = {
        name: config_lib.phase(
            steps=1000,
            sequence_length=length,
            batch_size=batch,
            max_predictions_per_seq=predictions,
        )
    }
    for item in filter(None, variant.split(",")):
        path, _, text = item.partition("=")
        kind = config_help.type_of(f"config.{path}")
        config_tree.override(tree, f"--config.{path}", values.read(kind, text, path))
    return config_lib.from_config_dict(tree)


def make_batch(config: config_lib.Config, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A host batch (see DESIGN's contract of batches) of random tokens."""
    (stage,) = stages.of(config)
    shapes = pipeline.batch_shapes(config, stage.phase)
    rows, length = shapes["input_ids"]
    batch = {name: np.zeros(shape, np.int32) for name, shape in shapes.items()}
    batch["input_ids"] = rng.integers(1000, config.model.vocab_size, (rows, length), np.int32)
    ends = np.where(rng.random(rows) < 0.9, length, rng.integers(5, length, rows))
    at = np.arange(length)
    if "segment_ids" in batch:
        for row in range(rows):
            cuts = np.sort(rng.integers(5, length - 4, shapes["cls_positions"][1] - 1))
            batch["segment_ids"][row] = 1 + np.searchsorted(cuts, at, side="right")
            batch["cls_positions"][row, 1:] = cuts
        ends[:] = length - length // 100  # packing fills 99%
        batch["segment_ids"] *= at < ends[:, None]
        starts = np.maximum.accumulate(
            np.where(np.diff(batch["segment_ids"], axis=1, prepend=0) != 0, at, 0), axis=1
        )
        batch["position_ids"] = (at - starts).astype(np.int32)
    batch["attention_mask"] = (at < ends[:, None]).astype(np.int32)
    batch["token_type_ids"] = ((at >= ends[:, None] // 2) * batch["attention_mask"]).astype(
        np.int32
    )
    batch["example_ids"] = np.arange(batch["example_ids"].size, dtype=np.int32).reshape(
        shapes["example_ids"]
    )
    return batch


class Variant:
    """A compiled step with its state."""

    def __init__(self, args, text: str):
        self.text, self.config = text or "as it is", make_config(args, text)
        config, (stage,) = self.config, stages.of(self.config)
        vocab_size = config.model.vocab_size or config.tokenizer.vocab_size
        config = self.config = config.with_model(vocab_size=vocab_size)
        mesh, job = (
            sharding.make_mesh(config.mesh),
            Pretraining(config, budget.AnyTokenizer(vocab_size)),
        )
        host = make_batch(config, np.random.default_rng(0))
        self.real = int(host["attention_mask"].sum())
        self.batch = sharding.to_global(mesh, host, stage.phase.batch_size)
        self.kernel = kernels.attention(config, mesh, stage.phase.sequence_length)
        self.state, _ = train.start(job, train.abstract_state(job, mesh), {})
        started = time.perf_counter()
        step = train.compile_step(job, mesh, job.prepare(stage), stage.micro_batches)
        self.step = step.lower(self.state, {}, self.batch).compile()
        self.compile_seconds = time.perf_counter() - started
        self.phase, self.devices, self.seconds = stage.phase, mesh.size, []
        self.losses = [self.run(1), self.run(1)]  # the first allocates

    def run(self, steps: int) -> float:
        """Runs `steps` steps, appends the seconds per step to `seconds`; returns the last loss."""
        started = time.perf_counter()
        for _ in range(steps):
            self.state, values = self.step(self.state, {}, self.batch)
        jax.block_until_ready(self.state)
        self.seconds.append((time.perf_counter() - started) / steps)
        return float(values["loss"])

    def row(self) -> dict:
        """The measurements, as plain values."""
        phase, timed = self.phase, self.seconds[2:]
        places, best = phase.batch_size * phase.sequence_length, statistics.median(timed)
        flops = metrics_flops.model_flops_per_step(
            self.config.model,
            phase.batch_size,
            phase.sequence_length,
            phase.max_predictions_per_seq,
        )
        peak = metrics_flops.peak_flops(jax.devices()[0])
        used = peak and flops / best / peak / self.devices
        memory = self.step.memory_analysis()
        return {
            "variant": self.text,
            "batch": f"{phase.batch_size} x {phase.sequence_length}",
            "kernel": self.kernel,
            "compile_seconds": round(self.compile_seconds, 1),
            "seconds_median": round(best, 5),
            "seconds_min": round(min(timed), 5),
            "tokens_per_second": round(places / best),
            "real_tokens_per_second": round(self.real / best),
            "utilization": used and round(used, 4),
            "utilization_on_real": used and round(used * self.real / places, 4),
            "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 2),
            "loss": round(self.losses[-1], 4),
        }


def main():
    args = parse_arguments()
    device = jax.devices()[0]
    print(
        f"jax {jax.__version__}, python {platform.python_version()}, {jax.device_count()} x "
        f"{device.device_kind}, load {os.getloadavg()[0]:.2f}, "
        f"XLA_FLAGS={os.environ.get('XLA_FLAGS', '')!r}",
        flush=True,
    )
    variants = []
    for text in args.variants:
        variants.append(Variant(args, text))
        print(
            f"  {variants[-1].text}: compiled in {variants[-1].compile_seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    for _ in range(args.rounds):
        for variant in variants:
            variant.losses.append(variant.run(args.steps))
    rows = [variant.row() for variant in variants]
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(x) for x in row.values()) + " |", flush=True)
    if args.json:
        with open(args.json, "a") as file:
            file.writelines(json.dumps(row | {"config": args.config}) + "\n" for row in rows)


if __name__ == "__main__":
    main()
