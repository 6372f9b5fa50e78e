"""`config.json` of `transformers` to and from `config.Model`."""

import dataclasses
from typing import Any

from bertjax import config as config_lib
from bertjax.convert import hf_names
from bertjax.errors import DataError, UsageError

# Ours -> theirs.
_BERT = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "hidden_act": "hidden_act",
    "hidden_dropout_prob": "hidden_dropout_prob",
    "attention_probs_dropout_prob": "attention_probs_dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
}
_DISTILBERT = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "max_position_embeddings": "max_position_embeddings",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "initializer_range": "initializer_range",
}
_FIELDS = {"bert": _BERT, "roberta": _BERT, "distilbert": _DISTILBERT}

# What a file means by leaving a field out: the defaults of the `transformers` config classes,
# where they are not those of config.Model.
_ABSENT: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"vocab_size": 50265},
    "distilbert": {"num_hidden_layers": 6},
}

# Theirs -> ours: two names of one formula.
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}

# Switches that would change what the encoder computes.
_REFUSED = {
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "position_embedding_type": ("absolute", None),
    "tie_word_embeddings": (True,),
    "chunk_size_feed_forward": (0, None),
}


def read(tree: dict, where: str) -> tuple[str, config_lib.Model, list[str]]:
    """`(architecture, model, notes)`; the model's head is not in this file and left at `none`.

    Raises:
      DataError: another architecture, or a switch or an activation that bertjax does not compute.
    """
    architecture = tree.get("model_type")
    if architecture not in _FIELDS:
        raise DataError(f"{where}: model_type={architecture!r}; bertjax reads {', '.join(_FIELDS)}")
    for switch, allowed in _REFUSED.items():
        if switch in tree and tree[switch] not in allowed:
            raise DataError(f"{where}: {switch}={tree[switch]!r}; only {allowed[0]!r} is supported")
    names = _FIELDS[architecture]
    fields = _ABSENT[architecture] | {
        ours: tree[theirs] for ours, theirs in names.items() if theirs in tree
    }
    notes = []
    if "hidden_act" not in fields:
        notes.append(f"gelu: the erf form, which {where} means by not naming one")
    act = fields.get("hidden_act", "gelu")
    if not isinstance(act, str) or act not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise DataError(f"{where}: {names['hidden_act']}={act!r}; bertjax computes {known}")
    fields["hidden_act"] = _ACTIVATIONS[act]
    if architecture == "roberta":
        fields["position_offset"] = _integer(tree, "pad_token_id", 1, where) + 1
    if architecture == "distilbert":
        fields |= {"type_vocab_size": 0, "pooler_act": "relu"}
    labels = tree.get("id2label")
    fields["num_labels"] = (
        len(labels) if isinstance(labels, dict) and labels else tree.get("num_labels", 2)
    )
    try:
        return architecture, config_lib.model_of(fields | {"head": "none"}), notes
    except UsageError as error:
        raise DataError(f"{where}: {error}") from None


def _integer(tree: dict, name: str, default: int, where: str) -> int:
    value = tree.get(name, default)
    if not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise DataError(f"{where}: {name}={value!r}; expected a token id")
    return value


def write(model: config_lib.Model, special_ids: dict[str, int]) -> dict:
    """The object of `config.json`.

    Args:
      special_ids: `pad`, `cls`, `sep` of the tokenizer; empty where there is none.

    Raises:
      UsageError: no class of `transformers` computes this model.
    """
    architecture = hf_names.architecture(model)
    tree: dict[str, Any] = {
        "architectures": [hf_names.CLASSES[architecture, model.head]],
        "model_type": architecture,
        "dtype": "float32",
    }
    values = dataclasses.asdict(model)
    tree |= {theirs: values[ours] for ours, theirs in _FIELDS[architecture].items()}
    if architecture == "distilbert":
        tree["sinusoidal_pos_embds"] = False
    pad = special_ids.get("pad", 0)
    tree["pad_token_id"] = pad
    if architecture == "roberta":
        # transformers derives the first position from the padding id.
        tree["pad_token_id"] = model.position_offset - 1
        tree["bos_token_id"] = special_ids.get("cls", 0)
        tree["eos_token_id"] = special_ids.get("sep", 2)
    if model.head == "classification":
        tree["id2label"] = {str(i): f"LABEL_{i}" for i in range(model.num_labels)}
        tree["label2id"] = {f"LABEL_{i}": i for i in range(model.num_labels)}
    return tree
