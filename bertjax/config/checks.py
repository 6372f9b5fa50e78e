"""The checks on a config: which values can run, and how to fix the others.

The range of a single number is part of its field's type (`rules`). The checks here compare several
fields, or go beyond a range.
"""

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any

from bertjax.config import heads, masking_checks, source_checks, tree
from bertjax.config.embedding_fields import POOLINGS, Embedding
from bertjax.config.fields import Config, Phase
from bertjax.config.logging_fields import TRACKERS
from bertjax.config.model_fields import Model
from bertjax.config.rules import require
from bertjax.errors import UsageError


def check(config: Config) -> None:
    """Raises UsageError if a config cannot run; the message names the field, value and fix."""
    check_fields(tree.walk(config))
    _check_model(config.model)
    _check_embedding(config.embedding)
    _check_objective(config)
    _check_teacher(config)
    source_checks.check(config)
    masking_checks.check(config.masking, config.evaluation.masked_lm_prob)
    _check_optimizer(config)
    _check_run(config)
    for name, phase in config.phases.items():
        _check_phase(config, name, phase)


def check_fields(leaves: Iterable[tuple[str, dataclasses.Field, Any]]) -> None:
    """Raises UsageError if a single value is invalid, whatever the other fields are."""
    for path, f, value in leaves:
        choices = f.metadata.get("choices")
        if choices and value is not None and value not in choices:
            raise UsageError(f"{path}={value!r}: must be one of {', '.join(choices)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{path}={value!r}: must be a finite number")
        for rule in getattr(f.type, "__metadata__", ()):  # instances of `rules.Rule`
            if not rule.holds(value):
                raise UsageError(f"{path}={value!r}: {rule.text}")


def _check_model(m: Model) -> None:
    require(
        m.hidden_size % m.num_attention_heads == 0,
        "model.num_attention_heads",
        m.num_attention_heads,
        f"must divide model.hidden_size={m.hidden_size}",
    )
    require(
        len(m.label_names) in (0, m.num_labels),
        "model.label_names",
        m.label_names,
        f"must be as many as model.num_labels={m.num_labels}, or ()",
    )
    require(
        m.position_offset < m.max_position_embeddings,
        "model.position_offset",
        m.position_offset,
        "must lie within model.max_position_embeddings",
    )


def _check_embedding(e: Embedding) -> None:
    modes = e.pooling.split("+") if e.pooling is not None else []
    require(
        set(modes) <= set(POOLINGS),
        "embedding.pooling",
        e.pooling,
        f"must be one of {', '.join(POOLINGS)}, or several joined by +",
    )
    require(
        e.max_length == 0 or e.max_length > 2,
        "embedding.max_length",
        e.max_length,
        "must be 0, or leave room for the two special tokens and one more",
    )


def _check_objective(c: Config) -> None:
    mlm, nsp, soft = c.objective.mlm, c.objective.nsp, c.objective.distill
    for name, weight in (("mlm", mlm), ("nsp", nsp)):
        require(
            weight == 0 or name in c.model.head_record.losses,
            f"objective.{name}",
            weight,
            f"needs model.head={' or '.join(heads.with_loss(name))} (here: {c.model.head})",
        )
    require(
        nsp == 0 or c.examples.has_next_sentence or c.data.holds_examples,
        "objective.nsp",
        nsp,
        f"examples.builder={c.examples.builder} makes no sentence pairs; set it to 0",
    )
    require(
        mlm or nsp or soft or c.objective.cosine or not c.model.has_masked_lm,
        "objective.mlm",
        mlm,
        "with objective.nsp=0 there is no loss; set one of them to 1",
    )


def _check_teacher(c: Config) -> None:
    require(
        not (c.init_from and c.teacher.layers),
        "teacher.layers",
        c.teacher.layers,
        f"the model starts from config.init_from={c.init_from}; unset one of them",
    )
    require(
        len(c.teacher.layers) in (0, c.model.num_hidden_layers),
        "teacher.layers",
        c.teacher.layers,
        f"must be as many as model.num_hidden_layers={c.model.num_hidden_layers}, or ()",
    )
    require(
        all(layer >= 0 for layer in c.teacher.layers),
        "teacher.layers",
        c.teacher.layers,
        "must be numbers of blocks, counted from 0",
    )


