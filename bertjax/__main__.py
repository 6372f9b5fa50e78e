"""`bertjax COMMAND ...`: reads the flags, runs one command, leaves with its exit code."""

import json
import math
import shlex
import sys
import time
import traceback
from typing import TYPE_CHECKING

# What takes a tenth of a second to import is imported in `run`, where a Ctrl-C is caught.
from bertjax import commands, errors, storage
from bertjax import source_commands as sources
from bertjax.commands import Command, Flag, Values
from bertjax.device import commands as device
from bertjax.errors import BertjaxError, UsageError
from bertjax.finetune import commands as finetuning
from bertjax.processes import streams, terminal

if TYPE_CHECKING:
    from bertjax.config import Config

_STARTED = time.monotonic()  # of a run, its imports included


def prepare(values: Values, args: list[str]) -> None:
    """prepare --config=FILE --workdir=W [--config.FIELD=VALUE ...] [--runner=NAME -- OPTION ...]

    Text to W/store and W/tokenizer, in parallel, atomically; prints what was kept and dropped.
    With --runner, Apache Beam tokenizes, to the same bytes: DataflowRunner, FlinkRunner,
    SparkRunner, or FnApiRunner for this machine. What follows -- are Beam's own options. W and
    the text must be where its workers reach them.
    """
    from bertjax.data import prepare

    if args and values.runner is None:
        raise UsageError(f"unexpected {args[0]!r}; options of Beam need --runner")
    options = None if values.runner is None else [f"--runner={values.runner}", *args]
    config, workdir = commands.require_pretraining(_config(values)), commands.workdir_of(values)
    if config.has_teacher:
        from bertjax.distill import student, teacher

        config = student.prepared(config, teacher.read(config))
    if config.init_from is not None:
        from bertjax import initial

        initial.check(config, workdir)
    prepare.prepare(config, workdir, beam_options=options)


def pretrain(values: Values, args: list[str]) -> list[str]:
    """pretrain --config=FILE --workdir=W [--config.FIELD=VALUE ...]

    Trains to the last step of the last phase. Prepares first where W/store is missing, and
    resumes where W/checkpoints exists. FILE may be a config that is installed with bertjax:
    --config=bertjax:bert_base; bertjax:NAME with another name lists them.
    """
    from bertjax import pretraining
    from bertjax.processes import distributed

    with distributed.processes():
        pretraining.pretrain(
            commands.require_pretraining(_config(values)), commands.workdir_of(values), _STARTED
        )
    mask_token = "<mask>" if values.config.tokenizer.kind == "byte_bpe" else "[MASK]"
    return commands.after_pretrain(values.workdir, mask_token)


def evaluate(values: Values, args: list[str]) -> None:
    """evaluate --workdir=W [--config=FILE] [--config.FIELD=VALUE ...]

    Held-out masked-LM and next-sentence figures of the newest whole checkpoint; of a fine-tuned
    run, those of its dev sets, of the step that counts. Without --config, that of the run itself
    (W/config.json); other devices may need --config.mesh.fsdp=1 or --config.evaluation.batch_size.
    """
    import jax

    from bertjax import pretraining
    from bertjax.processes import distributed

    directory = commands.workdir_of(values)
    with distributed.processes():
        # The kernel that trained need not run on the machine that evaluates.
        config = _config(values).with_model(attention="auto")
        evaluated = finetuning.evaluate if config.is_finetuning else pretraining.evaluate
        figures = evaluated(config, directory)
        if jax.process_index() == 0:
            print(json.dumps(figures))


def verify(values: Values, args: list[str]) -> None:
    """verify W/checkpoints

    Re-reads every byte of every checkpoint against its recorded hash; exit 65 if one is damaged or
    none is whole. The newest may be unfinished: a training is at it, or a kill cut its save off.
    """
    from bertjax.checkpoints import manager

    directory = storage.path(args[0])
    if storage.is_directory(directory / "checkpoints"):  # W itself
        directory = directory / "checkpoints"
    reports = manager.verify(directory)
    for report in reports:
        print(report)
    whole = max((r.step for r in reports if not r.problems), default=math.inf)
    damaged = [str(r.step) for r in reports if r.problems and not (r.unfinished and r.step > whole)]
    if damaged:
        raise errors.DataError(f"{directory}: damaged steps {', '.join(damaged)}")


def plot(values: Values, args: list[str]) -> None:
    """plot W [--out=FILE]

    Loss, accuracies and throughput of a run as a PNG (W/plot.png).
    """
    from bertjax import plot

    print(plot.plot(storage.path(args[0]), values.out and storage.path(values.out)))


