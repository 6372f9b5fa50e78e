"""Small fine-tuning runs: labeled files in the official layouts, and configs that take seconds."""

import json
import random
from pathlib import Path

from bertjax import config as config_lib
from bertjax.data.wordpiece import SPECIALS
from bertjax.finetune import opening, recipes, runs

CONFIGS = Path(__file__).parents[2] / "configs"
GOOD, BAD = ("fine", "lovely", "bright", "warm"), ("poor", "dreary", "dull", "cold")
FILLERS = ("the", "a", "film", "day", "was", "and", "very", "it", "room", "on", "with", "house")
NAMES = ("ann", "bob", "carl", "dora")
WORDS = (*GOOD, *BAD, *FILLERS, *NAMES, "who", "is", "there", "?", ".", "not")

# A model and a training with steps of milliseconds.
TINY = {
    "model.hidden_size": 32,
    "model.num_hidden_layers": 2,
    "model.num_attention_heads": 2,
    "model.intermediate_size": 64,
    "model.max_position_embeddings": 64,
    "model.initializer_range": 0.1,
    "model.hidden_dropout_prob": 0.0,
    "model.attention_probs_dropout_prob": 0.0,
    "model.scan_unroll": 1,
    "phases.phase1.sequence_length": 32,
    "phases.phase1.batch_size": 16,
    "optimizer.learning_rate": 3e-3,
    "evaluation.batch_size": 16,
    "logging.every_steps": 1,
    "task.stride": 12,
    "task.question_length": 8,
}


def write_vocab(folder: Path) -> Path:
    """A WordPiece vocabulary of the tests' words and of letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*SPECIALS, *letters, *(f"##{x}" for x in letters), *(w for w in WORDS if len(w) > 1)]
    path = folder / "vocab.txt"
    path.write_text("\n".join([*pieces, "?", "."]) + "\n")
    return path


def sentence(rng: random.Random, words: tuple[str, ...], length: int | None = None) -> str:
    """Filler words with one of `words` among them."""
    parts = rng.choices(FILLERS, k=length or rng.randint(3, 8))
    parts[rng.randrange(len(parts))] = rng.choice(words)
    return " ".join(parts)


def _table(path: Path, header: str, lines: list[str]) -> None:
    path.write_text("\n".join([header, *lines]) + "\n")


def _sst2(path: Path, rng: random.Random, count: int) -> None:
    lines = [f"{sentence(rng, GOOD if i % 2 else BAD)}\t{i % 2}" for i in range(count)]
    _table(path.with_suffix(".tsv"), "sentence\tlabel", lines)


def _rte(path: Path, rng: random.Random, count: int) -> None:
    label = ("not_entailment", "entailment")
    lines = [
        f"{i}\t{sentence(rng, NAMES)}\t{sentence(rng, GOOD if i % 2 else BAD)}\t{label[i % 2]}"
        for i in range(count)
    ]
    _table(path.with_suffix(".tsv"), "index\tsentence1\tsentence2\tlabel", lines)


def _stsb(path: Path, rng: random.Random, count: int) -> None:
    header = (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    )
    lines = []
    for i in range(count):
        score = i % 4
        pair = f"{sentence(rng, NAMES)}\t{sentence(rng, (GOOD[score],))}"
        lines.append(f"{i}\tg\tf\t2012\t{i}\ts\ts\t{pair}\t{score + 0.5:.3f}")
    _table(path.with_suffix(".tsv"), header, lines)


def _swag(path: Path, rng: random.Random, count: int) -> None:
    header = (
        ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3"
    )
    lines = []
    for i in range(count):
        endings = [sentence(rng, GOOD if n == i % 4 else BAD, 4) for n in range(4)]
        start = sentence(rng, NAMES)
        lines.append(f"{i},v,{i},s,{start},it,gold,{','.join(endings)},{i % 4}")
    names = {"dev": "val"}
    target = path.with_name(names.get(path.name, path.name)).with_suffix(".csv")
    _table(target, f"{header},label", lines)


def _squad(path: Path, rng: random.Random, count: int) -> None:
    """Writes questions whose answer is the name; in SQuAD 2.0's form below a folder squad2."""
    paragraphs = []
    for i in range(count):
        none = path.parent.name == "squad2" and i % 4 == 0
        context = sentence(rng, FILLERS if none else NAMES, rng.randint(4, 20))
        name = next((w for w in context.split() if w in NAMES), "")
        answers = [] if none else [{"text": name, "answer_start": context.index(name)}]
        qa = {"id": f"{path.name}{i}", "question": "who is there ?", "answers": answers}
        if path.parent.name == "squad2":
            qa["is_impossible"] = none
        paragraphs.append({"context": context, "qas": [qa]})
    whole = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
    path.with_suffix(".json").write_text(json.dumps(whole))


def _token(path: Path, rng: random.Random, count: int) -> None:
    blocks = []
    for _ in range(count):
        words = sentence(rng, NAMES[:2]).split() + sentence(rng, GOOD).split()
        tags = ["B-person" if w in NAMES else "B-good" if w in GOOD else "O" for w in words]
        blocks.append("\n".join(f"{w}\t{t}" for w, t in zip(words, tags, strict=True)))
    path.with_suffix(".conll").write_text("\n\n".join(blocks) + "\n")


_WRITERS = {
    "sst2": _sst2,
    "rte": _rte,
    "stsb": _stsb,
    "swag": _swag,
    "squad": _squad,
    "squad2": _squad,
    "token": _token,
}
ONE_OF_EACH_KIND = ("sst2", "rte", "stsb", "swag", "squad", "token")


def write_task(
    root: Path, task: str, train: int = 32, dev: int = 32, *, same: bool = False
) -> Path:
    """Writes the files of a task and returns their folder; `same`: dev is the training data."""
    folder = root / task
    folder.mkdir(parents=True)
    _WRITERS[task](folder / "train", random.Random(0), train)
    _WRITERS[task](folder / "dev", random.Random(0 if same else 1), dev)
    return folder


def fields(root: Path, task: str, **more) -> dict:
    """Fields of a config of `task` on the files that `write_task` wrote under `root`."""
    vocab = root / "vocab.txt"
    if not vocab.exists():
        write_vocab(root)
    files = {"data.files": str(root / task), "tokenizer.path": str(vocab)}
    return {**TINY, **files, **{name.replace("__", "."): value for name, value in more.items()}}


def config(root: Path, task: str, **more) -> config_lib.Config:
    """BERT's recipe for a tiny model; `optimizer__learning_rate=...` sets a field."""
    tree = recipes.bert(task)
    with tree.unlocked():
        tree.update_from_flattened_dict(fields(root, task, **more))
    return config_lib.from_config_dict(tree)


def flags(root: Path, task: str, workdir: Path, **more) -> list[str]:
    """The fields of `config` as a command line."""
    set_to = [f"--config.{name}={value}" for name, value in fields(root, task, **more).items()]
    return ["finetune", f"--config={CONFIGS}/finetune.py:{task}", f"--workdir={workdir}", *set_to]


def run(root: Path, task: str, workdir: Path, programs: dict | None = None, **more) -> list[dict]:
    """Trains all runs of a config in this process; returns their scores."""
    asked = config(root, task, **more)
    job = opening.open(asked, workdir)
    return runs.run_all(job, asked, workdir, {} if programs is None else programs)
