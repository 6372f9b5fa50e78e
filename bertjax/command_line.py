"""A command line, parsed into the values of a command's flags or refused in one line."""

import contextlib
import difflib
import importlib.metadata
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from bertjax import storage
from bertjax.commands import Command, Values, require_directory
from bertjax.config import Config, aliases
from bertjax.config import file as config_file
from bertjax.config import help as config_help
from bertjax.config import tree as config_tree
from bertjax.config import values as config_values
from bertjax.errors import UsageError, one_line

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # what editors and web pages make of "-"


def asked_text(command: str, arguments: list[str], commands: dict[str, Command]) -> str | None:
    """What --help or --version asks for; None where nobody asks.

    Args:
      command: what stands first on the command line, a command or not.
      commands: all that there are, by name.
    """
    helps = {"-h", "--help", "--helpfull"}
    if command == "--version":
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"bertjax {importlib.metadata.version('bertjax')}"
        return "bertjax, not installed"
    if command in helps | {"help"}:
        named = next((name for name in arguments if name in commands), None)
        return _help_on(commands[named]) if named else _help(commands.values())
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return _help_on(commands[command]) if command in commands and helps & set(own) else None


def _help(commands: Iterable[Command]) -> str:
    """The text of --help, of all commands."""
    usages = (command.usage for command in commands)
    parts = (f"bertjax {line}\n{textwrap.indent(text, '    ')}\n" for line, text in usages)
    return (
        "usage: bertjax COMMAND ...\n\n"
        + "\n".join(parts)
        + "\nbertjax COMMAND --help lists the config fields."
    )


def _help_on(command: Command) -> str:
    """The text of --help, of one command with every config field it reads."""
    text = "usage: bertjax " + "\n\n".join(command.usage)
    if command.reads_config:
        rows = (f"  --{f}={default}\n      {help}" for f, default, help in config_help.describe())
        text += (
            "\n\nConfig fields, with their defaults. None is unset: =None unsets such a field again."
            " A whole number may be written 10_000 or 1e4.\n" + "\n".join(rows)
        )
    return text


def define(command: Command) -> flags.FlagValues:
    """The flags of a command, with their defaults."""
    values = flags.FlagValues()
    if command.reads_config:
        flags.DEFINE_string("config", None, "", flag_values=values)
        flags.DEFINE_string("workdir", None, "", flag_values=values)
    for flag in command.flags:
        given: tuple[str, Any] = (flag.name, flag.default)
        if flag.kind is bool:
            flags.DEFINE_bool(*given, "", flag_values=values)
        elif flag.kind is int:
            flags.DEFINE_integer(*given, "", flag.least, flag_values=values)
        elif flag.choices:
            flags.DEFINE_enum(*given, flag.choices, "", flag_values=values)
        else:
            flags.DEFINE_string(*given, "", flag_values=values)
    return values


def parse(name: str, argv: list[str], commands: dict[str, Command]) -> tuple[Values, list[str]]:
    """`(flag values, arguments)` of the command `name`.

    Of --config, the value is the tree of the file (where the command finds it itself, of the run),
    with every --config.FIELD=VALUE set in it; None without one.

    Args:
      argv: what follows the command.
      commands: all that there are, by name: another may have a flag that this one has not.

    Raises:
      UsageError: an unknown flag or config field, a value that does not parse, a config file
        that does not run, no config in the run's --workdir, or other arguments than the command has.
    """
    command = commands[name]
    values: Values = define(command)
    try:
        argv = values.read_flags_from_files([command.name, *argv], force_gnu=False)[1:]
        end = argv.index("--") if "--" in argv else len(argv)
        rest, overrides = _split(command, values, argv[:end], commands)
        args = values([command.name, *rest])[1:]
    except flags.Error as error:
        raise UsageError(_reason(error)) from None
    if command.reads_config and args:
        raise UsageError(_stray(command, args[0]))
    args += argv[end + 1 :]
    if command.arguments is not None and len(args) != len(command.arguments):
        raise UsageError(_miscounted(command.arguments, args))
    if command.reads_config:
        values.config = _config(command, values, overrides)
    return values, args


def _config(command: Command, values: Values, overrides: dict) -> ConfigDict | dict | None:
    if command.makes_config and values.config:
        raise UsageError(f"--config={values.config}: {command.name} takes no config file")
    if command.makes_config:
        return overrides
    tree = None
    if values.config:
        tree = config_file.load(values.config)
    elif command.finds_config and values.workdir is not None:
        from bertjax import workdir  # with JAX, which other commands do without until they need it

        require_directory(values.workdir)
        tree = config_tree.to_config_dict(workdir.read_config(storage.path(values.workdir)))
    elif overrides:
        raise UsageError(f"{next(iter(overrides))}: --config is missing; name a config file")
    for flag, value in overrides.items():
        config_tree.override(tree, flag, value)
    return tree


