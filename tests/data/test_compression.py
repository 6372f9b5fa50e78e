"""Compressed bytes come back whole, or one line says where the file is damaged."""

import io
import random
import re
import tracemalloc

import pytest
from corpus_files import COMPRESSIONS

from bertjax.data import compression
from bertjax.errors import DataError

KINDS = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst"}
RNG = random.Random(0)
PARTS = [
    b"".join(b"%d is here.\n" % RNG.randrange(10**9) for _ in range(lines))
    for lines in (4000, 0, 20_000, 100)
]


def read(content, most=-1):
    file = compression.decompressed(io.BytesIO(content), "a.gz")
    found = b""
    while some := file.read(most):
        found += some
    assert file.tell() == len(found)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_members_one_after_the_other(kind):
    members = [COMPRESSIONS[KINDS[kind]](part) for part in PARTS]
    assert compression.kind_of(members[0]) == kind
    for most in (-1, 7777, 1 << 20):
        assert read(b"".join(members), most) == b"".join(PARTS)
    if kind != "zstd":  # dd and tape pad with zeros
        assert read(members[0] + bytes(70_000) + members[2] + bytes(3)) == PARTS[0] + PARTS[2]


def test_plain_bytes_are_left_alone():
    for plain in (b"", b"B", b"BZh9 is no bzip2", b"PK", b"\x1f", b"P*M"):
        assert compression.kind_of(plain) is None
        assert read(plain) == plain


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_member_is_named_with_its_offset(kind):
    members = [COMPRESSIONS[KINDS[kind]](part) for part in PARTS]
    whole, third = b"".join(members), sum(map(len, members[:2]))
    behind = len(whole)
    cases = {
        "cut": (whole[: third + 1000], third, third + 1000),
        "last byte": (whole[:-1], behind - len(members[3]), behind),
        "its start": (whole[:third] + b"?" + whole[third + 1 :], third, third + (64 << 10)),
        "inside": (whole[: third + 9000] + bytes(999) + whole[third + 9999 :], third, behind),
        "rest": (whole + b"?" * 20, behind, behind + 20),
    }
    for name, (content, start, end) in cases.items():
        with pytest.raises(DataError, match=f"^a.gz: truncated or damaged {kind}, ") as caught:
            read(content)
        said = str(caught.value).replace(",", "")
        assert start <= int(re.search(r"(?:at|before) byte (\d+)", said)[1]) <= end, name


def test_many_of_one_letter_are_read_in_bounded_memory():
    letters = 1 << 23
    for ending in KINDS.values():
        file = compression.decompressed(io.BytesIO(COMPRESSIONS[ending](b"a" * letters)), "a.txt")
        tracemalloc.start()
        found = 0
        while some := file.read(1 << 20):
            found += len(some)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found == letters
        assert peak < 6 << 20
