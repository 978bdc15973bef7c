"""Keeps freed memory in the process, where the C library would hand every large block back to the system and fetch it anew.

Each training step allocates and frees the same large activations. With glibc's defaults every one of those is an mmap, whose pages the kernel
clears one fault at a time: half of the time of a CPU run went there (a 20-way ProtoNet step took 168 ms with, 111 ms without; evaluation
7.8 s and 3.1 s).
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_LARGEST = 2**31 - 1  # bytes; mallopt takes a C int
_TOP_PAD = 64 * 2**20  # bytes by which the heap grows at a time


def keep_freed_memory() -> bool:
    """Whether this could be done: it needs glibc, elsewhere nothing changes."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _LARGEST), (_M_TOP_PAD, _TOP_PAD))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
