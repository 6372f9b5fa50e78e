"""The task of a fine-tuned model, kept in `config.json` of `transformers`.

The field is `task_specific_params`, which `transformers` leaves to a task's own code. It holds the
fields of `config.task` that differ from their defaults, and the length of a row. With them, an
exported folder makes the same predictions as its run.
"""

import dataclasses
from typing import Any

from bertjax import config as config_lib
from bertjax.config.finetune_fields import Task

_TASK_HEADS = ("classification", "span", "token", "multiple_choice")
_FIELD, _NAME = "task_specific_params", "bertjax"


def write(config: config_lib.Config) -> dict[str, Any]:
    """The field and its value; {} if bertjax did not fine-tune the model."""
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
    """The values that `write` wrote, for `pretrained.config_of`; None if there are none."""
    found = tree.get(_FIELD)
    found = found.get(_NAME) if isinstance(found, dict) else None
    return found if isinstance(found, dict) and model.head in _TASK_HEADS else None


def without(tree: dict) -> dict:
    """The tree without the field that `write` wrote."""
    found = tree.get(_FIELD)
    is_ours = isinstance(found, dict) and found.keys() == {_NAME}
    return {name: value for name, value in tree.items() if name != _FIELD or not is_ours}
