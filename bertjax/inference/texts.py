"""What every use of a model on text needs: its tokenizer, its config, texts a window at a time."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from bertjax import config as config_lib
from bertjax.convert.pretrained import Pretrained
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import DataError, UsageError

LENGTH_MULTIPLE = 16  # lengths are padded to it, so that few programs are compiled
BATCH = 32  # rows that are computed at once
_SHOWN = 60  # characters of a text in a message


def tokenizer_of(model: Pretrained) -> Tokenizer:
    """The model's tokenizer; raises DataError where it has none."""
    if model.tokenizer is None:
        raise DataError("the source has no tokenizer; name its file or folder with --tokenizer")
    return model.tokenizer


def config_of(model: Pretrained) -> config_lib.Model:
    """The model's, with an attention kernel that this machine has, whatever trained it."""
    return dataclasses.replace(model.config.model, attention="auto")


def require_masked_lm(model: Pretrained) -> None:
    """Raises UsageError where the model has no head that predicts tokens."""
    if not model.config.model.has_masked_lm:
        raise UsageError(
            f"model.head={model.config.model.head}: has no masked-LM head; take a source that has"
        )


def windows(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """The texts in their order, `size` at a time: no more of an endless iterable is read.

    Raises:
      UsageError: one of them is no text; at once, where all of `texts` is one.
    """
    if isinstance(texts, str):
        raise UsageError(f"texts={texts[:_SHOWN]!r}: is one text; write it in a list")
    return _windows(texts, size)


def _windows(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    remaining, first = iter(texts), 0
    while window := list(itertools.islice(remaining, size)):
        for number, text in enumerate(window, start=first):
            if not isinstance(text, str):
                raise UsageError(f"texts[{number}]={text!r:.60}: is no text")
        yield window
        first += len(window)


def round_rows(batch: dict[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """The batch with its last row repeated up to a power of two, or `most`: few programs are
    compiled. Arrays are [B, ...]."""
    count = len(next(iter(batch.values())))
    wanted = min(1 << (count - 1).bit_length(), max(most, count))
    return {
        name: np.concatenate([x, np.repeat(x[-1:], wanted - count, axis=0)])
        for name, x in batch.items()
    }
