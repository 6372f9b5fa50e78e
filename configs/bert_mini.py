"""BERT-Mini (4 layers, hidden 256; Turc et al. 2019) in about an hour on two CPU cores.

Recipe:   BERT's, shortened: 2,900 steps that see 12M tokens, 93% of the steps at 128 and the rest
          at 512. That is less than one epoch of 100 MB of text. No text is seen twice, so dropout
          would only slow training down and is off. The rate is ten times Base's, because the model
          is small.
Data:     any corpus of 100 MB or more; tokenizer.path=vocab.txt for a published vocabulary.
Command:  bertjax pretrain --config=configs/bert_mini.py --workdir=W \
              --config.data.files=corpus.jsonl.gz --config.tokenizer.path=vocab.txt
Expected: the learning curve in benchmarks/RESULTS.md.
"""

from bertjax import config as config_lib


def get_config():
    config = config_lib.default()
    config.model.hidden_size = 256
    config.model.num_hidden_layers = 4
    config.model.num_attention_heads = 4
    config.model.intermediate_size = 1024
    config.model.scan_unroll = 0  # four layers compile fast, and a CPU runs them faster unrolled
    config.model.hidden_dropout_prob = 0.0
    config.model.attention_probs_dropout_prob = 0.0
    config.phases.phase1 = config_lib.phase(
        steps=2700, sequence_length=128, batch_size=32, max_predictions_per_seq=20
    )
    config.phases.phase2 = config_lib.phase(
        steps=200, sequence_length=512, batch_size=8, max_predictions_per_seq=77
    )
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 500
    config.evaluation.every_steps = 250
    config.checkpoints.every_steps = 500
    config.evaluation.batch_size = 32
    return config
