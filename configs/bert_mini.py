"""BERT-Mini (4 layers, hidden 256) at a scale that two CPU cores train in hours.

Paper:    Turc et al. 2019 for the size; the recipe is BERT's with a shorter schedule and a
          higher rate, as the model is small.
Data:     any corpus of some 100 MB; tokenizer.path=vocab.txt for a published vocabulary.
Command:  bertjax pretrain --config=configs/bert_mini.py --workdir=W \
              --config.data.files=corpus.jsonl.gz --config.tokenizer.path=vocab.txt
Expected: 11,170,560 parameters in the encoder. Learning curve: benchmarks/RESULTS.md.
"""

from bertjax import config as config_lib


def get_config():
    config = config_lib.default()
    config.model.hidden_size = 256
    config.model.num_hidden_layers = 4
    config.model.num_attention_heads = 4
    config.model.intermediate_size = 1024
    config.phases.phase1 = config_lib.phase(
        steps=18_000, sequence_length=128, batch_size=32, max_predictions_per_seq=20
    )
    config.phases.phase2 = config_lib.phase(
        steps=2000, sequence_length=512, batch_size=8, max_predictions_per_seq=77
    )
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 1000
    config.evaluation.every_steps = 1000
    config.evaluation.batch_size = 32
    return config