def _check_run(c: Config) -> None:
    require(
        1 <= c.examples.max_per_row <= 256,
        "examples.max_per_row",
        c.examples.max_per_row,
        "must lie between 1 (no packing) and 256",
    )
    for name in c.mixture:
        require(
            re.fullmatch(r"[A-Za-z0-9_]{1,64}", name),
            "mixture",
            name,
            "name it by letters, digits and _ (it is also a folder)",
        )
    require(
        c.checkpoints.keep >= 2,
        "checkpoints.keep",
        c.checkpoints.keep,
        "keep at least 2, so that a damaged newest checkpoint leaves one to restore",
    )
    for name in c.logging.tracker_names:
        require(
            name in TRACKERS,
            "logging.trackers",
            c.logging.trackers,
            f"{name!r} is none of {', '.join(TRACKERS)}",
        )
    rest = [name for name in ("data", "fsdp", "tensor") if getattr(c.mesh, name) == -1]
    require(
        len(rest) <= 1,
        f"mesh.{rest[-1] if rest else ''}",
        -1,
        f"only one axis may be -1, and mesh.{rest[0] if rest else ''} is -1 already",
    )
    require(
        c.num_steps > 0 or c.is_finetuning,
        "phases",
        tuple(c.phases),
        "no phase has steps; set phases.phase1.steps",
    )
    require(
        c.num_steps < 1 << 31,
        "phases",
        tuple(c.phases),
        f"{c.num_steps:,} steps in all; must be fewer than 2**31",
    )


def _check_optimizer(c: Config) -> None:
    rates = {name: p.learning_rate for name, p in c.active_phases.items()}
    for name, rate in rates.items():
        require(
            (rate > 0) == any(rates.values()),
            f"phases.{name}.learning_rate",
            rate,
            "set a learning_rate for all phases that have steps, or for none",
        )
    require(
        c.mesh.fsdp_gather != "step" or c.optimizer.clip_mode == "global",
        "mesh.fsdp_gather",
        c.mesh.fsdp_gather,
        "does not work with optimizer.clip_mode=per_shard; set this to auto or layer",
    )


def _check_phase(c: Config, name: str, p: Phase) -> None:
    field = f"phases.{name}"
    longest = c.model.max_sequence_length
    require(
        8 <= p.sequence_length <= longest,
        f"{field}.sequence_length",
        p.sequence_length,
        f"must lie between 8 and {longest}, the end of model.max_position_embeddings",
    )
    most = p.sequence_length - 3
    require(
        1 <= p.max_predictions_per_seq <= most,
        f"{field}.max_predictions_per_seq",
        p.max_predictions_per_seq,
        f"must lie between 1 and {most}",
    )
    if c.optimizer.clip_mode == "per_shard":
        require(
            p.batch_size % c.optimizer.clip_shards == 0,
            f"{field}.batch_size",
            p.batch_size,
            f"must be a multiple of optimizer.clip_shards={c.optimizer.clip_shards}",
        )
    rows = p.micro_batch_size or p.batch_size
    require(
        0 < rows <= p.batch_size and p.batch_size % rows == 0,
        f"{field}.micro_batch_size",
        p.micro_batch_size,
        f"must divide {field}.batch_size={p.batch_size}, or be 0",
    )
    require(
        rows == p.batch_size or c.optimizer.clip_mode == "global",
        f"{field}.micro_batch_size",
        p.micro_batch_size,
        "optimizer.clip_mode=per_shard needs the whole batch at "
        "once; set this to 0 or clip_mode to global",
    )
    if p.ramp_from:
        _check_ramp(field, p)


def _check_ramp(field: str, p: Phase) -> None:
    ratio = p.batch_size / p.ramp_from if p.ramp_from > 0 else 0
    require(
        ratio > 1 and ratio == 2 ** round(math.log2(ratio)),
        f"{field}.ramp_from",
        p.ramp_from,
        f"{field}.batch_size={p.batch_size} must be this times 2, 4, 8...",
    )
    require(
        0 < p.ramp_steps < p.steps,
        f"{field}.ramp_steps",
        p.ramp_steps,
        f"must lie between 1 and {field}.steps={p.steps} - 1",
    )
