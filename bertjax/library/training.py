"""Training from Python: a config, and the runs that the commands make."""

import os
from typing import Any

from ml_collections import ConfigDict

from bertjax import commands, storage
from bertjax import config as config_lib
from bertjax.config import file as config_file
from bertjax.errors import UsageError
from bertjax.library import arguments


def default_config(name: str | None = None) -> ConfigDict:
    """A tree of all config fields, to be changed and given to `pretrain` or `finetune`.

    >>> config = bertjax.default_config("bert_base")
    >>> config.model.num_hidden_layers
    12
    >>> config.data.files = "my_text.txt"

    Args:
      name: a config that bertjax carries, `bert_base`, `quickstart`, ... (the files of `configs/`),
        with its argument behind a colon: `finetune:mrpc`. None: the defaults of all fields.

    Raises:
      UsageError: no such config; the message lists the names.
    """
    if name is None:
        return config_lib.default()
    try:
        return config_file.load(f"bertjax:{name}")
    except UsageError as error:
        _, _, reason = str(error).partition(": ")
        raise UsageError(f"name={name!r}: {reason}") from None


def pretrain(config: Any, workdir: str | os.PathLike) -> None:
    """Pretrains in `workdir` to the last step, or goes on from where that directory stands.

    >>> config = bertjax.default_config("quickstart")
    >>> config.phases.phase1.steps = 2_000
    >>> bertjax.pretrain(config, "runs/mine")  # doctest: +SKIP
    >>> model = bertjax.load("runs/mine")  # doctest: +SKIP

    The text is prepared first where `workdir/store` is missing. Nothing is printed: progress is
    logged, at level INFO, by loggers named `bertjax...`. Ctrl-C saves and raises Preempted; the
    same call goes on. A script calls this under `if __name__ == "__main__":`, as the processes that
    tokenize read the script again.

    Args:
      config: of `default_config`, or a `bertjax.config.Config`.
      workdir: holds everything that the run writes.

    Raises:
      UsageError, DataError, StorageError: the config, the text, the checkpoints or the disk forbid it.
        UsageError also if another start took `workdir` over, because this process was suspended or
        cut off from it for a minute: no line of metrics and no whole checkpoint is added then.
      Preempted: a signal asked to stop; the state is saved.
      NonFiniteError: too many updates in a row were not finite.
    """
    from bertjax import pretraining

    with arguments.named():
        found = commands.require_pretraining(_config(config))
        pretraining.pretrain(found, _directory(workdir))


def finetune(config: Any, workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Fine-tunes in `workdir`: one run, or all of `config.grid` and `config.seeds`; their scores.

    >>> config = bertjax.default_config("finetune:mrpc")
    >>> config.init_from, config.data.files = "hf:bert-base", "glue/MRPC"
    >>> [run] = bertjax.finetune(config, "runs/mrpc")  # doctest: +SKIP
    >>> run["metric"], run["value"]  # doctest: +SKIP
    ('f1', 0.89)

    Finished runs are not trained again. Logging and Ctrl-C are as of `pretrain`.

    Raises:
      UsageError, DataError, StorageError, Preempted, NonFiniteError: as `pretrain`; UsageError also
        where `workdir` holds a run of another rate, seed ...
    """
    from bertjax.finetune import runs

    with arguments.named():
        return runs.finetune(_config(config), _directory(workdir))


def _config(given: Any) -> config_lib.Config:
    if isinstance(given, config_lib.Config):
        return given
    if not isinstance(given, ConfigDict | dict):
        raise UsageError(f"config={given!r:.60}: is no config; default_config(NAME) makes one")
    return config_lib.from_config_dict(given)


def _directory(workdir: str | os.PathLike) -> Any:
    if not os.fspath(workdir):
        raise UsageError("workdir='': names no directory")
    commands.require_directory(os.fspath(workdir))
    return storage.path(workdir)
