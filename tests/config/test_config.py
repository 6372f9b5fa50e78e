"""Config: round trips, every check, and what the command line says of bad overrides."""

import copy
import importlib.util
import io
import json
import math
import os
import re
from pathlib import Path

import pytest

from bertjax import __main__ as command_line
from bertjax import command_line as flags_of
from bertjax import commands, models, storage
from bertjax import config as config_lib
from bertjax.config import Config, Objective, aliases, finetune_fields, stages
from bertjax.config import help as config_help
from bertjax.config import tree as config_tree
from bertjax.errors import USAGE, UsageError
from bertjax.processes import streams

CONFIGS = Path(__file__).parents[2] / "configs"


def load(name, *arg):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arg)


@pytest.mark.parametrize("name", [p.stem for p in sorted(CONFIGS.glob("*.py"))])
def test_config_files_are_valid_and_survive_json(name):
    config = config_lib.from_config_dict(load(name))
    again = json.loads(json.dumps(config_lib.to_dict(config)))
    assert config_lib.from_config_dict(again) == config


@pytest.mark.parametrize("task", [*finetune_fields.TASKS, *finetune_fields.KINDS])
@pytest.mark.parametrize("name", [p.stem for p in sorted(CONFIGS.glob("finetune*.py"))])
def test_config_files_of_fine_tuning_take_every_task_and_kind(name, task):
    config = config_lib.from_config_dict(load(name, task))
    named = task in finetune_fields.TASKS
    assert (config.task.name, config.task.kind) == ((task, None) if named else (None, task))
    assert config.is_finetuning
    assert config.objective == Objective(mlm=0.0, nsp=0.0)


def test_the_papers_grid_and_the_published_optimizer():
    config = config_lib.from_config_dict(load("finetune", "rte,grid=True,published=True"))
    assert len(config.grid.batch_size + config.grid.learning_rate + config.grid.epochs) == 8
    assert config.optimizer.name == "bert_adamw"
    assert config_lib.from_config_dict(load("finetune", "rte")).optimizer.name == "adamw"


@pytest.mark.parametrize(
    "builder", ["segment_pair_nsp", "sentence_pair_nsp", "full_sentences", "doc_sentences"]
)
@pytest.mark.parametrize(("nsp", "static"), [(True, 0), (False, 10)])
def test_ablation_grid(builder, nsp, static):
    arg = f"builder={builder},nsp={nsp},static={static},steps=50"
    config = config_lib.from_config_dict(load("roberta_small", arg))
    has_nsp = nsp and builder in ("segment_pair_nsp", "sentence_pair_nsp")
    assert (config.examples.builder, config.masking.static_patterns) == (builder, static)
    assert (config.model.head, config.objective.nsp) == (
        ("pretraining", 1.0) if has_nsp else ("masked_lm", 0.0)
    )
    assert (config.num_steps, config.optimizer.warmup_steps) == (50, 5)
    assert config.model.max_sequence_length == config.phases["phase1"].sequence_length


