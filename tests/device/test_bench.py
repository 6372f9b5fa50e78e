"""Tiny exported models measured beside each other: what is in the report, scores, refusals."""

import json
import os
import sys

import exported_files
import finetuned
import numpy as np
import onnx
import pytest
from finetune_examples import TOKENIZER

from bertjax import __main__ as program
from bertjax import errors
from bertjax.convert.pretrained import Hints
from bertjax.device import bench, picture, programs, report, scores, startup, texts
from bertjax.errors import DataError, UsageError

DEV_ROWS = 45  # more than a batch of 32, and not twice as many


def labelled(path, kind):
    """A dev file of a kind of task."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(DEV_ROWS):
        text = finetuned.letters(rng, rng.integers(1, 20))
        row = {
            "single": {"text": text, "label": ("no", "yes")[number % 2]},
            "regression": {"text": text, "text_pair": "a b", "label": float(number % 7)},
            "span": {
                "question": "what is a ?",
                "context": f"{text} k l",
                "answers": {"text": ["k"], "answer_start": [len(text) + 1]},
            },
            "multiple_choice": {
                "context": text,
                "options": ["a", "b c", text],
                "label": number % 3,
            },
            "token": {"words": text.split(), "tags": ["O"] * len(text.split())},
        }[kind]
        rows.append({"id": str(number), **row})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with the files of `exported_files.write`, and `dev.jsonl`."""
    root = tmp_path_factory.mktemp("bench")
    exported_files.write(root)
    labelled(root / "dev.jsonl", "single")
    (root / "text.onnx").write_text("not protobuf\n")
    (root / "empty.txt").write_text("")
    _write_other_inputs(root / "pixels.onnx")
    return root


@pytest.fixture(scope="module")
def measured(root):
    """The report of both files and of the run that they come from, and what was said."""
    said = []
    asked = exported_files.asked(
        root, "float32.onnx", "int8.onnx", "run", dev=str(root / "dev.jsonl")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "_STARTS", 1)
        patch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
        return bench.run(asked, said.append), said


def test_report_has_every_file_beside_the_others(measured, root):
    found, said = measured
    found = json.loads(json.dumps(found))  # as JSON takes it
    assert [row["name"] for row in found["files"]] == ["float32.onnx", "int8.onnx", "bertjax run"]
    assert [row["runtime"] for row in found["files"]] == ["onnxruntime", "onnxruntime", "bertjax"]
    threads = found["settings"]["threads"]
    assert threads in ([1], [1, 2])  # a quota may be below the affinity
    for row in found["files"]:
        exported = row["runtime"] == "onnxruntime"
        cells = [(cell["threads"], cell["tokens"]) for cell in row["latency"]]
        of = threads if exported else threads[-1:]
        assert cells == [(n, length) for n in of for length in exported_files.LENGTHS]
        for cell in row["latency"]:
            assert cell["calls"] == 3
            assert 0 < cell["median_seconds"] <= cell["p99_seconds"]
            assert cell["first_call_seconds"] > 0
        assert row["throughput"]["rows"] == 32
        assert row["throughput"]["tokens"] == 8  # 128 is none of the lengths
        assert row["throughput"]["rows_per_second"] > 0
        assert row["load_seconds"] > 0
        assert row["first_call_seconds"] > 0
        assert row["peak_bytes"] > row["idle_bytes"] > 1_000_000
    assert found["files"][0]["size_bytes"] == (root / "float32.onnx").stat().st_size
    on = found["machine"]
    assert len(on["load_average"]) == len(on["load_average_after"]) == 3
    assert on["date"][:2] == "20"
    assert any(line == f"scores: {DEV_ROWS} examples" for line in said)


def test_float32_scores_alike_at_batch_1_and_32_and_in_bertjax(measured):
    float32, int8, source = (row["scores"] for row in measured[0]["files"])
    assert list(float32) == ["1", "32"]
    assert list(source) == ["32"]
    assert float32["1"] == float32["32"] == source["32"]
    assert next(iter(float32["1"])) == "accuracy"
    assert int8.keys() == float32.keys()


def test_table_names_every_number(measured, capsys):
    found, _ = measured
    report.show(found)
    text = capsys.readouterr().out
    for part in ("float32.onnx", "int8.onnx", "bertjax run", "8 tokens", "batch 32"):
        assert part in text
    assert text.count("load average") == 1


