"""The flags of every command, and how a command line becomes their values."""

import contextlib
import difflib
import importlib.metadata
import inspect
import os
import re
import sys
import textwrap

from absl import flags
from ml_collections import ConfigDict

from bertjax import storage
from bertjax.config import Config, aliases
from bertjax.config import file as config_file
from bertjax.config import help as config_help
from bertjax.config import tree as config_tree
from bertjax.config import values as config_values
from bertjax.errors import UsageError, one_line

READ_CONFIG = ("prepare", "pretrain", "evaluate", "plan")  # commands with --config; flags only
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # what editors and web pages make of "-"


def asked_text(command: str, arguments: list[str], commands: dict) -> str | None:
    """What --help or --version asks for; None where nobody asks.

    Args:
      commands: `{name: function}`, whose docstrings are the usage of each.
    """
    helps = {"-h", "--help", "--helpfull"}
    if command == "--version":
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"bertjax {importlib.metadata.version('bertjax')}"
        return "bertjax, not installed"
    if command in helps | {"help"}:
        return _help(next((name for name in arguments if name in commands), None), commands)
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return _help(command, commands) if command in commands and helps & set(own) else None


def _help(command: str | None, commands: dict) -> str:
    """The text of --help: of all commands, or of one with every config field it reads."""
    if command is None:
        usages = (inspect.getdoc(run).split("\n\n", 1) for run in commands.values())
        return (
            "usage: bertjax COMMAND ...\n\n"
            + "\n".join(
                f"bertjax {usage}\n{textwrap.indent(text, '    ')}\n" for usage, text in usages
            )
            + "\nbertjax COMMAND --help lists the config fields."
        )
    text = f"usage: bertjax {inspect.getdoc(commands[command])}"
    if command in READ_CONFIG:
        rows = (f"  --{f}={default}\n      {help}" for f, default, help in config_help.describe())
        text += (
            "\n\nConfig fields, with their defaults. None is unset: =None unsets such a field again."
            " A whole number may be written 10_000 or 1e4.\n" + "\n".join(rows)
        )
    return text


def define(command: str) -> flags.FlagValues:
    """The flags of a command, with their defaults."""
    values = flags.FlagValues()

    def text(name, default, meaning):
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    def switch(name, default, meaning):
        flags.DEFINE_bool(name, default, meaning, flag_values=values)

    if command in READ_CONFIG:
        text("config", None, "config file, with :arg")
        text("workdir", None, "everything a run writes")
    if command == "prepare":
        text("runner", None, "Apache Beam runner")
    if command in ("fill-mask", "embed", "convert"):
        activations = ("gelu", "gelu_new")
        flags.DEFINE_enum("hidden_act", None, activations, "activation", flag_values=values)
        switch("do_lower_case", None, "casing")
        text("tokenizer", None, "file or folder")
        switch("allow_pickle", False, "open PyTorch files")
    if command == "embed":
        text("pooling", None, "mean, cls, max ...")
    if command == "fill-mask":
        flags.DEFINE_integer("top_k", 5, "candidates for each mask", 1, flag_values=values)
    if command == "plan":
        text("topology", None, "TPU slice to plan for")
        switch("json", False, "JSON, for machines")
        switch("table", False, "search for what fits")
    if command == "plot":
        text("out", None, "file to write")
    return values


def parse(command: str, argv: list[str]):
    """`(flag values, positional arguments)` of one command.

    Of --config, the value is the tree of the file (for `evaluate`, of the run), with every
    --config.FIELD=VALUE set in it; None without one.

    Args:
      argv: the command, and what follows it.

    Raises:
      UsageError: an unknown flag or config field, a value that does not parse, a config file
        that does not run, or an argument that the command has no use for.
    """
    values = define(command)
    try:
        argv = values.read_flags_from_files(list(argv), force_gnu=False)
        end = argv.index("--") if "--" in argv else len(argv)
        rest, overrides = _split(command, values, argv[1:end])
        args = values([command, *rest])[1:]
    except flags.Error as error:
        raise UsageError(_reason(error)) from None
    if command in READ_CONFIG and args:
        raise UsageError(_stray(command, args[0]))
    if command in READ_CONFIG:
        values.config = _config(command, values, overrides)
    return values, args + argv[end + 1 :]


