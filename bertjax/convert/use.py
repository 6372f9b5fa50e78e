"""What exported programs leave to whoever runs them: the names of labels, vectors of sentences."""

import dataclasses
import json

from bertjax.convert import sentence_encoder
from bertjax.convert.pretrained import Pretrained


def of(pretrained: Pretrained) -> dict[str, str]:
    """Metadata of an exported file, JSON by name; empty where there is nothing to say."""
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
    """What whoever takes the outputs of a fine-tuned model has to know."""
    scale = pretrained.config.task.target_scale
    if pretrained.config.model.problem_type != "regression" or scale == 1:
        return []
    return [f"regression: the logit times {scale:g} is the score (config.task.target_scale)"]


def notes(pretrained: Pretrained) -> list[str]:
    """What there is to do beyond the outputs of an exported file."""
    embedding, said = pretrained.config.embedding, of_task(pretrained)
    if embedding.pooling is None:
        return said
    return [
        *said,
        "sentence encoder: the file gives the vectors of the tokens; what makes one vector of them "
        f"is in its metadata: {sentence_encoder.describe(embedding)}",
    ]
