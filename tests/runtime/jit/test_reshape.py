"""Narrow VPU instructions take another shape where that is the same, and keep theirs where it is not."""

from dataclasses import replace

import numpy as np
import pytest

from pintac import isa
from pintac.isa import Kind, MicroOp, Opcode, Operand, Sink
from pintac.runtime.jit.reshape import widened
from tests.runtime.jit.engines import AVAILABLE, run_both
from tests.runtime.listing import IMM, REG, SRC, Listing, uop


def _numbers(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)
    x[0, 0], x[-1, -1] = -0.0, np.nan if seed == 9 else x[-1, -1]
    return x


def _shapes(listing: Listing) -> list[tuple[int, int]]:
    program = listing.program()
    changed = [widened(i) for i in program.instructions if i.opcode is Opcode.VPU]
    return [(i["rows"], i["cols"]) for i in changed]


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize(
    ("rows", "cols", "shape"), [(32, 2, (4, 16)), (16, 3, (1, 48)), (20, 3, (3, 20)), (40, 1, (1, 40))]
)
def test_elements_one_behind_the_other(rows: int, cols: int, shape: tuple[int, int], name: str) -> None:
    listing = Listing()
    x, y = (listing.source(_numbers(rows, cols, seed)) for seed in (1, 9))
    scalar = replace(listing.source(_numbers(1, 1)), hi=0, cstep=0)
    index = Operand(kind=Kind.INDEX, addr=2**32 - 7, hi=cols, cstep=1)
    listing.vpu((rows, cols), [x, y, scalar], [uop(MicroOp.MUL, SRC, SRC + 1), uop(MicroOp.ADD, REG, SRC + 2)],
                [(listing.sink((rows, cols)), REG + 1)])  # fmt: skip
    listing.vpu((rows, cols), [index], [uop(MicroOp.PHILOX_U2, SRC, IMM + 3)], [(listing.sink((rows, cols)), REG)])
    listing.vpu((rows, cols), [x], [uop(MicroOp.NEG, SRC)], [(replace(x, kind=Sink.WRITE), REG)])
    assert set(_shapes(listing)) == {shape}
    run_both(listing.program(), name)


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("kind", [Sink.SUM_COLS, Sink.MAX_COLS])
@pytest.mark.parametrize("cols", [1, 2, 5, 9])
def test_folds_over_few_columns(cols: int, kind: Sink, name: str) -> None:
    listing = Listing()
    for acc in (0, 1):
        for seed in (1, 9):
            x = listing.source(_numbers(33, cols, seed))
            total = listing.source(np.full((33, 1), -0.0, np.float32))
            sinks = [(listing.sink((33, cols)), REG), (replace(total, kind=kind), SRC)]
            listing.vpu((33, cols), [x], [uop(MicroOp.ADD, SRC, SRC)], sinks, acc1=acc)
    assert set(_shapes(listing)) == {(cols, 33)}
    run_both(listing.program(), name)


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("kind", [Sink.SUM_ROWS, Sink.MAX_ROWS])
def test_groups_of_one_row_and_one_column(kind: Sink, name: str) -> None:
    listing = Listing()
    x = listing.source(_numbers(35, 1, 9))
    total = listing.source(np.full((35, 1), -0.0, np.float32))
    listing.vpu((35, 1), [x], [], [(replace(total, kind=kind, inner=1), SRC)], acc0=1)
    assert _shapes(listing) == [(1, 35)]
    run_both(listing.program(), name)


def test_what_keeps_its_shape() -> None:
    listing = Listing()
    x, packed = listing.source(_numbers(32, 2)), listing.sink((32, 2), bits=8)
    listing.vpu((32, 2), [x], [], [(packed, SRC)])  # blocks
    listing.vpu((32, 2), [x], [], [(listing.sink((1, 2), Sink.SUM_ROWS), SRC)])  # rows are added in order
    listing.vpu((32, 2), [x], [], [(listing.sink((1, 1), Sink.SUM_ALL), SRC)])
    grouped = replace(x, inner=4, hi=8, lo=2)
    listing.vpu((32, 2), [grouped], [uop(MicroOp.NEG, SRC)], [(listing.sink((32, 2)), REG)])
    assert set(_shapes(listing)) == {(32, 2)}
    wide = isa.make(Opcode.VPU, {"s0": x, "d0": replace(x, kind=Sink.WRITE)}, rows=32, cols=16, sel0=SRC)
    assert widened(wide) is wide