def plan(values: Values, args: list[str]) -> None:
    """plan --config=FILE [--topology=v5e:16x16,h100x8] [--price=2.5] [--workdir=W] [--json] [--table]

    Compiles the train step for devices that need not be there: TPUs (v4:4x4x8, v5e:16x16*2 for two
    slices; the extra tpu), GPUs of one host (a100, h100, h200, b200, h100x8; the extra cuda); without
    --topology, those at hand. Memory, FLOPs, kernels, collectives, a predicted step, the whole
    recipe. Several topologies, comma-separated, stand beside each other. --price is of a chip and
    hour, one or one for each. --json: an object, of several topologies a list. --table tries
    meshes, micro-batches and recomputation, a minute each.
    """
    from bertjax.plan import report as plan_report

    workdir = None if values.workdir is None else commands.workdir_of(values)
    plan_report.run(
        commands.require_pretraining(_config(values)),
        values.topology,
        workdir,
        price=values.price,
        as_json=values.json,
        as_table=values.table,
    )


_PLAN = (
    Flag("topology"),
    Flag("price"),
    Flag("json", False, bool),
    Flag("table", False, bool),
)
_GLUE = (
    Flag("init_from"),
    Flag("files"),
    Flag("recipe", "bert", choices=("bert", "roberta", "distilbert")),
    Flag("tasks"),
)

COMMANDS = {
    command.name: command
    for command in (
        Command(
            "prepare", prepare, None, (Flag("runner"),), reads_config=True, outlives_reader=True
        ),
        Command("pretrain", pretrain, reads_config=True, outlives_reader=True),
        Command("finetune", finetuning.finetune, reads_config=True, outlives_reader=True),
        Command("glue", finetuning.glue, (), _GLUE, True, makes_config=True, outlives_reader=True),
        Command(
            "predict",
            sources.predict,
            ("SRC",),
            (*sources.SOURCE, Flag("input"), Flag("output")),
        ),
        Command("evaluate", evaluate, reads_config=True, finds_config=True),
        Command("fill-mask", sources.fill_mask, ("SRC", "TEXT"), (*sources.SOURCE, sources.TOP_K)),
        Command("cloze", sources.cloze, ("W",), (sources.QUESTIONS, sources.TOP_K)),
        Command("embed", sources.embed, None, (*sources.SOURCE, Flag("pooling"))),
        Command("score", sources.score, None, (*sources.SOURCE, *sources.SCORE)),
        Command("convert", sources.convert, ("SRC", "DST"), sources.SOURCE),
        Command("bench-export", device.bench_export, None, (*sources.SOURCE, *device.FLAGS)),
        Command("verify", verify, ("DIR",)),
        Command("plot", plot, ("W",), (Flag("out"),)),
        Command("plan", plan, (), _PLAN, reads_config=True),
    )
}


def _config(values: Values) -> "Config":
    from bertjax import config

    if values.config is None:
        raise UsageError("--config: missing; for example --config=configs/bert_base.py")
    return config.from_config_dict(values.config)


def run(argv: list[str]) -> int:
    """Runs `argv` (the program's name first) and returns the exit code."""
    command = argv[1] if len(argv) > 1 else "--help"
    try:
        outlives = command in COMMANDS and COMMANDS[command].outlives_reader
        with streams.watched(lasting=outlives), terminal.shown():
            code = _run(command, argv[2:])
            return code if len(argv) > 1 else errors.USAGE
    except streams.Unread:
        return errors.DONE


def _run(command: str, arguments: list[str]) -> int:
    try:
        from bertjax import command_line

        text = command_line.asked_text(command, arguments, COMMANDS)
        if text is not None:
            print(text)
            return errors.DONE
        if command not in COMMANDS:
            raise UsageError(command_line.unknown_command(command, arguments, COMMANDS))
        values, args = command_line.parse(command, arguments, COMMANDS)
        following = COMMANDS[command].run(values, args)
        commands.suggest(commands.after_prepare(arguments) if command == "prepare" else following)
        return errors.DONE
    except BertjaxError as error:
        print(f"bertjax {command}: {error}", file=sys.stderr)
        if isinstance(error, errors.Preempted):
            commands.suggest([shlex.join(["bertjax", command, *arguments])])
        return error.exit_code
    except streams.Unread:
        raise
    except Exception as error:
        reason = storage.refusal(error) or (str(error) if isinstance(error, OSError) else None)
        if reason is None:  # a defect
            traceback.print_exception(error)
            return errors.INTERNAL
        print(f"bertjax {command}: {reason}", file=sys.stderr)
        return storage.kind_of(error).exit_code
    except KeyboardInterrupt:
        print(f"bertjax {command}: interrupted", file=sys.stderr)
        return errors.INTERRUPTED


def main() -> None:
    """Console script `bertjax`."""
    sys.exit(run(sys.argv))


if __name__ == "__main__":
    main()
