"""Builds a config from the tree that a config file returns, and turns it back into plain values.

A config file returns `default()` with some fields changed. The command line then changes fields of
this `ml_collections` tree. Finally, `from_config_dict` builds the frozen dataclasses of `fields`.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from bertjax.config import checks
from bertjax.config import tree as config_tree
from bertjax.config.data_fields import Component, Data
from bertjax.config.fields import Config, Phase
from bertjax.config.model_fields import Model


def default() -> ConfigDict:
    """All fields with their defaults, for config files to change; unset fields are placeholders."""
    return config_tree.to_config_dict(Config())


def phase(**fields: Any) -> ConfigDict:
    """One entry of `config.phases` for a config file."""
    phase = config_tree.build(Phase, fields, "config.phases.NAME")
    return config_tree.to_config_dict(phase)


def component(weight: float, **fields: Any) -> ConfigDict:
    """One entry of `config.mixture` for a config file: a weight, and fields of `config.data`."""
    data = config_tree.build(Data, fields, "config.mixture.NAME.data")
    return config_tree.to_config_dict(Component(weight, data))


def from_config_dict(tree: ConfigDict | dict) -> Config:
    """Turns the mutable tree into the frozen `Config`.

    Raises:
      UsageError: a field is unknown, or a value has another type or is out of its range; the
        message names the field, the value and the fix.
    """
    raw = tree.to_dict() if isinstance(tree, ConfigDict) else tree
    config = config_tree.build(Config, raw, "config")
    checks.check(config)
    return config


def model_of(fields: dict) -> Model:
    """A `Model` from plain values; raises UsageError if no model can have one of the values."""
    model = config_tree.build(Model, fields, "config.model")
    checks.check_fields(config_tree.walk(model, "config.model"))
    return model


def to_dict(config: Config) -> dict:
    """The plain nested dict in `config.json`; `from_config_dict` reads it back."""
    return dataclasses.asdict(config)


def leaves(config: Config) -> dict:
    """`{"config.model.hidden_size": 768, ...}`: all fields by their names on the command line."""
    return {path: value for path, _, value in config_tree.walk(config)}
