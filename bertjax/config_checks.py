"""Every check on a config: which values can be run, and what to do about the others."""

import math
import re

from bertjax.config_embedding import POOLINGS
from bertjax.errors import UsageError


def _require(ok, field, value, fix):
    if not ok:
        raise UsageError(f"config.{field}={value!r}: {fix}")


def check(c, leaves):
    """Raises UsageError, naming the field, the value and the fix, where a config cannot be run.

    Args:
      c: a `config.Config`.
      leaves: `(path, dataclass field, value)` of every field of it.
    """
    for path, f, value in leaves:
        choices = f.metadata.get("choices")
        if choices and value is not None and value not in choices:
            raise UsageError(f"{path}={value!r}: must be one of {', '.join(choices)}")
    _check_model(c.model)
    _check_embedding(c.embedding)
    _check_recipe(c)
    for name, p in c.phases.items():
        _check_phase(c, name, p)


def _check_model(m):
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        _require(getattr(m, name) > 0, f"model.{name}", getattr(m, name), "must be positive")
    _require(
        m.hidden_size % m.num_attention_heads == 0,
        "model.num_attention_heads",
        m.num_attention_heads,
        f"must divide model.hidden_size={m.hidden_size}",
    )
    _require(m.num_labels > 0, "model.num_labels", m.num_labels, "must be positive")
    _require(len(m.label_names) in (0, m.num_labels), "model.label_names", m.label_names,
             f"must be as many as model.num_labels={m.num_labels}, or ()")  # fmt: skip
    kinds = ("regression", "single_label_classification", "multi_label_classification")
    _require(m.problem_type in (None, *kinds), "model.problem_type", m.problem_type,
             f"must be one of {', '.join(kinds)}, or unset")  # fmt: skip
    _require(0 <= m.position_offset < m.max_position_embeddings, "model.position_offset",
             m.position_offset, "must lie within model.max_position_embeddings")  # fmt: skip
    _require(m.vocab_size >= 0, "model.vocab_size", m.vocab_size, "must be 0 or positive")
    _require(m.scan_unroll >= 0, "model.scan_unroll", m.scan_unroll, "must be 0 or positive")
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        value = getattr(m, name)
        _require(0 <= value < 1, f"model.{name}", value, "must lie in [0, 1)")


def _check_embedding(e):
    modes = e.pooling.split("+") if e.pooling is not None else []
    _require(set(modes) <= set(POOLINGS), "embedding.pooling", e.pooling,
             f"must be one of {', '.join(POOLINGS)}, or several joined by +")  # fmt: skip
    _require(e.max_length == 0 or e.max_length > 2, "embedding.max_length", e.max_length,
             "must be 0, or leave room for the two special tokens and one more")  # fmt: skip


def _check_recipe(c):
    _require(c.seed >= 0, "seed", c.seed, "must be 0 or positive")
    mlm, nsp, head = c.objective.mlm, c.objective.nsp, c.model.head
    _require(mlm == 0 or c.model.has_masked_lm, "objective.mlm", mlm,
             f"needs model.head=pretraining or masked_lm (here: {head})")  # fmt: skip
    _require(nsp == 0 or head == "pretraining", "objective.nsp", nsp,
             f"needs model.head=pretraining (here: {head})")  # fmt: skip
    _require(nsp == 0 or c.examples.has_next_sentence, "objective.nsp", nsp,
             f"examples.builder={c.examples.builder} makes no sentence pairs; set it to 0")  # fmt: skip
    _check_masking(c.masking)
    _check_optimizer(c)
    _require(1 <= c.examples.max_per_row <= 256, "examples.max_per_row", c.examples.max_per_row,
             "must lie between 1 (no packing) and 256")  # fmt: skip
    for path, data in [("data", c.data)] + [
        (f"mixture.{k}.data", m.data) for k, m in c.mixture.items()
    ]:
        h = data.heldout_fraction
        _require(0 <= h < 1, f"{path}.heldout_fraction", h, "must lie in [0, 1)")
    for name, component in c.mixture.items():
        _require(re.fullmatch(r"[A-Za-z0-9_]{1,64}", name), "mixture", name,
                 "name it by letters, digits and _ (it is also a folder)")  # fmt: skip
        _require(
            component.weight > 0, f"mixture.{name}.weight", component.weight, "must be positive"
        )
    _require(c.checkpoints.keep >= 2, "checkpoints.keep", c.checkpoints.keep,
             "keep at least 2, so that a damaged newest checkpoint leaves one to restore")  # fmt: skip
    for name in ("checkpoints.every_steps", "logging.every_steps", "evaluation.batch_size",
                 "evaluation.num_examples", "optimizer.clip_shards", "data.prefetch_batches"):  # fmt: skip
        group, field = name.split(".")
        value = getattr(getattr(c, group), field)
        _require(value > 0, name, value, "must be positive")
    mesh = c.mesh
    for name in ("data", "fsdp", "tensor"):
        value = getattr(mesh, name)
        _require(
            value == -1 or value > 0, f"mesh.{name}", value, "must be positive, or -1 for the rest"
        )
    _require([mesh.data, mesh.fsdp, mesh.tensor].count(-1) <= 1, "mesh.data", mesh.data,
             "only one axis may be -1")  # fmt: skip
    _require(
        c.num_steps > 0, "phases", tuple(c.phases), "no phase has steps; set phases.phase1.steps"
    )


