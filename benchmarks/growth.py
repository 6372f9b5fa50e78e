"""Cost of a train step as its work grows: seconds and memory by length, batch, layers, devices.

    python -m benchmarks.growth --out=growth.png

A small BERT (hidden 128, two layers, 8 rows of 128 tokens) grows in one dimension at a time. Over
fake devices of one CPU the work stays the same. All points are compiled first and then timed in
turns, `--rounds` times; the least time counts. Memory is what the compiled program needs besides
its arguments, on one device. A slope is fitted to the logarithms of the last three points, and
printed beside the slope that the formula of the work gives there. Prints a Markdown table and draws
a picture.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

# Before JAX, which reads them once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np

from benchmarks import step as bench_step
from bertjax import config as config_lib
from bertjax import sharding, train
from bertjax.config import stages
from bertjax.metrics import flops, pictures
from bertjax.plan import budget
from bertjax.pretraining import Pretraining

MODEL = config_lib.Model(
    vocab_size=8192,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=512,
    max_position_embeddings=2048,
)
LENGTH, ROWS = 128, 8
# How temporaries should grow: the scores of attention, `[B, H, L, L]`, outgrow all else.
MEMORY_SLOPE = {"length": 2, "batch": 1, "layers": 1, "devices": -1}
SIZES = {
    "length": (128, 256, 512, 1024, 2048),
    "batch": (8, 16, 32, 64, 128),
    "layers": (1, 2, 4, 8, 16),
    "devices": (1, 2, 4, 8),
}


class Point:
    """A compiled step of one size; the state is donated as in training."""

    def __init__(self, dimension: str, size: int):
        at = {"length": LENGTH, "batch": ROWS, "layers": 2, "devices": 1} | {dimension: size}
        model = dataclasses.replace(MODEL, num_hidden_layers=at["layers"])
        predictions = round(0.15 * at["length"])
        phase = config_lib.Phase(1000, at["length"], at["batch"], predictions)
        config = config_lib.Config(model=model, phases={"phase1": phase})
        mesh = sharding.make_mesh(config.mesh, jax.devices()[: at["devices"]])
        job, (stage,) = Pretraining(config, budget.AnyTokenizer(8192)), stages.of(config)
        host = bench_step.make_batch(config, np.random.default_rng(0))
        self.batch = sharding.to_global(mesh, host, at["batch"])
        self.state, _ = train.start(job, train.abstract_state(job, mesh), {})
        step = train.compile_step(job, mesh, job.prepare(stage))
        self.step = step.lower(self.state, {}, self.batch).compile()
        self.memory = self.step.memory_analysis().temp_size_in_bytes
        self.work = flops.model_flops_per_step(model, at["batch"], at["length"], predictions)
        self.run(), self.run()  # the first allocates
        self.seconds: list[float] = []

    def run(self) -> float:
        started = time.perf_counter()
        self.state, _ = self.step(self.state, {}, self.batch)
        jax.block_until_ready(self.state)
        return time.perf_counter() - started


def slope(sizes, values) -> float:
    """The slope of the logarithms over the last three points."""
    x, y = np.log(sizes[-3:]), np.log(values[-3:])
    return float(np.polyfit(x, y, 1)[0])


def measure(rounds: int) -> dict[str, list[dict]]:
    points = {name: [Point(name, size) for size in sizes] for name, sizes in SIZES.items()}
    for _ in range(rounds):
        for row in points.values():
            for point in row:
                point.seconds.append(point.run())
    return {
        name: [
            {"size": size, "seconds": min(p.seconds), "memory": p.memory, "work": p.work}
            for size, p in zip(SIZES[name], row, strict=True)
        ]
        for name, row in points.items()
    }


def table(found: dict[str, list[dict]]) -> str:
    lines = [
        "| what grows | ms a step | slope | by the FLOPs | MB of temporaries a device | slope | expected |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        sizes = [row["size"] for row in rows]
        slopes = [slope(sizes, [row[key] for row in rows]) for key in ("seconds", "work", "memory")]
        cells = [
            f"{name}: {', '.join(map(str, sizes))}",
            ", ".join(f"{1e3 * row['seconds']:.0f}" for row in rows),
            f"{slopes[0]:.2f}",
            f"{slopes[1]:.2f}",
            ", ".join(f"{row['memory'] / 1e6:.0f}" for row in rows),
            f"{slopes[2]:.2f}",
            f"{MEMORY_SLOPE[name]}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: dict[str, list[dict]], path: str):
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(pictures.STYLE)
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(found), figsize=(4 * len(found), 7), layout="constrained")
    for column, (name, rows) in enumerate(found.items()):
        sizes = [row["size"] for row in rows]
        for axis, key, unit in (
            (axes[0][column], "seconds", 1e3),
            (axes[1][column], "memory", 1e-6),
        ):
            values = [unit * row[key] for row in rows]
            axis.loglog(sizes, values, "o-", label="measured")
            if key == "seconds":  # through the last point, as the FLOPs grow
                works = [values[-1] * row["work"] / rows[-1]["work"] for row in rows]
                axis.loglog(sizes, works, "--", color="0.5", label="as the FLOPs")
            else:
                expected = [values[-1] * (x / sizes[-1]) ** MEMORY_SLOPE[name] for x in sizes]
                label = f"slope {MEMORY_SLOPE[name]}"
                axis.loglog(sizes, expected, "--", color="0.5", label=label)
            axis.set_ylim(min(values) / 2, max(values) * 2)  # a few percent are no cliff
            axis.set_title(
                f"{'ms a step' if key == 'seconds' else 'MB of temporaries'}", loc="left"
            )
            axis.set_xlabel(name)
            axis.set_xticks(sizes, [str(size) for size in sizes])
            axis.minorticks_off()
            axis.legend()
    pictures.save(figure, Path(path))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", default="growth.png", help="picture; .json beside it has the points"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of every point (5)")
    args = parser.parse_args()
    found = measure(args.rounds)
    with open(f"{os.path.splitext(args.out)[0]}.json", "w") as file:
        json.dump(found, file, indent=1)
    plot(found, args.out)
    print(table(found), f"\n{args.out}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
