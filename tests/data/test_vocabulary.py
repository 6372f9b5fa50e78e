"""Files too large for any vocabulary are refused within 2 s of processor time and 500 MB."""

import subprocess
import sys
from pathlib import Path

import pytest
from limits import CPU_SECONDS, PEAK_BYTES

from bertjax.data import byte_bpe, tokenizer, vocabulary
from bertjax.errors import DataError, UsageError

# A forked child's peak counts its parent's memory, so it reads its own.
CHILD = """
import sys, time
from bertjax.data import tokenizer
from bertjax.errors import DataError, UsageError
try: tokenizer.load(sys.argv[1])
except DataError as error: print(error)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.process_time(), int(peak.split()[1]) * 1024)
"""
LARGE = 63 << 20
VALUES, PIECES = vocabulary.MAX_JSON_VALUES, vocabulary.MAX_PIECES


def listed(item, count):
    return "[" + ",".join([item] * count) + "]"


def check_refused(path, message):
    command = [sys.executable, "-c", CHILD, str(path)]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    said, figures = result.stdout.splitlines()
    assert message in said
    assert str(path) in said
    seconds, peak = figures.split()
    assert float(seconds) < CPU_SECONDS
    assert int(peak) < PEAK_BYTES


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("tokenizer.json", listed("[]", LARGE // 3), "bytes; no vocabulary has over"),
        ("vocab.json", listed("[]", LARGE // 3), "bytes; no vocabulary has over"),
        ("tokenizer.json", listed("[]", vocabulary.MAX_BYTES // 3 - 1), "values; no vocabulary"),
        ("tokenizer.json", listed('{"":0}', VALUES), "values; no vocabulary"),
        ("tokenizer.json", listed("[]", VALUES - 1), "not a tokenizer.json"),
        ("tokenizer.json", listed("[[[[]]]]", VALUES // 4 - 1), "not a tokenizer.json"),
        ("tokenizer.json", listed('{"":[]}', VALUES // 3 - 1), "not a tokenizer.json"),
        ("tokenizer.json", listed("999", vocabulary.MAX_BYTES // 4 - 1), "not a tokenizer.json"),
        ("vocab.txt", "\n" * LARGE, "bytes; no vocabulary has over"),
        ("vocab.txt", "\n" * (PIECES + 1), "lines; no vocabulary"),
        ("vocab.txt", "\n" * vocabulary.MAX_BYTES, "no vocabulary has over"),
        ("x.model", "\n\x03\n\x01a" * (vocabulary.MAX_BYTES // 5), "no vocabulary has over"),
        ("x.model", "\n\x03\n\x01a" * PIECES, "not a SentencePiece model"),
    ],
    ids=lambda value: value if len(value) < 40 else "",
)
def test_far_too_much(tmp_path, name, contents, message):
    (tmp_path / name).write_text(contents)
    if name == "vocab.json":
        (tmp_path / "merges.txt").write_text("")
    check_refused(tmp_path / name, message)


def test_pieces_are_counted(tmp_path):
    pieces = {str(i): i for i in range(PIECES + 1)}
    with pytest.raises(DataError, match=r"x: 524,289 pieces; no vocabulary has over 524,288"):
        vocabulary.in_order(pieces, "x")
    del pieces[str(PIECES)]
    assert len(vocabulary.in_order(pieces, "x")) == PIECES


def test_a_piece_that_no_line_holds_is_refused():
    assert vocabulary.as_lines(["a", "b\u2028c"]) == "a\nb\u2028c\n"
    for piece in ("a\nb", "a\r"):
        with pytest.raises(UsageError, match=r"vocab\.txt: the piece .* does not fit on one line"):
            vocabulary.as_lines(["a", piece])


def test_the_largest_published_vocabulary_fits(tmp_path):
    """LaBSE's size, in its published form and as bertjax saves it."""
    specials = list(tokenizer.WORDPIECE_SPECIALS)
    pieces = [*specials, *(f"{i:010d}" for i in range(501_153 - len(specials)))]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    saved = tokenizer.load(tmp_path / "vocab.txt").save(tmp_path)
    assert tokenizer.load(saved).vocab_size == 501_153


def test_a_large_byte_level_bpe_fits(tmp_path):
    """Three times the size of RoBERTa's, with merges as pairs."""
    letters = [chr(0x4E00 + i) for i in range(387)]
    merges = [(a, b) for a in letters for b in letters]
    pieces = [*byte_bpe.SPECIALS, *letters, *(a + b for a, b in merges)]
    saved = byte_bpe.ByteBPE(pieces, merges).save(tmp_path)
    assert tokenizer.load(saved).vocab_size == len(pieces) > 150_000
