"""Matrix products of every pair of precisions, transposed or not, with long contractions and ragged edges."""

import numpy as np
import pytest

from pintac import smx
from pintac.isa import Kind, Operand, Space
from tests.runtime.jit.engines import AVAILABLE, run_both, words
from tests.runtime.listing import Listing

BITS = (4, 8, 12, 16)


def _numbers(shape: tuple[int, int], seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.standard_normal(shape) * np.exp2(draw.integers(-6, 6, shape))).astype(np.float32)


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("right", BITS)
@pytest.mark.parametrize("left", BITS)
def test_precisions(left: int, right: int, name: str) -> None:
    listing = Listing()
    for ta, tb in ((0, 0), (1, 0), (0, 1)):
        for m, n, k, acc in ((5, 1, 7, 0), (33, 18, 40, 1), (16, 50, 12, 1)):
            a, b = _numbers((m, k), m), _numbers((k, n), n)
            s0 = listing.source(a.T if ta else a, left)
            s1 = listing.source(b.T if tb else b, right)
            d = listing.source(_numbers((m, n), 3))
            listing.matmul(m, n, k, s0, s1, d, ta=ta, tb=tb, acc=acc)
    run_both(listing.program(), name)


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("left, right", [(8, 8), (12, 8), (16, 16)])
def test_one_rounding_a_block_over_a_long_contraction(left: int, right: int, name: str) -> None:
    """Sums in another order, or rounded another number of times, differ at this length."""
    listing = Listing()
    a, b = _numbers((20, 4096), 1), _numbers((4096, 17), 2)
    d = listing.sink((20, 17), space=Space.PSUM)
    listing.matmul(20, 17, 4096, listing.source(a, left), listing.source(b, right), d)
    state = run_both(listing.program(), name)
    expected = smx.matmul(smx.quantize(a, left)[:2], smx.quantize(b, right)[:2], None, 20, 17)
    got = words(state, Space.PSUM, d.addr, 340).reshape(20, 17)
    assert np.array_equal(got.view(np.uint32), expected.view(np.uint32))
    plain = smx.dequantize(a, left) @ smx.dequantize(b, right)
    assert not np.array_equal(got, plain)


@pytest.mark.parametrize("name", AVAILABLE)
def test_largest_mantissas(name: str) -> None:
    """The dot product of four INT16 pairs needs 33 bits; of INT16 and INT12 it is beyond fp32."""
    listing = Listing()
    for right in BITS:
        for sign in (1.0, -1.0):
            a = np.full((4, 8), 2.0**15 - 1, np.float32)
            b = np.full((8, 4), sign * (2.0 ** (right - 1) - 1), np.float32)
            a[0, 0] -= 2
            d = listing.sink((4, 4))
            listing.matmul(4, 4, 8, listing.source(a, 16), listing.source(b, right), d)
    run_both(listing.program(), name)


@pytest.mark.parametrize("name", AVAILABLE)
def test_infinities_and_negative_zero(name: str) -> None:
    a, b = _numbers((9, 12), 5), _numbers((12, 9), 6)
    a[2, 3], b[5, 7] = np.inf, np.nan
    a[4:8], c = 0.0, np.full((9, 9), -0.0, np.float32)
    listing = Listing()
    d = listing.source(c)
    listing.matmul(9, 9, 12, listing.source(a, 8), listing.source(b, 8), d, acc=1)
    state = run_both(listing.program(), name)
    got = words(state, Space.SRAM, d.addr, 81).reshape(9, 9)
    assert np.isnan(got[:4]).all() and np.isnan(got[:, 4:8]).all()
    assert (got[4:8, :4].view(np.uint32) == 0).all()  # -0 + an integer zero is +0
    assert set(got[np.isnan(got)].view(np.uint32)) == {0x7FC00000}


@pytest.mark.parametrize("name", AVAILABLE)
def test_slices_of_larger_tensors(name: str) -> None:
    """Block strides beyond the operand's own width, on both sides and in the result."""
    listing = Listing()
    a, b = listing.source(_numbers((24, 40), 1), 12), listing.source(_numbers((40, 44), 2), 8)
    d = listing.source(_numbers((24, 50), 3))
    inside = Operand(Kind.TENSOR, a.space, 12, a.addr + 24 * 12, a.eaddr + 12, hi=a.hi, cstep=1)
    listing.matmul(13, 22, 28, inside, b, d, acc=1)
    run_both(listing.program(), name)
