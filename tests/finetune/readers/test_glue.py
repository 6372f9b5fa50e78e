"""GLUE's official files, as they are, become examples with labels by name."""

import pytest
from labeled import read, real_data, write, write_parquet

from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Text
from bertjax.finetune.tasks import TASKS

COUNTS = {
    "cola": (8551, 1043, 1063),
    "sst2": (67349, 872, 1821),
    "mrpc": (3668, 408, 1725),
    "stsb": (5749, 1500, 1379),
    "rte": (2490, 277, 3000),
    "wnli": (635, 71, 146),
    "qnli": (None, 5463, 5463),
}

# Of each task the official header (CoLA has none), and rows of train or dev: the two labels first.
# Quotes are literal, and U+2028 ends no line.
OFFICIAL = {
    "cola": ("", ['gj04\t1\t\tHe said "no.', "gj04\t0\t*\tThem a\u2028go's."]),
    "sst2": ("sentence\tlabel", ['a " charm \t1', "dull \t0"]),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        ['1\t70\t71\t" A .\t"B" .', "0\t72\t73\tC\tD"],
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        ["0\tmain\tMSR\t2012\t01\tnone\tnone\tA\tB\t5.000", "1\tm\tM\t2\t9\tn\tn\tC\tD\t0.25"],
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        ['133273\t1\t2\tWhy?\tWhy "so"?\t1', "402555\t3\t4\tHow?\tWho?\t0"],
    ),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
        "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        [
            "0\t1\t1e\tfiction\t(\t(\t(\t(\tP\tH\tentailment\tentailment",
            "1\t2\t2n\tfiction\t(\t(\t(\t(\tQ\tI\tneutral\tneutral",
            "2\t3\t3c\tfiction\t(\t(\t(\t(\tR\tJ\tcontradiction\tcontradiction",
        ],
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel",
        ["0\tWho?\tHe.\tentailment", "1\tWhere?\tShe.\tnot_entailment"],
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel",
        ["0\tA.\tB.\tentailment", "1\tC.\tD.\tnot_entailment"],
    ),
    "wnli": ("index\tsentence1\tsentence2\tlabel", ["0\tA.\tB.\t1", "1\tC.\tD.\t0"]),
}
# The same rows as above, in the columns and numbers of Hugging Face's export (datasets, glue.py).
EXPORTED = {
    "cola": {"sentence": ['He said "no.', "Them a\u2028go's."], "label": [1, 0]},
    "sst2": {"sentence": ['a " charm ', "dull "], "label": [1, 0]},
    "mrpc": {"sentence1": ['" A .', "C"], "sentence2": ['"B" .', "D"], "label": [1, 0]},
    "stsb": {"sentence1": ["A", "C"], "sentence2": ["B", "D"], "label": [5.0, 0.25]},
    "qqp": {"question1": ["Why?", "How?"], "question2": ['Why "so"?', "Who?"], "label": [1, 0]},
    "mnli": {"premise": ["P", "Q", "R"], "hypothesis": ["H", "I", "J"], "label": [0, 1, 2]},
    "qnli": {"question": ["Who?", "Where?"], "sentence": ["He.", "She."], "label": [0, 1]},
    "rte": {"sentence1": ["A.", "C."], "sentence2": ["B.", "D."], "label": [0, 1]},
    "wnli": {"sentence1": ["A.", "C."], "sentence2": ["B.", "D."], "label": [1, 0]},
}
NAMES = {
    "cola": ["unacceptable", "acceptable"],
    "sst2": ["negative", "positive"],
    "mrpc": ["not_equivalent", "equivalent"],
    "qqp": ["not_duplicate", "duplicate"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["entailment", "not_entailment"],
    "wnli": ["not_entailment", "entailment"],
}


def official(task, end="\n"):
    header, rows = OFFICIAL[task]
    return end.join([*([header] if header else []), *rows]) + end


def unlabeled(task):
    """The rows as test.tsv has them: an index, and no label."""
    header, rows = OFFICIAL[task]
    if task == "cola":
        cells = [row.split("\t")[3:] for row in rows]
        return "\n".join(["index\tsentence", *(f"{i}\t{c[0]}" for i, c in enumerate(cells))]) + "\n"
    columns = header.lstrip("\ufeff").split("\t")
    keep = [columns.index(name) for name in TASKS[task].columns]
    first = "id" if task == "qqp" else "index"
    lines = ["\t".join([first, *TASKS[task].columns])]
    for number, row in enumerate(rows):
        lines.append("\t".join([str(number), *(row.split("\t")[k] for k in keep)]))
    return "\n".join(lines) + "\n"


def write_official(folder, task, end="\n"):
    dev, test = ("dev_matched", "test_matched") if task == "mnli" else ("dev", "test")
    text = official(task, end)
    return write(folder, **{"train_tsv": text, f"{dev}_tsv": text, f"{test}_tsv": unlabeled(task)})


def write_exported(folder, task, classes=None):
    dev, test = ("validation", "test")
    if task == "mnli":
        dev, test = "validation_matched", "test_matched"
    columns = EXPORTED[task]
    size = len(columns["label"])
    rows = {**columns, "idx": list(range(size))}
    none = [-1.0] * size if task == "stsb" else [-1] * size
    for split, found in (("train", rows), (dev, rows), (test, {**rows, "label": none})):
        write_parquet(folder / f"{split}-00000-of-00001.parquet", found, classes)
    return folder


@pytest.mark.parametrize("task", OFFICIAL)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_parquet_and_tsv_of_the_same_rows_give_equal_examples(tmp_path, task, end):
    from_tsv = read(write_official(tmp_path / "tsv", task, end), task)
    plain = read(write_exported(tmp_path / "parquet", task), task)
    named = read(write_exported(tmp_path / "named", task, NAMES.get(task)), task)
    assert set(from_tsv.splits) == {"train", "dev", "test"}
    assert from_tsv == plain == named
    train, test = from_tsv.splits["train"], from_tsv.splits["test"]
    assert [example.texts for example in train] == [example.texts for example in test]
    assert [example.label for example in test] == [None] * len(test)


def test_the_label_of_each_file_by_name(tmp_path):
    first = {
        task: read(write_official(tmp_path / task, task), task).splits["train"][0].label
        for task in OFFICIAL
    }
    assert first == {
        "cola": "acceptable",
        "sst2": "positive",
        "mrpc": "equivalent",
        "stsb": 5.0,
        "qqp": "duplicate",
        "mnli": "entailment",
        "qnli": "entailment",
        "rte": "entailment",
        "wnli": "entailment",
    }


def test_names_of_the_file_go_before_the_order_of_ours(tmp_path):
    rows = {"sentence1": ["A.", "C."], "sentence2": ["B.", "D."], "label": [1, 0]}
    write_parquet(tmp_path / "train.parquet", rows, ["not_entailment", "entailment"])
    found = read(tmp_path, "rte")
    assert [example.label for example in found.splits["train"]] == ["entailment", "not_entailment"]
    assert found.labels == ("entailment", "not_entailment")
    write_parquet(tmp_path / "train.parquet", rows, ["yes", "no"])
    with pytest.raises(DataError, match=r"train.parquet: its labels are yes, no, but RTE has"):
        read(tmp_path, "rte")


def test_a_glue_directory_holds_the_tasks_folder(tmp_path):
    write_official(tmp_path / "CoLA", "cola")
    write_exported(tmp_path / "sst2", "sst2")
    assert len(read(tmp_path, "cola").splits["train"]) == 2
    assert len(read(tmp_path, "sst2").splits["train"]) == 2
    with pytest.raises(DataError, match=r"neither QNLI's train.tsv, dev.tsv or test.tsv nor"):
        read(tmp_path, "qnli")


def test_single_files_with_names_of_their_own(tmp_path):
    for name in ("my-train.tsv", "half_dev.tsv"):
        (tmp_path / name).write_text(official("rte"))
    found = read(f"{tmp_path}/my-train.tsv,{tmp_path}/half_dev.tsv", "rte")
    assert {split: len(some) for split, some in found.splits.items()} == {"train": 2, "dev": 2}


def test_mnli_has_two_dev_sets_and_the_diagnostic_one(tmp_path):
    folder = write_official(tmp_path / "MNLI", "mnli")
    header, rows = OFFICIAL["mnli"]
    undecided = rows[0].replace("entailment\tentailment", "neutral\t-")
    text = "\n".join([header, undecided, *rows]) + "\n"
    write(folder, dev_mismatched_tsv=text, test_mismatched_tsv=unlabeled("mnli"))
    diagnostic = "index\tsentence1\tsentence2\n0\tA\tB\n1\tC\tD\n"
    write(tmp_path / "AX", diagnostic_tsv=diagnostic)
    found = read(folder, "mnli")
    assert {split: len(some) for split, some in found.splits.items()} == {
        "train": 3,
        "dev": 3,
        "dev_mismatched": 3,
        "test": 3,
        "test_mismatched": 3,
        "ax": 2,
    }
    assert found.splits["ax"] == [Text("0", ("A", "B"), None), Text("1", ("C", "D"), None)]
    assert found.notes == (f"{folder}/dev_mismatched.tsv: 1 pairs with the label '-' are left out",)
    write(folder, diagnostic_tsv=diagnostic.replace("1\tC\tD\n", ""))
    assert len(read(tmp_path, "mnli").splits["ax"]) == 1
    paths = ",".join(str(folder / name) for name in ("train.tsv", "dev_mismatched.tsv"))
    assert set(read(paths, "mnli").splits) == {"train", "dev_mismatched"}


def msr(count):
    rows = [f"{k % 2}\t{k}\t{k + 1000}\tfirst {k}\tsecond {k}" for k in range(count)]
    return "\n".join(["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", *rows]) + "\n"


def test_mrpc_is_made_from_microsofts_files(tmp_path):
    write(
        tmp_path,
        msr_paraphrase_train_txt=msr(10),
        msr_paraphrase_test_txt=msr(3),
        dev_ids_tsv="3\t1003\n8\t1008\n",
    )
    found = read(tmp_path, "mrpc")
    assert [e.id for e in found.splits["dev"]] == ["3", "8"]  # as Hugging Face numbers them
    assert [e.id for e in found.splits["train"]] == ["0", "1", "2", "4", "5", "6", "7", "9"]
    assert found.splits["test"] == [
        Text(str(k), (f"first {k}", f"second {k}"), None) for k in range(3)
    ]
    assert found.notes == (
        "MRPC: made from msr_paraphrase_train.txt: 8 pairs to train, 2 in dev_ids.tsv",
    )
    write(tmp_path, dev_ids_tsv="3\t1003\n8\t1009\n")
    with pytest.raises(DataError, match=r"dev_ids.tsv: 2 pairs, of which .*train.txt has 1"):
        read(tmp_path, "mrpc")


def qqp_rows(count, broken):
    rows = [f"{k}\t{k}\t{k}\tq {k}\tp {k}\t{k % 2}" for k in range(count)]
    for k in broken:
        rows[k] = f"{k}\t{k}\t{k}\tq"
    return "\n".join([OFFICIAL["qqp"][0], *rows]) + "\n"


def test_broken_rows_of_qqps_training_are_counted(tmp_path):
    write(tmp_path, train_tsv=qqp_rows(400, [7, 90]), dev_tsv=qqp_rows(4, []))
    found = read(tmp_path, "qqp")
    assert len(found.splits["train"]) == 398
    assert found.splits["train"][7].id == "8"
    assert found.notes == (
        f"{tmp_path}/train.tsv: 2 rows with a wrong number of columns are left out of training, "
        f"the first is {tmp_path}/train.tsv:9",
    )
    write(tmp_path, train_tsv=qqp_rows(100, [7, 90]))
    with pytest.raises(DataError, match=r"train.tsv:9: .* in 2 of 100 rows; the file is damaged"):
        read(tmp_path, "qqp")
    write(tmp_path, train_tsv=qqp_rows(400, []), dev_tsv=qqp_rows(400, [7]))
    with pytest.raises(DataError, match=r"dev.tsv:9: 4 columns, expected 6 \(id, qid1"):
        read(tmp_path, "qqp")


def test_no_row_of_a_test_file_is_dropped(tmp_path):
    folder = write_official(tmp_path, "qqp")
    write(folder, test_tsv="id\tquestion1\tquestion2\n0\ta\tb\n1\ta\n2\t\t\n")
    with pytest.raises(DataError, match=r"test.tsv:3: 2 columns, expected 3"):
        read(folder, "qqp")
    write(folder, test_tsv="id\tquestion1\tquestion2\n4\ta\tb\n2\t\t\n")
    assert [e.id for e in read(folder, "qqp").splits["test"]] == ["4", "2"]


RTE = OFFICIAL["rte"][0]


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        (
            "rte",
            f"{RTE}\n0\tA\tB\tentailment\n1\tA\tentailment\n",
            r"train.tsv:3: 3 columns, expec",
        ),
        (
            "rte",
            f"{RTE}\n0\tA\tB\tentails\n",
            r"train.tsv:2: unknown label 'entails', known are 'entailment', 'not_entailment'",
        ),
        ("rte", f"{RTE}\n0\tA\tB\t0\n", r"train.tsv:2: unknown label '0'"),  # 0 is no name of RTE's
        (
            "wnli",
            f"{RTE}\n0\tA\tB\tentailment\n",
            r"unknown label 'entailment', known are '0', '1'",
        ),
        ("rte", f"{RTE}\n0\tA\tB\tentailment\n", r"no training example has the label 'not_entail"),
        ("rte", f"{RTE}\n", r"train.tsv: no rows"),
        ("rte", "", r"train.tsv: an empty file"),
        ("rte", "index\tsentence1\tgold\n0\tA\tB\n", r"train.tsv:2: no column 'sentence2', it has"),
        (
            "stsb",
            OFFICIAL["stsb"][0] + "\n" + "0\t" * 9 + "5.01\n",
            r"'5.01' is not between 0 and 5",
        ),
        ("stsb", OFFICIAL["stsb"][0] + "\n" + "0\t" * 9 + "-1\n", r"train.tsv:2: the score '-1'"),
        (
            "stsb",
            OFFICIAL["stsb"][0] + "\n" + "0\t" * 9 + "good\n",
            r"'good' is not a finite number",
        ),
    ],
)
def test_bad_files(tmp_path, task, text, message):
    write(tmp_path, train_tsv=text)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, task)
    assert "\n" not in str(caught.value)


