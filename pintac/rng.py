"""Counter-based random numbers: Philox4x32-10 and the uniform and normal numbers made of it (NUMERICS 8).

A number depends only on (seed, stream, step, term, index), never on how a tensor is cut into tiles: the key is
(seed, stream), the counter (index, step, term, 0), `index` the linear element number in the logical tensor. A tensor's
element i takes its own counter: word 0 for a uniform number, words 0 and 1 for a normal one.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pintac import vmath

STREAM_POINTS = 1
STREAM_DELTA = 2
STREAM_TEST = 3
STREAM_INIT = 4

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

TWO_PI = np.float32(2 * math.pi)
_UNIT = np.float32(2.0**-24)
_MASK = np.uint64(0xFFFFFFFF)


def philox4x32(counter: Sequence[np.ndarray], key: Sequence[np.ndarray]) -> np.ndarray:
    """Philox4x32-10 of four counter words and two key words (uint32, broadcast together): uint32 [4, ...]."""
    x = [np.asarray(c, np.uint32).astype(np.uint64) for c in counter]
    k = [np.asarray(w, np.uint32).astype(np.uint64) for w in key]
    for _ in range(ROUNDS):
        a, b = (np.uint64(m) * x[i] for m, i in zip(MULTIPLIERS, (0, 2), strict=True))
        x = [(b >> np.uint64(32)) ^ x[1] ^ k[0], b & _MASK, (a >> np.uint64(32)) ^ x[3] ^ k[1], a & _MASK]
        k = [(w + np.uint64(bump)) & _MASK for w, bump in zip(k, WEYL, strict=True)]
    return np.stack(np.broadcast_arrays(*x)).astype(np.uint32)


def words(seed: int, stream: int, step: int, term: int, index: np.ndarray) -> np.ndarray:
    """The four words of each element number: uint32 [4, *index.shape]. `seed` and `index` are taken modulo 2^32."""
    count = np.asarray(index).astype(np.uint32)
    fixed = [np.uint32(v & 0xFFFFFFFF) for v in (step, term, 0)]
    return philox4x32((count, *fixed), (np.uint32(seed & 0xFFFFFFFF), np.uint32(stream)))


def _elements(shape: Sequence[int], start: int) -> np.ndarray:
    return np.arange(start, start + math.prod(shape), dtype=np.int64).reshape(tuple(shape))


def uniform(seed: int, stream: int, step: int, term: int, shape: Sequence[int], start: int = 0) -> np.ndarray:
    """fp32 [shape] in [0, 1): (word 0 >> 8) * 2^-24. `start` is the element number of the first."""
    w = words(seed, stream, step, term, _elements(shape, start))
    return (w[0] >> np.uint32(8)).astype(np.float32) * _UNIT


def normal(seed: int, stream: int, step: int, term: int, shape: Sequence[int], start: int = 0) -> np.ndarray:
    """fp32 [shape], standard normal: sqrt(-2 log u1) * cos(2 pi u2), each operation rounded once.

    u1 = ((word 0 >> 8) + 1) * 2^-24 in (0, 1], u2 = (word 1 >> 8) * 2^-24; 2 pi is rounded to fp32.
    """
    w = words(seed, stream, step, term, _elements(shape, start))
    u1 = ((w[0] >> np.uint32(8)) + np.uint32(1)).astype(np.float32) * _UNIT
    u2 = (w[1] >> np.uint32(8)).astype(np.float32) * _UNIT
    radius = vmath.sqrt(vmath.log(u1) * np.float32(-2.0))
    return radius * vmath.cos(u2 * TWO_PI)
