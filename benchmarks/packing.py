"""The gain from packing on the lengths of real text, and a check that no example's loss changes.

    python -m benchmarks.packing --data=corpus.jsonl.gz --vocab=vocab.txt --workdir=W [--rounds=7]

The first `--megabytes` of the corpus make two stores: of its documents, and of its paragraphs as
documents (short texts). For each store the training step of a small BERT (4 layers, hidden 256)
runs on rows of one example and on packed rows of the same shape, in turns. The gain is the ratio of
attended tokens per second, with the fill of a whole epoch. Then `--examples` examples are scored
alone and packed, with the same masks; the figure is the largest difference of an example's
masked-LM and next-sentence loss.
"""

import argparse
import dataclasses
import functools
import gzip
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from bertjax import config as config_lib
from bertjax import keys, models, objectives, sharding, train
from bertjax.config import stages
from bertjax.data import pipeline, prepare, store, tokenizer
from bertjax.pretraining import Pretraining

# name -> (store, builder, sequence length, rows, predictions alone, predictions packed)
MATERIALS = {
    "segment pairs, 10% short, 128": ("documents", "segment_pair_nsp", 128, 32, 20, 24),
    "segment pairs, 10% short, 512": ("documents", "segment_pair_nsp", 512, 8, 77, 84),
    "sentence pairs, 128": ("documents", "sentence_pair_nsp", 128, 32, 20, 24),
    "one paragraph a document, 128": ("paragraphs", "doc_sentences", 128, 32, 20, 24),
    "one paragraph a document, 512": ("paragraphs", "doc_sentences", 512, 8, 77, 84),
}
MAX_PER_ROW = 16


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a .jsonl.gz with field text")
    parser.add_argument("--vocab", type=Path, required=True, help="vocab.txt of an uncased BERT")
    parser.add_argument("--workdir", type=Path, required=True, help="where the stores are made")
    parser.add_argument("--megabytes", type=float, default=10, help="text read (10)")
    parser.add_argument("--rounds", type=int, default=7, help="timed pairs of steps (7)")
    parser.add_argument("--examples", type=int, default=256, help="examples scored (256)")
    return parser.parse_args()


def write_texts(args):
    """`documents.jsonl` and `paragraphs.jsonl` in the workdir."""
    left = args.megabytes * 1e6
    args.workdir.mkdir(parents=True, exist_ok=True)
    with (
        gzip.open(args.data, "rt", encoding="utf-8") as source,
        (args.workdir / "documents.jsonl").open("w") as documents,
        (args.workdir / "paragraphs.jsonl").open("w") as paragraphs,
    ):
        for line in source:
            text = json.loads(line)["text"]
            left -= len(text)
            if left < 0:
                break
            documents.write(json.dumps({"text": text}) + "\n")
            for paragraph in filter(str.strip, text.split("\n")):
                paragraphs.write(json.dumps({"text": paragraph}) + "\n")


def make_config(args, material, packed):
    name, builder, length, rows, alone, together = MATERIALS[material]
    nsp = builder.endswith("_nsp")
    model = config_lib.Model(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        scan_unroll=0,
        head="pretraining" if nsp else "masked_lm",
    )
    phase = config_lib.Phase(
        steps=10**9,
        sequence_length=length,
        batch_size=rows,
        max_predictions_per_seq=together if packed else alone,
    )
    return config_lib.Config(
        model=model,
        data=config_lib.Data(files=str(args.workdir / f"{name}.jsonl")),
        tokenizer=config_lib.Tokenizer(path=str(args.vocab)),
        examples=config_lib.Examples(builder=builder, max_per_row=MAX_PER_ROW if packed else 1),
        objective=config_lib.Objective(nsp=float(nsp)),
        phases={"phase1": phase},
        evaluation=config_lib.Evaluation(num_examples=args.examples, batch_size=rows),
    )


class Side:
    """One way to fill rows, with its batches and its compiled step."""

    def __init__(self, config, directory, encoder):
        self.config, stage = config, stages.of(config)[0]
        corpus = store.open_store(directory, "train")
        self.batches = pipeline.Batches([corpus], encoder, config, stage)
        self.mask = Pretraining(config, encoder).prepare(stage)
        self.heldout = pipeline.HeldoutBatches([corpus], encoder, config, stage)
        self.fill = np.mean([self.batches.batch(i)["attention_mask"].mean() for i in range(200)])
        mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
        self.state = jax.jit(lambda: train.init_state(config, Pretraining(config).init))()
        batch = self.batches.batch(0)
        step = train.compile_step(Pretraining(config), mesh, self.mask)
        self.step = step.lower(self.state, {}, batch).compile()
        self.calls = 0

    def time(self) -> float:
        """Seconds of the next step, its host batch included."""
        start = time.perf_counter()
        self.state, metrics = self.step(self.state, {}, self.batches.batch(self.calls))
        jax.block_until_ready((self.state, metrics))
        self.calls += 1
        return time.perf_counter() - start


