"""Weights in DRAM as strips of columns, one behind the other.

Row by row, a strip of a few columns would be as many runs of bytes as there are rows of blocks, each of whose exponents
are rounded up to a burst. As a strip it is one run; some rows of all columns are a run a strip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pintac.backend.tiles.tile import Buffer, View
from pintac.backend.tiles.views import narrow


@dataclass(frozen=True)
class Strips:
    """An SMX matrix [rows, columns] in strips of `width` columns, a multiple of 4; the last one may be narrower."""

    buffer: Buffer
    rows: int
    columns: int
    width: int

    def of_columns(self, start: int, columns: int) -> Iterator[tuple[int, View]]:
        """(first column, counted from `start`, and view) of the parts of some columns, one for each strip with any."""
        at = start
        while at < start + columns:
            first = at // self.width * self.width
            own = min(self.width, self.columns - first)
            part = min(first + own, start + columns) - at
            yield at - start, narrow(self._strip(first, 1, own), 2, at - first, part)
            at += part

    def of_all_columns(self) -> Iterator[tuple[int, View]]:
        """(first column, view [strips, rows, width]) of the whole strips, and of what is left."""
        whole = self.columns // self.width
        if whole:
            yield 0, self._strip(0, whole, self.width)
        if self.columns % self.width:
            yield whole * self.width, self._strip(whole * self.width, 1, self.columns % self.width)

    def _strip(self, first: int, count: int, width: int) -> View:
        """`count` strips from column `first` on."""
        rows, wide = -(-self.rows // 4), -(-width // 4)
        return View(self.buffer, (count, self.rows, width), (rows * wide, wide, 1), rows * (first // 4))


def in_strips(view: View, first: int, like: View) -> View:
    """The columns of a row-major matrix from `first` on, cut as the strips of `like` are."""
    count, _, width = like.shape
    cut = narrow(view, 1, first, count * width)
    hi, one = cut.strides
    return replace(cut, shape=(count, cut.shape[0], width), strides=(width // 4 if count > 1 else 0, hi, one))
