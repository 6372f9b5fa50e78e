"""A TPU sums gradients in the backward pass where nothing makes a sum wait, and only there."""

import dataclasses
import types

import numpy as np
import pytest
from devices import device

from bertjax import compiler
from bertjax.config import Model

UNROLLED = Model(scan_unroll=0)
TWELVE = dataclasses.replace(UNROLLED, scan_unroll=12)


def mesh(platform, data):
    devices = np.array([device(platform)] * data).reshape(data, 1, 1)
    return types.SimpleNamespace(devices=devices, shape={"data": data, "fsdp": 1, "tensor": 1})


@pytest.mark.parametrize("model", [UNROLLED, TWELVE])
def test_unrolled_blocks_on_several_tpus(model):
    found = compiler.options(model, mesh("tpu", 4), 1)
    assert found["xla_tpu_enable_async_collective_fusion_fuse_all_reduce"] is True
    # JAX may change what it is given.
    assert compiler.options(model, mesh("tpu", 4), 1) is not found


@pytest.mark.parametrize(
    ("model", "where", "micro_batches"),
    [
        (Model(), mesh("tpu", 4), 1),  # scanned
        (UNROLLED, mesh("tpu", 4), 2),
        (UNROLLED, mesh("tpu", 1), 1),
        (UNROLLED, mesh("gpu", 4), 1),
        (UNROLLED, mesh("cpu", 4), 1),
    ],
)
def test_nothing_elsewhere(model, where, micro_batches):
    assert compiler.options(model, where, micro_batches) == {}
