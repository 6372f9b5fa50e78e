"""`bertjax COMMAND ...`: reads the flags, runs one command, leaves with its exit code."""

import json
import math
import shlex
import sys
import time
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING

# What takes a tenth of a second to import is imported in `run`, where a Ctrl-C is caught.
from bertjax import commands, errors, storage
from bertjax.commands import Command, Flag, Values
from bertjax.errors import BertjaxError, UsageError
from bertjax.finetune import commands as finetuning
from bertjax.processes import streams

if TYPE_CHECKING:
    from bertjax.config import Config
    from bertjax.convert.pretrained import Hints, Pretrained

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
    if config.init_from is not None:
        from bertjax import initial

        initial.check(config, workdir)
    prepare.prepare(config, workdir, beam_options=options)


def pretrain(values: Values, args: list[str]) -> list[str]:
    """pretrain --config=FILE --workdir=W [--config.FIELD=VALUE ...]

    Trains to the last step of the last phase. Prepares first where W/store is missing, and
    resumes where W/checkpoints exists.
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


def fill_mask(values: Values, args: list[str]) -> None:
    """fill-mask SRC TEXT [--top_k=5]

    Candidates with probabilities for each [MASK] of TEXT. SRC is a run's workdir, or any source
    of convert.
    """
    from bertjax import inference

    source, text = args
    model = _read(source, values)
    for number, candidates in enumerate(inference.fill_mask(model, text, values.top_k), start=1):
        for token, probability in candidates:
            print(f"{number}  {probability:7.4f}  {token}")


def embed(values: Values, args: list[str]) -> None:
    """embed SRC TEXT [TEXT ...] [--pooling=MODE]

    The vector of each TEXT as a JSON array, one a line; without a TEXT, of each line of stdin.
    SRC is a run's workdir, or any source of convert. A sentence encoder gives its own vectors, any
    other model the mean of its tokens'. --pooling takes the encoder's alone: mean, cls, max,
    pooler, mean_sqrt_len_tokens, weightedmean, lasttoken, or several joined by +.
    """
    from bertjax import inference
    from bertjax.convert import sentence_encoder

    if not args:
        raise UsageError("expected SRC [TEXT ...]; see --help")
    texts = args[1:] or [line.rstrip("\n") for line in sys.stdin]
    model = _read(args[0], values)
    own = model.config.embedding
    if values.pooling is not None and (own.pooling is not None or own.left_out):
        described = sentence_encoder.describe(own)
        asked = f"--pooling={values.pooling}, and nothing else, as asked"
        _print_notes([f"{asked}; the model's own vectors: {described}"])
    for vector in inference.embed(model, texts, pooling=values.pooling):
        print(json.dumps([float(str(x)) for x in vector]))  # the shortest form of a float32


def convert(values: Values, args: list[str]) -> list[str]:
    """convert SRC DST [--hidden_act=...] [--do_lower_case=...] [--tokenizer=...] [--allow_pickle]

    Weights from one form into another. SRC and DST are a run's workdir (orbax:DIR), hf:DIR,
    hub:OWNER/NAME, tf1:PREFIX; SRC may also be fairseq:FILE, DST onnx:FILE, onnx-int8:FILE or
    stablehlo:FILE. DST must not exist. What a source does not say itself:
    --hidden_act=gelu (erf form) or gelu_new (tanh form), --do_lower_case=true or false,
    --tokenizer=a file or folder; --allow_pickle opens PyTorch files, with its weights-only loader.
    """
    from bertjax import convert

    source, destination = args
    written = convert.transfer(source, destination, _hints(values))
    _print_notes(written.notes)
    print(f"{source} -> {destination}")
    return commands.after_convert(destination, written)


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
    """plan --config=FILE [--topology=v5e:16x16] [--workdir=W] [--json] [--table]

    Compiles the train step for TPUs that need not be there (v4:4x4x8, v5e:16x16*2 for two slices;
    needs the extra tpu) or for the devices at hand: memory, FLOPs, collectives, a predicted step
    time, the whole recipe. --table tries meshes, micro-batches and recomputation, a minute each.
    """
    from bertjax.plan import report as plan_report

    workdir = None if values.workdir is None else commands.workdir_of(values)
    plan_report.run(
        commands.require_pretraining(_config(values)),
        values.topology,
        workdir,
        as_json=values.json,
        as_table=values.table,
    )


_SOURCE = (  # what a source of weights does not say itself
    Flag("hidden_act", choices=("gelu", "gelu_new")),
    Flag("do_lower_case", kind=bool),
    Flag("tokenizer"),
    Flag("allow_pickle", False, bool),
)
_TOP_K = Flag("top_k", 5, int, least=1)
_PLAN = (Flag("topology"), Flag("json", False, bool), Flag("table", False, bool))
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
        Command("predict", finetuning.predict, ("SRC",), (*_SOURCE, Flag("input"), Flag("output"))),
        Command("evaluate", evaluate, reads_config=True, finds_config=True),
        Command("fill-mask", fill_mask, ("SRC", "TEXT"), (*_SOURCE, _TOP_K)),
        Command("embed", embed, None, (*_SOURCE, Flag("pooling"))),
        Command("convert", convert, ("SRC", "DST"), _SOURCE),
        Command("verify", verify, ("DIR",)),
        Command("plot", plot, ("W",), (Flag("out"),)),
        Command("plan", plan, (), _PLAN, reads_config=True),
    )
}


def _hints(values: Values) -> "Hints":
    from bertjax.convert.pretrained import Hints

    return Hints(values.hidden_act, values.do_lower_case, values.tokenizer, values.allow_pickle)


def _read(source: str, values: Values) -> "Pretrained":
    """The model at any URI; what its reader decided goes to stderr."""
    from bertjax import convert

    pretrained = convert.read(source, _hints(values))
    _print_notes(pretrained.notes)
    return pretrained


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(note, file=sys.stderr)


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
        with streams.watched(lasting=outlives):
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