def _check_masking(m):
    for name in ("masked_lm_prob", "mask_token_prob", "random_token_prob"):
        value = getattr(m, name)
        _require(0 <= value <= 1, f"masking.{name}", value, "must lie in [0, 1]")
    both = m.mask_token_prob + m.random_token_prob
    _require(both <= 1, "masking.random_token_prob", m.random_token_prob,
             "mask_token_prob + random_token_prob must not exceed 1")  # fmt: skip
    _require(0 < m.span_p < 1, "masking.span_p", m.span_p, "must lie between 0 and 1")
    _require(m.span_max_words > 0, "masking.span_max_words", m.span_max_words, "must be positive")
    _require(m.static_patterns >= 0, "masking.static_patterns", m.static_patterns,
             "must be 0 (dynamic masking) or positive")  # fmt: skip


def _check_optimizer(c):
    o = c.optimizer
    _require(o.decay_power > 0, "optimizer.decay_power", o.decay_power, "must be positive")
    rates = {name: p.learning_rate for name, p in c.phases.items() if p.steps}
    for name, rate in rates.items():
        _require((rate > 0) == any(rates.values()), f"phases.{name}.learning_rate", rate,
                 "all phases have a schedule of their own, or none has")  # fmt: skip


def _check_phase(c, name: str, p):
    field = f"phases.{name}"
    _require(p.steps >= 0, f"{field}.steps", p.steps, "must be 0 or positive")
    _require(p.batch_size > 0, f"{field}.batch_size", p.batch_size, "must be positive")
    longest = c.model.max_sequence_length
    _require(8 <= p.sequence_length <= longest, f"{field}.sequence_length", p.sequence_length,
             f"must lie between 8 and {longest}, where model.max_position_embeddings ends")  # fmt: skip
    most = p.sequence_length - 3
    _require(1 <= p.max_predictions_per_seq <= most, f"{field}.max_predictions_per_seq",
             p.max_predictions_per_seq, f"must lie between 1 and {most}")  # fmt: skip
    if c.optimizer.clip_mode == "per_shard":
        _require(p.batch_size % c.optimizer.clip_shards == 0, f"{field}.batch_size", p.batch_size,
                 f"must be a multiple of optimizer.clip_shards={c.optimizer.clip_shards}")  # fmt: skip
    rows = p.micro_batch_size or p.batch_size
    _require(0 < rows <= p.batch_size and p.batch_size % rows == 0, f"{field}.micro_batch_size",
             p.micro_batch_size, f"must divide {field}.batch_size={p.batch_size}, or be 0")  # fmt: skip
    _require(rows == p.batch_size or c.optimizer.clip_mode == "global", f"{field}.micro_batch_size",
             p.micro_batch_size, "optimizer.clip_mode=per_shard clips parts of a batch that is "
             "computed at once; set this to 0 or clip_mode to global")  # fmt: skip
    if p.ramp_from:
        _check_ramp(field, p)


def _check_ramp(field: str, p):
    ratio = p.batch_size / p.ramp_from if p.ramp_from > 0 else 0
    _require(ratio > 1 and ratio == 2 ** round(math.log2(ratio)), f"{field}.ramp_from", p.ramp_from,
             f"{field}.batch_size={p.batch_size} must be this times 2, 4, 8...")  # fmt: skip
    _require(0 < p.ramp_steps < p.steps, f"{field}.ramp_steps", p.ramp_steps,
             f"must lie between 1 and {field}.steps={p.steps} - 1")  # fmt: skip