def test_picture_is_drawn(measured, tmp_path):
    for metric in (True, False):
        found = measured[0]
        if not metric:
            rows = [{k: v for k, v in row.items() if k != "scores"} for row in found["files"]]
            found = {**found, "files": rows}
        picture.draw(tmp_path / "bench.png", found)
        assert (tmp_path / "bench.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("kind", ["regression", "span", "multiple_choice", "token"])
def test_scores_of_every_kind_of_task_are_those_of_predict(tmp_path, kind):
    """`predict` on the same file, by its figures; of onnxruntime at both batches."""
    source = exported_files.write(tmp_path, kind)
    path = labelled(tmp_path / "dev.jsonl", kind)
    dev = scores.read(source, path, Hints())
    exported = programs.open_export(str(tmp_path / "float32.onnx"), 1)
    scores.require_same_task(exported, dev)
    figures = [scores.figures(exported, dev, size) for size in (1, 32)]
    own = scores.Figures(dev.model.job.task, dev.model.reading, dev.model.job.null_answers)
    own.add(dev.examples, dev.model.predict(dev.examples))
    for found in figures:
        assert found == pytest.approx(own.values, abs=1e-5)
    assert next(iter(figures[0])) == dev.model.job.task.metrics[0]


def test_int8_depends_on_what_stands_beside_a_row(root):
    """The reason for two scores: a row alone and the same row beside a padded one."""
    batch = texts.batch(np.arange(5, 25), TOKENIZER, 2, 8)
    batch["attention_mask"][1, 3:] = 0
    alone = {name: array[:1] for name, array in batch.items()}
    differences = []
    for name in ("float32", "int8"):
        exported = programs.open_export(str(root / f"{name}.onnx"), 1)
        both = exported.run(batch)["logits"][0]
        differences.append(np.abs(both - exported.run(alone)["logits"][0]).max())
    assert differences[0] < 1e-5 < differences[1]


def test_memory_is_of_the_process_that_runs_one_file_only(root):
    """This process has JAX and 8 devices: more than the other, which inherits nothing of it."""
    batch = texts.batch(np.arange(5, 25), TOKENIZER, 1, 8)
    start = startup.measure(str(root / "float32.onnx"), Hints(), batch, 1)
    assert 1_000_000 < start.idle_bytes < start.peak_bytes < startup.peak_bytes()


def test_medians_of_several_starts():
    starts = [
        startup.Start(1.0, 9.0, 5, 4),
        startup.Start(3.0, 7.0, 8, 2),
        startup.Start(2.0, 8.0, 6, 3),
    ]
    assert startup.median(starts) == startup.Start(2.0, 8.0, 8, 4)


def test_names_are_short_where_they_differ():
    assert bench.names(["a/x.onnx", "b/y.onnx", "hf:c/d"]) == ["x.onnx", "y.onnx", "bertjax d"]
    assert bench.names(["a/x.onnx", "b/x.onnx"]) == ["a/x.onnx", "b/x.onnx"]


def run(*arguments):
    return program.run(["bertjax", "bench-export", *map(str, arguments)])


def _write_other_inputs(path):
    """An ONNX file that takes a picture."""
    helper = onnx.helper
    kind = onnx.TensorProto.FLOAT
    values = [helper.make_tensor_value_info(name, kind, [1, 3]) for name in ("pixels", "y")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["pixels"], ["y"])], "g", values[:1], values[1:]
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=opset), path)


