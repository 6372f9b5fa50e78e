"""Models of `transformers` (PyTorch, CPU) with weights that make every parameter matter."""

import numpy as np
import torch
import transformers

TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
_DISTILBERT_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


def config(architecture: str, size: dict, **fields):
    """A `transformers` config of the architecture's own class, with this size."""
    if architecture == "bert":
        return transformers.BertConfig(**size, **fields)
    if architecture == "roberta":
        kind = {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
        base = {"vocab_size": 50265, "max_position_embeddings": 514}
        return transformers.RobertaConfig(**base | kind | size | fields)
    renamed = {_DISTILBERT_NAMES.get(name, name): value for name, value in size.items()}
    return transformers.DistilBertConfig(**renamed, **fields)


def model(class_name: str, config, seed: int = 0, scale: float | None = None):
    """A model in evaluation mode. `scale` is the standard deviation of all parameters, if set.

    Fresh biases are zero and LayerNorm scales one, so a name map that swaps them would go unseen.
    """
    torch.manual_seed(seed)
    kind = getattr(transformers, class_name)
    built = kind(config)
    if scale is not None:
        with torch.no_grad():
            for name, parameter in built.named_parameters():
                center = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                parameter.normal_(center, scale)
    return built.eval()


def batch(config, rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Ids, token types and attention mask `[B, L]`: rows of different lengths, padded right."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(length // 2, length + 1, rows)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    ids = rng.integers(5, config.vocab_size, (rows, length)).astype(np.int32)
    types = (np.arange(length) > lengths[:, None] // 2).astype(np.int32)
    if getattr(config, "type_vocab_size", 0) < 2:
        types[:] = 0
    pad = config.pad_token_id
    return {
        "input_ids": np.where(mask, ids, pad),
        "token_type_ids": types * mask,
        "attention_mask": mask,
    }


def inputs(config, batch: dict) -> dict:
    """The batch as keyword arguments of the model."""
    names = ["input_ids", "attention_mask"]
    if config.model_type != "distilbert":
        names.append("token_type_ids")
    return {name: torch.tensor(batch[name], dtype=torch.long) for name in names}
