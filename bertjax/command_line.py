"""The flags of every command, and how a command line becomes their values."""

from absl import flags
from ml_collections import ConfigDict, config_flags

from bertjax import config_help, config_tree, storage
from bertjax.errors import UsageError

READ_CONFIG = ("prepare", "pretrain", "evaluate", "plan")  # commands with --config


def parse(command: str, argv: list[str]):
    """`(flag values, positional arguments)` of one command.

    Raises:
      UsageError: an unknown flag or config field, or a value that does not parse.
    """
    values = flags.FlagValues()
    recorded = _recorded(argv) if command == "evaluate" else None
    if recorded is not None:
        config_flags.DEFINE_config_dict("config", recorded, flag_values=values, sys_argv=argv)
    elif command in READ_CONFIG:
        config_flags.DEFINE_config_file(
            "config", None, "config file, with :arg", flag_values=values, sys_argv=argv
        )
    if command in READ_CONFIG:
        flags.DEFINE_string("workdir", None, "everything a run writes", flag_values=values)
    if command == "prepare":
        flags.DEFINE_string("runner", None, "Apache Beam runner", flag_values=values)
    if command in ("fill-mask", "embed", "convert"):
        flags.DEFINE_enum(
            "hidden_act", None, ("gelu", "gelu_new"), "activation", flag_values=values
        )
        flags.DEFINE_bool("do_lower_case", None, "casing", flag_values=values)
        flags.DEFINE_string("tokenizer", None, "file or folder", flag_values=values)
        flags.DEFINE_bool("allow_pickle", False, "open PyTorch files", flag_values=values)
    if command == "embed":
        flags.DEFINE_string("pooling", None, "mean, cls, max ...", flag_values=values)
    if command == "fill-mask":
        flags.DEFINE_integer("top_k", 5, "candidates for each mask", 1, flag_values=values)
    if command == "plan":
        flags.DEFINE_string("topology", None, "TPU slice to plan for", flag_values=values)
        flags.DEFINE_bool("json", False, "JSON, for machines", flag_values=values)
        flags.DEFINE_bool("table", False, "search for what fits", flag_values=values)
    if command == "plot":
        flags.DEFINE_string("out", None, "file to write", flag_values=values)
    for arg in argv:
        name = arg.lstrip("-").partition("=")[0]
        if name.startswith("config."):
            config_help.check_field(name)
    try:
        return values, values(argv)[1:]
    except KeyError as error:  # config_flags, of a phase or component that the config has not
        raise UsageError(
            f"{_one_line(error.args[0])}: no such group in this config; its file may add one"
        ) from None
    except (flags.Error, ValueError, TypeError) as error:
        raise UsageError(_one_line(error)) from None


def _recorded(argv: list[str]) -> ConfigDict | None:
    """The config of the run that --workdir names, where no --config is given.

    Raises:
      DataError: there is none that can be read.
    """
    from bertjax import workdir  # with JAX, which other commands do without until they need it

    given = flags.FlagValues()
    for name in ("config", "workdir"):
        flags.DEFINE_string(name, None, "", flag_values=given)
    try:
        given(argv, known_only=True)
    except flags.Error as error:
        raise UsageError(_one_line(error)) from None
    if given.config is not None or given.workdir is None:
        return None
    storage.require_bucket(given.workdir)
    return config_tree.to_config_dict(workdir.read_config(given.workdir))


def _one_line(error) -> str:
    # config_flags puts the whole traceback of a config file into its message.
    before, traceback, after = str(error).partition(" Error whilst parsing config file:")
    lines = [before, after.splitlines()[-1]] if traceback else [before]
    return " ".join(" ".join(lines).split())
