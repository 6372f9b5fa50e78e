"""The project's pages: their commands, fields and links, and a folder in which commands run."""

import dataclasses
import gzip
import json
import re
import shlex
import sys
from collections import Counter
from pathlib import Path
from pydoc_data import topics

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "launch/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
_BLOCK = re.compile(r"^(<!-- runs -->\n)?```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page; `runs` where `<!-- runs -->` stands before it."""

    language: str
    text: str
    runs: bool

    @property
    def script(self):
        """The block as lines of bash."""
        return f"python - <<'END'\n{self.text}END\n" if self.language == "python" else self.text


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page):
    return [Block(name, text, bool(mark)) for mark, name, text in _BLOCK.findall(read(page))]


def commands(page):
    """Every `bertjax COMMAND ...` of a page's sh blocks, as words, without `bertjax`."""
    found = []
    for block in blocks(page):
        for line in block.text.replace("\\\n", " ").splitlines() if block.language == "sh" else ():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if not set(word) <= set("|;&"):
                    words.append(word)
                    continue
                if "bertjax" in words and words[0] not in ("pip", "git"):
                    found.append(words[words.index("bertjax") + 1 :])
                words = []
    return found


def prose(page):
    """The text of a page without its blocks."""
    return re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """The names of a page's headings, as links have them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    counts: Counter = Counter()
    names = set()
    for title in titles:
        name = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        names.add(name if not counts[name] else f"{name}-{counts[name]}")
        counts[name] += 1
    return names


SMALL = """
import importlib.util

spec = importlib.util.spec_from_file_location("published", {path!r})
published = importlib.util.module_from_spec(spec)
spec.loader.exec_module(published)


def get_config(*arg):
    config = published.get_config(*arg)
    config.model.hidden_size, config.model.intermediate_size = 32, 64
    config.model.num_hidden_layers, config.model.num_attention_heads = 1, 2
    config.model.max_position_embeddings, config.model.vocab_size = 66, 0
    config.tokenizer.vocab_size = 1000
    config.data.heldout_fraction = 0.2
    config.data.num_workers = 1
    config.evaluation.num_examples, config.evaluation.batch_size = 16, 8
    config.optimizer.warmup_steps = 0
    config.finetune.epochs = 1.0
    for name in config.phases:
        phase = config.phases[name]
        phase.steps, phase.batch_size = min(phase.steps, 4), 8
        phase.micro_batch_size = 0
        phase.sequence_length = min(phase.sequence_length, 48)
        phase.max_predictions_per_seq = min(phase.max_predictions_per_seq, 12)
    if config.data.source == "sample" and not config.task.kind:
        config.data.source, config.data.files = "files", "corpus.jsonl.gz"
    return config
"""


def make_folder(folder):
    """The files that the pages name: configs/ in small, a corpus, a vocabulary, labeled rows."""
    (folder / "configs").mkdir(parents=True)
    for path in (ROOT / "configs").glob("*.py"):
        (folder / "configs" / path.name).write_text(SMALL.format(path=str(path)))
    documents = ["\n".join(text.split("\n\n")) for text in list(topics.topics.values())[:40]]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    for name in ("corpus", "wiki/1"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "books").mkdir()
    (folder / "books/1.txt").write_text("\n\n".join(documents[:10]) + "\n")
    words = Counter(re.findall(r"[a-z]+|[^\sa-z]", "\n".join(documents).lower()))
    letters = sorted(set("".join(words)))
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*specials, *letters, *(f"##{x}" for x in letters)]
    pieces += [word for word, _ in words.most_common(600) if word not in pieces]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    named = [word for word in words if word.isalpha()][:60]
    reviews = [(f"a {word} film", ["good", "bad"][n % 2]) for n, word in enumerate(named)]
    rows = "".join(f'"{text}",{label}\n' for text, label in reviews)
    (folder / "reviews.csv").write_text(f"review,stars\n{rows}")
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text, _ in reviews))
    (folder / "bin").mkdir()
    for name, what in (("bertjax", " -m bertjax"), ("python", "")):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{what} "$@"\n')
        program.chmod(0o755)
    return folder
