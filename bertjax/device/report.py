"""Prints the measurement of `bench.run` as tables of text."""

from typing import Any

from rich.console import Console
from rich.table import Column, Table

_MB = 1e6
_WIDTH = 160  # columns, if the output is not a terminal


def show(found: dict[str, Any], console: Console | None = None) -> None:
    """Prints what `bench.run` returns."""
    console = console or Console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(machine(found), highlight=False)
    console.print(_models(found))
    console.print(_latency(found))


def machine(found: dict[str, Any]) -> str:
    """The machine in two lines: what it is, and how busy it was."""
    on = found["machine"]
    sets = " ".join(on["instruction_sets"]) or "instruction sets unknown"
    versions = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
    loads = [
        ", ".join(f"{x:.2f}" for x in on[key]) for key in ("load_average", "load_average_after")
    ]
    return (
        f"{on['processor']}: {sets}; {on['cores']} cores; {versions}\n"
        f"{on['date']}; load average {loads[0]}, afterwards {loads[1]}"
    )


def _models(found: dict[str, Any]) -> Table:
    """One row per file, with the figures that do not depend on the length."""
    rows, metrics = found["files"], metric(found)
    batch = rows[0]["throughput"]
    table = Table(
        Column("file", no_wrap=True),
        "MB",
        "load ms",
        "first call ms",
        "peak MB\n(before it)",
        f"rows/s\n{batch['rows']} x {batch['tokens']}",
        *([f"{metrics}\nbatch 1", f"{metrics}\nbatch 32"] if metrics else []),
    )
    for row in rows:
        memory = f"{row['peak_bytes'] / _MB:,.0f} ({row['idle_bytes'] / _MB:,.0f})"
        table.add_row(
            row["name"],
            f"{row['size_bytes'] / _MB:,.1f}",
            f"{1e3 * row['load_seconds']:,.0f}",
            f"{1e3 * row['first_call_seconds']:,.0f}",
            memory,
            f"{row['throughput']['rows_per_second']:,.1f}",
            *(_score(row, size, metrics) for size in ("1", "32") if metrics),
        )
    return table


def metric(found: dict[str, Any]) -> str | None:
    """The task's first figure, which compares files; None without a score."""
    scores = found["files"][0].get("scores")
    return next(iter(scores["32"])) if scores else None


def _score(row: dict[str, Any], size: str, name: str) -> str:
    value = row["scores"].get(size, {}).get(name)
    return "-" if value is None else f"{value:.4f}"


def _latency(found: dict[str, Any]) -> Table:
    """One row per file, one column per number of threads and tokens: median / 99th percentile."""
    settings = found["settings"]
    cells = [(n, length) for n in settings["threads"] for length in settings["lengths"]]
    heads = (f"{n} thread{'s' * (n > 1)}\n{length} tokens" for n, length in cells)
    title = f"batch 1, median / 99th percentile of {settings['runs']} calls, ms"
    table = Table(Column("file", no_wrap=True), *heads, title=title, title_justify="left")
    for row in found["files"]:
        of = {(cell["threads"], cell["tokens"]): cell for cell in row["latency"]}
        table.add_row(row["name"], *(_times(of.get(cell)) for cell in cells))
    return table


def _times(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    return f"{1e3 * cell['median_seconds']:,.2f} / {1e3 * cell['p99_seconds']:,.2f}"
