"""Predictions of tiny models for every kind of file, their order, their errors, their figures."""

import gzip
import io
import json

import finetuned
import numpy as np
import pytest
from finetune_examples import TOKENIZER

from bertjax import __main__ as program
from bertjax.convert import hf, orbax
from bertjax.errors import DataError, UsageError
from bertjax.finetune import predict
from bertjax.finetune.examples import Text
from bertjax.finetune.readers import inputs
from bertjax.finetune.scoring.predictions import Predictions

KINDS = ("single", "pair", "regression", "multiple_choice", "span", "token")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of each kind, opened."""
    root = tmp_path_factory.mktemp("models")
    opened = {}
    for kind in KINDS:
        place = finetuned.write(finetuned.of_kind(kind), root / kind)
        opened[kind], _ = predict.open(place)
    return opened


def of(model, path, text=None):
    """The lines that `predict.run` writes for a file."""
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    out = path.with_name("out.jsonl")
    predict.run(model, str(path), str(out))
    return finetuned.read_lines(out)


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


PAIRS = {
    "in.txt": "a b\tc\nd\te f\n",
    "in.tsv": "id\tsentence1\tsentence2\n0\ta b\tc\n1\td\te f\n",
    "in.csv": 'premise,hypothesis\n"a b",c\nd,"e f"\n',
    "in.jsonl": jsonl(["a b", "c"], {"question1": "d", "question2": "e f"}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_the_same_in_every_layout(name, models, tmp_path):
    columns = {"in.tsv": ("sentence1", "sentence2"), "in.csv": ("premise", "hypothesis")}
    fields = dict(
        zip(
            ("text_column", "pair_column"),
            columns.get(name, ("question1", "question2")),
            strict=True,
        )
    )
    import dataclasses

    model = models["pair"]
    how = dataclasses.replace(
        model.reading, columns=dataclasses.replace(model.reading.columns, **fields)
    )
    model = dataclasses.replace(model, reading=how)
    found = of(model, tmp_path / name, PAIRS[name])
    direct = model.predict([Text("", ("a b", "c"), None), Text("", ("d", "e f"), None)])
    assert [line["id"] for line in found] == ["0", "1"]
    for line, shares in zip(found, direct.probabilities, strict=True):
        assert list(line["probabilities"]) == ["no", "yes"]
        np.testing.assert_allclose(list(line["probabilities"].values()), shares, atol=2e-6)
        assert line["label"] == ("no", "yes")[shares.argmax()]


def test_probabilities_are_those_of_the_model_without_padding_or_batches(models):
    """Each text alone, through `models.apply` on its own tokens: softmax of its logits."""
    import jax

    from bertjax import models as definitions

    model = models["single"]
    texts = ["a", "b c d e f g h", "the . , a b c d e f g h i j k l m n o p"]
    found = model.predict([Text("", (text,), None) for text in texts]).probabilities
    for text, shares in zip(texts, found, strict=True):
        (pieces,) = TOKENIZER.encode([text])
        ids = np.array([[TOKENIZER.cls_id, *pieces, TOKENIZER.sep_id]])
        batch = {"input_ids": ids, "token_type_ids": ids * 0, "attention_mask": ids * 0 + 1}
        logits = definitions.apply(model.job.config.model, model.params, batch)
        want = jax.nn.softmax(logits["classification_logits"][0])
        np.testing.assert_allclose(shares, want, atol=1e-5)


def test_order_is_the_files_over_several_chunks(models, tmp_path, monkeypatch):
    """Chunks of 5 rows, batches of 4, lengths mixed, bad lines between: line n is row n."""
    monkeypatch.setattr(predict, "CHUNK", 5)
    monkeypatch.setattr(predict, "BATCH", 4)
    rng = np.random.default_rng(0)
    texts = [finetuned.letters(rng, rng.integers(1, 25)) for _ in range(23)]
    for at in (0, 7, 11, 12, 21):
        texts[at] = ""
    found = of(models["single"], tmp_path / "in.txt", "\n".join(texts) + "\n")
    assert [line["id"] for line in found] == [str(n) for n in range(23)]
    assert [n for n, line in enumerate(found) if "error" in line] == [0, 7, 11, 12, 21]
    alone = models["single"].predict([Text("", (text,), None) for text in texts if text])
    shares = [line["probabilities"]["yes"] for line in found if "error" not in line]
    np.testing.assert_allclose(shares, alone.probabilities[:, 1], atol=2e-5)


def test_a_file_is_read_a_chunk_at_a_time(models, monkeypatch):
    """Of an endless file, the first lines are written before all of it is read."""
    read = 0

    def endless(path):
        nonlocal read
        for read in range(1, 10**9):
            yield predict.lines.Line(f"f:{read}", "a b")

    class Enough(Exception):
        pass

    class Out(io.StringIO):
        def write(self, text):
            raise Enough

    monkeypatch.setattr(predict.lines, "lines", endless)
    monkeypatch.setattr("sys.stdout", Out())
    with pytest.raises(Enough):
        predict.run(models["single"], "f.txt")
    assert read <= predict.CHUNK + 1


BAD = (
    ("in.txt", b"a\nb\xff\nc\td\n", {1: "in.txt:2: not UTF-8", 2: "in.txt:3: 2 texts, expected 1"}),
    ("in.jsonl", b'{"text": "a"}\n{"text": \n[1]\n{"text": 3}\n{"no": "a"}\n"b"\n',
     {1: "in.jsonl:2: not JSON", 2: "in.jsonl:3: a JSON list", 3: "in.jsonl:4: 'text' is int",
      4: "in.jsonl:5: no column text"}),
    ("in.tsv", b"text\tn\na\t1\na b\nb\t2\n", {1: "in.tsv:3: 1 columns, expected 2 (text, n)"}),
    ("in.csv", b'text,n\na,1\nb\n"a ""b\nc",3\n"x"y,4\nd,5\n',
     {1: "in.csv:3: 1 columns, expected 2", 3: "in.csv:6: not CSV"}),
)  # fmt: skip


@pytest.mark.parametrize(("name", "text", "errors"), BAD)
def test_bad_lines_are_named_and_counted(name, text, errors, models, tmp_path, capsys):
    found = of(models["single"], tmp_path / name, text)
    said = capsys.readouterr().err
    for number, line in enumerate(found):
        assert line["id"] == str(number)
        assert ("error" in line) == (number in errors), line
        if number in errors:
            assert errors[number] in line["error"]
            assert errors[number] in said
    good = len(found) - len(errors)
    assert f"{good} predicted, {len(errors)} bad rows" in said


def test_byte_order_mark_crlf_and_gzip(models, tmp_path):
    plain = of(models["single"], tmp_path / "in.txt", "a b\nc\n")
    assert of(models["single"], tmp_path / "in.txt", "\ufeffa b\r\nc\r\n") == plain
    assert of(models["single"], tmp_path / "in.txt.gz", gzip.compress(b"a b\nc\n")) == plain


def test_standard_input_is_text_or_json(models, monkeypatch, capsys):
    lines = []
    for text in (b"a b\n", b'{"text": "a b"}\n', b'"a b"\n'):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        predict.run(models["single"], "-")
        lines.append(json.loads(capsys.readouterr().out))
    assert lines[0] == lines[1] == lines[2]


def test_figures_are_said_where_there_are_labels(models, tmp_path, capsys):
    """Accuracy by hand: gold labels are the predictions, but for the last one."""
    guesses = [each["label"] for each in of(models["single"], tmp_path / "a.txt", "a\nb c\nd\ne\n")]
    other = {"no": "yes", "yes": "no"}
    golds = [*guesses[:3], other[guesses[3]]]
    rows = [{"text": t, "label": g} for t, g in zip(("a", "b c", "d", "e"), golds, strict=True)]
    capsys.readouterr()
    of(
        models["single"],
        tmp_path / "in.jsonl",
        jsonl(*rows, {"text": "f"}, {"text": "g", "label": "x"}),
    )
    said = capsys.readouterr().err
    assert "figures (4 with a label): accuracy 0.7500" in said
    assert "labels that the model does not have, not scored: 'x' (1)" in said


def test_scores_of_regression_are_on_the_scale_of_the_targets(tmp_path, models):
    five = finetuned.of_kind("regression", target_scale=5.0)
    model, _ = predict.open(finetuned.write(five, tmp_path / "m"))
    (big,) = of(model, tmp_path / "in.txt", "a b\n")
    (small,) = of(models["regression"], tmp_path / "in.txt", "a b\n")
    assert big["score"] == pytest.approx(5 * small["score"], abs=1e-5)


def test_multiple_choice(models, tmp_path):
    rows = [
        {"context": "a b", "options": ["c", "d e", "f"], "label": 1},
        {"context": "a", "options": ["c", "d"]},
    ]
    found, bad = of(models["multiple_choice"], tmp_path / "in.jsonl", jsonl(*rows))
    assert found["option"] == rows[0]["options"][found["label"]]
    assert found["label"] == int(np.argmax(found["probabilities"]))
    assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert "2 options, expected 3" in bad["error"]
    swag = "sent1,sent2,ending0,ending1,ending2,ending3,label\na,b,c,d,e,f,2\n"
    (line,) = of(models["multiple_choice"], tmp_path / "in.csv", swag)
    assert len(line["probabilities"]) == 4


def squad(*questions):
    entries = [
        {"id": i, "question": q, "answers": a, "is_impossible": not a} for i, q, a in questions
    ]
    paragraph = {"context": "a b c d e f g h " * 8, "qas": entries}
    return json.dumps({"version": "v2.0", "data": [{"paragraphs": [paragraph]}]})


QUESTIONS = (("q1", "what is a ?", [{"text": "b", "answer_start": 2}]), ("q2", "what ?", []))


@pytest.mark.parametrize("null_answers", [False, True])
def test_spans_stand_in_their_context(null_answers, tmp_path, capsys):
    found = finetuned.of_kind("span", null_answers=null_answers)
    model, _ = predict.open(finetuned.write(found, tmp_path / "m"))
    lines = of(model, tmp_path / "dev.json", squad(*QUESTIONS))
    context = "a b c d e f g h " * 8
    nulls = 0
    for line in lines:
        for each in (line, *line["n_best"]):
            nulls += each["start"] == -1
            if each["start"] >= 0:
                assert context[each["start"] : each["end"]] == each["answer"] != ""
        best = line["n_best"][0]
        assert {name: line[name] for name in best} == best
        assert sum(each["probability"] for each in line["n_best"]) == pytest.approx(1, abs=1e-4)
        if null_answers:
            assert (line["answer"] == "") == (line["null_difference"] > 0)
    assert (nulls > 0) == null_answers
    assert "figures" in capsys.readouterr().err


def test_words_keep_their_tags_in_conll_text_and_json(models, tmp_path, capsys):
    conll = "a O\nb B-x\n\nc O\n\n"
    first = of(models["token"], tmp_path / "in.conll", conll)
    assert "figures (all labels): f1" in capsys.readouterr().err
    assert [line["words"] for line in first] == [["a", "b"], ["c"]]
    assert all(len(line["tags"]) == len(line["words"]) for line in first)
    assert of(models["token"], tmp_path / "b.txt", conll) == first
    assert of(models["token"], tmp_path / "c.txt", "a b\nc\n") == first
    rows = [{"tokens": ["a", "b"], "ner_tags": ["O", "B-x"]}, {"words": ["c"]}]
    assert of(models["token"], tmp_path / "d.jsonl", jsonl(*rows)) == first
    damaged = of(models["token"], tmp_path / "e.conll", "a O\nb\n\nc O\n")
    assert "e.conll:2: 1 columns, but the first line has 2" in damaged[0]["error"]
    assert damaged[1]["words"] == ["c"]


def test_numbers_of_tags_are_those_that_the_file_names(models, tmp_path, capsys):
    """JSONL names none, so 0 might be any tag; parquet of Hugging Face names them."""
    rows = [{"words": ["a", "b"], "tags": tags} for tags in ([0, 7], ["O", "B-x"], [None, 1])]
    first, second, third = of(models["token"], tmp_path / "a.jsonl", jsonl(*rows))
    assert "a.jsonl:1: 'tags' has 0, which the file does not name" in first["error"]
    assert "'tags' has None" in third["error"]
    assert second["words"] == ["a", "b"]
    assert "figures (all labels)" in capsys.readouterr().err
    names = {"feature": {"names": ["B-x", "O"], "_type": "ClassLabel"}, "_type": "Sequence"}
    write_parquet(
        tmp_path / "a.parquet", {"tokens": [["a", "b"]], "ner_tags": [[1, 0]]}, ner_tags=names
    )
    how = models["token"].reading
    (example,) = inputs.read(str(tmp_path / "a.parquet"), how)
    assert example.tags == ("O", "B-x")
    write_parquet(tmp_path / "b.parquet", {"tokens": [["a"]], "ner_tags": [[2]]}, ner_tags=names)
    (bad,) = inputs.read(str(tmp_path / "b.parquet"), how)
    assert "has 2, which the file does not name" in bad.reason


def write_parquet(path, columns, **features):
    """A parquet file with the metadata of Hugging Face's `datasets`."""
    import pyarrow
    from pyarrow import parquet

    said = json.dumps({"info": {"features": features}})
    table = pyarrow.table(columns).replace_schema_metadata({"huggingface": said})
    parquet.write_table(table, path)


