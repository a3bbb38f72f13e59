"""Laws of the SMX format and of its matrix product, against slow and obvious arithmetic and against gfloat."""

from __future__ import annotations

import math
from itertools import product

import gfloat
import numpy as np
import pytest
from gfloat.formats import format_info_ocp_e8m0, format_info_ocp_int8
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac import smx

bits = st.sampled_from(smx.BITS)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 11)
KINDS = ("plain", "wide", "halves", "any bits")


def tensor(seed: int, shape: tuple[int, ...], kind: str = "plain") -> np.ndarray:
    """fp32 numbers: of one size, over the whole range of exponents, full of rounding ties, or any finite bits."""
    r = np.random.default_rng(seed)
    if kind == "any bits":
        x = r.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
        return np.where(np.isfinite(x), x, np.float32(0))
    if kind == "halves":
        return (r.integers(-300, 301, shape) / 2).astype(np.float32)
    x = r.standard_normal(shape)
    if kind == "wide":
        x = x * np.exp2(r.integers(-90, 70, shape))
    x[r.random(shape) < 0.1] = 0
    return x.astype(np.float32)


tensors = st.builds(tensor, seeds, st.tuples(sizes, sizes), st.sampled_from(KINDS))


def quantize_by_hand(x: np.ndarray, b: int) -> tuple[np.ndarray, np.ndarray]:
    """A 2-D tensor in Python's exact arithmetic, block by block."""
    rows, cols = (-(-n // 4) * 4 for n in x.shape)
    mant, code = np.zeros((rows, cols), np.int16), np.zeros((rows // 4, cols // 4), np.uint8)
    limit = 2 ** (b - 1) - 1
    for i, j in product(range(0, rows, 4), range(0, cols, 4)):
        block = x[i : i + 4, j : j + 4].astype(float)
        if not np.isfinite(block).all():
            code[i // 4, j // 4] = 0xFF
            continue
        largest = np.abs(block).max()
        e = math.frexp(largest)[1] - 1 if largest else -1000
        scale_exponent = min(max(e - (b - 2), -63), 47)
        code[i // 4, j // 4] = scale_exponent + 127
        for r, c in np.ndindex(block.shape):
            rounded = round(math.ldexp(block[r, c], -scale_exponent))  # Python rounds half to even
            mant[i + r, j + c] = max(-limit, min(limit, rounded))
    return mant, code


def matmul_by_hand(a: smx.Smx, b: smx.Smx, acc: np.ndarray) -> np.ndarray:
    """Section 2 of the numerics word for word, with Python integers for the dot products."""
    (ma, ca), (mb, cb) = a, b
    out = acc.copy()
    for i, j in np.ndindex(out.shape):
        total = out[i, j]
        for k in range(0, ma.shape[1], 4):
            dot = np.float32(sum(int(ma[i, k + q]) * int(mb[k + q, j]) for q in range(4)))
            exponent = int(ca[i // 4, k // 4]) + int(cb[k // 4, j // 4]) - 2 * smx.EXP_BIAS
            total = np.float32(total + np.float32(math.ldexp(float(dot), exponent)))
        out[i, j] = total
    return out


def assert_same_bits(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


def q(x: np.ndarray, b: int) -> smx.Smx:
    return smx.quantize(x, b)[:2]


# --- quantise ---------------------------------------------------------------------------------------------------------


@given(tensors, bits)
def test_quantise_is_what_exact_arithmetic_gives(x: np.ndarray, b: int) -> None:
    mant, code, flags = smx.quantize(x, b)
    expected_mant, expected_code = quantize_by_hand(x, b)
    np.testing.assert_array_equal(mant, expected_mant)
    np.testing.assert_array_equal(code, expected_code)
    assert mant.dtype == np.int16 and code.dtype == np.uint8
    assert bool(flags & smx.FLAG_SATURATED) == bool(np.abs(x).max() >= 2.0 ** (smx.E_MAX + b - 1))
    assert not flags & smx.FLAG_NONFINITE


@given(seeds, st.lists(st.integers(1, 6), min_size=3, max_size=4), bits)
def test_leading_dimensions_are_independent(seed: int, shape: list[int], b: int) -> None:
    x = tensor(seed, tuple(shape), "wide")
    mant, code, _ = smx.quantize(x, b)
    assert mant.shape == smx.padded(shape)
    for index in np.ndindex(*shape[:-2]):
        alone = q(x[index], b)
        np.testing.assert_array_equal(mant[index], alone[0])
        np.testing.assert_array_equal(code[index], alone[1])


@given(tensors, bits)
def test_transposing_commutes_with_quantising(x: np.ndarray, b: int) -> None:
    of_transposed = q(np.ascontiguousarray(x.T), b)
    transposed = smx.transpose(*q(x, b))
    np.testing.assert_array_equal(of_transposed[0], transposed[0])
    np.testing.assert_array_equal(of_transposed[1], transposed[1])
    assert_same_bits(smx.decode(*of_transposed), np.ascontiguousarray(smx.decode(*q(x, b)).T))


@given(tensors, bits)
def test_quantising_twice_changes_nothing(x: np.ndarray, b: int) -> None:
    mant, code, _ = smx.quantize(x, b)
    again, code_again, flags = smx.quantize(smx.decode(mant, code), b)
    np.testing.assert_array_equal(again, mant)
    np.testing.assert_array_equal(code_again, code)
    assert flags == 0


@given(tensors, bits)
def test_error_is_half_a_step_except_where_the_largest_is_clamped(x: np.ndarray, b: int) -> None:
    mant, code, flags = smx.quantize(x, b)
    step = np.exp2(np.repeat(np.repeat(code.astype(float) - 127, 4, 0), 4, 1))[: x.shape[0], : x.shape[1]]
    error = np.abs(smx.dequantize(x, b).astype(float) - x) / step
    clamped = (np.abs(mant) == 2 ** (b - 1) - 1)[: x.shape[0], : x.shape[1]]
    assert (error[~clamped] <= 0.5).all()
    if not flags & smx.FLAG_SATURATED:
        assert (error < 1).all()


@given(tensors, bits)
def test_negation_is_exact(x: np.ndarray, b: int) -> None:
    mant, code = q(x, b)
    negated, same_code = q(-x, b)
    np.testing.assert_array_equal(negated, -mant)
    np.testing.assert_array_equal(same_code, code)
    assert np.abs(mant.astype(int)).max() <= 2 ** (b - 1) - 1


@given(seeds, bits, st.integers(0, 7), st.integers(0, 10), st.sampled_from([0.0, 1e30, -3.0, np.nan]))
def test_an_element_touches_its_own_block_only(seed: int, b: int, i: int, j: int, value: float) -> None:
    x = tensor(seed, (8, 11))
    changed = x.copy()
    changed[i, j] = value
    (mant, code), (other, other_code) = q(x, b), q(changed, b)
    outside = np.ones(mant.shape, bool)
    outside[i // 4 * 4 : i // 4 * 4 + 4, j // 4 * 4 : j // 4 * 4 + 4] = False
    np.testing.assert_array_equal(mant[outside], other[outside])
    assert ((code != other_code).sum()) <= 1
    np.testing.assert_array_equal(
        np.delete(code.ravel(), i // 4 * 3 + j // 4), np.delete(other_code.ravel(), i // 4 * 3 + j // 4)
    )


@given(seeds, bits, sizes, sizes, sizes, sizes)
def test_valid_region_is_all_that_counts(seed: int, b: int, m: int, n: int, more_m: int, more_n: int) -> None:
    x = tensor(seed, (m, n))
    larger = np.full((m + more_m, n + more_n), np.nan, np.float32)
    larger[:m, :n] = x
    mant, code, flags = smx.quantize(larger, b, valid=(m, n))
    alone, alone_code = q(x, b)
    assert flags == 0
    np.testing.assert_array_equal(mant[: alone.shape[0], : alone.shape[1]], alone)
    np.testing.assert_array_equal(code[: alone_code.shape[0], : alone_code.shape[1]], alone_code)
    assert not mant[m:].any() and not mant[:, n:].any()


@pytest.mark.parametrize("b", smx.BITS)
def test_zero_and_subnormal_blocks(b: int) -> None:
    for value in (0.0, -0.0, 1e-45, -1e-40, 2.0**-126):
        mant, code, flags = smx.quantize(np.full((4, 4), value, np.float32), b)
        assert not mant.any() and code[0, 0] == smx.E_MIN + smx.EXP_BIAS == 64 and flags == 0
    assert_same_bits(smx.dequantize(np.full((4, 4), -0.0, np.float32), b), np.zeros((4, 4), np.float32))


@pytest.mark.parametrize("b", smx.BITS)
def test_scale_comes_from_the_exponent_bits(b: int) -> None:
    for e in range(smx.E_MIN + b - 2, smx.E_MAX + b - 1):
        for value in (np.float32(2.0**e), np.nextafter(np.float32(2.0 ** (e + 1)), np.float32(0))):
            code = smx.quantize(np.full((1, 1), value), b)[1]
            assert code[0, 0] == e - (b - 2) + smx.EXP_BIAS  # just below a power of two log2 would round up


@pytest.mark.parametrize("b", smx.BITS)
def test_saturation_and_underflow(b: int) -> None:
    limit = 2 ** (b - 1) - 1
    fits = np.float32(limit * 2.0**smx.E_MAX)
    for x, expected_flags in ((fits, 0), (np.float32(2.0 ** (smx.E_MAX + b - 1)), 1), (np.finfo(np.float32).max, 1)):
        mant, code, flags = smx.quantize(np.full((1, 1), -x, np.float32), b)
        assert (mant[0, 0], code[0, 0], flags) == (-limit, smx.E_MAX + smx.EXP_BIAS, expected_flags)
    tie = np.array([[2.0**-64, 1.5 * 2.0**-63, 2.5 * 2.0**-63]], np.float32)
    assert smx.quantize(tie, b)[0][0, :3].tolist() == [0, 2, 2]


@pytest.mark.parametrize("b", smx.BITS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_elements_poison_their_block(b: int, value: float) -> None:
    x = np.ones((4, 8), np.float32)
    x[2, 5] = value
    mant, code, flags = smx.quantize(x, b)
    assert flags == smx.FLAG_NONFINITE and code.tolist() == [[127 - (b - 2), smx.NONFINITE_CODE]]
    assert not mant[:, 4:].any()
    decoded = smx.decode(mant, code)
    assert np.isnan(decoded[:, 4:]).all() and (decoded[:, :4] == 1).all()
    ones = q(np.ones((8, 4), np.float32), 8)
    assert np.isnan(smx.matmul((mant, code), ones)).all()
    assert np.isnan(smx.matmul_tn((mant, code), ones_like(mant)))[4:].all()


def test_a_non_finite_block_is_nan_whatever_its_mantissas() -> None:
    code = np.full((1, 1), smx.NONFINITE_CODE, np.uint8)
    assert np.isnan(smx.decode(np.full((4, 4), 3, np.int16), code)).all()


def ones_like(mant: np.ndarray) -> smx.Smx:
    return q(np.ones(mant.shape, np.float32), 8)


def test_what_is_refused() -> None:
    x = np.ones((4, 4), np.float32)
    for bad in (x.astype(float), x.astype(np.int32)):
        with pytest.raises(TypeError, match="float32"):
            smx.quantize(bad, 8)
    for shape in ((), (4,)):
        with pytest.raises(ValueError, match="two dimensions"):
            smx.quantize(np.ones(shape, np.float32), 8)
    with pytest.raises(ValueError, match="bits"):
        smx.quantize(x, 6)
    mant, code = q(x, 8)
    with pytest.raises(ValueError, match="belong together"):
        smx.decode(mant, code[:, :0])
    with pytest.raises(ValueError, match="matmul"):
        smx.matmul((mant, code), q(np.ones((8, 4), np.float32), 8))
    with pytest.raises(ValueError, match="acc"):
        smx.matmul((mant, code), (mant, code), np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match="m=9"):
        smx.matmul((mant, code), (mant, code), m=9)
    with pytest.raises(ValueError, match="not padded"):
        smx.pack(mant[:3], 8)


# --- outside check ----------------------------------------------------------------------------------------------------


def gfloat_format(b: int) -> gfloat.BlockFormatInfo:
    """Sixteen b-bit two's complement elements with an E8M0 scale; for b = 8 it is the MXINT8 of the OCP standard."""
    like = format_info_ocp_int8
    element = gfloat.FormatInfo(
        name=f"int{b}",
        k=b,
        precision=b,
        bias=like.bias,
        is_signed=True,
        domain=like.domain,
        has_nz=False,
        num_high_nans=0,
        has_subnormals=True,
        is_twos_complement=True,
    )
    return gfloat.BlockFormatInfo(f"block{b}", element, 16, format_info_ocp_e8m0)


@pytest.mark.parametrize("b", smx.BITS)
@pytest.mark.parametrize("kind", ["plain", "halves"])
def test_gfloat_agrees_except_at_the_negative_end(b: int, kind: str) -> None:
    info = gfloat_format(b)
    ends = 0
    for seed in range(60):
        x = tensor(seed, (4, 4), kind)
        if seed % 3 == 0:  # the largest just below a power of two: it rounds up and is clamped
            x[1, 2] = -np.nextafter(np.float32(1024), np.float32(0))
        if not x.any():
            continue
        theirs = gfloat.quantize_block(info, x.astype(float).ravel(), gfloat.compute_scale_amax).reshape(4, 4)
        mant, code = q(x, b)
        scale = 2.0 ** (int(code[0, 0]) - smx.EXP_BIAS)
        # They use the mantissa -2**(b-1), we do not: Q(-x) = -Q(x).
        end = theirs == -(2 ** (b - 1)) * scale
        ends += int(end.sum())
        np.testing.assert_array_equal(smx.decode(mant, code), np.where(end, -(2 ** (b - 1) - 1) * scale, theirs))
    assert ends > 0


# --- bytes ------------------------------------------------------------------------------------------------------------


@given(seeds, bits, st.lists(st.integers(1, 3), min_size=2, max_size=4))
def test_packing_round_trips(seed: int, b: int, blocks: list[int]) -> None:
    shape = (*blocks[:-2], 4 * blocks[-2], 4 * blocks[-1])
    limit = 2 ** (b - 1)
    mant = np.random.default_rng(seed).integers(-limit, limit, shape).astype(np.int16)
    data = smx.pack(mant, b)
    assert data.shape == (mant.size // 16, 2 * b) and data.dtype == np.uint8
    np.testing.assert_array_equal(smx.unpack(data, b, shape), mant)
    np.testing.assert_array_equal(smx.unpack(data.ravel(), b, shape), mant)


@given(seeds, bits)
def test_bits_are_where_they_should_be(seed: int, b: int) -> None:
    limit = 2 ** (b - 1)
    mant = np.random.default_rng(seed).integers(-limit, limit, (8, 8)).astype(np.int16)
    data = smx.pack(mant, b)
    for n, (i, j) in enumerate(product(range(2), range(2))):
        block = mant[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].ravel().tolist()
        whole = sum((value % 2**b) << (b * position) for position, value in enumerate(block))
        assert data[n].tobytes() == whole.to_bytes(2 * b, "little")


@given(seeds, bits, st.lists(sizes, min_size=2, max_size=3))
def test_planes_have_the_sizes_that_traffic_counts(seed: int, b: int, shape: list[int]) -> None:
    x = tensor(seed, tuple(shape))
    mplane, eplane = smx.to_bytes(x, b)
    assert mplane.shape == (smx.mantissa_bytes(shape, b),) and eplane.shape == (smx.exponent_bytes(shape),)
    mant, code = smx.from_bytes(mplane, eplane, b, smx.padded(shape))
    np.testing.assert_array_equal(mant, q(x, b)[0])
    np.testing.assert_array_equal(code, q(x, b)[1])
    again = smx.to_bytes((mant, code), b)
    assert again[0].tobytes() == mplane.tobytes() and again[1].tobytes() == eplane.tobytes()


def test_bytes_of_a_block() -> None:
    assert [smx.mantissa_bytes((4, 4), b) for b in smx.BITS] == [8, 16, 24, 32]
    assert smx.exponent_bytes((4, 4)) == 1
    assert smx.mantissa_bytes((3, 5, 6), 12) == 3 * 2 * 2 * 24
    mplane, eplane = smx.to_bytes(np.array([[1.0, -1.0, 0.5]], np.float32), 12)
    assert mplane.tobytes() == bytes.fromhex("00 04 c0 00 02 00") + bytes(18) and eplane.tobytes() == bytes([117])


# --- matrix product ---------------------------------------------------------------------------------------------------


@given(seeds, bits, bits, sizes, sizes, sizes, st.sampled_from(["plain", "wide"]))
def test_matmul_is_one_rounding_a_block_in_order(
    seed: int, b1: int, b2: int, m: int, k: int, n: int, kind: str
) -> None:
    a, b = q(tensor(seed, (m, k), kind), b1), q(tensor(seed + 1, (k, n), kind), b2)
    acc = tensor(seed + 2, (a[0].shape[0], b[0].shape[1]), kind)
    acc[np.random.default_rng(seed).random(acc.shape) < 0.2] = -0.0
    kept = acc.copy()
    expected = matmul_by_hand(a, b, acc)
    assert_same_bits(smx.matmul(a, b, acc), expected)
    assert_same_bits(acc, kept)
    assert_same_bits(smx.matmul(a, b), matmul_by_hand(a, b, np.zeros_like(acc)))
    assert_same_bits(
        smx.matmul(a, b, np.ascontiguousarray(acc[:m, :n]), m=m, n=n), np.ascontiguousarray(expected[:m, :n])
    )
    assert_same_bits(smx.matmul_tn(smx.transpose(*a), b, acc), expected)


@settings(max_examples=30)
@given(seeds, st.integers(1, 3), sizes, sizes, sizes)
def test_matmul_tn_runs_row_major_over_leading_dimensions(seed: int, lead: int, r: int, k: int, n: int) -> None:
    a, g = q(tensor(seed, (lead, r, k)), 8), q(tensor(seed + 1, (lead, r, n)), 12)
    rows = lead * a[0].shape[1]
    a_long = (a[0].reshape(rows, -1), a[1].reshape(rows // 4, -1))
    g_long = (g[0].reshape(rows, -1), g[1].reshape(rows // 4, -1))
    expected = matmul_by_hand(smx.transpose(*a_long), g_long, np.zeros((a[0].shape[2], g[0].shape[2]), np.float32))
    assert_same_bits(smx.matmul_tn(a, g), expected)
    assert_same_bits(smx.matmul_tn(a, g, m=k, n=n), np.ascontiguousarray(expected[:k, :n]))


def test_matmul_of_a_batch_is_that_of_its_members() -> None:
    a, w = q(tensor(1, (3, 5, 9)), 8), q(tensor(2, (9, 6)), 8)
    whole = smx.matmul(a, w, m=5, n=6)
    assert whole.shape == (3, 5, 6)
    for i in range(3):
        assert_same_bits(whole[i], smx.matmul((a[0][i], a[1][i]), w, m=5, n=6))


def test_splitting_a_contraction_at_a_block_carries_the_prefix() -> None:
    x, w = q(tensor(3, (8, 4096)), 12), q(tensor(4, (4096, 8)), 12)
    whole = smx.matmul(x, w)
    head = smx.matmul((x[0][:, :1024], x[1][:, :256]), (w[0][:1024], w[1][:256]))
    assert_same_bits(smx.matmul((x[0][:, 1024:], x[1][:, 256:]), (w[0][1024:], w[1][256:]), head), whole)
    two_sums = head + smx.matmul((x[0][:, 1024:], x[1][:, 256:]), (w[0][1024:], w[1][256:]))
    assert (two_sums != whole).any()  # partial sums would not be the same, so the test can tell


def test_long_chunks_do_not_change_results() -> None:
    """More rows than one chunk holds."""
    x, w = q(tensor(5, (1040, 8)), 8), q(tensor(6, (8, 256)), 8)
    whole = smx.matmul(x, w)
    for rows in (slice(0, 8), slice(252, 264), slice(1032, 1040)):
        part = (x[0][rows], x[1][rows.start // 4 : rows.stop // 4])
        assert_same_bits(whole[rows], smx.matmul(part, w))


def test_int16_dot_products_round_once_before_they_are_scaled() -> None:
    a = (np.array([[32767, 32767, 32767, 32766]] * 4, np.int16), np.full((1, 1), 127, np.uint8))
    b = (np.array([[32767] * 4, [32767] * 4, [32766] * 4, [32765] * 4], np.int16), np.full((1, 1), 127, np.uint8))
    exact = 32767 * 32767 * 2 + 32767 * 32766 + 32766 * 32765
    assert exact > 2**24 and float(np.float32(exact)) != exact
    assert (smx.matmul(a, b) == np.float32(exact)).all()


def test_extreme_scales_neither_overflow_nor_vanish() -> None:
    ones, big = np.ones((4, 4), np.int16), np.full((4, 4), 32767, np.int16)
    low, high = np.full((1, 1), smx.E_MIN + 127, np.uint8), np.full((1, 1), smx.E_MAX + 127, np.uint8)
    assert (smx.matmul((ones, low), (ones, low)) == 2.0**-124).all()
    assert (smx.matmul((big, high), (big, high)) == np.float32(4 * 32767**2 * 2.0**94)).all()


def test_empty_tensors() -> None:
    for shape in ((0, 5), (3, 0), (2, 0, 4)):
        mant, code = q(np.zeros(shape, np.float32), 12)
        assert mant.shape == smx.padded(shape)
        planes = smx.to_bytes((mant, code), 12)
        assert smx.from_bytes(*planes, 12, mant.shape)[0].shape == mant.shape
    nothing = smx.matmul(q(np.zeros((3, 0), np.float32), 8), q(np.zeros((0, 5), np.float32), 8), m=3, n=5)
    assert_same_bits(nothing, np.zeros((3, 5), np.float32))
