"""Fine-tuned teachers with random weights, for the tiny tasks of `finetune_runs`."""

import dataclasses

from finetune_runs import write_vocab
from finetuned import pretrained, write

from bertjax import config as config_lib
from bertjax.data import tokenizer as tokenizer_lib
from bertjax.finetune.readers import sources
from bertjax.finetune.tasks import KINDS

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24}


def teacher(root, asked, *, labels=None, seed=7, task=(), tokenizer=None, head=None, **fields):
    """A teacher with random weights for the task of the config `asked`.

    Args:
      labels: label names in the teacher's order; by default the labels of the task.
      task: fields of the teacher's own `config.task`.
    """
    kind = sources.kind_of(asked)
    if tokenizer is None:
        vocab = root / "vocab.txt"
        tokenizer, _ = tokenizer_lib.read(
            config_lib.Tokenizer(path=str(vocab if vocab.exists() else write_vocab(root)))
        )
    labels = sources.read(asked).labels if labels is None else labels
    about = {"label_names": labels, "num_labels": len(labels) or (1 if kind == "regression" else 2)}
    about |= {"problem_type": "regression"} if kind == "regression" else {}
    head = head or KINDS[kind].head
    found = pretrained(head, seed=seed, tokenizer=tokenizer, **SIZE | about | fields)
    tree = config_lib.to_dict(found.config)
    tree["task"] |= dict(task)
    return dataclasses.replace(found, config=config_lib.from_config_dict(tree))


def write_teacher(root, name, asked, **fields):
    """Writes such a teacher to a directory, for `config.teacher.init_from`."""
    return write(teacher(root, asked, **fields), root / name)
