"""`bertjax plan`: the reader of compiled programs, the roofline, the recipe, the refusal."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax import __main__ as main
from bertjax import config as config_lib
from bertjax import errors, models, sharding
from bertjax.config import stages
from bertjax.errors import UsageError
from bertjax.metrics import chips
from bertjax.metrics import flops as metrics_flops
from bertjax.plan import budget, hlo, hlo_cost, roofline, topology
from bertjax.plan import report as plan_report
from bertjax.plan import search as plan_search
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
)
PHASE = config_lib.Phase(steps=100, sequence_length=32, batch_size=512, max_predictions_per_seq=5)
CONFIG = config_lib.Config(model=MODEL, phases={"phase1": PHASE})


def program_of(function, *arguments):
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return hlo.Program(text, jax.device_count())


def test_flops_of_a_loop_in_a_loop_count_every_trip():
    x = jnp.ones((32, 48))
    w = jnp.ones((48, 48))

    def layers(x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0]

    program = program_of(
        lambda x: jax.lax.scan(lambda x, _: (layers(x), None), x, None, length=3)[0], x
    )
    assert hlo_cost.total_flops(program) == 3 * 7 * 2 * 32 * 48 * 48


def test_a_loop_whose_count_the_compiler_does_not_say_is_read_off_its_condition():
    """As the TPU compiler writes loops: the bound is a constant of the condition."""
    text = """
%body (p: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %p = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8,8]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %y = f32[8,8]{1,0:T(8,128)} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) tuple(%i, %y)
}

%condition (p: (s32[], f32[8,8])) -> pred[] {
  %n = s32[]{:T(128)} constant(12)
  %q = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %n), direction=LT
}

ENTRY %main (a: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %a = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) parameter(0)
  ROOT %w = (s32[]{:T(128)}, f32[8,8]{1,0:T(8,128)}) while(%a), condition=%condition, body=%body
}
"""
    assert hlo_cost.total_flops(hlo.Program(text)) == 12 * 2 * 8**3


@pytest.mark.parametrize(
    ("window", "labels", "lhs", "rhs", "out", "flops"),
    [  # an ordinary convolution, its padded form, and the TPU's batched matrix product
        ("size=3", "b0f_0io->b0f", "2,10,4", "3,4,5", "2,8,5", 2 * 2 * 8 * 5 * 4 * 3),
        (
            "size=3 pad=1_1",
            "b0f_0io->b0f",
            "2,10,4",
            "3,4,5",
            "2,10,5",
            2 * 2 * 5 * 4 * (10 * 3 - 2),
        ),
        (
            "size=6 stride=5 lhs_dilate=6",
            "0bf_0oi->0bf",
            "6,16,4",
            "6,8,4",
            "6,16,8",
            2 * 6 * 16 * 8 * 4,
        ),
    ],
)
def test_flops_of_convolutions(window, labels, lhs, rhs, out, flops):
    text = f"""
