"""Time of one training step on this CPU: bertjax against PyTorch, in turns.

Both sides do the same work on the same batch: BERT pretraining with dropout 0.1, gradient clipping
at 1.0 and AdamW. bertjax runs `train.train_step` as compiled for training. PyTorch runs
`transformers` BertForPreTraining (sdpa attention) with AdamW(fused=True) and clip_grad_norm_:
`stock` projects all L positions onto the vocabulary, `masked` only the masked ones, as bertjax and
google-research/bert do, and `compiled` is `masked` under torch.compile. With --dtype=bfloat16,
bertjax rounds the factors of products, and PyTorch runs under autocast.

Every side has a process of its own, as when one trains: in one process, the threads and the heap of
the other side cost bertjax up to 40%. The processes take turns, and only one of them works at a
time. bertjax keeps the memory that a step frees, as in `bertjax pretrain`; --torch_keeps_heap gives
PyTorch's processes the same setting. Ratios are given for medians and for minima, and each wall
time comes with the step's processor seconds.

    python -m benchmarks.step_time --batch=8 --length=128 --pairs=8
    python -m benchmarks.step_time --batch=8 --length=128 --pairs=8 --dtype=bfloat16
    python -m benchmarks.step_time --config=configs/bert_mini.py --dtype=bfloat16
    python -m benchmarks.step_time --profile          # where bertjax's step spends its time
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import re
import runpy
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
from bertjax import models, processor, sharding, train
from bertjax.pretraining import Pretraining
from bertjax.processes import heap

SETTLE_SECONDS = 1.0
SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
FORMS = ("stock", "masked", "compiled")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8, help="sequences in a batch (8)")
    parser.add_argument("--length", type=int, default=128, help="tokens in a sequence (128)")
    parser.add_argument("--layers", type=int, default=12, help="encoder blocks of Base (12)")
    parser.add_argument("--pairs", type=int, default=6, help="turns of each side (6)")
    parser.add_argument("--steps", type=int, default=1, help="timed steps of a turn (1)")
    parser.add_argument("--config", help="a file of configs/ for the model's sizes (Base)")
    parser.add_argument("--dropout", type=float, default=0.1, help="both dropout rates (0.1)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--forms", nargs="*", choices=FORMS, help="of PyTorch")
    parser.add_argument("--torch_keeps_heap", action="store_true")
    parser.add_argument("--scan_unroll", type=int, help="model.scan_unroll (its default)")
    parser.add_argument(
        "--profile", action="store_true", help="bertjax's time by kind of operation"
    )
    return parser.parse_args()


def make_config(args) -> config_lib.Config:
    """BERT Base, or a config's model, with the requested sizes; everything else is the default."""
    model = config_lib.Model(num_hidden_layers=args.layers)
    if args.config:
        tree = runpy.run_path(args.config)["get_config"]()
        model = config_lib.from_config_dict(tree).model
    model = dataclasses.replace(
        model,
        hidden_dropout_prob=args.dropout,
        attention_probs_dropout_prob=args.dropout,
        dtype=args.dtype,
        scan_unroll=model.scan_unroll if args.scan_unroll is None else args.scan_unroll,
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
        (self.state, _), self.batch = train.start(job, train.abstract_state(job, mesh), {}), batch
        start = time.perf_counter()
        step = train.compile_step(job, mesh, lambda batch: batch)
        self.compiled = step.lower(self.state, {}, batch).compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self) -> float:
        self.state, metrics = self.compiled(self.state, {}, self.batch)
        jax.block_until_ready(self.state)
        return float(metrics["loss"])


