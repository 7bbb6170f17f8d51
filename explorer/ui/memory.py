"""How does a server that answers in blocks of megabytes keep none of them? Freed memory goes back to the system.

By default glibc keeps one arena a thread and raises its thresholds with what it has seen: with a million points the
server keeps ten times what it needs. Changed in this process only, so that jobs started from it are left alone.
"""

from __future__ import annotations

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Names of glibc's settings, from malloc.h."""
MEGABYTE = 1_000_000
SYSTEMS_OWN = 2**17
"""Bytes from which a block is borrowed from the system and given back at once; an influence row of 200,000 examples is one."""


def give_back_what_is_freed() -> bool:
    """Set the C library's allocator of this process; False where it has no such settings (macOS, musl)."""
    mallopt = getattr(_c_library(), "mallopt", None)
    if mallopt is None:
        return False
    settings = {M_ARENA_MAX: 2, M_TRIM_THRESHOLD: MEGABYTE, M_MMAP_THRESHOLD: SYSTEMS_OWN}
    return all(mallopt(name, value) == 1 for name, value in settings.items())


def trim() -> None:
    """Give back what is free between blocks that are in use: some milliseconds, for after answers of megabytes."""
    malloc_trim = getattr(_c_library(), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
