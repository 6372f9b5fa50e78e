"""Compares topologies: what a whole recipe takes on each, and what it costs."""

import math

from rich.table import Table

from bertjax.errors import UsageError
from bertjax.plan import units


def prices(text: str | None, topologies: int) -> list[float | None]:
    """The price per chip and hour on each topology, from `--price=2.5` or `--price=1.2,2.5`.

    Raises:
      UsageError: a value is not a price, or there is neither one price nor one per topology.
    """
    if text is None:
        return [None] * topologies
    found: list[float | None] = []
    for part in text.split(","):
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise UsageError(
                f"--price={text}: {part or 'nothing'} is not a price per chip and hour; for "
                "example 2.5, or 1.2,2.5 for two topologies"
            )
        found.append(number)
    if len(found) not in (1, topologies):
        raise UsageError(
            f"--price={text}: {len(found)} prices for {topologies} topologies; give one for all, "
            "or one for each"
        )
    return found if len(found) == topologies else found * topologies


def costs(plan: dict, price: float | None) -> dict:
    """The time and cost of a plan's recipe.

    Args:
      plan: from `stage.plan`.
      price: per device and hour; None if not given.

    Returns:
      `tokens_per_second_per_device` (over all steps, padding included), `device_hours`,
      `price_per_device_hour` and `cost`, for the steps alone. A value is None if the recipe does
      not fit, no step time is predicted, or (for the cost) no price is given.
    """
    seconds = plan["recipe"]["predicted_seconds"] if plan["fits"] else None
    devices = plan["num_devices"]
    hours = None if seconds is None else devices * seconds / 3600
    return {
        "tokens_per_second_per_device": seconds and plan["recipe"]["tokens"] / seconds / devices,
        "device_hours": hours,
        "price_per_device_hour": price,
        "cost": None if hours is None or price is None else hours * price,
    }


def memory(report: dict) -> str:
    """Memory that a device needs and has, as text; `report` is of `stage.plan_stage` or a plan."""
    needed, limit = report["hbm_bytes_per_device"], report["hbm_limit_bytes"]
    text = units.memory(needed) or "more"
    text += f" of {units.memory(limit)}" if limit else ""
    return text if report["fits"] else f"[red]{text}: does not fit[/]"


def table(plans: list[dict]) -> Table:
    """One column per plan; the plans include their `costs`."""
    found = Table("", *(plan["topology"] for plan in plans))
    for name, value in _ROWS.items():
        found.add_row(name, *(value(plan) for plan in plans))
    for number, stage in enumerate(plans[0]["stages"]):
        steps = (plan["stages"][number]["predicted_step_seconds"] for plan in plans)
        name = f"predicted step, {stage['batch_size']:,} x {stage['sequence_length']}"
        found.add_row(name, *(units.duration(step) if step else "" for step in steps))
    for name, value in _RECIPE.items():
        found.add_row(name, *(value(plan) for plan in plans))
    return found


def _factor(plan: dict) -> str:
    """The factor between roofline and prediction, and how many measured steps it comes from."""
    if plan["prediction"] is None:
        return ""
    return f"{plan['prediction']['factor']:g} ({len(plan['measurements']) or 'no'} measured steps)"


def money(cost: float | None) -> str:
    return "" if cost is None else f"{cost:,.2f}" if cost >= 1 else units.scaled(cost)


_ROWS = {
    "chips": lambda p: str(p["num_devices"]),
    "fits": lambda p: "yes" if p["fits"] else "[red]no[/]",
    "memory a chip": memory,
    "attention": lambda p: " then ".join(dict.fromkeys(s["attention"] for s in p["stages"])),
    "times its roofline": _factor,
}
_RECIPE = {
    "tokens/s a chip": lambda p: units.scaled(p["tokens_per_second_per_device"]),
    "whole recipe": lambda p: units.duration(p["recipe"]["predicted_seconds"]) if p["fits"] else "",
    "chip-hours": lambda p: units.scaled(p["device_hours"]),
    "price a chip and hour": lambda p: money(p["price_per_device_hour"]),
    "bill": lambda p: money(p["cost"]),
}
