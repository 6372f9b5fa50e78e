"""Plans the recipes for TPU slices that are not present: memory, collectives, predicted step.

Every row is compiled ahead of time with libtpu and takes a minute. Rows already in --out are kept,
so a stopped command continues.

    python -m benchmarks.plan                                     all, two hours on 2 cores
    python -m benchmarks.plan --only=bert_base --topology=v5e:2x2
    python -m benchmarks.plan --print                             the table of the rows in --out
"""

import argparse
import dataclasses
import json
import runpy
import time
from pathlib import Path

import jax

from bertjax import config as config_lib
from bertjax.config import stages
from bertjax.distill import teacher
from bertjax.errors import UsageError
from bertjax.plan import budget
from bertjax.plan import stage as plan_stage
from bertjax.plan.target import Target
from bertjax.pretraining import Pretraining

# One small slice and one pod of each generation, and two slices.
TOPOLOGIES = (
    "v4:2x2x1",
    "v5e:2x4",
    "v5p:2x2x1",
    "v6e:2x4",
    "v4:4x4x4",
    "v5e:16x16",
    "v5p:4x4x4",
    "v6e:16x16",
    "v5e:8x8*2",
)
# config: (fsdp, rows of 512 tokens on a chip at once); of 128 tokens, four times as many.
CONFIGS = {
    "bert_base": (1, 8),
    "roberta_base": (1, 8),
    "bert_large": (1, 4),
    "roberta_large": (4, 4),
    "bert_large_lamb": (4, 4),
    "distilbert_base": (1, 8),
    "distilroberta_base": (1, 8),
}
TEACHERS = {"distilbert_base": "bert_base", "distilroberta_base": "roberta_base"}


def load(name: str, chips: int) -> config_lib.Config:
    """A recipe with micro-batches for the given chips; the global batch is the recipe's.

    Raises:
      UsageError: the recipe's batch has fewer rows than there are chips.
    """
    config = recipe(name)
    fsdp, rows = CONFIGS[name]
    phases = {}
    for phase_name, phase in config.phases.items():
        at_once = rows * 512 // phase.sequence_length * chips
        while phase.batch_size % at_once and at_once > chips:
            at_once //= 2
        if phase.batch_size % at_once:
            raise UsageError(f"{name}: {phase.batch_size} rows for {chips} chips")
        phases[phase_name] = dataclasses.replace(phase, micro_batch_size=at_once)
    return dataclasses.replace(
        config,
        phases=phases,
        mesh=dataclasses.replace(config.mesh, fsdp=fsdp),
        evaluation=dataclasses.replace(config.evaluation, batch_size=chips),
    )


def _teacher(name: str, config: config_lib.Config) -> teacher.Teacher | None:
    """The shape of a recipe's teacher, without weights."""
    if name not in TEACHERS:
        return None
    model = recipe(TEACHERS[name]).model
    runs = teacher.model_of(model, config, teacher.PRETRAINING)
    return teacher.Teacher(TEACHERS[name], runs, teacher.shapes(runs))


def recipe(name: str) -> config_lib.Config:
    path = Path(__file__).parent.parent / "configs" / f"{name}.py"
    return config_lib.from_config_dict(runpy.run_path(str(path))["get_config"]())


def rows_of(name: str, topology: str, attention: str, done: set, *, last: bool):
    """Reports of a config's stages (or of its last one) on a topology, except those in `done`."""
    target = Target.named(topology)
    config = load(name, len(target.devices))
    config = config.with_model(attention=attention)
    job = Pretraining(
        config, budget.AnyTokenizer(config.model.vocab_size), teacher=_teacher(name, config)
    )
    numbered = list(enumerate(stages.of(config)))
    for number, stage in numbered[-1:] if last else numbered:
        key = name, topology, attention, number
        if key not in done:
            report = plan_stage.plan_stage(job, target, stage)
            yield {
                "config": name,
                "topology": topology,
                "asked": attention,
                "stage": number,
                "jax": jax.__version__,
            } | report


def show(rows: list[dict]):
    """The table for RESULTS.md."""
    print(
        "| config, tokens a row | slice | data x fsdp | rows a chip at once x parts | attention "
        "| GiB a chip (of) | executed / model FLOPs | all-reduce GB a step (type) | all-gather GB "
        "| step, predicted s: compute, HBM, ICI, DCN | compiled in s |\n|" + "---|" * 11
    )
    for r in rows:
        chips = r["mesh"]["data"] * r["mesh"]["fsdp"]
        head = (
            f"| {r['config']}, {r['sequence_length']} | {r['topology']} "
            f"| {r['mesh']['data']} x {r['mesh']['fsdp']} | {r['micro_batch_size'] // chips} x "
            f"{r['batch_size'] // r['micro_batch_size']} | {r['attention']} "
        )
        limit, needed = r["hbm_limit_bytes"] / 2**30, (r["hbm_bytes_per_device"] or 0) / 2**30
        if not r["fits"]:
            print(
                head
                + f"| {needed:.1f} ({limit:.2f}): **does not fit** "
                + "| " * 5
                + f"| {r['compile_seconds']:.0f} |"
            )
            continue
        ratio = r["flops_per_step_per_device"] / r["model_flops_per_step_per_device"]
        p = r["prediction"]
        times = (
            "unknown"
            if p is None
            else (
                f"{r['predicted_step_seconds']:.3f}: {p['compute']:.3f}, {p['memory']:.3f}, "
                f"{p['ici']:.3f}, {p['dcn']:.3f}"
            )
        )
        print(
            f"{head}| {needed:.2f} ({limit:.2f}) | {ratio:.4f} | {_sum(r, 'all-reduce')} "
            f"| {_sum(r, 'all-gather')} | {times} | {r['compile_seconds']:.0f} |"
        )


def _sum(report: dict, kind: str) -> str:
    found = [c for c in report["collectives"] if c["kind"] == kind and c["bytes"] > 1e6]
    types = "+".join(sorted({c["dtype"] for c in found}))
    return f"{sum(c['bytes'] for c in found) / 1e9:.2f} ({types})" if found else "0"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=CONFIGS, help="one config; all without it")
    parser.add_argument("--topology", help="one slice; all without it")
    parser.add_argument("--attention", default="auto", choices=("auto", "xla", "flash"))
    parser.add_argument("--last", action="store_true", help="the last phase of each config only")
    parser.add_argument("--out", type=Path, default=Path("plan.jsonl"), help="rows, one a line")
    parser.add_argument("--print", action="store_true", help="compile nothing")
    args = parser.parse_args()
    rows = (
        [json.loads(line) for line in args.out.read_text().splitlines()]
        if (args.out.exists())
        else []
    )
    done = {(r["config"], r["topology"], r["asked"], r["stage"]) for r in rows}
    for topology in () if args.print else [args.topology] if args.topology else TOPOLOGIES:
        for name in [args.only] if args.only else CONFIGS:
            started = time.monotonic()
            try:
                for row in rows_of(name, topology, args.attention, done, last=args.last):
                    rows.append(row)
                    with args.out.open("a") as out:
                        out.write(json.dumps(row) + "\n")
            except UsageError as error:
                print(f"{topology}, {error}: left out", flush=True)
            print(f"{name} on {topology}: {time.monotonic() - started:.0f} s", flush=True)
    show(rows)


if __name__ == "__main__":
    main()
