"""Texts -> a batch: `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, cut and padded.

Pretraining batches come from `pipeline` instead, in compiled code: there examples are ranges of
tokens and not lists, and many may share a row. A test checks that the two agree.
"""

from collections.abc import Sequence

import numpy as np

from bertjax.data.tokenizer_base import Tokenizer


def encode(
    examples: Sequence[tuple[list[int], ...]],
    tokenizer: Tokenizer,
    *,
    longest: int,
    multiple: int = 1,
) -> dict[str, np.ndarray]:
    """The batch of `B` examples.

    Args:
      examples: the ids of the one or two texts of each example, without special tokens.
      tokenizer: gives `cls_id`, `sep_id` and `pad_id`.
      longest: most tokens in a row. A single text is cut at its end. Of two texts, the longer one
        loses a token at a time (google-research/bert, `_truncate_seq_pair` of run_classifier.py).
      multiple: L is the length of the longest example, rounded up to a multiple of this number, so
        that few programs are compiled.

    Returns:
      int32 [B, L]: `input_ids`, `token_type_ids` (1 for b and its [SEP]) and `attention_mask` (0
      for padding).
    """
    rows = [_row(parts, tokenizer, longest) for parts in examples]
    length = max(len(ids) for ids, _ in rows)
    length = min(-(-length // multiple) * multiple, longest)
    ids_BL = np.full((len(rows), length), tokenizer.pad_id, np.int32)
    types_BL, mask_BL = np.zeros_like(ids_BL), np.zeros_like(ids_BL)
    for index, (ids, types) in enumerate(rows):
        ids_BL[index, : len(ids)] = ids
        types_BL[index, : len(ids)] = types
        mask_BL[index, : len(ids)] = 1
    return {"input_ids": ids_BL, "token_type_ids": types_BL, "attention_mask": mask_BL}


def _row(
    parts: tuple[list[int], ...], tokenizer: Tokenizer, longest: int
) -> tuple[list[int], list[int]]:
    """The ids and the token types of one example, special tokens included."""
    lengths = _cut([len(part) for part in parts], longest - 1 - len(parts))
    ids, types = [tokenizer.cls_id], [0]
    for number, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        ids += [*part[:length], tokenizer.sep_id]
        types += [number] * (length + 1)
    return ids, types


def _cut(lengths: list[int], most: int) -> list[int]:
    """Lengths that sum to at most `most`: the longer loses a token at a time, b when equal."""
    if len(lengths) == 1:
        return [min(lengths[0], most)]
    first, second = lengths
    while first + second > most:
        if first > second:
            first -= 1
        else:
            second -= 1
    return [first, second]
