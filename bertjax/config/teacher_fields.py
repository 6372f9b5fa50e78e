"""The fields of a config that say which model teaches, and how the student starts from it."""

import dataclasses

from bertjax.config.rules import PositiveFloat
from bertjax.config.tree import field


@dataclasses.dataclass(frozen=True)
class Teacher:
    init_from: str | None = field(
        None,
        "a trained model to learn from, any source of bertjax convert (hf:DIR, W, ...); unset: none",
    )
    dtype: str = field("float32", "type of its weights and of its layers", ("float32", "bfloat16"))
    layers: tuple[int, ...] = field(
        (),
        'pretraining: its blocks, counted from 0, that the student starts from: "(0, 2, 4, 7, 9, '
        '11)"; () starts from random weights, or from config.init_from',
    )
    copy_head: bool = field(
        True, "with layers: start from its masked-LM head, not from its bias alone"
    )
    token_types: str = field(
        "fold",
        "with layers, where the student has no token types: the vector of type 0 is added to every "
        "position, so that the embeddings are the teacher's (fold), or left out, as published (drop)",
        ("fold", "drop"),
    )
    temperature: PositiveFloat = field(
        2.0, "what logits are divided by before the soft-target loss"
    )
    soft_tokens: str = field(
        "attended",
        "pretraining: the tokens of the soft-target loss: all that are no padding (attended), or "
        "those to predict (masked)",
        ("attended", "masked"),
    )
