"""The shapes and the number of a model's parameters, computed without JAX."""

import math

from bertjax.config.heads import Part
from bertjax.config.model_fields import Model

VOCAB_ROWS = ("embeddings/word/embedding", "masked_lm/bias")  # padded to a multiple of 128

Shapes = dict[str, tuple[int, ...]]


def shapes(model: Model) -> Shapes:
    """The shape of every parameter by path; the same as those of `models.abstract_params`."""
    D, F, N = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    result: Shapes = {"embeddings/word/embedding": (model.padded_vocab_size, D)}
    result["embeddings/position/embedding"] = (model.max_position_embeddings, D)
    if model.type_vocab_size:
        result["embeddings/token_type/embedding"] = (model.type_vocab_size, D)
    result |= _norm("embeddings/layer_norm", D)
    for name in ("query", "key", "value", "attention_output"):
        result |= _dense(f"blocks/{name}", D, D, (N,))
    result |= _dense("blocks/intermediate", D, F, (N,)) | _dense("blocks/output", F, D, (N,))
    for name in ("attention", "output"):
        result |= _norm(f"blocks/{name}_layer_norm", D, (N,))
    for part in model.head_record.parts:
        result |= part_shapes(model, part)
    return result


def part_shapes(model: Model, part: Part) -> Shapes:
    """Shapes of the parameters of one part of a head."""
    D = model.hidden_size
    if not part.tied:
        return _dense(f"{part.name}/dense", D, width(model, part))
    result = _dense(f"{part.name}/transform", D, D) | _norm(f"{part.name}/layer_norm", D)
    return result | {f"{part.name}/bias": (model.padded_vocab_size,)}


def width(model: Model, part: Part) -> int:
    """The output features of a part; the vocabulary counts without its padding."""
    return part.width if isinstance(part.width, int) else getattr(model, part.width)


def num_parameters(model: Model) -> int:
    """The number of parameters, without the padding of the vocabulary, as papers count them."""
    return sum(
        math.prod((model.vocab_size if path in VOCAB_ROWS else shape[0], *shape[1:]))
        for path, shape in shapes(model).items()
    )


def _dense(path: str, features_in: int, features_out: int, stack: tuple[int, ...] = ()) -> Shapes:
    kernel, bias = (*stack, features_in, features_out), (*stack, features_out)
    return {f"{path}/kernel": kernel, f"{path}/bias": bias}


def _norm(path: str, features: int, stack: tuple[int, ...] = ()) -> Shapes:
    return {f"{path}/scale": (*stack, features), f"{path}/bias": (*stack, features)}
