"""Matches the rows of a source's classifier to the labels of a task, by name, not by position."""

import re
from collections.abc import Sequence


def reorder(source: Sequence[str], task: Sequence[str]) -> tuple[list[int | None], str]:
    """The row of the source's classifier for each label of the task, and a line to log.

    A checkpoint trained on MNLI may order its labels differently from the task's files
    (transformers #10401: 4.3% instead of 90.6%). Case, spaces and hyphens do not count:
    NOT-ENTAILMENT is not_entailment.

    Args:
      source: `id2label` in the order of the ids. LABEL_0, LABEL_1... and 0, 1... are placeholders:
        rows then keep their positions, if source and task have the same number of labels.
      task: the task's labels; ("LABEL_0",) for regression.

    Returns:
      For each label of the task, a row number of the source, or None for a new random row.
    """
    # If both have the same names, digits such as ("1", "0") are real names and may be reordered.
    same_names = set(source) == set(task)
    if _unnamed(source) and (not same_names or list(source) == list(task)):
        return _by_position(source, task)
    if _unnamed(task) and not same_names:
        return [None] * len(task), (
            f"classifier: reinitialized: the source's labels are {', '.join(source)}, the task's "
            "labels have no names"
        )
    rows = [find(source, name) for name in task]
    kept = [f"{name} (row {row})" for name, row in zip(task, rows, strict=True) if row is not None]
    new = [name for name, row in zip(task, rows, strict=True) if row is None]
    left = [name for row, name in enumerate(source) if row not in rows]
    parts = [
        f"kept by name: {', '.join(kept)}" if kept else "no row is kept",
        f"reinitialized: {', '.join(new)}" if new else "",
        f"not used: {', '.join(left)}" if left else "",
    ]
    return rows, "classifier: " + "; ".join(filter(None, parts))


def _by_position(source: Sequence[str], task: Sequence[str]) -> tuple[list[int | None], str]:
    if len(source) != len(task):
        line = f"classifier: reinitialized: the source has {len(source)} labels without names"
        return [None] * len(task), f"{line}, the task {len(task)}"
    line = "classifier: the source's labels have no names; rows are kept by position"
    return list(range(len(task))), f"{line}: {', '.join(task)}"


def _unnamed(names: Sequence[str]) -> bool:
    return all(re.fullmatch(r"(LABEL_)?\d+", str(name)) for name in names)


def find(names: Sequence[str], name: str) -> int | None:
    """The position of a name; else of the only name equal but for case, spaces, `_` and `-`."""
    if list(names).count(name) == 1:
        return list(names).index(name)
    found = [i for i, other in enumerate(names) if _folded(other) == _folded(name)]
    return found[0] if len(found) == 1 else None


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()
