"""What a command is, and which commands fit after it, as somebody would type them."""

import dataclasses
import inspect
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertjax import storage
from bertjax.errors import UsageError

Values = Any  # absl's FlagValues: an attribute for each flag of the command


@dataclasses.dataclass(frozen=True)
class Flag:
    """`--NAME=VALUE` of a command.

    Attributes:
      kind: str, bool or int.
      choices: the values that will do; () where all will.
      least: the smallest number that will do.
    """

    name: str
    default: str | bool | int | None = None
    kind: type = str
    choices: tuple[str, ...] = ()
    least: int | None = None


@dataclasses.dataclass(frozen=True)
class Command:
    """The definition of one command: help, flags and errors come from here.

    Attributes:
      name: what follows `bertjax` on the command line.
      run: `(flag values, arguments) -> the commands that fit after it, or None`. Its docstring is
        the usage, a line, and after an empty line what the command does.
      arguments: the names of what stands without a flag, in order; None where `run` looks itself.
      flags: those that only some commands have.
      reads_config: has --config, --config.FIELD and --workdir, and no arguments but after `--`.
      finds_config: without --config, it takes that of the run in --workdir.
      makes_config: has no --config; the values set by --config.FIELD are the value of `config`.
      outlives_reader: goes on when nobody reads its output any more.
    """

    name: str
    run: Callable[..., list[str] | None]
    arguments: tuple[str, ...] | None = ()
    flags: tuple[Flag, ...] = ()
    reads_config: bool = False
    finds_config: bool = False
    makes_config: bool = False
    outlives_reader: bool = False

    @property
    def usage(self) -> tuple[str, str]:
        """The line that shows how to type it, and what it does."""
        line, _, text = (inspect.getdoc(self.run) or "").partition("\n\n")
        return line, text


def suggest(lines: list[str] | None) -> None:
    """Says on a terminal which commands come next; logs and other programs are spared."""
    if lines and sys.stderr.isatty():
        print("\nnext:", *lines, sep="\n  ", file=sys.stderr)


def after_prepare(arguments: list[str]) -> list[str]:
    """Of the arguments of `prepare`, all are also `pretrain`'s but the ones of Beam."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [a for a in arguments[:end] if not a.lstrip("-").startswith("runner")]
    return [shlex.join(["bertjax", "pretrain", *kept])]


def after_pretrain(workdir: str, mask_token: str) -> list[str]:
    """The commands that read a run.

    Args:
      mask_token: as its tokenizer writes one.
    """
    return [
        shlex.join(["bertjax", "evaluate", f"--workdir={workdir}"]),
        _fill_mask(workdir, mask_token),
        shlex.join(["bertjax", "convert", workdir, "hf:DIR"]),
    ]


def after_finetune(workdir: str) -> list[str]:
    """The commands that read a fine-tuned run, or the best one of a grid."""
    return [
        shlex.join(["bertjax", "predict", workdir, "--input=FILE"]),
        shlex.join(["bertjax", "convert", workdir, "hf:DIR"]),
    ]


def after_convert(destination: str, pretrained: Any) -> list[str]:
    """The commands that read `destination` and fit its head; none for a form that is only written.

    Args:
      pretrained: the `Pretrained` that was written there.
    """
    tokenizer, lines = pretrained.tokenizer, []
    if destination.startswith(("onnx:", "onnx-", "stablehlo:")):
        return lines
    if tokenizer is not None and pretrained.config.model.has_masked_lm:
        lines.append(_fill_mask(destination, tokenizer.tokens([tokenizer.mask_id])[0]))
    if tokenizer is not None:
        lines.append(shlex.join(["bertjax", "embed", destination, "a sentence"]))
    return lines


def _fill_mask(source: str, mask_token: str) -> str:
    text = f"The capital of France is {mask_token}."
    return shlex.join(["bertjax", "fill-mask", source]) + f' "{text}"'


def workdir_of(values: Values) -> Path:
    """The directory that --workdir names.

    Raises:
      UsageError: it is missing, or names none.
    """
    if not values.workdir:
        raise UsageError("--workdir: missing; name the directory for what this run writes")
    require_directory(values.workdir)
    return storage.path(values.workdir)


def require_pretraining(config: Any) -> Any:
    """The config; raises UsageError where it is of a fine-tuning, which has a command of its own."""
    if config.is_finetuning:
        name = config.task.name or config.task.kind
        raise UsageError(f"--config: a fine-tuning on {name}; run bertjax finetune with it")
    return config


def require_directory(workdir: str | None) -> None:
    """Refuses a --workdir that is no directory, or only a part of a run's."""
    if not workdir:
        return
    storage.require_bucket(workdir)
    path = storage.path(workdir)
    if storage.is_file(path):
        raise UsageError(f"--workdir={path}: is a file; name a directory")
    if path.name == "checkpoints" and storage.is_file(path.parent / "config.json"):
        raise UsageError(f"--workdir={path}: a part of a run; write --workdir={path.parent}")