@pytest.mark.parametrize(
    ("name", "count"), [("bert_base", 110_106_428), ("bert_large", 336_226_108)]
)
def test_published_sizes(name, count):
    config = config_lib.from_config_dict(load(name))
    assert models.num_parameters(config.model) == count
    assert config.num_steps == 1_000_000
    first, second = (stage.phase for stage in stages.of(config))
    assert (first.steps, first.batch_size, first.sequence_length) == (900_000, 256, 128)
    assert (second.steps, second.batch_size, second.sequence_length) == (100_000, 256, 512)


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [
        ("model.num_attention_heads", 7, "must divide model.hidden_size=768"),
        ("model.hidden_act", "relu", "must be one of gelu, gelu_new"),
        ("model.hidden_dropout_prob", 1.0, "must lie in [0, 1)"),
        ("model.problem_type", "riddle", "must be one of regression, single_label_"),
        ("embedding.pooling", "mean+median", "must be one of mean, cls, max"),
        ("embedding.max_length", 2, "leave room for the two special tokens"),
        ("masking.random_token_prob", 0.3, "must not exceed 1"),
        ("data.heldout_fraction", 1.0, "must lie in [0, 1)"),
        ("checkpoints.keep", 1, "at least 2"),
        ("mesh.data", 0, "must be positive, or -1"),
        ("phases.phase1.sequence_length", 1024, "model.max_position_embeddings"),
        ("phases.phase1.max_predictions_per_seq", 126, "between 1 and 125"),
        ("phases.phase1.steps", 0, "config.phases=('phase1',): no phase has steps"),
        ("phases.phase1.micro_batch_size", 48, "must divide phases.phase1.batch_size=256"),
        ("phases.phase1.micro_batch_size", -8, "must be 0 or positive"),
        ("phases.phase1.ramp_from", 100, "batch_size=256 must be this times 2, 4, 8..."),
        ("phases.phase1.ramp_from", 256, "must be this times 2"),
        ("phases.phase1.ramp_from", 64, "config.phases.phase1.ramp_steps=0: must lie between"),
        ("examples.builder", "half_sentences", "full_sentences"),
        ("examples.builder", "full_sentences", "config.objective.nsp=1.0: examples.builder"),
        ("examples.max_per_row", 0, "between 1 (no packing) and 256"),
        ("masking.rounding", "down", "must be one of nearest, probabilistic"),
        ("masking.unit", "sentence", "must be one of token, whole_word, span"),
        ("masking.span_p", 0.0, "must lie between 0 and 1"),
        ("masking.span_max_words", 0, "must be positive"),
        ("masking.static_patterns", -1, "must be 0 or positive"),
        ("masking.smoothing", 1.5, "must lie in [0, 1]"),
        ("masking.budget", "row", "must be one of example, batch"),
        ("model.head", "masked_lm", "config.objective.nsp=1.0: needs model.head=pretraining"),
        ("optimizer.name", "sgd", "bert_lamb"),
        ("optimizer.decay_power", 0.0, "must be positive"),
        ("mixture.books.weight", 0.0, "config.mixture.books.weight=0.0: must be positive"),
        ("mixture.books.data.heldout_fraction", 2.0, "config.mixture.books.data.heldout_fraction"),
        ("mixture.books.data.source", "web", "must be one of files, bert_tfrecord, tfds, sample"),
    ],
)
def test_a_bad_value_is_named_with_its_fix(field, value, fix):
    tree = config_lib.default()
    tree.mixture.books = config_lib.component(1.0)
    with tree.unlocked():
        tree.update_from_flattened_dict({field: value})
    with pytest.raises(UsageError) as error:
        config_lib.from_config_dict(tree)
    assert fix in str(error.value)
    if not fix.startswith("config."):  # else another field is the one to change
        assert f"config.{field}={value!r}: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "fix"),
    [
        (
            {"optimizer.clip_mode": "per_shard", "phases.phase1.micro_batch_size": 64},
            "set this to 0 or clip_mode to global",
        ),
        (
            {"optimizer.clip_mode": "per_shard", "mesh.fsdp_gather": "step"},
            "config.mesh.fsdp_gather='step': does not work with optimizer.clip_mode=per_shard",
        ),
        (
            {"phases.phase1.ramp_from": 64, "phases.phase1.ramp_steps": 1000},
            "ramp_steps=1000: must lie between 1 and phases.phase1.steps=1000 - 1",
        ),
        (
            {"phases.phase2.steps": 1, "phases.phase2.learning_rate": 0.1},
            "phases.phase1.learning_rate=0.0: set a learning_rate for all phases",
        ),
        (
            {"masking.smoothing": 0.7, "masking.unit": "span"},
            "config.masking.smoothing=0.7: chooses single tokens; set masking.unit=token "
            "(here: span), or this to 0",
        ),
        (
            {"masking.smoothing": 0.7, "masking.choose_special": True},
            "config.masking.smoothing=0.7: the text that is counted has no [CLS] and [SEP], so they "
            "would be the rarest tokens; set masking.choose_special=False, or this to 0",
        ),
        (
            {"masking.budget": "batch", "masking.unit": "whole_word"},
            "config.masking.budget='batch': draws single tokens; set masking.unit=token (here: "
            "whole_word), or this to example",
        ),
        (
            {"masking.budget": "batch", "masking.rounding": "probabilistic"},
            "set masking.rounding=nearest (here: probabilistic), or this to example",
        ),
        (
            {"masking.budget": "batch", "masking.static_patterns": 10},
            "masks a row by the batch that it comes in; set masking.static_patterns=0 (here: 10)",
        ),
    ],
)
def test_fields_that_do_not_go_together(fields, fix):
    tree = config_lib.default()
    tree.phases.phase2 = config_lib.phase()
    tree.update_from_flattened_dict(fields)
    with pytest.raises(UsageError) as error:
        config_lib.from_config_dict(tree)
    assert fix in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a.b", "é", "x" * 65])