def _split(
    command: Command, values: Values, argv: list[str], commands: dict[str, Command]
) -> tuple[list[str], dict]:
    """`(the other arguments, {"--config.FIELD": value})`, every flag checked for its form.

    absl would take `--workdir --json` for a directory named --json, and the `false` of
    `--allow_pickle false` for an argument of the command.
    """
    rest, overrides, given, index = [], {}, {}, 0
    while index < len(argv):
        arg, index = argv[index], index + 1
        following = argv[index : index + 2]
        name, equals, text = arg.lstrip("-").partition("=")
        _refuse_other_dashes(arg, values)
        if not arg.startswith("-") or not name:
            rest.append(arg)
            continue
        is_field = command.reads_config and re.match(r"(no)?config\.", name)
        if not is_field and name not in values and name.removeprefix("no") not in values:
            raise UsageError(_unknown(command, name, values, commands))
        negated = name.startswith("noconfig.") or (not is_field and name not in values)
        name = name.removeprefix("no") if negated else name
        hint = config_help.type_of(name) if is_field else (bool if values[name].boolean else str)
        if hint in (bool, bool | None) and not equals:
            _refuse_value_apart(name, following)
            text, equals = str(not negated).lower(), "="
        elif not equals:
            _refuse_no_value(name, following)
            text, index = following[0], index + 1
        value = config_values.read(hint, text, f"--{name}") if is_field else text
        if name in given and given[name] != value and not is_field:
            raise UsageError(f"--{name} is given twice: {given[name]} and {value}; name one")
        if name in given and given[name] != value:
            print(f"--{name} is given twice: the last, {value}, counts", file=sys.stderr)
        given[name] = value
        if is_field:
            overrides[f"--{name}"] = value
        else:
            rest.append(f"--{name}={text}")
    return rest, overrides


def _refuse_other_dashes(arg: str, values: Values) -> None:
    name = arg.lstrip(_DASHES + "-").partition("=")[0]
    if set(arg[: len(arg) - len(arg.lstrip(_DASHES + "-"))]) & set(_DASHES) and (
        name in values or name.startswith("config.")
    ):
        raise UsageError(f"{arg}: begins with another dash than '-' (copied?); write --{name}")


def _refuse_value_apart(name: str, following: list[str]) -> None:
    if following and (config_values.is_bool(following[0]) or following[0].startswith("=")):
        value = "".join(following[:2]) if following[0] == "=" else following[0].lstrip("=")
        raise UsageError(f"--{name}={value.lstrip('=')}: write the value after =, without a space")


def _refuse_no_value(name: str, following: list[str]) -> None:
    if not following or re.match(r"--?[a-zA-Z]|--$", following[0]):
        raise UsageError(f"--{name}: needs a value; write --{name}=VALUE")
    if following[0].startswith("="):
        _refuse_value_apart(name, following)


def unknown_command(given: str, arguments: list[str], commands: dict[str, Command]) -> str:
    """What to say of a command that is none."""
    if given.startswith("-"):
        first = next((arg for arg in arguments if arg in commands), "pretrain")
        return f"the command comes first: bertjax {first} {given} ..."
    name = given.lower().replace("_", "-")
    close = [_OTHER_COMMANDS.get(name)] if name in _OTHER_COMMANDS else []
    close = close or difflib.get_close_matches(name, commands, n=1)
    fix = f"did you mean {close[0]}?" if close else f"one of {', '.join(commands)}"
    return f"no such command; {fix}"


_OTHER_COMMANDS = {
    "train": "pretrain",
    "eval": "evaluate",
    "export": "convert",
    "fill": "fill-mask",
    "tokenize": "prepare",
    "preprocess": "prepare",
    "check": "verify",
    "classify": "predict",
    "encode": "embed",
}


def _unknown(command: Command, name: str, values: Values, commands: dict[str, Command]) -> str:
    """What to say of a flag that the command has not."""
    owners = [other.name for other in commands.values() if name in define(other)]
    if owners:
        return f"--{name}: {command.name} has no such flag; {', '.join(owners)} has it"
    own = [flag for flag in values if flag not in ("flagfile", "undefok")]
    plain = name.replace("-", "_").lower()
    close = [flag for flag in own if flag.replace("_", "") == plain.replace("_", "")]
    close = close or difflib.get_close_matches(plain, own, n=1)
    if close:
        return f"--{name}: no such flag; did you mean --{close[0]}?"
    if command.reads_config:
        hint = aliases.meant(f"config.{plain}", list(config_tree.paths(Config)))
        return f"--{name}: no such flag; {hint.replace('mean config.', 'mean --config.')}"
    known = ", ".join(f"--{flag}" for flag in own) or "none"
    return f"--{name}: no such flag; {command.name} has {known}"


def _miscounted(names: tuple[str, ...], args: list[str]) -> str:
    """What to say of more or fewer arguments than the command has."""
    wanted = " ".join(names) or "flags only"
    quoted = "TEXT" in names and len(args) > len(names)
    hint = f"quote the text: {json.dumps(' '.join(args[1:]))}" if quoted else "see --help"
    return f"expected {wanted}, got {' '.join(args) or 'nothing'}; {hint}"


def _stray(command: Command, arg: str) -> str:
    """What to say of an argument that stands alone, where a command takes flags only."""
    if re.match(r"(config|workdir)[.=]", arg) or re.search(r"\.py(:|$)", arg):
        fix = f"write --{'' if re.match(r'config|workdir', arg) and '=' in arg else 'config='}{arg}"
    elif os.path.isdir(arg):
        fix = f"write --workdir={arg}"
    else:
        fix = f"{command.name} takes flags only, each as --NAME=VALUE"
    return f"unexpected {arg!r}: {fix}"


def _reason(error: flags.Error) -> str:
    text = one_line(error)
    return re.sub(r"invalid literal for int\(\) with base 10: .*", "expected a whole number", text)
