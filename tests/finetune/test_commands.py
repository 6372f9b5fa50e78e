"""`bertjax finetune` on bad data and clumsy configs: an exit code and one line; what is odd but well."""

import dataclasses
import json

import numpy as np
import pytest
from finetune_runs import flags, write_task, write_vocab
from random_models import random_model

from bertjax import __main__ as command_line
from bertjax import config as config_lib
from bertjax import workdir
from bertjax.convert import hf
from bertjax.data import tokenizer
from bertjax.errors import DATA, DONE, USAGE

HEADER = "index\tsentence1\tsentence2\tlabel"
RTE = [HEADER, "0\tann was\tit was fine\tentailment", "1\tbob\tdull\tnot_entailment"]
SHORT = {"finetune__epochs": 1.0, "finetune__buckets": 0}


@pytest.fixture
def root(tmp_path):
    write_vocab(tmp_path)
    return tmp_path


def finetune(root, task, workdir="w", **more):
    return command_line.run(["bertjax", *flags(root, task, root / workdir, **more)])


def refused(capsys, code, found, *said):
    """The exit code and the one line on stderr, which says all of `said`."""
    error = capsys.readouterr().err
    assert found == code, error
    assert error.count("\n") == 1, error
    for part in said:
        assert part in error


def rte(root, *lines, dev=RTE):
    folder = root / "rte"
    folder.mkdir()
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    (folder / "dev.tsv").write_text("\n".join(dev) + "\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2\tann\tentailment", ("train.tsv:4", "3 columns")),
        ("2\tann\tit\tentailment\tmore", ("train.tsv:4", "5 columns")),
        ("2\tann\tit\tneutral", ("train.tsv:4", "unknown label 'neutral'", "not_entailment")),
        ("2\tann\tit\t", ("train.tsv:4", "unknown label ''")),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(root, capsys, line, said):
    rte(root, *RTE, line)
    refused(capsys, DATA, finetune(root, "rte"), *said)


def test_a_label_without_a_training_example_is_named(root, capsys):
    rte(root, *RTE[:2])
    said = "no training example has the label 'not_entailment'"
    refused(capsys, DATA, finetune(root, "rte"), said)


@pytest.mark.parametrize("content", ["", HEADER, HEADER + "\n"])
def test_an_empty_split_is_named(root, capsys, content):
    rte(root, *RTE)
    (root / "rte/dev.tsv").write_text(content)
    refused(capsys, DATA, finetune(root, "rte"), "dev.tsv")


def test_no_training_examples(root, capsys):
    rte(root, *RTE)
    (root / "rte/train.tsv").unlink()
    refused(capsys, DATA, finetune(root, "rte"), "no training examples")


def test_files_that_are_not_there(root, capsys):
    refused(capsys, DATA, finetune(root, "rte"), "config.data.files", "rte")


def test_a_value_of_the_wrong_kind_in_a_users_own_files(root, capsys):
    own = root / "regression"
    own.mkdir()
    (own / "train.csv").write_text("text,label\na,1.5\nb,high\n")
    refused(capsys, DATA, finetune(root, "regression"), "train.csv:3", "'high'")


def test_columns_that_are_not_there(root, capsys):
    own = root / "single"
    own.mkdir()
    (own / "train.csv").write_text("sentence,label\na,x\nb,y\n")
    refused(capsys, DATA, finetune(root, "single"), "train.csv", "text", "config.task.text_column")


