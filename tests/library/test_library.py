"""The functions of `import bertjax`: lazy, silent, in arguments' words, and pure where they say so."""

import dataclasses
import doctest
import importlib
import itertools
import signal
import subprocess
import sys
import threading

import finetuned
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetune_examples import TOKENIZER
from jax.sharding import AxisType, PartitionSpec
from runs import make_project

import bertjax
from bertjax import __main__ as program
from bertjax import models
from bertjax.config import file as config_file
from bertjax.convert import hf
from bertjax.errors import USAGE, DataError, UsageError
from bertjax.library import arguments, training, use, weights

TEXTS = ["a b c", "d", "e f g h i j k l", "m n"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder of a tiny model with a masked-LM head and a pooler."""
    place = tmp_path_factory.mktemp("model") / "hf"
    hf.write(finetuned.pretrained("pretraining"), place)
    return str(place)


@pytest.fixture(scope="module")
def model(folder):
    return bertjax.load(f"hf:{folder}")


def test_importing_takes_under_a_tenth_of_a_second_and_brings_nothing_slow():
    code = (
        "import time; t = time.process_time(); import bertjax, sys; t = time.process_time() - t;"
        "print(t, sorted({'jax', 'numpy', 'flax', 'ml_collections'} & sys.modules.keys()))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True) for _ in range(5)]
    said = [run.stdout.decode().split(maxsplit=1) for run in runs]
    assert {loaded.strip() for _, loaded in said} == {"[]"}
    assert min(float(seconds) for seconds, _ in said) < 0.1


def test_every_public_name_is_there_and_no_other():
    assert dir(bertjax) == sorted(bertjax.__all__)
    for name in bertjax.__all__:
        assert callable(getattr(bertjax, name)), name
    with pytest.raises(AttributeError, match="no attribute 'fillmask'"):
        bertjax.fillmask  # noqa: B018


def test_folders_with_a_functions_name_are_that_function(monkeypatch):
    for name, home in (("convert", weights), ("finetune", training)):
        monkeypatch.setattr(home, name, lambda *args, **kwargs: (args, kwargs))
        importlib.import_module(f"bertjax.{name}")  # sets the attribute to the folder
        assert getattr(bertjax, name)(1, lowercase=True) == ((1,), {"lowercase": True})


@pytest.mark.parametrize("module", [weights, use, training])
def test_the_examples_of_the_docstrings(module, model, folder, tmp_path):
    names = {"bertjax": bertjax, "model": model, "FOLDER": folder, "OTHER": str(tmp_path / "hf")}
    names["classifier"] = finetuned.of_kind("single")
    found = doctest.DocTestFinder().find(module, extraglobs=names)
    results = [doctest.DocTestRunner().run(test) for test in found]
    assert sum(result.attempted for result in results) >= 4
    assert sum(result.failed for result in results) == 0


def test_apply_is_the_model_within_jit_grad_vmap_and_shard_map(model):
    """Against `models.apply` outside of them; the gradient against a difference quotient."""
    batch = bertjax.tokenize(model, TEXTS * 2)
    want = models.apply(model.config.model, model.params, batch)["hidden"]

    def hidden(params, batch):
        return model.apply(params, batch)["hidden"]

    close = {"atol": 2e-5, "rtol": 2e-5}
    np.testing.assert_allclose(jax.jit(hidden)(model.params, batch), want, **close)
    stacked = {name: x.reshape(4, 2, -1) for name, x in batch.items()}
    mapped = jax.vmap(hidden, (None, 0))(model.params, stacked)
    np.testing.assert_allclose(mapped.reshape(want.shape), want, **close)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = PartitionSpec(), PartitionSpec("data")
    sharded = jax.shard_map(hidden, mesh=mesh, in_specs=specs, out_specs=specs[1])
    np.testing.assert_allclose(jax.jit(sharded)(model.params, batch), want, **close)

    def loss(scale):
        bias = model.params["embeddings"]["layer_norm"]["bias"]
        params = jax.tree.map(lambda x: x, model.params)
        params["embeddings"]["layer_norm"]["bias"] = scale * bias
        return jnp.mean(hidden(params, batch) ** 3)

    step = 1e-2
    quotient = (loss(1 + step) - loss(1 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(loss)(1.0), quotient, rtol=2e-2)


def test_a_key_of_either_kind_draws_the_same_dropout(model):
    batch = bertjax.tokenize(model, ["a b c"])
    dropping = dataclasses.replace(model, config=model.config.with_model(hidden_dropout_prob=0.5))
    hidden = [
        dropping.apply(model.params, batch, dropout_key=key)["hidden"]
        for key in (jax.random.PRNGKey(3), jax.random.key(3), None)
    ]
    np.testing.assert_array_equal(hidden[0], hidden[1])
    assert np.abs(hidden[0] - hidden[2]).max() > 0.1


def test_inspect_shows_what_apply_computes(model):
    batch = bertjax.tokenize(model, TEXTS)
    inside = jax.jit(model.inspect)(model.params, batch)
    assert inside["hidden"].shape == (3, 4, 10, 32)
    assert inside["attention"].shape == (2, 4, 2, 10, 10)
    outputs = model.apply(model.params, batch)
    np.testing.assert_allclose(inside["hidden"][-1], outputs["hidden"], atol=2e-5)
    np.testing.assert_allclose(inside["attention"].sum(-1), 1, atol=1e-6)
    padding = batch["attention_mask"][None, :, None, None, :] == 0
    assert np.all(np.where(padding, inside["attention"], 0) == 0)


def test_tokens_of_texts_pairs_and_masks(model):
    t = TOKENIZER
    (a, b) = t.encode(["a", "b"])
    batch = bertjax.tokenize(model, ["a [MASK]", ("a", "b")], masks=True, multiple=8)
    assert batch["input_ids"][0].tolist() == [t.cls_id, *a, t.mask_id, t.sep_id, *[t.pad_id] * 4]
    row = [t.cls_id, *a, t.sep_id, *b, t.sep_id]
    assert batch["input_ids"][1, :5].tolist() == row
    assert batch["attention_mask"].sum(1).tolist() == [4, 5]
    cut = bertjax.tokenize(model, ["a b c"], max_length=4)
    assert cut["input_ids"][0].tolist() == [t.cls_id, *a, *b, t.sep_id]


def test_vectors_stream_in_order(model):
    """Of an endless iterable a window is read; each vector is that of its text alone."""
    read = 0

    def endless():
        nonlocal read
        for read in itertools.count(1):
            yield TEXTS[read % 4]

    vectors = bertjax.embed(model, endless(), batch_size=2)
    found = list(itertools.islice(vectors, 70))
    assert read <= 128
    alone = [next(bertjax.embed(model, [text])) for text in TEXTS]
    for number, vector in enumerate(found, start=1):
        np.testing.assert_allclose(vector, alone[number % 4], atol=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: bertjax.embed(m, ["a"], pooling="x"), "pooling='x': must be one of mean"),
        (lambda m: bertjax.embed(m, "a"), "texts='a': is one text"),
        (lambda m: list(bertjax.embed(m, ["a", 3])), r"texts\[1\]=3: is no text"),
        (lambda m: bertjax.embed(m, ["a"], batch_size=0), "batch_size=0: must be at least 1"),
        (lambda m: bertjax.tokenize(m, "a"), "texts='a': is one text"),
        (lambda m: bertjax.tokenize(m, [("a", "b", "c")]), r"texts\[0\]=.*: is neither a text"),
        (lambda m: bertjax.tokenize(m, ["a"], max_length=99), "max_length=99: must be 3 to 64"),
        (lambda m: bertjax.fill_mask(m, "a"), r"text='a': holds no \[MASK\]"),
        (lambda m: bertjax.fill_mask(m, "[MASK]", top_k=0), "top_k=0"),
        (lambda m: list(bertjax.score(m, ["a", "a " * 63])), r"texts\[1\] has 65 tokens; .* reads 64"),
        (lambda m: bertjax.predict(m, ["a"]), "has no head of a task"),
        (lambda m: bertjax.load("zz:y"), "no such form 'zz'"),
        (lambda m: bertjax.default_config("bert"), "name='bert': bertjax has bert_base, "),
        (lambda m: bertjax.pretrain("bert_base", "w"), "config='bert_base': is no config"),
        (lambda m: bertjax.pretrain(bertjax.default_config("bert_mini"), ""), "workdir='': names no"),
        (lambda m: bertjax.tokenize(m, ["a"], multiple=0), "multiple=0: must be at least 1"),
        (lambda m: bertjax.predict(m, "abc"), "rows='abc': is one text"),
        (lambda m: m.apply(m.params, {}, attention="x"), "attention='x': must be one of auto, xla"),
        (lambda m: bertjax.pretrain(bertjax.default_config("finetune"), "w"), "config: a fine-tuning"),
    ],
)  # fmt: skip
def test_errors_name_arguments(call, said, model):
    with pytest.raises(UsageError, match=f"^[^-]*{said}") as error:
        call(model)
    assert "--" not in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_that_are_no_examples_are_named():
    model = finetuned.of_kind("pair", text_column="x", pair_column="y")
    found = list(bertjax.predict(model, [("a", "b"), {"x": "a", "y": "b"}]))
    assert found[0]["probabilities"] == found[1]["probabilities"]
    for row, said in (("a", r"rows\[0\]: 1 texts, expected 2"), (3, r"rows\[0\]=3: is neither")):
        with pytest.raises(DataError, match=said):
            list(bertjax.predict(model, [row]))
    [tags] = bertjax.predict(finetuned.of_kind("token"), [["a", "b"]])
    assert tags["words"] == ["a", "b"]


@pytest.mark.parametrize(
    ("message", "python"),
    [
        ("--workdir=gs://b/w: in use by x", "workdir='gs://b/w': in use by x"),
        ("take another --workdir, or stop", "take another workdir, or stop"),
        ("--do_lower_case=true; --top_k=5", "lowercase=True; top_k=5"),
        ("(--config.mesh.fsdp=1) - no -- flag", "(config.mesh.fsdp=1) - no -- flag"),
        ("/tmp/my--lr=3/x: missing", "/tmp/my--lr=3/x: missing"),
        ("text='run --verbose=1 now': no", "text='run --verbose=1 now': no"),
        ("see bertjax pretrain --help", "see bertjax pretrain --help"),
    ],
)
def test_flags_become_arguments(message, python):
    assert arguments.in_python(message) == python


def configured(root, **fields):
    """A run of 4 steps on real text."""
    tree = config_file.load(str(make_project(root) / "config.py"))
    tree.phases.phase1.steps, tree.phases.phase2.steps = 4, 0
    tree.logging.every_steps, tree.evaluation.every_steps = 2, 4
    for name, value in fields.items():
        tree[name] = value
    return tree


def test_trainings_follow_each_other_and_nothing_is_printed(tmp_path, capfd, caplog):
    """Two pretrainings (one in a thread), a conversion and a fine-tuning in one process: the log has
    what the commands print, the terminal nothing, and signals have the handlers from before."""
    signals = signal.SIGTERM, signal.SIGINT
    before = [signal.getsignal(number) for number in signals]
    caplog.set_level("INFO", "bertjax")
    tree = configured(tmp_path)
    bertjax.pretrain(tree, tmp_path / "one")
    assert [signal.getsignal(number) for number in signals] == before
    thread = threading.Thread(target=bertjax.pretrain, args=(tree, tmp_path / "two"))
    thread.start()
    thread.join()
    one, two = (bertjax.load(str(tmp_path / name)) for name in ("one", "two"))
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    bertjax.convert(str(tmp_path / "one"), f"hf:{tmp_path}/hf")
    files = finetuned.pairs(tmp_path / "rte", rows=16)
    finetuned.pairs(tmp_path / "rte", rows=16, name="train")
    config = finetuned.config(files, f"hf:{tmp_path}/hf", epochs=1.0)
    [run] = bertjax.finetune(config, tmp_path / "task")
    assert run["step"] == 2
    bertjax.fill_mask(one, "the [MASK] of a class")
    list(bertjax.embed(one, ["a class"]))
    list(bertjax.score(one, ["a class"]))
    list(bertjax.predict(bertjax.load(str(tmp_path / "task")), [("a", "b")]))
    assert capfd.readouterr() == ("", "")
    assert [signal.getsignal(number) for number in signals] == before
    for said in ("learning a vocabulary", "compiled in", "phase 1  4/4  loss", "held out, step 4:"):
        assert any(said in line for line in caplog.messages), said


def test_a_second_ctrl_c_spares_a_process_that_is_not_the_runs(capfd):
    from bertjax.processes import distributed

    with distributed.StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.should_stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr() == ("", "")


def test_configs_that_bertjax_carries(capsys):
    assert bertjax.default_config("finetune:rte,grid").grid.learning_rate
    for name in config_file.carried_names():
        assert bertjax.default_config(name)
    assert program.run(["bertjax", "plan", "--config=bertjax:none"]) == USAGE
    error = capsys.readouterr().err
    assert error.startswith("bertjax plan: --config=bertjax:none: bertjax has bert_base, ")
    assert error.count("\n") == 1
    program.run(["bertjax", "pretrain", "--help"])
    assert "--config=bertjax:bert_base" in capsys.readouterr().out


def test_the_ten_lines_of_a_readme(model, tmp_path):
    """A checkpoint, a mask, vectors; `apply` inside jit, a gradient, and the way back."""
    [candidates] = bertjax.fill_mask(model, "a [MASK] c")
    assert len(candidates) == 5
    vectors = np.stack(list(bertjax.embed(model, TEXTS)))
    assert vectors.shape == (4, 32)
    batch = bertjax.tokenize(model, TEXTS)

    @jax.jit
    def loss(params):
        return model.apply(params, batch)["pooled"].sum()

    gradient = jax.grad(loss)(model.params)
    assert jax.tree.structure(gradient) == jax.tree.structure(model.params)
    trained = jax.tree.map(lambda x, g: x - 0.1 * g, model.params, gradient)
    changed = dataclasses.replace(model, params=trained)
    bertjax.convert(changed, f"hf:{tmp_path}/hf")
    again = bertjax.load(f"hf:{tmp_path}/hf")
    jax.tree.map(np.testing.assert_array_equal, again.params, trained)
