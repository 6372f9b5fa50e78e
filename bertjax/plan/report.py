"""The command `plan`: prints a plan as text or JSON, or an error that says what would fit."""

import json
import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bertjax import config as config_lib
from bertjax.errors import UsageError
from bertjax.job import Job
from bertjax.plan import budget, comparison, search, units
from bertjax.plan import stage as planning
from bertjax.plan.target import Target

_GIB = 2**30


def run(
    config: config_lib.Config,
    topologies: str | None,
    workdir: Path | None,
    *,
    price: str | None = None,
    as_json: bool,
    as_table: bool,
) -> None:
    """Prints a plan, or several side by side; progress goes to stderr.

    Args:
      topologies: comma-separated names; None for the devices of this machine.
      price: per chip and hour, as `comparison.prices` reads it.
      as_table: search for what fits instead, and print a table.

    Raises:
      UsageError: no such topology, a mesh that does not divide it, or a stage that does not fit
        into its memory; the message says what would fit. With several topologies, a stage that
        does not fit is an error only if no topology fits.
    """
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, style="dim", highlight=False)

    names = [None] if topologies is None else [name.strip() for name in topologies.split(",")]
    if as_table and price is not None:
        raise UsageError(
            f"--price={price}: --table searches for what fits and has no bill; drop one"
        )
    if as_table and len(names) > 1:
        raise UsageError(f"--topology={topologies}: --table searches on one topology; name one")
    prices = comparison.prices(price, len(names))
    targets = [Target.named(name) for name in names]
    job, rows = budget.corpus(config, workdir)
    if as_table:
        reports = list(search.table(job, targets[0], say))
        print(json.dumps(reports)) if as_json else Console().print(search_table(reports))
        return
    plans = []
    for target, cost in zip(targets, prices, strict=True):
        found = planning.plan(job, target, rows, say, all_kernels=len(targets) == 1)
        plans.append(found | comparison.costs(found, cost))
    if len(plans) > 1:
        _show_several(plans, as_json)
        return
    print(json.dumps(plans[0])) if as_json else show(plans[0], Console())
    if not plans[0]["fits"]:
        raise UsageError(_refusal(plans[0], job, targets[0], say))


def _show_several(plans: list[dict], as_json: bool) -> None:
    print(json.dumps(plans)) if as_json else show_table(plans, Console())
    if not any(plan["fits"] for plan in plans):
        names = ", ".join(plan["topology"] for plan in plans)
        raise UsageError(f"does not fit on any of {names}; plan one alone to see what would")


def show_table(plans: list[dict], console: Console) -> None:
    """Prints the plans of several topologies side by side."""
    console.print(comparison.table(plans))
    console.print(_recipe(plans[0]["recipe"]))
    said: dict[tuple, list[str]] = {}
    for plan in plans:
        said.setdefault(tuple(plan["assumptions"]), []).append(plan["topology"])
    for lines, names in said.items():
        _show_assumptions(list(lines), console, f" for {', '.join(names)}")


def _refusal(plan: dict, job: Job, target: Target, say: planning.Say) -> str:
    """The error message for a plan that does not fit."""
    too_large = [report for report in plan["stages"] if not report["fits"]]
    report = max(too_large, key=lambda report: report["hbm_bytes_per_device"] or math.inf)
    fix = search.would_fit(job, target, report, say)
    needed, limit = report["hbm_bytes_per_device"], report["hbm_limit_bytes"]
    return (
        f"{report['phase']} ({report['batch_size']} x {report['sequence_length']}, "
        f"{report['micro_batch_size']} at once) needs "
        f"{f'{needed / _GIB:.1f} GiB' if needed else 'more memory'}, a device of {target.name} "
        f"has {f'{limit / _GIB:.2f}' if limit else 'less'}: {fix}"
    )


