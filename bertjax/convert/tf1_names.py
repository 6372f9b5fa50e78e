"""google-research/bert's variable names: one table, used to read and to write.

Source: its modeling.py, run_pretraining.py, run_classifier.py, run_squad.py, optimization.py.
"""

from bertjax.config import heads
from bertjax.convert.names import Row

# Adam's first and second moments of a variable: NAME/adam_m, NAME/adam_v.
SLOTS = {"mu": "adam_m", "nu": "adam_v"}


def _dense(path: str, name: str) -> tuple[Row, Row]:
    return Row(f"{path}/kernel", f"{name}/kernel"), Row(f"{path}/bias", f"{name}/bias")


def _layer_norm(path: str, name: str) -> tuple[Row, Row]:
    name = f"{name}/LayerNorm"
    return Row(f"{path}/scale", f"{name}/gamma"), Row(f"{path}/bias", f"{name}/beta")


def _logits(path: str, scope: str) -> tuple[Row, Row]:
    weights = Row(f"{path}/kernel", f"{scope}output_weights", transpose=True)
    return weights, Row(f"{path}/bias", f"{scope}output_bias")


_LAYER = "bert/encoder/layer_{}"
ROWS = (
    Row("embeddings/word/embedding", "bert/embeddings/word_embeddings"),
    Row("embeddings/position/embedding", "bert/embeddings/position_embeddings"),
    Row("embeddings/token_type/embedding", "bert/embeddings/token_type_embeddings"),
    *_layer_norm("embeddings/layer_norm", "bert/embeddings"),
    *_dense("blocks/query", f"{_LAYER}/attention/self/query"),
    *_dense("blocks/key", f"{_LAYER}/attention/self/key"),
    *_dense("blocks/value", f"{_LAYER}/attention/self/value"),
    *_dense("blocks/attention_output", f"{_LAYER}/attention/output/dense"),
    *_layer_norm("blocks/attention_layer_norm", f"{_LAYER}/attention/output"),
    *_dense("blocks/intermediate", f"{_LAYER}/intermediate/dense"),
    *_dense("blocks/output", f"{_LAYER}/output/dense"),
    *_layer_norm("blocks/output_layer_norm", f"{_LAYER}/output"),
    *_dense("pooler/dense", "bert/pooler/dense"),
    *_dense("masked_lm/transform", "cls/predictions/transform/dense"),
    *_layer_norm("masked_lm/layer_norm", "cls/predictions/transform"),
    Row("masked_lm/bias", "cls/predictions/output_bias"),
    *(
        row
        for part in heads.all_parts()
        if part.tf1_scope is not None
        for row in _logits(f"{part.name}/dense", part.tf1_scope)
    ),
)


def slot_rows(moment: str) -> list[Row]:
    """The table of one of Adam's moments, `mu` or `nu`."""
    return [row._replace(name=f"{row.name}/{SLOTS[moment]}") for row in ROWS]