ENTRY %main (a: f32[{lhs}], b: f32[{rhs}]) -> f32[{out}] {{
  %a = f32[{lhs}]{{2,1,0}} parameter(0)
  %b = f32[{rhs}]{{2,1,0}} parameter(1)
  ROOT %c = f32[{out}]{{2,1,0}} convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}
"""
    assert hlo_cost.total_flops(hlo.Program(text)) == flops


def test_bytes_of_collectives_and_their_groups():
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    x = jax.device_put(jnp.ones((8, 256)), NamedSharding(mesh, P("a", "b")))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("a", "b"), out_specs=P(None, "b"))
    def reduce(x):
        return jax.lax.scan(
            lambda y, _: (jax.lax.psum(x + y[:4], "a")[:1] + y, None),
            jax.lax.psum(x, "a"),
            None,
            length=5,
        )[0]

    found = [c for c in program_of(reduce, x).collectives() if c.kind == "all-reduce"]
    assert {(c.dtype, c.devices, c.bytes) for c in found} == {("f32", 2, 4 * 64 * 4)}
    assert sum(c.count for c in found) == 6

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P("a", "b"), out_specs=P("a"), check_vma=False
    )
    def gather(x):
        return jax.lax.all_gather(x, "b", axis=1, tiled=True)

    (found,) = program_of(gather, x).collectives()
    assert (found.kind, found.devices, found.bytes) == ("all-gather", 4, 4 * 256 * 4)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1,2},{3,4,5}}", 3),
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['x'=4,'y'=2] {'x'}", 4),
        ("mesh['x'=4,'y'=2] {'x','y'}", 8),
        ("mesh['x'=8] {'x':(1)2}", 2),
        ("mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'x'}", 4),
        ("{}", 8),
    ],
)
def test_every_form_of_groups(groups, size):
    text = f"""
ENTRY %main (a: bf16[16]) -> bf16[16] {{
  %a = bf16[16]{{0}} parameter(0)
  ROOT %r = bf16[16]{{0}} all-reduce(%a), replica_groups={groups}, to_apply=%add
}}
"""
    (found,) = hlo.Program(text, 8).collectives()
    assert (found.devices, found.bytes, found.dtype) == (size, 32, "bf16")


def test_bytes_moved_leave_out_what_is_only_sliced_and_what_lies_on_the_chip():
    text = """
%fused (p: f32[12,64], i: s32[], q: f32[64]) -> f32[64] {
  %p = f32[12,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  %s = f32[1,64]{1,0} dynamic-slice(%p, %i, %z), dynamic_slice_sizes={1,64}
  %b = f32[64]{0} bitcast(%s)
  %q = f32[64]{0} parameter(2)
  ROOT %m = f32[64]{0} multiply(%b, %q)
}

ENTRY %main (a: f32[12,64], i: s32[], c: f32[64]) -> f32[64] {
  %a = f32[12,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %c = f32[64]{0:S(1)} parameter(2)
  ROOT %f = f32[64]{0} fusion(%a, %i, %c), kind=kLoop, calls=%fused
}
"""
    # A slice read, the product written, the index; the second factor is not in HBM.
    assert hlo_cost.total_bytes(hlo.Program(text)) == 64 * 4 + 64 * 4 + 4


def product_text(dtype="f32", extra=""):
    return f"""
ENTRY %main (a: {dtype}[1000,1000]) -> {dtype}[1000,1000] {{
  %a = {dtype}[1000,1000]{{1,0}} parameter(0)
  {"" if extra else "ROOT "}%d = {dtype}[1000,1000]{{1,0}} dot(%a, %a), lhs_contracting_dims={{1}}
  {extra}
}}
"""


def matrix_product(**parts):
    return hlo.Program(product_text(**parts))


def test_roofline_known_answers():
    chip = chips.Chip(peak_flops=1e9, hbm_limit=1e9, hbm=1e9, link=1e9, dcn=1e8)
    compute_bound = roofline.predict(matrix_product(), chip, (2, 2))
    assert compute_bound.step == pytest.approx(2.0)  # 2e9 FLOPs at 1e9 a second
    memory_bound = roofline.predict(
        matrix_product(), dataclasses.replace(chip, peak_flops=1e15), (2, 2)
    )
    assert memory_bound.step == pytest.approx(12e6 / 1e9)  # two operands and a result
    reduced = matrix_product(
        extra="ROOT %r = f32[1000,1000]{1,0} all-reduce(%d), replica_groups=[1,4]<=[4]"
    )
    # 4 MB: 2 * 3/4 of it through two wires of 1 GB/s.
    assert roofline.predict(reduced, chip, (2, 2)).ici == pytest.approx(4e6 * 1.5 / 2e9)
    text = product_text(
        extra="ROOT %s = (f32[1000,1000]{1,0}, u32[]) send(%d), frontend_attributes="
        '{_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    for slices, share in ((2, 1.0), (4, 1.5)):  # 2 (S - 1) / S of 4 MB
        program = hlo.Program(text, devices=4 * slices, slices=slices)
        seconds = roofline.predict(program, chip, (2, 2)).dcn
        assert seconds == pytest.approx(share * 4e6 / 1e8)
        assert program.collectives()[0].devices == slices
    unknown = dataclasses.replace(chip, dcn=None)
    assert roofline.predict(program, unknown, (2, 2)) is None


def test_a_sum_in_pieces_counts_once():
    """A TPU's sums in the background: each piece has the shape of the whole."""
    groups = "replica_groups=[1,4]<=[4], frontend_attributes={chain_id="
    fused = [
        f"""
%async_collective_fusion.{number} (p: f32[1000]) -> f32[1000] {{
  %p = f32[1000]{{0}} parameter(0)
  ROOT %r = f32[1000]{{0}} all-reduce(%p), {groups}"{chain}"}}
}}
"""
        for number, chain in enumerate((0, 0, 0, 1))
    ]
    calls = [
        f"%f{n} = f32[1000]{{0}} fusion(%a), kind=kOutput, calls=%async_collective_fusion.{n}"
        for n in range(4)
    ]
    body = "\n  ".join(calls)
    text = f"""
{"".join(fused)}
ENTRY %main (a: f32[1000]) -> f32[1000] {{
  %a = f32[1000]{{0}} parameter(0)
  {body}
  ROOT %d = f32[1000]{{0}} add(%f2, %f3)
}}
"""
    program = hlo.Program(text, devices=4)
    for _ in range(2):  # asking again changes nothing
        assert [(c.kind, c.bytes) for c in program.collectives()] == [("all-reduce", 4e3)] * 2


def test_wires_of_a_group():
    chip = chips.CHIPS["TPU v5 lite"]
    assert roofline.egress(chip, (16, 16, 1), 256) == 4 * chip.link  # both sides are rings
    assert roofline.egress(chip, (16, 16, 1), 16) == 2 * chip.link
    assert roofline.egress(chip, (4, 4, 1), 16) == 2 * chip.link  # both sides are open
    assert roofline.egress(chips.CHIPS["TPU v4"], (4, 4, 4), 64) == 6 * 45e9
    assert roofline.egress(chips.CHIPS["TPU v4"], (4, 2, 2), 16) == 3 * 45e9  # less than a cube


@functools.cache
def planned():
    """Of a model in bfloat16, in micro-batches."""
    config = plan_search.with_micro_batch(CONFIG, "phase1", 128).with_model(dtype="bfloat16")
    job, rows = budget.corpus(config, None)
    return plan_stage.plan(job, Target.named(None), rows, say=lambda line: None)


def test_the_plan_is_of_the_step_that_runs():
    found = planned()
    json.dumps(found)
    for key in (
        "num_parameters",
        "topology",
        "num_devices",
        "hbm_bytes_per_device",
        "hbm_limit_bytes",
        "fits",
        "flops_per_step_per_device",
        "model_flops_per_step_per_device",
        "collectives",
        "compile_seconds",
        "predicted_step_seconds",
    ):
        assert key in found
    formula = metrics_flops.model_flops_per_step(MODEL, 512, 32, 5)
    assert found["model_flops_per_step_per_device"] == formula / 8
    # The padding of the vocabulary (500 to 512) is all that is computed beside the formula.
    assert formula / 8 < found["flops_per_step_per_device"] < formula / 8 * 1.03
    assert found["optimizer_bytes_per_device"] >= 2 * found["parameter_bytes_per_device"]
    assert found["attention"] == "xla"
    assert found["predicted_step_seconds"] is None  # of this machine nothing is known


def test_gradients_are_reduced_once_a_step_in_float32():
    """Of micro-batches that compute in bfloat16."""
    size = sum(math.prod(x.shape) for x in jax.tree.leaves(models.abstract_params(MODEL)))
    large = [c for c in planned()["collectives"] if c["bytes"] > 1000]
    assert {(c["kind"], c["dtype"]) for c in large} == {("all-reduce", "f32")}
    assert 4 * size <= sum(c["bytes"] for c in large) < 4 * size * 1.01


def small_target(limit):
    return dataclasses.replace(Target.named(None), name="v0:2x2x2", hbm_limit=limit)


def test_what_does_not_fit_is_refused_with_what_does(monkeypatch, capsys):
    target = small_target(planned()["hbm_bytes_per_device"] * 1.1)  # enough for 128 of them
    report = dict(
        planned()["stages"][0],
        fits=False,
        micro_batch_size=512,
        hbm_limit_bytes=target.hbm_limit,
        hbm_bytes_per_device=2 * target.hbm_limit,
    )
    refused = dict(planned(), fits=False, stages=[report])
    monkeypatch.setattr(Target, "named", lambda name: target)
    monkeypatch.setattr(plan_stage, "plan", lambda *_, **__: refused)
    with pytest.raises(UsageError) as error:
        plan_report.run(CONFIG, "v0:2x2x2", None, as_json=True, as_table=False)
    assert json.loads(capsys.readouterr().out)["fits"] is False
    said = str(error.value)
    assert "phase1 (512 x 32, 512 at once)" in said
    assert "--config.phases.phase1.micro_batch_size=" in said
    assert "(compiled)" in said
    assert "\n" not in said
    assert error.value.exit_code == errors.USAGE


def test_what_cannot_fit_is_said_to_be_unchecked(monkeypatch):
    refused = dict(planned()["stages"][0], fits=False, hbm_limit_bytes=1e5)
    monkeypatch.setattr(plan_search, "plan_stage", lambda *_: {"fits": False})
    fix = plan_search.would_fit(Pretraining(CONFIG), small_target(1e5), refused, lambda line: None)
    assert "not checked" in fix
    assert "mesh.fsdp=4" in fix
    refused["mesh"] = {"data": 1, "fsdp": 8, "tensor": 1}  # 32 do not divide 8 devices
    fix = plan_search.would_fit(Pretraining(CONFIG), small_target(1e5), refused, lambda line: None)
    assert fix == "nothing that was tried fits; take more devices"


def test_parts_that_are_clipped_alone_are_not_split_further(monkeypatch):
    """clip_mode=per_shard takes no micro_batch_size: no advice names one, no row has another."""
    clipping = config_lib.Optimizer(clip_mode="per_shard", clip_shards=8)
    config = dataclasses.replace(CONFIG, optimizer=clipping)
    report = dict(planned()["stages"][0], fits=False, micro_batch_size=512)
    monkeypatch.setattr(plan_search, "plan_stage", lambda *_: report)
    arguments = small_target(1e5), report, lambda line: None
    assert "micro_batch_size" not in plan_search.would_fit(Pretraining(config), *arguments)
    rows = plan_search.table(Pretraining(config), small_target(1e5), lambda line: None)
    assert [r["micro_batch_size"] for r in rows] == [512] * 9
    works = dict(report, fits=True)
    monkeypatch.setattr(plan_search, "plan_stage", lambda *_: works)
    assert plan_search.would_fit(Pretraining(config), *arguments).startswith(
        "--config.model.remat=full fits"
    )


def test_where_the_limit_is_not_known_a_refusal_is_one_line(monkeypatch, capsys):
    """The compiler knows TPU v3; how much of its memory programs can have is in no table here."""
    report = dict(planned()["stages"][0], fits=False, micro_batch_size=512, hbm_limit_bytes=None)
    target = small_target(None)
    monkeypatch.setattr(Target, "named", lambda name: target)
    monkeypatch.setattr(
        plan_stage, "plan", lambda *_, **__: dict(planned(), fits=False, stages=[report])
    )
    monkeypatch.setattr(plan_search, "plan_stage", lambda *_: {"fits": False})
    with pytest.raises(UsageError, match=r"GiB, a device of v0:2x2x2 has less: perhaps"):
        plan_report.run(CONFIG, "v3:2x2", None, as_json=True, as_table=False)


def test_a_table_that_no_mesh_can_fill_says_why():
    evaluation = config_lib.Evaluation(batch_size=12)
    config = dataclasses.replace(CONFIG, evaluation=evaluation)
    with pytest.raises(UsageError, match=r"evaluation\.batch_size=12: does not divide"):
        list(plan_search.table(Pretraining(config), small_target(1e9), lambda line: None))


def test_arguments_that_mean_nothing_are_refused(capsys):
    assert (
        main.run(["bertjax", "plan", "--config=configs/quickstart.py", "v5e:2x2"]) == errors.USAGE
    )
    assert capsys.readouterr().err == (
        "bertjax plan: unexpected 'v5e:2x2': plan takes flags only, each as --NAME=VALUE\n"
    )


def test_a_compiler_of_another_version_is_named_with_the_fix(monkeypatch):
    """As libtpu 0.0.52 beside jaxlib 0.10.2, which asks for 0.0.42."""

    def as_text(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: async-update instruction has 3 operands")

    monkeypatch.setattr(jax.stages.Compiled, "as_text", as_text)
    compiled = jax.jit(lambda x: x).lower(1.0).compile()
    with pytest.raises(UsageError, match=r"cannot read .*'bertjax\[tpu\]'.*\(INTERNAL: async"):
        plan_stage._text(compiled)


def test_the_compilers_own_refusal_is_read():
    said = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total "
        "memory required for HLO temporaries (34.25G) exceeds available HBM (15.75G)."
    )
    assert plan_stage._wanted(said) == 34.25 * 2**30
    assert plan_stage._wanted("RESOURCE_EXHAUSTED: something else") is None


def test_the_table_stops_at_the_first_micro_batch_that_fits(monkeypatch):
    def plan_stage(job, target, stage):
        fits = job.config.phases["phase1"].micro_batch_size <= 128
        return dict(
            planned()["stages"][0],
            micro_batch_size=stage.phase.micro_batch_size,
            mesh={"data": 8, "fsdp": 1, "tensor": 1},
            fits=fits,
        )

    monkeypatch.setattr(plan_search, "plan_stage", plan_stage)
    rows = list(plan_search.table(Pretraining(CONFIG), small_target(1e9), lambda line: None))
    assert [(r["micro_batch_size"], r["fits"]) for r in rows[:2]] == [(512, False), (128, True)]
    assert len(rows) == 2 * 3 * 3  # fsdp of 1, 4, 8; three kinds of remat


def test_recipe_arithmetic():
    phases = {
        "phase1": dataclasses.replace(PHASE, batch_size=64, steps=30, ramp_from=16, ramp_steps=20),
        "phase2": dataclasses.replace(PHASE, batch_size=64, steps=10, sequence_length=64),
    }
    checkpoints = config_lib.Checkpoints(every_steps=5, keep=2)
    config = config_lib.Config(model=MODEL, phases=phases, checkpoints=checkpoints)
    reports = [
        {
            "steps": s.steps,
            "batch_size": s.phase.batch_size,
            "sequence_length": s.phase.sequence_length,
            "predicted_step_seconds": s.phase_index + 0.5,
        }
        for s in stages.of(config)
    ]
    found = budget.totals(Pretraining(config), reports, rows=[1000, 320])
    assert [s.phase.batch_size for s in stages.of(config)] == [16, 32, 64, 64]
    assert found["tokens"] == (10 * 16 + 10 * 32 + 10 * 64) * 32 + 10 * 64 * 64
    assert found["epochs"] == [(160 + 320 + 640) / 1000, 2.0]
    assert found["predicted_seconds"] == 30 * 0.5 + 10 * 1.5
    assert found["seconds_between_checkpoints"] == 5 * 1.5
    params = sum(math.prod(x.shape) for x in jax.tree.leaves(models.abstract_params(MODEL)))
    assert found["checkpoint_bytes"] == pytest.approx(3 * 4 * params, abs=64)
    assert found["checkpoints_kept_bytes"] == 2 * found["checkpoint_bytes"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("v5e", "not GENERATION:SIDES"), ("v5e:4x4*0", "not GENERATION:SIDES")],
)
def test_topologies_that_are_none(name, said, tmp_path, capsys):
    with pytest.raises(UsageError, match=said):
        topology.devices(name)
    assert (
        main.run(["bertjax", "plan", "--config=configs/quickstart.py", f"--topology={name}"])
        == errors.USAGE
    )
    assert capsys.readouterr().err.count("\n") == 1


def test_without_libtpu_the_fix_is_named(monkeypatch):
    def missing(*args, **kwargs):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology.")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    with pytest.raises(UsageError, match=r"v5e:2x2: needs the TPU compiler.*bertjax\[tpu\]"):
        topology.devices("v5e:2x2")


def test_data_spans_slices_and_the_other_axes_lie_within(monkeypatch):
    class Device:
        platform, device_kind, process_index = "tpu", "TPU v0", 0

        def __init__(self, number):
            self.id, self.slice_index = number, number // 8
            self.coords, self.core_on_chip = (number % 2, number // 2 % 2, number // 4 % 2), 0

    monkeypatch.setattr("bertjax.sharding.mesh.Mesh", lambda devices, *_, **__: devices)
    devices = [Device(n) for n in range(16)]
    mesh = sharding.make_mesh(config_lib.Mesh(fsdp=4), devices)
    assert mesh.shape == (4, 4, 1)
    slices = np.vectorize(lambda d: d.slice_index)(mesh)[:, :, 0]
    np.testing.assert_array_equal(slices, [[0] * 4, [0] * 4, [1] * 4, [1] * 4])
    with pytest.raises(UsageError, match=r"config\.mesh\.data=1: does not divide by the 2 slices"):
        sharding.make_mesh(config_lib.Mesh(fsdp=16), devices)
