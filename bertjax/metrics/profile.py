"""An XProf trace of a few steps."""

from pathlib import Path

import jax

from bertjax import storage
from bertjax.config import Logging


def follow(config: Logging, directory: Path, step: int) -> None:
    """Starts or ends the trace where it is due; call it before every step.

    It goes to W/tensorboard, or to ./profile for a W on gs://: the profiler writes to disks only.
    """
    start = config.profile_start
    if start and step == start:
        remote = storage.is_remote(directory)
        jax.profiler.start_trace("profile" if remote else str(directory / "tensorboard"))
    if start and step == start + config.profile_steps:
        jax.profiler.stop_trace()
