"""Every field of a config, with its meaning and default (the checks are in `checks`).

All other code reads these frozen dataclasses; `build` makes them. Model fields (`model_fields`) have
Hugging Face's names; recipe fields have google-research/bert's names.
"""

import dataclasses
from typing import Any

from bertjax.config.data_fields import Component, Data, Examples, Masking, Tokenizer
from bertjax.config.embedding_fields import Embedding
from bertjax.config.finetune_fields import Finetune, Grid, Task
from bertjax.config.logging_fields import Logging
from bertjax.config.mesh_fields import Mesh
from bertjax.config.model_fields import Model
from bertjax.config.rules import (
    BelowOne,
    Count,
    NotNegative,
    Positive,
    PositiveFloat,
    Seed,
    Share,
)
from bertjax.config.teacher_fields import Teacher
from bertjax.config.tree import field


@dataclasses.dataclass(frozen=True)
class Phase:
    steps: Count = field(0, "optimizer steps in this phase; 0 leaves the phase out")
    sequence_length: Positive = field(128, "tokens in a sequence, special tokens included")
    batch_size: Positive = field(256, "sequences in a global batch")
    max_predictions_per_seq: Positive = field(
        20, "most masked positions in a sequence (in a packed row: in all its sequences together)"
    )
    micro_batch_size: Count = field(
        0, "sequences per gradient computation; their gradients are summed; 0 takes the whole batch"
    )
    ramp_from: Count = field(
        0, "batch size at the start, doubled after equal numbers of steps; 0 does not ramp"
    )
    ramp_steps: Count = field(0, "steps until the ramp reaches batch_size")
    learning_rate: NotNegative = field(
        0.0,
        "peak of this phase's own schedule (with optimizer.schedule's form); 0 continues the "
        "run's single schedule",
    )
    warmup_steps: Count = field(0, "warm-up steps of the phase's own schedule")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    name: str = field(
        "bert_adamw",
        "bert_adamw (no bias correction, as in google-research/bert), adamw (with bias "
        "correction); bert_lamb, lamb: the same with a trust ratio for every layer",
        ("bert_adamw", "adamw", "bert_lamb", "lamb"),
    )
    learning_rate: NotNegative = field(1e-4, "peak learning rate")
    warmup_steps: Count = field(10_000, "steps of linear warm-up")
    schedule: str = field(
        "warmup_replaces_decay",
        "warmup_replaces_decay (google-research/bert: warm-up hides the start of the decay) "
        "or warmup_then_decay",
        ("warmup_replaces_decay", "warmup_then_decay"),
    )
    decay_power: PositiveFloat = field(
        1.0, "power of the polynomial decay of the rate; 1 is linear"
    )
    b1: BelowOne = field(0.9, "decay of the first moment")
    b2: BelowOne = field(0.999, "decay of the second moment")
    eps: PositiveFloat = field(1e-6, "epsilon outside the square root")
    weight_decay: NotNegative = field(0.01, "decoupled weight decay")
    layer_decay: PositiveFloat = field(
        1.0,
        "factor of the rate from a block to the block below, and from the lowest block to the "
        "embeddings (ELECTRA, fine-tuning: 0.8 or 0.9); 1 gives all the same rate",
    )
    decay_all: bool = field(
        False, "decay LayerNorm and biases too (fairseq); by default they do not decay (BERT)"
    )
    clip_norm: NotNegative = field(1.0, "largest gradient norm; 0 does not clip")
    clip_mode: str = field(
        "global",
        "global (by the norm of the whole batch's gradient) or per_shard (google-research/bert: "
        "the gradient of each of clip_shards parts of the batch is clipped, then averaged)",
        ("global", "per_shard"),
    )
    clip_shards: Positive = field(
        8, "parts of the batch for clip_mode=per_shard, whatever the mesh"
    )
    max_consecutive_skips: Positive = field(
        10, "non-finite updates skipped in a row before the run stops"
    )


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    every_steps: Positive = field(1000, "steps between checkpoints")
    keep: int = field(3, "newest checkpoints kept (at least 2)")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    every_steps: Count = field(
        1000,
        "steps between evaluations on held-out examples; 0 for none (in fine-tuning: by "
        "finetune.evaluations_per_epoch)",
    )
    num_examples: Positive = field(1024, "most held-out examples read")
    batch_size: Positive = field(64, "sequences in an evaluation batch")
    masked_lm_prob: Share = field(
        0.0,
        "share of held-out tokens to predict, at most masking.masked_lm_prob: one yardstick for runs "
        "that train with other shares; 0 takes masking.masked_lm_prob",
    )


