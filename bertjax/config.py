"""Every field of a config, its meaning and its default (the checks are in `config_checks`).

A config file returns `default()` with some fields changed. `ml_collections` carries it through
the command line; `from_config_dict` turns it once into the frozen dataclasses that all other
code reads. Field names follow Hugging Face where they name the model and google-research/bert
where they name the recipe.
"""

import dataclasses

from ml_collections import ConfigDict

from bertjax import config_checks, config_tree


def _field(default, help, choices=None):
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclasses.dataclass(frozen=True)
class Model:
    vocab_size: int = _field(30522, "tokens in the vocabulary; 0 takes the tokenizer's size")
    hidden_size: int = _field(768, "width D of the encoder")
    num_hidden_layers: int = _field(12, "encoder blocks N")
    num_attention_heads: int = _field(12, "attention heads H; must divide hidden_size")
    intermediate_size: int = _field(3072, "width F of the feed-forward layer")
    max_position_embeddings: int = _field(512, "rows of the position table")
    position_offset: int = _field(0, "row of the first position (RoBERTa: 2)")
    type_vocab_size: int = _field(2, "token types (sentence A / B); 0 for none")
    hidden_act: str = _field(
        "gelu", "activation: gelu (erf) or gelu_new (tanh)", ("gelu", "gelu_new")
    )
    hidden_dropout_prob: float = _field(0.1, "dropout on embeddings and on both block outputs")
    attention_probs_dropout_prob: float = _field(0.1, "dropout on attention probabilities")
    layer_norm_eps: float = _field(1e-12, "epsilon inside LayerNorm")
    initializer_range: float = _field(0.02, "deviation of the truncated-normal initialiser")
    head: str = _field(
        "pretraining",
        "what the encoder carries: pretraining (masked_lm and, over a pooler, next-sentence), "
        "masked_lm, classification, multiple_choice, span (question answering), pooler, none",
        (
            "pretraining",
            "masked_lm",
            "classification",
            "multiple_choice",
            "span",
            "pooler",
            "none",
        ),
    )
    pooler_act: str = _field(
        "tanh", "activation of the pooler (DistilBERT: relu)", ("tanh", "relu")
    )
    num_labels: int = _field(2, "logits of head=classification; 1 for regression")
    dtype: str = _field(
        "float32", "compute type; master weights stay float32", ("float32", "bfloat16")
    )
    attention: str = _field("auto", "attention kernel", ("auto", "xla", "cudnn"))
    remat: str = _field(
        "none",
        "recompute in the backward pass: none, dots (keep matmul results), full (keep block inputs)",
        ("none", "dots", "full"),
    )
    scan_unroll: int = _field(1, "encoder blocks unrolled per scan iteration; 0 unrolls all")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: a multiple of 128, for tensor parallelism and MXU lanes."""
        return -(-self.vocab_size // 128) * 128

    @property
    def max_sequence_length(self) -> int:
        """Longest sequence that the position table reaches."""
        return self.max_position_embeddings - self.position_offset

    @property
    def has_pooler(self) -> bool:
        return self.head in ("pretraining", "classification", "multiple_choice", "pooler")

    @property
    def has_masked_lm(self) -> bool:
        return self.head in ("pretraining", "masked_lm")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    kind: str = _field("wordpiece", "tokenizer family", ("wordpiece", "sentencepiece", "byte_bpe"))
    path: str | None = _field(
        None, "vocab.txt, tokenizer.json or a SentencePiece .model; unset trains one on the corpus"
    )
    vocab_size: int = _field(30522, "size of a newly trained vocabulary")
    lowercase: bool = _field(True, "lower-case and strip accents (uncased vocabularies)")


@dataclasses.dataclass(frozen=True)
class Data:
    source: str = _field(
        "files",
        "files (data.files), tfds (data.tfds_*) or sample (the prose of the Python installation)",
        ("files", "tfds", "sample"),
    )
    files: str | None = _field(
        None, "comma-separated paths or globs: .txt .jsonl .jsonl.gz .parquet"
    )
    text_field: str = _field(
        "text", "field of a .jsonl, .parquet or TFDS record that holds the text"
    )
    txt_format: str = _field(
        "auto",
        "form of .txt: sentences (one a line, blank line between documents), prose, or auto",
        ("auto", "sentences", "prose"),
    )
    language: str = _field("en", "language of the sentence splitter (ISO 639-1)")
    tfds_name: str | None = _field(None, "TFDS dataset, for example wikipedia/20230601.en")
    tfds_split: str = _field("train", "TFDS split")
    tfds_data_dir: str | None = _field(None, "where TFDS keeps its prepared datasets")
    heldout_fraction: float = _field(
        0.01, "share of documents kept out of training, for evaluation"
    )
    num_workers: int = _field(0, "processes that tokenise; 0 takes one a core")
    prefetch_batches: int = _field(4, "host batches assembled ahead of the step")


@dataclasses.dataclass(frozen=True)
class Examples:
    builder: str = _field(
        "segment_pair_nsp", "how sequences are cut from documents", ("segment_pair_nsp",)
    )
    short_seq_prob: float = _field(0.1, "share of documents with a random shorter target length")


@dataclasses.dataclass(frozen=True)
class Masking:
    masked_lm_prob: float = _field(0.15, "share of tokens predicted")
    mask_token_prob: float = _field(0.8, "of those, replaced by [MASK]")
    random_token_prob: float = _field(0.1, "of those, replaced by a random token; the rest stay")
    whole_word: bool = _field(False, "choose whole words instead of tokens")
    static_patterns: int = _field(
        0, "0 masks afresh every epoch (dynamic); k repeats k fixed patterns (static)"
    )


@dataclasses.dataclass(frozen=True)
class Phase:
    steps: int = _field(0, "optimizer steps in this phase; 0 leaves the phase out")
    sequence_length: int = _field(128, "tokens in a sequence, special tokens included")
    batch_size: int = _field(256, "sequences in a global batch")
    max_predictions_per_seq: int = _field(20, "most masked positions in a sequence")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    name: str = _field(
        "bert_adamw",
        "bert_adamw (no bias correction, as google-research/bert) or adamw (with)",
        ("bert_adamw", "adamw"),
    )
    learning_rate: float = _field(1e-4, "peak learning rate")
    warmup_steps: int = _field(10_000, "steps of linear warm-up")
    schedule: str = _field(
        "warmup_replaces_decay",
        "warmup_replaces_decay (google-research/bert: warm-up hides the start of the decay) "
        "or warmup_then_decay",
        ("warmup_replaces_decay", "warmup_then_decay"),
    )
    b1: float = _field(0.9, "decay of the first moment")
    b2: float = _field(0.999, "decay of the second moment")
    eps: float = _field(1e-6, "epsilon outside the square root")
    weight_decay: float = _field(0.01, "decoupled decay; never on LayerNorm or biases")
    clip_norm: float = _field(1.0, "largest gradient norm; 0 does not clip")
    clip_mode: str = _field(
        "global",
        "global (norm of the whole batch's gradient) or per_shard (google-research/bert: each of "
        "clip_shards parts of the batch is clipped on its own, then averaged)",
        ("global", "per_shard"),
    )
    clip_shards: int = _field(8, "parts of the batch for clip_mode=per_shard, whatever the mesh")
    max_consecutive_skips: int = _field(
        10, "non-finite updates skipped in a row before the run stops"
    )


@dataclasses.dataclass(frozen=True)
class Mesh:
    data: int = _field(-1, "devices that hold copies and split the batch; -1 takes the rest")
    fsdp: int = _field(1, "devices that split both the batch and the parameters")
    tensor: int = _field(1, "devices that split each matrix product")


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    every_steps: int = _field(1000, "steps between checkpoints")
    keep: int = _field(3, "newest checkpoints kept (at least 2)")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    every_steps: int = _field(1000, "steps between evaluations on held-out documents; 0 for none")
    num_examples: int = _field(1024, "most held-out examples read")
    batch_size: int = _field(64, "sequences in an evaluation batch")


@dataclasses.dataclass(frozen=True)
class Logging:
    every_steps: int = _field(10, "steps between lines of metrics.jsonl")
    tensorboard: bool = _field(True, "also write TensorBoard event files")
    profile_start: int = _field(0, "first step of an XProf trace in W/tensorboard; 0 for none")
    profile_steps: int = _field(3, "steps in the trace")
    peak_flops_per_device: float = _field(
        0.0, "peak FLOP/s for utilisation; 0 looks the device up (unknown devices report none)"
    )


@dataclasses.dataclass(frozen=True)
class Objective:
    mlm: float = _field(1.0, "weight of the masked-LM loss")
    nsp: float = _field(1.0, "weight of the next-sentence loss; 0 for none")


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = _field(0, "the only source of randomness")
    init_from: str | None = _field(
        None, "weights to start from, any source of bertjax convert (hf:DIR, tf1:PREFIX, ...)"
    )
    model: Model = Model()
    tokenizer: Tokenizer = Tokenizer()
    data: Data = Data()
    examples: Examples = Examples()
    masking: Masking = Masking()
    phases: dict[str, Phase] = dataclasses.field(
        default_factory=lambda: {"phase1": Phase(steps=1000)},
        metadata={"help": "run one after the other, in order of name"},
    )
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    mesh: Mesh = Mesh()
    checkpoints: Checkpoints = Checkpoints()
    evaluation: Evaluation = Evaluation()
    logging: Logging = Logging()

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all phases."""
        return sum(phase.steps for phase in self.phases.values())

    def phase_spans(self) -> list[tuple[int, int, Phase]]:
        """`(index, first step, phase)` of every phase that has steps, in order."""
        spans, first = [], 0
        for p in self.phases.values():
            if p.steps:
                spans.append((len(spans), first, p))
                first += p.steps
        return spans

    def phase_at(self, step: int) -> tuple[int, int, Phase]:
        """The span of the phase that runs `step`; the last one past the end."""
        return next(span for span in reversed(self.phase_spans()) if span[1] <= step)


def default() -> ConfigDict:
    """All fields with their defaults, for a config file to change; unset fields are placeholders."""
    return config_tree.to_config_dict(Config())


def phase(**fields) -> ConfigDict:
    """One entry of `config.phases` for a config file."""
    return config_tree.to_config_dict(Phase(**fields))


def from_config_dict(tree: ConfigDict | dict) -> Config:
    """Turns the mutable tree into the frozen `Config`.

    Raises:
      UsageError: an unknown field, a value of another type, or a value out of its range;
        the message names the field, the value and the fix.
    """
    raw = tree.to_dict() if isinstance(tree, ConfigDict) else tree
    config = config_tree.build(Config, raw, "config")
    config_checks.check(config, config_tree.walk(config))
    return config


def model_of(fields: dict) -> Model:
    """A `Model` from plain values; raises UsageError where one is unknown or of another type."""
    return config_tree.build(Model, fields, "config.model")


def to_dict(config: Config) -> dict:
    """The plain nested dict that `config.json` holds; `from_config_dict` reads it back."""
    return dataclasses.asdict(config)


def leaves(config: Config) -> dict:
    """`{"config.model.hidden_size": 768, ...}`: every field by its name on the command line."""
    return {path: value for path, _, value in config_tree.walk(config)}
