"""Compares RoBERTa with fairseq: logits of a converted checkpoint, statistics of the masks.

    python benchmarks/fairseq.py --fairseq=DIR [--sequences=4000] [--epochs=5]

DIR is a checkout of facebookresearch/fairseq. Its Python code is imported without a build; besides
PyTorch it needs hydra-core, omegaconf, sacrebleu and bitarray. fairseq builds a small random
RoBERTa and saves it with its own Trainer; then `bertjax.convert` reads it. Masks come from its
MaskTokensDataset and from `masking.mask_tokens` with RoBERTa's fields, on the same sequences of
random ids. A difference is in standard errors of chance alone. (fairseq seeds a masked sequence
with one of 10**6 numbers, so over many epochs masks repeat and its chi squares grow.)
"""

import argparse
import dataclasses
import logging
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import torch

from bertjax import convert, models
from bertjax.config import Masking
from bertjax.convert.pretrained import Hints
from bertjax.data import masking

BOS, PAD, EOS, UNK, WORDS = 0, 1, 2, 3, 1000
VOCAB = 4 + WORDS + 1
MASK = VOCAB - 1
LENGTH, PREDICTIONS, BATCH = 128, 24, 500
FIELDS = Masking(rounding="probabilistic", choose_special=True, random_special=False)
TOKENIZER = SimpleNamespace(
    cls_id=BOS,
    sep_id=EOS,
    mask_id=MASK,
    marker_ids=(),
    special_ids=(BOS, PAD, EOS, UNK, MASK),
    vocab_size=VOCAB,
)
MODEL = {
    "encoder-layers": 2,
    "encoder-embed-dim": 64,
    "encoder-ffn-embed-dim": 256,
    "encoder-attention-heads": 4,
    "max-positions": LENGTH,
    "tokens-per-sample": LENGTH,
}
COMMAND = [
    "--task=masked_lm",
    "--arch=roberta",
    "--criterion=masked_lm",
    "--optimizer=adam",
    "--lr=1e-4",
    "--batch-size=4",
    "--cpu",
]


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fairseq", type=Path, required=True, help="checkout of fairseq")
    parser.add_argument("--sequences", type=int, default=4000, help="sequences to mask")
    parser.add_argument("--epochs", type=int, default=5, help="times that each is masked")
    return parser.parse_args()


def import_fairseq(checkout: Path):
    """Makes `import fairseq` work from its sources, or exits with one line that says why not."""
    if not (checkout / "fairseq" / "__init__.py").is_file():
        sys.exit(f"--fairseq={checkout}: no checkout of facebookresearch/fairseq there")
    import scipy.special  # noqa: F401  before the patch below, with all that imports dataclasses
    import torch.distributed.rpc  # noqa: F401

    original = dataclasses.dataclass

    def dataclass(cls=None, /, **options):
        """Makes fairseq's dataclasses hashable, as Python 3.11 requires of defaults."""
        if cls is None:
            return lambda cls: dataclass(cls, **options)
        if cls.__module__.startswith("fairseq"):
            options = {"unsafe_hash": True} | options
        return original(cls, **options)

    dataclasses.dataclass = dataclass
    sys.path[0] = str(checkout)  # this directory has a fairseq.py too
    try:
        import fairseq  # noqa: F401
    except ImportError as error:
        sys.exit(f"--fairseq={checkout}: {error}")
    finally:
        dataclasses.dataclass = original
    logging.disable()


# ---- logits


def random_roberta(directory: Path):
    """A RoBERTa of fairseq, with noise on its weights, and the checkpoint that fairseq wrote."""
    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.trainer import Trainer

    (directory / "dict.txt").write_text("".join(f"{i} 1\n" for i in range(WORDS)))
    command = [str(directory), *COMMAND, *(f"--{name}={value}" for name, value in MODEL.items())]
    args = options.parse_args_and_arch(options.get_training_parser(), command)
    config = convert_namespace_to_omegaconf(args)
    task = tasks.setup_task(config.task)
    model = task.build_model(config.model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    trainer = Trainer(config, task, model, task.build_criterion(config.criterion))
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(directory / "model.pt"), {})
    return model.eval(), task, directory / "model.pt"


