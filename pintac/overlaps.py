"""What an instruction writes lies apart from itself and from what it reads: no order of elements is given.

The units work on elements in any order, several at a time. So a destination has each of its elements, or SMX blocks, in
a place of its own; two destinations lie apart; and a destination overlaps a source only where both are the same fp32
elements, which every lane reads before it writes. Operands are looked at where they lie in the first turn of all loops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import numpy as np

from pintac import isa
from pintac.isa import Instruction, Kind, Opcode, Operand, Sink, Space

_MOST_ELEMENTS = 1 << 20  # of an operand that is looked at element by element; a larger one as the range it spans


@dataclass(frozen=True)
class _Grid:
    """rows x cols elements (SMX: blocks) and their strides; with `inner` rows lie in groups."""

    rows: int
    cols: int
    hi: int
    lo: int
    cstep: int
    inner: int

    @property
    def span(self) -> int:
        """Elements from the first to behind the last."""
        if self.inner:
            groups, last = divmod(self.rows - 1, self.inner)
            rows = groups * self.hi + (min(self.rows, self.inner) - 1 if groups else last) * self.lo
        else:
            rows = (self.rows - 1) * self.hi
        return rows + (self.cols - 1) * self.cstep + 1

    def offsets(self) -> np.ndarray:
        """int64 [rows, cols]: where the elements lie, in elements."""
        row = np.arange(self.rows, dtype=np.int64)
        along = (row // self.inner) * self.hi + (row % self.inner) * self.lo if self.inner else row * self.hi
        return np.asarray(along[:, None] + np.arange(self.cols, dtype=np.int64) * self.cstep)


@dataclass(frozen=True)
class _View:
    """An operand in the first turn of all loops: (byte address, bytes of an element) of each plane."""

    space: Space
    planes: tuple[tuple[int, int], ...]
    grid: _Grid

    @property
    def is_fp32(self) -> bool:
        return len(self.planes) == 1


def complaint(instruction: Instruction) -> str | None:
    """What of an instruction lies on top of what; None where nothing does. Its operands are valid one by one."""
    if instruction.opcode is Opcode.MATMUL:
        sources, sinks = _of_matmul(instruction)
    elif instruction.opcode is Opcode.VPU:
        sources, sinks = _of_vpu(instruction)
    else:
        return None  # transfers copy one row after the other
    for name, sink in sinks.items():
        if not _distinct(sink.grid):
            what = "elements" if sink.is_fp32 else "blocks"
            return f"{name} writes {what} over each other: its strides are too short"
        if not sink.is_fp32 and _meet(_planes(sink)[:1], _planes(sink)[1:]):
            return f"{name} has its exponents where its mantissas are"
    if len(sinks) == 2 and _clash(sinks["d0"], sinks["d1"]):
        return "d0 and d1 overlap"
    for name, sink in sinks.items():
        for other, source in sources.items():
            if _clash(sink, source) and not (instruction.opcode is Opcode.VPU and _same(sink, source)):
                return f"{name} overlaps {other}, which is still read"
    return None


def _of_matmul(i: Instruction) -> tuple[dict[str, _View], dict[str, _View]]:
    m, n, k = i["m"], i["n"], i["k"]
    left = _view(i.operand("s0"), *((k, m) if i["ta"] else (m, k)))
    right = _view(i.operand("s1"), *((n, k) if i["tb"] else (k, n)))
    return {"s0": left, "s1": right}, {"d0": _view(i.operand("d0"), m, n)}


def _of_vpu(i: Instruction) -> tuple[dict[str, _View], dict[str, _View]]:
    rows, cols = i["rows"], i["cols"]
    sources = {f"s{n}": i.operand(f"s{n}") for n in range(isa.SOURCES)}
    sinks = {f"d{n}": i.operand(f"d{n}") for n in range(isa.SINKS)}
    return (
        {name: _view(o, rows, cols) for name, o in sources.items() if o.kind == Kind.TENSOR},
        {
            name: _view(o, *isa.sink_shape(o.kind, rows, cols, o.inner), o.inner if o.kind == Sink.WRITE else 0)
            for name, o in sinks.items()
            if o.kind != Sink.NONE
        },
    )


def _view(o: Operand, rows: int, cols: int, inner: int | None = None) -> _View:
    if o.bits:
        grid = _Grid(-(-rows // 4), -(-cols // 4), o.hi, 0, 1, 0)
        return _View(Space(o.space), ((o.addr, 2 * o.bits), (o.eaddr, 1)), grid)
    grid = _Grid(rows, cols, o.hi, o.lo, o.cstep, o.inner if inner is None else inner)
    return _View(Space(o.space), ((o.addr, 4),), grid)


@lru_cache(maxsize=1 << 16)
def _distinct(g: _Grid) -> bool:
    """Whether no two elements lie in one place."""
    if g.inner == 0 or g.inner >= g.rows:
        hi = g.lo if g.inner else g.hi
        if g.rows == 1 or g.cols == 1:
            return (g.rows == 1 or hi > 0) and (g.cols == 1 or g.cstep > 0)
        common = gcd(hi, g.cstep)  # rows and columns further, the same place comes again
        return hi > 0 and g.cstep > 0 and (g.cstep // common >= g.rows or hi // common >= g.cols)
    levels = sorted(((g.hi, -(-g.rows // g.inner)), (g.lo, g.inner), (g.cstep, g.cols)))
    reach = 0  # of the levels with shorter steps
    for step, count in levels:
        if count > 1 and step <= reach:
            return g.rows * g.cols <= _MOST_ELEMENTS and np.unique(g.offsets()).size == g.rows * g.cols
        reach += step * (count - 1)
    return True


def _same(sink: _View, source: _View) -> bool:
    """Whether both are the same fp32 elements."""
    if sink.planes != source.planes or not sink.is_fp32 or (sink.grid.rows, sink.grid.cols) != (
        source.grid.rows, source.grid.cols
    ):  # fmt: skip
        return False
    return sink.grid == source.grid or bool((sink.grid.offsets() == source.grid.offsets()).all())


_Plane = tuple[int, int, _Grid]  # byte address, bytes of an element, elements


def _planes(view: _View) -> list[_Plane]:
    return [(addr, size, view.grid) for addr, size in view.planes]


def _clash(a: _View, b: _View) -> bool:
    """Whether a byte belongs to both."""
    return a.space == b.space and _meet(_planes(a), _planes(b))


def _meet(a: list[_Plane], b: list[_Plane]) -> bool:
    return any(
        low < other + size_other * grid_other.span
        and other < low + size * grid.span
        and _share(other - low, size, grid, size_other, grid_other)
        for low, size, grid in a
        for other, size_other, grid_other in b
    )


@lru_cache(maxsize=1 << 12)
def _share(apart: int, size: int, grid: _Grid, size_other: int, grid_other: _Grid) -> bool:
    """Whether two planes, the second so many bytes behind the first, have a byte in common."""
    if max(grid.rows * grid.cols, grid_other.rows * grid_other.cols) > _MOST_ELEMENTS:
        return True
    first, second = (np.concatenate(list(_bytes(*p))) for p in ((0, size, grid), (apart, size_other, grid_other)))
    return bool(np.intersect1d(first, second).size)


def _bytes(at: int, size: int, grid: _Grid) -> Iterator[np.ndarray]:
    """The bytes of a plane."""
    places = np.unique(grid.offsets()) * size + at
    for byte in range(size):
        yield places + byte
