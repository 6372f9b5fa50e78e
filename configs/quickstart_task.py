"""A task on built-in text, for configs/quickstart.py's model: which package has this docstring?

What:     docstrings of the six packages of the standard library that have the most docstrings.
          Modules for scoring are not used in training. `random` starts from random weights: the
          difference is the gain from pretraining.
Command:  make quickstart
          (= bertjax finetune --config=configs/quickstart_task.py --workdir=runs/quickstart/task \
              --config.init_from=runs/quickstart)
Expected: see benchmarks/RESULTS.md, "Quickstart"; it depends on the version of Python.
"""

from bertjax import config as config_lib
from bertjax.finetune import recipes


def get_config(arg=None):
    arg = config_lib.parse_arg(arg, random=False)
    config = recipes.bert("single")
    config.data.source = "sample"
    config.finetune.random_start = arg.random
    config.finetune.epochs = 4.0  # of 8, random weights gain as much
    config.finetune.buckets = 2
    config.optimizer.learning_rate = 5e-4
    config.model.hidden_dropout_prob = 0.0
    config.model.attention_probs_dropout_prob = 0.0
    config.phases.phase1.sequence_length = 64
    return config
