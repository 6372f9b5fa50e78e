"""The papers' fine-tuning recipes, as configs for a task; `configs/` gives each its file."""

from ml_collections import ConfigDict

from bertjax import config as config_lib
from bertjax.config.finetune_fields import KINDS
from bertjax.errors import UsageError
from bertjax.finetune.tasks import TASKS

# Task -> (length, batch, epochs, rate): what google-research/bert's README and the paper's
# appendix A.3 and section 4 name; the rest has the middle of the paper's grid.
_BERT = {
    "squad": (384, 32, 3.0, 5e-5),
    "squad2": (384, 48, 2.0, 5e-5),
    "swag": (128, 16, 3.0, 2e-5),
    "race": (512, 16, 3.0, 2e-5),
    "imdb": (512, 32, 3.0, 2e-5),
    "token": (128, 32, 3.0, 5e-5),
}
# Task -> (length, batch, epochs, rate, warm-up): fairseq, examples/roberta/README.glue.md and its
# siblings on SQuAD and RACE.
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
      task: of `tasks.TASKS`, or a kind for data of one's own.
      grid: the paper's search: batch 16 and 32, rates 5e-5, 3e-5 and 2e-5, 2 to 4 epochs.
      published: as google-research/bert ran it: Adam without bias correction (Mosbach et al. 2021:
        runs on small tasks fail more often so), random batches, all padded to one length.
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

    Adam with betas .9 and .98, decay 0.1 (SQuAD: 0.01), no clipping; QQP warms up 25% of its steps;
    STS-B is trained on the target over 5, and its best weights are those of the smallest loss.
    """
    length, batch, epochs, rate, warmup = _ROBERTA.get(task, (512, 16, 10.0, 1e-5, 0.06))
    config = _base(task, length, batch, epochs, rate)
    config.optimizer.name = "adamw"
    config.optimizer.b2 = 0.98
    config.optimizer.weight_decay = 0.01 if task in ("squad", "squad2") else 0.1
    config.optimizer.clip_norm = 0.0
    config.optimizer.decay_all = True  # fairseq spares nothing
    config.optimizer.schedule = "warmup_then_decay"
    config.finetune.warmup_fraction = warmup
    config.finetune.select = "best"
    if task in ("cola", "mrpc", "qqp"):
        config.finetune.metric = "accuracy"  # by which fairseq chose the best checkpoint
    if task == "stsb":
        config.task.target_scale = 5.0
        config.finetune.metric = "loss"
    return config


def distilbert(task: str) -> ConfigDict:
    """Sanh et al. 2019: the paper names no rates; these are its library's defaults of that time.

    3 epochs of AdamW at 5e-5, eps 1e-8, no warm-up and no decay. The batch of 32 is ours.
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
    config.model.head = "none"  # the task's is taken
    config.objective.mlm = config.objective.nsp = 0.0
    config.phases.phase1 = config_lib.phase(
        steps=0, sequence_length=length, batch_size=batch, max_predictions_per_seq=1
    )
    config.finetune.epochs = epochs
    config.optimizer.learning_rate = rate
    config.optimizer.warmup_steps = 0  # finetune.warmup_fraction says
    config.evaluation.every_steps = 0  # finetune.evaluations_per_epoch says
    config.data.heldout_fraction = 0.1
    config.logging.tensorboard = False
    config.model.scan_unroll = 0  # a step is a fifth faster, its compilation a third slower
    return config
