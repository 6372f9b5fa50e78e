"""What a fine-tuned model was trained on, in `config.json` of `transformers`.

Under `task_specific_params`, where `transformers` keeps what only a task's code reads: the fields of
`config.task` that are not at their defaults, and the length of a row. With it, a folder predicts what
the run does that it came from.
"""

import dataclasses
from typing import Any

from bertjax import config as config_lib
from bertjax.config.finetune_fields import Task

_TASK_HEADS = ("classification", "span", "token", "multiple_choice")
_FIELD, _NAME = "task_specific_params", "bertjax"


def write(config: config_lib.Config) -> dict[str, Any]:
    """The field, {} where the model was not fine-tuned here."""
    if not config.is_finetuning or config.model.head not in _TASK_HEADS:
        return {}
    [phase, *_] = config.phases.values()
    default = Task()
    values = {
        name: value
        for name, value in dataclasses.asdict(config.task).items()
        if value != getattr(default, name)
    }
    return {_FIELD: {_NAME: {**values, "sequence_length": phase.sequence_length}}}


def read(tree: dict, model: config_lib.Model) -> dict[str, Any] | None:
    """What `write` wrote, for `pretrained.config_of`; None where there is none of it."""
    found = tree.get(_FIELD)
    found = found.get(_NAME) if isinstance(found, dict) else None
    return found if isinstance(found, dict) and model.head in _TASK_HEADS else None


def without(tree: dict) -> dict:
    """The tree without what `write` wrote."""
    found = tree.get(_FIELD)
    is_ours = isinstance(found, dict) and found.keys() == {_NAME}
    return {name: value for name, value in tree.items() if name != _FIELD or not is_ours}