class TorchStep:
    """The same step by `transformers` and PyTorch, in one of the `FORMS`."""

    def __init__(self, config, batch, form: str):
        import torch
        import transformers

        self.torch, self.form = torch, form
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        model = config.model
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        names += ("intermediate_size", "hidden_dropout_prob", "attention_probs_dropout_prob")
        sizes = {name: getattr(model, name) for name in names}
        theirs = transformers.BertConfig(**sizes, attn_implementation="sdpa")
        self.model = transformers.BertForPreTraining(theirs).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        labels = np.full(batch["input_ids"].shape, -100, np.int64)
        np.put_along_axis(labels, batch["masked_lm_positions"], batch["masked_lm_ids"], axis=1)
        self.labels = torch.from_numpy(labels)
        self.flat = torch.from_numpy(np.flatnonzero(labels.reshape(-1) >= 0))
        self.targets = self.labels.reshape(-1)[self.flat]
        self.next_sentence = torch.from_numpy(batch["next_sentence_labels"]).long()
        names = ("input_ids", "token_type_ids", "attention_mask")
        self.inputs = {name: torch.from_numpy(batch[name]).long() for name in names}
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=model.dtype == "bfloat16")
        self.loss = torch.compile(self.loss_of) if form == "compiled" else self.loss_of

    def loss_of(self):
        if self.form == "stock":
            return self.model(
                **self.inputs, labels=self.labels, next_sentence_label=self.next_sentence
            ).loss
        hidden, pooled = self.model.bert(**self.inputs, return_dict=True).to_tuple()[:2]
        logits, next_logits = self.model.cls(hidden.flatten(0, 1)[self.flat], pooled)
        cross_entropy = self.torch.nn.functional.cross_entropy
        return cross_entropy(logits.float(), self.targets) + cross_entropy(
            next_logits.float(), self.next_sentence
        )

    def __call__(self) -> float:
        self.optimizer.zero_grad()
        with self.autocast:
            loss = self.loss()
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def work(form: str | None, args, pipe):
    """A side's process: bertjax, or a form of PyTorch. It takes a step whenever it is asked to."""
    config = make_config(args)
    batch = make_batch(config, np.random.default_rng(0))
    if form is None or args.torch_keeps_heap:
        heap.keep()
    step = JaxStep(config, batch) if form is None else TorchStep(config, batch, form)
    step(), step()  # the first steps compile and allocate
    pipe.send(None)
    while pipe.recv():
        wall, processor = time.perf_counter(), time.process_time()
        loss = step()
        pipe.send((time.perf_counter() - wall, time.process_time() - processor, loss))


def alternate(args, forms) -> dict[str, list[tuple[float, float]]]:
    """(wall, processor) seconds of steps of every side, taken in turns."""
    spawn, sides = multiprocessing.get_context("spawn"), {}
    for form in (None, *forms):
        here, there = spawn.Pipe()
        process = spawn.Process(target=work, args=(form, args, there), daemon=True)
        process.start()
        here.recv()  # built and warm, before the next one is
        sides["bertjax" if form is None else f"torch {form}"] = here
    times = {name: [] for name in sides}
    for _ in range(args.pairs):
        for name, pipe in sides.items():
            # The other side's threads spin for a while after their work: let them go to sleep.
            time.sleep(SETTLE_SECONDS)
            for _ in range(args.steps):
                pipe.send(True)
                *seconds, loss = pipe.recv()
                assert np.isfinite(loss), f"{name}: loss {loss}"
                times[name].append(seconds)
            print(f"  {name}: {seconds[0]:.3f} s", file=sys.stderr, flush=True)
    for pipe in sides.values():
        pipe.send(False)
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
        f"python {platform.python_version()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, "
        f"{' '.join(x for x in SETS if x in processor.flags(processor.cpuinfo()))}, load average",
        end=" ",
    )
    print(" ".join(f"{x:.2f}" for x in os.getloadavg()))
    print(
        f"batch {args.batch} x {args.length}, {config.model.num_hidden_layers} layers, "
        f"dropout {args.dropout}, {args.dtype}, "
        f"{models.num_parameters(config.model):,} parameters, XLA_FLAGS={os.environ.get('XLA_FLAGS', '')!r}"
    )


def main():
    args = parse_arguments()
    config = make_config(args)
    print_setting(args, config)
    if args.profile:
        heap.keep()
        step = JaxStep(config, make_batch(config, np.random.default_rng(0)))
        print(f"bertjax compiled in {step.compile_seconds:.1f} s")
        step()
        return profile(step)
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        sys.exit(
            "skipped: the comparison needs torch and transformers (pip install torch transformers)"
        )
    forms = ("stock", "masked") if args.dtype == "float32" else ("masked", "compiled")
    report(alternate(args, args.forms or forms))
    print("load average after:", " ".join(f"{x:.2f}" for x in os.getloadavg()))


if __name__ == "__main__":
    main()
