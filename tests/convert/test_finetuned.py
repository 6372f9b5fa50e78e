"""Fine-tuned runs and grids in other forms: the step that counts, labels, the card, the way back."""

import dataclasses
import json
import shutil

import finetuned
import jax
import numpy as np
import pytest
import torch
import transformers
from random_models import equal

from bertjax import __main__ as program
from bertjax import config as config_lib
from bertjax import convert, workdir
from bertjax.checkpoints import manager, steps
from bertjax.convert import hf
from bertjax.finetune import opening, resolve, starts
from bertjax.metrics import writer

PLAIN = {"finetune.buckets": 0, "checkpoints.keep": 9, "model.scan_unroll": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the task RTE, a run W whose best step is not the newest, and a grid G."""
    root = tmp_path_factory.mktemp("trained")
    hf.write(finetuned.pretrained(), root / "base")
    finetuned.pairs(root / "RTE", rows=40, name="train")
    finetuned.pairs(root / "RTE", rows=27, seed=1)
    source = f"hf:{root}/base"
    given = finetuned.config(root / "RTE", source, **PLAIN | {"finetune.select": "best"})
    finetuned.train(given, root / "W")
    given = finetuned.config(root / "RTE", source, epochs=1.0, seeds=2, **PLAIN)
    finetuned.train(given, root / "G")
    saved = json.loads((root / "W/scores.json").read_text())
    lines = writer.evaluations(writer.read(root / "W/metrics.jsonl"))
    first = min(lines)
    assert first < max(steps.numbers(root / "W/checkpoints"))
    saved |= {"step": first, "figures": lines[first]}
    (root / "W/scores.json").write_text(json.dumps(saved))
    return root


def at_step(place, step):
    config = workdir.read_config(place)
    from bertjax import models

    abstract = {"params": models.abstract_params(config.model)}
    found, state = manager.read_newest(place / "checkpoints", abstract, on_host=True, wanted=step)
    assert found == step
    return state["params"]


def test_the_weights_are_those_of_the_step_that_counts(trained):
    scores = json.loads((trained / "W/scores.json").read_text())
    found = convert.read(str(trained / "W"))
    assert found.step == scores["step"]
    equal(found.params, at_step(trained / "W", scores["step"]))
    assert found.figures == scores["figures"]
    assert next(iter(found.figures)) == scores["metric"] == "accuracy"


def test_a_grid_means_its_best_run(trained, tmp_path, capsys):
    best = json.loads((trained / "G/results.json").read_text())["best"]
    assert best in ("seed0", "seed1")
    for name in ("seed0", "seed1"):
        tree = json.loads((trained / "G/results.json").read_text()) | {"best": name}
        shutil.copytree(trained / "G", tmp_path / name)
        (tmp_path / name / "results.json").write_text(json.dumps(tree))
        found = convert.read(str(tmp_path / name))
        equal(found.params, convert.read(str(trained / "G/runs" / name)).params)
        assert found.config.seed == int(name[-1])
        assert found.notes[0].endswith(f"reads {tmp_path}/{name}/runs/{name}")
    (tmp_path / "seed0/results.json").unlink()
    place = str(tmp_path / "seed0")
    for arguments in (["convert", place, f"hf:{tmp_path}/x"], ["evaluate", f"--workdir={place}"]):
        assert program.run(["bertjax", *arguments]) == 65
        assert "holds an unfinished grid" in capsys.readouterr().err
    (tmp_path / "seed1/results.json").write_text("{")
    assert program.run(["bertjax", "convert", str(tmp_path / "seed1"), f"hf:{tmp_path}/x"]) == 65
    assert "results.json: damaged" in capsys.readouterr().err


def test_evaluate_says_the_figures_of_the_scores_to_the_bit(trained, capsys):
    for place, run in (("W", "W"), ("G", None)):
        assert program.run(["bertjax", "evaluate", f"--workdir={trained / place}"]) == 0
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        best = run or f"G/runs/{json.loads((trained / 'G/results.json').read_text())['best']}"
        scores = json.loads((trained / best / "scores.json").read_text())
        assert said == {"step": scores["step"], **scores["figures"]}


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "m"
    convert.convert(str(trained / "W"), f"hf:{folder}")
    return folder


def test_the_card_names_task_source_metric_and_labels(trained, exported):
    card = (exported / "README.md").read_text()
    scores = json.loads((trained / "W/scores.json").read_text())
    assert f"Fine-tuned on rte from hf:{trained}/base" in card
    assert "Its metric is accuracy, on dev." in card
    assert "Labels, in the order of the logits: entailment, not_entailment." in card
    assert f"| accuracy | {scores['figures']['accuracy']:.4f} |" in card
    tree = json.loads((exported / "config.json").read_text())
    assert tree["id2label"] == {"0": "entailment", "1": "not_entailment"}
    assert tree["problem_type"] == "single_label_classification"


def test_the_cards_scores_are_those_of_the_exported_files(trained, exported, tmp_path, capsys):
    dev, out = trained / "RTE/dev.tsv", tmp_path / "out.jsonl"
    arguments = [f"hf:{exported}", f"--input={dev}", f"--output={out}"]
    assert program.run(["bertjax", "predict", *arguments]) == 0
    said = capsys.readouterr().err
    [value] = [line.split("|")[2].strip() for line in (exported / "README.md").read_text()
               .splitlines() if line.startswith("| accuracy")]  # fmt: skip
    assert f"figures (all labels): accuracy {value}" in said
    golds = [line.split("\t")[3] for line in dev.read_text().splitlines()[1:]]
    found = [line["label"] for line in finetuned.read_lines(out)]
    assert f"{np.mean([g == f for g, f in zip(golds, found, strict=True)]):.4f}" == value


def test_transformers_says_the_same_of_every_dev_example(trained, exported, tmp_path):
    dev, out = trained / "RTE/dev.tsv", tmp_path / "out.jsonl"
    program.run(["bertjax", "predict", f"hf:{exported}", f"--input={dev}", f"--output={out}"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(exported).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    rows = [line.split("\t") for line in dev.read_text().splitlines()[1:]]
    for row, line in zip(rows, finetuned.read_lines(out), strict=True):
        tokens = tokenizer(row[1], row[2], truncation=True, max_length=24, return_tensors="pt")
        with torch.no_grad():
            shares = torch.softmax(model(**tokens).logits[0], -1).tolist()
        names = [model.config.id2label[i] for i in range(2)]
        np.testing.assert_allclose([line["probabilities"][n] for n in names], shares, atol=1e-4)


def test_every_other_form_is_written_and_a_run_comes_back(trained, tmp_path):
    for form in ("onnx:m.onnx", "stablehlo:m.stablehlo", "tf1:t/m.ckpt", "orbax:o"):
        form, _, name = form.partition(":")
        convert.convert(str(trained / "W"), f"{form}:{tmp_path / name}")
    first, again = convert.read(str(trained / "W")), convert.read(str(tmp_path / "o"))
    equal(first.params, again.params)
    assert again.config.model == first.config.model
    assert again.config.task == first.config.task
    assert again.step == first.step


def test_an_export_comes_back_with_its_classifier(trained, exported, tmp_path):
    found = convert.read(f"hf:{exported}")
    config = finetuned.config(trained / "RTE", f"hf:{exported}", **PLAIN)
    job = opening.open(config, tmp_path / "W")
    params, lines = job.start(job.init(jax.random.key(5)))
    equal(jax.device_get(params), found.params)
    assert any("kept by name: entailment (row 0), not_entailment (row 1)" in x for x in lines)


MNLI = ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(
    "names",
    [("contradiction", "ENTAILMENT", "neutral"), ("neutral", "contradiction", "entailment")],
)
def test_mnlis_rows_go_by_name_into_the_order_of_the_task(names, tmp_path):
    """transformers #10401: 4.3% instead of 90.6%, of a checkpoint with another order of labels."""
    theirs = finetuned.pretrained("classification", num_labels=3, label_names=names)
    config = _config("mnli", theirs, MNLI, tmp_path)
    fresh = _fresh(config)
    params, lines = starts.start(config, convert.read(config.init_from), fresh)
    dense = theirs.params["classifier"]["dense"]
    for row, label in enumerate(MNLI):
        at = [name.lower() for name in names].index(label)
        np.testing.assert_array_equal(params["classifier"]["dense"]["kernel"][:, row],
                                      dense["kernel"][:, at])  # fmt: skip
        assert float(params["classifier"]["dense"]["bias"][row]) == dense["bias"][at]
    assert "kept by name" in lines[1]


def test_rte_from_mnli_draws_the_classifier_anew_and_keeps_the_pooler(tmp_path):
    """not_entailment is none of MNLI's labels: a half-trained classifier would be neither's."""
    theirs = finetuned.pretrained("classification", num_labels=3, label_names=MNLI)
    config = _config("rte", theirs, ("entailment", "not_entailment"), tmp_path)
    fresh = _fresh(config)
    params, lines = starts.start(config, convert.read(config.init_from), fresh)
    equal(jax.device_get(params["classifier"]), jax.device_get(fresh["classifier"]))
    np.testing.assert_array_equal(params["pooler"]["dense"]["kernel"],
                                  theirs.params["pooler"]["dense"]["kernel"])  # fmt: skip
    said = " ".join(lines)
    assert "kept by name: entailment (row 0)" in said
    assert "as a label is missing, all of it is reinitialized" in said


def _config(task, theirs, labels, tmp_path) -> config_lib.Config:
    hf.write(theirs, tmp_path / "theirs")
    config = finetuned.config("unread", f"hf:{tmp_path}/theirs", task=task)
    model = resolve.model_of(config, theirs.config.model, "pair", labels)
    return dataclasses.replace(config, model=model)


def _fresh(config):
    from bertjax import models

    return models.init(config.model, jax.random.key(9))


@pytest.mark.parametrize("command", ["pretrain", "prepare", "plan"])
def test_a_fine_tuning_is_not_pretrained(command, tmp_path, capsys):
    arguments = ["--config=configs/finetune.py:rte", f"--workdir={tmp_path}/W"]
    assert program.run(["bertjax", command, *arguments]) == 64
    said = capsys.readouterr().err.strip()
    assert "a fine-tuning on rte; run bertjax finetune" in said
    assert "\n" not in said
    arguments = ["--config=configs/bert_base.py", f"--workdir={tmp_path}/W"]
    assert program.run(["bertjax", "finetune", *arguments]) == 64
