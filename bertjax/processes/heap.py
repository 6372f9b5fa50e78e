"""Memory that a step frees stays with the process, for the next step.

glibc returns large buffers to the kernel, and the kernel fills them with zeros when the next step asks
again. With the buffers kept, a CPU step takes a tenth less time (benchmarks/RESULTS.md, "Step time
against PyTorch").
"""

import ctypes

# mallopt's parameters (glibc's malloc.h). -1 disables trimming.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_SETTINGS = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 1 << 28, _M_ARENA_MAX: 1}


def keep() -> None:
    """From now on, this process keeps the memory that it frees; does nothing without glibc."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in _SETTINGS.items():
            mallopt(parameter, value)
