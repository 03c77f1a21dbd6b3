"""Bounds on the memory of a store's process besides the bytes in flight: gaps, and decoded JSON.

Without settings, glibc keeps freed memory for later. After the first large body is freed, it takes
later bodies from the same areas as small objects, where one small object keeps the memory around
it; and it has one such area for almost every thread. A store under attack held 110 MiB in objects
and 290 MiB in gaps between them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator, Mapping

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_... of glibc's malloc.h

SEPARATE_BYTES = 512 << 10
"""Larger pieces get pages of their own, which the system has back as soon as they are freed. A
read from a socket takes 256 KiB, so it does not pay for new pages each time."""
KEPT_BYTES = 8 << 20
"""Free memory at the end of the main area that is kept for the next requests."""
AREAS = 2
"""Areas of all threads together; the interpreter's lock lets few threads allocate at once."""

LARGE_JSON_BYTES = 256 << 10
"""JSON texts of more bytes are decoded one at a time."""

_SETTINGS = {_MMAP_THRESHOLD: SEPARATE_BYTES, _TRIM_THRESHOLD: KEPT_BYTES, _ARENA_MAX: AREAS}


def return_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Make the allocator return freed memory to the system; call it before threads start.

    Returns:
        Whether the settings were made. They are not if the environment has settings of glibc's
        allocator, which then count, or if the C library is another one.
    """
    own = [name for name in environment if name.startswith("MALLOC_")]
    if own or "glibc.malloc" in environment.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(name, value) == 1 for name, value in _SETTINGS.items()])


_large = threading.RLock()


@contextlib.contextmanager
def decoding(size_bytes: int) -> Iterator[None]:
    """Hold the objects of a decoded JSON text while the block runs.

    Objects take up to 25 times the size of their text: `[],` has three bytes, and an empty list 72.
    If the text is large, all other threads with a large text wait. A thread may enter twice.
    """
    if size_bytes <= LARGE_JSON_BYTES:
        yield
        return
    with _large:
        yield
