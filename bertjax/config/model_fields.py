"""The config fields for the encoder and its head. Names are Hugging Face's."""

import dataclasses

from bertjax.config import heads, rules
from bertjax.config.rules import (
    BelowOne,
    Count,
    CountOrAuto,
    NotNegative,
    Positive,
    PositiveFloat,
)
from bertjax.config.tree import field

ATTENTION = ("auto", "xla", "cudnn", "flash")  # the kernels of `model.attention`


@dataclasses.dataclass(frozen=True)
class Model:
    vocab_size: Count = field(30522, "tokens in the vocabulary; 0 takes the tokenizer's size")
    hidden_size: Positive = field(768, "width D of the encoder")
    num_hidden_layers: Positive = field(12, "encoder blocks N")
    num_attention_heads: Positive = field(12, "attention heads H; H must divide hidden_size")
    intermediate_size: Positive = field(3072, "width F of the feed-forward layer")
    max_position_embeddings: Positive = field(512, "rows of the position table")
    position_offset: Count = field(0, "row of the first position (RoBERTa: 2)")
    type_vocab_size: Count = field(2, "token types (sentence A, sentence B); 0 for none")
    hidden_act: str = field(
        "gelu", "activation: gelu (erf) or gelu_new (tanh)", ("gelu", "gelu_new")
    )
    hidden_dropout_prob: BelowOne = field(0.1, "dropout on embeddings and on both block outputs")
    attention_probs_dropout_prob: BelowOne = field(0.1, "dropout on attention probabilities")
    layer_norm_eps: PositiveFloat = field(1e-12, "epsilon inside LayerNorm")
    initializer_range: NotNegative = field(
        0.02, "standard deviation of the truncated-normal initializer"
    )
    head: str = field(
        "pretraining",
        f"head on top of the encoder: {heads.listed()}",
        tuple(heads.HEADS),
    )
    pooler_act: str = field("tanh", "activation of the pooler (DistilBERT: relu)", ("tanh", "relu"))
    num_labels: Positive = field(2, "logits of head=classification; 1 for regression")
    label_names: tuple[str, ...] = field(
        (), "names of these logits, in order: \"('yes', 'no')\"; () for LABEL_0, LABEL_1..."
    )
    problem_type: str | None = field(
        None,
        "meaning of the logits: regression, single_label_classification or "
        "multi_label_classification; unset: Hugging Face decides by num_labels",
        ("regression", "single_label_classification", "multi_label_classification"),
    )
    dtype: str = field(
        "float32",
        "compute type of products: float32, bfloat16, auto (bfloat16 where the device multiplies it "
        "faster); master weights stay float32, and on CPUs all but products",
        ("float32", "bfloat16", "auto"),
    )
    attention: str = field(
        "auto",
        "attention kernel: xla (plain), flash (fused, TPU and GPU), cudnn (fused, GPU; without "
        "dropout of probabilities), auto (a fused kernel if it computes the same)",
        ATTENTION,
    )
    layer_norm: str = field(
        "auto",
        "kernel of residual sum, dropout and LayerNorm: xla (plain), fused (one kernel, NVIDIA), "
        "auto (fused where it fits)",
        ("auto", "xla", "fused"),
    )
    remat: str = field(
        "none",
        "recomputation in the backward pass: none, dots (keeps matmul results), full (keeps block "
        "inputs)",
        ("none", "dots", "full"),
    )
    scan_unroll: CountOrAuto = field(
        rules.AUTO,
        "encoder blocks unrolled per scan iteration: a number, 0 (all), or auto (by the platform)",
    )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: a multiple of 128, for tensor parallelism and MXU lanes."""
        return -(-self.vocab_size // 128) * 128

    @property
    def max_sequence_length(self) -> int:
        """The longest sequence that the position table allows."""
        return self.max_position_embeddings - self.position_offset

    @property
    def head_record(self) -> heads.Head:
        """The record of the value of `head`."""
        return heads.HEADS[self.head]

    @property
    def has_pooler(self) -> bool:
        return heads.POOLER in self.head_record.parts

    @property
    def has_masked_lm(self) -> bool:
        return heads.MASKED_LM in self.head_record.parts
