"""Long loop bodies: the order found for the first half of the tiles, and the same again for the other half.

At the end of a loop body all its tiles end together, and its units wait for each other; so bodies of more tiles lose
less. But the longer a body, the worse are the orders found from nothing. Twice the order of half a body is as good as
that order, and where the halves meet the second begins before the first has ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pintac.backend.tiles.tile import TileOp


def repeated(
    ops: Sequence[TileOp], first: Sequence[TileOp], tiles: Mapping[TileOp, tuple[int, int]], half: int
) -> dict[TileOp, float]:
    """When each of `ops` comes, given the order `first` of those of tiles below `half`.

    `tiles` are (stage, tile). What an operation of a later tile has no like for in the earlier one comes at the begin
    of its half.
    """
    at = {op: float(i) for i, op in enumerate(first)}
    like: dict[tuple[int, int, str], list[float]] = defaultdict(list)
    for op in ops:
        if op in at:
            stage, tile = tiles.get(op, (0, 0))
            like[stage, tile, op.name].append(at[op])
    seen: dict[tuple[int, int, str], int] = defaultdict(int)
    for op in ops:
        if op in at:
            continue
        stage, tile = tiles[op]
        key = stage, tile % half, op.name
        number, found = seen[stage, tile, op.name], like[key]
        seen[stage, tile, op.name] += 1
        at[op] = tile // half * len(first) + (found[min(number, len(found) - 1)] if found else 0)
    return at
