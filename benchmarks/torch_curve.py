"""The same training run twice: bertjax, and `transformers` with PyTorch.

Same initial weights (made by bertjax, carried over by `bertjax convert`), same batches and masks
of real text, dropout off, float32, AdamW with decay outside LayerNorm and biases, warm-up, linear
decay and a clipped gradient. Each side computes its own loss, gradients and update; the curves
coincide as far as float32 sums in another order allow.

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
from bertjax import keys, optimizer, sharding, train, workdir
from bertjax.convert import hf
from bertjax.convert.pretrained import Pretrained
from bertjax.data import masking, pipeline, store

SIZES = {
    "mini": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
             "intermediate_size": 1024},
    "base": {},
}  # fmt: skip


def make_config(args) -> config_lib.Config:
    tree = config_lib.default()
    tree.data.files, tree.tokenizer.path = str(args.corpus), str(args.vocab)
    tree.model.update(SIZES[args.size])
    tree.model.vocab_size = 0
    tree.model.hidden_dropout_prob = tree.model.attention_probs_dropout_prob = 0.0
    tree.phases.phase1 = config_lib.phase(
        steps=args.steps, sequence_length=args.length, batch_size=args.batch,
        max_predictions_per_seq=round(0.16 * args.length),
    )  # fmt: skip
    tree.optimizer.name = "adamw"
    tree.optimizer.learning_rate = args.learning_rate
    tree.optimizer.warmup_steps = args.steps // 10
    tree.seed = args.seed
    return config_lib.from_config_dict(tree)


def masked_batches(config, directory: Path, tokenizer):
    """The batches of the run as the loop makes them, masked: NumPy dicts, one a step."""
    phase = config.phases["phase1"]
    documents = store.open_store(directory / "store", "train")
    batches = pipeline.Batches(documents, tokenizer, config, phase, 0)
    mask = jax.jit(
        functools.partial(
            masking.mask_tokens, keys.mask(config, 0), tokenizer=tokenizer,
            masking=config.masking, max_predictions_per_seq=phase.max_predictions_per_seq,
        )
    )  # fmt: skip
    for step in range(phase.steps):
        yield jax.device_get(mask(batches.batch(step)))


def our_curve(config, state, batches) -> list[float]:
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    step = train.compile_step(config, mesh, lambda batch: batch)
    losses = []
    for batch in batches:
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses


def their_curve(config, directory: Path, batches, device: str) -> list[float]:
    model = transformers.BertForPreTraining.from_pretrained(directory).train().to(device)
    opt = config.optimizer
    exempt = [p for name, p in model.named_parameters() if "bias" in name or "LayerNorm" in name]
    decayed = [p for p in model.parameters() if all(p is not e for e in exempt)]
    groups = [{"params": decayed, "weight_decay": opt.weight_decay},
              {"params": exempt, "weight_decay": 0.0}]  # fmt: skip
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=(opt.b1, opt.b2), eps=opt.eps)
    rate = optimizer.learning_rate(opt, config.num_steps)
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


def run(config, directory: Path, device: str) -> tuple[np.ndarray, np.ndarray]:
    """`(our losses, their losses)`, one a step; the store must be in `directory`."""
    config, tokenizer = workdir.open_corpus(config, directory, build=True)
    state = jax.jit(functools.partial(train.init_state, config))()
    hf.write(Pretrained(config, tokenizer, jax.device_get(state["params"])), directory / "hf")
    batches = list(masked_batches(config, directory, tokenizer))
    ours = our_curve(config, state, batches)
    return np.array(ours), np.array(their_curve(config, directory / "hf", batches, device))


def plot(ours, theirs, title: str, path: Path):
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    top.plot(theirs, color="0.6", linewidth=4, label="transformers + PyTorch")
    top.plot(ours, color="tab:blue", linewidth=1, label="bertjax")
    top.set_ylabel("pretraining loss (nats)")
    top.legend()
    top.set_title(title, fontsize=10)
    bottom.semilogy(np.maximum(np.abs(ours - theirs), 1e-8), color="tab:red", linewidth=1)
    bottom.axhline(1e-4, color="0.5", linestyle="--", linewidth=1)
    bottom.set_ylabel("absolute difference")
    bottom.set_xlabel("step")
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
        ours, theirs = run(make_config(args), Path(directory), device)
    difference = np.abs(ours - theirs)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("jax", "torch", "transformers")
    )
    print(f"{jax.devices()[0].device_kind} and {device}; {versions}; "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    for step in sorted({0, 1, 9, 49, 99, 149, args.steps - 1} & set(range(args.steps))):
        print(f"step {step + 1:4}  ours {ours[step]:.6f}  theirs {theirs[step]:.6f}  "
              f"difference {difference[step]:.1e}")  # fmt: skip
    print(f"largest difference {difference.max():.2e} at step {difference.argmax() + 1}; "
          f"median {np.median(difference):.1e}")  # fmt: skip
    if args.out:
        plot(ours, theirs, f"BERT {args.size}, {args.batch} x {args.length}, float32", args.out)


if __name__ == "__main__":
    main()
