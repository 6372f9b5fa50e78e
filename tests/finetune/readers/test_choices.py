"""SWAG's CSV and RACE's folders become contexts with four options."""

import json

import pytest
from labeled import read, write, write_parquet

from bertjax.errors import DataError
from bertjax.finetune.examples import Choices

HEADER = (
    ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
)
ROWS = (
    '0,anetv_a,1,"He sits, and",He sits.,"She, too,",gold,"says ""no"".",runs.,eats.,flies.,0\n'
    "1,anetv_b,2,x,A dog barks.,It,gen,stops.,sings.,reads.,writes.,3\n"
)
FIRST = Choices("0", "He sits.", "She, too,", ('says "no".', "runs.", "eats.", "flies."), 0)
SECOND = Choices("1", "A dog barks.", "It", ("stops.", "sings.", "reads.", "writes."), 3)


def test_swag(tmp_path):
    unlabeled = "".join(line.rpartition(",")[0] + "\n" for line in (HEADER + ROWS).splitlines())
    write(tmp_path, train_csv=HEADER + ROWS, val_csv=HEADER + ROWS, test_csv=unlabeled)
    write(tmp_path, train_full_csv="video-id,gold-ending\na,b\n")  # official, of another layout
    found = read(tmp_path, "swag")
    assert found.splits == {
        "train": [FIRST, SECOND],
        "dev": [FIRST, SECOND],
        "test": [FIRST._replace(label=None), SECOND._replace(label=None)],
    }
    assert found.labels == ()


def test_swag_in_parquet(tmp_path):
    rows = {
        "sent1": [FIRST.context, SECOND.context],
        "sent2": [FIRST.question, SECOND.question],
        **{f"ending{k}": [FIRST.options[k], SECOND.options[k]] for k in range(4)},
        "label": [0, 3],
    }
    write_parquet(tmp_path / "train-00000-of-00001.parquet", rows)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", {**rows, "label": [-1, -1]})
    found = read(tmp_path, "swag").splits
    assert found["train"] == [FIRST, SECOND]
    assert [example.label for example in found["test"]] == [None, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEADER.replace("ending3,", "") + "0,a,1,x,A,B,gold,c,d,e,0\n",
            "no column 'ending3', it has",
        ),
        (
            HEADER + "0,a,1,x,A,B,gold,c,d,e,f,4\n",
            r"train.csv:2: unknown label '4', known are '0', ",
        ),
        (HEADER + "0,a,1,x,A,B,gold,c,d,e,f,\n", r"train.csv:2: unknown label None"),
        (
            HEADER + "0,a,1,x,A,B,gold,c,,e,f,1\n",
            r"train.csv:2: 3 options with text of 4, expected",
        ),
        (HEADER + ROWS + "2,a,b\n", r"train.csv:4: 3 columns, expected 12"),
        (HEADER, r"train.csv: no rows"),
    ],
)
def test_bad_swag(tmp_path, text, message):
    write(tmp_path, train_csv=text)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, "swag")
    assert "\n" not in str(caught.value)


def passage(**fields):
    return {
        "id": "high1.txt",
        "article": "First line.\nSecond\r\nline. ",
        "questions": ["What is _ ?", "Who?"],
        "options": [["a", "b", "c", "d"], ["e", "f\ng", "h", "i"]],
        "answers": ["D", "A"],
        **fields,
    }


def write_race(folder, split, level, name, **fields):
    path = folder / split / level / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(passage(id=name, **fields)))


def test_race(tmp_path):
    home = tmp_path / "RACE"
    for split in ("train", "dev", "test"):
        write_race(home, split, "middle", "middle2.txt")
        write_race(home, split, "high", "high1.txt")
    found = read(home, "race")
    assert found == read(tmp_path, "race")
    assert set(found.splits) == {"train", "dev", "test"}
    context = "First line. Second line. "
    assert found.splits["train"][:2] == [
        Choices("high1.txt-0", context, "What is _ ?", ("a", "b", "c", "d"), 3),
        Choices("high1.txt-1", context, "Who?", ("e", "f g", "h", "i"), 0),
    ]
    assert [e.id for e in found.splits["test"]] == [
        "high1.txt-0",
        "high1.txt-1",
        "middle2.txt-0",
        "middle2.txt-1",
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answers": ["D"]}, r"high1.txt: 2 questions, 2 lists of options and 1 answers"),
        ({"answers": ["D", "E"]}, r"high1.txt, question 1: unknown label 'E', known are 'A', 'B'"),
        ({"answers": None}, r"high1.txt: 'questions', 'options' and 'answers' are not all lists"),
        ({"options": [["a", "b", "c"]] * 2}, r"high1.txt, question 0: 3 options with text of 3"),
        ({"article": None}, r"high1.txt: 'article' is NoneType, expected text"),
    ],
)
def test_bad_race(tmp_path, fields, message):
    write_race(tmp_path, "train", "high", "high1.txt", **fields)
    with pytest.raises(DataError, match=message):
        read(tmp_path, "race")


def test_folders_of_race_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="name the folder RACE, which holds train/high"):
        read(tmp_path, "race")
    (tmp_path / "dev" / "high").mkdir(parents=True)
    with pytest.raises(DataError, match=r"dev/high: no .txt files"):
        read(tmp_path, "race")