@functools.partial(jax.jit, static_argnums=(0, 1))
def score(model, mask, params, batch):
    """Loss of every prediction `[B, P]` and of every next-sentence label, and the masked batch."""
    batch = mask(batch)
    outputs = models.apply(model, params, batch)
    mlm = objectives.cross_entropy(outputs["masked_lm_logits"], batch["masked_lm_ids"])
    nsp = None
    if "next_sentence_logits" in outputs:
        logits, labels = outputs["next_sentence_logits"], batch["next_sentence_labels"]
        nsp = objectives.cross_entropy(logits, labels)
    return mlm * batch["masked_lm_weights"], nsp, batch


def losses(side, params) -> dict[int, tuple]:
    """`{example id: (masked-LM loss, predictions, next-sentence loss)}` of held-out batches."""
    found = {}
    for step in range(side.heldout.num_batches):
        mlm, nsp, batch = score(side.config.model, side.mask, params, side.heldout.batch(step))
        mlm, nsp, batch = jax.tree.map(np.asarray, (mlm, nsp, batch))
        ids = batch["example_ids"].reshape(len(mlm), -1)
        segments = batch.get("segment_ids", batch["attention_mask"])
        slot = np.take_along_axis(segments, batch["masked_lm_positions"], 1)
        for row, column in zip(*np.nonzero(ids >= 0), strict=True):
            mine = (slot[row] == column + 1) & (batch["masked_lm_weights"][row] > 0)
            found[int(ids[row, column])] = (
                mlm[row][mine].sum(),
                mine.sum(),
                0.0 if nsp is None else nsp.reshape(len(mlm), -1)[row, column],
            )
    return found


def compare(args, material, encoders):
    name = MATERIALS[material][0]
    directory = args.workdir / name / "store"
    alone, packed = (
        Side(make_config(args, material, p), directory, encoders[name]) for p in (False, True)
    )
    times = {False: [], True: []}
    for _ in range(args.rounds + 1):
        for is_packed, side in ((False, alone), (True, packed)):
            times[is_packed].append(side.time())
    ratios = [a / p for a, p in zip(times[False][1:], times[True][1:], strict=True)]
    gain = packed.fill / alone.fill
    # The predictions of the packed phase for both, or an example alone might have fewer masks.
    same = dataclasses.replace(packed.config.phases["phase1"])
    stage = dataclasses.replace(stages.of(alone.config)[0], phase=same)
    alone.mask = Pretraining(alone.config, encoders[name]).prepare(stage)
    params = models.init(alone.config.model, keys.root(alone.config.seed, keys.INIT))
    one, other = losses(alone, params), losses(packed, params)
    assert one.keys() == other.keys()
    assert all(one[i][1] == other[i][1] for i in one), "an example has other masks when packed"
    worst = max(abs(one[i][0] - other[i][0]) / max(one[i][1], 1) for i in one)
    worst_nsp = max(abs(one[i][2] - other[i][2]) for i in one)
    print(
        f"| {material} | {alone.fill:.1%} | {packed.fill:.1%} | {gain:.2f} | "
        f"{statistics.median(ratios):.2f} ({min(times[False][1:]) / min(times[True][1:]):.2f}) | "
        f"{gain * statistics.median(ratios):.2f} | {len(one)}: {worst:.1e}, {worst_nsp:.1e} |",
        flush=True,
    )


def main():
    args = parse_args()
    write_texts(args)
    encoders = {}
    for material, (name, *_) in MATERIALS.items():
        if name not in encoders:
            prepare.prepare(make_config(args, material, False), args.workdir / name, progress=False)
            encoders[name] = tokenizer.load(args.workdir / name / "tokenizer")
    print(
        f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; up to {MAX_PER_ROW} "
        "examples a row"
    )
    print(
        "| material | fill alone | fill packed | fill ratio | step time alone / packed, median "
        "(minima) | tokens/s ratio | examples: largest difference of mean masked-LM loss, NSP |"
    )
    print("|---|---|---|---|---|---|---|")
    for material in MATERIALS:
        compare(args, material, encoders)
    print(f"load average at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
