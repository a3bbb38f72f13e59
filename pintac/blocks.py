"""Shared-exponent blocks of other shapes than SMX's 4x4: what the format is compared with, not what the machine has.

The rules of an element are those of SMX (NUMERICS 1): exponent from the fp32 bits of the block's largest magnitude,
round half to even, symmetric clamp, the same exponent range, one code for a block with a non-finite element. Only the
extents of a block differ. A product takes its terms in the blocks of the contracted dimension, each exact inside and
rounded once to fp32 before it is scaled and added (NUMERICS 2, whose blocks have 4 terms, with 8, 16 or 32 of them).

A square block serves every product. A block along one dimension (1x16; 1x32 as in the OCP microscaling formats) serves
products that contract that dimension: `oriented` turns it, and a tensor that is contracted along both is quantised
twice, into two copies with different values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintac.smx import BITS, E_MAX, E_MIN, EXP_BIAS, FLAG_NONFINITE, FLAG_SATURATED, NONFINITE_CODE

Block = tuple[int, int]
"""(rows, columns) of a block."""

F32 = NDArray[np.float32]

SMX_BLOCK = "4x4"
SHAPES: Mapping[str, Block] = MappingProxyType({"4x4": (4, 4), "8x8": (8, 8), "1x16": (1, 16), "1x32": (1, 32)})
"""Block shapes by name; those of one row lie along the contracted dimension."""

_NAN = np.array(0x7FC00000, dtype=np.uint32).view(np.float32)
_EXACT_F32 = 1 << 24
_CHUNK_ELEMENTS = 1 << 16


def oriented(shape: str, axis: int) -> Block:
    """The block of that name for a product that contracts `axis`, -1 or -2, of a tensor."""
    rows, columns = SHAPES[shape]
    return (rows, columns) if axis == -1 else (columns, rows)


def block_name(block: Block) -> str:
    """`1x32`."""
    return f"{block[0]}x{block[1]}"


def copies(shape: str, axes: set[int]) -> int:
    """How many copies of a tensor exist that is contracted along `axes` (a subset of {-1, -2})."""
    return len({oriented(shape, axis) for axis in axes})


def blocks_of(shape: tuple[int, ...], block: Block) -> int:
    """Blocks, the partial ones at the edges included, of a tensor of logical shape `shape`."""
    return math.prod(shape[:-2]) * -(-shape[-2] // block[0]) * -(-shape[-1] // block[1])


def quantize(x: F32, bits: int, block: Block) -> tuple[NDArray[np.int16], NDArray[np.uint8], int]:
    """Round fp32 `x` `[..., M, N]`: mantissas int16, padded to whole blocks; codes uint8, one a block; flags.

    `smx.quantize` with blocks of any extents; the flags are its flags.
    """
    if bits not in BITS or x.dtype != np.float32 or x.ndim < 2:
        raise ValueError(f"blocks hold float32 of two dimensions or more at {BITS} bits, not {x.dtype} at {bits}")
    rows, columns = block
    *lead, m, n = x.shape
    shape = (*lead, -(-m // rows) * rows, -(-n // columns) * columns)
    if shape != x.shape:
        x = np.pad(x, [(0, new - old) for new, old in zip(shape, x.shape, strict=True)])
    x = np.ascontiguousarray(x)
    split = (*lead, shape[-2] // rows, rows, shape[-1] // columns, columns)
    magnitude = (x.view(np.int32) & np.int32(0x7FFFFFFF)).reshape(split)
    biased = (magnitude.max(axis=-3) if rows > 1 else magnitude[..., 0, :, :]).max(axis=-1) >> 23

    nonfinite = biased == 0xFF
    wanted = biased - (EXP_BIAS + bits - 2)
    exponent = np.clip(wanted, E_MIN, E_MAX)
    code = np.where(nonfinite, NONFINITE_CODE, exponent + EXP_BIAS).astype(np.uint8)
    flags = FLAG_NONFINITE if nonfinite.any() else 0
    if ((wanted > E_MAX) & ~nonfinite).any():
        flags |= FLAG_SATURATED

    limit = np.float32(2 ** (bits - 1) - 1)
    inverse = ((EXP_BIAS - exponent) << 23).astype(np.int32).view(np.float32)
    with np.errstate(all="ignore"):
        scaled = x.reshape(split) * _spread(inverse)
        np.rint(scaled, out=scaled)
        np.clip(scaled, -limit, limit, out=scaled)
        if flags & FLAG_NONFINITE:
            scaled[np.broadcast_to(_spread(nonfinite), split)] = 0
    return scaled.astype(np.int16).reshape(shape), code, flags


def decode(mant: NDArray[np.int16], code: NDArray[np.uint8], block: Block) -> F32:
    """The fp32 values in the padded shape, exactly; a block with a non-finite element is all NaN."""
    rows, columns = block
    split = (*code.shape[:-1], rows, code.shape[-1], columns)
    scale = np.where(code == NONFINITE_CODE, _NAN, (code.astype(np.uint32) << np.uint32(23)).view(np.float32))
    with np.errstate(all="ignore"):
        return (mant.astype(np.float32).reshape(split) * _spread(scale)).reshape(mant.shape)


def _spread(per_block: NDArray[Any]) -> NDArray[Any]:
    """`[..., Mb, Nb]` as `[..., Mb, 1, Nb, 1]`."""
    return per_block[..., :, None, :, None]


# --- products: operands are decoded values, in their logical shapes -------------------------------------------------


def _exact_type(bits: tuple[int, int], extent: int) -> type[np.float32 | np.float64]:
    """A type that holds every dot product of `extent` pairs of mantissas."""
    return np.float32 if extent << (bits[0] + bits[1] - 2) <= _EXACT_F32 else np.float64


def matmul(a: F32, b: F32, bits: tuple[int, int], extent: int, acc: F32 | None = None) -> F32:
    """`acc + a @ b`: a `[..., M, K]`, b `[K, N]`, both decoded from blocks with `extent` elements along K.

    Blocks of K in increasing order, one rounding to fp32 each.
    """
    dtype = _exact_type(bits, extent)
    k, n = b.shape
    left: NDArray[Any] = a.reshape(-1, k).astype(dtype, copy=False)
    right: NDArray[Any] = b.astype(dtype, copy=False)
    out = _start(acc, (*a.shape[:-1], n)).reshape(len(left), n)
    step = max(1, _CHUNK_ELEMENTS // max(n, 1))
    with np.errstate(all="ignore"):
        for i in range(0, len(left), step):
            rows, part = left[i : i + step], out[i : i + step]
            for j in range(0, k, extent):
                part += (rows[:, j : j + extent] @ right[j : j + extent]).astype(np.float32, copy=False)
    return out.reshape(*a.shape[:-1], n)


def matmul_tn(a: F32, g: F32, bits: tuple[int, int], extent: int, acc: F32 | None = None) -> F32:
    """`acc + sum over leading indices of a^T @ g`: a `[..., R, K]`, g `[..., R, N]` with `extent` rows a block.

    Row-major over the leading dimensions and the blocks of R, one rounding to fp32 each.
    """
    dtype = _exact_type(bits, extent)
    rows = a.shape[-2]
    left: NDArray[Any] = a.reshape(-1, rows, a.shape[-1]).astype(dtype, copy=False)
    right: NDArray[Any] = g.reshape(-1, rows, g.shape[-1]).astype(dtype, copy=False)
    out = _start(acc, (a.shape[-1], g.shape[-1]))
    with np.errstate(all="ignore"):
        for x, y in zip(left, right, strict=True):
            for i in range(0, rows, extent):
                out += (x[i : i + extent].T @ y[i : i + extent]).astype(np.float32, copy=False)
    return out


def _start(acc: F32 | None, shape: tuple[int, ...]) -> F32:
    return np.zeros(shape, np.float32) if acc is None else acc + np.float32(0)
