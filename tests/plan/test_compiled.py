"""The train step as the TPU's own compiler makes it, for slices that are not there.

Opt-in (`make test-compiled`): needs libtpu and some minutes. What is asserted is read off the
program that would be loaded onto the chips.
"""

import dataclasses
import importlib.util
import math
import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from bertjax import config as config_lib
from bertjax import models, sharding
from bertjax.config import stages
from bertjax.distill import soft_targets
from bertjax.metrics import flops
from bertjax.plan import budget, hlo, hlo_cost, topology
from bertjax.plan import stage as plan_stage
from bertjax.pretraining import Pretraining

pytestmark = [
    pytest.mark.tpu_compiler,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="needs the TPU compiler: pip install 'bertjax[tpu]'",
    ),
]
ROWS_A_CHIP = 8


def bert_base(chips: int, *, mesh=None, micro_batches=1, **model) -> config_lib.Config:
    """BERT-Base's second phase (512 tokens) with `ROWS_A_CHIP` rows on every chip at once."""
    path = Path(__file__).parents[2] / "configs" / "bert_base.py"
    config = config_lib.from_config_dict(runpy.run_path(str(path))["get_config"]())
    rows = ROWS_A_CHIP * chips
    phase = dataclasses.replace(
        config.phases["phase2"], batch_size=rows * micro_batches, micro_batch_size=rows
    )
    evaluation = dataclasses.replace(config.evaluation, batch_size=chips)
    return dataclasses.replace(
        config.with_model(**model),
        phases={"phase2": phase},
        evaluation=evaluation,
        mesh=mesh or config_lib.Mesh(),
    )


class Compiled:
    """A config's first stage compiled for a topology."""

    def __init__(self, config: config_lib.Config, name: str):
        devices = topology.devices(name)
        self.mesh = sharding.make_mesh(config.mesh, devices)
        job = Pretraining(config, budget.AnyTokenizer(config.model.vocab_size))
        (stage,) = stages.of(config)
        self.config, self.phase = config, stage.phase
        compiled = plan_stage.compile_stage(job, self.mesh, stage)
        self.hbm = compiled.memory_analysis().peak_memory_in_bytes
        self.text = compiled.as_text()
        self.program = hlo.Program(self.text, len(devices))
        self.collectives = self.program.collectives()

    @property
    def model_flops(self) -> float:
        """Of one device in one step, by the formula."""
        phase = self.phase
        return (
            flops.model_flops_per_step(
                self.config.model,
                phase.batch_size,
                phase.sequence_length,
                phase.max_predictions_per_seq,
            )
            / self.mesh.size
        )

    @property
    def activation(self) -> int:
        """Elements of the hidden states of one device's rows."""
        return ROWS_A_CHIP * self.phase.sequence_length * self.config.model.hidden_size


@pytest.fixture(scope="module")
def four():
    return Compiled(bert_base(4), "v5e:2x2")


@pytest.fixture(scope="module")
def pod():
    return Compiled(bert_base(256), "v5e:16x16")


def test_memory_of_a_chip_is_the_same_from_4_to_256_chips(four, pod):
    """Weak scaling: careless dropout keys came out replicated, and a pod needed twice the memory."""
    middle = Compiled(bert_base(32), "v5e:4x8").hbm
    for hbm in (middle, pod.hbm):
        assert abs(hbm / four.hbm - 1) < 0.05


def test_a_pod_of_data_parallel_chips_gathers_nothing(pod):
    assert {c.kind for c in pod.collectives} == {"all-reduce"}
    assert {c.devices for c in pod.collectives} == {256}


def test_executed_flops_are_those_of_the_formula(four, pod):
    for compiled in (four, pod):
        assert hlo_cost.total_flops(compiled.program) / compiled.model_flops == pytest.approx(
            1, abs=0.03
        )


def test_gradients_are_reduced_once_a_step_in_float32(pod):
    """Of every element of every parameter, micro-batches or not."""
    shapes = models.abstract_params(pod.config.model)
    bytes_ = 4 * sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    several = Compiled(bert_base(4, micro_batches=4), "v5e:2x2")
    for compiled in (pod, several):
        large = [c for c in compiled.collectives if c.bytes > 1e4]
        assert {(c.kind, c.dtype, c.count) for c in large} == {("all-reduce", "f32", 1)}
        assert sum(c.bytes for c in large) == pytest.approx(bytes_, rel=0.01)


