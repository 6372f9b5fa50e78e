"""Reads IMDb from aclImdb's folders (Maas et al. 2011), which have one review a file."""

from bertjax import storage
from bertjax.config import Config
from bertjax.errors import DataError
from bertjax.finetune.examples import Dataset, Text
from bertjax.finetune.readers import files
from bertjax.finetune.tasks import Task

NOTE = "IMDb has no dev set: dev is its test set, on which the papers report accuracy"


def read(config: Config, task: Task) -> Dataset:
    """`train`, and the test set as `dev`. `pos` comes first, then `neg`, each by file name.

    An id is like pos/0_9. A `<br />` becomes a space.

    Raises:
      DataError: `config.data.files` is not aclImdb's folder, or one of its folders has no reviews.
    """
    paths = files.named(config.data)
    inner = files.join(paths[0], "aclImdb")
    home = inner if storage.is_directory(inner) else paths[0]
    if len(paths) > 1 or not storage.is_directory(files.join(home, "train")):
        raise DataError(
            f"config.data.files={config.data.files!r}: name the folder aclImdb, which holds "
            "train/pos, train/neg, test/pos and test/neg"
        )
    parts = {"train": _split(home, "train", task), "dev": _split(home, "test", task)}
    return Dataset(parts, task.labels, (NOTE,))


def _split(home: str, name: str, task: Task) -> list[Text]:
    examples = []
    for label in reversed(task.labels):
        folder = files.join(home, name, label)
        reviews = files.inside(folder, ".txt")
        if not reviews:
            raise DataError(f"{folder}: no .txt files")
        for path in reviews:
            text = files.read_text(path).replace("<br />", " ")
            stem = files.base(path).removesuffix(".txt")
            examples.append(Text(f"{label}/{stem}", (text,), label))
    return examples
