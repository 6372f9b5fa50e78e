"""Exit codes and the errors that carry them.

A launcher decides from the exit code alone whether to restart, so every failure a user
can cause or meet is one of these classes; `__main__` prints its message on one line and
leaves with its code. Anything else is a defect and leaves with `INTERNAL` and a traceback.
"""

DONE = 0
RESTART = 42  # preempted, a peer lost, a bucket silent: start the same command again
USAGE = 64
DATA = 65
INTERNAL = 70  # a defect, or training that does not stay finite
IO = 74
INTERRUPTED = 130  # second Ctrl-C: nothing more was saved


def one_line(error: BaseException | str, *, longest: int | None = None, first: bool = False) -> str:
    """A message without its line breaks, or the name of the error's class where it has none.

    Args:
      longest: characters that are kept; None keeps all.
      first: keep the first line only: the others of a JAX error are for its developers.
    """
    lines = str(error).splitlines()[:1] if first else [str(error)]
    return " ".join("".join(lines).split())[:longest] or type(error).__name__


class BertjaxError(Exception):
    """An expected failure: one clear line for the user and an exit code for the launcher."""

    exit_code = INTERNAL


class UsageError(BertjaxError):
    """A command line or config that cannot be run: names the field, the value and the fix."""

    exit_code = USAGE


class DataError(BertjaxError):
    """Input text, a tokenizer, a store or a checkpoint that is missing, damaged or does not fit."""

    exit_code = DATA


class NothingHeldOut(DataError):
    """There is nothing to evaluate on; a training goes on without."""


class NonFiniteError(BertjaxError):
    """Loss or gradients stayed non-finite for `max_consecutive_skips` updates."""

    exit_code = INTERNAL


class StorageError(BertjaxError):
    """The disk refused: full, read-only, or gone."""

    exit_code = IO


class Unavailable(StorageError):
    """An object store does not answer now; the same command may succeed later."""

    exit_code = RESTART


class Preempted(BertjaxError):
    """A signal asked the run to stop; the state was saved and the same command resumes it."""

    exit_code = RESTART
