"""The fields of a config that say how a sentence encoder makes vectors (sentence-transformers)."""

import dataclasses

from bertjax.config.rules import Count
from bertjax.config.tree import field

# What makes one vector of the vectors of all tokens; all but `pooler` are sentence-transformers'.
POOLINGS = ("mean", "cls", "max", "pooler", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@dataclasses.dataclass(frozen=True)
class Embedding:
    pooling: str | None = field(
        None,
        "how bertjax embed makes one vector of a text's tokens: mean, cls, max, pooler, "
        "mean_sqrt_len_tokens, weightedmean, lasttoken, or several joined by + (one after the "
        "other); unset is mean, for a model that no sentence encoder was made of",
    )
    max_length: Count = field(0, "tokens that are read of a text, special ones included; 0: all")
    normalize: bool = field(False, "vectors of length 1")
    lowercase: bool = field(False, "lower-case a text before the tokenizer gets it")
    prompt: str = field("", "what is put before each text")
    include_prompt: bool = field(True, "the prompt's tokens are pooled too")
    similarity: str | None = field(
        None, "what compares two vectors: cosine, dot, euclidean, manhattan; only kept"
    )
    left_out: str = field(
        "", "modules of the sentence encoder that bertjax has not: embed then asks for --pooling"
    )
