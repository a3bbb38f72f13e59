"""Weights that stream: read from DRAM in strips of columns for every tile, where SRAM cannot hold those of a network.

A product needs all of a weight, but a strip of its columns makes a strip of the result. A strip costs its bytes and is
worth the rows that it is multiplied with, so tiles have more rows than usual where weights stream: with 64, reading an
INT8 weight takes the bus of the default machine two thirds of the time that the product takes.
"""

from __future__ import annotations

from dataclasses import replace

from pintac.backend.bodies.tiling import Tiling
from pintac.backend.grouping.axes import Axes
from pintac.backend.grouping.kinds import root
from pintac.backend.grouping.units import storage_bytes
from pintac.ir import Graph, Node

STRIP = 24
"""A strip has this part of SRAM, near enough: a tile keeps several, so that they are there in time."""
LEAST = 48
"""Weights of less than this part of SRAM do not stream."""
ROWS = 64
"""Rows of a tile."""
TILES = 2
"""Tiles of a loop body, at most."""


def weights(graph: Graph, axes: Axes, sram_bytes: int) -> frozenset[Node]:
    """The quantised values without rows that products have on their right, of those that are worth streaming."""
    rights = {root(node.operands[1]) for node in graph.nodes if node.op == "matmul"}
    large = (n for n in rights if n.op == "quantize" and storage_bytes(n) >= sram_bytes // LEAST)
    return frozenset(n for n in large if not any(axes.tags(n)))


def tiling_for(tiling: Tiling) -> Tiling:
    """The same with tiles of as many rows as make strips worth reading."""
    rows = max(ROWS, tiling.rows)
    point_rows = max(ROWS, tiling.point_rows)
    tiles = min(TILES, tiling.interleave)
    return replace(tiling, rows=rows, interleave=tiles, window=tiles, point_rows=point_rows, streamed=True)


def strip_columns(depth: int, bits: int, sram_bytes: int) -> int:
    """Columns of a strip of a weight of `depth` rows: whole blocks."""
    return max(1, round(sram_bytes / STRIP / (depth * (bits / 8 + 1 / 16)) / 4)) * 4