def test_the_first_row_is_as_bad_as_another(models, tmp_path, capsys):
    rows = [{"text": None, "label": 1}, {"text": "a", "label": 1}, {"text": None}]
    found = of(models["single"], tmp_path / "a.jsonl", jsonl(*rows))
    assert ["error" in line for line in found] == [True, False, True]
    assert "a.jsonl:1: 'text' is NoneType, expected text" in found[0]["error"]


def test_a_number_that_cannot_be_read_is_no_label(models, tmp_path, capsys):
    rows = [{"text": "a", "label": label} for label in ("n/a", 1.0, "2.5", [3])]
    found = of(models["regression"], tmp_path / "a.jsonl", jsonl(*rows))
    assert all(np.isfinite(line["score"]) for line in found)
    said = capsys.readouterr().err
    assert "labels that are not numbers, not scored: 'n/a' (1), '[3]' (1)" in said
    assert "2 with a label" in said


def test_an_id_may_occur_twice_in_a_file_of_ones_own(models, tmp_path, capsys):
    """Each of the questions is scored against its own answer."""
    context = "a b c d e f g h"
    rows = [{"id": "x", "question": "what ?", "context": context} for _ in range(2)]
    best = of(models["span"], tmp_path / "a.jsonl", jsonl(*rows))[0]
    right = {"text": [best["answer"]], "answer_start": [best["start"]]}
    wrong = {"text": ["zzz"], "answer_start": [0]}
    answered = [row | {"answers": each} for row, each in zip(rows, (right, wrong), strict=True)]
    found = of(models["span"], tmp_path / "b.jsonl", jsonl(*answered))
    assert [line["id"] for line in found] == ["x", "x"]
    assert "exact 0.5000" in capsys.readouterr().err


