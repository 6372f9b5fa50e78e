"""GPUs that are not there: their names, what the compiler is told of them, predictions for them."""

import dataclasses
import importlib.util
import re

import jax
import pytest

from bertjax import config as config_lib
from bertjax import sharding, train
from bertjax.config import stages
from bertjax.errors import UsageError
from bertjax.metrics import chips
from bertjax.plan import budget, gpus, hlo, hlo_cost, roofline, search, topology
from bertjax.plan import stage as plan_stage
from bertjax.plan.target import Target
from bertjax.pretraining import Pretraining

MODEL = config_lib.Model(
    vocab_size=500,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=64,
    dtype="bfloat16",
)
PHASE = config_lib.Phase(steps=100, sequence_length=32, batch_size=64, max_predictions_per_seq=5)
CONFIG = config_lib.Config(model=MODEL, phases={"phase1": PHASE})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("h100", ("h100", 1)),
        ("H100x8", ("h100", 8)),
        ("a100x2", ("a100", 2)),
        ("a100-40gb", ("a100-40gb", 1)),
        ("a100-40gbx4", ("a100-40gb", 4)),
        ("b200x8", ("b200", 8)),
        ("v5e:4x4", None),
        ("h100:8", None),
        ("rtx4090", None),
    ],
)
def test_names(name, meant):
    assert gpus.parse(name) == meant


def test_a_name_that_is_missing_is_not_the_devices_at_hand():
    with pytest.raises(UsageError, match="--topology=: not GENERATION:SIDES"):
        Target.named("")


@pytest.mark.parametrize("name", ["h100x0", "h100x9", "a100x16"])
def test_more_gpus_than_a_host_has(name):
    with pytest.raises(UsageError, match=rf"--topology={name}: \d+ GPUs; take 1 to 8"):
        topology.devices(name)


def test_an_unknown_name_lists_both_kinds():
    with pytest.raises(UsageError, match=r"--topology=rtx4090: .*v5e:2x2.*GPUs: .*h100") as error:
        topology.devices("rtx4090")
    assert "\n" not in str(error.value)


def test_without_the_plugin_the_fix_is_named(monkeypatch):
    def missing(*args, **kwargs):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    with pytest.raises(UsageError, match=r"h100x2: needs the CUDA compiler.*bertjax\[cuda\]"):
        topology.devices("h100x2")


def test_the_compiler_is_told_the_memory_that_the_plan_counts_with():
    for gpu in gpus.GPUS.values():
        told = dict(re.findall(r"(\w+): (\d+)", gpus.target_config(gpu)))
        chip = chips.CHIPS[gpu.kind]
        assert int(told["device_memory_size"]) == round(chip.hbm_limit)
        assert int(told["memory_bandwidth"]) == chip.hbm
        assert (int(told["core_count"]), int(told["fpus_per_core"])) == (gpu.cores, gpu.lanes)


def test_peaks_follow_from_cores_and_clocks():
    """A tensor core of an SM: 1,024 (Ampere), 2,048 (Hopper), 4,096 (Blackwell) products a cycle.

    Data sheets count with a lower boost clock than the highest that the driver names.
    """
    for gpu in gpus.GPUS.values():
        products = {8: 1024, 9: 2048, 10: 4096}[gpu.capability[0]]
        highest = 2 * products * gpu.cores * gpu.clock * 1e9
        assert 0.9 < chips.CHIPS[gpu.kind].peak_flops / highest < 1.01


def test_share_of_the_memory_that_jax_takes(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    assert gpus.memory_share() == 0.75
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")
    assert gpus.memory_share() == 0.5
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.95")
    assert gpus.memory_share() == 0.95
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "95")
    with pytest.raises(UsageError, match="XLA_CLIENT_MEM_FRACTION=95: not a share"):
        gpus.memory_share()


def test_a_share_that_would_do(monkeypatch):
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    chip = chips.Chip(1e9, hbm_limit=100e9, hbm=1e9, nvlink=1e9)
    assert gpus.larger_share(chip, 80.5e9) == 0.81
    assert gpus.larger_share(chip, 93e9) is None
    assert gpus.larger_share(dataclasses.replace(chip, nvlink=None), 80e9) is None
    report = {"hbm_bytes_per_device": 80.5e9}
    target = Target("h100", [], 75e9, chip)
    fix = search.would_fit(Pretraining(CONFIG), target, report, lambda line: None)
    assert fix == "it fits with XLA_CLIENT_MEM_FRACTION=0.81 in the environment"