def test_bad_names(tmp_path):
    write_official(tmp_path, "rte")
    (tmp_path / "rows.json").write_text("{}")
    with pytest.raises(UsageError, match=r"rows.json is none of .tsv .txt .parquet"):
        read(tmp_path / "rows.json", "rte")
    with pytest.raises(UsageError, match="name one folder of RTE, or files only"):
        read(f"{tmp_path},{tmp_path}/dev.tsv", "rte")
    (tmp_path / "latin.tsv").write_bytes(f"{RTE}\n0\tcaf\xe9\tB\tentailment\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.tsv:2: not UTF-8 at byte 37"):
        read(tmp_path / "latin.tsv", "rte")


def test_a_missing_label_in_parquet_is_refused_in_training(tmp_path):
    rows = {"sentence1": ["A."], "sentence2": ["B."], "label": [-1]}
    write_parquet(tmp_path / "train.parquet", rows)
    with pytest.raises(DataError, match=r"train.parquet, row 0: no label \(-1\)"):
        read(tmp_path, "rte")
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"train.parquet: damaged parquet"):
        read(tmp_path, "rte")


@pytest.mark.parametrize("task", COUNTS)
def test_official_counts(task):
    found = read(real_data("glue"), task)
    counts = tuple(
        len(found.splits[split]) if split in found.splits else None
        for split in ("train", "dev", "test")
    )
    assert counts == COUNTS[task]
    assert [e.id for e in found.splits["test"]] == [str(k) for k in range(counts[2])]
    labels = {e.label for e in found.splits["dev"]}
    assert labels == set(found.labels) if task != "stsb" else min(labels) == 0 < max(labels) == 5


def test_mrpc_made_from_microsofts_files_is_the_published_one(tmp_path):
    folder = real_data("glue", "MRPC")
    for name in ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", "dev_ids.tsv"):
        (tmp_path / name).symlink_to(folder / name)
    made, published = read(tmp_path, "mrpc"), read(folder, "mrpc")
    for split in ("train", "dev", "test"):
        ours = sorted((e.texts, e.label or "") for e in made.splits[split])
        theirs = sorted((e.texts, e.label or "") for e in published.splits[split])
        assert ours == theirs, split
