"""The config fields for sentence embeddings, as in sentence-transformers."""

import dataclasses

from bertjax.config.rules import Count
from bertjax.config.tree import field

# The ways to pool token vectors into one vector; all but `pooler` are from sentence-transformers.
POOLINGS = ("mean", "cls", "max", "pooler", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@dataclasses.dataclass(frozen=True)
class Embedding:
    pooling: str | None = field(
        None,
        "how bertjax embed pools a text's token vectors: mean, cls, max, pooler, "
        "mean_sqrt_len_tokens, weightedmean, lasttoken, or several joined by + (concatenated); "
        "unset takes mean, for a model that is not a sentence encoder",
    )
    max_length: Count = field(0, "most tokens of a text, special tokens included; 0: all")
    normalize: bool = field(False, "scale vectors to length 1")
    lowercase: bool = field(False, "lower-case a text before it is tokenized")
    prompt: str = field("", "text put before each text")
    include_prompt: bool = field(True, "pool the prompt's tokens too")
    similarity: str | None = field(
        None, "how to compare two vectors: cosine, dot, euclidean, manhattan; only stored"
    )
    left_out: str = field(
        "", "modules of the sentence encoder that bertjax lacks; embed then asks for --pooling"
    )
