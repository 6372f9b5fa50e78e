"""BERT-Base, uncased: the original recipe.

Paper:    Devlin et al. 2018, section A.2: 1M steps of 256 sequences, 90% at 128 tokens and 10% at
          512; Adam 1e-4 with 10,000 warm-up steps, decay 0.01, dropout 0.1, gelu.
Data:     set data.files to English Wikipedia and a book corpus, tokenizer.path to the published
          vocab.txt (or leave it unset to train a vocabulary).
Command:  bertjax pretrain --config=configs/bert_base.py --workdir=W \
              --config.data.files='wiki/*.jsonl.gz,books/*.txt' --config.tokenizer.path=vocab.txt
Expected: 110,106,428 parameters (tested). Full run: not yet run.
"""

from bertjax import config as config_lib


def get_config():
    config = config_lib.default()
    config.model.dtype = "bfloat16"
    config.phases.phase1 = config_lib.phase(
        steps=900_000, sequence_length=128, batch_size=256, max_predictions_per_seq=20
    )
    config.phases.phase2 = config_lib.phase(
        steps=100_000, sequence_length=512, batch_size=256, max_predictions_per_seq=77
    )
    config.checkpoints.every_steps = 5000
    config.evaluation.every_steps = 5000
    config.logging.every_steps = 100
    return config
