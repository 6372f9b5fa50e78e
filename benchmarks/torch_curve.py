"""The same training run twice: bertjax, and `transformers` with PyTorch.

Both runs have the same initial weights (made by bertjax, converted by `bertjax convert`), the same
batches and masks of real text, no dropout, float32, AdamW with decay except on LayerNorm and
biases, warm-up, linear decay and a clipped gradient. Each side computes its own loss, gradients and
update. A third run, PyTorch in float64, shows which side's float32 causes a difference.

    python -m benchmarks.torch_curve --corpus=small.jsonl.gz --vocab=bert-base-uncased-vocab.txt \\
        --out=benchmarks/torch_curve.png
    python -m benchmarks.torch_curve --size=base ...          # on an accelerator
"""

import argparse
import functools
import importlib.metadata
import os
import tempfile
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import matplotlib.pyplot as plt
import numpy as np
import torch
import transformers

from bertjax import config as config_lib
from bertjax import optimizer, pretraining, sharding, train
from bertjax.config import stages
from bertjax.convert import hf
from bertjax.convert.pretrained import Pretrained
from bertjax.pretraining import Pretraining

SIZES = {
    "mini": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    "base": {},
}


def make_config(args) -> config_lib.Config:
    tree = config_lib.default()
    tree.data.files, tree.tokenizer.path = str(args.corpus), str(args.vocab)
    tree.model.update(SIZES[args.size])
    tree.model.vocab_size = 0
    tree.model.hidden_dropout_prob = tree.model.attention_probs_dropout_prob = 0.0
    tree.phases.phase1 = config_lib.phase(
        steps=args.steps,
        sequence_length=args.length,
        batch_size=args.batch,
        max_predictions_per_seq=round(0.16 * args.length),
    )
    tree.optimizer.name = "adamw"
    tree.optimizer.learning_rate = args.learning_rate
    tree.optimizer.warmup_steps = args.steps // 10
    tree.seed = args.seed
    return config_lib.from_config_dict(tree)


def masked_batches(job: Pretraining):
    """The batches of the run as the loop makes them, masked: NumPy dicts, one a step."""
    stage = stages.of(job.config)[0]
    batches = job.batches(stage)
    mask = jax.jit(job.prepare(stage))
    for step in range(stage.steps):
        yield jax.device_get(mask(batches.batch(step)))


def our_curve(job, state, batches) -> list[float]:
    mesh = sharding.make_mesh(job.config.mesh, jax.devices()[:1])
    step = train.compile_step(job, mesh, lambda batch: batch)
    losses = []
    for batch in batches:
        state, metrics = step(state, {}, batch)
        losses.append(float(metrics["loss"]))
    return losses


def their_curve(config, directory: Path, batches, device: str, dtype) -> list[float]:
    model = transformers.BertForPreTraining.from_pretrained(directory).train().to(device, dtype)
    opt = config.optimizer
    exempt = [p for name, p in model.named_parameters() if "bias" in name or "LayerNorm" in name]
    decayed = [p for p in model.parameters() if all(p is not e for e in exempt)]
    groups = [
        {"params": decayed, "weight_decay": opt.weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=(opt.b1, opt.b2), eps=opt.eps)
    rate = optimizer.learning_rate(config)
    losses = []
    for step, batch in enumerate(batches):
        for group in adamw.param_groups:
            group["lr"] = float(rate(step))
        loss = model(**torch_inputs(batch, device)).loss
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), opt.clip_norm)
        adamw.step()
        losses.append(loss.item())
    return losses


def torch_inputs(batch: dict, device: str) -> dict:
    labels = np.full(batch["input_ids"].shape, -100)
    real = batch["masked_lm_weights"] > 0
    rows = np.nonzero(real)[0]
    labels[rows, batch["masked_lm_positions"][real]] = batch["masked_lm_ids"][real]
    names = ("input_ids", "token_type_ids", "attention_mask")
    tensors = {name: batch[name] for name in names}
    tensors |= {"labels": labels, "next_sentence_label": batch["next_sentence_labels"]}
    return {k: torch.tensor(np.asarray(v, np.int64), device=device) for k, v in tensors.items()}


def run(config, directory: Path, device: str) -> dict[str, np.ndarray]:
    """The losses of the three runs, one a step; the corpus is prepared in `directory`."""
    job = pretraining.open(config, directory, build=True)
    config, tokenizer = job.config, job.tokenizer
    state = jax.jit(functools.partial(train.init_state, job.config, job.init))()
    hf.write(Pretrained(config, tokenizer, jax.device_get(state["params"])), directory / "hf")
    batches = list(masked_batches(job))
    theirs = functools.partial(their_curve, config, directory / "hf", batches, device)
    curves = {
        "bertjax": our_curve(job, state, batches),
        "PyTorch": theirs(torch.float32),
        "PyTorch float64": theirs(torch.float64),
    }
    return {name: np.array(losses) for name, losses in curves.items()}


PAIRS = (
    ("bertjax", "PyTorch", "tab:red"),
    ("bertjax", "PyTorch float64", "tab:blue"),
    ("PyTorch", "PyTorch float64", "tab:gray"),
)


def plot(curves: dict, title: str, path: Path):
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(8, 6.5), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    top.plot(curves["PyTorch"], color="0.6", linewidth=4, label="transformers + PyTorch")
    top.plot(curves["bertjax"], color="tab:blue", linewidth=1, label="bertjax")
    top.set_ylabel("pretraining loss (nats)")
    top.legend()
    top.set_title(title, fontsize=10)
    for a, b, color in PAIRS:
        difference = np.maximum(np.abs(curves[a] - curves[b]), 1e-8)
        bottom.semilogy(difference, color=color, linewidth=1, label=f"{a} - {b}")
    bottom.axhline(1e-4, color="0.5", linestyle="--", linewidth=1)
    bottom.set_ylabel("absolute difference")
    bottom.set_xlabel("step")
    bottom.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--vocab", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="PNG of both curves and their difference")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = False
    # On an accelerator float32 products would otherwise be made of shorter ones.
    with jax.default_matmul_precision("highest"), tempfile.TemporaryDirectory() as directory:
        curves = run(make_config(args), Path(directory), device)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("jax", "torch", "transformers")
    )
    print(f"{jax.devices()[0].device_kind} and {device}; {versions}; load {os.getloadavg()[0]:.1f}")
    for step in sorted({0, 1, 9, 49, 99, 149, args.steps - 1} & set(range(args.steps))):
        print(f"step {step + 1:4}  " + "  ".join(f"{k} {v[step]:.6f}" for k, v in curves.items()))
    for a, b, _ in PAIRS:
        difference = np.abs(curves[a] - curves[b])
        print(
            f"{a} - {b}: largest {difference.max():.2e} at step {difference.argmax() + 1}, "
            f"median {np.median(difference):.1e}"
        )
    if args.out:
        title = f"BERT {args.size}, {args.batch} x {args.length}, float32"
        plot(curves, f"{title}, {jax.devices()[0].device_kind}", args.out)


if __name__ == "__main__":
    main()
