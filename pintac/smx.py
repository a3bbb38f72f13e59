"""SMX-b: the shared-exponent block format of PINTA, and its matrix product.

An SMX tensor is a pair `(mant, code)`. Its last two dimensions are cut into 4x4 blocks; every block stores sixteen
b-bit two's complement mantissas and one scale `2**E`, so an element is worth `mant * 2**E`:

- `mant`: int16 `[..., Mp, Np]`, the logical shape with its last two dimensions padded to multiples of 4;
- `code`: uint8 `[..., Mp/4, Np/4]`, `E + 127` with `E` in `[E_MIN, E_MAX]`, or `NONFINITE_CODE`.

Rounding is round-half-even and deterministic, mantissas are symmetric (never `-2**(b-1)`), padding is always zero.

These functions are the definition of the format: the reference engine and the IR evaluator call them, every other
engine has code of its own that must give the same bits. Which bits a NaN has is left open; that it is a NaN is not.
Wrong dtypes and shapes are bugs of the caller and raise `TypeError` and `ValueError`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = (4, 8, 12, 16)
BLOCK = 4
EXP_BIAS = 127
E_MIN = -63
E_MAX = 47
NONFINITE_CODE = 0xFF

FLAG_SATURATED = 1  # a block needed E > E_MAX: its largest elements were clamped
FLAG_NONFINITE = 2  # a block held an infinity or a NaN: it decodes to NaN

Mantissas = NDArray[np.int16]
Codes = NDArray[np.uint8]
Bytes = NDArray[np.uint8]
F32 = NDArray[np.float32]
Smx = tuple[Mantissas, Codes]
_Dot = NDArray[Any]  # float32 or float64

_BLOCK_ELEMENTS = BLOCK * BLOCK
_NAN = np.array(0x7FC00000, dtype=np.uint32).view(np.float32)
_CHUNK_ELEMENTS = 1 << 16  # elements of the accumulator worked on at a time: keeps it in cache across k-blocks


def _check_bits(bits: int) -> None:
    if bits not in BITS:
        raise ValueError(f"SMX has {BITS} bits, not {bits}")


def _round_up(n: int) -> int:
    return -(-n // BLOCK) * BLOCK


# --- shapes and sizes -------------------------------------------------------------------------------------------------


def padded(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` with its last two dimensions rounded up to multiples of 4."""
    if len(shape) < 2:
        raise ValueError(f"an SMX tensor has at least two dimensions, not shape {tuple(shape)}")
    return (*(int(n) for n in shape[:-2]), _round_up(int(shape[-2])), _round_up(int(shape[-1])))


def _blocks(shape: Sequence[int]) -> int:
    return math.prod(padded(shape)) // _BLOCK_ELEMENTS


def mantissa_bytes(shape: Sequence[int], bits: int) -> int:
    """Bytes of the mantissa plane of a tensor of logical shape `shape`, leading dimensions included."""
    _check_bits(bits)
    return _blocks(shape) * 2 * bits


def exponent_bytes(shape: Sequence[int]) -> int:
    """Bytes of the exponent plane of a tensor of logical shape `shape`: one a block."""
    return _blocks(shape)


# --- quantise and decode ----------------------------------------------------------------------------------------------


def _pad_with_zeros(x: F32, valid: tuple[int, int] | None) -> F32:
    """`x` in its padded shape; whatever lies outside the first `valid` rows and columns is zero."""
    shape = padded(x.shape)
    m, n = x.shape[-2:] if valid is None else valid
    if not (0 <= m <= x.shape[-2] and 0 <= n <= x.shape[-1]):
        raise ValueError(f"valid={valid} is not within shape {x.shape}")
    if (m, n) == shape[-2:]:
        return np.ascontiguousarray(x)
    out = np.zeros(shape, np.float32)
    out[..., :m, :n] = x[..., :m, :n]
    return out


def _spread(per_block: F32) -> F32:
    """Block values `[..., Mb, Nb]` as `[..., Mb, 1, 4 Nb]`, to go with elements seen as `[..., Mb, 4, 4 Nb]`."""
    return np.repeat(per_block, BLOCK, axis=-1)[..., None, :]


