"""Time of one training step on this CPU: bertjax against PyTorch, alternating in one process.

Both sides do the same work on the same batch: BERT pretraining in float32 with dropout 0.1,
gradient clipping at 1.0 and AdamW. bertjax runs `train.train_step` as compiled for training.
PyTorch runs `transformers` BertForPreTraining (sdpa attention, eager) with AdamW(fused=True) and
clip_grad_norm_, in two forms: `stock`, which projects all L positions onto the vocabulary, and
`masked`, which projects the masked positions only, as bertjax and google-research/bert do.

Wall times are unsteady on a shared machine. Therefore steps alternate, ratios are given for medians
and for minima, and each wall time comes with the step's processor seconds.

    python -m benchmarks.step_time --batch=8 --length=128 --pairs=8
    python -m benchmarks.step_time --batch=2 --length=512 --pairs=8
    python -m benchmarks.step_time --profile          # where bertjax's step spends its time
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from bertjax import config as config_lib
from bertjax import models, sharding, train
from bertjax.pretraining import Pretraining

SETTLE_SECONDS = 1.0


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8, help="sequences in a batch (8)")
    parser.add_argument("--length", type=int, default=128, help="tokens in a sequence (128)")
    parser.add_argument("--layers", type=int, default=12, help="encoder blocks of Base (12)")
    parser.add_argument("--pairs", type=int, default=6, help="timed steps of each side (6)")
    parser.add_argument("--dropout", type=float, default=0.1, help="both dropout rates (0.1)")
    parser.add_argument("--scan_unroll", type=int, help="model.scan_unroll (its default)")
    parser.add_argument(
        "--profile", action="store_true", help="bertjax's time by kind of operation"
    )
    return parser.parse_args()


def make_config(args) -> config_lib.Config:
    """BERT Base with the requested sizes; everything else is the default."""
    unroll = {} if args.scan_unroll is None else {"scan_unroll": args.scan_unroll}
    model = config_lib.Model(
        num_hidden_layers=args.layers,
        hidden_dropout_prob=args.dropout,
        attention_probs_dropout_prob=args.dropout,
        **unroll,
    )
    phase = config_lib.Phase(
        steps=1000,
        sequence_length=args.length,
        batch_size=args.batch,
        max_predictions_per_seq=round(0.15 * args.length),
    )
    return config_lib.Config(
        model=model,
        phases={"phase1": phase},
        optimizer=config_lib.Optimizer(name="adamw", warmup_steps=10),
    )


def make_batch(config: config_lib.Config, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A batch of random tokens, masked already: all sequences full, 15% of positions predicted."""
    phase = config.phases["phase1"]
    size, length, predictions = (
        phase.batch_size,
        phase.sequence_length,
        phase.max_predictions_per_seq,
    )
    positions = [rng.permutation(length)[:predictions] for _ in range(size)]
    batch = {
        "input_ids": rng.integers(1000, config.model.vocab_size, (size, length)),
        "token_type_ids": np.repeat(np.arange(length)[None] >= length // 2, size, axis=0),
        "attention_mask": np.ones((size, length)),
        "example_ids": np.arange(size),
        "next_sentence_labels": rng.integers(0, 2, size),
        "masked_lm_positions": np.sort(np.stack(positions), axis=1),
        "masked_lm_ids": rng.integers(1000, config.model.vocab_size, (size, predictions)),
    }
    batch = {name: np.asarray(x, np.int32) for name, x in batch.items()}
    return batch | {"masked_lm_weights": np.ones((size, predictions), np.float32)}


class JaxStep:
    """`train.train_step` with its state."""

    def __init__(self, config, batch):
        mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
        job = Pretraining(config)
        (self.state, _), self.batch = train.start(job, train.abstract_state(job, mesh)), batch
        start = time.perf_counter()
        step = train.compile_step(job, mesh, lambda batch: batch)
        self.compiled = step.lower(self.state, {}, batch).compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self) -> float:
        self.state, metrics = self.compiled(self.state, {}, self.batch)
        jax.block_until_ready(self.state)
        return float(metrics["loss"])


