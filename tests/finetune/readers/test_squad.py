"""SQuAD's JSON: texts as they are, answers where they say, and what does not hold is counted."""

import json

import pytest
from labeled import read, real_data, write_parquet

from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Answer, Question


def entry(name, question="Who?", answers=(), **more):
    answers = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": question, "answers": answers, **more}


def write_squad(path, *paragraphs):
    """A file of one article; a paragraph is (context, questions)."""
    paragraphs = [{"context": context, "qas": list(qas)} for context, qas in paragraphs]
    found = {"version": "1.1", "data": [{"title": "A title", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(found))
    return path


def test_both_versions(tmp_path):
    context = "Norse raiders settled in Normandy."
    write_squad(tmp_path / "train-v1.1.json", (context, [entry("a", answers=[("Norse", 0)])]))
    impossible = entry("c", is_impossible=True, plausible_answers=[])
    possible = entry("b", answers=[("Normandy", 25), ("in Normandy", 22)], is_impossible=False)
    write_squad(tmp_path / "dev-v2.0.json", (context, [possible, impossible]))
    test = {"id": "d", "question": "Where?"}
    write_squad(tmp_path / "test.json", (context, [test]))
    found = read(tmp_path, "squad2")
    assert found.splits == {
        "train": [Question("a", "Who?", context, (Answer("Norse", 0),), True)],
        "dev": [
            Question(
                "b", "Who?", context, (Answer("Normandy", 25), Answer("in Normandy", 22)), True
            ),
            Question("c", "Who?", context, (), False),
        ],
        "test": [Question("d", "Where?", context, (), None)],
    }
    assert found.notes == ("dev: 1 of 2 questions have no answer",)
    assert found.labels == ()


def test_characters_count_as_the_file_counts_them(tmp_path):
    # A return, a letter outside the basic plane, a combining accent, an ideograph, a half pair.
    context = "\r\n\U0001d504 cafe\u0301\r 東京\u2028 end\u00a0here \ud83d."
    text = "e\u0301\r 東京\u2028 end"
    start = context.index(text)
    write_squad(tmp_path / "train.json", (context, [entry("a", answers=[(text, start)])]))
    (question,) = read(tmp_path / "train.json", "squad").splits["train"]
    assert question.context == context.replace("\ud83d", "?")
    assert len(question.context) == len(context)
    assert question.answers == (Answer(text, start),)


@pytest.fixture
def good():
    return [(f"At {k:03} it is.", [entry(f"q{k}", answers=[("it", 7)])]) for k in range(400)]


def test_wrong_answers_are_counted_shown_and_dropped_from_training(tmp_path, good):
    wrong = (
        "One day in May, a day of rain.",
        [
            entry("once", answers=[("May", 4)]),  # stands elsewhere, once
            entry("twice", answers=[("day", 0)]),  # where of two?
            entry("never", answers=[("June", 3), ("rain", 25)]),
        ],
    )
    for name in ("train.json", "dev.json"):
        write_squad(tmp_path / name, *good, wrong)
    found = read(tmp_path, "squad")
    train = {q.id: q for q in found.splits["train"]}
    assert len(train) == 402
    assert "twice" not in train
    assert train["once"].answers == (Answer("May", 11),)
    assert train["never"].answers == (Answer("rain", 25),)
    dev = {q.id: q for q in found.splits["dev"]}
    assert dev["twice"].answers == (Answer("day", 0),)
    assert dev["never"].answers == (Answer("June", 3), Answer("rain", 25))
    first = "the first is question once: 'May' is not at 4, 'day' is"
    start = "3 of 404 answers are not at their answer_start: 1 moved to the only place"
    assert sorted(found.notes) == [
        f"dev: {start} of their text, 2 kept to score their text, 0 questions left out; {first}",
        f"train: {start} of their text, 2 dropped, 1 questions left out; {first}",
    ]


def test_more_than_one_in_a_hundred_wrong_is_an_error(tmp_path, good):
    bad = [("It was so.", [entry(f"bad {k}", answers=[("was", 2)])]) for k in range(4)]
    path = write_squad(tmp_path / "train.json", *good[:396], *bad)
    assert len(read(path, "squad").splits["train"]) == 400
    write_squad(path, *good[:395], *bad)
    with pytest.raises(
        DataError, match=r"train.json: 4 of 399 answers .* question bad 0: 'was' is"
    ):
        read(path, "squad")
    negative = [("It was so.", [entry(f"bad {k}", answers=[("so", -3)])]) for k in range(5)]
    write_squad(path, *good, *negative)
    with pytest.raises(DataError, match="5 of 405 answers"):
        read(path, "squad")


def test_a_context_of_100000_words(tmp_path):
    context = " ".join(f"word{k}" for k in range(100_000))
    text = "word99999"
    answers = [(text, context.index(text))]
    path = write_squad(tmp_path / "train.json", (context, [entry("a", answers=answers)]))
    (question,) = read(path, "squad").splits["train"]
    assert question.context == context
    assert question.context[question.answers[0].start :] == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"train.json: not JSON"),
        ("[]", r"train.json: a JSON list, expected an object"),
        ("{}", r"train.json: not SQuAD's JSON: 'data' is not a list of objects"),
        ('{"data": []}', r"train.json: no questions"),
        ('{"data": [{"paragraphs": [3]}]}', r"'paragraphs' is not a list of objects"),
        ('{"data": [{"paragraphs": [{"context": 3, "qas": []}]}]}', r"'context' is int, expected"),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b"}]}]}]}',
            r"train.json, question 0: no 'id'",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": "x", "question": "b", '
            '"answers": [{"text": "a", "answer_start": "0"}]}]}]}]}',
            r"train.json, question x: answer 'a' starts at '0'",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": "x", "question": "b"}]}]}]}',
            r"train.json, question x: no 'answers'; only a test file may leave them out",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": "x", "question": "b", '
            '"answers": [], "is_impossible": false}]}]}]}',
            r"question x: is_impossible is false and 'answers' is empty",
        ),
    ],
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, "squad")
    assert "\n" not in str(caught.value)


