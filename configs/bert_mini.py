"""BERT-Mini (4 layers, hidden 256; Turc et al. 2019) in an hour and a quarter on one CPU core.

Recipe:   what makes few tokens go far, as in quickstart.py: 40% of the tokens are predicted (Wettig
          et al. 2023), rows are short first and double twice, a step has 1,024 tokens. In rows of
          128 with 15% predicted the same hour ends on the first plateau, where a model knows little
          but frequencies. No text is seen twice, so dropout would only slow training down and is
          off. The rate is ten times Base's, because the model is small. Rows end at 128 tokens, so
          the positions beyond are untrained: add a phase for longer text.
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
    config.model.dtype = "auto"  # bfloat16 products where the processor has them
    config.model.hidden_dropout_prob = 0.0
    config.model.attention_probs_dropout_prob = 0.0
    config.masking.masked_lm_prob = 0.4
    config.evaluation.masked_lm_prob = 0.15
    config.objective.nsp = 0.1
    config.phases.phase1 = config_lib.phase(
        steps=2500, sequence_length=32, batch_size=32, max_predictions_per_seq=13
    )
    config.phases.phase2 = config_lib.phase(
        steps=1200, sequence_length=64, batch_size=16, max_predictions_per_seq=26
    )
    config.phases.phase3 = config_lib.phase(
        steps=2500, sequence_length=128, batch_size=8, max_predictions_per_seq=52
    )
    config.optimizer.name = "adamw"
    config.optimizer.b2 = 0.98
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 300
    config.evaluation.every_steps = 250
    config.checkpoints.every_steps = 500
    config.evaluation.batch_size = 32
    return config
