"""How does a server that answers in blocks of megabytes keep none of them? Freed memory goes back to the system.

By default glibc keeps one arena a thread and raises its thresholds with what it has seen: with a million points the
server keeps ten times what it needs. Changed in this process only, so that jobs started from it are left alone.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Names of glibc's settings, from malloc.h."""
MEGABYTE = 1_000_000


def give_back_what_is_freed() -> bool:
    """Set the C library's allocator of this process; False where it has no such settings (macOS, musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {M_ARENA_MAX: 2, M_TRIM_THRESHOLD: MEGABYTE, M_MMAP_THRESHOLD: MEGABYTE}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
