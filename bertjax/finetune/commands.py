"""The commands of fine-tuning: `finetune`, `glue`, `predict`."""

import time

from bertjax import config as config_lib
from bertjax import storage
from bertjax.commands import Values
from bertjax.errors import UsageError

_STARTED = time.monotonic()


def finetune(values: Values, args: list[str]) -> list[str]:
    """finetune --config=configs/finetune.py:TASK --workdir=W --config.init_from=URI
        --config.data.files=PATH [--config.FIELD=VALUE ...]

    Trains on a task and scores it. TASK: cola sst2 mrpc stsb qqp mnli qnli rte wnli squad squad2
    swag race imdb; for data of your own single pair regression multiple_choice span token, with
    config.task to name columns. PATH is the task's folder as it is published, or files. init_from is
    any source of convert; its own tokenizer is taken. --config.seeds=5 and config.grid run several,
    one after the other, and make a table, W/results.json and W/results.png. What was interrupted
    goes on where it was.
    """
    from bertjax.finetune import runs
    from bertjax.processes import distributed

    if values.config is None:
        raise UsageError("--config: missing; for example --config=configs/finetune.py:mrpc")
    if not values.workdir:
        raise UsageError("--workdir: missing; name the directory for what this run writes")
    config = config_lib.from_config_dict(values.config)
    with distributed.processes():
        runs.finetune(config, storage.path(values.workdir), _STARTED)
    return [f"bertjax predict {values.workdir} --input=FILE"]