SOURCE, FILE, TEXTS = "--source={root}/run", "{root}/float32.onnx", "--texts={root}/texts.txt"
CASES = {
    "nothing": ([], errors.USAGE, "expected FILE"),
    "no texts": ([FILE, SOURCE], errors.USAGE, "--texts: missing"),
    "no such file": (
        ["{root}/absent.onnx", SOURCE, TEXTS],
        errors.DATA,
        "absent.onnx: no such file",
    ),
    "no ONNX file": (
        ["{root}/text.onnx", SOURCE, TEXTS],
        errors.DATA,
        "text.onnx: not an ONNX file",
    ),
    "other inputs": (["{root}/pixels.onnx", SOURCE, TEXTS], errors.DATA, "takes pixels tensor"),
    "no tokenizer": ([FILE, TEXTS], errors.USAGE, "has no tokenizer; name the model"),
    "no task": ([FILE, TEXTS, "--dev=x", "--tokenizer=y"], errors.USAGE, "--dev: needs --source"),
    "twice": ([FILE, FILE, SOURCE, TEXTS], errors.USAGE, "is named twice"),
    "too long": (
        [FILE, SOURCE, TEXTS, "--lengths=8,65"],
        errors.USAGE,
        "--lengths=65: {root}/float32.onnx has positions for 64 tokens",
    ),
    "no lengths": ([FILE, SOURCE, TEXTS, "--lengths=8,x"], errors.USAGE, "--lengths=8,x: expected"),
    "length of 2": ([FILE, SOURCE, TEXTS, "--lengths=2"], errors.USAGE, "counts of 3 or more"),
    "no folder": ([FILE, SOURCE, TEXTS, "--json={root}/no/b.json"], errors.USAGE, "no such folder"),
    "empty texts": ([FILE, SOURCE, "--texts={root}/empty.txt"], errors.DATA, "an empty file"),
    "dev a folder": (
        [FILE, SOURCE, TEXTS, "--lengths=8", "--dev={root}"],
        errors.USAGE,
        "--dev={root}: is a folder",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refusals_are_one_line(root, capsys, case):
    arguments, code, message = CASES[case]
    arguments = [argument.format(root=root) for argument in arguments]
    assert run(*arguments) == code
    said = capsys.readouterr()
    assert not said.out
    (line,) = said.err.splitlines()[-1:]
    assert line.startswith("bertjax bench-export: ")
    assert message.format(root=root) in line
    assert "Traceback" not in said.err


def test_positions_of_a_source_are_known_too(root):
    opened, _ = programs.open_source(str(root / "run"), Hints())
    with pytest.raises(UsageError, match="has positions for 64 tokens"):
        bench._require_lengths(opened, 70, bench._Batches(np.arange(5, 25), TOKENIZER))
    with pytest.raises(DataError, match="id 5000, the model has"):
        bench._require_lengths(opened, 8, bench._Batches(np.full(9, 5000), TOKENIZER))


def test_another_models_tokenizer_is_suspected_where_ids_are_beyond_the_vocabulary(root):
    opened = programs.open_export(str(root / "float32.onnx"), 1)
    with pytest.raises(DataError, match=r"does not run .*; is the tokenizer the model's"):
        bench._require_lengths(opened, 8, bench._Batches(np.full(9, 5000), TOKENIZER))


def test_another_task_is_refused(root, tmp_path):
    exported_files.write(tmp_path, "span")
    dev = scores.read(str(root / "run"), str(root / "dev.jsonl"), Hints())
    other = programs.open_export(str(tmp_path / "float32.onnx"), 1)
    with pytest.raises(UsageError, match=r"gives start_logits, end_logits; .* needs logits"):
        scores.require_same_task(other, dev)


def test_other_labels_are_refused(root, tmp_path):
    exported_files.write(tmp_path, model={"label_names": ("yes", "no")})
    dev = scores.read(str(root / "run"), str(root / "dev.jsonl"), Hints())
    with pytest.raises(UsageError, match="its labels are yes, no; those of --source are no, yes"):
        scores.require_same_task(programs.open_export(str(tmp_path / "float32.onnx"), 1), dev)


def test_frozen_axes_are_refused(root, tmp_path):
    model = onnx.load(root / "float32.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    with pytest.raises(DataError, match=r"input_ids \[1, .*axes of fixed size"):
        programs.open_export(str(tmp_path / "one.onnx"), 1)


def test_absent_package_is_named(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'bertjax\[onnx\]'"):
        programs.open_export(str(root / "float32.onnx"), 1)


def test_a_process_that_fails_says_why(root):
    batch = texts.batch(np.arange(5, 25), TOKENIZER, 1, 8)
    with pytest.raises(DataError, match=r"absent.onnx: fails in a process of its own"):
        startup.measure(str(root / "absent.onnx"), Hints(), batch, 1)


def test_a_command_prints_tables_and_writes_json_and_a_picture(root, tmp_path, capsys, monkeypatch):
    """With a tokenizer alone: no source, no JAX in the process of a file."""
    monkeypatch.setattr(bench, "_STARTS", 1)
    TOKENIZER.save(tmp_path)
    out = [f"--json={tmp_path}/b.json", f"--picture={tmp_path}/b.png", "--lengths=8", "--runs=2"]
    given = [f"--texts={root}/texts.txt", f"--tokenizer={tmp_path}"]
    assert run(f"onnx:{root}/float32.onnx", *given, *out) == errors.DONE
    assert "float32.onnx" in capsys.readouterr().out
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["files"][0]["place"] == f"{root}/float32.onnx"
    assert "scores" not in found["files"][0]
    assert (tmp_path / "b.png").stat().st_size > 1000
