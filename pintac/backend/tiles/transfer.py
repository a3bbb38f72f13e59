"""Copies between DRAM and SRAM as DMA instructions see them: runs of bytes, two dimensions of them, and the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pintac.backend.tiles.tile import CopyOp
from pintac.cost import bus_cycles
from pintac.isa import Queue
from pintac.machine import Machine

Axis = tuple[int, int, int]
"""(size, source stride, target stride), in elements or blocks."""


@dataclass(frozen=True)
class Runs:
    """A copy as runs of `size` elements or blocks: `dims` are what one instruction repeats, `outer` is unrolled."""

    size: int
    dims: tuple[Axis, Axis]
    outer: tuple[Axis, ...]


def runs(op: CopyOp) -> Runs:
    """The longest runs that are contiguous on both sides."""
    shape = list(op.source.shape)
    if op.source.bits:
        shape[-2:] = [-(-shape[-2] // 4), -(-shape[-1] // 4)]
    axes = _merged(shape, op.source.strides, op.target.strides)
    contiguous = axes[-1][1] == axes[-1][2] == 1
    size, rest = (axes[-1][0], axes[:-1]) if contiguous else (1, axes)
    rest = [(1, 0, 0)] * (2 - len(rest)) + rest
    return Runs(size, (rest[-2], rest[-1]), tuple(rest[:-2]))


def plane_bytes(op: CopyOp) -> tuple[int, ...]:
    """Bytes of an element or block in each plane: fp32 data; mantissas and exponents."""
    return (2 * op.source.bits, 1) if op.source.bits else (4,)


def transfer_cycles(op: CopyOp, machine: Machine) -> tuple[int, int]:
    """Cycles of the bus for the data or the mantissa plane, and for the exponent plane."""
    found = runs(op)
    side = 1 if op.queue == Queue.LOAD else 2
    (outer, *_), (count, *_) = found.dims
    lo, hi = found.dims[0][side], found.dims[1][side]
    times = math.prod(axis[0] for axis in found.outer)
    planes = plane_bytes(op)
    cycles = [times * bus_cycles(found.size * b, count, outer, hi * b, lo * b, machine)[0] for b in planes]
    return cycles[0], cycles[1] if len(cycles) > 1 else 0


def _merged(shape: Sequence[int], a: Sequence[int], b: Sequence[int]) -> list[Axis]:
    """The axes left after merging those that run on in both."""
    out: list[Axis] = []
    for size, sa, sb in reversed([(n, x, y) for n, x, y in zip(shape, a, b, strict=True) if n != 1]):
        if out and sa == out[0][0] * out[0][1] and sb == out[0][0] * out[0][2]:
            out[0] = (size * out[0][0], out[0][1], out[0][2])
        else:
            out.insert(0, (size, sa, sb))
    return out or [(1, 1, 1)]
