"""The config fields for distillation: the teacher, and how the student starts from it."""

import dataclasses

from bertjax.config.rules import PositiveFloat
from bertjax.config.tree import field


@dataclasses.dataclass(frozen=True)
class Teacher:
    init_from: str | None = field(
        None,
        "a trained model to learn from, any source of bertjax convert (hf:DIR, W, ...); unset: none",
    )
    dtype: str = field(
        "float32", "type of the teacher's weights and layers", ("float32", "bfloat16")
    )
    layers: tuple[int, ...] = field(
        (),
        "pretraining: the teacher's blocks, counted from 0, that the student starts from: "
        '"(0, 2, 4, 7, 9, 11)"; () starts from random weights, or from config.init_from',
    )
    copy_head: bool = field(
        True, "with layers: start from the teacher's whole masked-LM head, not only from its bias"
    )
    token_types: str = field(
        "fold",
        "with layers, for a student without token types: add the vector of type 0 to every "
        "position, which keeps the teacher's embeddings (fold), or leave it out, as published "
        "(drop)",
        ("fold", "drop"),
    )
    temperature: PositiveFloat = field(2.0, "divisor of the logits in the soft-target loss")
    soft_tokens: str = field(
        "attended",
        "pretraining: tokens of the soft-target loss: all except padding (attended), or only the "
        "tokens to predict (masked)",
        ("attended", "masked"),
    )
