"""What tile operations have to wait for: those before them that touch the same elements."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import reduce
from operator import or_

from pintac.backend.tiles.tile import Buffer, TileOp, View
from pintac.isa import Space


def buffers_of(op: TileOp) -> list[Buffer]:
    """The buffers that an operation touches."""
    return list(dict.fromkeys(v.buffer for v in (*op.reads(), *op.writes())))


def span(view: View) -> tuple[int, int]:
    """First and last element (or block) of a view, at equal loop indices."""
    last = view.offset
    for axis, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        in_blocks = view.bits and axis >= len(view.shape) - 2
        last += ((math.ceil(size / 4) if in_blocks else size) - 1) * stride
    return view.offset, last


def dependencies(ops: Sequence[TileOp]) -> tuple[list[set[int]], list[set[int]], list[set[int]]]:
    """For each operation those it must follow, those that must follow it, and those of the iteration before.

    Views of one buffer depend on each other where they overlap, or where loops move them differently, and one is
    written. Across iterations only what no loop and no ring moves does.
    """
    before: list[set[int]] = [set() for _ in ops]
    after: list[set[int]] = [set() for _ in ops]
    again: list[set[int]] = [set() for _ in ops]
    touched: dict[Buffer, list[tuple[int, View, int, int, bool]]] = defaultdict(list)
    accesses = [
        [*((v, *span(v), False) for v in op.reads()), *((v, *span(v), True) for v in op.writes())] for op in ops
    ]
    for i, found in enumerate(accesses):
        for view, low, high, write in found:
            for j, other, l2, h2, w2 in touched[view.buffer]:
                apart = view.steps == other.steps and (low > h2 or l2 > high)
                if j != i and (write or w2) and not apart:
                    before[i].add(j)
                    after[j].add(i)
        for view, low, high, write in found:
            touched[view.buffer].append((i, view, low, high, write))
    for i, found in enumerate(accesses):
        for view, low, high, write in found:
            if view.steps or view.buffer.ring > 1 or view.buffer.space == Space.PSUM:
                continue
            for j, _, l2, h2, w2 in touched[view.buffer]:
                if j >= i and (write or w2) and low <= h2 and l2 <= high:
                    again[i].add(j)
    return _reduced(before, after, again)


def reach(before: Sequence[set[int]]) -> list[int]:
    """For each operation all that it follows, as bits."""
    reached: list[int] = []
    for found in before:
        bits = 0
        for j in found:
            bits |= reached[j] | 1 << j
        reached.append(bits)
    return reached


def _reduced(
    before: list[set[int]], after: list[set[int]], again: list[set[int]]
) -> tuple[list[set[int]], list[set[int]], list[set[int]]]:
    """The same order by fewer dependencies: without those that others imply."""
    reached = reach(before)

    def needed(found: set[int]) -> set[int]:
        implied = reduce(or_, (reached[j] for j in found), 0)
        return {j for j in found if not implied >> j & 1}

    for i, found in enumerate(before):
        kept = needed(found)
        for j in found - kept:
            after[j].discard(i)
        before[i] = kept
    return before, after, [needed(found) for found in again]
