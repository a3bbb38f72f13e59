"""An independent check of allocation and order in SRAM and PSUM: run the listing as ownership of bytes.

A write makes its buffer the owner of the bytes; a read must find every byte owned by its own buffer, in its own plane,
and written before. A loop is run for its first two iterations, and for all of them where its index moves through an
SRAM buffer. Nothing here uses the allocator's lifetimes.

That a byte is of the right buffer does not say which iteration or operation wrote it, and DRAM is not looked at: what
is read there before it is written, and queues that run against each other, are what `pintac.hazards` finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from pintac.backend.tiles.tile import Buffer, Item, Loop, Sync, TileOp, View, walk
from pintac.errors import ExecutionError
from pintac.isa import Space
from pintac.machine import Machine

Places = Callable[[tuple[int, ...], tuple[int, ...], int], tuple[np.ndarray, np.ndarray]]
"""`_units`, remembered while a listing is run."""


def check(items: Sequence[Item], machine: Machine) -> None:
    """Raise `ExecutionError` naming the operation and the buffers when a read finds another buffer's bytes on chip."""
    memory = {
        Space.SRAM: np.zeros(machine.sram_kib * 1024, np.int32),
        Space.PSUM: np.zeros(machine.psum_kib * 1024, np.int32),
    }
    names: dict[tuple[Buffer, int], int] = {}
    units = cache(_units)

    def owner(buffer: Buffer, plane: int) -> int:
        return names.setdefault((buffer, plane), len(names) + 1)

    def run(level: Sequence[Item], index: dict[int, int]) -> None:
        for item in level:
            if isinstance(item, Loop):
                for i in range(item.count if _moves(item) else min(2, item.count)):
                    run(item.body, {**index, item.level: i})
            elif not isinstance(item, Sync):
                _operation(item, index)

    def _operation(op: TileOp, index: dict[int, int]) -> None:
        for view in op.reads():
            if view.buffer.space not in memory:
                continue
            space = memory[view.buffer.space]
            for plane, places in _bytes(view, index, units):
                found = space[places]
                wrong = found != owner(view.buffer, plane)
                if wrong.any():
                    other = int(found[wrong][0])
                    held = next((b.name for (b, _), n in names.items() if n == other), "nothing")
                    raise ExecutionError(
                        f"allocation: {op.name} reads {view.buffer.name} where {held} was written",
                        location=op.loc,
                        hint="this is a bug of the compiler, please report it",
                    )
        for view in op.writes():
            if view.buffer.space not in memory:
                continue
            for plane, places in _bytes(view, index, units):
                memory[view.buffer.space][places] = owner(view.buffer, plane)

    run(items, {})


def _moves(loop: Loop) -> bool:
    """Whether the loop's index is part of an address in SRAM."""
    return any(
        view.buffer.space == Space.SRAM and any(level == loop.level for level, _ in view.steps)
        for op, _ in walk(loop.body)
        if isinstance(op, TileOp)
        for view in (*op.reads(), *op.writes())
    )


def _bytes(view: View, index: dict[int, int], places: Places) -> list[tuple[int, np.ndarray]]:
    """(plane, byte numbers) a view touches: every unit's first byte stands for it."""
    buffer = view.buffer
    assert buffer.addr is not None, buffer.name
    start = view.offset + sum(index.get(level, 0) * step for level, step in view.steps)
    if buffer.ring > 1:
        start += index.get(buffer.ring_level, 0) % buffer.ring * buffer.size
    units, first = places(view.shape, view.strides, view.bits)
    size = 2 * view.bits or 4
    data = (0, first + (buffer.addr + start * size))
    return [data, (1, units + (buffer.eaddr + start))] if view.bits else [data]


def _units(shape: tuple[int, ...], strides: tuple[int, ...], bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The elements, or blocks, of a view from its first one on, and all bytes of them (of blocks, their mantissas)."""
    extents = list(shape)
    if bits:
        extents[-2:] = [-(-extents[-2] // 4), -(-extents[-1] // 4)]
    at = np.zeros(1, np.int64)
    for extent, stride in zip(extents, strides, strict=True):
        at = (at[:, None] + np.arange(extent) * stride).reshape(-1)
    size = 2 * bits or 4
    return at, (at[:, None] * size + np.arange(size)).reshape(-1)
