"""Prints the results of `benchmarks.finetune_torch` as Markdown."""

import statistics

import numpy as np

from benchmarks.finetune_speed import DYNAMIC, GROUPED, OURS, THEIRS

FIRST = 50  # steps whose losses the goal concerns
PAIRS = ((OURS, THEIRS), (GROUPED, DYNAMIC), (GROUPED, THEIRS))


def named(settings: dict) -> str:
    parts = [settings["task"]]
    parts += [f"{settings['epochs']:g} epochs"] if settings["epochs"] else []
    parts += [f"rate {settings['learning_rate']:g}"] if settings.get("learning_rate") else []
    limits = (("limit_train", "train"), ("limit_dev", "dev"))
    parts += [f"first {settings[k]:,} of {name}" for k, name in limits if settings[k]]
    parts += [f"{settings['attention']}"] if settings.get("attention", "sdpa") != "sdpa" else []
    parts += ["[PAD] frozen"] if settings.get("frozen_pad") else []
    return ", ".join(parts)


def tables(lines: list[dict]) -> None:
    by_kind = {what: [x for x in lines if x["settings"]["what"] == what] for what in _TABLES}
    for what, found in by_kind.items():
        if found:
            _TABLES[what](found)
            print()


def curve(line: dict) -> None:
    _curves([line])


def speed(line: dict) -> None:
    _speeds([line])


def _curves(lines: list[dict]) -> None:
    print(
        "| dropout 0 | steps | largest difference of the loss, first 50 steps | of all (median) "
        "| dev decisions that differ, ties apart | ties | largest difference of a logit | figures |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for line in lines:
        losses = {name: np.array(found) for name, found in line["losses"].items()}
        pairs = [("bertjax", name) for name in losses if name != "bertjax"]
        pairs += [("PyTorch", "float64")] if "float64" in losses else []
        for a, b in pairs:
            difference = np.abs(losses[a] - losses[b])
            cells = [f"{named(line['settings'])}: {a} - {b}", f"{len(difference)}"]
            cells += [f"{difference[:FIRST].max():.1e} (step {difference[:FIRST].argmax() + 1})"]
            cells += [f"{difference.max():.1e} ({np.median(difference):.1e})"]
            cells += _predicted(line, b) if a == "bertjax" else [""] * 4
            print("| " + " | ".join(cells) + " |")


def _predicted(line: dict, name: str) -> list[str]:
    found = line["predictions"][name]
    counts = ["", ""]
    if "differ" in found:
        counts = [f"{found['differ_no_tie']} of {found['decisions']:,}", f"{found['ties']}"]
    ours, theirs = line["figures"]["bertjax"], line["figures"][name]
    pairs = [f"{k} {ours[k] or 0:.4f}, {theirs[k] or 0:.4f}" for k in line.get("metrics", ours)]
    return [*counts, f"{found['largest']:.1e}", "; ".join(pairs)]


def _scores(lines: list[dict]) -> None:
    print(
        "| dropout 0.1 | metric | seeds | bertjax | PyTorch | difference of means over their "
        "standard deviation | bertjax s (of it compiling) | PyTorch s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    groups: dict[str, list[dict]] = {}
    for line in lines:
        groups.setdefault(named(line["settings"]), []).append(line)
    for name, group in groups.items():
        sides = [
            sorted(
                (x for x in group if x["settings"]["side"] == side),
                key=lambda x: x["settings"]["seed"],
            )
            for side in ("bertjax", "PyTorch")
        ]
        if not all(sides):
            continue
        for metric in group[0]["metrics"]:
            # A correlation with constant predictions is null, and counts as 0.
            values = [[100 * (x["figures"][metric] or 0) for x in side] for side in sides]
            cells = [name, metric, " and ".join(sorted({str(len(v)) for v in values}))]
            cells += [_spread(v) for v in values]
            deviation = np.sqrt(np.mean([np.var(v, ddof=1) if len(v) > 1 else 0 for v in values]))
            distance = abs(np.mean(values[0]) - np.mean(values[1]))
            cells += [f"{distance / deviation:.2f}" if deviation else f"{distance:.2f} points"]
            compiling = sum(x["spent"]["compile"] for x in sides[0])
            cells += [f"{sum(x['seconds'] for x in sides[0]):.0f} ({compiling:.0f})"]
            cells += [f"{sum(x['seconds'] for x in sides[1]):.0f}"]
            print("| " + " | ".join(cells) + " |")


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation} ({' '.join(f'{v:.1f}' for v in values)})"


def _speeds(lines: list[dict]) -> None:
    for line in lines:
        print("| MRPC, 32 rows a step, dropout 0.1 | examples/s | padding | lengths: steps |")
        print("|---|---|---|---|")
        for name, seconds in line["seconds"].items():
            rate = line["examples"] * len(seconds) / sum(seconds)
            counts = ", ".join(f"{k}: {v}" for k, v in line["lengths"][name].items())
            print(f"| {name} | {rate:.1f} | {line['padding'][name]:.0%} | {counts} |")
        blocks = len(line["seconds"][OURS])
        print(f"\n| times faster | all {blocks} blocks | median of a block | least | most |")
        print("|---|---|---|---|---|")
        for a, b in PAIRS:
            ours, theirs = (np.array(line["seconds"][name]) for name in (a, b))
            ratios = theirs / ours
            cells = [theirs.sum() / ours.sum(), np.median(ratios), ratios.min(), ratios.max()]
            print(f"| {a} against {b} | " + " | ".join(f"{x:.2f}" for x in cells) + " |")
        print(
            f"\ncompiling took {line['compile_seconds']:.0f} s; {line['date']}, load average at "
            f"the end {line['load']:.1f}; {line['machine']}"
        )


_TABLES = {"curve": _curves, "scores": _scores, "speed": _speeds}
