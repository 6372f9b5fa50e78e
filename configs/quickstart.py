"""A small BERT, trained on the prose of your Python installation: minutes on a laptop, no download.

What:     2 layers, hidden 128, a WordPiece vocabulary of 4,096 trained on the spot, no dropout.
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
    config.model.num_attention_heads = 2
    config.model.intermediate_size = 512
    config.model.max_position_embeddings = 64
    config.model.hidden_dropout_prob = 0.0
    config.model.attention_probs_dropout_prob = 0.0
    config.model.scan_unroll = 0
    config.phases.phase1 = config_lib.phase(
        steps=2000, sequence_length=64, batch_size=64, max_predictions_per_seq=10
    )
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 200
    config.evaluation.every_steps = 500
    config.checkpoints.every_steps = 500
    config.logging.every_steps = 20
    return config
