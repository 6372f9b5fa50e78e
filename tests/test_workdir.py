"""W/config.json: written, read back, kept where a run goes on, and refused in one line."""

import dataclasses
import json

import pytest

from bertjax import workdir
from bertjax.config import Config
from bertjax.errors import DataError, UsageError


def test_what_is_written_is_read_and_every_change_is_named(tmp_path):
    config = Config(seed=3)
    assert workdir.write_config(config, tmp_path) == []
    assert workdir.read_config(tmp_path) == config
    other = dataclasses.replace(config, seed=4).with_model(hidden_act="gelu_new")
    assert workdir.write_config(other, tmp_path) == [
        "config.model.hidden_act: 'gelu' -> 'gelu_new'",
        "config.seed: 3 -> 4",
    ]
    assert workdir.write_config(other, tmp_path) == []


def test_the_older_name_of_a_kernel_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model": {"attention": "splash"}}))
    assert workdir.read_config(tmp_path).model.attention == "flash"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "missing; is .* the --workdir of a bertjax run"),
        ("{", "not a config of this version"),
        ("[" * 100_000, "not a config of this version"),
        (json.dumps({"model": {"hidden_sizes": 1}}), "not a config of this version .*hidden_size"),
        (json.dumps({"model": {"scan_unroll": None}}), "scan_unroll=None: expected int or auto"),
        (json.dumps({"seed": -1}), r"not a config of this version .*config\.seed=-1"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, text, said):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        workdir.read_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_run_that_goes_on_keeps_where_it_started(tmp_path):
    assert workdir.resumed(Config(init_from="hf:b"), tmp_path).init_from == "hf:b"
    workdir.write_config(Config(init_from="hf:a"), tmp_path)
    for given in (None, "hf:a"):
        assert workdir.resumed(Config(init_from=given), tmp_path).init_from == "hf:a"
    with pytest.raises(UsageError, match=r"init_from='hf:b': .*which started from hf:a; unset it"):
        workdir.resumed(Config(init_from="hf:b"), tmp_path)