def test_a_prediction_for_a_gpu():
    text = """
ENTRY %main (a: f32[1000,1000]) -> f32[1000,1000] {
  %a = f32[1000,1000]{1,0} parameter(0)
  %d = f32[1000,1000]{1,0} dot(%a, %a), lhs_contracting_dims={1}
  ROOT %r = f32[1000,1000]{1,0} all-reduce(%d), replica_groups=[1,8]<=[8]
}
"""
    chip = chips.Chip(peak_flops=1e9, hbm_limit=1e9, hbm=1e9, nvlink=1e8)
    found = roofline.predict(hlo.Program(text, 8), chip, ())
    product, moved = 2.0, 8e6 / 1e9  # 2e9 FLOPs; 4 MB read and written by the all-reduce
    assert found.local == pytest.approx(product + moved)
    assert found.ici == pytest.approx(2 * 7 / 8 * 4e6 / 1e8)
    assert found.step == pytest.approx(roofline.GPU_FACTOR * found.local + found.ici)
    as_tpu = dataclasses.replace(chip, nvlink=None, link=1e8)
    found = roofline.predict(hlo.Program(text, 8), as_tpu, (4, 2))
    assert found.step == found.local + found.ici


def test_predictions_are_within_a_tenth_of_what_was_measured():
    for step in roofline.MEASURED:
        assert 0.9 < step.predicted / step.measured < 1.1


def test_products_of_cublas():
    """As XLA writes them; the scratch memory is not moved."""
    text = """
ENTRY %main (a: bf16[4,64,32], b: bf16[4,32,16]) -> bf16[4,64,16] {
  %a = bf16[4,64,32]{2,1,0} parameter(0)
  %b = bf16[4,32,16]{2,1,0} parameter(1)
  %c = (bf16[4,64,16]{2,1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"]}}}
  ROOT %g = bf16[4,64,16]{2,1,0} get-tuple-element(%c), index=0
}
"""
    program = hlo.Program(text)
    assert hlo_cost.total_flops(program) == 2 * 4 * 64 * 32 * 16
    assert hlo_cost.total_bytes(program) == 2 * 4 * (64 * 32 + 32 * 16 + 64 * 16)
    assert hlo_cost.total_kernels(program) == 1


def test_a_pallas_kernel_declares_the_flops_of_each_program_of_its_grid():
    """Those that `vmap` adds to the grid count, too. As XLA writes it."""
    text = r"""
ENTRY %main (a: bf16[4,64,32]) -> bf16[4,64,32] {
  %a = bf16[4,64,32]{2,1,0} parameter(0)
  ROOT %c = bf16[4,64,32]{2,1,0} custom-call(%a), custom_call_target="__gpu$xla.gpu.triton", backend_config={debug = false, grid_x = 2 : i32, grid_y = 3 : i32, grid_z = 1 : i32, ir = "ML\EFR", num_warps = 4 : i32, serialized_metadata = "{\22program_flops\22: \222097152\22}"}
}
"""
    program = hlo.Program(text)
    assert hlo_cost.total_flops(program) == 6 * 2097152
    assert hlo_cost.total_bytes(program) == 2 * 2 * 4 * 64 * 32


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None
    or importlib.util.find_spec("jax_plugins.xla_cuda12") is None,
    reason="needs the CUDA compiler: pip install 'bertjax[cuda]'",
)


@needs_compiler
def test_a_plan_for_eight_gpus():
    job, rows = budget.corpus(CONFIG, None)
    target = Target.named("h100x8")
    assert target.hbm_limit == pytest.approx(79.11 * 2**30 * gpus.memory_share())
    found = plan_stage.plan(job, target, rows, lambda line: None, all_kernels=False)
    assert found["num_devices"] == 8
    assert found["fits"]
    assert found["kernels_per_step"] > 20
    assert found["predicted_step_seconds"] > 0
    formula = found["model_flops_per_step_per_device"]
    assert formula < found["flops_per_step_per_device"] < 1.05 * formula
    assert {(c["kind"], c["network"]) for c in found["collectives"]} == {("all-reduce", "nvlink")}
    assert len(found["measurements"]) == len(roofline.MEASURED)


@needs_compiler
def test_the_guard_copies_no_parameters_and_no_moments():
    job, _ = budget.corpus(CONFIG, None)
    mesh = sharding.make_mesh(CONFIG.mesh, topology.devices("h100"))
    (stage,) = stages.of(CONFIG)
    program = hlo.Program(plan_stage.compile_stage(job, mesh, stage).as_text())
    state = train.abstract_state(job, mesh)
    shapes = {x.shape for x in jax.tree.leaves(state)}
    run = [instruction for _, instruction, _ in program.executed()]
    arrays = [array for i in run if i.opcode == "copy" for array in i.results]
    copied = sum(a.bytes for a in arrays if a.dtype == "f32" and a.dims in shapes)
    assert copied < 0.2 * plan_stage.bytes_per_device(state)  # a branch copied all of it