def show(plan: dict, console: Console) -> None:
    """Prints a plan of `stage.plan` with its `comparison.costs`."""
    frozen = plan["frozen_bytes_per_device"]
    console.print(
        f"[bold]{plan['num_parameters']:,}[/] parameters on {plan['num_devices']} devices "
        f"({plan['topology']}); a device holds "
        f"{_bytes(plan['parameter_bytes_per_device'])} of them and "
        f"{_bytes(plan['optimizer_bytes_per_device'])} of the optimizer"
        f"{f', {_bytes(frozen)} of the teacher' if frozen else ''}"
    )
    console.print(stages_table(plan["stages"] + plan["alternatives"]))
    if plan["collectives"]:
        console.print("Collectives in a step of the stage that needs most memory:")
        for row in plan["collectives"][:6]:
            console.print(
                f"  {row['count']:,} x {row['kind']} {row['dtype']} among {row['devices']} "
                f"({row['network']}): {_bytes(row['bytes'])}"
            )
    _show_budget(plan, console)
    console.print(f"Compiled in {units.duration(plan['compile_seconds'])}.")
    _show_assumptions(plan["assumptions"], console)


def _show_budget(plan: dict, console: Console) -> None:
    budget = plan["recipe"]
    console.print(
        f"{_recipe(budget)}, predicted {units.duration(budget['predicted_seconds'])}; "
        f"{_epochs(budget['epochs'])}"
    )
    if plan["device_hours"] is not None:
        bill = "" if plan["cost"] is None else f", which cost {comparison.money(plan['cost'])}"
        console.print(
            f"That is {units.scaled(plan['tokens_per_second_per_device'], 'tokens')}/s a chip and "
            f"{units.scaled(plan['device_hours'])} chip-hours{bill}"
        )
    console.print(
        f"A checkpoint takes {_bytes(budget['checkpoint_bytes'])}, all that are kept "
        f"{_bytes(budget['checkpoints_kept_bytes'])}; there is one every "
        f"{budget['checkpoint_every_steps']:,} steps, predicted "
        f"{units.duration(budget['seconds_between_checkpoints'])}"
    )


def _recipe(budget: dict) -> str:
    tokens = units.scaled(budget["tokens"], "tokens")
    return f"The recipe: {budget['steps']:,} steps, {tokens} (padding included)"


def _show_assumptions(lines: list[str], console: Console, which: str = "") -> None:
    console.print(f"Assumptions{which}:", highlight=False)
    for line in lines:
        console.print(f"  - {line}", highlight=False)


def stages_table(reports: list[dict]) -> Table:
    """One column per report of `stage.plan_stage`."""
    table = Table("", *(r["phase"] for r in reports))
    for name, value in _ROWS.items():
        table.add_row(name, *(value(r) for r in reports))
    return table


def search_table(reports: list[dict]) -> Table:
    """One row per report of `search.table`."""
    names = ("at once", "mesh", "remat", "attention", "memory a device", "predicted step")
    table = Table("phase", *names)
    for report in reports:
        table.add_row(report["phase"], *(_ROWS[name](report) for name in names))
    return table


def _rate(report: dict) -> str:
    seconds, tokens = report["predicted_step_seconds"], report["batch_size"]
    return f"{tokens * report['sequence_length'] / seconds:,.0f}" if seconds else ""


_ROWS = {
    "batch": lambda r: f"{r['batch_size']:,} x {r['sequence_length']}",
    "at once": lambda r: f"{r['micro_batch_size']:,}",
    "mesh": lambda r: " x ".join(f"{axis} {n}" for axis, n in r["mesh"].items() if n > 1) or "1",
    "fsdp gathers weights by": lambda r: r["fsdp_gather"] or "",
    "remat": lambda r: r["remat"],
    "attention": lambda r: r["attention"],
    "LayerNorm": lambda r: r["layer_norm"],
    "memory a device": comparison.memory,
    "FLOPs a token, by the model": lambda r: units.scaled(r["model_flops_per_token"]),
    "FLOPs a token, executed": lambda r: units.scaled(r["flops_per_token"]),
    "FLOPs a step and device": lambda r: units.scaled(r["flops_per_step_per_device"]),
    "HBM moved a step": lambda r: units.scaled(r["hbm_traffic_bytes_per_step"], "B"),
    "kernels a step": lambda r: "" if (n := r["kernels_per_step"]) is None else f"{n:,}",
    "predicted step": lambda r: units.duration(s) if (s := r["predicted_step_seconds"]) else "",
    "predicted tokens/s": _rate,
    "compiled in": lambda r: units.duration(r["compile_seconds"]),
}


def _bytes(number: float) -> str:
    return units.scaled(number, "B")


def _epochs(epochs: list[float] | None) -> str:
    if epochs is None:
        return "epochs unknown without a prepared --workdir"
    return " then ".join(f"{n:.2f}" for n in epochs) + " epochs"
