"""Buffers that machine code reads and writes."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np

ALIGNMENT = 64
GUARD = 256  # bytes behind each buffer that an engine may read (never use, never write)
HUGE_PAGE = 2 << 20
SMALLEST_HUGE = 128 << 10  # smaller buffers come from the heap


def aligned_bytes(size: int, fill: int) -> np.ndarray:
    """uint8 [size rounded up to 64], 64-byte aligned, with `GUARD` readable bytes behind it.

    Large buffers ask for huge pages: a tile's rows are a page apart as often as not, and the address translations of a
    program's whole memory then fit the processor's tables. What is zero and never touched takes no memory of the host.
    """
    padded = -(-size // ALIGNMENT) * ALIGNMENT
    needed = padded + ALIGNMENT + GUARD
    if size >= SMALLEST_HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        pages = mmap.mmap(-1, -(-needed // HUGE_PAGE) * HUGE_PAGE + HUGE_PAGE)
        raw = np.frombuffer(pages, np.uint8)  # keeps the mapping alive
        start = -raw.ctypes.data % HUGE_PAGE
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    else:
        raw = np.zeros(needed, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
    if fill:
        raw[start : start + padded + GUARD] = fill
    return raw[start : start + padded]