def test_a_component_is_named_as_a_folder_may_be(name):
    tree = {"mixture": {name: {}}}
    with pytest.raises(UsageError, match=r"config.mixture=.*name it by letters, digits and _"):
        config_lib.from_config_dict(tree)


def test_components_are_in_order_of_name_and_survive_json():
    tree = config_lib.default()
    tree.mixture.wiki = config_lib.component(2, files="w.txt")
    tree.mixture.books = config_lib.component(0.5, files="b.txt", heldout_fraction=0.1)
    config = config_lib.from_config_dict(tree)
    assert [(k, c.weight, c.data.files) for k, c in config.mixture.items()] == [
        ("books", 0.5, "b.txt"),
        ("wiki", 2.0, "w.txt"),
    ]
    again = json.loads(json.dumps(config_lib.to_dict(config)))
    assert config_lib.from_config_dict(again) == config


def test_names_of_labels_by_command_line_and_json():
    """A tuple of strings: the one field of a config that is a list in JSON."""
    names = "('no', \"yes, or so\")"
    argv = [f"--config={CONFIGS}/bert_base.py", f"--config.model.label_names={names}"]
    values, _ = flags_of.parse("pretrain", argv, command_line.COMMANDS)
    config = config_lib.from_config_dict(values.config)
    assert config.model.label_names == ("no", "yes, or so")
    again = json.loads(json.dumps(config_lib.to_dict(config)))
    assert config_lib.from_config_dict(again) == config
    assert config_tree.to_config_dict(config).model.label_names == config.model.label_names
    for value, said in (
        (["a", 1], "expected strings, for example"),
        ("ab", "expected strings, for example"),
        (["a"], "must be as many as model.num_labels=2"),
    ):
        with pytest.raises(UsageError, match=said):
            config_lib.from_config_dict({"model": {"label_names": value}})


def test_unknown_and_ill_typed_fields_of_a_saved_config():
    with pytest.raises(UsageError, match=r"config.model.hiden_size: .*hidden_size"):
        config_lib.from_config_dict({"model": {"hiden_size": 3}})
    with pytest.raises(UsageError, match=r"config.seed='3': expected int, got str"):
        config_lib.from_config_dict({"seed": "3"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--config: missing"),
        (["--config=configs/nowhere.py"], "--config=configs/nowhere.py: no such file"),
        (["--config.model.hidden_siz=3"], "did you mean --config.model.hidden_size?"),
        (["--config.seed=abc"], "--config.seed=abc"),
        (["--config.model.num_attention_heads=7"], "must divide model.hidden_size=768"),
        (["--bogus"], "bogus"),
        ([], "--workdir: missing"),
    ],
)
def test_command_line_mistakes_are_one_line_and_exit_64(arguments, said, capsys):
    config = (
        []
        if "config: missing" in said or "nowhere" in said
        else [f"--config={CONFIGS}/bert_base.py"]
    )
    assert command_line.run(["bertjax", "pretrain", *config, *arguments]) == USAGE
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


CONFIG_WITH_ARGUMENT = """
from bertjax import config as config_lib

def get_config(arg=None):
    arg = config_lib.parse_arg(arg, nsp=False, static=0, rate=1.0, builder="doc_sentences")
    config = config_lib.default()
    config.mixture.books = config_lib.component(1.0)
    config.masking.static_patterns = arg.static
    config.examples.builder = arg.builder
    config.objective.nsp = float(arg.nsp)
    return config
"""


