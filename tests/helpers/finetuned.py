"""Tiny fine-tuned runs for every kind of task, with random weights or a few steps of training."""

import dataclasses
import json

import jax
import numpy as np
from finetune_examples import TOKENIZER

from bertjax import config as config_lib
from bertjax.config.heads import HEADS
from bertjax.convert import orbax
from bertjax.convert.pretrained import Pretrained, config_of
from bertjax.finetune import runs
from bertjax.finetune.tasks import KINDS

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
LABELS = {
    "single": ("no", "yes"),
    "pair": ("no", "yes"),
    "token": ("O", "B-x", "I-x"),
}


def pretrained(head="pooler", *, seed=0, tokenizer=TOKENIZER, **fields) -> Pretrained:
    """A model with random weights of moderate size and the tokenizer of letters."""
    from bertjax import models

    size = {"vocab_size": tokenizer.vocab_size, "head": head}
    model = config_lib.Model(**SIZE | size | fields)
    assert head in HEADS
    params = models.init(model, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: np.asarray(x) + 0.2 * rng.standard_normal(x.shape, np.float32), params
    )
    group = config_lib.Tokenizer(vocab_size=tokenizer.vocab_size)
    config = config_of(model, group, "test")
    return Pretrained(config, tokenizer, params)


def of_kind(kind, *, seed=0, longest=32, model=(), **task) -> Pretrained:
    """A model with random weights, the head of a kind of task, and a config that names the task."""
    names = LABELS.get(kind, ())
    fields = {"label_names": names, "num_labels": len(names) or (1 if kind == "regression" else 2)}
    fields |= {"problem_type": "regression"} if kind == "regression" else {}
    found = pretrained(KINDS[kind].head, seed=seed, **fields | dict(model))
    tree = config_lib.to_dict(found.config)
    tree["task"] |= {"kind": kind, "stride": 8, "question_length": 8, **task}
    if task.get("name"):
        tree["task"]["kind"] = None
    tree["phases"]["phase1"]["sequence_length"] = longest
    return dataclasses.replace(found, config=config_lib.from_config_dict(tree))


def write(found, directory):
    """Writes a run's directory with these weights."""
    orbax.write(found, directory)
    return str(directory)


def config(files, source, *, task="rte", epochs=2.0, longest=24, **fields) -> config_lib.Config:
    """A config for a few steps of fine-tuning from `source`; `fields` have dotted names."""
    from bertjax.finetune import recipes

    tree = recipes.bert(task)
    values = {
        "init_from": source,
        "data.files": str(files),
        "finetune.epochs": epochs,
        "evaluation.batch_size": 8,
        "optimizer.learning_rate": 1e-3,
        "logging.tensorboard": False,
        "task.stride": 8,
        "task.question_length": 8,
        **fields,
    }
    with tree.unlocked(), tree.ignore_type():
        [phase] = tree.phases.values()
        phase.sequence_length, phase.batch_size = longest, 8
        for name, value in values.items():
            *groups, last = name.split(".")
            node = tree
            for group in groups:
                node = node[group]
            with node.ignore_type():
                node[last] = value
    return config_lib.from_config_dict(tree)


def train(given, directory):
    """Trains and returns the scores."""
    return runs.finetune(given, directory)


def letters(rng, count):
    return " ".join(rng.choice(list("abcdefghij"), count))


def pairs(folder, *, rows=40, seed=0, labels=("entailment", "not_entailment"), name="dev"):
    """Writes RTE's TSV to a folder: a pair is entailed if both texts begin with the same letter."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["index\tsentence1\tsentence2\tlabel"]
    for number in range(rows):
        a, b = letters(rng, rng.integers(2, 9)), letters(rng, rng.integers(2, 9))
        b = a[0] + b[1:] if number % 2 else b
        label = labels[0] if a[0] == b[0] else labels[-1]
        lines.append(f"{number}\t{a}\t{b}\t{label}")
    (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
