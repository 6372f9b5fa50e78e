"""A small corpus, and a config that prepares it."""

import dataclasses
import json

import pytest

from bertjax import config as configs
from bertjax.data import tokenizer

WORDS = [
    "the",
    "old",
    "clock",
    "on",
    "wall",
    "of",
    "this",
    "small",
    "house",
    "was",
    "slow",
    "and",
    "nobody",
    "ever",
    "wound",
    "it",
    "up",
    "again",
]
VOCAB = [*tokenizer.WORDPIECE_SPECIALS, *WORDS, ".", *"0123456789", *(f"##{d}" for d in range(10))]

# Prose whose lines break at a margin.
WRAPPED = """\
It was a bright cold day in April, and the clocks were striking. A man went
through the glass doors of the mansions, though not quickly enough to
prevent a swirl of gritty dust from entering along with him.

The hallway smelt of boiled cabbage. At one end of it a poster, too large
for indoor display, had been tacked to the wall.
"""


def corpus(count):
    """Documents of 1 to 5 sentences, all different."""
    return [
        " ".join(f"The {WORDS[(i + j) % len(WORDS)]} was {i * 10 + j}." for j in range(1 + i % 5))
        for i in range(count)
    ]


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def config(tmp_path):
    """A config for `tmp_path/corpus.jsonl` with a small vocabulary."""
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(VOCAB) + "\n")
    write_jsonl(tmp_path / "corpus.jsonl", corpus(400))
    return configs.from_config_dict(
        {
            "data": {
                "files": str(tmp_path / "corpus.jsonl"),
                "num_workers": 1,
                "heldout_fraction": 0.1,
            },
            "tokenizer": {"path": str(vocab)},
        }
    )


def change(config, **groups):
    return dataclasses.replace(
        config,
        **{name: dataclasses.replace(getattr(config, name), **f) for name, f in groups.items()},
    )
