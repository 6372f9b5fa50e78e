"""A process that keeps its heap gets freed memory back without a page fault."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, numpy as np
from bertjax.processes import heap
{setting}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill():
    started = faults()
    np.empty(100_000_000, np.uint8)[::4096] = 1
    return faults() - started
fill()
print(fill())
"""


def second_fill(setting):
    command = [sys.executable, "-c", PROGRAM.format(setting=setting)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_comes_back_without_page_faults():
    assert second_fill("heap.keep()") < 100
    assert second_fill("") > 40  # huge pages: 100 MB are 48 of them, else 24,414 pages
