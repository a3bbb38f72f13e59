"""Rows of a tile, tiles of a loop body, points of an iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pintac.backend.grouping.axes import UNROLLED_PAIRS, RowAxis
from pintac.backend.grouping.kinds import CONTRACTIONS, root
from pintac.backend.grouping.units import Sweep, Unit, Units

POINT_TILES = 2
"""Tiles interleaved in a loop over points alone, or over rows of parameters."""
LIGHT = 2048
"""Elements of a tile of a sweep without matrix products, near enough."""
LIGHT_ROWS = 1024
"""Most rows of such a tile."""


@dataclass(frozen=True)
class Tiling:
    """Rows of a tile, and tiles interleaved in a loop body."""

    rows: int = 32
    interleave: int = 4
    window: int = 4
    """Tiles of a loop body under way at a time."""
    point_rows: int = 32
    """Rows of a tile in loops over points alone."""
    halved: tuple[str, ...] = ()
    """Units over points alone and over parameters, once for each time that their tiles are half as large or as many."""
    split_results: bool = True
    """Whether a matmul that mostly writes results is an instruction a pass: worth it where the tensor unit is short."""
    gradient_tiles: int = 1
    """Tiles whose rows a weight gradient takes at once: worth it where its results take longer than its products."""
    parts: int = 2
    """Parts of matmul results that PSUM holds, for each that a kernel reads."""
    tight: bool = False
    """Whether a loop body may have so little memory that its tiles hardly overlap; nothing is loaded early then."""
    unrolled: int = UNROLLED_PAIRS
    """Pairs that loops over points take whole."""
    pipelined: bool = True
    """Whether stages of different points share a loop (`stages`)."""
    per_sign: bool = True
    """Whether work on pairs may be done for each sign (`per_sign`): worth it where the vector unit has time."""
    streamed: bool = False
    """Whether weights that SRAM has no room for are read strip by strip (`streamed`)."""
    longer: bool = True
    """Whether loop bodies may be made of twice the tiles (`repeat`)."""


def tile_of(tiling: Tiling, units: Units, unit: Unit, sweep: Sweep, axis: RowAxis) -> Tiling:
    """Rows of a tile along `axis`: fewer where a value has several rows (a factor axis) for each of them."""
    factor, width = _extents(units, unit, sweep, axis)
    light = max(4, min(LIGHT_ROWS, LIGHT // width // 4 * 4))
    if unit.kind in ("points", "parameter"):
        rows = light if unit.kind == "parameter" else tiling.point_rows // factor // 4 * 4
        tiles = POINT_TILES
        for _ in range(tiling.halved.count(unit.name)):  # fewer rows first where SRAM was short
            rows, tiles = (rows // 2, tiles) if rows > 4 else (rows, max(1, tiles // 2))
        return Tiling(max(4, -(-rows // 4) * 4), tiles)
    rows = max(4, tiling.rows // factor // 4 * 4)
    if not any(node.op in CONTRACTIONS for node in sweep.nodes):
        return Tiling(max(rows, light), 1)  # no room in PSUM is needed
    return Tiling(rows, tiling.interleave)


def _extents(units: Units, unit: Unit, sweep: Sweep, axis: RowAxis) -> tuple[int, int]:
    """Most rows, and most elements, that a value of the sweep has for each row of `axis`."""
    factor = width = 1
    for node in sweep.nodes:
        for value in (node, *node.operands, *map(root, node.operands)):
            tags = units.tags(value, unit)
            if axis in tags:
                at = tags.index(axis)
                rest = value.type.shape[at + 1 :]
                rows = math.prod(rest[:-1]) * units.rows_each(value, unit)[at]
                factor = max(factor, rows)
                width = max(width, rows * (rest[-1] if rest else 1))
    return factor, width


def widest(units: Units) -> int:
    """Most elements that a value has for each evaluation."""
    return max((_extents(units, u, s, s.axes[-1])[1] for u in units.units for s in u.sweeps if s.axes), default=0)


def points_together(tiling: Tiling, units: Units, unit: Unit) -> int:
    """Points of an iteration of a loop over points with evaluations: several where all of a point are few tiles."""
    if unit.kind != "evaluations" or unit.axis is None:
        return 1
    tiles = 1
    for sweep in unit.nests:
        rows = tile_of(tiling, units, unit, sweep, sweep.axes[-1]).rows
        tiles = max(tiles, math.prod(a.size for a in sweep.axes[:-1]) * -(-sweep.axes[-1].size // rows))
    return max(1, min(tiling.interleave // tiles, unit.axis.size))
