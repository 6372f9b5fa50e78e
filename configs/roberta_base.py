"""RoBERTa-Base: 500K steps of 8K sequences of 512 tokens.

Paper:    Liu et al. 2019, table 9: peak 6e-4 after 24,000 steps of warm-up, then linear to 0; betas
          .9/.98, eps 1e-6, decay 0.01, no clipping, dropout 0.1; FULL-SENTENCES (section 4.2).
          GPT-2's BPE, 50,265 tokens, one (unused) token type, as in the published weights.
Code:     Where the paper is silent, we follow fairseq's code. mask_tokens_dataset.py rounds the
          number of masks up or down at random (76 or 77 of 512), may choose <s> and </s>, and draws
          replacements from all tokens except the special ones. polynomial_decay_schedule.py decays
          from the peak, at the end of the warm-up. Weight decay applies to every parameter. "8K" is
          8,192 (examples/roberta/README.pretraining.md says 8192, with a rate of 7e-4 for it).
          One difference: here weights start from a truncated normal.
Data:     any corpus (the paper's 160 GB are not all public). tokenizer.path=encoder.json of GPT-2,
          with vocab.bpe and dict.txt beside it (or unset, to train 50,265 tokens).
Command:  bertjax pretrain --config=configs/roberta_base.py --workdir=W \
              --config.data.files='corpus/*.jsonl.gz' --config.tokenizer.path=encoder.json
Mesh:     planned for a TPU v4-64 (32 chips), all of it `data`: 1,024 sequences at once, 32 a chip.
          Elsewhere set phases.phase1.micro_batch_size to the rows that all devices hold together.
Expected: 124,697,433 parameters (tested), 4,194,304 tokens a step; memory in benchmarks/RESULTS.md.
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
        micro_batch_size=1024,
        max_predictions_per_seq=77,
    )
    config.optimizer.name = "adamw"
    config.optimizer.schedule = "warmup_then_decay"
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 24_000
    config.optimizer.b2 = 0.98
    config.optimizer.decay_all = True
    config.optimizer.clip_norm = 0.0
    config.evaluation.batch_size = 256
    config.evaluation.num_examples = 4096
    return config
