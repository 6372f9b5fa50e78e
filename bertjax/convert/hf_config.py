"""`config.json` of `transformers` to and from `config.Model`."""

import dataclasses
from typing import Any

from bertjax import config as config_lib
from bertjax.convert import hf_labels, hf_names
from bertjax.convert.folder import listed
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

# Values of fields that a file leaves out: the defaults of the `transformers` config classes, where
# they differ from those of config.Model.
_ABSENT: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"vocab_size": 50265},
    "distilbert": {"num_hidden_layers": 6},
}

# Theirs -> ours: several names stand for one formula.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
}

# Switches that can change what the encoder computes, with the values that do not.
_REFUSED = {
    "is_decoder": (False, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "position_embedding_type": ("absolute", None),
    "pruned_heads": ({}, [], None),
    "per_layer_config": ({}, None),
    "quantization_config": (None,),
}
_FIXES = {"quantization_config": "; take the model that was quantized"}
# Fields that are read, besides those of `_FIELDS`.
_READ = {
    "model_type",
    "architectures",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "tie_weights_",
    "classifier_dropout",
    "seq_classif_dropout",
    "qa_dropout",
}
# Fields that do not change what an encoder computes: how PyTorch runs it, where the file comes
# from, text generation, and pooler fields that no code reads (in google-research/bert's
# multilingual and Chinese releases).
_HARMLESS = {
    "_name_or_path",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "attn_implementation",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "dtype",
    "gradient_checkpointing",
    "name_or_path",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "return_dict",
    "sinusoidal_pos_embds",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
    "directionality",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "bad_words_ids",
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "prefix",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
}

# Tokenizer classes whose rules are all in the tokenizer's files.
_TOKENIZERS = {
    f"{name}Tokenizer{fast}" for name in ("Bert", "Roberta", "DistilBert") for fast in ("", "Fast")
} | {"PreTrainedTokenizerFast", "TokenizersBackend"}

# The field from which a class reads the dropout before its head.
_HEAD_DROPOUT = {
    ("bert", "classification"): "classifier_dropout",
    ("bert", "multiple_choice"): "classifier_dropout",
    ("roberta", "classification"): "classifier_dropout",
    ("bert", "token"): "classifier_dropout",
    ("roberta", "token"): "classifier_dropout",
    ("distilbert", "classification"): "seq_classif_dropout",
    ("distilbert", "multiple_choice"): "seq_classif_dropout",
    ("distilbert", "span"): "qa_dropout",
}


def read(tree: dict, where: str) -> tuple[str, config_lib.Model, list[str]]:
    """`(architecture, model, notes)`; the model's head is `none`, because config.json has no head.

    Raises:
      DataError: another architecture, or a switch or an activation that bertjax does not support.
    """
    architecture = tree.get("model_type")
    if not isinstance(architecture, str) or architecture not in _FIELDS:
        own = "; for a run of bertjax, leave out hf:" if {"model", "phases"} <= tree.keys() else ""
        known = ", ".join(_FIELDS)
        raise DataError(f"{where}: model_type={architecture!r:.80}; bertjax reads {known}{own}")
    for switch, allowed in _REFUSED.items():
        if switch in tree and tree[switch] not in allowed:
            value, fix = f"{tree[switch]!r:.80}", _FIXES.get(switch, "")
            raise DataError(f"{where}: {switch}={value}; only {allowed[0]!r} is supported{fix}")
    names = _FIELDS[architecture]
    fields = _ABSENT[architecture] | {
        ours: tree[theirs]
        for ours, theirs in (*((name, name) for name in names), *names.items())
        if theirs in tree
    }
    notes = unused(tree, {*names, *names.values(), *_READ, *_REFUSED}, where)
    if "hidden_act" not in fields:
        notes.append(f"gelu: the erf form, the default; {where} names no activation")
    act = fields.get("hidden_act", "gelu")
    if not isinstance(act, str) or act not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise DataError(f"{where}: {names['hidden_act']}={act!r:.80}; bertjax computes {known}")
    fields["hidden_act"] = _ACTIVATIONS[act]
    if architecture == "roberta":
        fields["position_offset"] = _integer(tree, "pad_token_id", 1, where) + 1
    if architecture == "distilbert":
        fields |= {"type_vocab_size": 0, "pooler_act": "relu"}
    try:
        return architecture, config_lib.model_of(fields | {"head": "none"}), notes
    except UsageError as error:
        raise DataError(f"{where}: {error}") from None


def unused(tree: dict, known: set[str], where: str) -> list[str]:
    """A note that lists the fields that are neither read nor harmless; [] if there are none."""
    names = [
        name
        for name, value in tree.items()
        if name not in known | _HARMLESS
        and value not in (None, {}, [])
        and not (name == "tokenizer_class" and str(value) in _TOKENIZERS)
    ]
    said = listed([f"{name}={tree[name]!r:.60}" for name in sorted(names)])
    return [f"{where}: not used: {said}"] if names else []


def read_dropout(tree: dict, architecture: str, model: config_lib.Model) -> list[str]:
    """A note if the class trains with another dropout before the head than bertjax does."""
    name = _HEAD_DROPOUT.get((architecture, model.head))
    ours = _dropped(model)
    absent = {"seq_classif_dropout": 0.2, "qa_dropout": 0.1}.get(name, ours)
    theirs = tree.get(name, absent)
    if name is None or theirs is None or theirs == ours:
        return []
    return [f"{name}={theirs!r:.40}: not used; bertjax trains this head with dropout {ours}"]


def _dropped(model: config_lib.Model) -> float:
    """The dropout rate before the head's last layer."""
    drops = any(part.drops for part in model.head_record.parts)
    return model.hidden_dropout_prob if drops else 0.0


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
        "architectures": [hf_names.class_of(architecture, model.head)],
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
    if model.head_record.has_labels:
        tree |= hf_labels.write(model)
    if architecture == "distilbert" and (architecture, model.head) in _HEAD_DROPOUT:
        # DistilBERT's heads have a dropout rate of their own; bertjax's use hidden_dropout_prob.
        tree[_HEAD_DROPOUT[architecture, model.head]] = _dropped(model)
    return tree