@pytest.mark.parametrize(
    ("arg", "changed"),
    [
        (None, {}),
        ("", {}),
        ("nsp", {"nsp": True}),
        ("nsp=True,static=10", {"nsp": True, "static": 10}),
        ("nsp=0,rate=3,builder=a=b", {"rate": 3.0, "builder": "a=b"}),
    ],
)
def test_argument_of_a_config_file(arg, changed):
    defaults = {"nsp": False, "static": 0, "rate": 1.0, "builder": "doc_sentences"}
    assert vars(config_lib.parse_arg(arg, **defaults)) == defaults | changed


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (":sttic=1", "no 'sttic' here; known: nsp=False, static=0, rate=1.0, builder=doc_sent"),
        (":static", "static: expected static=int"),
        (":static=1.5", "static=1.5: expected static=int"),
        (":nsp=maybe", "nsp=maybe: expected nsp=bool, for example nsp=False"),
        (":builder=", "expected builder=str"),
        (":nsp,nsp=1", "nsp is given twice"),
        (":nsp,", "no '' here"),
        (":static=-1", "config.masking.static_patterns=-1"),
        (":builder=pairs", "config.examples.builder='pairs'"),
        (":nsp --config.mixture.books.wieght=1", "--config.mixture.books.wieght: no such field"),
        (" --config.mixture.wiki.weight=1", "'wiki': no such group in this config"),
        (" --config.phases.phase2.steps=1", "no such group in this config"),
        (" --config.mixture.books.weight=0", "config.mixture.books.weight=0.0: must be pos"),
    ],
)
def test_mistakes_in_an_argument_are_one_line_and_exit_64(argument, said, tmp_path, capsys):
    path = tmp_path / "with_argument.py"
    path.write_text(CONFIG_WITH_ARGUMENT)
    flags = f"--config={path}{argument}".split()
    assert command_line.run(["bertjax", "pretrain", f"--workdir={tmp_path}", *flags]) == USAGE
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


