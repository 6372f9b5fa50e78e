"""What the tests of fine-tuning runs share."""

import functools

import jax
import pytest

from bertjax import sharding


@pytest.fixture
def one_device(monkeypatch):
    """Trainings of this process run on one of its devices: a step compiles in half the time."""
    make = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", make)
