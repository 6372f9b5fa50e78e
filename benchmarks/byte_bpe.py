"""Byte-level BPE: the cost of learning a vocabulary, its fit, and the speed of encoding.

A vocabulary is learned from 99 documents in 100 (with `--learned`, an earlier vocabulary is
opened). On the other documents it is compared with GPT-2's published vocabulary, in bytes per
token. Then `ByteBPE.encode_flat` and the `tokenizers` library's own batch encoding read the start
of the corpus, document by document, in turns on one core. Times are processor seconds.

    python -m benchmarks.byte_bpe --corpus=medium.jsonl.gz --published=gpt2_bpe --save=DIR
"""

import argparse
import gzip
import json
import os
import resource
import statistics
import time
from pathlib import Path

from bertjax.config import Tokenizer
from bertjax.data import tokenizer, train_tokenizer
from bertjax.data.documents import paragraphs, segment

HELD_OUT = 100  # one document in so many
SLICE_BYTES = 5_000_000


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", required=True, help=".jsonl.gz with a text field")
    parser.add_argument("--published", required=True, help="encoder.json, vocab.bpe and dict.txt")
    parser.add_argument("--vocab_size", type=int, default=50265)
    parser.add_argument("--slices", type=int, default=10, help="5 MB each, for the encoding rate")
    parser.add_argument("--learned", help="a tokenizer.json learned before")
    parser.add_argument("--save", help="directory to keep the learned vocabulary in")
    args = parser.parse_args()
    print_load()
    learned = tokenizer.load(args.learned) if args.learned else learn(args)
    published = tokenizer.load(args.published)
    compare_fit(args.corpus, {"learned": learned, "published": published})
    print_load()
    compare_rates(args, published)
    print_load()


def print_load():
    print(f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.2f}")


def documents(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def learn(args):
    texts = (
        paragraph
        for i, text in enumerate(documents(args.corpus))
        if i % HELD_OUT
        for paragraph in paragraphs(text, "json")
    )
    started, processor = time.perf_counter(), time.process_time()
    group = Tokenizer(kind="byte_bpe", vocab_size=args.vocab_size)
    model = train_tokenizer.train(group, texts)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"learned {model.vocab_size:,} tokens, sha256 {model.sha256[:12]}: {seconds:.0f} s "
        f"({processor:.0f} s of processor), peak memory {peak:.0f} MB"
    )
    if args.save:
        print(f"kept in {model.save(Path(args.save))}")
    return model


def compare_fit(corpus, models):
    texts = [text for i, text in enumerate(documents(corpus)) if i % HELD_OUT == 0]
    size = sum(len(text.encode()) for text in texts)
    words = sum(len(text.split()) for text in texts)
    print(f"held-out text: {len(texts):,} documents, {size / 1e6:.2f} MB, {words:,} words")
    print(f"{'vocabulary':12}{'tokens':>12}{'bytes a token':>16}{'tokens a word':>16}")
    for name, model in models.items():
        tokens = model.encode_flat(texts)[1].sum()
        print(f"{name:12}{tokens:12,}{size / tokens:16.3f}{tokens / words:16.3f}")


def compare_rates(args, model):
    """Compares rates. The cache of words starts empty; the last slices show a long run's rate."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core, as in a worker of `prepare`
    library = model._backend
    pairs = []
    for slice_ in slices(args.corpus, args.slices):
        size = sum(len(s.encode()) for sentences in slice_ for s in sentences) / 1e6
        started = time.process_time()
        ours = [model.encode_flat(sentences)[0] for sentences in slice_]
        turn = time.process_time()
        theirs = [library.encode_batch_fast(s, add_special_tokens=False) for s in slice_]
        theirs = [[i for e in batch for i in e.ids] for batch in theirs]
        ended = time.process_time()
        assert [ids.tolist() for ids in ours] == theirs
        pairs.append((size / (turn - started), size / (ended - turn)))
        print(f"encode_flat {pairs[-1][0]:.2f} MB/s, library {pairs[-1][1]:.2f} MB/s")
    ratios = [a / b for a, b in pairs]
    print(f"ratio: first {ratios[0]:.2f}, median {statistics.median(ratios):.2f}")


def slices(corpus, count):
    """Yields `count` lists of documents, each a list of sentences as a store has them."""
    part, held = [], 0
    for text in documents(corpus):
        sentences = [s for p in paragraphs(text, "json") for s in segment(p, "en")]
        part.append(sentences[:1] + [" " + s for s in sentences[1:]])
        held += len(text)
        if held >= SLICE_BYTES:
            yield part
            part, held, count = [], 0, count - 1
        if not count:
            return


if __name__ == "__main__":
    main()
