"""The TCU instruction of the reference engine: precisions, odd shapes, transposes, accumulation, strides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pintac import smx
from pintac.isa import Operand, Space
from pintac.runtime.state import MachineState
from tests.runtime.execute import normal, run, words
from tests.runtime.listing import IMM, Listing


def by_scalars(a: np.ndarray, b: np.ndarray, bits: tuple[int, int], acc: np.ndarray) -> np.ndarray:
    """NUMERICS 2 in exact integers, one element at a time."""
    (am, ac, _), (bm, bc, _) = smx.quantize(a, bits[0]), smx.quantize(b, bits[1])
    out = acc.copy()
    for i, j in np.ndindex(out.shape):
        for k in range(0, am.shape[1], 4):
            dot = int(am[i, k : k + 4].astype(object) @ bm[k : k + 4, j].astype(object))
            scale = float(2.0 ** (int(ac[i // 4, k // 4]) + int(bc[k // 4, j // 4]) - 254))
            out[i, j] = out[i, j] + np.float32(float(np.float32(dot)) * scale)
    return out


@pytest.mark.parametrize("bits", [(8, 8), (4, 16), (12, 8), (16, 16), (12, 12)])
@pytest.mark.parametrize("shape", [(4, 4, 4), (1, 1, 1), (5, 6, 7), (9, 3, 17)])
@pytest.mark.parametrize("accumulate", [False, True])
def test_products_in_block_order(bits: tuple[int, int], shape: tuple[int, int, int], accumulate: bool) -> None:
    m, n, k = shape
    a, b, before = normal(m, k), normal(k, n), normal(m, n)
    listing = Listing()
    addr, _ = listing.on_chip(before)
    d = Operand(addr=addr, hi=n, cstep=1)
    listing.matmul(m, n, k, listing.source(a, bits[0]), listing.source(b, bits[1]), d, acc=int(accumulate))
    expected = by_scalars(a, b, bits, before if accumulate else np.zeros((m, n), np.float32))
    np.testing.assert_array_equal(words(run(listing), d, (m, n)), expected)


@pytest.mark.parametrize("side", ["ta", "tb"])
def test_a_transposed_operand_is_the_transpose(side: str) -> None:
    m, n, k = 6, 9, 5
    a, b = normal(m, k), normal(k, n)
    plain, turned = Listing(), Listing()
    d = plain.sink((m, n), space=Space.PSUM)
    plain.matmul(m, n, k, plain.source(a, 8), plain.source(b, 12), d)
    left = turned.source(a.T.copy() if side == "ta" else a, 8)
    right = turned.source(b.T.copy() if side == "tb" else b, 12)
    turned.matmul(m, n, k, left, right, turned.sink((m, n), space=Space.PSUM), **{side: 1})
    np.testing.assert_array_equal(words(run(turned), d, (m, n)), words(run(plain), d, (m, n)))


def test_k_steps_over_a_loop_equal_one_long_product() -> None:
    """Contiguous prefixes carried in fp32: a loop over k-tiles that accumulates in the partial sums."""
    m, n, tile = 5, 6, 8
    a, b = normal(m, 3 * tile), normal(3 * tile, n)
    listing = Listing()
    left, right = listing.source(a, 8), listing.source(b, 8)
    d = listing.sink((m, n), space=Space.PSUM)
    listing.vpu((m, n), (), (), [(replace(d, kind=1), IMM)])
    with listing.loop(3) as level:
        steps = [[0] * 5, [0] * 5]
        steps[0][level], steps[1][level] = tile // 4, tile // 4 * right.hi  # in blocks
        listing.matmul(
            m, n, tile, replace(left, steps=tuple(steps[0])), replace(right, steps=tuple(steps[1])), d, acc=1
        )
    expected = smx.matmul(smx.quantize(a, 8)[:2], smx.quantize(b, 8)[:2], m=m, n=n)
    np.testing.assert_array_equal(words(run(listing), d, (m, n)), expected)


def test_a_strided_destination_leaves_the_rest_alone() -> None:
    listing = Listing()
    a, b = normal(3, 4), normal(4, 2)
    d = Operand(addr=listing.allocate(Space.SRAM, 4 * 15), hi=5, cstep=1)
    listing.matmul(3, 2, 4, listing.source(a, 16), listing.source(b, 16), d)
    state = run(listing)
    memory = words(state, d, (3, 5))
    np.testing.assert_array_equal(memory[:, :2], smx.matmul(smx.quantize(a, 16)[:2], smx.quantize(b, 16)[:2], m=3, n=2))
    untouched = MachineState(state.program)
    np.testing.assert_array_equal(memory[:, 2:], words(untouched, d, (3, 5))[:, 2:])
