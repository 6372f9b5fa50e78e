"""The command `plan`: a plan for people and for machines, or a refusal that says what would fit."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bertjax import config as config_lib
from bertjax.errors import UsageError
from bertjax.plan import budget, search
from bertjax.plan import stage as planning

_GIB = 2**30


def run(
    config: config_lib.Config,
    topology: str | None,
    workdir: Path | None,
    *,
    as_json: bool,
    as_table: bool,
) -> None:
    """Prints a plan, or with `as_table` the search for what fits; progress goes to stderr.

    Raises:
      UsageError: no such topology, a mesh that does not divide it, or a stage that does not fit
        into its memory, with what would.
    """
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, style="dim", highlight=False)

    target = planning.Target.named(topology)
    job, rows = budget.corpus(config, workdir)
    if as_table:
        reports = list(search.table(job, target, say))
        print(json.dumps(reports)) if as_json else Console().print(search_table(reports))
        return
    found = planning.plan(job, target, rows, say)
    print(json.dumps(found)) if as_json else show(found, Console())
    if not found["fits"]:
        report = next(report for report in found["stages"] if not report["fits"])
        fix = search.would_fit(job, target, report, say)
        needed, limit = report["hbm_bytes_per_device"], report["hbm_limit_bytes"]
        raise UsageError(
            f"{report['phase']} ({report['batch_size']} x {report['sequence_length']}, "
            f"{report['micro_batch_size']} at once) needs "
            f"{f'{needed / _GIB:.1f} GiB' if needed else 'more memory'}, a device of {target.name} "
            f"has {f'{limit / _GIB:.2f}' if limit else 'less'}: {fix}"
        )


def show(plan: dict, console: Console) -> None:
    """Prints what `stage.plan` returns."""
    frozen = plan["frozen_bytes_per_device"]
    console.print(
        f"[bold]{plan['num_parameters']:,}[/] parameters on {plan['num_devices']} devices "
        f"({plan['topology']}); a device holds "
        f"{plan['parameter_bytes_per_device'] / 1e9:.2f} GB of them and "
        f"{plan['optimizer_bytes_per_device'] / 1e9:.2f} GB of the optimizer"
        f"{f', {frozen / 1e9:.2f} GB of the teacher' if frozen else ''}"
    )
    console.print(stages_table(plan["stages"] + plan["alternatives"]))
    if plan["collectives"]:
        console.print("Collectives in a step of the stage that needs most memory:")
        for row in plan["collectives"][:6]:
            console.print(
                f"  {row['count']:,} x {row['kind']} {row['dtype']} among {row['devices']} "
                f"({row['network']}): {_bytes(row['bytes'])}"
            )
    _show_budget(plan["recipe"], console)
    console.print(f"Compiled in {plan['compile_seconds']:.0f} s. Predicted times are rooflines:")
    for line in plan["assumptions"]:
        console.print(f"  - {line}", highlight=False)


def _show_budget(budget: dict, console: Console) -> None:
    console.print(
        f"The recipe: {budget['steps']:,} steps, {budget['tokens'] / 1e9:,.1f} G tokens (padding "
        f"included), predicted {_time(budget['predicted_seconds'])}; {_epochs(budget['epochs'])}"
    )
    console.print(
        f"A checkpoint has {_bytes(budget['checkpoint_bytes'])}, those kept "
        f"{_bytes(budget['checkpoints_kept_bytes'])}; one every "
        f"{budget['checkpoint_every_steps']:,} steps, predicted "
        f"{_time(budget['seconds_between_checkpoints'])}"
    )


def stages_table(reports: list[dict]) -> Table:
    """A column for each report of `stage.plan_stage`."""
    table = Table("", *(r["phase"] for r in reports))
    for name, value in _ROWS.items():
        table.add_row(name, *(value(r) for r in reports))
    return table


def search_table(reports: list[dict]) -> Table:
    """A row for each report of `search.table`."""
    names = ("at once", "mesh", "remat", "attention", "GiB a device", "predicted s")
    table = Table("phase", *names)
    for report in reports:
        table.add_row(report["phase"], *(_ROWS[name](report) for name in names))
    return table


def _memory(report: dict) -> str:
    needed, limit = report["hbm_bytes_per_device"], report["hbm_limit_bytes"]
    text = f"{needed / _GIB:.2f}" if needed else "more"
    text += f" of {limit / _GIB:.2f}" if limit else ""
    return text if report["fits"] else f"[red]{text}: does not fit[/]"


def _if_known(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


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
    "GiB a device": _memory,
    "FLOPs a token, by the model": lambda r: _if_known(r["model_flops_per_token"], ".4g"),
    "FLOPs a token, executed": lambda r: _if_known(r["flops_per_token"], ".4g"),
    "FLOPs a step and device": lambda r: _if_known(r["flops_per_step_per_device"], ".4g"),
    "HBM bytes moved a step": lambda r: _if_known(r["hbm_traffic_bytes_per_step"], ".4g"),
    "predicted s": lambda r: _if_known(r["predicted_step_seconds"], ".4f"),
    "predicted tokens/s": _rate,
    "compiled in s": lambda r: f"{r['compile_seconds']:.0f}",
}


def _bytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.2f} MB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown for these devices"
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _epochs(epochs: list[float] | None) -> str:
    if epochs is None:
        return "epochs unknown without a prepared --workdir"
    return " then ".join(f"{n:.2f}" for n in epochs) + " epochs"
