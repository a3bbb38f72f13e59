"""What the code of a VPU kernel depends on, read off a decoded instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pintac import isa
from pintac.isa import Kind, MicroOp, Opcode, Sink
from pintac.runtime.jit.codegen import LANES

# How often a value has to be computed.
CONSTANT, PER_CHUNK, PER_STRIP, PER_ROW = range(4)


@dataclass(frozen=True)
class Source:
    """The form of a source: `bits` 0 is fp32, -1 an index; `level` how it depends on rows; `inner`: rows are grouped.

    columns: "unit" (adjacent), "same" (one value a row) or "strided".
    """

    bits: int
    level: int
    inner: bool
    columns: str


@dataclass(frozen=True)
class Destination:
    """The form of a sink; `grouped`: a row reduction of several groups, "strips" if they are whole strips."""

    kind: int
    bits: int
    select: int
    acc: bool
    inner: bool
    columns: str
    grouped: str


@dataclass(frozen=True)
class VpuShape:
    """Everything a VPU kernel's code depends on; unused sources are None. `whole`: no strip or vector is partial."""

    sources: tuple[Source | None, ...]
    micro_ops: tuple[tuple[int, int, int, int], ...]
    sinks: tuple[tuple[int, Destination], ...]
    whole: bool

    @property
    def key(self) -> str:
        return f"vpu {self!r}"


def _columns(cstep: int, cols: int) -> str:
    if cstep == 0 or cols == 1:
        return "same"
    return "unit" if cstep == 1 else "strided"


def shape_of(row: np.ndarray) -> VpuShape:
    """The shape of a decoded VPU instruction."""
    field = {name: f.column for name, f in isa.DEFS[Opcode.VPU].fields.items()}

    def get(name: str) -> int:
        return int(row[field[name]])

    rows, cols = get("rows"), get("cols")
    ops = [isa.split_micro_op(get(f"uop{i}")) for i in range(get("uops"))]
    sinks = []
    for i in range(isa.SINKS):
        g = f"d{i}"
        kind, inner = get(f"{g}.kind"), get(f"{g}.inner")
        if kind == Sink.NONE:
            continue
        write = kind == Sink.WRITE
        out_cols = isa.sink_shape(kind, rows, cols, inner)[1]
        grouped = ""
        if kind in (Sink.SUM_ROWS, Sink.MAX_ROWS) and inner and inner != rows:
            grouped = "rows" if inner % 4 else "strips"
        columns = "unit" if get(f"{g}.cstep") == 1 and (write or out_cols > 1) else "strided"
        bits, select, acc = get(f"{g}.bits"), get(f"sel{i}"), bool(get(f"acc{i}"))
        sinks.append((i, Destination(kind, bits, select, acc, write and bool(inner), columns, grouped)))
    live = _live(ops, [sink.select for _, sink in sinks])
    sources: list[Source | None] = []
    for i in range(isa.SOURCES):
        g = f"s{i}"
        if isa.SELECT_SOURCE + i not in live:
            sources.append(None)
            continue
        bits = -1 if get(f"{g}.kind") == Kind.INDEX else get(f"{g}.bits")
        if bits > 0:
            sources.append(Source(bits, PER_ROW, False, "unit"))
            continue
        hi, lo, inner = get(f"{g}.hi"), get(f"{g}.lo"), get(f"{g}.inner")
        if inner >= rows:  # a single group: its rows are `lo` apart
            level, split = (PER_ROW if lo else PER_CHUNK), bool(lo)
        elif inner:
            level = PER_CHUNK if not hi and not lo else PER_STRIP if not lo and inner % 4 == 0 else PER_ROW
            split = level != PER_CHUNK
        else:
            level, split = (PER_ROW if hi else PER_CHUNK), False
        sources.append(Source(bits, level, split, _columns(get(f"{g}.cstep"), cols)))
    kept = tuple((int(op), a, b, c) if i in live else (0, 0, 0, 0) for i, (op, a, b, c) in enumerate(ops))
    return VpuShape(tuple(sources), kept, tuple(sinks), rows % 4 == 0 and cols % LANES == 0)


def arguments(op: MicroOp, a: int, b: int, c: int) -> tuple[int, ...]:
    return (a, b, c)[: isa.ARITY[op]]


def _live(ops: Sequence[tuple[MicroOp, int, int, int]], wanted: Sequence[int]) -> set[int]:
    """Selectors that the sinks depend on."""
    live = set(wanted)
    for i in reversed(range(len(ops))):
        if i in live:
            live.update(arguments(*ops[i]))
    return live