def compare_logits(model, path, rng):
    ids, lengths = sequences(rng, 32)
    attended = np.arange(LENGTH) < lengths[:, None]
    with torch.no_grad():
        theirs = model(torch.tensor(ids))[0].numpy()
    ours = convert.read(f"fairseq:{path}", Hints(allow_pickle=True))
    batch = {
        "input_ids": ids,
        "token_type_ids": np.zeros_like(ids),
        "attention_mask": attended.astype(np.int32),
        "masked_lm_positions": np.tile(np.arange(LENGTH), (len(ids), 1)),
    }
    outputs = models.apply(ours.config.model, ours.params, batch)
    logits = np.asarray(outputs["masked_lm_logits"])[:, :, :VOCAB]
    difference = np.abs(logits - theirs)[attended].max()
    print(
        f"logits of {attended.sum()} tokens in {len(ids)} sequences: largest difference "
        f"{difference:.1e}, largest logit {np.abs(theirs[attended]).max():.1f}"
    )


# ---- masks


def sequences(rng, number):
    """`(ids [N, L], lengths [N])`: <s>, words, </s>, then padding."""
    lengths = rng.integers(16, LENGTH + 1, number)
    ids = rng.integers(4, 4 + WORDS, (number, LENGTH))
    ids[:, 0] = BOS
    ids[np.arange(number), lengths - 1] = EOS
    return np.where(np.arange(LENGTH) < lengths[:, None], ids, PAD), lengths


def fairseq_masks(task, ids, lengths, epoch):
    """`(chosen, new ids)` [N, L] of MaskTokensDataset."""
    from fairseq.data import MaskTokensDataset

    items = [torch.tensor(row[:n]) for row, n in zip(ids, lengths, strict=True)]
    source, target = (
        MaskTokensDataset(
            SimpleDataset(items),
            task.source_dictionary,
            pad_idx=PAD,
            mask_idx=task.mask_idx,
            return_masked_tokens=targets,
        )
        for targets in (False, True)
    )
    chosen, new = np.zeros(ids.shape, bool), ids.copy()
    for dataset in (source, target):
        dataset.set_epoch(epoch)
    for row, n in enumerate(lengths):
        new[row, :n] = source[row].numpy()
        chosen[row, :n] = target[row].numpy() != PAD
    return chosen, new


class SimpleDataset(list):
    """The interface that fairseq's wrappers need from a dataset."""

    def set_epoch(self, epoch):
        pass


def our_masks(mask, ids, lengths, epoch):
    """`(chosen, new ids)` [N, L] of `masking.mask_tokens`."""
    parts = []
    for start in range(0, len(ids), BATCH):
        rows = np.arange(start, start + BATCH) % len(ids)
        batch = {
            "input_ids": ids[rows],
            "attention_mask": np.arange(LENGTH) < lengths[rows, None],
            "example_ids": np.arange(start, start + BATCH),
            "mask_epochs": np.full(BATCH, epoch),
        }
        masked = mask({name: np.asarray(value, np.int32) for name, value in batch.items()})
        chosen = np.zeros((BATCH, LENGTH), bool)
        row, slot = np.nonzero(masked["masked_lm_weights"])
        chosen[row, np.asarray(masked["masked_lm_positions"])[row, slot]] = True
        parts.append((chosen, np.asarray(masked["input_ids"])))
    chosen, new = (np.concatenate(part)[: len(ids)] for part in zip(*parts, strict=True))
    return chosen, new


