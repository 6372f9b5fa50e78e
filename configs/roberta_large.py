"""RoBERTa-Large: 500K steps of 8K sequences of 512 tokens, at 24 layers.

Paper:    Liu et al. 2019, table 9: as roberta_base.py, but a peak of 4e-4 after 30,000 steps of
          warm-up. Choices that the paper leaves open are the same as there.
Data:     as in roberta_base.py.
Command:  bertjax pretrain --config=configs/roberta_large.py --workdir=W \
              --config.data.files='corpus/*.jsonl.gz' --config.tokenizer.path=encoder.json
Mesh:     planned for a TPU v4-128 (64 chips), 512 sequences at once, 8 a chip: 18.2 of 30.75 GiB.
          mesh.fsdp=4 needs less memory, but gathers the weights for each of 16 micro-batches.
          Elsewhere set phases.phase1.micro_batch_size to the rows that all devices hold together.
Expected: 355,412,057 parameters (tested), 4,194,304 tokens a step; memory in benchmarks/RESULTS.md.
          Full run: not yet run.
"""

from bertjax import config as config_lib


def get_config():
    config = config_lib.default()
    config.tokenizer.kind = "byte_bpe"
    config.tokenizer.vocab_size = 50265
    config.examples.builder = "full_sentences"
    config.masking.rounding = "probabilistic"
    config.masking.choose_special = True
    config.masking.random_special = False

    config.model.vocab_size = 50265
    config.model.hidden_size = 1024
    config.model.num_hidden_layers = 24
    config.model.num_attention_heads = 16
    config.model.intermediate_size = 4096
    config.model.max_position_embeddings = 514
    config.model.position_offset = 2
    config.model.type_vocab_size = 1
    config.model.layer_norm_eps = 1e-5
    config.model.head = "masked_lm"
    config.model.dtype = "bfloat16"
    config.objective.nsp = 0.0

    config.phases.phase1 = config_lib.phase(
        steps=500_000,
        sequence_length=512,
        batch_size=8192,
        micro_batch_size=512,
        max_predictions_per_seq=77,
    )
    config.optimizer.name = "adamw"
    config.optimizer.schedule = "warmup_then_decay"
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 30_000
    config.optimizer.b2 = 0.98
    config.optimizer.decay_all = True
    config.optimizer.clip_norm = 0.0
    config.evaluation.batch_size = 256
    config.evaluation.num_examples = 4096
    return config
