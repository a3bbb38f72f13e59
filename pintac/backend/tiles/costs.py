"""Cycles of single tile operations: what the search for orders, and ways to fit, are compared by."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache

from pintac.backend.tiles.tile import CopyOp, MatmulOp, TileOp, View, VpuOp
from pintac.backend.tiles.transfer import transfer_cycles
from pintac.backend.tiles.vpu import folded_axes
from pintac.cost_matmul import Mapping, best_dataflow
from pintac.isa import Queue, Sink, Space
from pintac.machine import Machine


def mapping_of(op: MatmulOp, machine: Machine) -> Mapping:
    """How the tensor unit will run it."""
    in_sram = op.d.buffer.space == Space.SRAM
    return _mapping(op.m, op.k, op.n, op.a.bits, op.b.bits, machine, op.accumulate, in_sram)


@cache
def _mapping(m: int, k: int, n: int, a: int, b: int, machine: Machine, acc: bool, to_sram: bool) -> Mapping:
    return best_dataflow(m, k, n, a, b, machine, acc=acc, to_sram=to_sram)


def vpu_cycles(op: VpuOp, machine: Machine) -> int:
    """Cycles of a vector operation, never more than `pintac.cost` says of its instructions.

    Left out are bank conflicts, which need addresses, edges of the grid of lanes, what reductions write and what is
    read once for all rows: three eighths of the cycles at most where SRAM is no limit (tests/backend/test_costs.py).
    """
    rows, cols = math.prod(op.shape[op.unrolled : -1]), op.shape[-1]
    sources = [v for v in op.sources if isinstance(v, View)]
    blocks = -(-rows // 4) * -(-cols // 4)
    writes = [v for v, s in zip(op.sinks, op.kernel.sinks, strict=True) if s.kind == Sink.WRITE]
    quantised = blocks * sum(v.bits > 0 for v in writes)
    steps = -(-rows * cols // machine.vpu_lanes)
    if any(v.bits for v in (*sources, *writes)):
        steps = max(steps, -(-blocks * 16 // machine.vpu_lanes))
    written = sum(blocks * (2 * v.bits + 1) if v.bits else 4 * rows * cols for v in writes)
    streamed = [v for v in sources if v.bits or all(s for n, s in _inner(v, op.unrolled) if n > 1)]
    read = sum(blocks * (2 * v.bits + 1) if v.bits else 4 * rows * cols for v in streamed)
    once = max(
        steps,
        -(-written // machine.vpu_sram_write_bytes_per_cycle),
        -(-read // machine.vpu_sram_read_bytes_per_cycle),
        -(-quantised // machine.quantise_blocks_per_cycle),
    )
    turns = math.prod(op.shape[a] for a in folded_axes(op))  # each adds to what the one before has written
    turn = once * math.prod(op.shape[: op.unrolled]) // turns
    return (turns - 1) * max(turn, once + machine.vpu_pipeline_cycles) + turn


def _inner(view: View, unrolled: int) -> Iterator[tuple[int, int]]:
    """Sizes and strides of what an instruction addresses."""
    return zip(view.shape[unrolled:], view.strides[unrolled:], strict=True)


def cost(op: TileOp, machine: Machine) -> float:
    """Cycles that an operation takes its unit."""
    if isinstance(op, MatmulOp):
        return float(mapping_of(op, machine).busy)
    if isinstance(op, VpuOp):
        return float(vpu_cycles(op, machine))
    assert isinstance(op, CopyOp)
    return float(sum(transfer_cycles(op, machine)))


def work(ops: Sequence[TileOp], machine: Machine) -> int:
    """Cycles of the unit with most to do."""
    busy: dict[Queue, float] = defaultdict(float)
    for op in ops:
        busy[op.queue] += cost(op, machine)
    return int(max(busy.values(), default=0))
