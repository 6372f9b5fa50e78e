"""Corpora in the forms that people have, as the tools write them."""

import bz2
import gzip
import json
import lzma

import pyarrow
from pyarrow import parquet


def zstd(content):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


COMPRESSIONS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lambda content: lzma.compress(content, preset=0),
    ".zst": zstd,
}


def article(number, title, text):
    """As WikiExtractor 3.1 writes it, title and text already escaped."""
    url = f"https://en.wikipedia.org/wiki?curid={number}"
    return f'<doc id="{number}" url="{url}" title="{title}">\n{title}\n\n{text}\n\n</doc>\n'


def article_json(number, title, text):
    """As `WikiExtractor --json`, version 3.1."""
    url = f"https://en.wikipedia.org/wiki?curid={number}"
    record = {"id": str(number), "revid": "1", "url": url, "title": title, "text": text}
    return json.dumps(record) + "\n"


def c4(number, text):
    """A line of C4's c4-train.00000-of-01024.json.gz."""
    stamp = f"2019-04-25T12:57:{number % 60:02d}Z"
    return json.dumps({"text": text, "timestamp": stamp, "url": f"https://x.org/{number}"}) + "\n"


def oscar(number, text):
    """A line of OSCAR 22.01, 23.01 or Colossal OSCAR: en_meta_part_1.jsonl.zst."""
    headers = {"warc-target-uri": f"https://x.org/{number}", "warc-type": "conversion"}
    identified = {"label": "en", "prob": 0.9}
    notes = {"identification": identified, "annotation": None, "sentence_identifications": []}
    line = {"content": text, "warc_headers": headers, "metadata": notes}
    return json.dumps(line, ensure_ascii=False) + "\n"


def datatrove(number, text):
    """A line of datatrove's JsonlWriter."""
    record = {"text": text, "id": f"d/{number}", "metadata": {"url": f"https://x.org/{number}"}}
    return json.dumps(record) + "\n"


def lines_of(form):
    """A function of texts (each one or more lines, no line empty) to the content of a file."""
    by_record = {"c4": c4, "oscar": oscar, "datatrove": datatrove}
    if form in by_record:
        return lambda texts: "".join(map(by_record[form], range(len(texts)), texts)).encode()
    if form.startswith("wiki"):
        write = article if form == "wiki" else article_json
        return lambda texts: "".join(
            write(number, f"Title {number}", text) for number, text in enumerate(texts)
        ).encode()
    return lambda texts: "\n".join(text + "\n" for text in texts).encode()  # CC-100


NAMES = {  # as each tool calls its first file, without the ending of a compression
    "wiki": "AA/wiki_00",
    "wiki_json": "AB/wiki_00",
    "c4": "c4-train.00000-of-01024.json",
    "oscar": "en_meta_part_1.jsonl",
    "datatrove": "00000.jsonl",
    "cc100": "en.txt",
}


def saved_dataset(folder, columns, shards=1):
    """As `datasets.Dataset.from_dict(columns).save_to_disk(folder, num_shards=shards)`."""
    folder.mkdir(parents=True)
    table = pyarrow.table(columns)
    names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    rows = -(-len(table) // shards)
    for number, name in enumerate(names):
        part = table.slice(number * rows, rows)
        with pyarrow.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(part, max_chunksize=1000)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}, indent=2))
    return folder


def nested_parquet(path, texts):
    """A table whose text lies in a struct: `doc.text`."""
    rows = pyarrow.array([{"text": text, "lang": "en"} for text in texts])
    parquet.write_table(pyarrow.table({"id": list(range(len(texts))), "doc": rows}), path)
    return path
