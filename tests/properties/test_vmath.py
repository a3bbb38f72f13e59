"""The VPU's functions: accuracy, monotony, symmetry, special values, and their bits, once and for all.

Truth is double precision, whose own error is a millionth of an fp32 ulp. The bounds are those that
`tools/make_vmath_tables.py --measure` finds on all arguments; here every function sees about a million of them.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pintac import vmath

FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": vmath.exp,
    "log": vmath.log,
    "tanh": vmath.tanh,
    "sigmoid": vmath.sigmoid,
    "sin": vmath.sin,
    "cos": vmath.cos,
    "erf": vmath.erf,
    "sqrt": vmath.sqrt,
}
ODD = ("tanh", "erf", "sin")
MONOTONE = ("exp", "log", "tanh", "sigmoid", "erf", "sqrt")
INF, NAN, TINY, HUGE = math.inf, math.nan, 2.0**-149, float(np.finfo(np.float32).max)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def bits(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint32)


def truth(name: str, x: np.ndarray) -> np.ndarray:
    """The function in double precision, rounded no further."""
    with np.errstate(all="ignore"):
        if name == "erf":
            return np.fromiter(map(math.erf, x.tolist()), float, x.size)
        if name == "sigmoid":
            return 1 / (1 + np.exp(-x.astype(float)))
        return getattr(np, name)(x.astype(float))


def ulps(name: str, x: np.ndarray) -> np.ndarray:
    """Errors in units of the spacing of fp32 numbers at the true value; only where that is finite in fp32."""
    exact = truth(name, x)
    inside = np.abs(exact) < HUGE
    exact = exact[inside]
    exponent = np.maximum(np.frexp(exact)[1], -125)
    return np.abs(FUNCTIONS[name](x)[inside] - exact) / np.ldexp(1.0, exponent - 24)


def floats_between(lo: float, hi: float, count: int) -> np.ndarray:
    """About `count` fp32 numbers of one sign from lo to hi (larger in magnitude), evenly spaced in their bits."""
    first, last = (int(b) for b in bits(f32(lo, hi)))
    step = max(1, (last - first) // count) | 1
    return np.append(np.arange(first, last, step, dtype=np.uint32), np.uint32(last)).view(np.float32)


DOMAINS = {
    "exp": [(0.0, 89.0, 0.58), (-0.0, -87.3, 0.58), (-87.3, -105.0, 0.78)],
    "log": [(TINY, HUGE, 0.81), (0.5, 2.0, 0.81)],
    "tanh": [(0.0, HUGE, 1.0), (0.01, 10.0, 1.0)],
    "sigmoid": [(0.0, 100.0, 1.5), (-0.0, -104.0, 2.0)],
    "erf": [(0.0, HUGE, 1.02), (0.001, 4.0, 1.02)],
    "sin": [(0.0, 0.785, 0.75), (0.785, 100.0, 1.55), (100.0, vmath.TRIG_LIMIT, 1.55)],
    "cos": [(0.0, 0.785, 1.14), (0.785, 100.0, 1.55), (100.0, vmath.TRIG_LIMIT, 1.55)],
    "sqrt": [(TINY, HUGE, 0.5)],
}


@pytest.mark.parametrize("name, lo, hi, bound", [(n, *d) for n, ds in DOMAINS.items() for d in ds])
def test_error_in_ulps(name: str, lo: float, hi: float, bound: float) -> None:
    x = floats_between(lo, hi, 400_000)
    error = ulps(name, x)
    worst = int(error.argmax())
    assert error.max() <= bound, f"{name}({x[worst]!r}) is off by {error[worst]:.3f} ulp"
    assert bound <= 2


def test_sine_and_cosine_are_right_beside_their_zeros() -> None:
    """Where the argument loses most of its digits: the fp32 numbers nearest to multiples of pi/2."""
    multiples = np.arange(1, 20862) * (math.pi / 2)
    near = multiples.astype(np.float32)
    x = np.concatenate([near, np.nextafter(near, f32(INF)), np.nextafter(near, f32(0.0))])
    x = x[x <= vmath.TRIG_LIMIT]
    for name in ("sin", "cos"):
        assert ulps(name, x).max() <= 1.55


SEAMS = {
    "exp": [(j + 0.5) * math.log(2) / 32 for j in range(-3000, 2850, 7)],
    "log": [2.0**k * math.sqrt(0.5) for k in range(-140, 128, 3)],
    "tanh": [2.0**e * (1 + q / 4) for e in range(-4, 4) for q in range(4)] + [9.25],
    "erf": [2.0**e * (1 + q / 4) for e in range(-6, 2) for q in range(4)] + [4.0],
    "sigmoid": [-2.0, 0.0, -88.0, 16.6],
    "sqrt": [1.0, 2.0],
}


@pytest.mark.parametrize("name", MONOTONE)
def test_never_decreases(name: str) -> None:
    function = FUNCTIONS[name]
    start = TINY if name in ("log", "sqrt") else 0.0
    sweep = floats_between(start, HUGE, 500_000)
    if start == 0.0:
        sweep = np.concatenate([floats_between(-0.0, -HUGE, 500_000)[::-1], sweep])
    assert (np.diff(function(sweep).astype(float)[np.isfinite(function(sweep))]) >= 0).all()
    # Neighbouring floats, where tables and reductions change over and at random places.
    places = np.random.default_rng(0).standard_normal(200) * 4
    for place in np.concatenate([SEAMS[name], np.abs(places) if name in ("log", "sqrt") else places]):
        around = np.sort((bits(f32(place))[0] + np.arange(-300, 301)).astype(np.uint32).view(np.float32))
        y = function(around[~np.isnan(around)])
        assert not (y[1:] < y[:-1]).any(), f"{name} decreases near {place}"


@given(st.integers(0, 2**32 - 1))
def test_parity_is_exact(word: int) -> None:
    x = np.array([word], np.uint32).view(np.float32)
    if np.isnan(x[0]):
        return
    for name in ODD:
        assert bits(FUNCTIONS[name](-x))[0] == bits(-FUNCTIONS[name](x))[0] or np.isnan(FUNCTIONS[name](x)[0])
    assert bits(vmath.cos(-x))[0] == bits(vmath.cos(x))[0]


def test_parity_and_range_on_a_sweep() -> None:
    x = floats_between(0.0, vmath.TRIG_LIMIT, 500_000)
    for name in ODD:
        np.testing.assert_array_equal(bits(FUNCTIONS[name](-x)), bits(-FUNCTIONS[name](x)))
        assert np.abs(FUNCTIONS[name](x)).max() <= 1
    np.testing.assert_array_equal(bits(vmath.cos(-x)), bits(vmath.cos(x)))
    assert np.abs(vmath.cos(x)).max() <= 1


SPECIAL = {
    "exp": [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (TINY, 1.0), (88.8, INF), (-104.0, 0.0), (-103.9, TINY)],
    "log": [(1.0, 0.0), (0.0, -INF), (-0.0, -INF), (INF, INF), (-1.0, NAN), (-TINY, NAN), (-INF, NAN)],
    "tanh": [
        (0.0, 0.0),
        (-0.0, -0.0),
        (9.015, 1.0),
        (-INF, -1.0),
        (INF, 1.0),
        (TINY, TINY),
        (-1e-40, -1e-40),
        (1e-4, 1e-4),
    ],
    "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (INF, 1.0), (-INF, 0.0), (TINY, 0.5), (-104.0, 0.0)],
    "erf": [(0.0, 0.0), (-0.0, -0.0), (3.917, 1.0), (-INF, -1.0), (INF, 1.0), (TINY, TINY), (-HUGE, -1.0)],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (TINY, TINY), (-1e-40, -1e-40), (32770.0, NAN)],
    "cos": [(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN), (TINY, 1.0), (-HUGE, NAN)],
    "sqrt": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-1.0, NAN), (-INF, NAN), (4.0, 2.0), (2.0**-148, 2.0**-74)],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name: str) -> None:
    x, expected = f32(*(x for x, _ in SPECIAL[name])), f32(*(y for _, y in SPECIAL[name]))
    got = FUNCTIONS[name](x)
    np.testing.assert_array_equal(bits(got), np.where(np.isnan(expected), np.uint32(0x7FC00000), bits(expected)))
    nans = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert bits(FUNCTIONS[name](nans)).tolist() == [0x7FC00000] * 4


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shape_and_layout_do_not_matter(name: str) -> None:
    function = FUNCTIONS[name]
    x = floats_between(0.01, 50.0, 70_000)[:70_000]
    y = function(x)  # longer than one chunk
    np.testing.assert_array_equal(function(x.reshape(7, 100, 100)), y.reshape(7, 100, 100))
    np.testing.assert_array_equal(function(x[::-3]), y[::-3])
    np.testing.assert_array_equal(function(x.reshape(700, 100).T), y.reshape(700, 100).T)
    assert function(x[5:6].reshape(())) == y[5] and function(x[:0]).shape == (0,)
    with pytest.raises(TypeError, match="float32"):
        function(x.astype(float))


# --- minimum, maximum, compare, select --------------------------------------------------------------------------------

EDGES = (0.0, -0.0, 1.0, -1.0, TINY, -TINY, INF, -INF, NAN)


@pytest.mark.parametrize("a, b", list(itertools.product(EDGES, EDGES)))
def test_minimum_maximum_and_comparisons_at_the_edges(a: float, b: float) -> None:
    least, most = vmath.minimum(f32(a), f32(b)), vmath.maximum(f32(a), f32(b))
    if math.isnan(a) or math.isnan(b):
        assert bits(least)[0] == bits(most)[0] == 0x7FC00000
    else:
        low, high = sorted((a, b), key=lambda v: (v, math.copysign(1, v)))  # -0 before +0
        assert (bits(least)[0], bits(most)[0]) == (bits(f32(low))[0], bits(f32(high))[0])
    holds = {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}
    for kind, expected in holds.items():
        got = vmath.compare(kind, f32(a), f32(b))
        assert got.dtype == np.float32 and got[0] == float(expected)


def test_select() -> None:
    c, nan = f32(0.0, -0.0, 1.0, TINY, -INF, NAN), np.array([0x7F800001], np.uint32).view(np.float32)
    assert vmath.select(c, f32(1.0), f32(2.0)).tolist() == [2, 2, 1, 1, 1, 1]
    assert bits(vmath.select(f32(1.0), nan, f32(0.0)))[0] == 0x7F800001


def test_two_operands_broadcast_and_are_checked() -> None:
    a, b = f32(1, 2, 3).reshape(3, 1), f32(2.0, 1.0)
    assert vmath.minimum(a, b).tolist() == [[1, 1], [2, 1], [2, 1]]
    assert vmath.maximum(a, b).tolist() == [[2, 1], [2, 2], [3, 3]]
    assert vmath.compare("lt", a, b).shape == vmath.select(a, b, b).shape == (3, 2)
    with pytest.raises(ValueError, match="no comparison 'lg'"):
        vmath.compare("lg", a, b)
    for call in (lambda: vmath.minimum(a, b.astype(float)), lambda: vmath.select(a.astype(float), b, b)):
        with pytest.raises(TypeError, match="float32"):
            call()


# --- bits -------------------------------------------------------------------------------------------------------------

GOLDEN = {
    "exp": "8e70d66bcb552ed6",
    "log": "0e70472fdb0be1e3",
    "tanh": "b599deaa5a7b1af4",
    "sigmoid": "6ca2e33a9ea09715",
    "sin": "3728ec5455073720",
    "cos": "f4021b92911c89dd",
    "erf": "04903f5b7a9f1dca",
    "sqrt": "866483d38bc4b384",
}


def digest(name: str) -> str:
    """Of the results on a million arguments: one in 6151 of all bit patterns, one in 1021 of those up to 64."""
    sweep = np.arange(0, 2**32, 6151, dtype=np.uint64).astype(np.uint32)
    usual = np.arange(0x3A000000, 0x42800000, 1021, dtype=np.uint32)
    x = np.concatenate([sweep, usual, usual | np.uint32(0x80000000)]).view(np.float32)
    return hashlib.sha256(FUNCTIONS[name](x).astype("<f4").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bits_have_not_changed(name: str) -> None:
    now = digest(name)
    assert now == GOLDEN[name], (
        f"vmath.{name} gives other bits than it used to. If you did not mean to change its definition, this is a bug "
        "(or a machine that contracts a*b+c, flushes subnormals, or reorders). If you did: every engine must follow, "
        "every published figure was made with the old bits, the docstring of the function says what it does, and "
        f"`tools/make_vmath_tables.py --measure {name}` must confirm its error. Then put {now!r} into GOLDEN."
    )


def test_tables_are_what_engines_read() -> None:
    for table in vmath.TABLES.values():
        assert table.dtype == np.float32 and table.ndim == 2 and table.shape[1] <= 32 and not table.flags.writeable
        assert np.isfinite(table).all()
    assert vmath.TABLES["tanh"].shape == vmath.TABLES["erf"].shape == (7, 32)
    assert vmath.TABLES["exp"].shape == (2, 32)
