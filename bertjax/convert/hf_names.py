"""Parameter names of `transformers`: one table per architecture, used to read and to write.

The tables have no prefix. A class with a head puts `bert.`, `roberta.` or `distilbert.` before the
base model's names, but not before the head's (`base_prefix`).
"""

from bertjax import config as config_lib
from bertjax.config import heads
from bertjax.convert.names import Row, layer_norm, linear
from bertjax.errors import UsageError

_EMBEDDINGS = [
    Row("embeddings/word/embedding", "embeddings.word_embeddings.weight"),
    Row("embeddings/position/embedding", "embeddings.position_embeddings.weight"),
    Row("embeddings/token_type/embedding", "embeddings.token_type_embeddings.weight"),
    *layer_norm("embeddings/layer_norm", "embeddings.LayerNorm"),
]
# The last layers of heads, which all architectures name alike.
_LOGITS = [
    row
    for part in heads.all_parts()
    if part.hf_name is not None
    for row in linear(f"{part.name}/dense", part.hf_name)
]
_BERT_ENCODER = [
    *_EMBEDDINGS,
    *linear("blocks/query", "encoder.layer.{}.attention.self.query"),
    *linear("blocks/key", "encoder.layer.{}.attention.self.key"),
    *linear("blocks/value", "encoder.layer.{}.attention.self.value"),
    *linear("blocks/attention_output", "encoder.layer.{}.attention.output.dense"),
    *layer_norm("blocks/attention_layer_norm", "encoder.layer.{}.attention.output.LayerNorm"),
    *linear("blocks/intermediate", "encoder.layer.{}.intermediate.dense"),
    *linear("blocks/output", "encoder.layer.{}.output.dense"),
    *layer_norm("blocks/output_layer_norm", "encoder.layer.{}.output.LayerNorm"),
    *linear("pooler/dense", "pooler.dense"),
]
BERT = [
    *_BERT_ENCODER,
    *linear("masked_lm/transform", "cls.predictions.transform.dense"),
    *layer_norm("masked_lm/layer_norm", "cls.predictions.transform.LayerNorm"),
    Row("masked_lm/bias", "cls.predictions.bias"),
    *_LOGITS,
]
ROBERTA = [
    *_BERT_ENCODER,
    *linear("masked_lm/transform", "lm_head.dense"),
    *layer_norm("masked_lm/layer_norm", "lm_head.layer_norm"),
    Row("masked_lm/bias", "lm_head.bias"),
    *_LOGITS,
]
DISTILBERT = [
    *_EMBEDDINGS,
    *linear("blocks/query", "transformer.layer.{}.attention.q_lin"),
    *linear("blocks/key", "transformer.layer.{}.attention.k_lin"),
    *linear("blocks/value", "transformer.layer.{}.attention.v_lin"),
    *linear("blocks/attention_output", "transformer.layer.{}.attention.out_lin"),
    *layer_norm("blocks/attention_layer_norm", "transformer.layer.{}.sa_layer_norm"),
    *linear("blocks/intermediate", "transformer.layer.{}.ffn.lin1"),
    *linear("blocks/output", "transformer.layer.{}.ffn.lin2"),
    *layer_norm("blocks/output_layer_norm", "transformer.layer.{}.output_layer_norm"),
    *linear("masked_lm/transform", "vocab_transform"),
    *layer_norm("masked_lm/layer_norm", "vocab_layer_norm"),
    Row("masked_lm/bias", "vocab_projector.bias"),
    *linear("pooler/dense", "pre_classifier"),
    *_LOGITS,
]
_TABLES = {"bert": BERT, "roberta": ROBERTA, "distilbert": DISTILBERT}

# RobertaForSequenceClassification has a dense layer of its own where the others have a pooler.
_ROBERTA_CLASSIFICATION = {"pooler.dense": "classifier.dense", "classifier": "classifier.out_proj"}

# Copies of tied parameters: name of the copy -> name of the original.
TIED = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
    "vocab_projector.weight": "embeddings.word_embeddings.weight",
}

# How the names of an architecture's classes in `transformers` begin.
_PREFIXES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}


def class_of(architecture: str, head: str) -> str | None:
    """The class that `transformers` loads a head into; None if it has no such class."""
    record = heads.HEADS[head]
    known = architecture in record.architectures
    return _PREFIXES[architecture] + record.hf_class if known else None


def table(architecture: str, head: str) -> list[Row]:
    """The rows of an architecture, with the names that the class with this head uses, no prefix."""
    rows = _TABLES[architecture]
    if (architecture, head) != ("roberta", "classification"):
        return rows

    def renamed(row: Row) -> Row:
        module, _, kind = row.name.rpartition(".")
        return row._replace(name=f"{_ROBERTA_CLASSIFICATION.get(module, module)}.{kind}")

    return [renamed(row) for row in rows]


def base_prefix(architecture: str, head: str, name: str) -> str:
    """The prefix of `name` in a file of the class with this head; "" if it has none."""
    in_base = name.split(".")[0] in ("embeddings", "encoder", "transformer", "pooler")
    return f"{architecture}." if in_base and heads.HEADS[head].hf_class != "Model" else ""


def architecture(model: config_lib.Model) -> str:
    """The architecture that computes this model: `bert`, `roberta` or `distilbert`.

    Raises:
      UsageError: no class of `transformers` computes it; the message names the field that differs.
    """
    if model.type_vocab_size == 0:
        name, act = "distilbert", "relu" if model.has_pooler else model.pooler_act
        fixed = {"position_offset": 0, "layer_norm_eps": 1e-12, "pooler_act": act}
    elif model.position_offset:
        # RoBERTa's masked-LM head has the erf form of gelu, whatever the config says.
        act = "gelu" if model.has_masked_lm else model.hidden_act
        name, fixed = "roberta", {"pooler_act": "tanh", "hidden_act": act}
    else:
        name, fixed = "bert", {"pooler_act": "tanh"}
    for field, value in fixed.items():
        found = getattr(model, field)
        if found != value:
            raise UsageError(
                f"config.model.{field}={found!r}: transformers' {name} classes compute {value!r} "
                "only; this model has no Hugging Face form"
            )
    if class_of(name, model.head) is None:
        raise UsageError(
            f"config.model.head={model.head!r}: transformers has no {name} class with this head"
        )
    return name
