"""Every field of a config, its meaning and its default (the checks are in `checks`).

All other code reads these frozen dataclasses; `build` makes them. Field names follow Hugging Face
where they name the model and google-research/bert where they name the recipe.
"""

import dataclasses
from typing import Any

from bertjax.config import heads, rules
from bertjax.config.data_fields import Component, Data, Examples, Masking, Tokenizer
from bertjax.config.embedding_fields import Embedding
from bertjax.config.finetune_fields import Finetune, Grid, Task
from bertjax.config.mesh_fields import Mesh
from bertjax.config.rules import (
    BelowOne,
    Count,
    CountOrAuto,
    NotNegative,
    Positive,
    PositiveFloat,
    Seed,
)
from bertjax.config.teacher_fields import Teacher
from bertjax.config.tree import field


@dataclasses.dataclass(frozen=True)
class Model:
    vocab_size: Count = field(30522, "tokens in the vocabulary; 0 takes the tokenizer's size")
    hidden_size: Positive = field(768, "width D of the encoder")
    num_hidden_layers: Positive = field(12, "encoder blocks N")
    num_attention_heads: Positive = field(12, "attention heads H; must divide hidden_size")
    intermediate_size: Positive = field(3072, "width F of the feed-forward layer")
    max_position_embeddings: Positive = field(512, "rows of the position table")
    position_offset: Count = field(0, "row of the first position (RoBERTa: 2)")
    type_vocab_size: Count = field(2, "token types (sentence A / B); 0 for none")
    hidden_act: str = field(
        "gelu", "activation: gelu (erf) or gelu_new (tanh)", ("gelu", "gelu_new")
    )
    hidden_dropout_prob: BelowOne = field(0.1, "dropout on embeddings and on both block outputs")
    attention_probs_dropout_prob: BelowOne = field(0.1, "dropout on attention probabilities")
    layer_norm_eps: PositiveFloat = field(1e-12, "epsilon inside LayerNorm")
    initializer_range: NotNegative = field(0.02, "deviation of the truncated-normal initializer")
    head: str = field(
        "pretraining",
        f"what the encoder carries: {heads.listed()}",
        tuple(heads.HEADS),
    )
    pooler_act: str = field("tanh", "activation of the pooler (DistilBERT: relu)", ("tanh", "relu"))
    num_labels: Positive = field(2, "logits of head=classification; 1 for regression")
    label_names: tuple[str, ...] = field(
        (), "names of those logits, in their order: \"('yes', 'no')\"; () for LABEL_0, LABEL_1..."
    )
    problem_type: str | None = field(
        None,
        "what the logits mean: regression, single_label_classification or "
        "multi_label_classification; unset: Hugging Face decides by num_labels",
        ("regression", "single_label_classification", "multi_label_classification"),
    )
    dtype: str = field(
        "float32", "compute type; master weights stay float32", ("float32", "bfloat16")
    )
    attention: str = field(
        "auto",
        "attention kernel: xla (written out), flash (fused, TPU and GPU), cudnn (fused, GPU; "
        "drops no probabilities), auto (a fused one where it computes the same)",
        ("auto", "xla", "cudnn", "flash"),
    )
    remat: str = field(
        "none",
        "recompute in the backward pass: none, dots (keep matmul results), full (keep block inputs)",
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
        """Longest sequence that the position table reaches."""
        return self.max_position_embeddings - self.position_offset

    @property
    def head_record(self) -> heads.Head:
        """What the value of `head` means."""
        return heads.HEADS[self.head]

    @property
    def has_pooler(self) -> bool:
        return heads.POOLER in self.head_record.parts

    @property
    def has_masked_lm(self) -> bool:
        return heads.MASKED_LM in self.head_record.parts


@dataclasses.dataclass(frozen=True)
class Phase:
    steps: Count = field(0, "optimizer steps in this phase; 0 leaves the phase out")
    sequence_length: Positive = field(128, "tokens in a sequence, special tokens included")
    batch_size: Positive = field(256, "sequences in a global batch")
    max_predictions_per_seq: Positive = field(
        20, "most masked positions in a sequence (in a row of several: in all of them together)"
    )
    micro_batch_size: Count = field(
        0, "sequences whose gradients are computed at once and then summed; 0 takes the whole batch"
    )
    ramp_from: Count = field(
        0, "batch size at the start, doubled in equal numbers of steps; 0 does not ramp"
    )
    ramp_steps: Count = field(0, "steps until the ramp has reached batch_size")
    learning_rate: NotNegative = field(
        0.0,
        "peak of a schedule of this phase's own (with optimizer.schedule's form); 0 goes on "
        "with the run's one schedule",
    )
    warmup_steps: Count = field(0, "warm-up of the phase's own schedule")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    name: str = field(
        "bert_adamw",
        "bert_adamw (no bias correction, as google-research/bert), adamw (with); bert_lamb, lamb: "
        "the same with a trust ratio for every layer",
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
    weight_decay: NotNegative = field(0.01, "decoupled decay")
    layer_decay: PositiveFloat = field(
        1.0,
        "factor of the rate from a block to the one below it, the embeddings below all (ELECTRA, "
        "fine-tuning: 0.8 or 0.9); 1 gives all the same",
    )
    decay_all: bool = field(
        False, "decay LayerNorm and biases too (fairseq); by default they are spared (BERT)"
    )
    clip_norm: NotNegative = field(1.0, "largest gradient norm; 0 does not clip")
    clip_mode: str = field(
        "global",
        "global (norm of the whole batch's gradient) or per_shard (google-research/bert: each of "
        "clip_shards parts of the batch is clipped on its own, then averaged)",
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
        "steps between evaluations on held-out examples; 0 for none, in fine-tuning for "
        "finetune.evaluations_per_epoch",
    )
    num_examples: Positive = field(1024, "most held-out examples read")
    batch_size: Positive = field(64, "sequences in an evaluation batch")


@dataclasses.dataclass(frozen=True)
class Logging:
    every_steps: Positive = field(10, "steps between lines of metrics.jsonl")
    tensorboard: bool = field(True, "also write TensorBoard event files")
    profile_start: Count = field(
        0, "first step of an XProf trace in W/tensorboard (./profile for a W on gs://); 0 for none"
    )
    profile_steps: Positive = field(3, "steps in the trace")
    peak_flops_per_device: NotNegative = field(
        0.0, "peak FLOP/s for utilization; 0 looks the device up (unknown devices report none)"
    )


@dataclasses.dataclass(frozen=True)
class Objective:
    mlm: NotNegative = field(1.0, "weight of the masked-LM loss")
    nsp: NotNegative = field(1.0, "weight of the next-sentence loss; 0 for none")
    task: NotNegative = field(1.0, "weight of the loss of a fine-tuned task's own labels")
    distill: NotNegative = field(
        0.0,
        "weight of the soft-target loss: KL divergence from the teacher's to the model's logits",
    )
    cosine: NotNegative = field(
        0.0, "weight of the cosine loss: last hidden states of model and teacher point one way"
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
            "help": "corpora read together by weight, each with a `data` of its own; "
            "where there are any, config.data's own corpus is not read"
        },
    )
    examples: Examples = Examples()
    masking: Masking = Masking()
    phases: dict[str, Phase] = dataclasses.field(
        default_factory=lambda: {"phase1": Phase(steps=1000)},
        metadata={"help": "run one after the other, in order of name"},
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
        "W/compilation_cache; off: none. JAX_COMPILATION_CACHE_DIR, where set, holds instead",
    )
    seeds: Positive = field(1, "fine-tuning runs that differ in their seed: seed, seed + 1, ...")
    grid: Grid = Grid()
    watchdog_seconds: float = field(
        0.0,
        "seconds without a finished step after which a process prints its stacks and exits 42, to "
        "be started again; 0 is ten median steps, at least 300, and 3600 for a first step and for "
        "saves; what is set holds for those too; below 0 is never",
    )

    def with_model(self, **fields: Any) -> "Config":
        """This config with fields of its model changed."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, **fields))

    @property
    def is_finetuning(self) -> bool:
        """Whether a task is named; its steps then come from epochs and examples."""
        return self.task.name is not None or self.task.kind is not None

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher is named, or a loss or the start needs one."""
        named = self.teacher.init_from is not None or self.teacher.layers
        return bool(named or self.objective.distill or self.objective.cosine)

    @property
    def without_teacher(self) -> "Config":
        """This config without its teacher, and the losses that it gives."""
        objective = dataclasses.replace(self.objective, distill=0.0, cosine=0.0)
        return dataclasses.replace(self, teacher=Teacher(), objective=objective)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every corpus that is read, by component; of one alone, its name is ""."""
        return {name: part.weight for name, part in self.mixture.items()} or {"": 1.0}

    @property
    def active_phases(self) -> dict[str, Phase]:
        """The phases that have steps, by name, in the order in which they run."""
        return {name: phase for name, phase in self.phases.items() if phase.steps}

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all phases."""
        return sum(phase.steps for phase in self.phases.values())