def _config(command: str, values, overrides: dict) -> ConfigDict | None:
    tree = None
    if values.config:
        tree = config_file.load(values.config)
    elif command == "evaluate" and values.workdir is not None:
        from bertjax import workdir  # with JAX, which other commands do without until they need it

        storage.require_bucket(values.workdir)
        tree = config_tree.to_config_dict(workdir.read_config(storage.path(values.workdir)))
    elif overrides:
        raise UsageError(f"{next(iter(overrides))}: --config is missing; name a config file")
    for flag, value in overrides.items():
        _set(tree, flag, value)
    return tree


def _set(tree: ConfigDict, flag: str, value):
    *groups, name = flag.removeprefix("--config.").split(".")
    node = tree
    for depth, group in enumerate(groups):
        if not isinstance(node, ConfigDict) or group not in node:
            where = ".".join(["config", *groups[:depth]])
            raise UsageError(
                f"{flag}: {group!r}: no such group in this config; its file may add one; "
                f"{where} has {', '.join(node) or 'none'}"
            )
        node = node[group]
    with tree.unlocked(), node.ignore_type():
        node[name] = value


def _split(command: str, values, argv: list[str]) -> tuple[list[str], dict]:
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
        is_field = re.match(r"(no)?config\.", name) and command in READ_CONFIG
        if not is_field and name not in values and name.removeprefix("no") not in values:
            raise UsageError(_unknown(command, name, values))
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


def _refuse_other_dashes(arg: str, values):
    name = arg.lstrip(_DASHES + "-").partition("=")[0]
    if set(arg[: len(arg) - len(arg.lstrip(_DASHES + "-"))]) & set(_DASHES) and (
        name in values or name.startswith("config.")
    ):
        raise UsageError(f"{arg}: begins with another dash than '-' (copied?); write --{name}")


def _refuse_value_apart(name: str, following: list[str]):
    if following and (config_values.is_bool(following[0]) or following[0].startswith("=")):
        value = "".join(following[:2]) if following[0] == "=" else following[0].lstrip("=")
        raise UsageError(f"--{name}={value.lstrip('=')}: write the value after =, without a space")


def _refuse_no_value(name: str, following: list[str]):
    if not following or re.match(r"--?[a-zA-Z]|--$", following[0]):
        raise UsageError(f"--{name}: needs a value; write --{name}=VALUE")
    if following[0].startswith("="):
        _refuse_value_apart(name, following)


def unknown_command(given: str, arguments: list[str], commands) -> str:
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
    "predict": "fill-mask",
    "encode": "embed",
}


def _unknown(command: str, name: str, values) -> str:
    owners = [other for other in _COMMANDS if other != command and name in define(other)]
    if owners:
        return f"--{name}: {command} has no such flag; {', '.join(owners)} has it"
    own = [flag for flag in values if flag not in ("flagfile", "undefok")]
    plain = name.replace("-", "_").lower()
    close = [flag for flag in own if flag.replace("_", "") == plain.replace("_", "")]
    close = close or difflib.get_close_matches(plain, own, n=1)
    if close:
        return f"--{name}: no such flag; did you mean --{close[0]}?"
    if command in READ_CONFIG:
        hint = aliases.meant(f"config.{plain}", list(config_tree.paths(Config)))
        return f"--{name}: no such flag; {hint.replace('mean config.', 'mean --config.')}"
    known = ", ".join(f"--{flag}" for flag in own) or "none"
    return f"--{name}: no such flag; {command} has {known}"


_COMMANDS = (*READ_CONFIG, "fill-mask", "embed", "convert", "verify", "plot")


def _stray(command: str, arg: str) -> str:
    """What to say of an argument that stands alone, where a command takes flags only."""
    if re.match(r"(config|workdir)[.=]", arg) or re.search(r"\.py(:|$)", arg):
        fix = f"write --{'' if re.match(r'config|workdir', arg) and '=' in arg else 'config='}{arg}"
    elif os.path.isdir(arg):
        fix = f"write --workdir={arg}"
    else:
        fix = f"{command} takes flags only, each as --NAME=VALUE"
    return f"unexpected {arg!r}: {fix}"


def _reason(error: flags.Error) -> str:
    text = one_line(error)
    return re.sub(r"invalid literal for int\(\) with base 10: .*", "expected a whole number", text)
