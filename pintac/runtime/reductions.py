"""The reducing sinks of the VPU: sums in groups of four (NUMERICS 3), maxima in increasing order."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pintac import vmath
from pintac.isa import Sink

Reduction = Callable[[np.ndarray, int, np.ndarray | None], np.ndarray]


def _sum_first_axis(x: np.ndarray, acc: np.ndarray | None) -> np.ndarray:
    """[n, ...] to [...]: (x0 + x1) + (x2 + x3) of four at a time, missing ones +0, added onto `acc` (default +0)."""
    total = np.zeros(x.shape[1:], np.float32) if acc is None else acc.copy()
    padded = np.zeros((-(-len(x) // 4) * 4, *x.shape[1:]), np.float32)
    padded[: len(x)] = x
    with np.errstate(all="ignore"):
        for x0, x1, x2, x3 in padded.reshape(-1, 4, *x.shape[1:]):
            total += (x0 + x1) + (x2 + x3)
    return total


def _max_first_axis(x: np.ndarray, acc: np.ndarray | None) -> np.ndarray:
    """[n, ...] to [...]: the maximum in increasing order, from `acc` or the first element."""
    largest, rest = (x[0], x[1:]) if acc is None else (acc, x)
    for value in rest:
        largest = vmath.maximum(largest, value)
    return largest


def _rows(fold: Callable[[np.ndarray, np.ndarray | None], np.ndarray]) -> Reduction:
    """[rows, cols] to [rows / group, cols]: each group of consecutive rows by itself."""

    def reduce(x: np.ndarray, group: int, acc: np.ndarray | None) -> np.ndarray:
        grouped = x.reshape(-1, group, x.shape[1]).swapaxes(0, 1)
        return fold(grouped, acc)

    return reduce


def _cols(fold: Callable[[np.ndarray, np.ndarray | None], np.ndarray]) -> Reduction:
    """[rows, cols] to [rows, 1]."""

    def reduce(x: np.ndarray, _group: int, acc: np.ndarray | None) -> np.ndarray:
        return fold(x.T, None if acc is None else acc[:, 0])[:, None]

    return reduce


def _all(fold: Callable[[np.ndarray, np.ndarray | None], np.ndarray]) -> Reduction:
    """[rows, cols] to [1, 1]: columns first, one value a row, then rows."""

    def reduce(x: np.ndarray, _group: int, acc: np.ndarray | None) -> np.ndarray:
        by_row = fold(x.T, None)
        return fold(by_row, None if acc is None else acc[0, 0]).reshape(1, 1)

    return reduce


REDUCTIONS: Mapping[Sink, Reduction] = {
    Sink.SUM_ROWS: _rows(_sum_first_axis),
    Sink.SUM_COLS: _cols(_sum_first_axis),
    Sink.SUM_ALL: _all(_sum_first_axis),
    Sink.MAX_ROWS: _rows(_max_first_axis),
    Sink.MAX_COLS: _cols(_max_first_axis),
    Sink.MAX_ALL: _all(_max_first_axis),
}