class Statistics:
    """Counts of one implementation, summed over epochs."""

    def __init__(self, ids, lengths):
        self.ids, self.lengths, self.epochs = ids, lengths, 0
        self.at = np.zeros(LENGTH, int)
        self.became = {"<mask>": 0, "kept": 0, "random": 0}
        self.special = 0
        self.random_ids = np.zeros(VOCAB, int)
        self.wrong_number = 0

    def add(self, chosen, new):
        self.epochs += 1
        assert (new[~chosen] == self.ids[~chosen]).all()
        exact = 0.15 * self.lengths
        numbers = chosen.sum(1)
        self.wrong_number += ((numbers != np.floor(exact)) & (numbers != np.ceil(exact))).sum()
        self.at += chosen.sum(0)
        self.special += (chosen & np.isin(self.ids, (BOS, EOS))).sum()
        mask, kept = chosen & (new == MASK), chosen & (new == self.ids)
        random = chosen & ~mask & ~kept
        for name, which in (("<mask>", mask), ("kept", kept), ("random", random)):
            self.became[name] += which.sum()
        self.random_ids += np.bincount(new[random], minlength=VOCAB)

    @property
    def chosen(self):
        return self.at.sum()

    def position_chi2(self):
        """Chi square per degree of freedom; 0.85 if 15 of 100 are taken without replacement."""
        expected = 0.15 * self.epochs * (self.lengths[:, None] > np.arange(LENGTH)).sum(0)
        return ((self.at - expected) ** 2 / expected).mean()

    def random_chi2(self):
        counts = self.random_ids[4 : 4 + WORDS]
        return ((counts - counts.mean()) ** 2 / counts.mean()).sum() / (WORDS - 1)


def compare_masks(theirs: Statistics, ours: Statistics):
    sequences = theirs.epochs * len(theirs.lengths)
    fraction = 0.15 * theirs.lengths % 1
    error = (2 * theirs.epochs * (fraction * (1 - fraction)).sum()) ** 0.5 / sequences
    exact = 0.15 * theirs.lengths.mean()
    print(f"masks of {sequences} sequences of {theirs.lengths.mean():.1f} tokens on average")
    print(f"  {'':34}{'rule':>9}{'fairseq':>10}{'bertjax':>10}{'differ by':>12}")

    def row(name, rule, a, b, error=None, digits=4):
        differ = f"{(b - a) / error:+.1f} sigma" if error else ""
        numbers = "".join(f"{x:>10.{digits}f}" for x in (a, b))
        print(f"  {name:34}{rule:>9}{numbers}{differ:>12}")

    row(
        "predictions of a sequence",
        f"{exact:.4f}",
        theirs.chosen / sequences,
        ours.chosen / sequences,
        error,
    )
    row(
        "numbers neither rounded up nor down", "0", theirs.wrong_number, ours.wrong_number, digits=0
    )
    shares = [
        ("share of <s> and </s>", 2 / theirs.lengths.mean(), lambda s: s.special),
        ("became <mask>", 0.8, lambda s: s.became["<mask>"]),
        ("stayed", 0.1, lambda s: s.became["kept"]),
        ("became another id", 0.1, lambda s: s.became["random"]),
    ]
    for name, p, count in shares:
        a, b = (count(s) / s.chosen for s in (theirs, ours))
        error = (p * (1 - p) * (1 / theirs.chosen + 1 / ours.chosen)) ** 0.5
        row(name, f"{p:.4f}", a, b, error)
    row("positions, chi square / freedom", "0.85", theirs.position_chi2(), ours.position_chi2())
    row("random ids, chi square / freedom", "1", theirs.random_chi2(), ours.random_chi2())
    row(
        "random ids drawn, of 1000 words",
        "all",
        *((s.random_ids[4:-1] > 0).sum() for s in (theirs, ours)),
        digits=0,
    )
    row(
        "<s> <pad> </s> <unk> drawn",
        "0",
        *(s.random_ids[:4].sum() for s in (theirs, ours)),
        digits=0,
    )


def main():
    args = parse_args()
    import_fairseq(args.fairseq.resolve())
    with tempfile.TemporaryDirectory() as directory:
        model, task, path = random_roberta(Path(directory))
        compare_logits(model, path, np.random.default_rng(0))
    ids, lengths = sequences(np.random.default_rng(1), args.sequences)
    key = jax.random.key(0, impl="threefry2x32")
    mask = jax.jit(lambda batch: masking.mask_tokens(key, batch, TOKENIZER, FIELDS, PREDICTIONS))
    theirs, ours = Statistics(ids, lengths), Statistics(ids, lengths)
    for epoch in range(1, args.epochs + 1):
        theirs.add(*fairseq_masks(task, ids, lengths, epoch))
        ours.add(*our_masks(mask, ids, lengths, epoch))
    compare_masks(theirs, ours)


if __name__ == "__main__":
    main()
