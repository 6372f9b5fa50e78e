"""Labels in `config.json` of `transformers`: their number, their names and the problem type."""

import dataclasses
import re
from typing import Any

from bertjax import config as config_lib
from bertjax.convert.folder import listed

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


def read(tree: dict, model: config_lib.Model, number: int) -> tuple[config_lib.Model, list[str]]:
    """The model with the number, the names and the problem type of its labels, and notes.

    The names are ordered by id. Only a head with labels keeps them; for any other head a note lists
    the labels, unless they are the default names of `transformers` (LABEL_0, LABEL_1, ...).

    Args:
      number: the number of labels, which is the classifier's number of rows.
    """
    labels, notes = tree.get("id2label"), []
    labels = labels if isinstance(labels, dict) else {}
    by_id = {int(key): name for key, name in labels.items() if re.fullmatch(r"\d{1,9}", str(key))}
    names = tuple(by_id.get(i) for i in range(len(labels)))
    if names and model.head_record.has_labels and len(names) != number:
        notes.append(f"labels: id2label has {len(names)}, the classifier {number}; no names kept")
        names = ()
    elif not all(isinstance(name, str) for name in names):
        notes.append("labels: id2label does not name each of 0, 1, 2...; the names are not kept")
        names = ()
    elif names == tuple(f"LABEL_{i}" for i in range(len(names))):
        names = ()
    ids = tree.get("label2id")
    against = [
        f"{name!r} is {ids[name]!r:.40}, not {i}"
        for i, name in enumerate(names)
        if isinstance(ids, dict) and name in ids and ids[name] != i and names.count(name) == 1
    ]
    if against:
        notes.append(f"labels: from id2label; label2id contradicts it: {listed(against)}")
    problem = tree.get("problem_type")
    if problem is not None and problem not in PROBLEMS:
        notes.append(f"problem_type={problem!r:.60}: unknown to transformers; not kept")
        problem = None
    if model.head_record.has_labels:
        fields = {"num_labels": number, "label_names": names, "problem_type": problem}
        return config_lib.model_of(dataclasses.asdict(model) | fields), notes
    if names or problem:
        said = listed([*names, *([problem] if problem else [])])
        notes.append(f"labels: {said}: not kept; their head is not read")
    return model, notes


def write(model: config_lib.Model) -> dict[str, Any]:
    """The label fields of config.json, for a model whose head has labels."""
    names = model.label_names or tuple(f"LABEL_{i}" for i in range(model.num_labels))
    tree: dict[str, Any] = {"id2label": {str(i): name for i, name in enumerate(names)}}
    tree["label2id"] = {name: i for i, name in enumerate(names)}
    if model.problem_type is not None:
        tree["problem_type"] = model.problem_type
    return tree
