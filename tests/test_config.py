"""Config: round trips, every check, and what the command line says of bad overrides."""

import importlib.util
import json
from pathlib import Path

import pytest

from bertjax import __main__ as command_line
from bertjax import config as config_lib
from bertjax import config_help, models, stages
from bertjax.errors import USAGE, UsageError

CONFIGS = Path(__file__).parent.parent / "configs"


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


@pytest.mark.parametrize("builder", ["segment_pair_nsp", "sentence_pair_nsp", "full_sentences",
                                     "doc_sentences"])  # fmt: skip
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
        ("masking.random_token_prob", 0.3, "must not exceed 1"),
        ("data.heldout_fraction", 1.0, "must lie in [0, 1)"),
        ("checkpoints.keep", 1, "at least 2"),
        ("mesh.data", 0, "must be positive, or -1"),
        ("phases.phase1.sequence_length", 1024, "model.max_position_embeddings"),
        ("phases.phase1.max_predictions_per_seq", 126, "between 1 and 125"),
        ("phases.phase1.steps", 0, "no phase has steps"),
        ("phases.phase1.micro_batch_size", 48, "must divide phases.phase1.batch_size=256"),
        ("phases.phase1.micro_batch_size", -8, "must be 0 or positive"),
        ("phases.phase1.ramp_from", 100, "batch_size=256 must be this times 2, 4, 8..."),
        ("phases.phase1.ramp_from", 256, "must be this times 2"),
        ("phases.phase1.ramp_from", 64, "ramp_steps=0: must lie between 1 and"),
        ("examples.builder", "half_sentences", "full_sentences"),
        ("examples.builder", "full_sentences", "config.objective.nsp=1.0: examples.builder"),
        ("examples.max_per_row", 0, "between 1 (no packing) and 256"),
        ("masking.rounding", "down", "must be one of nearest, probabilistic"),
        ("masking.unit", "sentence", "must be one of token, whole_word, span"),
        ("masking.span_p", 0.0, "must lie between 0 and 1"),
        ("masking.span_max_words", 0, "must be positive"),
        ("masking.static_patterns", -1, "must be 0 or positive"),
        ("model.head", "masked_lm", "config.objective.nsp=1.0: needs model.head=pretraining"),
        ("optimizer.name", "sgd", "bert_lamb"),
        ("optimizer.decay_power", 0.0, "must be positive"),
        ("mixture.books.weight", 0.0, "config.mixture.books.weight=0.0: must be positive"),
        ("mixture.books.data.heldout_fraction", 2.0, "config.mixture.books.data.heldout_fraction"),
        ("mixture.books.data.source", "web", "must be one of files, tfds, sample"),
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
    assert field.split(".")[0] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "fix"),
    [
        (
            {"optimizer.clip_mode": "per_shard", "phases.phase1.micro_batch_size": 64},
            "set this to 0 or clip_mode to global",
        ),
        (
            {"phases.phase1.ramp_from": 64, "phases.phase1.ramp_steps": 1000},
            "ramp_steps=1000: must lie between 1 and phases.phase1.steps=1000 - 1",
        ),
        (
            {"phases.phase2.steps": 1, "phases.phase2.learning_rate": 0.1},
            "phases.phase1.learning_rate=0.0: all phases have a schedule of their own",
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
    if command in ("prepare", "pretrain", "evaluate"):
        for field, _, meaning in config_help.describe():
            assert f"--{field}=" in text
            assert meaning in text
        assert text.count("--config.mixture.") == 1 + text.count("--config.data.")
