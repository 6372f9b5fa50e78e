"""Laws of bertjax.checkpoints: what is restored is what was saved, or is named as damaged."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from states import abstract, assert_same, make_state

from bertjax import __main__ as program
from bertjax.checkpoints import integrity, manager, steps
from bertjax.checkpoints.manager import Checkpoints
from bertjax.errors import DataError, StorageError, UsageError
from bertjax.processes import lock

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed


def save_steps(directory, steps, keep=10):
    checkpoints = Checkpoints(directory, keep)
    for step in steps:
        checkpoints.save(step, make_state(step))
    checkpoints.close()


def restore(directory, keep=10):
    checkpoints = Checkpoints(directory, keep)
    try:
        return checkpoints.restore(abstract(make_state(0)))
    finally:
        checkpoints.close()


def whole_steps(directory):
    return [report.step for report in manager.verify(directory) if not report.problems]


def test_nothing_saved_restores_nothing(tmp_path):
    assert restore(tmp_path / "checkpoints") is None


def test_round_trip_is_bit_equal(tmp_path):
    save_steps(tmp_path, [0, 7])
    step, state = restore(tmp_path)
    assert step == 7
    assert_same(state, make_state(7))
    assert whole_steps(tmp_path) == [0, 7]


def test_special_floats_survive(tmp_path):
    state = {"params": {"x": jnp.array([jnp.nan, jnp.inf, -0.0, 1e-45], jnp.float32)}}
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(1, state)
    checkpoints.close()
    assert_same(manager.read_newest(tmp_path, abstract(state))[1], state)


def test_restores_onto_another_mesh(tmp_path):
    def place(state, shape, spec):
        mesh = jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
        return jax.tree.map(
            lambda x: jax.device_put(x, NamedSharding(mesh, spec if x.ndim == 3 else P())), state
        )

    saved = place(make_state(3), (2, 4), P(None, "fsdp", "data"))
    wanted = place(make_state(0), (4, 2), P(None, None, ("fsdp", "data")))
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(3, saved)
    _, state = checkpoints.restore(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), wanted)
    )
    checkpoints.close()
    assert_same(state, make_state(3))
    for leaf, want in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding == want.sharding


def test_a_save_where_another_start_took_over_never_counts(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "checkpoints", 10)
    with lock.Lock(tmp_path, "pretrain") as mine:
        checkpoints.save(0, make_state(0))
        checkpoints.wait()
        finish = checkpoints._manager.wait_until_finished

        def finish_and_lose():
            finish()
            mine._lost = "taken over"

        monkeypatch.setattr(checkpoints._manager, "wait_until_finished", finish_and_lose)
        checkpoints.save(1, make_state(1))
        with pytest.raises(UsageError, match="taken over"):
            checkpoints.wait()
        with pytest.raises(UsageError, match="taken over"):
            checkpoints.save(2, make_state(2))
    checkpoints.close()
    assert whole_steps(tmp_path / "checkpoints") == [0]
    assert not (tmp_path / "checkpoints" / "2").exists()


def test_saved_state_may_be_donated_at_once(tmp_path):
    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state):
        return jax.tree.map(lambda x: x + 1, state)

    checkpoints = Checkpoints(tmp_path, 10)
    start = jax.random.normal(jax.random.key(0), (1 << 21,))  # slow to compress, unlike zeros
    state, expected = {"params": {"x": jnp.copy(start)}}, {}
    for step in range(3):
        expected[step] = np.array(state["params"]["x"])
        checkpoints.save(step, state)
        for _ in range(10):
            state = advance(state)
    checkpoints.close()
    for step in (2, 1, 0):
        found, saved = manager.read_newest(tmp_path, abstract(state))
        assert found == step
        assert np.array_equal(saved["params"]["x"], expected[step])
        shutil.rmtree(tmp_path / str(step))


def test_only_the_loop_asks_whether_to_stop(tmp_path, monkeypatch):
    """A second series of questions would take the answer, and the SIGTERM with it, from the loop."""
    asked = []
    monkeypatch.setattr(
        "jax.experimental.multihost_utils.reached_preemption_sync_point", asked.append
    )
    save_steps(tmp_path, [0, 20])
    assert asked == []


def test_partial_restore_reads_params_only(tmp_path):
    save_steps(tmp_path, [4])
    wanted = {"params": abstract(make_state(0))["params"]}
    step, state = manager.read_newest(tmp_path, wanted)
    assert step == 4
    assert_same(state, {"params": make_state(4)["params"]})


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    save_steps(tmp_path, [4])
    before = (tmp_path / "4" / integrity.MANIFEST).read_bytes()
    save_steps(tmp_path, [4])
    assert (tmp_path / "4" / integrity.MANIFEST).read_bytes() == before


def damage(path, kind, rng):
    raw = bytearray(path.read_bytes())
    if kind == "flip":
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == "truncate":
        del raw[rng.randrange(len(raw)) :]
    elif kind == "empty":
        raw.clear()
    if kind == "delete":
        path.unlink()
    else:
        path.write_bytes(raw)


def test_a_hundred_random_damages_are_all_found(tmp_path, capsys):
    save_steps(tmp_path / "pristine", [10, 20])
    rng = random.Random(0)
    checkpoints = Checkpoints(tmp_path / "work", 10)
    hit = set()
    for trial in range(100):
        shutil.rmtree(tmp_path / "work")
        shutil.copytree(tmp_path / "pristine", tmp_path / "work")
        files = sorted(p for p in (tmp_path / "work/20").rglob("*") if p.is_file())
        path = files[trial] if trial < len(files) else rng.choice(files)
        kind = rng.choice(["flip", "truncate", "empty", "delete"])
        damage(path, kind, rng)
        name = path.relative_to(tmp_path / "work/20").as_posix()
        hit.add(path.name)

        assert whole_steps(tmp_path / "work") == [10], (kind, name)
        step, state = checkpoints.restore(abstract(make_state(0)))
        assert step == 10
        assert_same(state, make_state(10))
        assert not (tmp_path / "work/20").exists()
        said = capsys.readouterr().err
        if (name, kind) == (integrity.MANIFEST, "delete"):  # a step that was never sealed
            assert "unfinished, removed" in said
        else:
            assert (tmp_path / "work/damaged-20-0").is_dir()
            assert "damaged-20-0" in said
            assert name in said
        assert said.count("\n") == 1
    checkpoints.close()
    assert {integrity.MANIFEST, "_METADATA", "manifest.ocdbt", "commit_success.txt"} <= hit


def test_a_file_that_does_not_belong_is_damage(tmp_path):
    save_steps(tmp_path, [1, 2])
    (tmp_path / "2/default/d/stray").write_bytes(b"")
    assert whole_steps(tmp_path) == [1]


def test_a_step_under_another_number_is_damage(tmp_path):
    save_steps(tmp_path, [1])
    os.rename(tmp_path / "1", tmp_path / "5")
    assert whole_steps(tmp_path) == []


def test_training_goes_on_past_a_damaged_step(tmp_path):
    save_steps(tmp_path, [1, 2])
    damage(tmp_path / "2/_CHECKPOINT_METADATA", "empty", random.Random(0))
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.restore(abstract(make_state(0)))[0] == 1
    checkpoints.save(2, make_state(2))
    checkpoints.close()
    assert whole_steps(tmp_path) == [1, 2]
    assert (tmp_path / "damaged-2-0").is_dir()


def test_none_whole_is_an_error_that_moves_nothing(tmp_path):
    save_steps(tmp_path, [0, 1, 2])
    for step in (0, 1, 2):
        (tmp_path / str(step) / "default/_METADATA").unlink()
    for _ in range(2):  # the second start must not find an empty directory
        with pytest.raises(DataError, match=r"step 2: default/_METADATA: missing.*step 0") as error:
            restore(tmp_path)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError):
        manager.read_newest(tmp_path, abstract(make_state(0)))


def test_a_lone_unfinished_step_0_starts_afresh(tmp_path, capsys):
    save_steps(tmp_path, [0])
    (tmp_path / "0" / integrity.MANIFEST).unlink()
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.restore(abstract(make_state(0))) is None
    assert capsys.readouterr().err == (
        f"checkpoint unfinished, removed: {tmp_path}/0: its save was cut off\n"
    )
    assert list(tmp_path.iterdir()) == []
    checkpoints.save(0, make_state(0))
    checkpoints.close()
    assert whole_steps(tmp_path) == [0]


def test_an_unfinished_save_falls_back_and_leaves_nothing_behind(tmp_path, capsys):
    save_steps(tmp_path, [0, 100])
    (tmp_path / "100" / integrity.MANIFEST).unlink()  # a kill between the save and its seal
    assert restore(tmp_path)[0] == 0
    said = capsys.readouterr().err
    assert said == f"checkpoint unfinished, removed: {tmp_path}/100: its save was cut off\n"
    assert [p.name for p in tmp_path.iterdir()] == ["0"]


def test_the_only_weights_are_never_removed(tmp_path):
    """Manifests that somebody deleted; converted weights at step 0, which nothing makes anew."""
    save_steps(tmp_path / "run", [0, 10, 20])
    weights = {"params": make_state(0)["params"]}
    checkpoints = Checkpoints(tmp_path / "converted", 2)
    checkpoints.save(0, weights)
    checkpoints.close()
    for manifest in tmp_path.glob(f"*/*/{integrity.MANIFEST}"):
        manifest.unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"no checkpoint is whole \(step 20: unfinished.*step 0"):
        restore(tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "converted", 2)
    with pytest.raises(DataError, match=r"no checkpoint is whole \(step 0: unfinished"):
        checkpoints.restore(abstract(weights))
    checkpoints.close()
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_converted_weights_are_no_fresh_start(tmp_path):
    weights = {"params": make_state(0)["params"]}
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(0, weights)
    checkpoints.wait()
    damage(tmp_path / "0/_CHECKPOINT_METADATA", "empty", random.Random(0))
    with pytest.raises(DataError, match="no checkpoint is whole"):
        checkpoints.restore(abstract(weights))
    checkpoints.close()
    assert (tmp_path / "0").is_dir()


def test_verify_tells_a_step_under_way_from_a_damaged_one(tmp_path, capsys):
    save_steps(tmp_path, [1, 2, 3])
    (tmp_path / "3" / integrity.MANIFEST).unlink()  # as a training has it while it seals step 3
    assert program.run(["bertjax", "verify", str(tmp_path)]) == 0
    assert "step 3: unfinished" in capsys.readouterr().out
    (tmp_path / "1" / integrity.MANIFEST).unlink()  # older than a whole one: nobody seals it now
    assert program.run(["bertjax", "verify", str(tmp_path)]) == 65
    assert "damaged steps 1\n" in capsys.readouterr().err


def test_read_newest_changes_nothing_on_disk(tmp_path, capsys):
    save_steps(tmp_path, [1, 2])
    (tmp_path / "2" / integrity.MANIFEST).unlink()
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()  # the save of a training that is alive
    before = sorted(tmp_path.rglob("*"))
    step, _ = manager.read_newest(tmp_path, abstract(make_state(0)))
    assert step == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert capsys.readouterr().err.startswith("checkpoint skipped: step 2: unfinished")


def test_no_checkpoints_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no checkpoints"):
        manager.verify(tmp_path / "none")
    with pytest.raises(DataError, match="holds no checkpoints"):
        manager.read_newest(tmp_path / "none", abstract(make_state(0)))


def reshaped(name, shape, dtype=jnp.float32):
    wanted = abstract(make_state(0))
    node = wanted
    *parents, leaf = name.split("/")
    for parent in parents:
        node = node.setdefault(parent, {})
    if shape is None:
        del node[leaf]
    else:
        node[leaf] = jax.ShapeDtypeStruct(shape, dtype)
    return wanted


KERNEL = "params/blocks/query/kernel"
TABLE = "params/embeddings/word/embedding"


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "parts"),
    [
        (KERNEL, (3, 16, 16), "float32", ("[2, 16, 16]", "[3, 16, 16]", "num_hidden_layers")),
        (KERNEL, (2, 32, 32), "float32", ("[2, 16, 16]", "[2, 32, 32]", "hidden_size")),
        (TABLE, (256, 16), "bfloat16", ("[128, 16]", "[256, 16]", "vocab_size")),
        (TABLE, (128, 16), "float32", ("bfloat16[128, 16]", "float32[128, 16]")),
        ("params/pooler/dense/kernel", (16, 16), "float32", ("absent", "model.head")),
        (TABLE, None, None, ("bfloat16[128, 16]", "absent")),
    ],
)
def test_another_shape_is_named(tmp_path, name, shape, dtype, parts):
    save_steps(tmp_path, [1])
    with pytest.raises(DataError) as error:
        manager.read_newest(tmp_path, reshaped(name, shape, dtype))
    for part in (name, *parts):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert whole_steps(tmp_path) == [1]


def test_another_optimizer_is_named(tmp_path):
    save_steps(tmp_path, [1])
    wanted = abstract(make_state(0))
    wanted["opt_state"] = abstract(optax.sgd(0.1, momentum=0.9).init(make_state(0)["params"]))
    with pytest.raises(DataError, match=r"optimizer\.name"):
        manager.read_newest(tmp_path, wanted)


def test_only_the_newest_whole_steps_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    for step in range(5):
        checkpoints.save(step, make_state(step))
        checkpoints.wait()
        assert whole_steps(tmp_path) == list(range(max(0, step - 1), step + 1))
    checkpoints.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "4"]


def test_nothing_is_pruned_before_the_newer_step_is_whole(tmp_path, monkeypatch):
    save_steps(tmp_path, [1, 2], keep=2)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(integrity, "write", refuse)
        checkpoints.save(3, make_state(3))
        with pytest.raises(StorageError, match="No space left"):
            checkpoints.wait()
    checkpoints.close()
    assert whole_steps(tmp_path) == [1, 2]
    assert restore(tmp_path)[0] == 2


def test_an_unfinished_step_does_not_count_as_one_of_those_kept(tmp_path):
    save_steps(tmp_path, (1, 2, 3))
    (tmp_path / "3" / integrity.MANIFEST).unlink()
    steps.prune(tmp_path, keep=2)
    assert steps.numbers(tmp_path) == [1, 2, 3]
    steps.prune(tmp_path, keep=1)
    assert steps.numbers(tmp_path) == [2, 3]


def test_a_half_pruned_step_is_not_a_step(tmp_path):
    save_steps(tmp_path, [1, 2])
    os.rename(tmp_path / "1", tmp_path / "pruned-1")
    (tmp_path / "pruned-1/default/_METADATA").unlink()
    assert restore(tmp_path)[0] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["2"]


def run_python(code, **kwargs):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kwargs)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    # A limit on file size stands for the full disk: TensorStore meets it in the same place.
    child = run_python(f"""
        import resource, sys
        import jax, jax.numpy as jnp
        from bertjax.checkpoints.manager import Checkpoints
        from bertjax.errors import StorageError
        checkpoints = Checkpoints({str(tmp_path)!r}, 2)
        checkpoints.save(1, {{"params": {{"x": jnp.arange(8.0)}}}})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            checkpoints.save(2, {{"params": {{"x": jax.random.normal(jax.random.key(0), (1 << 20,))}}}})
            checkpoints.save(3, {{"params": {{"x": jnp.arange(8.0)}}}})
        except StorageError as error:
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)
    """)
    assert child.returncode == 74
    assert child.stderr.count("\n") == 1
    assert "File too large" in child.stderr
    assert whole_steps(tmp_path) == [1]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB: `remount("ro")` makes it read-only."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    if mount("size=4m"):
        pytest.skip("needs the right to mount a tmpfs")
    yield disk, lambda mode: mount(f"remount,{mode}")
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_and_read_only_file_systems(small_disk):
    disk, remount = small_disk
    save_steps(disk / "checkpoints", [1])
    checkpoints = Checkpoints(disk / "checkpoints", 2)
    checkpoints.save(2, {"params": {"x": jax.random.normal(jax.random.key(0), (2 << 20,))}})
    with pytest.raises(StorageError, match="No space left on device"):
        checkpoints.wait()
    assert whole_steps(disk / "checkpoints") == [1]

    assert remount("ro") == 0
    assert manager.read_newest(disk / "checkpoints", abstract(make_state(0)))[0] == 1
    with pytest.raises(StorageError, match="Read-only file system"):
        Checkpoints(disk / "checkpoints", 2).save(3, make_state(3))
    assert remount("rw") == 0
    save_steps(disk / "checkpoints", [2])  # the failed save's remains are gone
    assert whole_steps(disk / "checkpoints") == [1, 2]


TRAIN = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from bertjax.checkpoints.manager import Checkpoints
    def make(step):
        return {"params": {"x": jax.random.normal(jax.random.key(step), (300, 1000))}}
    checkpoints = Checkpoints(sys.argv[1], 2)
    wanted = {"params": {"x": jax.ShapeDtypeStruct((300, 1000), jnp.float32)}}
    step, state = checkpoints.restore(wanted) or (0, make(0))
    assert np.array_equal(state["params"]["x"], make(step)["params"]["x"])
    while True:
        print(step, flush=True)
        checkpoints.save(step, make(step))
        step += 1
"""


def test_killed_at_any_moment_training_resumes(tmp_path):
    rng = random.Random(0)
    resumed = []
    for _ in range(4):
        command = [sys.executable, "-c", textwrap.dedent(TRAIN), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            resumed.append(int(child.stdout.readline()))
            for _ in range(3):  # the second of these saves has returned, so the first is whole
                child.stdout.readline()
            time.sleep(rng.uniform(0, 0.2))
            child.send_signal(signal.SIGKILL)
    assert resumed[0] == 0
    assert resumed == sorted(set(resumed))  # every life got further than the one before


def test_the_manifest_is_plain_json(tmp_path):
    save_steps(tmp_path, [5])
    manifest = json.loads((tmp_path / "5" / integrity.MANIFEST).read_text())
    assert manifest["step"] == 5
    assert manifest["arrays"][KERNEL] == {"dtype": "float32", "shape": [2, 16, 16]}
    found = {
        p.relative_to(tmp_path / "5").as_posix() for p in (tmp_path / "5").rglob("*") if p.is_file()
    }
    assert set(manifest["files"]) == found - {integrity.MANIFEST}