def test_unrolled_blocks_are_summed_while_the_backward_pass_multiplies():
    """Most of a gradient's bytes: what is left is summed before or after it, as the word table."""
    silent = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    compiled = Compiled(bert_base(4, num_hidden_layers=2, scan_unroll=0, **silent), "v5e:2x2")
    entry = compiled.text[compiled.text.rindex("\nENTRY ") :]
    assert len(re.findall(r" fusion\(.*async_collective_fusion", entry)) >= 2 * 6
    alone = re.findall(r" all-reduce\(", entry)
    assert len(alone) < 2 * 6


def test_sharded_parameters_are_gathered_and_activations_are_not():
    mesh = config_lib.Mesh(fsdp=4)
    compiled = Compiled(bert_base(16, mesh=mesh, micro_batches=2), "v4:2x2x4")
    gathered = [c for c in compiled.collectives if c.kind == "all-gather"]
    assert gathered
    model = compiled.config.model
    table = (model.padded_vocab_size, model.hidden_size // 4)
    others = [shape for c in gathered for shape in c.shapes if shape != table]
    assert max(math.prod(shape) for shape in others) < compiled.activation / 4
    assert {c.dtype for c in gathered if c.count > 2} <= {"bf16", "s32"}  # those of every layer
    over_data = [
        c for c in compiled.collectives if c.kind == "all-reduce" and c.bytes > 1e6 and c.count == 1
    ]
    assert over_data
    assert {c.dtype for c in over_data} == {"f32"}


def test_the_published_recipe_runs_fused(four):
    """Dropout of attention probabilities and all."""
    assert four.config.model.attention_probs_dropout_prob == 0.1
    assert "tpu_custom_call" in four.program.kernels()
    plain = Compiled(bert_base(4, attention="xla"), "v5e:2x2")
    assert "tpu_custom_call" not in plain.program.kernels()
    assert four.hbm < plain.hbm  # no scores [B, H, L, L]
    assert not [c for c in four.collectives if c.kind != "all-reduce"]


def test_two_slices_exchange_a_chips_share_of_the_gradients_once_a_step():
    compiled = Compiled(bert_base(8), "v5e:2x2*2")
    sent = [c for c in compiled.collectives if c.over_dcn and c.bytes > 1e4]
    assert {(c.kind, c.dtype, c.count) for c in sent} == {("all-reduce", "f32", 1)}
    shapes = models.abstract_params(compiled.config.model)
    whole = 4 * sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert sum(c.bytes for c in sent) == pytest.approx(whole / 4, rel=0.02)


def test_the_logits_of_soft_targets_never_stand_on_a_chip():
    """32 x 512 tokens over 30,522 ids: 2 GB of logits in float32 for each of the two models."""
    chip = jax.sharding.SingleDeviceSharding(topology.devices("v5e:2x2")[0])

    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=chip)

    rows, length, width, vocab = 32, 512, 768, 30_592
    factors = models.Decoder(
        array(rows, length, width), array(vocab, width), array(vocab, dtype=jnp.float32)
    )
    tokens = soft_targets.Tokens(
        array(rows, length, dtype=jnp.float32),
        array(rows, length, dtype=jnp.int32),
        array(rows, length, dtype=jnp.float32),
    )

    def temporaries(block_tokens):
        rule = soft_targets.Rule(2.0, 30_522, block_tokens)
        loss = jax.grad(lambda x, y, z: soft_targets.sums(rule, x, y, z).loss)
        memory = jax.jit(loss).lower(factors, factors, tokens).compile().memory_analysis()
        return memory.temp_size_in_bytes

    logits = 4 * rows * length * vocab
    blocked, whole = temporaries(soft_targets.BLOCK_TOKENS), temporaries(rows * length)
    print(f"{blocked / 2**30:.2f} GiB in blocks, {whole / 2**30:.2f} GiB whole")
    assert blocked < logits / 4
    assert whole > logits
