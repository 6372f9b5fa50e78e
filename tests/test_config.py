"""Config: round trips, every check, and what the command line says of bad overrides."""

import importlib.util
import json
from pathlib import Path

import pytest

from bertjax import __main__ as command_line
from bertjax import config as config_lib
from bertjax import config_help, models
from bertjax.errors import USAGE, UsageError

CONFIGS = Path(__file__).parent.parent / "configs"


def load(name):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("name", [p.stem for p in sorted(CONFIGS.glob("*.py"))])
def test_config_files_are_valid_and_survive_json(name):
    config = config_lib.from_config_dict(load(name))
    again = json.loads(json.dumps(config_lib.to_dict(config)))
    assert config_lib.from_config_dict(again) == config


@pytest.mark.parametrize(
    ("name", "count"), [("bert_base", 110_106_428), ("bert_large", 336_226_108)]
)
def test_published_sizes(name, count):
    config = config_lib.from_config_dict(load(name))
    assert models.num_parameters(config.model) == count
    assert config.num_steps == 1_000_000
    first, second = (span[2] for span in config.phase_spans())
    assert (first.steps, first.batch_size, first.sequence_length) == (900_000, 256, 128)
    assert (second.steps, second.batch_size, second.sequence_length) == (100_000, 256, 512)


def test_phases_run_in_order_and_the_last_one_holds_past_the_end():
    tree = config_lib.default()
    tree.phases.phase1.steps = 5
    tree.phases.phase2 = config_lib.phase(steps=0)
    tree.phases.phase3 = config_lib.phase(steps=2, sequence_length=512)
    config = config_lib.from_config_dict(tree)
    assert [config.phase_at(s)[:2] for s in (0, 4, 5, 6, 7)] == [
        (0, 0),
        (0, 0),
        (1, 5),
        (1, 5),
        (1, 5),
    ]
    assert config.phase_at(6)[2].sequence_length == 512


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
    ],
)
def test_a_bad_value_is_named_with_its_fix(field, value, fix):
    tree = config_lib.default()
    with tree.unlocked():
        tree.update_from_flattened_dict({field: value})
    with pytest.raises(UsageError) as error:
        config_lib.from_config_dict(tree)
    assert fix in str(error.value)
    assert field.split(".")[0] in str(error.value)
    assert "\n" not in str(error.value)


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
