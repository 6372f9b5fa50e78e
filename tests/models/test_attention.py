"""The choice of an attention kernel, and the refusal of a kernel that cannot run."""

import pytest
from devices import device

from bertjax import models
from bertjax.config import Model
from bertjax.errors import UsageError


def choose(name, rate, dtype, where, length, unsplit=None, **fields):
    model = Model(attention=name, attention_probs_dropout_prob=rate, dtype=dtype, **fields)
    placement = models.Unplaced(device(*where.split(": ")), unsplit)
    return models.attention_kernel(model, placement, length)


def test_cudnn_takes_heads_that_it_has():
    """cuDNN raises during tracing on other head sizes."""
    for heads, kernel in ((12, "cudnn"), (6, "cudnn"), (96, "cudnn"), (4, "xla"), (128, "xla")):
        assert choose("auto", 0.0, "bfloat16", "gpu", 128, num_attention_heads=heads) == kernel


def test_flash_takes_heads_that_fill_registers_of_a_tpu_or_powers_of_two():
    for heads, kernel in ((12, "flash"), (24, "flash"), (48, "xla"), (96, "xla"), (32, "xla")):
        assert choose("auto", 0.1, "bfloat16", "tpu", 128, num_attention_heads=heads) == kernel
    for heads, kernel in ((12, "flash"), (24, "flash"), (48, "flash"), (96, "xla"), (8, "xla")):
        assert choose("auto", 0.1, "bfloat16", "gpu", 128, num_attention_heads=heads) == kernel


@pytest.mark.parametrize(
    ("arguments", "kernel"),
    [
        (("auto", 0.0, "float32", "tpu", 128), "flash"),
        (("auto", 0.0, "bfloat16", "tpu", 512), "flash"),
        (("flash", 0.0, "bfloat16", "tpu", 384), "flash"),
        (("auto", 0.1, "bfloat16", "tpu", 512), "flash"),
        (("auto", 0.1, "bfloat16", "tpu", 2048), "flash"),
        (("auto", 0.1, "bfloat16", "tpu", 4096), "xla"),  # flash does not fit into VMEM
        (("auto", 0.1, "float32", "tpu", 1024), "flash"),
        (("auto", 0.1, "float32", "tpu", 2048), "xla"),
        (("auto", 0.0, "bfloat16", "tpu", 200), "xla"),
        (("auto", 0.0, "bfloat16", "tpu", 64), "xla"),
        (("auto", 0.0, "bfloat16", "tpu", 512, "rows together"), "xla"),
        (("auto", 0.0, "bfloat16", "tpu: TPU v5 lite", 512), "flash"),
        (("auto", 0.0, "bfloat16", "tpu: TPU v3", 512), "xla"),  # no kernel for TPU v3
        (("xla", 0.0, "bfloat16", "tpu", 512), "xla"),
        (("auto", 0.0, "float32", "cpu", 512), "xla"),
        (("auto", 0.0, "bfloat16", "gpu", 200), "cudnn"),
        (("auto", 0.0, "bfloat16", "gpu", 201), "xla"),
        (("auto", 0.0, "bfloat16", "gpu: Tesla V100: 7.0", 200), "xla"),
        (("auto", 0.0, "bfloat16", "gpu: AMD Instinct MI300X: gfx942", 200), "xla"),
        (("auto", 0.0, "bfloat16", "gpu: NVIDIA B200: 10.0", 200), "cudnn"),
        (("auto", 0.1, "bfloat16", "gpu", 512), "flash"),
        (("auto", 0.1, "bfloat16", "gpu: NVIDIA A100-SXM4-80GB: 8.0", 4096), "flash"),
        (("auto", 0.1, "bfloat16", "gpu: Tesla V100: 7.0", 512), "xla"),
        (("auto", 0.1, "bfloat16", "gpu: AMD Instinct MI300X: gfx942", 512), "xla"),
        (("auto", 0.1, "bfloat16", "gpu", 512, "rows together"), "xla"),
        (("auto", 0.1, "bfloat16", "gpu", 96), "xla"),
        (("auto", 0.0, "float32", "gpu", 512), "flash"),
        (("flash", 0.0, "bfloat16", "gpu", 512), "flash"),
        (("cudnn", 0.0, "bfloat16", "gpu", 512), "cudnn"),
        (("xla", 0.0, "bfloat16", "gpu", 512), "xla"),
    ],
)
def test_auto_takes_a_fused_kernel_where_it_computes_the_same(arguments, kernel):
    assert choose(*arguments) == kernel


@pytest.mark.parametrize(
    ("arguments", "lacking"),
    [
        (
            ("flash", 0.0, "float32", "cpu", 512),
            "a TPU v4 or later, or an NVIDIA GPU, Ampere or later (here: cpu)",
        ),
        (
            ("flash", 0.0, "bfloat16", "tpu", 200),
            "a sequence length that divides by 128 (here: 200)",
        ),
        (
            ("flash", 0.0, "bfloat16", "tpu", 512, "rows together"),
            "rows together",
        ),
        (
            ("flash", 0.1, "bfloat16", "gpu", 200),
            "a sequence length that divides by 64 (here: 200)",
        ),
        (
            ("flash", 0.1, "bfloat16", "gpu: Tesla V100: 7.0", 128),
            "a TPU v4 or later, or an NVIDIA GPU, Ampere or later (here: Tesla V100)",
        ),
        (("cudnn", 0.0, "float32", "gpu", 512), "config.model.dtype=bfloat16 (here: float32)"),
        (
            ("cudnn", 0.1, "bfloat16", "gpu", 512),
            "config.model.attention_probs_dropout_prob=0 (here: 0.1)",
        ),
        (("cudnn", 0.0, "bfloat16", "tpu", 512), "an NVIDIA GPU, Ampere or later (here: TPU v4)"),
        (("cudnn", 0.0, "bfloat16", "gpu", 201), "an even sequence length (here: 201)"),
    ],
)
def test_a_kernel_asked_for_by_name_is_refused_where_it_cannot_run(arguments, lacking):
    with pytest.raises(UsageError) as refused:
        choose(*arguments)
    assert str(refused.value) == (
        f"config.model.attention='{arguments[0]}': needs {lacking}; "
        "or set config.model.attention=xla"
    )
