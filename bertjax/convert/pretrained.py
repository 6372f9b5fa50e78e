"""The type that every reader returns and every writer takes: config, tokenizer and weights."""

import dataclasses
from typing import TYPE_CHECKING, Any

from bertjax import config as config_lib
from bertjax.config.model_fields import ATTENTION
from bertjax.data.tokenizer import Tokenizer
from bertjax.data.tokenizer_files import Wish
from bertjax.errors import DataError, UsageError

if TYPE_CHECKING:
    import jax

    from bertjax.models.attention import Batch


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights with what is needed to use them.

    Attributes:
      config: groups `model` and `tokenizer` are the source's; other groups a run's, or defaults.
      tokenizer: None if the source has none.
      params: nested dict of float32 arrays as `models.init` makes it, the vocabulary padded.
      step: number of updates behind these weights; 0 if the source does not say.
      moments: Adam's moments, `{"mu": tree, "nu": tree}`, shaped as `params`; None if absent.
      figures: held-out figures of the run at `step`, for the model card.
      notes: a line for everything a reader decided or left out; the commands print them.
    """

    config: config_lib.Config
    tokenizer: Tokenizer | None
    params: dict
    step: int = 0
    moments: dict | None = None
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def apply(
        self,
        params: dict,
        batch: "Batch",
        *,
        dropout_key: "jax.Array | None" = None,
        attention: str = "xla",
    ) -> "dict[str, jax.Array]":
        """Runs the model: a pure function of its arguments, for `jit`, `grad`, `vmap`, `shard_map`.

        Args:
          params: such as `self.params`.
          batch: int32 `input_ids`, `token_type_ids` and `attention_mask`, each `[B, L]`, as
            `bertjax.tokenize` makes them; with `masked_lm_positions [B, P]` also the masked-LM
            logits, of those positions.
          dropout_key: a key, or one a row `[B]`; None runs without dropout.
          attention: the kernel, as `config.model.attention`: xla can be transformed and
            partitioned in every way; auto takes a fused kernel where it computes the same, of
            which JAX differentiates once, in reverse, and partitions nothing.

        Returns:
          `hidden [B, L, D]`, and by the head `masked_lm_logits [B, P, V]` (-inf where V is
          padded), `pooled [B, D]`, `next_sentence_logits [B, 2]`, `classification_logits [B, C]`,
          `span_logits [B, L, 2]`, `token_logits [B, L, C]`; see `bertjax.models.apply`.
        """
        import jax

        from bertjax import models

        if attention not in ATTENTION:
            raise UsageError(f"attention={attention!r}: must be one of {', '.join(ATTENTION)}")
        if dropout_key is not None and not jax.dtypes.issubdtype(
            dropout_key.dtype, jax.dtypes.prng_key
        ):  # of jax.random.PRNGKey
            dropout_key = jax.random.wrap_key_data(dropout_key)
        model = dataclasses.replace(self.config.model, attention=attention)
        return models.apply(model, params, batch, dropout_key=dropout_key)

    def inspect(self, params: dict, batch: "Batch") -> "dict[str, jax.Array]":
        """What is inside: `hidden [N + 1, B, L, D]`, `attention [N, B, H, L, L]`; pure, as `apply`.

        Of N blocks, `hidden` has the embeddings first, and `attention` the share of each key (last
        axis) in each query.
        """
        from bertjax.models import inspection

        return inspection.inspect(self.config.model, params, batch)


@dataclasses.dataclass(frozen=True)
class Hints:
    """Values from the command line that a source may not record; None if not given."""

    hidden_act: str | None = None  # gelu (erf) or gelu_new (tanh)
    lowercase: bool | None = None
    tokenizer: str | None = None  # a file or directory
    allow_pickle: bool = False

    @property
    def tokenizer_wish(self) -> Wish:
        """The hints for the reader of the tokenizer's files."""
        return Wish(self.lowercase, field="--do_lower_case")


def config_of(
    model: config_lib.Model,
    tokenizer: config_lib.Tokenizer,
    where: str,
    task: dict[str, Any] | None = None,
) -> config_lib.Config:
    """The whole config around a source's model and tokenizer, checked.

    Args:
      task: the source's record of its fine-tuning task: fields of `config.task`, and
        `sequence_length`, the maximum number of tokens in a row.

    Raises:
      DataError: the fields make no valid config.
    """
    longest = min(128, model.max_sequence_length)
    tree = config_lib.to_dict(config_lib.Config())
    tree["model"] = dataclasses.asdict(model)
    tree["tokenizer"] = dataclasses.asdict(tokenizer)
    tree["objective"] = {name: float(name in model.head_record.losses) for name in ("mlm", "nsp")}
    task = dict(task or {})
    longest = task.pop("sequence_length", longest)
    tree["phases"]["phase1"] |= {"sequence_length": longest, "max_predictions_per_seq": 1}
    tree["task"] |= task
    try:
        return config_lib.from_config_dict(tree)
    except UsageError as error:
        raise DataError(f"{where}: {error}") from None