def quantize(x: F32, bits: int, valid: tuple[int, int] | None = None) -> tuple[Mantissas, Codes, int]:
    """Round fp32 `x` `[..., M, N]` to SMX-`bits`; returns `(mant, code, flags)`.

    A block with largest magnitude m, whose exponent e is read from the fp32 bits, gets `E = clamp(e - (bits - 2))`; a
    mantissa is `x / 2**E`, rounded half to even and clamped to `+-(2**(bits-1) - 1)`. A zero or subnormal m gives zero
    mantissas and the lowest code. A block with an infinity or a NaN gets zero mantissas and `NONFINITE_CODE`.

    `valid = (m, n)`: only the first m rows and n columns count, the rest is taken as zero whatever it holds. `flags` is
    the union of `FLAG_SATURATED` and `FLAG_NONFINITE` over all blocks. (Numerics, section 1.)
    """
    _check_bits(bits)
    if x.dtype != np.float32:
        raise TypeError(f"quantize takes float32, not {x.dtype}")
    x = _pad_with_zeros(x, valid)
    shape = x.shape
    rows = (*shape[:-2], shape[-2] // BLOCK, BLOCK, shape[-1])

    # Magnitudes order like their bit patterns, and NaNs come out on top.
    magnitude = (x.view(np.int32) & np.int32(0x7FFFFFFF)).reshape(rows)
    over_rows = magnitude.max(axis=-2)
    biased_e = over_rows.reshape(*rows[:-2], shape[-1] // BLOCK, BLOCK).max(axis=-1) >> 23

    nonfinite = biased_e == 0xFF
    wanted = biased_e - (EXP_BIAS + bits - 2)
    exponent = np.clip(wanted, E_MIN, E_MAX)
    code = np.where(nonfinite, NONFINITE_CODE, exponent + EXP_BIAS).astype(np.uint8)

    has_nonfinite = bool(nonfinite.any())
    flags = FLAG_NONFINITE if has_nonfinite else 0
    if bool(((wanted > E_MAX) & ~nonfinite).any()):
        flags |= FLAG_SATURATED

    # 2**-E is a normal number and the product is exact, or else so small that it rounds to zero all the same.
    inverse_scale = ((EXP_BIAS - exponent) << 23).astype(np.int32).view(np.float32)
    limit = np.float32(2 ** (bits - 1) - 1)
    with np.errstate(all="ignore"):
        scaled = x.reshape(rows) * _spread(inverse_scale)
        np.rint(scaled, out=scaled)
        np.clip(scaled, -limit, limit, out=scaled)
        if has_nonfinite:
            scaled[np.broadcast_to(_spread(nonfinite), rows)] = 0
    return scaled.astype(np.int16).reshape(shape), code, flags


def decode(mant: Mantissas, code: Codes) -> F32:
    """The fp32 values `[..., Mp, Np]` of an SMX tensor: exact; a block with `NONFINITE_CODE` is all NaN."""
    _check_smx(mant, code)
    scale = (code.astype(np.uint32) << np.uint32(23)).view(np.float32)
    scale = np.where(code == NONFINITE_CODE, _NAN, scale)
    rows = (*mant.shape[:-2], mant.shape[-2] // BLOCK, BLOCK, mant.shape[-1])
    with np.errstate(all="ignore"):
        values = mant.astype(np.float32).reshape(rows) * _spread(scale)
    return values.reshape(mant.shape)


def dequantize(x: F32, bits: int) -> F32:
    """What is left of `x` `[..., M, N]` after a round trip through SMX-`bits`, in its logical shape."""
    mant, code, _ = quantize(x, bits)
    return decode(mant, code)[..., : x.shape[-2], : x.shape[-1]]


def transpose(mant: Mantissas, code: Codes) -> Smx:
    """Swap the last two dimensions. Blocks are square, so this is also Q of the transposed values."""
    return np.ascontiguousarray(mant.swapaxes(-1, -2)), np.ascontiguousarray(code.swapaxes(-1, -2))


def _check_smx(mant: Mantissas, code: Codes) -> None:
    if mant.dtype != np.int16 or code.dtype != np.uint8:
        raise TypeError(f"an SMX tensor is int16 mantissas and uint8 codes, not {mant.dtype} and {code.dtype}")
    if mant.ndim < 2 or mant.shape != (*code.shape[:-2], BLOCK * code.shape[-2], BLOCK * code.shape[-1]):
        raise ValueError(f"mantissas {mant.shape} and codes {code.shape} do not belong together")


# --- bytes ------------------------------------------------------------------------------------------------------------


def pack(mant: Mantissas, bits: int) -> Bytes:
    """Mantissas `[..., Mp, Np]` as bytes `[blocks, 2 * bits]`.

    Blocks in row-major order of `[..., block row, block column]`, elements row-major in a block, element i at bits
    `[bits * i, bits * (i + 1))` of the block's little-endian bytes, two's complement.
    """
    _check_bits(bits)
    if padded(mant.shape) != mant.shape:
        raise ValueError(f"shape {mant.shape} is not padded to blocks")
    split = (*mant.shape[:-2], mant.shape[-2] // BLOCK, BLOCK, mant.shape[-1] // BLOCK, BLOCK)
    blocks = mant.reshape(split).swapaxes(-3, -2).reshape(_blocks(mant.shape), _BLOCK_ELEMENTS)
    if bits == 16:
        return np.ascontiguousarray(blocks).astype("<i2").view(np.uint8)
    if bits == 8:
        return (blocks & 0xFF).astype(np.uint8)
    low, high = blocks[:, 0::2], blocks[:, 1::2]  # both other widths pack a pair of elements into whole bytes
    if bits == 4:
        return ((low & 0xF) | (high & 0xF) << 4).astype(np.uint8)
    triples = np.stack([low & 0xFF, (low >> 8 & 0xF) | (high & 0xF) << 4, high >> 4 & 0xFF], axis=-1)
    return triples.astype(np.uint8).reshape(len(blocks), 2 * bits)


def unpack(data: Bytes, bits: int, shape: Sequence[int]) -> Mantissas:
    """Mantissas of padded shape `shape` from bytes as `pack` lays them out (any shape with the right size)."""
    _check_bits(bits)
    if padded(shape) != tuple(shape):
        raise ValueError(f"shape {tuple(shape)} is not padded to blocks")
    if data.size != mantissa_bytes(shape, bits):
        raise ValueError(f"{data.size} bytes are not the mantissas of shape {tuple(shape)} at {bits} bits")
    raw = np.ascontiguousarray(data).reshape(_blocks(shape), 2 * bits)
    if bits == 16:
        blocks = raw.view("<i2").astype(np.int16)
    elif bits == 8:
        blocks = raw.view(np.int8).astype(np.int16)
    else:
        wide = raw.astype(np.int16)
        blocks = np.empty((raw.shape[0], _BLOCK_ELEMENTS), np.int16)
        if bits == 4:
            blocks[:, 0::2], blocks[:, 1::2] = wide & 0xF, wide >> 4
        else:
            b0, b1, b2 = wide[:, 0::3], wide[:, 1::3], wide[:, 2::3]
            blocks[:, 0::2], blocks[:, 1::2] = b0 | (b1 & 0xF) << 8, b1 >> 4 | b2 << 4
        sign = np.int16(1 << (bits - 1))
        blocks = (blocks ^ sign) - sign
    split = (*shape[:-2], shape[-2] // BLOCK, shape[-1] // BLOCK, BLOCK, BLOCK)
    return blocks.reshape(split).swapaxes(-3, -2).reshape(tuple(shape))


def to_bytes(x: F32 | Smx, bits: int) -> tuple[Bytes, Bytes]:
    """Mantissa plane and exponent plane, uint8 1-D, of an SMX tensor, or of an fp32 tensor quantised first."""
    mant, code = x if isinstance(x, tuple) else quantize(x, bits)[:2]
    _check_smx(mant, code)
    return pack(mant, bits).reshape(-1), np.ascontiguousarray(code).reshape(-1)


def from_bytes(mplane: Bytes, eplane: Bytes, bits: int, padded_shape: Sequence[int]) -> Smx:
    """The SMX tensor of padded shape `padded_shape` whose two planes these are."""
    if eplane.size != exponent_bytes(padded_shape):
        raise ValueError(f"{eplane.size} bytes are not the exponents of shape {tuple(padded_shape)}")
    blocks = (*padded_shape[:-2], padded_shape[-2] // BLOCK, padded_shape[-1] // BLOCK)
    return unpack(mplane, bits, padded_shape), np.array(eplane, np.uint8).reshape(blocks)


# --- matrix product ---------------------------------------------------------------------------------------------------
#
# Per output element, in increasing order of the blocks of the contracted dimension:
#
#     acc = fl32(acc + fl32(dot4) * (2**Ea * 2**Eb))
#
# dot4 is the exact integer dot product of four mantissa pairs; only INT16 makes it long enough for fl32(dot4) to round.
# Below, dot4 is taken of the *decoded* operands. That is the same: within a block both scales are constant powers of
# two, so the four products and their sums are those of the integers, scaled, and 2**-126 <= 2**(Ea+Eb) <= 2**94 keeps
# everything normal. It is exact in fp32, in any order, while the integers stay within 2**24, and always in fp64.


def _dot_dtype(a: Mantissas, b: Mantissas) -> type[np.float32 | np.float64]:
    """A type in which the dot products of four mantissas of a and b are exact."""
    if a.size == 0 or b.size == 0:
        return np.float32
    largest = [max(int(m.max()), -int(m.min())) for m in (a, b)]
    return np.float32 if BLOCK * largest[0] * largest[1] <= 1 << 24 else np.float64


def _accumulator(acc: F32 | None, shape: tuple[int, ...]) -> F32:
    if acc is None:
        return np.zeros(shape, np.float32)
    if acc.dtype != np.float32 or acc.shape != shape:
        raise ValueError(f"acc is {acc.dtype}{list(acc.shape)}, should be float32{list(shape)}")
    # dot4 is an integer, so its zero is +0 and turns a -0 of acc into +0; a dot product in floating point may not.
    return acc + np.float32(0)


def _add_block_products(acc: F32, pairs: Iterator[tuple[_Dot, _Dot]]) -> None:
    """acc `[M, N]` += sum of the products `[M, 4] @ [4, N]`, in order, each rounded to fp32 before it is added."""
    with np.errstate(all="ignore"):
        for a, b in pairs:
            acc += (a @ b).astype(np.float32, copy=False)


def _crop(size: int, wanted: int | None, name: str) -> int:
    if wanted is not None and not size - BLOCK < wanted <= size:
        raise ValueError(f"{name}={wanted} is not a logical size of {size} padded rows or columns")
    return size if wanted is None else wanted


def matmul(a: Smx, b: Smx, acc: F32 | None = None, m: int | None = None, n: int | None = None) -> F32:
    """`acc + a @ b` in fp32 as the TCU computes it: a `[..., M, K]`, b `[K, N]`, result `[..., m, n]`.

    Terms are added in increasing order of the blocks of K, one rounding each, starting from `acc` (shape of the result,
    default 0). `m` and `n`: the logical extents of the result (default: as padded). (Numerics, section 2.)
    """
    _check_smx(*a)
    _check_smx(*b)
    if b[0].ndim != 2 or a[0].shape[-1] != b[0].shape[0]:
        raise ValueError(f"matmul of shapes {a[0].shape} and {b[0].shape}")
    m, n = _crop(a[0].shape[-2], m, "m"), _crop(b[0].shape[1], n, "n")
    k = b[0].shape[0]
    dtype = _dot_dtype(a[0], b[0])
    shape = (*a[0].shape[:-2], m, n)
    left = decode(*a)[..., :m, :].reshape(math.prod(shape[:-1]), k).astype(dtype, copy=False)
    right = decode(*b)[:, :n].astype(dtype, copy=False)
    out = _accumulator(acc, shape).reshape(len(left), n)
    step = max(BLOCK, _CHUNK_ELEMENTS // max(n, 1))
    for i in range(0, out.shape[0], step):
        rows = left[i : i + step]
        _add_block_products(
            out[i : i + step], ((rows[:, j : j + BLOCK], right[j : j + BLOCK]) for j in range(0, k, BLOCK))
        )
    return out.reshape(shape)


def matmul_tn(a: Smx, g: Smx, acc: F32 | None = None, m: int | None = None, n: int | None = None) -> F32:
    """`acc + sum over leading indices of a^T @ g`: a `[..., R, K]`, g `[..., R, N]`, result `[m, n]` (K and N cropped).

    The contraction runs row-major over the leading dimensions and R, in blocks of four rows, one rounding each,
    starting from `acc` (default 0). This is how weight gradients are taken. (Numerics, section 2.)
    """
    _check_smx(*a)
    _check_smx(*g)
    if a[0].shape[:-1] != g[0].shape[:-1]:
        raise ValueError(f"matmul_tn of shapes {a[0].shape} and {g[0].shape}")
    m, n = _crop(a[0].shape[-1], m, "m"), _crop(g[0].shape[-1], n, "n")
    dtype = _dot_dtype(a[0], g[0])
    rows = math.prod(a[0].shape[:-1])
    left = decode(*a).reshape(rows, a[0].shape[-1])[:, :m].astype(dtype, copy=False)
    right = decode(*g).reshape(rows, g[0].shape[-1])[:, :n].astype(dtype, copy=False)
    out = _accumulator(acc, (m, n))
    blocks = range(0, rows, BLOCK)
    _add_block_products(out, ((left[i : i + BLOCK].T, right[i : i + BLOCK]) for i in blocks))
    return out