# Fields that take a number which would else be refused, and why.
ALLOWED = {
    ("config.mesh.data", -1): "the devices that are left",
    ("config.watchdog_seconds", -1): "below 0 the watchdog is off",
}
EVERY_FIELD = {"mixture": {"books": {}}, "phases": {"phase1": {"steps": 1000}}}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1])
def test_no_number_is_nan_infinite_or_below_its_range(value):
    fields = config_lib.leaves(config_lib.from_config_dict(EVERY_FIELD))
    numbers = {
        f for f, v in fields.items() if isinstance(v, int | float) and v not in (True, False)
    }
    numbers |= {f for f, kind in config_tree.paths(Config).items() if kind in (int, float)}
    numbers = {f.replace("phases.NAME", "phases.phase1").replace("NAME", "books") for f in numbers}
    assert len(numbers) > 60
    for field in sorted(numbers):
        tree = copy.deepcopy(EVERY_FIELD)
        node, groups = tree, field.split(".")[1:]
        for group in groups[:-1]:
            node = node.setdefault(group, {})
        is_float = config_tree.paths(Config)[aliases.usual(field)] is float
        node[groups[-1]] = float(value) if is_float else value
        if (field, value) in ALLOWED:
            config_lib.from_config_dict(tree)
            continue
        with pytest.raises(UsageError, match=re.escape(field)):
            config_lib.from_config_dict(tree)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("optimizer.lr", "optimizer.learning_rate"),
        ("optim.lr", "optimizer.learning_rate"),
        ("phases.second.lr", "phases.second.learning_rate"),
        ("phases.second.wd", "optimizer.weight_decay"),
        ("learnign_rate", "optimizer.learning_rate"),
        ("bsz", "phases.phase1.batch_size"),
        ("per_device_train_batch_size", "phases.phase1.batch_size (of all devices together)"),
        ("num_train_steps", "phases.phase1.steps"),
        ("max_seq_length", "phases.phase1.sequence_length"),
        (
            "gradient_accumulation_steps",
            "phases.phase1.micro_batch_size (the rows computed at once",
        ),
        ("optimizer.adam_beta1", "optimizer.b1"),
        ("warmup_ratio", "optimizer.warmup_steps (in steps; fine-tuning: config.finetune.warmup_"),
        ("num_train_epochs", "phases.phase1.steps (in steps; fine-tuning: config.finetune.epochs)"),
        ("layerwise_learning_rate_decay", "optimizer.layer_decay"),
        ("llrd", "optimizer.layer_decay"),
        ("early_stopping_patience", "finetune.patience"),
        ("load_best_model_at_end", "finetune.select (last or best)"),
        ("metric_for_best_model", "finetune.metric"),
        ("task_name", "task.name"),
        ("doc_stride", "task.stride"),
        ("max_query_length", "task.question_length"),
        ("max_answer_length", "task.answer_length"),
        ("n_best_size", "task.n_best"),
        ("version_2_with_negative", "task.null_answers (squad2 sets it)"),
        ("pad_to_max_length", "finetune.buckets (False pads to sequence_length)"),
        ("finetune.epcohs", "finetune.epochs"),
        ("grid.lr", "grid.learning_rate"),
        ("grid.bsz", "grid.batch_size"),
        ("do_lower_case", "tokenizer.lowercase"),
        ("model.n_layers", "model.num_hidden_layers"),
        ("bf16", "model.dtype (float32 or bfloat16)"),
        ("init_checkpoint", "init_from"),
        ("evaluation.steps", "evaluation.every_steps"),
        ("phase1.steps", "phases.phase1.steps"),
        ("phases.phase1.stpes", "phases.phase1.steps"),
        ("mesh.fdsp", "mesh.fsdp"),
    ],
)
def test_the_usual_other_names_of_a_field_are_known(typed, meant):
    with pytest.raises(UsageError, match=re.escape(f"did you mean --config.{meant}")):
        config_help.type_of(f"config.{typed}")
    *groups, name = typed.split(".")  # and where a config file sets it
    tree = {name: 1}
    for group in reversed(groups):
        tree = {group: tree}
    if groups and groups[0] not in ("optim", "phase1"):
        with pytest.raises(UsageError, match=re.escape(f"did you mean config.{meant}")):
            config_lib.from_config_dict(tree)


