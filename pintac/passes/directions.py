"""What an estimator adds to the points: the perturbations of one block of pairs, as IR over the streams of NUMERICS 8.

- normal: N(0, sigma^2), independent.
- orthonormal: random orthonormal bases times sigma sqrt(c), c columns. The first basis are the rows of a Hadamard
  matrix (scaled: all entries +-sigma), rotated by an independent random angle in each plane of columns (j, j + c/2);
  every further basis is rotated on by a fixed fraction of a right angle. So each direction by itself has E[q q^T] = I
  / c, and a whole basis has sum q q^T = I. Where no Hadamard matrix of order c exists, the next one loses columns:
  its rows are then a tight frame with the same two properties (up to 128 columns, of at most seven more directions).
- quasi-random: a rank-1 lattice, shifted modulo 1 by random numbers of the point (Cranley and Patterson), made normal
  by Box and Muller. Each direction by itself is N(0, sigma^2 I).

The tables are constants of the graph; the only random numbers are uniforms or normals of the stream, a few a point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pintac.errors import PassError
from pintac.ir import Builder, Node
from pintac.passes.designs import hadamard, hadamard_order, lattice
from pintac.passes.sampling import STREAM_DELTA, Block

SMALLEST_UNIFORM = 2.0**-25
"""Stands for the uniform number 0, whose logarithm is none."""


def directions(b: Builder, kind: str, block: Block, points: int, pairs: int, sigma: float) -> Node:
    """delta of the plus rows in the block's columns: [points, pairs, columns], zero outside the block's rows.

    `kind` is that of the estimator; raises PassError for one that draws none.
    """
    if kind not in DIRECTIONS:
        raise PassError(f"the estimator {kind!r} has no directions", hint="one of " + ", ".join(DIRECTIONS))
    return DIRECTIONS[kind](b, block, points, pairs, sigma)


def _table(b: Builder, rows: np.ndarray, block: Block, pairs: int) -> Node:
    """Rows [block.pairs, w] as a constant [1, pairs, w], zero outside the block."""
    whole = np.zeros((pairs, rows.shape[1]))
    whole[block.start : block.stop] = rows
    return b.const(_spelled(whole), (1, *whole.shape))


def _spelled(values: np.ndarray) -> Sequence[float]:
    flat: list[float] = values.ravel().tolist()
    return flat[:1] if len(set(flat)) == 1 else flat


def _scale(b: Builder, drawn: Node, block: Block, pairs: int, sigma: float) -> Node:
    """Standard numbers times sigma; zero outside the block."""
    if block.pairs == pairs:
        return b.mul(drawn, sigma)
    return b.mul(drawn, _table(b, np.full((block.pairs, 1), sigma), block, pairs))


def _normal(b: Builder, block: Block, points: int, pairs: int, sigma: float) -> Node:
    drawn = b.random("normal", STREAM_DELTA, block.key, (points, pairs, len(block.columns)))
    return _scale(b, drawn, block, pairs, sigma)


def _orthonormal(b: Builder, block: Block, points: int, pairs: int, sigma: float) -> Node:
    columns, half = len(block.columns), len(block.columns) // 2
    order = hadamard_order(columns)
    basis, row = np.divmod(np.arange(block.pairs), order)
    signs = hadamard(order)[row, :columns] * sigma
    last = _table(b, signs[:, 2 * half :], block, pairs) if columns % 2 else None
    if not half:
        assert last is not None
        return b.broadcast(last, (points, pairs, columns))
    angle = b.mul(b.random("uniform", STREAM_DELTA, block.key, (points, 1, half)), 2 * math.pi)
    bases = -(-block.pairs // order)
    if bases > 1:
        angle = b.add(angle, _table(b, basis[:, None] * (math.pi / 2 / bases), block, pairs))
    cos, sin = b.cos(angle), b.sin(angle)
    left = _table(b, signs[:, :half], block, pairs)
    right = _table(b, signs[:, half : 2 * half], block, pairs)
    turned = [b.sub(b.mul(cos, left), b.mul(sin, right)), b.add(b.mul(sin, left), b.mul(cos, right))]
    if last is not None:
        turned.append(b.broadcast(last, (points, pairs, 1)))
    return b.concat(turned, 2)


def _quasi_random(b: Builder, block: Block, points: int, pairs: int, sigma: float) -> Node:
    columns = len(block.columns)
    half = -(-columns // 2)
    shift = b.random("uniform", STREAM_DELTA, block.key, (points, 1, 2 * half))
    sum_ = b.add(shift, _table(b, lattice(block.pairs, 2 * half), block, pairs))
    uniform = b.select(b.compare("ge", sum_, 1.0), b.sub(sum_, 1.0), sum_)
    radius = b.sqrt(b.mul(b.log(b.max(b.slice(uniform, 2, 0, half), SMALLEST_UNIFORM)), -2.0))
    angle = b.mul(b.slice(uniform, 2, half, 2 * half), 2 * math.pi)
    normal = b.concat([b.mul(radius, b.cos(angle)), b.mul(radius, b.sin(angle))], 2)
    return _scale(b, b.slice(normal, 2, 0, columns) if columns % 2 else normal, block, pairs, sigma)


DIRECTIONS: Mapping[str, Callable[[Builder, Block, int, int, float], Node]] = {
    "stein": _normal,
    "second-difference": _normal,
    "orthonormal": _orthonormal,
    "quasi-random": _quasi_random,
}
"""What each estimator of `KINDS` draws."""
