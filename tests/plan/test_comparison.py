"""Topologies beside each other: prices, chip-hours, the bill, units."""

import io
import json

import pytest
from rich.console import Console

from bertjax import config as config_lib
from bertjax.errors import UsageError
from bertjax.plan import comparison, units
from bertjax.plan import report as plan_report
from bertjax.plan import stage as plan_stage
from bertjax.plan.target import Target

CONFIG = config_lib.Config(model=config_lib.Model(vocab_size=500))


def fake_plan(topology, devices, step, *, fits=True, factor=1.0):
    """Of 7,200 steps of 64 x 128."""
    stage = {
        "batch_size": 64,
        "sequence_length": 128,
        "attention": "xla",
        "predicted_step_seconds": step,
    }
    recipe = {"steps": 7200, "tokens": 7200 * 64 * 128, "predicted_seconds": step and 7200 * step}
    return {
        "topology": topology,
        "num_devices": devices,
        "fits": fits,
        "hbm_bytes_per_device": 3 * 2**30,
        "hbm_limit_bytes": 16 * 2**30,
        "prediction": step and {"factor": factor},
        "measurements": [{}, {}] if factor > 1 else [],
        "assumptions": [f"of {topology}"],
        "stages": [stage],
        "recipe": recipe,
    }


@pytest.mark.parametrize(
    ("text", "topologies", "meant"),
    [
        (None, 2, [None, None]),
        ("2.5", 1, [2.5]),
        ("2.5", 3, [2.5, 2.5, 2.5]),
        ("1.2,2.5", 2, [1.2, 2.5]),
        ("0", 1, [0.0]),
    ],
)
def test_prices(text, topologies, meant):
    assert comparison.prices(text, topologies) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2", "2 prices for 3 topologies"),
        ("$2", r"\$2 is not a price"),
        ("-1", "-1 is not a price"),
        ("nan", "nan is not a price"),
        ("1,,2", "nothing is not a price"),
    ],
)
def test_prices_that_are_none(text, said):
    with pytest.raises(UsageError, match=said):
        comparison.prices(text, 3)


def test_chip_hours_and_the_bill():
    """7,200 steps of half a second are an hour, on 8 chips 8 chip-hours."""
    found = comparison.costs(fake_plan("h100x8", 8, 0.5), 2.5)
    assert found["device_hours"] == pytest.approx(8.0)
    assert found["cost"] == pytest.approx(20.0)
    assert found["tokens_per_second_per_device"] == pytest.approx(64 * 128 / 0.5 / 8)
    assert comparison.costs(fake_plan("h100x8", 8, 0.5), None)["cost"] is None
    for plan in (fake_plan("cpu", 1, None), fake_plan("v5e:2x2", 4, 0.5, fits=False)):
        found = comparison.costs(plan, 2.5)
        assert (found["device_hours"], found["cost"]) == (None, None)


def with_costs(price, *arguments, **options):
    plan = fake_plan(*arguments, **options)
    return plan | comparison.costs(plan, price)


def test_the_table_has_a_column_for_each_topology():
    plans = [
        with_costs(1.2, "v5e:4x4", 16, 0.25),
        with_costs(2.5, "h100x8", 8, 0.5, factor=1.33),
        with_costs(2.5, "v5e:1x1", 1, 4.0, fits=False),
    ]
    console = Console(file=io.StringIO(), width=200)
    plan_report.show_table(plans, console)
    lines = console.file.getvalue().splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    rows = {name: values for name, *values in cells}
    assert "v5e:4x4" in lines[1]
    assert rows["chips"] == ["16", "8", "1"]
    assert rows["fits"] == ["yes", "yes", "no"]
    assert rows["memory a chip"][:2] == ["3 GiB of 16 GiB"] * 2
    assert rows["memory a chip"][2] == "3 GiB of 16 GiB: does not fit"
    assert rows["times its roofline"][:2] == ["1 (no measured steps)", "1.33 (2 measured steps)"]
    assert rows["predicted step, 64 x 128"][:2] == ["250.0 ms", "500.0 ms"]
    assert rows["tokens/s a chip"] == ["2.05 K", "2.05 K", ""]
    assert rows["chip-hours"] == ["8", "8", ""]
    assert rows["bill"] == ["9.60", "20.00", ""]
    assert sum(line.startswith("  - of ") for line in lines) == 3
    assert "The recipe: 7,200 steps, 59.0 M tokens (padding included)" in lines


def planned(monkeypatch, **fits):
    """`report.run` with fakes: topologies that fit or not, by name."""
    monkeypatch.setattr(Target, "named", lambda name: name)
    monkeypatch.setattr(
        plan_stage,
        "plan",
        lambda job, name, *_, all_kernels: fake_plan(name, 8, 0.5, fits=fits[name]),
    )


def test_several_topologies_as_json_are_a_list(monkeypatch, capsys):
    planned(monkeypatch, a=True, b=False)
    plan_report.run(CONFIG, "a,b", None, price="1,2", as_json=True, as_table=False)
    one, other = json.loads(capsys.readouterr().out)
    assert (one["topology"], one["fits"], one["cost"]) == ("a", True, 8.0)
    assert (other["topology"], other["fits"], other["cost"]) == ("b", False, None)


def test_what_fits_nowhere_is_refused_in_one_line(monkeypatch, capsys):
    planned(monkeypatch, a=False, b=False)
    with pytest.raises(UsageError, match="does not fit on any of a, b; plan one alone") as error:
        plan_report.run(CONFIG, "a,b", None, as_json=False, as_table=False)
    assert "\n" not in str(error.value)
    assert "no" in capsys.readouterr().out


def test_a_search_is_on_one_topology():
    with pytest.raises(UsageError, match="--topology=a,b: --table searches on one topology"):
        plan_report.run(CONFIG, "a,b", None, as_json=False, as_table=True)


def test_a_search_has_no_bill():
    with pytest.raises(UsageError, match="--price=2: --table searches for what fits"):
        plan_report.run(CONFIG, None, None, price="2", as_json=False, as_table=True)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (3.87e6, "3.87 MB"),
        (999_600, "1.00 MB"),
        (1.3106e9, "1.31 GB"),
        (2.478e11, "248 GB"),
        (None, ""),
    ],
)
def test_figures_have_three_digits(number, said):
    assert units.scaled(number, "B") == said


def test_units():
    assert units.scaled(8.19e6, "tokens") == "8.19 M tokens"
    assert units.scaled(900, "tokens") == "900 tokens"
    assert units.scaled(0.000217) == "0.000217"
    assert units.memory(15.75 * 2**30) == "15.8 GiB"
    assert units.memory(163 * 2**20) == "163 MiB"
    assert units.duration(0.1077) == "107.7 ms"
    assert units.duration(390e-6) == "390.0 µs"
    assert units.duration(100) == "100.0 s"
    assert units.duration(3.2 * 86400) == "3.2 days"
    assert units.duration(None) == "unknown for these devices"
