"""Assigns files to splits by name, and holds out training examples if there is no dev file."""

import hashlib
import re
from collections.abc import Sequence

from bertjax import storage
from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Choices, Dataset, Example, Question, Text
from bertjax.finetune.readers import files

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "valid", "validation", "val", "eval"), "dev"),
    "test": "test",
    "testa": "dev",  # CoNLL-2003 has eng.testa and eng.testb
    "testb": "test",
}


def told(path: str) -> str | None:
    """The split that a file's name tells: `train`, `dev`, `test`, or None.

    The name is cut into runs of letters, in lower case, which are looked up as split names:
    `wnut17train.conll` and `train-v1.1.json` are train, `half-dev-v2.0.json` is dev, `latest.json`
    tells no split. The names of folders do not count.

    Raises:
      UsageError: the name tells several splits.
    """
    found = {_WORDS[w] for w in re.findall("[a-z]+", files.base(path).lower()) if w in _WORDS}
    if len(found) > 1:
        raise UsageError(
            f"config.data.files: the name of {path} says {' and '.join(sorted(found))}; rename it"
        )
    return found.pop() if found else None


def assign(paths: Sequence[str], suffixes: tuple[str, ...]) -> tuple[dict[str, list], list[str]]:
    """The files of each split by name (see `told`), and notes.

    If no file's name says training, the files whose names tell no split are for training. If one
    does, the files in a folder whose names tell no split are left out, with a note.

    Args:
      paths: files, and folders whose files with one of `suffixes` are taken.

    Raises:
      UsageError: a file has none of `suffixes`; or, beside a training file, the name of a file in
        `paths` tells no split.
      DataError: a folder has no file with one of `suffixes`.
    """
    members = []  # (path, whether `paths` names the file itself)
    for path in paths:
        if not storage.is_directory(path):
            members.append((path, True))
            continue
        found = files.inside(path, *suffixes)
        if not found:
            raise DataError(f"config.data.files: no {' '.join(suffixes)} in the folder {path}")
        members += [(inner, False) for inner in found]
    splits: dict[str, list] = {}
    unknown = []
    for path, itself in members:
        if not path.endswith(suffixes):
            raise UsageError(f"config.data.files: {path} is none of {' '.join(suffixes)}")
        split = told(path)
        if split:
            splits.setdefault(split, []).append(path)
        else:
            unknown.append((path, itself))
    if "train" not in splits and unknown:
        return {"train": [path for path, _ in unknown], **splits}, []
    for path, itself in unknown:
        if itself:
            raise UsageError(
                f"config.data.files: the name of {path} says neither train, dev nor test, and "
                f"{splits['train'][0]} is for training; rename it or leave it out"
            )
    return splits, [f"{path} is not read: its name tells no split" for path, _ in unknown]


def _share(example: Example) -> float:
    """A number in [0, 1) from a hash of the example's text, whatever the example's position.

    All questions about one context have the same number, so that no context is in both splits.
    """
    if isinstance(example, Text):
        parts: tuple[str, ...] = example.texts
    elif isinstance(example, Question | Choices):
        parts = (example.context,)
    else:
        parts = example.words
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def hold_out(dataset: Dataset, fraction: float) -> Dataset:
    """The dataset with a `dev` split: about a `fraction` of `train`, chosen by a hash of the text.

    A dataset with a `dev` split or without `train` stays unchanged. With `fraction` 0, only a note
    is added.

    Raises:
      UsageError: one of the two splits would be empty.
    """
    train = dataset.splits.get("train")
    if "dev" in dataset.splits or not train:
        return dataset
    if not fraction:
        note = "there is no dev split, and config.data.heldout_fraction is 0"
        return Dataset(dataset.splits, dataset.labels, (*dataset.notes, note))
    kept: list = []
    held: list = []
    for example in train:
        (held if _share(example) < fraction else kept).append(example)
    if not held or not kept:
        raise UsageError(
            f"config.data.heldout_fraction={fraction}: of {len(train)} training examples it leaves "
            f"{len(held)} for dev and {len(kept)} for training; change it, or add a file whose name "
            "says dev to config.data.files"
        )
    note = (
        f"there is no dev split: {len(held)} of {len(train)} training examples, chosen by a hash "
        f"of their text (config.data.heldout_fraction={fraction}), are dev"
    )
    splits = {**dataset.splits, "train": kept, "dev": held}
    return Dataset(splits, dataset.labels, (*dataset.notes, note))
