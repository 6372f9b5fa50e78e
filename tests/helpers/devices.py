"""Stand-ins for devices, with the attributes that the choice of a kernel reads."""

import types

KINDS = {"cpu": "cpu", "gpu": "NVIDIA H100", "tpu": "TPU v4"}


def device(platform, kind=None, capability=None):
    device = types.SimpleNamespace(platform=platform, device_kind=kind or KINDS[platform])
    if capability:
        device.compute_capability = capability
    return device
