"""Blocks of other shapes: against gfloat, against SMX where they are 4x4, and products against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import gfloat
import numpy as np
import pytest
from gfloat.formats import format_info_ocp_e8m0
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac import blocks, smx
from tests.properties.test_smx import gfloat_format, tensor

OTHERS = ((8, 8), (1, 16), (16, 1), (1, 32), (32, 1))
seeds = st.integers(0, 10_000)
bits = st.sampled_from(smx.BITS)


def decoded(x: np.ndarray, b: int, block: blocks.Block) -> np.ndarray:
    mant, code, _ = blocks.quantize(x, b, block)
    return blocks.decode(mant, code, block)[..., : x.shape[-2], : x.shape[-1]]


@pytest.mark.parametrize("block", OTHERS)
@pytest.mark.parametrize("b", smx.BITS)
def test_gfloat_agrees_except_at_the_negative_end(b: int, block: blocks.Block) -> None:
    size = block[0] * block[1]
    like = gfloat_format(b)
    info = gfloat.BlockFormatInfo("block", like.etype, size, format_info_ocp_e8m0)
    for seed in range(8):
        x = tensor(seed, (2 * block[0], 3 * block[1]), "plain")
        ours = decoded(x, b, block)
        for i in range(0, x.shape[0], block[0]):
            for j in range(0, x.shape[1], block[1]):
                part = np.s_[i : i + block[0], j : j + block[1]]
                if not x[part].any():
                    assert not ours[part].any()
                    continue
                theirs = gfloat.quantize_block(info, x[part].astype(float).ravel(), gfloat.compute_scale_amax)
                theirs = theirs.reshape(block)
                scale = 2.0 ** (int(np.frexp(np.abs(x[part]).max())[1]) - 1 - (b - 2))
                end = theirs == -(2 ** (b - 1)) * scale  # they have the mantissa -2**(b-1)
                np.testing.assert_array_equal(ours[part], np.where(end, -(2 ** (b - 1) - 1) * scale, theirs))


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


@given(seeds, bits, SHAPES, st.sampled_from(["plain", "halves"]))
def test_4x4_is_smx(seed: int, b: int, shape: tuple[int, ...], kind: str) -> None:
    x = tensor(seed, shape, kind)
    for ours, theirs in zip(blocks.quantize(x, b, (4, 4)), smx.quantize(x, b), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(seeds, bits, st.sampled_from(OTHERS), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_blocks_are_local_symmetric_and_turn_with_the_tensor(seed: int, b: int, block: blocks.Block, shape) -> None:
    x = tensor(seed, shape, "plain")
    values = decoded(x, b, block)
    np.testing.assert_array_equal(decoded(-x, b, block), -values)
    np.testing.assert_array_equal(decoded(x.T.copy(), b, block[::-1]), values.T)
    np.testing.assert_array_equal(decoded(values, b, block), values)
    rows, columns = (min(extent, size) for extent, size in zip(block, shape, strict=True))
    np.testing.assert_array_equal(decoded(x[:rows, :columns].copy(), b, block), values[:rows, :columns])


def test_zero_saturation_and_what_is_not_finite() -> None:
    x = np.zeros((2, 64), np.float32)
    x[0, 3], x[1, 40] = np.inf, 3e38
    mant, code, flags = blocks.quantize(x, 8, (1, 32))
    assert code.tolist() == [[0xFF, 64], [64, smx.E_MAX + smx.EXP_BIAS]] and not mant[0].any()
    assert flags == smx.FLAG_NONFINITE | smx.FLAG_SATURATED
    values = blocks.decode(mant, code, (1, 32))
    assert np.isnan(values[0, :32]).all() and not values[0, 32:].any() and values[1, 40] == 127 * 2.0**smx.E_MAX
    with pytest.raises(ValueError, match="float32"):
        blocks.quantize(x.astype(float), 8, (1, 32))


def exact_products(a: np.ndarray, b: np.ndarray, extent: int, acc: np.ndarray) -> np.ndarray:
    """The rule itself, one element at a time: blocks exact, rounded once, added in fp32."""
    out = acc.copy()
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            for k in range(0, a.shape[1], extent):
                terms = zip(a[i, k : k + extent], b[k : k + extent, j], strict=True)
                total = sum((Fraction(float(x)) * Fraction(float(y)) for x, y in terms), Fraction(0))
                out[i, j] += np.float32(nearest(total))
    return out


def nearest(value: Fraction) -> np.float32:
    """A fraction that is a double rounded to fp32, half to even."""
    assert Fraction(float(value)) == value
    return np.float32(float(value))


@settings(max_examples=20, deadline=None)
@given(seeds, bits, bits, st.sampled_from(["8x8", "1x16", "1x32"]), st.integers(1, 70))
def test_products(seed: int, ab: int, bb: int, shape: str, k: int) -> None:
    a, b = tensor(seed, (3, k), "plain"), tensor(seed + 1, (k, 2), "plain")
    acc = tensor(seed + 2, (3, 2), "plain")
    left, right = decoded(a, ab, blocks.oriented(shape, -1)), decoded(b, bb, blocks.oriented(shape, -2))
    extent = blocks.SHAPES[shape][1]
    wanted = exact_products(left, right, extent, acc)
    np.testing.assert_array_equal(blocks.matmul(left, right, (ab, bb), extent, acc), wanted)
    np.testing.assert_array_equal(blocks.matmul_tn(left.T.copy(), right, (ab, bb), extent, acc), wanted)


def test_products_over_rows_take_one_leading_index_after_another() -> None:
    a, g = tensor(1, (3, 5, 4), "plain"), tensor(2, (3, 5, 6), "plain")
    wanted = np.zeros((4, 6), np.float32)
    for x, y in zip(a, g, strict=True):
        wanted += (x.astype(np.float64).T @ y.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(blocks.matmul_tn(a, g, (16, 16), 16), wanted)


def test_copies_and_counts() -> None:
    assert [blocks.copies(shape, {-1, -2}) for shape in blocks.SHAPES] == [1, 1, 2, 2]
    assert blocks.copies("1x32", {-1}) == 1
    assert [blocks.blocks_of((2, 5, 33), block) for block in ((4, 4), (8, 8), (1, 32), (32, 1))] == [36, 10, 20, 66]
