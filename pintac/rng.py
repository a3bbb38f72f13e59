"""Random numbers as a function of where they are used, not of what was drawn before.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, 2011) turns a key of two 32-bit
words and a counter of four into four random words:

    key     = (seed, stream)            stream: what the numbers are for, `STREAM_POINTS`, ...
    counter = (index, step, term, 0)    index: linear, row-major number of the element in its tensor

Each element has a counter of its own: its numbers come from the four words of that counter alone, so they depend
neither on the shape of the tensor nor on how it is tiled. Seed, stream, step and term are taken modulo 2**32.
(Numerics, section 8.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pintac import vmath

STREAM_POINTS = 1  # collocation points
STREAM_DELTA = 2  # perturbations of the estimators
STREAM_TEST = 3  # test points
STREAM_INIT = 4  # initial weights

U32 = NDArray[np.uint32]
F32 = NDArray[np.float32]

_ROUNDS = 10
_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_KEY_STEP_0 = np.uint32(0x9E3779B9)
_KEY_STEP_1 = np.uint32(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_CHUNK = 1 << 14  # counters worked on at a time: temporaries stay in cache

_INV_2_24 = np.float32(2**-24)
_TWO_PI = np.float32(2 * math.pi)


def philox4x32(counter: U32, key: U32) -> U32:
    """The four random words of each counter: counter uint32 `[..., 4]`, key uint32 `[..., 2]`, result `[..., 4]`.

    Leading dimensions broadcast. Ten rounds; in each, with 64-bit products `p0 = 0xD2511F53 * c0` and
    `p1 = 0xCD9E8D57 * c2`:

        c = (hi(p1) ^ c1 ^ k0, lo(p1), hi(p0) ^ c3 ^ k1, lo(p0))

    and between rounds `k0 += 0x9E3779B9, k1 += 0xBB67AE85` (modulo 2**32).
    """
    if counter.dtype != np.uint32 or key.dtype != np.uint32:
        raise TypeError(f"philox4x32 takes uint32 words, not {counter.dtype} and {key.dtype}")
    if counter.shape[-1:] != (4,) or key.shape[-1:] != (2,):
        raise ValueError(f"a counter has 4 words and a key 2, not shapes {counter.shape} and {key.shape}")
    words = [counter[..., i].astype(np.uint64) for i in range(4)]
    return np.stack(_rounds(words, [key[..., 0], key[..., 1]]), axis=-1).astype(np.uint32)


def _rounds(words: list[NDArray[np.uint64]], key: list[U32]) -> list[NDArray[np.uint64]]:
    """Ten rounds on words below 2**32 kept in uint64."""
    c0, c1, c2, c3 = words
    k0, k1 = key
    for n in range(_ROUNDS):
        if n:
            with np.errstate(over="ignore"):  # the key wraps around
                k0, k1 = k0 + _KEY_STEP_0, k1 + _KEY_STEP_1
        p0, p1 = _MULTIPLIER_0 * c0, _MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
    return [c0, c1, c2, c3]


def _word(value: int) -> np.uint32:
    return np.uint32(int(value) & 0xFFFFFFFF)


def words(seed: int, stream: int, step: int, term: int, index: U32) -> U32:
    """The four words of elements `index` (uint32, any shape) of a tensor: uint32 `[..., 4]`, of `index`'s shape."""
    if index.dtype != np.uint32:
        raise TypeError(f"element numbers are uint32, not {index.dtype}")
    key = [_word(seed), _word(stream)]
    rest = [np.uint64(_word(step)), np.uint64(_word(term)), np.uint64(0)]
    flat = index.reshape(-1)
    out = np.empty((flat.size, 4), np.uint32)
    for i in range(0, flat.size, _CHUNK):
        part = flat[i : i + _CHUNK].astype(np.uint64)
        drawn = _rounds([part, *(np.full_like(part, word) for word in rest)], [np.asarray(k) for k in key])
        for n, word in enumerate(drawn):
            out[i : i + _CHUNK, n] = word
    return out.reshape(*index.shape, 4)


def _first_words(seed: int, stream: int, step: int, term: int, shape: int | Sequence[int], start: int) -> U32:
    """Words of the elements `start`, `start + 1`, ... of as many as `shape` has: `[elements, 4]`."""
    size = shape if isinstance(shape, int | np.integer) else math.prod(shape)
    if start < 0 or start + size > 1 << 32:
        raise ValueError(f"elements {start} to {start + size} do not have 32-bit numbers")
    index = np.arange(start, start + size, dtype=np.uint64).astype(np.uint32)
    return words(seed, stream, step, term, index)


def uniform(seed: int, stream: int, step: int, term: int, shape: int | Sequence[int], start: int = 0) -> F32:
    """Uniform fp32 numbers in [0, 1): `(w0 >> 8) * 2**-24` of the element's words. Exact.

    The first element has number `start`, so that a part of a tensor can be drawn alone.
    """
    w = _first_words(seed, stream, step, term, shape, start)
    return ((w[:, 0] >> np.uint32(8)).astype(np.float32) * _INV_2_24).reshape(shape)


def normal(seed: int, stream: int, step: int, term: int, shape: int | Sequence[int], start: int = 0) -> F32:
    """Standard normal fp32 numbers by Box and Muller, one an element, from words 0 and 1 of its counter.

        u1 = ((w0 >> 8) + 1) * 2**-24                       exact, in (0, 1]
        u2 = (w1 >> 8) * 2**-24                             exact, in [0, 1)
        t <- log(u1);  t <- t * -2;  t <- sqrt(t)           log, sqrt, cos of `vmath`
        a <- u2 * fl32(2 pi);  c <- cos(a)
        z <- t * c

    The largest |z| is sqrt(48 ln 2) = 5.77. `start` as in `uniform`.
    """
    w = _first_words(seed, stream, step, term, shape, start)
    u1 = ((w[:, 0] >> np.uint32(8)) + np.uint32(1)).astype(np.float32) * _INV_2_24
    u2 = (w[:, 1] >> np.uint32(8)).astype(np.float32) * _INV_2_24
    radius = vmath.sqrt(vmath.log(u1) * np.float32(-2))
    return (radius * vmath.cos(u2 * _TWO_PI)).reshape(shape)
