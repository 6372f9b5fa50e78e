"""What `predict` scores on the dev file is what the evaluation of the run scores, of every kind."""

import json

import finetuned
import jax
import numpy as np
import pytest

from bertjax import evaluate, sharding
from bertjax.config import stages
from bertjax.convert import hf
from bertjax.convert.pretrained import Pretrained
from bertjax.finetune import opening, predict

RNG = np.random.default_rng(3)


def cola(folder):
    for name, rows in (("train", 8), ("dev", 37)):
        lines = [f"x\t{n % 2}\t\t{finetuned.letters(RNG, 1 + n % 7)}" for n in range(rows)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder / "dev.tsv"


def mrpc(folder):
    for name, rows in (("train", 8), ("dev", 37)):
        lines = ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        for n in range(rows):
            texts = finetuned.letters(RNG, 4), finetuned.letters(RNG, 1 + n % 5)
            lines.append("\t".join((str(n % 2), "1", "2", *texts)))
        (folder / f"{name}.tsv").write_text("\r\n".join(lines) + "\r\n")
    return folder / "dev.tsv"


def stsb(folder):
    for name, rows in (("train", 8), ("dev", 21)):
        lines = ["index\tsentence1\tsentence2\tscore"]
        for n in range(rows):
            texts = finetuned.letters(RNG, 4), finetuned.letters(RNG, 1 + n % 5)
            lines.append("\t".join((str(n), *texts, str(n % 6))))
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder / "dev.tsv"


def swag(folder):
    for name, rows in (("train", 8), ("val", 13)):
        lines = ["video-id,sent1,sent2,ending0,ending1,ending2,ending3,label"]
        for n in range(rows):
            parts = [finetuned.letters(RNG, k) for k in (5, 1, 1, 2, 3, 4)]
            lines.append(",".join((str(n), *parts, str(n % 4))))
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder / "val.csv"


def squad2(folder):
    for name, rows in (("train", 4), ("dev", 11)):
        paragraphs = []
        for n in range(rows):
            context = finetuned.letters(RNG, 30)
            at = 2 * int(RNG.integers(0, 29))
            answers = [{"text": context[at : at + 3], "answer_start": at}] if n % 3 else []
            entry = {"id": f"{n}", "question": "what is a ?", "answers": answers}
            entry["is_impossible"] = not answers
            paragraphs.append({"context": context, "qas": [entry]})
        tree = {"version": "v2.0", "data": [{"title": "x", "paragraphs": paragraphs}]}
        (folder / f"{name}-v2.0.json").write_text(json.dumps(tree))
    return folder / "dev-v2.0.json"


def token(folder):
    for name, rows in (("train", 4), ("dev", 9)):
        tags = ["O", "B-x", "I-x", "B-y"]
        sentences = [
            "\n".join(f"{w} {tags[(n + i) % 4]}" for i, w in enumerate("abcdefgh" * (1 + n % 5)))
            for n in range(rows)
        ]
        (folder / f"{name}.conll").write_text("\n\n".join(sentences) + "\n")
    return folder / "dev.conll"


TASKS = {
    "cola": (cola, {}),
    "mrpc": (mrpc, {}),
    "stsb": (stsb, {"task.target_scale": 5.0}),
    "swag": (swag, {}),
    "squad2": (squad2, {}),
    "token": (token, {}),
}


@pytest.mark.parametrize("name", TASKS)
def test_predict_scores_the_dev_file_as_the_evaluation_does(name, tmp_path):
    """Through hf:DIR too: it keeps the task, its settings and the order of the labels."""
    files, fields = TASKS[name]
    folder = tmp_path / "data"
    folder.mkdir()
    dev = files(folder)
    hf.write(finetuned.pretrained(), tmp_path / "base")
    given = finetuned.config(folder, f"hf:{tmp_path}/base", task=name, **fields)
    job = opening.open(given, tmp_path / "W")
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: np.asarray(x) + 0.2 * rng.standard_normal(x.shape, np.float32),
        job.init(jax.random.key(0)),
    )
    stage = stages.at(job.config, 0)
    mesh = sharding.make_mesh(job.config.mesh)
    figures = evaluate.Evaluation(job, mesh, stage)(jax.device_put(params))
    hf.write(Pretrained(job.config, job.tokenizer, params), tmp_path / "m")
    model, _ = predict.open(f"hf:{tmp_path}/m")
    assert model.job.config.task == job.config.task
    examples = list(predict.inputs.read(str(dev), model.reading))
    found = predict.Figures(model.job.task, model.reading, model.job.null_answers)
    for start in range(0, len(examples), 5):
        some = examples[start : start + 5]
        found.add(some, model.predict(some))
    assert found.values.keys() == figures.keys() - {"loss", "constant"}
    for metric, value in found.values.items():
        np.testing.assert_allclose(value, figures[metric], atol=1e-5, err_msg=metric)
    assert len({round(v, 6) for v in figures.values()}) > 1
