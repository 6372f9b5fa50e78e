"""A small BERT, trained on the prose of your Python installation: minutes on a laptop, no download.

What:     2 layers, hidden 128, a WordPiece vocabulary of 4,096 trained on the spot, no dropout.
Recipe:   what makes few tokens go far (every try is in benchmarks/RESULTS.md, "Quickstart").
          40% of the tokens are predicted, not 15% (Wettig et al. 2023): more to learn from a step.
          Rows are short first, as in BERT's own recipe: attention to neighbors is learned for 32
          positions, not 64. Then fewer are hidden (13 of 64), because what tells the next sentence
          is a word that both segments have, and 40% of the words hides most of these.
          Held-out figures are of 15%, as everybody's.
Command:  make quickstart
          (= bertjax pretrain --config=configs/quickstart.py --workdir=runs/quickstart)
Expected: see benchmarks/RESULTS.md, "Quickstart".
"""

from bertjax import config as config_lib


def get_config():
    config = config_lib.default()
    config.data.source = "sample"
    config.data.heldout_fraction = 0.05
    config.tokenizer.vocab_size = 4096
    config.model.vocab_size = 0  # the tokenizer's
    config.model.hidden_size = 128
    config.model.num_hidden_layers = 2
    config.model.num_attention_heads = 4
    config.model.intermediate_size = 512
    config.model.max_position_embeddings = 64
    config.model.initializer_range = 0.04  # about half of 1 / sqrt(128); .02 suits a width of 768
    config.model.dtype = "auto"  # bfloat16 products where the processor has them
    config.model.hidden_dropout_prob = 0.0
    config.model.attention_probs_dropout_prob = 0.0
    config.masking.masked_lm_prob = 0.4
    config.evaluation.masked_lm_prob = 0.15
    config.phases.phase1 = config_lib.phase(
        steps=2000, sequence_length=32, batch_size=32, max_predictions_per_seq=13
    )
    config.phases.phase2 = config_lib.phase(
        steps=3200, sequence_length=64, batch_size=16, max_predictions_per_seq=13
    )
    config.optimizer.name = "adamw"
    config.optimizer.b2 = 0.98
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 300
    config.evaluation.every_steps = 1000
    config.checkpoints.every_steps = 1000
    config.logging.every_steps = 20
    return config
