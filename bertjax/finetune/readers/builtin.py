"""A task without files: which package is a docstring of? (`data.source=sample`)"""

from bertjax.data import sample
from bertjax.errors import DataError
from bertjax.finetune.examples import Dataset, Text

CLASSES, MOST = 6, 250  # the number of packages, and the most docstrings from each
_EVERY = 3  # one of every 3 modules is held out


def read() -> Dataset:
    """Docstrings of the largest packages of the standard library; every third module is `dev`.

    The text depends on the Python version, so figures from two versions are not comparable.

    Raises:
      DataError: there are fewer than two packages with docstrings.
    """
    rows = sample.labeled(CLASSES, MOST)
    labels = tuple(sorted({package for package, _, _ in rows}))
    if len(labels) < 2:
        raise DataError("config.data.source=sample: fewer than two packages have docstrings here")
    parts: dict[str, list] = {"train": [], "dev": []}
    modules: dict[str, dict[str, int]] = {package: {} for package in labels}
    for number, (package, module, text) in enumerate(rows):
        place = modules[package].setdefault(module, len(modules[package]))
        split = "dev" if place % _EVERY == _EVERY - 1 else "train"
        parts[split].append(Text(str(number), (text,), package))
    note = f"docstrings of {', '.join(labels)}: {len(parts['train'])} to train on, "
    return Dataset(parts, labels, (f"{note}{len(parts['dev'])} of other modules to score",))
