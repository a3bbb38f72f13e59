"""An order that takes little memory: what list schedules keep near to where memory is short."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from pintac.backend.tiles.dependencies import buffers_of
from pintac.backend.tiles.tile import Buffer, TileOp
from pintac.isa import Queue, Space


def plain_order(
    ops: Sequence[TileOp],
    before: list[set[int]],
    after: list[set[int]],
    tiles: Sequence[tuple[int, int]],
    placed: Collection[Buffer],
) -> np.ndarray:
    """An order that takes little memory: tile after tile; what can be read is, before anything else is begun.

    Loads and results in PSUM come right before they are needed. Memory is short in the buffers `placed`.
    """
    grows = [any(v.buffer in placed for v in op.writes()) for op in ops]
    late = [op.queue == Queue.LOAD or any(v.buffer.space == Space.PSUM for v in op.writes()) for op in ops]
    missing = [len(found) for found in before]
    done: dict[int, None] = {}

    def add(i: int) -> list[int]:
        """The operation and what it still needs; what can go on then."""
        stack, ready = [i], []
        while stack:
            needed = [j for j in sorted(before[stack[-1]], reverse=True) if j not in done]
            if needed:
                stack += needed
                continue
            at = stack.pop()
            if at in done:
                continue
            done[at] = None
            for j in sorted(after[at]):
                missing[j] -= 1
                if not missing[j] and not late[j]:
                    ready.append(j)
        return ready

    readers: dict[Buffer, list[int]] = defaultdict(list)
    for i, op in enumerate(ops):
        for buffer in dict.fromkeys(v.buffer for v in op.reads() if v.buffer.space == Space.PSUM):
            readers[buffer].append(i)
    begin = {tile: i for i, tile in reversed(list(enumerate(tiles)))}
    for i in sorted(range(len(ops)), key=lambda i: (late[i], begin[tiles[i]] if tiles else 0)):
        waiting = [i]
        while waiting:
            at = waiting.pop()
            if at in done:
                continue
            again = [r for b in buffers_of(ops[at]) if not late[at] for r in readers.get(b, ()) if r != at]
            waiting += again[::-1]
            ready = add(at)
            ready.reverse()
            waiting += sorted(ready, key=lambda j: not grows[j])
    return np.array(list(done), np.int64)
