"""RoBERTa's ablation (Liu et al. 2019, tables 1 and 2) at a small scale: the gain from the input
format, and the gain from fresh masks.

    python -m benchmarks.ablation --data=corpus.jsonl.gz --workdir=W --steps=3000 --seeds=0,1

`formats` runs every input format of configs/roberta_small.py on the whole corpus. `masks` runs one
format (doc_sentences) on a part of the corpus that a run reads `--epochs` times, with new masks in
every epoch or with 1 or 10 fixed patterns. The examples are the same in every epoch, so only the
masks differ. All runs have the same steps, tokens per step (2,000), tokenizer and held-out
documents. A run that has a result is skipped; a run that was stopped continues.

Every model then gets the masked-LM loss of the same held-out examples with the same masks: in one
format for all models (full_sentences), and in the format that it was trained on. Prints a table for
each group, with means over the seeds and each seed's value. W/ablation.png shows the learning
curves. (On a CPU, the environment that the Makefile calls KEEP_HEAP saves an eighth of the time.)
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bertjax import workdir
from bertjax.config import stages
from bertjax.data import pipeline, store, stores, tokenizer
from bertjax.metrics import writer as metrics_writer

CONFIG = Path(__file__).parent.parent / "configs" / "roberta_small.py"
TOKENS_A_STEP = 1000  # in every format, of configs/roberta_small.py
COMMON = "builder=full_sentences"
# group -> name of a run -> argument of the config
GROUPS = {
    "formats": {
        "segment_pair_nsp": "builder=segment_pair_nsp",
        "segment_pair_no_nsp": "builder=segment_pair_nsp,nsp=False",
        "sentence_pair_nsp": "builder=sentence_pair_nsp",
        "full_sentences": "builder=full_sentences",
        "doc_sentences": "builder=doc_sentences",
    },
    "masks": {
        "static_1": "builder=doc_sentences,static=1",
        "static_10": "builder=doc_sentences,static=10",
        "dynamic": "builder=doc_sentences",
    },
}
# The held-out examples and masks are a function of the seed and of what is static.
FIXED = (
    "--config.seed=0",
    "--config.masking.static_patterns=0",
    "--config.evaluation.num_examples=1024",
)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="config.data.files of the corpus")
    parser.add_argument("--workdir", type=Path, required=True, help="where everything goes")
    parser.add_argument("--steps", type=int, default=3000, help="steps of every run (3000)")
    parser.add_argument("--epochs", type=float, default=20, help="passes of group masks (20)")
    parser.add_argument("--vocab", type=int, default=1024, help="pieces of the tokenizer (1024)")
    parser.add_argument("--seeds", default="0,1", help="comma-separated (0,1)")
    parser.add_argument("--only", help="comma-separated runs; all of both groups otherwise")
    args = parser.parse_args()
    names = [name for runs in GROUPS.values() for name in runs]
    args.only = args.only.split(",") if args.only else names
    if unknown := set(args.only) - set(names):
        parser.error(f"--only: no run {', '.join(sorted(unknown))}; one of {', '.join(names)}")
    args.seeds = [int(seed) for seed in args.seeds.split(",")]
    return args


def main():
    args = parse_args()
    results, started = {}, time.monotonic()
    todo = [
        (group, name, seed)
        for group, runs in GROUPS.items()
        for seed in args.seeds  # the first seed of everything is there first
        for name in runs
        if name in args.only
    ]
    prepared = prepare(args, args.workdir / f"corpus-{args.vocab}")
    for number, (group, name, seed) in enumerate(todo, 1):
        corpus = prepared if group == "formats" else shorten(args, prepared)
        directory = args.workdir / f"{corpus.name}-{args.steps}-steps" / f"{name}-seed{seed}"
        rest = f",steps={args.steps},vocab={args.vocab}"
        result = run(directory, corpus, GROUPS[group][name], rest, seed)
        results.setdefault(group, {}).setdefault(name, {})[seed] = result
        print(
            f"{number} of {len(todo)}, {(time.monotonic() - started) / 60:.0f} min: {group} "
            f"{name} seed {seed}: {result['common']['mlm_loss']:.4f}",
            flush=True,
        )
    for group, runs in results.items():
        print(f"\n### {group}, {args.steps:,} steps\n\n{table(runs)}")
    plot(results, args.workdir / "ablation.png")
    print(f"\n{args.workdir / 'ablation.png'}; load {os.getloadavg()[0]:.1f}")


def prepare(args, directory: Path) -> Path:
    """The store and tokenizer of the whole corpus; made if they do not exist."""
    if not (directory / "store" / "manifest.json").exists():
        config = f"--config={CONFIG}:vocab={args.vocab}"
        bertjax("prepare", directory, config, f"--config.data.files={args.data}")
    return directory


def shorten(args, prepared: Path) -> Path:
    """The first training documents of a store, for a run to read `--epochs` times; the tokenizer
    and the held-out documents are the whole corpus's."""
    most = args.steps * TOKENS_A_STEP / args.epochs
    directory = prepared.with_name(f"corpus-{most:.0f}-tokens")
    if (directory / "store" / "manifest.json").exists():
        return directory
    directory.mkdir(exist_ok=True)
    shutil.rmtree(directory / "store", ignore_errors=True)  # of a call that was stopped
    link(directory / "tokenizer", prepared / "tokenizer")
    whole = store.read_manifest(prepared / "store")
    with store.Writer(directory / "store", whole["vocab_size"]) as writer:
        for split in store.SPLITS:
            s = store.open_store(prepared / "store", split)
            ends = s.sentences[s.documents[1:]]
            documents = len(ends)
            if split == "train":
                documents = int(np.searchsorted(ends, most)) + 1  # the last one goes over
                if documents > len(ends):
                    raise SystemExit(f"--data: {s.num_tokens:,} tokens are fewer than {most:,.0f}")
            sentences = s.documents[documents]
            writer.append(
                split,
                s.tokens[: s.sentences[sentences]],
                np.diff(s.sentences[: sentences + 1]),
                np.diff(s.documents[: documents + 1]),
            )
        writer.finish(tokenizer_sha256=whole["tokenizer_sha256"], report="")
    return directory


