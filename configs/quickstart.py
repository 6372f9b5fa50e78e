"""A small BERT on the prose of the Python installation itself: minutes on a laptop, no download.

What:     2 layers, hidden 128, a WordPiece vocabulary of 8,192 trained on the spot.
Command:  make quickstart
          (= bertjax pretrain --config=configs/quickstart.py --workdir=runs/quickstart)
Expected: see README.md, "What was measured".
"""

from bertjax import config as config_lib


def get_config():
    config = config_lib.default()
    config.data.source = "sample"
    config.data.heldout_fraction = 0.05
    config.tokenizer.vocab_size = 8192
    config.model.vocab_size = 0  # the tokenizer's
    config.model.hidden_size = 128
    config.model.num_hidden_layers = 2
    config.model.num_attention_heads = 2
    config.model.intermediate_size = 512
    config.model.max_position_embeddings = 128
    config.phases.phase1 = config_lib.phase(
        steps=2000, sequence_length=64, batch_size=64, max_predictions_per_seq=10
    )
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 200
    config.evaluation.every_steps = 500
    config.checkpoints.every_steps = 500
    return config
