"""What users of an exported file need besides its outputs: label names, pooling of vectors."""

import dataclasses
import json

from bertjax.convert import sentence_encoder
from bertjax.convert.pretrained import Pretrained


def of(pretrained: Pretrained) -> dict[str, str]:
    """Metadata of an exported file: JSON text by name. Empty if the model needs none."""
    model, embedding = pretrained.config.model, pretrained.config.embedding
    result = {}
    if model.head_record.has_labels and model.label_names:
        result["id2label"] = json.dumps({str(i): n for i, n in enumerate(model.label_names)})
    if model.head_record.has_labels and model.problem_type:
        result["problem_type"] = json.dumps(model.problem_type)
    if embedding.pooling is not None:
        result["embedding"] = json.dumps(dataclasses.asdict(embedding))
    return result


def of_task(pretrained: Pretrained) -> list[str]:
    """Notes on how to read the outputs of a fine-tuned model."""
    scale = pretrained.config.task.target_scale
    if pretrained.config.model.problem_type != "regression" or scale == 1:
        return []
    return [f"regression: the logit times {scale:g} is the score (config.task.target_scale)"]


def notes(pretrained: Pretrained) -> list[str]:
    """Notes on what an exported file leaves to the program that runs it."""
    embedding, said = pretrained.config.embedding, of_task(pretrained)
    if embedding.pooling is None:
        return said
    return [
        *said,
        "sentence encoder: the file outputs one vector per token; its metadata says how to pool "
        f"them: {sentence_encoder.describe(embedding)}",
    ]
