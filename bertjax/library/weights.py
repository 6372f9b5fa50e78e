"""Weights of any form: loaded, converted; and the batches that a model reads."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from bertjax.convert.pretrained import Hints, Pretrained
from bertjax.errors import UsageError
from bertjax.library import arguments


def load(
    uri: str,
    *,
    tokenizer: str | None = None,
    lowercase: bool | None = None,
    hidden_act: str | None = None,
    allow_pickle: bool = False,
) -> Pretrained:
    """The model at `uri`: `config`, `params` and `tokenizer`, and the pure function `apply`.

    >>> model = bertjax.load("hf:" + FOLDER)
    >>> model.config.model.hidden_size
    32
    >>> batch = bertjax.tokenize(model, ["a b c", "a"])
    >>> model.apply(model.params, batch)["hidden"].shape
    (2, 5, 32)

    Args:
      uri: `hub:OWNER/NAME`, `hf:DIR`, `tf1:PREFIX`, `fairseq:FILE`, or a run's workdir.
      tokenizer: a file or folder, where the source has none.
      lowercase, hidden_act: what the source does not say (`gelu` is the erf form, `gelu_new` the
        tanh form).
      allow_pickle: opens PyTorch files, with PyTorch's weights-only loader.

    Returns:
      The model; `params` is a nested dict of float32 arrays on the default device, the blocks'
      stacked `[N, ...]`. `notes` has a line for everything that the reader decided.

    Raises:
      UsageError: no such form, or the source needs one of the arguments.
      DataError: the source is missing, damaged, or not a model that bertjax computes.
    """
    import jax

    from bertjax.convert import read

    with arguments.named():
        found = read(uri, Hints(hidden_act, lowercase, tokenizer, allow_pickle))
    notes = tuple(map(arguments.in_python, found.notes))
    return dataclasses.replace(found, params=jax.device_put(found.params), notes=notes)


def convert(
    source: str | Pretrained,
    destination: str,
    *,
    tokenizer: str | None = None,
    lowercase: bool | None = None,
    hidden_act: str | None = None,
    allow_pickle: bool = False,
) -> list[str]:
    """Writes the weights at `source` in another form; returns notes on what was left out.

    >>> bertjax.convert("hf:" + FOLDER, "hf:" + OTHER)
    []

    Args:
      source: as `uri` of `load`, with the same further arguments; or a loaded model, whose
        `params` you may have trained further: `dataclasses.replace(model, params=mine)`.
      destination: `hf:DIR`, `tf1:PREFIX`, `onnx:FILE`, `onnx-int8:FILE`, `stablehlo:FILE`,
        `hub:OWNER/NAME` or a run's workdir; nothing may be there yet.

    Raises:
      UsageError, DataError: as `load`; or the destination exists or cannot hold this model.
      StorageError: the disk refuses; nothing is left at the destination.
    """
    import jax

    from bertjax.convert import transfer, write

    hints = Hints(hidden_act, lowercase, tokenizer, allow_pickle)
    with arguments.named():
        if isinstance(source, Pretrained):
            on_host = dataclasses.replace(source, params=jax.device_get(source.params), notes=())
            written = write(on_host, destination)
        else:
            written = transfer(source, destination, hints)
    return list(map(arguments.in_python, written.notes))


def tokenize(
    model: Pretrained,
    texts: Iterable[str | tuple[str, str]],
    *,
    masks: bool = False,
    max_length: int | None = None,
    multiple: int = 1,
) -> dict[str, np.ndarray]:
    """The batch that `model.apply` reads: `[CLS] text [SEP]`, or of a pair `[CLS] a [SEP] b [SEP]`.

    >>> bertjax.tokenize(model, ["a b c", ("a", "b")])["token_type_ids"]
    array([[0, 0, 0, 0, 0],
           [0, 0, 0, 1, 1]], dtype=int32)

    Args:
      texts: B texts, or pairs of texts.
      masks: the mask token's spelling stands for the mask; else it is text like any other.
      max_length: tokens of a row at most; longer texts are cut at their end. None: as many as the
        model reads.
      multiple: L is made up to a multiple of this, so that `jit` meets few shapes.

    Returns:
      int32 `[B, L]`: `input_ids`, `token_type_ids`, `attention_mask`.

    Raises:
      UsageError: no texts, or one of them is no text; `max_length` is more than the model reads.
      DataError: the model has no tokenizer.
    """
    from bertjax.data.encode import encode
    from bertjax.inference.texts import tokenizer_of

    if multiple < 1:
        raise UsageError(f"multiple={multiple}: must be at least 1")
    most = model.config.model.max_sequence_length
    if max_length is not None and not 3 <= max_length <= most:
        raise UsageError(f"max_length={max_length}: must be 3 to {most}, what the model reads")
    rows = [_parts(texts, number, row) for number, row in enumerate(texts)]
    if not rows:
        raise UsageError("texts=[]: holds no text")
    with arguments.named():
        tokenizer = tokenizer_of(model)
    if masks:
        examples = [tuple(tokenizer.encode_with_masks(part) for part in row) for row in rows]
    else:
        examples = [tuple(tokenizer.encode(row)) for row in rows]
    return encode(examples, tokenizer, longest=max_length or most, multiple=multiple)


def _parts(texts: object, number: int, row: object) -> list[str]:
    if isinstance(texts, str):
        raise UsageError(f"texts={texts[:60]!r}: is one text; write it in a list")
    parts = [row] if isinstance(row, str) else list(row) if isinstance(row, tuple | list) else []
    if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
        raise UsageError(f"texts[{number}]={row!r:.60}: is neither a text nor a pair of texts")
    return parts
