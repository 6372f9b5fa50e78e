"""The pretraining step of transformers + PyTorch on this machine's device, same model and rows.

BertForPreTraining in bfloat16 autocast, with its SDPA attention, AdamW(fused=True) and gradients
clipped at 1.0. Only the masked positions are projected onto the vocabulary, as in bertjax (`stock`
projects all positions). Both eager mode and `torch.compile` are timed.

    python -m benchmarks.peer_torch --batch=256 --length=128 --dropout=0.1
"""

import argparse
import os
import statistics
import time

import numpy as np
import torch
import transformers


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("base", "large"), default="base")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.1], help="of probabilities")
    parser.add_argument(
        "--forms",
        nargs="+",
        default=["eager", "compiled"],
        choices=("eager", "compiled", "stock", "stock compiled"),
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


SIZES = {
    "base": {},
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}


class Step:
    def __init__(self, args, dropout: float, form: str, device: str):
        self.stock, self.device = form.startswith("stock"), device
        self.model = (
            transformers.BertForPreTraining(
                transformers.BertConfig(
                    **SIZES[args.size],
                    attention_probs_dropout_prob=dropout,
                    max_position_embeddings=max(512, args.length),
                    attn_implementation="sdpa",
                )
            )
            .to(device)
            .train()
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        rng = np.random.default_rng(0)
        size, length = args.batch, args.length
        predictions = {128: 20, 512: 77}.get(length, round(0.15 * length))
        ends = np.where(rng.random(size) < 0.9, length, rng.integers(5, length, size))
        mask = np.arange(length) < ends[:, None]
        self.real = int(mask.sum())
        ids = rng.integers(1000, 30522, (size, length))
        positions = np.stack([rng.permutation(length)[:predictions] for _ in range(size)])
        labels = np.full((size, length), -100)
        np.put_along_axis(labels, positions, np.take_along_axis(ids, positions, 1), 1)
        flat = np.flatnonzero(labels.reshape(-1) >= 0)
        types = (np.arange(length) >= ends[:, None] // 2) & mask

        def put(x):
            return torch.from_numpy(np.ascontiguousarray(x)).long().to(device)

        self.inputs = {
            "input_ids": put(ids),
            "attention_mask": put(mask),
            "token_type_ids": put(types),
        }
        self.labels, self.flat = put(labels), put(flat)
        self.targets = put(labels.reshape(-1)[flat])
        self.next_sentence = put(rng.integers(0, 2, size))
        self.loss = torch.compile(self.loss_of) if "compiled" in form else self.loss_of
        self.seconds = []

    def loss_of(self):
        if self.stock:
            return self.model(
                **self.inputs, labels=self.labels, next_sentence_label=self.next_sentence
            ).loss
        outputs = self.model.bert(**self.inputs)
        hidden = outputs.last_hidden_state.flatten(0, 1)[self.flat]
        logits, next_logits = self.model.cls(hidden, outputs.pooler_output)
        cross_entropy = torch.nn.functional.cross_entropy
        return cross_entropy(logits.float(), self.targets) + cross_entropy(
            next_logits.float(), self.next_sentence
        )

    def run(self, steps: int):
        self.synchronize()
        started = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device, torch.bfloat16):
                loss = self.loss()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        self.synchronize()
        self.seconds.append((time.perf_counter() - started) / steps)

    def synchronize(self):
        if self.device == "cuda":
            torch.cuda.synchronize()


def main():
    args = parse_arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    torch.set_float32_matmul_precision("high")
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {name}, "
        f"load {os.getloadavg()[0]:.2f}"
    )
    print("| form | seconds median | min | tokens/s | real tokens/s | started in |\n|" + "---|" * 6)
    for dropout in args.dropout:
        for form in args.forms:
            started = time.perf_counter()
            step = Step(args, dropout, form, device)
            for _ in range(3):
                step.run(1)
            begun = time.perf_counter() - started
            step.seconds.clear()
            for _ in range(args.rounds):
                step.run(args.steps)
            best = statistics.median(step.seconds)
            print(
                f"| {args.size} {args.batch} x {args.length}, dropout {dropout}, {form} | {best:.4f} | "
                f"{min(step.seconds):.4f} | {args.batch * args.length / best:,.0f} | "
                f"{step.real / best:,.0f} | {begun:.0f} s |",
                flush=True,
            )
            del step
            if device == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