def test_every_other_name_leads_to_a_field_that_is_there():
    known = config_tree.paths(Config)
    for field in {**aliases._FIELD, **aliases._HOME}.values():
        assert aliases.usual(f"config.{field}") in known


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("phases.phase1.steps", "1e3", 1000),
        ("phases.phase1.steps", "1_000", 1000),
        ("phases.phase1.steps", "2.5e3", 2500),
        ("mesh.data", "-1", -1),
        ("optimizer.learning_rate", "1", 1.0),
        ("optimizer.learning_rate", "1e-4", 1e-4),
        ("tokenizer.lowercase", "False", False),
        ("tokenizer.path", "None", None),
        ("init_from", "null", None),
        ("data.files", "none", None),
        ("model.remat", "none", "none"),
    ],
)
def test_values_on_the_command_line(field, text, value):
    arguments = [f"--config={CONFIGS}/quickstart.py", f"--config.{field}={text}"]
    values, _ = flags_of.parse("prepare", arguments, command_line.COMMANDS)
    config = config_lib.from_config_dict(values.config)
    found = config_lib.leaves(config)[f"config.{field}"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--config.phases.phase1.steps=1.5", "steps=1.5: expected a whole number"),
        ("--config.phases.phase1.steps=10k", "steps=10k: expected a whole number"),
        ("--config.phases.phase1.steps=1e999999999", "expected a whole number"),
        ("--config.optimizer.learning_rate=true", "learning_rate=true: expected a number"),
        ("--config.optimizer.learning_rate=", "learning_rate=: has no value"),
        (
            "--config.seed=None",
            "seed=None: expected a whole number, for example 10000 or 1e4; it cannot be unset",
        ),
        ("--config.data.language=None", "language=None: cannot be unset"),
        ("--config.tokenizer.path=", "path=: has no value; expected a text; None unsets it"),
        ("--config.logging.tensorboard=maybe", "tensorboard=maybe: expected true or false"),
        (
            "--config.tokenizer.lowercase False",
            "--config.tokenizer.lowercase=False: write the value",
        ),
        ("--config.tokenizer.lowercase =False", "--config.tokenizer.lowercase=False: write the"),
        ("--workdir = W", "--workdir=W: write the value after =, without a space"),
        ("--workdir --config.seed=3", "--workdir: needs a value"),
        ("--workdir=V --workdir=W", "--workdir is given twice: V and W"),
        ("workdir=W", "unexpected 'workdir=W': write --workdir=W"),
        ("configs/bert_base.py", "unexpected 'configs/bert_base.py': write --config=configs/bert"),
        ("\u2014workdir=W", "begins with another dash than '-'"),
        ("--config.optimizer=adamw", "--config.optimizer: a group of fields"),
        ("--lr=1e-3", "--lr: no such flag; did you mean --config.optimizer.learning_rate?"),
        ("--work-dir=W", "--work-dir: no such flag; did you mean --workdir?"),
        ("--output_dir=W", "--output_dir: no such flag; did you mean --workdir?"),
        ("--topology=v5e:4x4", "--topology: pretrain has no such flag; plan has it"),
        ("--config=configs/bert_base", "no such file"),
        (f"--workdir={__file__}", "is a file; name a directory"),
    ],
)
def test_clumsy_command_lines_are_told_what_to_write(arguments, said, capsys):
    config = [] if "--config=" in arguments else [f"--config={CONFIGS}/bert_base.py"]
    assert command_line.run(["bertjax", "pretrain", *config, *arguments.split()]) == USAGE
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("pretain", "did you mean pretrain?"),
        ("train", "did you mean pretrain?"),
        ("fill_mask W x", "did you mean fill-mask?"),
        ("--workdir=W evaluate", "the command comes first: bertjax evaluate --workdir=W"),
        ("convert --do_lower_case false a b", "--do_lower_case=false: write the value after ="),
        ("prepare W", "unexpected 'W': prepare takes flags only"),
        ("prepare --config.tokenizer.lowercase False", "lowercase=False: write the value after ="),
        (
            "prepare --config=configs/bert_base.py --workdir=W -- --x",
            "options of Beam need --runner",
        ),
        ("fill-mask --top_k=x W x", "--top_k=x: expected a whole number"),
        ("fill-mask W the [MASK] of", 'quote the text: "the [MASK] of"'),
        ("convert W model.onnx", "write onnx:FILE.onnx"),
    ],
)
def test_clumsy_commands_are_told_what_to_write(arguments, said, capsys, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    assert command_line.run(["bertjax", *arguments.split()]) == USAGE
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_field_given_twice_is_said_and_the_last_counts(capsys):
    argv = [f"--config={CONFIGS}/bert_base.py", "--config.seed=1", "--config.seed=2"]
    values, _ = flags_of.parse("pretrain", argv, command_line.COMMANDS)
    assert values.config.seed == 2
    assert capsys.readouterr().err == "--config.seed is given twice: the last, 2, counts\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "config.optimizer.lr = 1e-3",
            "config.optimizer.lr: no such field; did you mean config.opt",
        ),
        ("config.optim.lr = 1e-3", "line 5: no group 'optim'; did you mean 'optimizer'?"),
        ("config.phases.phase1.steps = 1.5", "config.phases.phase1.steps=1.5: expected int"),
        (
            "config.phases.phase1 = config_lib.phase(lr=3)",
            "did you mean config.phases.NAME.learning",
        ),
        ("config.seed = (3", "line 5: SyntaxError"),
        ("config.seed = sed", "line 5: NameError: name 'sed' is not defined"),
        ("config = None", "returns NoneType, not a config"),
    ],
)
def test_mistakes_in_a_config_file_are_one_line(line, said, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "from bertjax import config as config_lib\n\ndef get_config():\n"
        f"    config = config_lib.default()\n    {line}\n    return config\n"
    )
    assert command_line.run(["bertjax", "pretrain", f"--config={path}", "--workdir=W"]) == USAGE
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_whole_number_may_be_written_as_a_float_in_a_config_file():
    tree = config_lib.default()
    tree.phases.phase1.steps = 1e3
    tree.phases.phase2 = config_lib.phase(steps=2e3)
    assert config_lib.from_config_dict(tree).num_steps == 3000