class TorchStep:
    """The same step by `transformers` and PyTorch; `masked` projects masked positions only."""

    def __init__(self, config, batch, masked: bool):
        import torch
        import transformers

        self.torch, self.masked = torch, masked
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        model = config.model
        self.model = transformers.BertForPreTraining(
            transformers.BertConfig(
                num_hidden_layers=model.num_hidden_layers,
                hidden_dropout_prob=model.hidden_dropout_prob,
                attention_probs_dropout_prob=model.attention_probs_dropout_prob,
                attn_implementation="sdpa",
            )
        ).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        labels = np.full(batch["input_ids"].shape, -100, np.int64)
        np.put_along_axis(labels, batch["masked_lm_positions"], batch["masked_lm_ids"], axis=1)
        self.labels = torch.from_numpy(labels)
        self.next_sentence = torch.from_numpy(batch["next_sentence_labels"]).long()
        names = ("input_ids", "token_type_ids", "attention_mask")
        self.inputs = {name: torch.from_numpy(batch[name]).long() for name in names}

    def loss(self):
        if not self.masked:
            return self.model(
                **self.inputs, labels=self.labels, next_sentence_label=self.next_sentence
            ).loss
        hidden, pooled = self.model.bert(**self.inputs, return_dict=True).to_tuple()[:2]
        chosen = self.labels >= 0
        logits, next_logits = self.model.cls(hidden[chosen], pooled)
        cross_entropy = self.torch.nn.functional.cross_entropy
        return cross_entropy(logits, self.labels[chosen]) + cross_entropy(
            next_logits, self.next_sentence
        )

    def __call__(self) -> float:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def alternate(sides: dict, pairs: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, processor) seconds of `pairs` steps of every side, taken in turns."""
    for step in sides.values():
        step()  # the first step allocates
    times = {name: [] for name in sides}
    for _ in range(pairs):
        for name, step in sides.items():
            # The other side's threads spin for a while after their work: let them go to sleep.
            time.sleep(SETTLE_SECONDS)
            wall, processor = time.perf_counter(), time.process_time()
            loss = step()
            times[name].append((time.perf_counter() - wall, time.process_time() - processor))
            assert np.isfinite(loss), f"{name}: loss {loss}"
            print(f"  {name}: {times[name][-1][0]:.2f} s", file=sys.stderr, flush=True)
    return times


def report(times):
    columns = ("wall median", "wall min", "cpu median", "cpu min")
    print("| seconds a step | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    summary = {}
    for name, pairs in times.items():
        summary[name] = [f(x) for x in zip(*pairs, strict=True) for f in (statistics.median, min)]
        print(f"| {name} | " + " | ".join(f"{x:.3f}" for x in summary[name]) + " |")
    for name in summary:
        if name != "bertjax":
            ratios = [t / j for t, j in zip(summary[name], summary["bertjax"], strict=True)]
            print(f"| {name} / bertjax | " + " | ".join(f"**{x:.2f}**" for x in ratios) + " |")


# Kind of elementwise operation <- a pattern of its name and source; the first that fits counts.
# XLA fuses neighbors, so an operation is filed under the one kind that its fusion is named for.
KINDS = (
    ("dropout", r"dropout"),
    ("gelu", r"gelu|erf"),
    ("softmax", r"softmax|reduce_max"),
    ("layout, stacking", r"copy|slice|concatenate|transpose|pad|reshape"),
)


def kind_of(name: str, source: str) -> str:
    """The kind of an operation, from its name and source in the compiled program."""
    product = "dot_general" in source or name.startswith("dot")
    if "BPD,VD" in source or "BPV" in source:
        return "decoder product"
    if "BLHK" in source or "BHLM" in source:
        return "attention products" if product else "attention layout"
    if product:
        return "dense products"
    if "jvp" not in source:  # no derivative marker: outside the loss
        return "clip, optimizer, copies of the state"
    for kind, pattern in KINDS:
        if re.search(pattern, f"{source.replace('transpose(jvp', '')} {name}"):
            return kind
    return "bias, residual, loss, other"


def profile(step: JaxStep, steps: int = 2):
    """Prints the time of every kind of operation from a profiler trace of `steps` steps."""
    sources = {}
    for line in step.compiled.as_text().splitlines():
        if match := re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = ", line):
            source = re.search(r'op_name="([^"]*)"', line)
            sources[match[1]] = source[1].replace("jit(train_step)", "") if source else ""
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for _ in range(steps):
                step()
        (path,) = Path(directory).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    seconds, counts = Counter(), Counter()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in sources:
                    kind = kind_of(event.name, sources[event.name])
                    seconds[kind] += event.duration_ns / 1e9 / steps
                    counts[kind] += 1 / steps
    whole = sum(seconds.values())
    print("| kind of operation | seconds a step | share | operations |\n|---|---|---|---|")
    for kind, value in seconds.most_common():
        print(f"| {kind} | {value:.3f} | {value / whole:.1%} | {counts[kind]:.0f} |")


def print_setting(args, config):
    names = ("jax", "jaxlib", "torch", "transformers")
    found = [name for name in names if importlib.util.find_spec(name)]
    print(" ".join(f"{name} {importlib.metadata.version(name)}" for name in found))
    print(
        f"python {platform.python_version()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, load average",
        end=" ",
    )
    print(" ".join(f"{x:.2f}" for x in os.getloadavg()))
    print(
        f"batch {args.batch} x {args.length}, {args.layers} layers, dropout {args.dropout}, "
        f"{models.num_parameters(config.model):,} parameters, XLA_FLAGS={os.environ.get('XLA_FLAGS', '')!r}"
    )


def main():
    args = parse_arguments()
    config = make_config(args)
    batch = make_batch(config, np.random.default_rng(0))
    print_setting(args, config)
    step = JaxStep(config, batch)
    print(f"bertjax compiled in {step.compile_seconds:.1f} s")
    if args.profile:
        step()
        return profile(step)
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        sys.exit(
            "skipped: the comparison needs torch and transformers (pip install torch transformers)"
        )
    sides = {"bertjax": step}
    for name, masked in (("torch stock", False), ("torch masked", True)):
        sides[name] = TorchStep(config, batch, masked)
    report(alternate(sides, args.pairs))
    print("load average after:", " ".join(f"{x:.2f}" for x in os.getloadavg()))


if __name__ == "__main__":
    main()
