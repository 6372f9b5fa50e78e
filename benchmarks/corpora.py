"""Rates at which corpora are read, in the forms that people have them, beside plain .jsonl.

The same text is written in each form into a scratch folder. Then each form and plain .jsonl take
turns: "records" cuts the file into raw records (what one process does for all others); "documents"
decodes them and cuts them into sentences too (what `prepare` does on each core before it
tokenizes). MB are of text, not of the file. This process is pinned to one core, and a second is
one of its CPU time: other work on the machine is left out.

    python -m benchmarks.corpora --corpus=small.jsonl.gz
"""

import argparse
import bz2
import functools
import gzip
import html
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pyarrow
from pyarrow import parquet

from bertjax.config import Data
from bertjax.data import documents, sources

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/helpers"))
import corpus_files


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", required=True, help=".jsonl.gz with a text field")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each form, for records")
    parser.add_argument("--document_rounds", type=int, default=3, help="the same for documents")
    parser.add_argument("--only", help="comma-separated forms; default: all")
    args = parser.parse_args()
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
    texts = read_texts(args.corpus)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {megabytes:.1f} MB of text")
    chosen = args.only.split(",") if args.only else FORMS
    with tempfile.TemporaryDirectory() as folder:
        plain = write(Path(folder), ".jsonl", texts)
        print_load()
        print(f"{'form':24}{'file MB':>9}{'records':>18}{'ratio':>7}{'documents':>20}{'ratio':>7}")
        for form in chosen:
            data = write(Path(folder), form, texts)
            rounds = {read_records: args.rounds, read_documents: args.document_rounds}
            print_rates(form, plain, data, megabytes, rounds)
        print_load()


def print_load():
    print(f"load average {os.getloadavg()[0]:.2f}")


def read_texts(path):
    with gzip.open(path) as file:
        return [json.loads(line)["text"] for line in file]


def print_rates(form, plain, data, megabytes, rounds):
    """One line: MB/s of the form and of .jsonl at their fastest, and the median of the ratios."""
    cells = []
    read_records(data)  # imports, and the file into memory
    for measure, turns_of_each in rounds.items():
        seconds = {"plain": [], "form": []}
        for number in range(turns_of_each):
            turns = [("plain", plain), ("form", data)]
            for name, corpus in turns if number % 2 else turns[::-1]:
                seconds[name].append(measure(corpus))
        ratio = statistics.median(
            p / f for p, f in zip(seconds["plain"], seconds["form"], strict=True)
        )
        best = {name: megabytes / min(found) for name, found in seconds.items()}
        cells.append(f"{best['form']:8.1f} ({best['plain']:.1f})".rjust(18) + f"{ratio:7.2f}")
    print(f"{form:24}{sources.size(data) / 1e6:9.1f}{cells[0]}{cells[1]:>27}", flush=True)


def read_records(data):
    started = time.process_time()
    for _ in sources.chunks(data):
        pass
    return time.process_time() - started


def read_documents(data):
    started = time.process_time()
    for record in (record for chunk in sources.chunks(data) for record in chunk.records):
        text = documents.read_text(record, data.text_field) or ""
        for paragraph in documents.paragraphs(text, record.form):
            if record.form != "sentences":
                documents.segment(paragraph, data.language)
    return time.process_time() - started


# The forms: each writes the texts, and says what reads them.


def write(folder, form, texts):
    """Writes the texts in a form; returns the config that reads it."""
    files, fields = FORMS[form](folder, texts)
    return Data(files=str(files), **fields)


def lines(name, to_line, compress, folder, texts):
    """A file of a line, an article or a book a document."""
    content = "".join(to_line(number, text) for number, text in enumerate(texts)).encode()
    (folder / name).write_bytes(compress(content))
    return folder / name, {}


def as_json(number, text):
    return json.dumps({"text": text}) + "\n"


def as_cc100(number, text):
    return "\n".join(line for line in text.split("\n") if line.strip()) + "\n\n"


def as_book(number, text):
    """A sentence a line, no document ends."""
    found = [s for p in documents.paragraphs(text, "prose") for s in documents.segment(p, "en")]
    return "\n".join(found) + "\n"


def escaped(write):
    return lambda number, text: write(number, f"Title {number}", html.escape(text, quote=False))


def saved_dataset(folder, texts):
    return corpus_files.saved_dataset(folder / "saved", {"text": texts}), {}


def nested_parquet(folder, texts):
    return corpus_files.nested_parquet(folder / "b.parquet", texts), {"text_field": "doc.text"}


def plain_parquet(folder, texts):
    parquet.write_table(pyarrow.table({"text": texts}), folder / "a.parquet")
    return folder / "a.parquet", {}


article = escaped(corpus_files.article)
FORMS = {
    name: functools.partial(lines, file, to_line, compress)
    for name, file, to_line, compress in (
        (".jsonl", "a.jsonl", as_json, bytes),
        *(
            (f".jsonl{ending}", f"a.jsonl{ending}", as_json, compress)
            for ending, compress in corpus_files.COMPRESSIONS.items()
            if ending
        ),
        ("WikiExtractor", "wiki_00", article, bytes),
        ("WikiExtractor .bz2", "wiki_00.bz2", article, bz2.compress),
        ("WikiExtractor --json", "wiki_01", escaped(corpus_files.article_json), bytes),
        ("BooksCorpus .txt", "books_large_p1.txt", as_book, bytes),
        ("CC-100 .txt.xz", "en.txt.xz", as_cc100, corpus_files.COMPRESSIONS[".xz"]),
        ("C4 .json.gz", "c4.json.gz", corpus_files.c4, gzip.compress),
        ("OSCAR .jsonl.zst", "oscar.jsonl.zst", corpus_files.oscar, corpus_files.zstd),
    )
} | {
    "save_to_disk": saved_dataset,
    "Parquet": plain_parquet,
    "Parquet, nested": nested_parquet,
}


if __name__ == "__main__":
    main()
