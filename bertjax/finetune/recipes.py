"""The papers' fine-tuning recipes: the config of each task. `configs/` has a file per recipe."""

from ml_collections import ConfigDict

from bertjax import config as config_lib
from bertjax.config.finetune_fields import KINDS
from bertjax.errors import UsageError
from bertjax.finetune.tasks import TASKS

# Task -> (length, batch, epochs, rate), from google-research/bert's README and the paper's
# appendix A.3 and section 4. All other tasks take the middle of the paper's grid.
_BERT = {
    "squad": (384, 32, 3.0, 5e-5),
    "squad2": (384, 48, 2.0, 5e-5),
    "swag": (128, 16, 3.0, 2e-5),
    "race": (512, 16, 3.0, 2e-5),
    "imdb": (512, 32, 3.0, 2e-5),
    "token": (128, 32, 3.0, 5e-5),
}
# Task -> (length, batch, epochs, rate, warm-up share), from fairseq's examples/roberta:
# README.glue.md and the pages on SQuAD and RACE.
_ROBERTA = {
    "mnli": (512, 32, 10.0, 1e-5, 0.06),
    "qnli": (512, 32, 10.0, 1e-5, 0.06),
    "qqp": (512, 32, 10.0, 1e-5, 0.25),
    "rte": (512, 16, 10.0, 2e-5, 0.06),
    "sst2": (512, 32, 10.0, 1e-5, 0.06),
    "mrpc": (512, 16, 10.0, 1e-5, 0.06),
    "cola": (512, 16, 10.0, 1e-5, 0.06),
    "stsb": (512, 16, 10.0, 2e-5, 0.06),
    "squad": (512, 48, 2.0, 1.5e-5, 0.06),
    "squad2": (512, 48, 2.0, 1.5e-5, 0.06),
    "race": (512, 16, 4.0, 1e-5, 0.06),
}


def bert(task: str, *, grid: bool = False, published: bool = False) -> ConfigDict:
    """Devlin et al. 2018, section A.3: Adam with 10% warm-up and linear decay, dropout 0.1.

    Args:
      task: a name of `tasks.TASKS`, or a kind of `tasks.KINDS` for the user's own data.
      grid: run the paper's search: batch 16 and 32, rates 5e-5, 3e-5 and 2e-5, 2 to 4 epochs.
      published: train as google-research/bert did: Adam without bias correction, random batches,
        all padded to one length. Without bias correction, runs on small tasks fail more often
        (Mosbach et al. 2021).
    """
    config = _base(task, *_BERT.get(task, (128, 32, 3.0, 2e-5)))
    config.optimizer.name = "bert_adamw" if published else "adamw"
    if published:
        config.finetune.group_lengths = False
        config.finetune.buckets = 0
    if grid:
        config.grid.batch_size = (16, 32)
        config.grid.learning_rate = (5e-5, 3e-5, 2e-5)
        config.grid.epochs = (2.0, 3.0, 4.0)
    return config


def roberta(task: str) -> ConfigDict:
    """Liu et al. 2019, section 5.1: 6% warm-up, up to 10 epochs, the best evaluation counts.

    Adam has betas .9 and .98, decay 0.1 (SQuAD: 0.01) and no clipping. QQP warms up for 25% of its
    steps. STS-B trains on the target divided by 5, and the weights with the smallest loss count.
    """
    length, batch, epochs, rate, warmup = _ROBERTA.get(task, (512, 16, 10.0, 1e-5, 0.06))
    config = _base(task, length, batch, epochs, rate)
    config.optimizer.name = "adamw"
    config.optimizer.b2 = 0.98
    config.optimizer.weight_decay = 0.01 if task in ("squad", "squad2") else 0.1
    config.optimizer.clip_norm = 0.0
    config.optimizer.decay_all = True  # fairseq also decays biases and layer norms
    config.optimizer.schedule = "warmup_then_decay"
    config.finetune.warmup_fraction = warmup
    config.finetune.select = "best"
    if task in ("cola", "mrpc", "qqp"):
        config.finetune.metric = "accuracy"  # fairseq chose the best checkpoint by accuracy
    if task == "stsb":
        config.task.target_scale = 5.0
        config.finetune.metric = "loss"
    return config


def distilbert(task: str) -> ConfigDict:
    """Sanh et al. 2019. The paper names no rates; the values are its library's defaults in 2019.

    3 epochs of AdamW at 5e-5, eps 1e-8, no warm-up and no decay. The batch size of 32 is ours.
    """
    length, batch, _, _ = _BERT.get(task, (128, 32, 3.0, 5e-5))
    config = _base(task, length, batch, 3.0, 5e-5)
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.0
    config.optimizer.eps = 1e-8
    config.finetune.warmup_fraction = 0.0
    return config


def _base(task: str, length: int, batch: int, epochs: float, rate: float) -> ConfigDict:
    if task not in TASKS and task not in KINDS:
        raise UsageError(
            f"--config=FILE:{task}: no such task; there are {' '.join(TASKS)}, and for data of your "
            f"own {' '.join(KINDS)}"
        )
    config = config_lib.default()
    if task in TASKS:
        config.task.name = task
    else:
        config.task.kind = task
    config.model.head = "none"  # the task chooses the head
    config.objective.mlm = config.objective.nsp = 0.0
    config.phases.phase1 = config_lib.phase(
        steps=0, sequence_length=length, batch_size=batch, max_predictions_per_seq=1
    )
    config.finetune.epochs = epochs
    config.optimizer.learning_rate = rate
    config.optimizer.warmup_steps = 0  # finetune.warmup_fraction decides
    config.evaluation.every_steps = 0  # finetune.evaluations_per_epoch decides
    config.data.heldout_fraction = 0.1
    config.logging.tensorboard = False
    config.model.scan_unroll = 0  # a step is a fifth faster; compiling takes a third longer
    return config