@pytest.mark.parametrize(
    ("task", "more", "said"),
    [
        ("rte", {"model__head": "span"}, "config.model.head='span': rte needs classification"),
        ("squad", {"model__head": "classification"}, "squad needs span"),
        ("rte", {"task__kind": "span"}, "config.task.kind=span: rte is pair"),
        ("rte", {"finetune__metric": "em"}, "config.finetune.metric='em': rte has accuracy, loss"),
        ("rte", {"model__label_names": ("yes", "no")}, "config.model.label_names"),
        ("rte", {"grid__batch_size": (8, 0)}, "batch_size=0: must be positive"),
        ("rte", {"grid__epochs": (1.0, -1.0)}, "epochs=-1.0: must be positive"),
        ("rte", {"data__source": "sample"}, "config.data.source=sample"),
        ("rte", {"init_from": "hf:/none/there"}, "/none/there"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(root, capsys, task, more, said):
    write_task(root, task, 8, 8)
    code = finetune(root, task, **more)
    refused(capsys, DATA if "init_from" in more else USAGE, code, said)
    assert not (root / "w/checkpoints").exists()


def test_unknown_task(root, capsys):
    refused(capsys, USAGE, finetune(root, "sst3"), "sst3: no such task", "sst2")


def test_neither_weights_nor_a_tokenizer(root, capsys):
    write_task(root, "sst2")
    arguments = [a for a in flags(root, "sst2", root / "w") if "tokenizer.path" not in a]
    code = command_line.run(["bertjax", *arguments])
    refused(capsys, USAGE, code, "config.init_from is unset", "config.tokenizer.path")


def test_weights_without_a_tokenizer(root, capsys):
    write_task(root, "sst2")
    hf.write(random_model(head="none"), root / "hf")
    arguments = [a for a in flags(root, "sst2", root / "w") if "config.model" not in a]
    arguments = [a for a in arguments if "tokenizer.path" not in a]
    code = command_line.run(["bertjax", *arguments, f"--config.init_from=hf:{root}/hf"])
    refused(capsys, DATA, code, "has no tokenizer", "config.tokenizer.path")


def test_another_size_than_that_of_the_weights(root, capsys):
    write_task(root, "sst2")
    encoder = tokenizer.load(root / "vocab.txt", True)
    weights = random_model(head="none", vocab_size=encoder.vocab_size)
    hf.write(dataclasses.replace(weights, tokenizer=encoder), root / "hf")
    code = finetune(root, "sst2", init_from=f"hf:{root}/hf", model__hidden_size=64)
    refused(capsys, USAGE, code, "config.model.hidden_size=64", "has 32; leave it out")


def test_the_workdir_of_something_else(root, capsys):
    for task in ("sst2", "rte"):
        write_task(root, task, 8, 8)
    (root / "p/tokenizer").mkdir(parents=True)
    workdir.write_config(config_lib.from_config_dict(config_lib.default()), root / "p")
    said = ("holds a pretraining; take another --workdir", f"config.init_from={root}/p")
    refused(capsys, USAGE, finetune(root, "sst2", "p"), *said)
    assert finetune(root, "sst2", "v", **SHORT) == DONE
    capsys.readouterr()
    said = ("holds a fine-tuning on sst2, not on rte", "take another --workdir")
    refused(capsys, USAGE, finetune(root, "rte", "v", **SHORT), *said)
    more = SHORT | {"init_from": f"hf:{root}/hf"}
    said = ("config.init_from", "start from random weights", "take another --workdir")
    refused(capsys, USAGE, finetune(root, "sst2", "v", **more), *said)


def test_line_ends_and_quotes_are_as_they_are(root, capsys):
    """CRLF files train as LF ones do; a lone quote in a TSV is a character."""
    rte(root, *RTE, '2\tann "was\tit\tentailment', '3\tbob\tnot 5" cold\tnot_entailment')
    assert finetune(root, "rte", **SHORT) == DONE
    for path in (root / "rte").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert finetune(root, "rte", "crlf", **SHORT) == DONE
    one, other = (json.loads((root / w / "scores.json").read_text()) for w in ("w", "crlf"))
    assert one["figures"] == other["figures"]
    assert one["train_loss"] == other["train_loss"]
    (encoded,) = {
        tuple(sorted(p.name for p in (root / w / "encoded").iterdir())) for w in ("w", "crlf")
    }
    assert len(encoded) == 2


def test_a_context_of_100_000_words(root):
    """Of 100,000 words and an answer near the end, which is found in the right windows."""
    write_task(root, "squad", 4, 4)
    words = ["the", "film", "was", "on"] * 25_000
    words[-7] = "dora"
    context = " ".join(words)
    answer = {"text": "dora", "answer_start": context.index("dora")}
    qa = {"id": "long", "question": "who is there ?", "answers": [answer]}
    data = {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": [qa]}]}]}
    (root / "squad/dev.json").write_text(json.dumps(data))
    more = {
        "phases__phase1__sequence_length": 64,
        "task__stride": 48,
        "evaluation__batch_size": 512,
    }
    assert finetune(root, "squad", **more, **SHORT) == DONE
    found = json.loads((root / "w/scores.json").read_text())["figures"]
    assert np.isfinite(found["f1"])
    assert np.isfinite(found["loss"])