def test_an_object_is_not_taken_for_a_file_that_is_there(models, tmp_path, monkeypatch):
    """A gs:// input, and an output of the last time."""
    out = tmp_path / "out.jsonl"
    out.write_text("old\n")
    monkeypatch.setattr(predict.inputs, "read", lambda *_: iter([Text("0", ("a",), None)]))
    predict.run(models["single"], "gs://bucket/in.txt", str(out))
    assert [line["id"] for line in finetuned.read_lines(out)] == ["0"]


HANS = "gold_label\tsentence1_parse\tsentence1\tsentence2\tpairID\n"


def test_labels_of_hans_are_scored_with_neutral_and_contradiction_as_one(
    tmp_path, capsys, monkeypatch
):
    """Predictions are contradiction, ENTAILMENT, neutral, in turn; one gold label is another."""
    names = ("contradiction", "ENTAILMENT", "neutral")
    found = finetuned.of_kind("pair", model={"label_names": names, "num_labels": 3}, name="mnli")
    model, _ = predict.open(finetuned.write(found, tmp_path / "m"))

    def in_turn(self, examples):
        assert [example.texts for example in examples] == [(f"a{i}", "b") for i in range(40)]
        return Predictions("pair", probabilities=np.eye(3)[np.arange(40) % 3])

    monkeypatch.setattr(predict.Model, "predict", in_turn)
    golds = ["entailment" if i % 3 == 1 else "non-entailment" for i in range(40)]
    golds[0] = "entailment"
    capsys.readouterr()
    rows = [f"{gold}\t(x)\ta{i}\tb\tp{i}\n" for i, gold in enumerate(golds)]
    of(model, tmp_path / "heuristics_evaluation_set.txt", HANS + "".join(rows))
    said = capsys.readouterr().err
    assert "labels of HANS: the model's neutral and contradiction count as non-entailment" in said
    assert "figures (all labels): accuracy 0.9750" in said  # 39 of 40
    rows[2] = rows[2].replace("non-entailment", "neutral")  # then it is no file of HANS
    of(model, tmp_path / "mixed.tsv", HANS + "".join(rows))
    said = capsys.readouterr().err
    assert "not scored: 'non-entailment' (25)" in said
    assert "figures (15 with a label): accuracy 0.9333" in said  # 14 of 15
    assert "labels of HANS" not in said


