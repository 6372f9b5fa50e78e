"""Stand-ins for devices, with the attributes that the choice of a kernel reads."""

import functools
import types

from bertjax import sharding
from bertjax.models import flash, layer_norm

KINDS = {"cpu": "cpu", "gpu": "NVIDIA H100", "tpu": "TPU v4"}


def device(platform, kind=None, capability=None):
    device = types.SimpleNamespace(platform=platform, device_kind=kind or KINDS[platform])
    if capability:
        device.compute_capability = capability
    return device


def pretend_platform(monkeypatch, platform: str) -> None:
    """Meshes say that they are of `platform`, whose kernels JAX's interpreter runs."""
    monkeypatch.setattr(sharding.Placement, "device", device(platform))
    monkeypatch.setattr(flash, "attention", functools.partial(flash.attention, interpret=True))
    form = functools.partial(layer_norm.Form, interpret=True)
    monkeypatch.setattr(layer_norm, "Form", form)
