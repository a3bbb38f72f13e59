"""Compute the constants of `pintac/vmath.py` and print them in the form in which they stand there.

    python tools/make_vmath_tables.py            print the block of literals
    python tools/make_vmath_tables.py --check    compare it with what pintac.vmath has; exit 1 if they differ
    python tools/make_vmath_tables.py --measure [FUNCTION ...]
                                                 errors of pintac.vmath on *all* arguments, and where a function that
                                                 should not decrease does (minutes a function)

Everything is computed with mpmath at 40 digits and rounded to fp32 at the end, so the result does not depend on the
platform. Needs mpmath and NumPy; the product itself imports neither this script nor mpmath. Changing a constant changes
the bits of every result: the golden hashes in tests/properties/test_vmath.py then have to be renewed, on purpose.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence

from mpmath import mp, mpf

mp.dps = 40

Function = Callable[[mpf], mpf]
NODES = 48  # Chebyshev nodes of a fit: least squares on them is close to the best uniform fit
STRETCH = mpf("0.01")  # an interval is fitted this much wider, which lowers the error at the seams: keeps it monotone
CENTRE_SEARCH = 1500  # floats tried on either side


def f32(x: mpf) -> mpf:
    """x rounded to fp32 (half-even), as an exact number."""
    if x == 0:
        return mpf(0)
    _, exponent = mp.frexp(x)  # 0.5 <= |mantissa| < 1
    quantum = mpf(2) ** (max(exponent, -125) - 24)
    return mp.nint(x / quantum) * quantum


def bits_of(x: mpf) -> int:
    return struct.unpack("<I", struct.pack("<f", float(x)))[0]


def float_of(bits: int) -> mpf:
    return mpf(struct.unpack("<f", struct.pack("<I", bits))[0])


def fit(f: Function, powers: Sequence[int], lo: mpf, hi: mpf, weight: Function) -> list[mpf]:
    """fp32 coefficients of sum c_i x**powers[i] ~ f on [lo, hi], least squares of weight * error.

    Coefficients are rounded one by one, lowest power first, and the remaining ones fitted again each time, so that
    they make up for the rounding.
    """
    nodes = [(lo + hi) / 2 + (hi - lo) / 2 * mp.cos(mp.pi * (2 * i + 1) / (2 * NODES)) for i in range(NODES)]
    weights = [weight(x) for x in nodes]
    rest = [f(x) for x in nodes]
    coefficients = []
    for first in range(len(powers)):
        todo = powers[first:]
        rows = mp.matrix([[w * x**p for p in todo] for x, w in zip(nodes, weights, strict=True)])
        right = mp.matrix([w * y for y, w in zip(rest, weights, strict=True)])
        c = f32(mp.lu_solve(rows.T * rows, rows.T * right)[0])
        coefficients.append(c)
        rest = [y - c * x ** powers[first] for x, y in zip(nodes, rest, strict=True)]
    return coefficients


def centre_with_short_value(f: Function, near: mpf) -> mpf:
    """The float close to `near` whose f is closest to being an fp32 number itself: a table value without rounding."""
    middle = bits_of(near)
    candidates = [float_of(b) for b in range(middle - CENTRE_SEARCH, middle + CENTRE_SEARCH + 1)]
    return min(candidates, key=lambda c: abs(f(c) - f32(f(c))))


def quarter_octaves(lowest_exponent: int) -> list[tuple[mpf, mpf]]:
    """32 intervals by exponent and two mantissa bits from 2**lowest_exponent on; the first one reaches down to 0."""
    edges = [mpf(2) ** (lowest_exponent + i // 4) * (1 + mpf(i % 4) / 4) for i in range(33)]
    return [(mpf(0) if i == 0 else edges[i], edges[i + 1]) for i in range(32)]


def lookup_table(f: Function, slope: mpf, c1: mpf, lowest_exponent: int, top: mpf) -> list[list[mpf]]:
    """Rows centre, c0..c5 of 32 entries: f(x) ~ c0 + c1 d + ... + c5 d**5 with d = min(x, top) - centre.

    Entry 0 is centred on 0 and has c0 = c2 = 0; its c1 is given, together with the whole slope that the function ends
    up with there (`slope` > `c1` if it adds x itself).
    """
    columns = []
    for i, (lo, hi) in enumerate(quarter_octaves(lowest_exponent)):
        hi = min(hi, top)
        if i == 0:
            tail = fit(lambda d: f(d) - slope * d, (3, 4, 5), lo, hi, lambda d: 1 / d)
            columns.append([mpf(0), mpf(0), c1, mpf(0), *tail])
        elif lo >= top:
            columns.append([top, mpf(1), *[mpf(0)] * 5])
        else:
            c = centre_with_short_value(f, (lo + hi) / 2)
            c0 = f32(f(c))
            edge = (hi - lo) * STRETCH
            a, b = lo - edge - c, hi + edge - c
            tail = fit(lambda d, c=c, c0=c0: f(c + d) - c0, (1, 2, 3, 4, 5), a, b, lambda d: mpf(1))
            columns.append([c, c0, *tail])
    return [list(row) for row in zip(*columns, strict=True)]


def exp_table() -> list[list[mpf]]:
    """Rows offset, value of 32 entries: value = e**c with c near j ln(2) / 32, offset = j ln(2) / 32 - c."""
    steps = [j * mp.log(2) / 32 for j in range(32)]
    centres = [mpf(0), *(centre_with_short_value(mp.exp, step) for step in steps[1:])]
    offsets = [f32(step - c) for step, c in zip(steps, centres, strict=True)]
    return [offsets, [f32(mp.exp(c)) for c in centres]]


def chopped(x: mpf, bits: int) -> mpf:
    """x cut off (not rounded) after its first `bits` significant bits."""
    _, exponent = mp.frexp(x)
    quantum = mpf(2) ** (exponent - bits)
    return mp.floor(x / quantum) * quantum


def pieces(x: mpf, widths: Sequence[int]) -> list[mpf]:
    """x as a sum of numbers with so many significant bits each, then one rounded to fp32."""
    out = []
    for width in widths:
        out.append(chopped(x, width))
        x -= out[-1]
    return [*out, f32(x)]


def tables() -> dict[str, list[list[mpf]]]:
    half_step = mp.log(2) / 64 * mpf("1.0001")
    quarter_pi = mp.pi / 4 * mpf("1.0001")
    erf_c1 = f32(2 / mp.sqrt(mp.pi) - 1)

    def expm1_tail(r: mpf) -> mpf:
        return (mp.expm1(r) - r) / r**2

    def log1p_tail(r: mpf) -> mpf:
        return (mp.log1p(r) - r + r**2 / 2) / r**3

    def sin_tail(u: mpf) -> mpf:
        r = mp.sqrt(u)
        return (mp.sin(r) - r) / (r * u)

    def cos_tail(u: mpf) -> mpf:
        return (mp.cos(mp.sqrt(u)) - 1 + u / 2) / u**2

    return {
        "exp": exp_table(),
        "exp_tail": [fit(expm1_tail, range(2), -half_step, half_step, lambda r: r**2)],
        "exp_reduction": [[f32(32 / mp.log(2)), *pieces(mp.log(2) / 32, (11,))]],
        "log": [fit(log1p_tail, range(9), mp.sqrt(mpf(1) / 2) - 1, mp.sqrt(2) - 1, lambda r: r**2)],
        "log_reduction": [pieces(mp.log(2), (12,))],
        "sin": [fit(sin_tail, range(3), mpf(0), quarter_pi**2, lambda u: u)],
        "cos": [fit(cos_tail, range(3), mpf(0), quarter_pi**2, lambda u: u**2)],
        "trig_reduction": [[f32(2 / mp.pi), *pieces(mp.pi / 2, (9, 9, 9))]],
        "tanh": lookup_table(mp.tanh, mpf(1), mpf(1), -4, mpf("9.25")),
        "erf": lookup_table(mp.erf, 1 + erf_c1, erf_c1, -6, mpf(4)),
    }


def literals(found: dict[str, list[list[mpf]]]) -> str:
    lines = ["_WORDS: dict[str, tuple[str, ...]] = {"]
    for name, rows in found.items():
        lines.append(f'    "{name}": (')
        for row in rows:
            words = [f"{bits_of(x):08x}" for x in row]
            for i in range(0, len(words), 8):
                last = i + 8 >= len(words)
                lines.append('        "' + " ".join(words[i : i + 8]) + ('",' if last else ' "'))
        lines.append("    ),")
    return "\n".join([*lines, "}"])


# name: domains (both ends of one sign, smaller magnitude first), whether it never decreases
MEASURED: dict[str, tuple[list[tuple[float, float]], bool]] = {
    "exp": ([(0.0, 89.0), (-0.0, -110.0)], True),
    "log": ([(1e-45, 3.4028234e38)], True),
    "tanh": ([(0.0, 20.0)], True),
    "sigmoid": ([(0.0, 110.0), (-0.0, -110.0)], True),
    "erf": ([(0.0, 20.0)], True),
    "sin": ([(0.0, 32768.0)], False),
    "cos": ([(0.0, 32768.0)], False),
}
PIECE = 1 << 20  # arguments at a time


def measure(name: str, lo: float, hi: float, monotone: bool) -> str:
    """Largest error in ulp over all fp32 numbers from lo to hi, against double precision."""
    import math

    import numpy as np

    from pintac import vmath

    exact: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "erf": lambda x: np.fromiter(map(math.erf, x.tolist()), float, x.size),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    }
    function, reference = getattr(vmath, name), exact.get(name) or getattr(np, name)
    first, last = (int(b) for b in np.array([lo, hi], np.float32).view(np.uint32))
    worst, at, decreases = 0.0, lo, 0
    for start in range(first, last + 1, PIECE):  # pieces overlap by one, for the comparison of neighbours
        x = np.arange(start, min(start + PIECE, last) + 1, dtype=np.uint64).astype(np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            y, true = function(x), reference(x.astype(float))
            error = np.abs(y - true) / np.ldexp(1.0, np.maximum(np.frexp(true)[1], -125) - 24)
        error[np.abs(true) >= float(np.finfo(np.float32).max)] = 0
        if error.max() > worst:
            worst, at = float(error.max()), float(x[error.argmax()])
        decreases += int((y[1:] > y[:-1]).sum() if first >> 31 else (y[1:] < y[:-1]).sum())
    tail = f", decreases {decreases} times" if monotone else ""
    return f"{name:8} [{lo:g}, {hi:g}]  {worst:.4f} ulp at {at!r}{tail}"


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--measure"]:
        for name in arguments[1:] or MEASURED:
            domains, monotone = MEASURED[name]
            for lo, hi in domains:
                print(measure(name, lo, hi, monotone), flush=True)
        return 0
    found = tables()
    if "--check" not in arguments:
        print(literals(found))
        return 0
    from pintac.vmath import TABLES

    wrong = [
        name
        for name, rows in found.items()
        if [bits_of(x) for row in rows for x in row] != TABLES[name].view("uint32").reshape(-1).tolist()
    ]
    print("constants differ: " + ", ".join(wrong) if wrong else "constants are those of pintac.vmath")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
