"""The published tokenizers, in bertjax and in `transformers`, from the same files."""

import csv

import byte_bpe_reference
import transformers

from bertjax.data import tokenizer

NAMES = {
    "uncased": "bert-base-uncased-vocab.txt",
    "cased": "bert-base-cased-vocab.txt",
    "byte_bpe": "gpt2_bpe",
}


def ours(name):
    return tokenizer.load(byte_bpe_reference.data_directory() / "vocab" / NAMES[name])


def theirs(name, model, **options):
    """The tokenizer of `transformers` with the same vocabulary."""
    if name == "byte_bpe":
        vocab, merges = model.vocabulary, model.merges
        return byte_bpe_reference.transformers_tokenizer(vocab, merges, **options)
    vocab = byte_bpe_reference.data_directory() / "vocab" / NAMES[name]
    return transformers.BertTokenizer(vocab=str(vocab), do_lower_case=name == "uncased", **options)


def glue(task, split, count):
    """The first rows of a GLUE file with a header, as dicts."""
    path = byte_bpe_reference.data_directory() / "glue" / task / f"{split}.tsv"
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row for row, _ in zip(rows, range(count), strict=False)]
