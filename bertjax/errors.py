"""Exit codes and the errors that carry them.

A launcher decides from the exit code alone whether to restart. So every failure that a user can
cause or meet is one of these classes: `__main__` prints the message on one line and exits with the
class's code. Any other exception is a defect; it prints a traceback and exits with `INTERNAL`.
"""

DONE = 0
RESTART = 42  # preempted, lost peer, or no answer from a bucket: start the same command again
USAGE = 64
DATA = 65
INTERNAL = 70  # a defect, or training that does not stay finite
IO = 74
INTERRUPTED = 130  # second Ctrl-C: the run did not save


def one_line(error: BaseException | str, *, longest: int | None = None, first: bool = False) -> str:
    """An error's message without line breaks; the name of the error's class if it has no message.

    Args:
      longest: the most characters to keep; None keeps all.
      first: keep only the first line, because later lines of JAX errors are for JAX's developers.
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
    """Input text, a tokenizer, a store or a checkpoint is missing, damaged or does not fit."""

    exit_code = DATA


class NothingHeldOut(DataError):
    """There are no held-out examples; a training continues without evaluations."""


class NonFiniteError(BertjaxError):
    """Loss or gradients stayed non-finite for `max_consecutive_skips` updates."""

    exit_code = INTERNAL


class StorageError(BertjaxError):
    """The disk refused access: it is full, read-only or gone."""

    exit_code = IO


class Unavailable(StorageError):
    """An object store does not answer; the same command may succeed later."""

    exit_code = RESTART


class Preempted(BertjaxError):
    """A signal asked the run to stop; the state was saved and the same command resumes it."""

    exit_code = RESTART
