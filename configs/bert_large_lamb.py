"""BERT-Large with LAMB: batches of 64K at 128 tokens, then 32K at 512, in 8,599 steps.

Paper:    You et al. 2020 (Large Batch Optimization for Deep Learning: Training BERT in 76 minutes):
          65,536 sequences of 128, then 32,768 of 512, 8,599 steps in all. The split is inferred:
          1,562 steps at 32,768 are a tenth of 512M sequences, which leaves 7,037 steps. We found no
          rate for 65,536 in the paper.
Schedule: NVIDIA/DeepLearningExamples, PyTorch/LanguageModeling/BERT, the only complete published
          recipe for these batches (scripts/configs/pretrain_config.sh, schedulers.py): peaks 6e-3
          and 4e-3, warm-up over .2843 and .128 of the phase (2,000 and 200 steps), from 0 in each
          phase, square-root decay counted from the phase's start, before the warm-up. It takes
          7,038 + 1,563 steps. (The paper's decay is linear, as far as we know.)
LAMB:     with bias correction, as in the paper's Algorithm 2 and NVIDIA's code; decay 0.01;
          gradients clipped to a norm of 1; LayerNorm and biases neither decayed nor adapted.
          Google's code, google-research/albert lamb_optimizer.py, has no bias correction (here:
          bert_lamb). NVIDIA's code restarts the step count of bias correction in phase 2; here the
          count continues.
Data:     as in bert_base.py.
Command:  bertjax pretrain --config=configs/bert_large_lamb.py --workdir=W --config.mesh.fsdp=4 \
              --config.data.files='wiki/*.jsonl.gz,books/*.txt' --config.tokenizer.path=vocab.txt
Mesh:     planned for a TPU v4-128 (64 chips) as data 16 x fsdp 4: 4,096 sequences at once in phase
          1, 1,024 in phase 2. Elsewhere set phases.*.micro_batch_size to the rows that all devices
          hold together.
Expected: 336,226,108 parameters (tested), 8,388,608 then 16,777,216 tokens a step; memory in
          benchmarks/RESULTS.md. Full run: not yet run.
"""

from bertjax import config as config_lib


def get_config():
    config = config_lib.default()
    config.model.hidden_size = 1024
    config.model.num_hidden_layers = 24
    config.model.num_attention_heads = 16
    config.model.intermediate_size = 4096
    config.model.dtype = "bfloat16"
    config.phases.phase1 = config_lib.phase(
        steps=7037,
        sequence_length=128,
        batch_size=65_536,
        micro_batch_size=4096,
        max_predictions_per_seq=20,
        learning_rate=6e-3,
        warmup_steps=2000,
    )
    config.phases.phase2 = config_lib.phase(
        steps=1562,
        sequence_length=512,
        batch_size=32_768,
        micro_batch_size=1024,
        max_predictions_per_seq=80,
        learning_rate=4e-3,
        warmup_steps=200,
    )
    config.optimizer.name = "lamb"
    config.optimizer.decay_power = 0.5
    config.checkpoints.every_steps = 200
    config.evaluation.every_steps = 200
    config.evaluation.batch_size = 256
    config.evaluation.num_examples = 4096
    return config