def test_help_into_a_pipe_that_nobody_reads(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        for arguments in (["--help"], ["pretrain", "--help"]):
            assert command_line.run(["bertjax", *arguments]) == 0
        assert "Traceback" not in capsys.readouterr().err


def test_training_outlives_whoever_read_its_output(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        with streams.watched(lasting=True):
            print("step 1", flush=True)
            print("step 2", flush=True)  # the pipe is broken by now
    with pytest.raises(BrokenPipeError), streams.watched(lasting=True):
        raise BrokenPipeError(32, "Broken pipe")  # a network's is no business of this


def test_a_terminal_is_told_what_comes_next(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("bertjax.data.prepare.prepare", lambda *_, **__: None)
    arguments = [f"--config={CONFIGS}/bert_base.py", "--workdir=my runs/W", "--config.seed=1"]
    beam = ["--runner=FnApiRunner", "--", "--x=1"]
    assert command_line.run(["bertjax", "prepare", *arguments, *beam]) == 0
    assert capsys.readouterr() == ("", "")  # a log stays as it is
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    assert command_line.run(["bertjax", "prepare", *arguments, *beam]) == 0
    assert terminal.getvalue() == (
        f"\nnext:\n  bertjax pretrain --config={CONFIGS}/bert_base.py '--workdir=my runs/W' "
        "--config.seed=1\n"
    )


def test_home_is_understood_where_no_shell_does(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.path("~/runs/W") == tmp_path / "runs/W"
    (tmp_path / "a.txt").write_text("x")
    assert storage.find("~/*.txt") == [str(tmp_path / "a.txt")]


def test_a_config_file_without_argument_says_so(capsys):
    assert command_line.run(["bertjax", "pretrain", f"--config={CONFIGS}/bert_base.py:x"]) == USAGE
    error = capsys.readouterr().err
    assert "bert_base.py:x: TypeError: get_config() takes 0 positional arguments" in error
    assert error.count("\n") == 1


def test_unknown_command_and_missing_arguments(capsys):
    assert command_line.run(["bertjax", "pretain"]) == USAGE
    assert command_line.run(["bertjax", "fill-mask", "W"]) == USAGE
    assert command_line.run(["bertjax"]) == USAGE
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_help_explains_every_command_and_field(command, capsys):
    assert command_line.run(["bertjax", command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: bertjax {command}")
    assert ("=None unsets" in text) == command_line.COMMANDS[command].reads_config
    if command_line.COMMANDS[command].reads_config:
        for field, _, meaning in config_help.describe():
            assert f"--{field}=" in text
            assert meaning in text
        usage = "".join(command_line.COMMANDS[command].usage).count("--config.data.")
        assert text.count("--config.mixture.") == 1 + text.count("--config.data.") - usage


def test_one_declaration_makes_a_command(monkeypatch, capsys):
    def count(values, args):
        """count SRC [--only=WORD]

        Words of SRC.
        """
        print(f"{values.only} in {args[0]}")

    declared = commands.Command("count", count, ("SRC",), (commands.Flag("only"),))
    monkeypatch.setitem(command_line.COMMANDS, "count", declared)
    assert command_line.run(["bertjax", "count", "W", "--only=a"]) == 0
    assert capsys.readouterr().out == "a in W\n"
    assert command_line.run(["bertjax", "--help"]) == 0
    assert "bertjax count SRC [--only=WORD]\n    Words of SRC.\n" in capsys.readouterr().out
    for arguments, said in (
        (["count"], "count: expected SRC, got nothing; see --help"),
        (["count", "W", "--olny=a"], "count: --olny: no such flag; did you mean --only?"),
        (["plot", "W", "--only=a"], "plot: --only: plot has no such flag; count has it"),
        (["cuont"], "cuont: no such command; did you mean count?"),
    ):
        assert command_line.run(["bertjax", *arguments]) == USAGE
        assert capsys.readouterr().err == f"bertjax {said}\n"
