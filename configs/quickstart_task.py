"""A task on built-in text, for the model of configs/quickstart.py: which package is a docstring of?

What:     docstrings of the six packages of the standard library with most of them; modules that are
          scored are not trained on. `random` starts from random weights: what pretraining brought is the difference.
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