def test_a_folder_without_its_files(tmp_path):
    (tmp_path / "train.tsv").touch()
    with pytest.raises(DataError, match=r"no .json in the folder"):
        read(tmp_path, "squad")


def test_an_id_twice_is_refused(tmp_path):
    path = write_squad(tmp_path / "dev.json", ("It is.", [entry("a", answers=[("It", 0)])] * 2))
    with pytest.raises(DataError, match=r"dev.json: question a occurs twice"):
        read(path, "squad")


def test_no_context_is_on_both_sides_of_what_is_held_out(tmp_path):
    contexts = [
        (f"At {k:03} it is.", [entry(f"{k} {n}", answers=[("it", 7)]) for n in range(3)])
        for k in range(300)
    ]
    found = read(write_squad(tmp_path / "a.json", *contexts), "squad", heldout=0.2)
    sides = [{q.context for q in found.splits[split]} for split in ("train", "dev")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 300
    assert 40 <= len(sides[1]) <= 80  # 60 of 300, standard deviation 7
    assert "chosen by a hash of their text" in found.notes[0]
    with pytest.raises(UsageError, match=r"heldout_fraction=0.001: of 3 .* it leaves 0 for dev"):
        read(write_squad(tmp_path / "a.json", contexts[0]), "squad", heldout=0.001)


def test_rows_of_ones_own_with_answers_as_hugging_face_has_them(tmp_path):
    rows = {
        "id": ["x", "y"],
        "context": ["It was May.", "It was June."],
        "question": ["When?", "Who?"],
        "answers": [{"text": ["May"], "answer_start": [7]}, {"text": [], "answer_start": []}],
    }
    columns = {"text_column": "context", "pair_column": "question", "id_column": "id"}
    write_parquet(tmp_path / "train.parquet", rows)
    from_rows = read(tmp_path, kind="span", **columns)
    assert from_rows.splits["train"] == [
        Question("x", "When?", "It was May.", (Answer("May", 7),), True),
        Question("y", "Who?", "It was June.", (), False),
    ]
    assert read(tmp_path, "squad2") == from_rows  # Hugging Face's export of SQuAD
    official = [entry("x", "When?", [("May", 7)], is_impossible=False)]
    impossible = [entry("y", "Who?", is_impossible=True)]
    path = tmp_path / "train.json"
    write_squad(path, (rows["context"][0], official), (rows["context"][1], impossible))
    assert read(tmp_path, kind="span").splits == from_rows.splits
    path.unlink()
    lines = [{name: rows[name][k] for name in rows} for k in range(2)]
    lines[0]["answers"] = {"text": ["May"], "answer_start": [7, 8]}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        DataError, match=r"a.jsonl:1: 'text' and 'answer_start' are not lists of the"
    ):
        read(tmp_path / "a.jsonl", kind="span", **columns)


def test_published_files():
    found = read(real_data("squad", "v1.1"), "squad", heldout=0.01)
    assert sum(len(some) for some in found.splits.values()) == 7938 + 9803
    assert len(found.notes) == 1  # every answer stands where it says
    second = read(real_data("squad", "v2.0"), "squad2")
    assert {split: len(some) for split, some in second.splits.items()} == {"dev": 6078}
    assert sum(q.answerable is False for q in second.splits["dev"]) == 3168
