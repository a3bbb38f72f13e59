"""Quantising and decoding every width, ragged edges, saturation, non-finite blocks, and what must not be touched."""

import numpy as np
import pytest

from pintac import isa, smx
from pintac.isa import MicroOp, Sink, Space
from tests.runtime.jit.engines import AVAILABLE, run_both
from tests.runtime.listing import REG, SRC, Listing


def _numbers(rows: int, cols: int, kind: str) -> np.ndarray:
    draw = np.random.default_rng(rows * 100 + cols)
    x = (draw.standard_normal((rows, cols)) * np.exp2(draw.integers(-30, 30, (rows, cols)))).astype(np.float32)
    if kind == "ties":
        x = draw.integers(-70000, 70000, (rows, cols)).astype(np.float32) / 2
    elif kind == "tiny":
        x = (x * 2.0**-120).astype(np.float32)
    elif kind == "large":
        x = (x * 2.0**60).astype(np.float32)
    elif kind == "special":
        some = np.array([np.inf, np.nan, -np.inf, 0.0, -0.0, 1.0, 1e-45], np.float32)
        x.reshape(-1)[::5] = np.resize(some, x.reshape(-1)[::5].size)
    return x


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("bits", smx.BITS)
def test_round_trip(bits: int, name: str) -> None:
    for kind in ("plain", "ties", "tiny", "large", "special"):
        listing = Listing()
        for shape in ((4, 16), (1, 1), (7, 21), (13, 30), (9, 8)):
            source = listing.source(_numbers(*shape, kind))
            packed = listing.sink(shape, bits=bits)
            listing.vpu(shape, [source], [], [(packed, SRC)])
            back = isa.Operand(isa.Kind.TENSOR, bits=bits, addr=packed.addr, eaddr=packed.eaddr, hi=packed.hi, cstep=1)
            listing.vpu(shape, [back], [isa.micro_op(MicroOp.NEG, SRC)], [(listing.sink(shape), REG)])
        state = run_both(listing.program(), name)
        assert bool(state.status[0] & smx.FLAG_SATURATED) == (kind == "large")
        assert bool(state.status[0] & smx.FLAG_NONFINITE) == (kind == "special")


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("kind", [k for k in Sink if k not in (Sink.NONE, Sink.WRITE)])
def test_reductions(kind: Sink, name: str) -> None:
    """All groups, with and without a start value, ragged columns, -0 and NaN among the numbers."""
    listing = Listing()
    for rows, cols, group in ((12, 37, 4), (12, 16, 6), (9, 3, 3), (5, 1, 0), (32, 20, 8), (1, 18, 0), (6, 5, 1)):
        x = _numbers(rows, cols, "plain")
        x[0, 0] = -0.0
        x[-1, -1] = np.nan if rows == 9 else x[-1, -1]
        if rows == 5:
            x[:] = -0.0
        inner = group if kind in (Sink.SUM_ROWS, Sink.MAX_ROWS) else 0
        shape = isa.sink_shape(kind, rows, cols, inner)
        for acc in (0, 1):
            start = listing.source(np.full(shape, -0.0, np.float32))
            sink = isa.Operand(kind, Space.SRAM, addr=start.addr, inner=inner, hi=start.hi, cstep=1)
            listing.vpu((rows, cols), [listing.source(x)], [], [(sink, SRC)], acc0=acc)
    run_both(listing.program(), name)