def test_a_sentence_longer_than_a_row_has_a_tag_for_every_word(models, tmp_path):
    words = ["a", "b"] * 60
    (line,) = of(models["token"], tmp_path / "in.txt", " ".join(words) + "\n")
    assert line["words"] == words
    assert len(line["tags"]) == 120


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("in.txt", "", "an empty file"),
        ("in.tsv", "a\tb\nx\ty\n", "no column text; it has a, b"),
        ("in.jsonl", '{"b": "x"}\n', "no column text; it has b"),
        ("in.jsonl", "{\n", "none of its 1 rows can be read"),
        ("in.csv", "text,text\na,b\n", "two columns are called 'text'"),
    ],
)
def test_files_without_a_row_to_predict(name, text, said, models, tmp_path):
    out = tmp_path / "out.jsonl"
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        predict.run(models["single"], str(tmp_path / name), str(out))
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]  # nothing is left of the output


def test_refused_in_one_line(models, tmp_path, capsys):
    text = tmp_path / "in.txt"
    text.write_text("a\n")
    plain = finetuned.write(finetuned.pretrained("masked_lm"), tmp_path / "plain")
    found = finetuned.of_kind("single")
    import dataclasses

    orbax.write(dataclasses.replace(found, tokenizer=None), tmp_path / "mute")
    single = finetuned.write(found, tmp_path / "single")
    cases = [
        ([plain, f"--input={text}"], 64, "has no head of a task; fine-tune it first"),
        ([str(tmp_path / "mute"), f"--input={text}"], 65, "has no tokenizer"),
        ([single], 64, "--input: missing"),
        ([single, f"--input={tmp_path}/none.txt"], 65, "none.txt: No such file"),
        ([single, f"--input={tmp_path}"], 64, "is a folder"),
        ([single, f"--input={text}", f"--output={text}"], 64, "is the input"),
        ([single, f"--input={text}", f"--output={tmp_path}"], 64, "is a folder"),
    ]
    for arguments, code, said in cases:
        assert program.run(["bertjax", "predict", *arguments]) == code, arguments
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1, error
        assert said in error[0], error