def run(directory: Path, corpus: Path, variant: str, rest: str, seed: int) -> dict:
    """Trains and evaluates, or reads the result of an earlier call; `rest` is the config argument
    that all runs share."""
    path = directory / "result.json"
    if path.exists():
        return json.loads(path.read_text())
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("store", "tokenizer"):
        link(directory / name, corpus / name)
    own = f"--config={CONFIG}:{variant}{rest}"
    bertjax(
        "pretrain", directory, own, f"--config.seed={seed}", "--config.logging.tensorboard=false"
    )
    trained = workdir.read_config(directory)
    common = f"--config={CONFIG}:{COMMON}{rest}"
    head = f"--config.model.head={trained.model.head}"
    losses = [x for step, x in logged(directory, "mlm_loss") if step > 0.9 * trained.num_steps]
    result = {
        "common": evaluate(directory, common, head),
        "own": evaluate(directory, own),
        "training_loss": statistics.fmean(losses),
        "curve": logged(directory, "eval/mlm_loss"),
        **what_was_read(directory, trained),
    }
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(result))
    partial.replace(path)
    return result


def link(path: Path, target: Path):
    if not path.is_symlink():
        path.symlink_to(target.absolute())


def bertjax(command: str, directory: Path, *flags: str) -> str:
    """Runs a command, with a log in its directory; returns what it printed."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"{command}.log"
    with log.open("a") as errors:
        done = subprocess.run(
            [sys.executable, "-m", "bertjax", command, *flags, f"--workdir={directory}"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        errors.write(done.stdout)
    if done.returncode:
        raise SystemExit(f"bertjax {command} left with {done.returncode}; see {log}")
    return done.stdout


def evaluate(directory, *flags) -> dict[str, float]:
    return json.loads(bertjax("evaluate", directory, *flags, *FIXED).splitlines()[-1])


def logged(directory, name) -> list[tuple[int, float]]:
    """`(step, value)` of one metric of a run."""
    lines = metrics_writer.read(directory / "metrics.jsonl")
    return [(line["step"], line[name]) for line in lines if name in line]


def what_was_read(directory, config) -> dict[str, float]:
    """Counts on the batches of the run, made once more: `attended` tokens (special tokens included)
    and `epochs`, how many times the text of the store was read."""
    encoder = tokenizer.load(directory / "tokenizer")
    corpora = stores.open_split(config, directory, "train")
    attended = text = 0
    for stage in stages.of(config):
        batches = pipeline.Batches(corpora, encoder, config, stage)
        for step in range(stage.steps):
            batch = batches.batch(step)
            real = batch["attention_mask"] == 1
            special = (batch["input_ids"] == encoder.cls_id) | (
                batch["input_ids"] == encoder.sep_id
            )
            attended += int(real.sum())
            text += int((real & ~special).sum())
    return {"attended": attended, "epochs": text / sum(c.num_tokens for c in corpora)}


def table(runs: dict[str, dict[int, dict]]) -> str:
    """A Markdown table, with the columns that decide first."""
    lines = [
        "| | held out, one form | held out, own form | training, own form | next sentence "
        "| attended tokens | epochs |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, seeds in runs.items():
        found = list(seeds.values())
        losses = [[r[form]["mlm_loss"] for r in found] for form in ("common", "own")]
        nsp = [r["own"]["nsp_accuracy"] for r in found if "nsp_accuracy" in r["own"]]
        cells = [
            name,
            f"**{statistics.fmean(losses[0]):.4f}** ({values(losses[0])})",
            f"{statistics.fmean(losses[1]):.4f} ({values(losses[1])})",
            f"{statistics.fmean(r['training_loss'] for r in found):.4f}",
            f"{statistics.fmean(nsp):.1%}" if nsp else "",
            f"{statistics.fmean(r['attended'] for r in found) / 1e6:.2f}M",
            f"{statistics.fmean(r['epochs'] for r in found):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def values(numbers) -> str:
    return ", ".join(f"{x:.4f}" for x in numbers)


def plot(results, path: Path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(results), figsize=(7 * len(results), 5), layout="constrained", squeeze=False
    )
    for axis, (group, runs) in zip(axes[0], results.items(), strict=True):
        for color, (name, seeds) in enumerate(runs.items()):
            for number, result in enumerate(seeds.values()):
                axis.plot(
                    *zip(*result["curve"], strict=True),
                    color=f"C{color}",
                    linewidth=1.2,
                    label=None if number else name,
                )
        axis.set_title(f"{group}: held-out masked-LM loss, own form (nats)", loc="left")
        axis.set_xlabel("step")
        axis.grid(color="0.9")
        axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
