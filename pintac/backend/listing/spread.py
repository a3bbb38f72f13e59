"""Buffers in the memory that has been free longest.

Where two buffers share memory, what fills the second waits for the last use of the first. First-fit allocation reuses
the lowest addresses at once; with the same memory, a transfer or an operation can begin earlier when its buffer lies
where nothing has been for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Place:
    """Memory from `start` to `end` (bytes), in use from the listing position `first` to `last`."""

    start: int
    end: int
    first: int
    last: int


def spread(places: Sequence[Place], movable: Sequence[int], capacity: int) -> list[int]:
    """The first byte of every place, those of the numbers `movable` moved to where they wait least.

    Places whose uses overlap stay apart. Moved one after the other, in the order of their first use.
    """
    start, end, first, last = (
        np.array([getattr(p, name) for p in places], np.int64) for name in ("start", "end", "first", "last")
    )
    for i in sorted(movable, key=lambda i: places[i].first):
        size = end[i] - start[i]
        together = (first <= last[i]) & (last >= first[i])
        together[i] = False
        before = last < first[i]
        begins = np.unique(np.concatenate([[start[i], 0, capacity - size], end, start - size]))
        begins = begins[(begins >= 0) & (begins + size <= capacity)]
        in_the_way = np.searchsorted(np.sort(start[together]), begins + size, "left")
        in_the_way -= np.searchsorted(np.sort(end[together]), begins, "right")
        begins = begins[in_the_way == 0]
        touches = (start[before] < begins[:, None] + size) & (end[before] > begins[:, None])
        free_since = np.where(touches, last[before], -1).max(axis=1, initial=-1)
        now = free_since[np.searchsorted(begins, start[i])]
        best = int(np.argmin(free_since))
        if free_since[best] < now:
            start[i], end[i] = begins[best], begins[best] + size
    return [int(s) for s in start]