@dataclasses.dataclass(frozen=True)
class Objective:
    mlm: NotNegative = field(1.0, "weight of the masked-LM loss")
    nsp: NotNegative = field(1.0, "weight of the next-sentence loss; 0 for none")
    task: NotNegative = field(1.0, "fine-tuning: weight of the loss against the task's labels")
    distill: NotNegative = field(
        0.0,
        "weight of the soft-target loss: KL divergence from the teacher's to the model's logits",
    )
    cosine: NotNegative = field(
        0.0, "weight of the cosine loss between the last hidden states of model and teacher"
    )


@dataclasses.dataclass(frozen=True)
class Config:
    seed: Seed = field(0, "the only source of randomness")
    init_from: str | None = field(
        None, "weights to start from, any source of bertjax convert (hf:DIR, tf1:PREFIX, ...)"
    )
    model: Model = Model()
    tokenizer: Tokenizer = Tokenizer()
    data: Data = Data()
    mixture: dict[str, Component] = dataclasses.field(
        default_factory=dict,
        metadata={
            "help": "corpora read together by weight, each with its own `data`; "
            "with a mixture, the corpus of config.data is not read"
        },
    )
    examples: Examples = Examples()
    masking: Masking = Masking()
    phases: dict[str, Phase] = dataclasses.field(
        default_factory=lambda: {"phase1": Phase(steps=1000)},
        metadata={"help": "phases of a run, one after the other, in order of name"},
    )
    objective: Objective = Objective()
    teacher: Teacher = Teacher()
    optimizer: Optimizer = Optimizer()
    mesh: Mesh = Mesh()
    checkpoints: Checkpoints = Checkpoints()
    evaluation: Evaluation = Evaluation()
    logging: Logging = Logging()
    embedding: Embedding = Embedding()
    task: Task = Task()
    finetune: Finetune = Finetune()
    compilation_cache: str | None = field(
        None,
        "directory that keeps compiled programs from one start to the next; unset: "
        "W/compilation_cache; off: none. JAX_COMPILATION_CACHE_DIR, if set, overrides this",
    )
    seeds: Positive = field(1, "fine-tuning runs that differ in their seed: seed, seed + 1, ...")
    grid: Grid = Grid()
    watchdog_seconds: float = field(
        0.0,
        "seconds without a finished step after which a process prints its stacks and exits 42, so "
        "that a launcher restarts it; 0: ten median steps, at least 300 s, and 3600 s for a first "
        "step and for saves; a value above 0 holds for these too; below 0: never",
    )

    def with_model(self, **fields: Any) -> "Config":
        """A copy of this config with changed model fields."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, **fields))

    @property
    def is_finetuning(self) -> bool:
        """Whether the config names a task; the steps then come from epochs and examples."""
        return self.task.name is not None or self.task.kind is not None

    @property
    def has_teacher(self) -> bool:
        """Whether the config names a teacher, or a loss or the start needs a teacher."""
        named = self.teacher.init_from is not None or self.teacher.layers
        return bool(named or self.objective.distill or self.objective.cosine)

    @property
    def without_teacher(self) -> "Config":
        """A copy of this config without the teacher and the losses against it."""
        objective = dataclasses.replace(self.objective, distill=0.0, cosine=0.0)
        return dataclasses.replace(self, teacher=Teacher(), objective=objective)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every corpus by component name; a single corpus has the name ""."""
        return {name: part.weight for name, part in self.mixture.items()} or {"": 1.0}

    @property
    def active_phases(self) -> dict[str, Phase]:
        """The phases with steps by name, in the order in which they run."""
        return {name: phase for name, phase in self.phases.items() if phase.steps}

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all phases."""
        return sum(phase.steps for phase in self.phases.values())