def test_labels_are_the_sources_own_names_whatever_their_order(tmp_path, capsys):
    """MNLI with its labels in another order (transformers #10401): gold is matched by name."""
    names = ("contradiction", "ENTAILMENT", "neutral")
    found = finetuned.of_kind("pair", model={"label_names": names, "num_labels": 3})
    hf.write(found, tmp_path / "m")
    model, _ = predict.open(f"hf:{tmp_path}/m")
    rows = [{"premise": "a b", "hypothesis": "c"}, {"premise": "d", "hypothesis": "e f"}]
    import dataclasses

    from bertjax.finetune.tasks import TASKS

    how = dataclasses.replace(model.reading, task=TASKS["mnli"])
    model = dataclasses.replace(model, reading=how)
    first = of(model, tmp_path / "a.jsonl", jsonl(*rows))
    numbers = {"entailment": 0, "neutral": 1, "contradiction": 2}  # of the parquet export
    capsys.readouterr()
    for labeled in (
        [row | {"label": line["label"].lower()} for row, line in zip(rows, first, strict=True)],
        [
            row | {"label": numbers[line["label"].lower()]}
            for row, line in zip(rows, first, strict=True)
        ],
    ):
        of(model, tmp_path / "b.jsonl", jsonl(*labeled))
        assert "figures (all labels): accuracy 1.0000" in capsys.readouterr().err


def test_a_step_that_leaves_no_room_says_so(tmp_path):
    found = finetuned.of_kind("span", stride=128)
    model, _ = predict.open(finetuned.write(found, tmp_path / "m"))
    (tmp_path / "in.txt").write_text("what ?\ta b\n")
    with pytest.raises(UsageError, match=r"config\.task\.stride=128"):
        predict.run(model, str(tmp_path / "in.txt"))
