"""Addresses in SRAM: buffers whose lives do not overlap in the listing share memory.

A buffer lives from its first to its last operation; a loop that holds some of its operations but not all, or that
reads it before writing it, keeps it for its whole length. The buffers that a loop body has to itself were arranged with
its order (`order`) and are placed as one. Reuse is safe whatever the queues' timing because `sync`
orders every pair of conflicting accesses by their addresses. `check` verifies the result by other means.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from pintac.backend.listing.spread import Place, spread
from pintac.backend.tiles.tile import Buffer, Item, Loop, Sync
from pintac.backend.ways import WayError
from pintac.isa import Space
from pintac.machine import Machine

ALIGNMENT = 64
MOVABLE = 16
"""A buffer of at most this part of SRAM moves to where memory has been free longest."""
SMALL = 192
"""A buffer of at most this part of SRAM is small (see `lifetimes`)."""


class SramFullError(WayError):
    """SRAM is short; `alive` are the buffers in it where most is needed."""

    def __init__(self, alive: frozenset[Buffer], demand: int, capacity: int, name: str, size: int) -> None:
        needed = f"{demand} bytes are needed at once, {capacity} are there (no room for {name}, {size} bytes)"
        if demand <= capacity:
            needed = f"no {size} bytes in a row are free for {name}, with {demand} of {capacity} bytes needed at once"
        super().__init__(
            f"SRAM: {needed}",
            hint="a larger sram_kib, narrower layers, a smaller rank, or fewer bits",
        )
        self.alive = alive


@dataclass
class Life:
    """Listing positions between which a buffer's contents matter."""

    first: int
    last: int


def lifetimes(items: Sequence[Item], small: int = 0) -> dict[Buffer, Life]:
    """The life of every buffer of the schedule, in listing positions.

    Buffers of up to `small` bytes keep their memory for the whole of the loops they are used in: it is not worth
    waiting for others to leave it.
    """
    accesses: dict[Buffer, list[tuple[int, bool, tuple[int, ...]]]] = {}
    spans: list[tuple[int, int]] = []
    loops: list[Loop] = []

    def visit(level: Sequence[Item], stack: tuple[int, ...], at: int) -> int:
        for item in level:
            if isinstance(item, Loop):
                number = len(spans)
                spans.append((at, at))
                loops.append(item)
                end = visit(item.body, (*stack, number), at)
                spans[number] = (at, end)
                at = end
            elif not isinstance(item, Sync):
                for view in item.reads():
                    accesses.setdefault(view.buffer, []).append((at, False, stack))
                for view in item.writes():
                    accesses.setdefault(view.buffer, []).append((at, True, stack))
                at += 1
        return at

    visit(items, (), 0)
    out: dict[Buffer, Life] = {}
    for buffer, uses in accesses.items():
        life = Life(min(u[0] for u in uses), max(u[0] for u in uses))
        for number in sorted({n for _, _, stack in uses for n in stack}):
            inside = [u for u in uses if number in u[2]]
            carried = not inside[0][1]
            ringed = buffer.ring > 1 and loops[number].level >= buffer.ring_level
            stays = buffer.bytes <= small and buffer.arena is None
            if len(inside) < len(uses) or carried or ringed or stays:
                life.first = min(life.first, spans[number][0])
                life.last = max(life.last, spans[number][1] - 1)
        out[buffer] = life
    return out


def allocate(items: Sequence[Item], machine: Machine, apart: bool = False) -> int:
    """Give every SRAM buffer of the schedule its address; returns the bytes used.

    `apart`: small ones go to the memory that has been free longest (see `spread`).
    Raises `DoesNotFitError` with the demand where it is highest.
    """
    lives: dict[Buffer, Life] = {}
    inside: list[Buffer] = []
    for buffer, life in lifetimes(items, machine.sram_kib * 1024 // SMALL).items():
        if buffer.space == Space.SRAM and buffer.arena is not None:
            inside.append(buffer)
            arena = lives.setdefault(buffer.arena[0], Life(life.first, life.last))
            arena.first, arena.last = min(arena.first, life.first), max(arena.last, life.last)
        elif buffer.space == Space.SRAM:
            lives[buffer] = life
    capacity = machine.sram_kib * 1024
    placed: list[tuple[int, int, Life]] = []  # by address
    top = 0
    for buffer, life in sorted(lives.items(), key=lambda e: (-e[0].bytes, e[1].first, e[0].name)):
        size = -(-buffer.bytes // ALIGNMENT) * ALIGNMENT
        at = 0
        for start, end, other in placed:
            if end > at and _overlap(other, life):
                if start - at >= size:
                    break
                at = max(at, end)
        if at + size > capacity:
            alive = _peak(lives, life)
            raise SramFullError(alive, sum(b.bytes for b in alive), capacity, buffer.name, size)
        _put(buffer, at)
        insort(placed, (at, at + size, life), key=lambda p: p[0])
        top = max(top, at + size)
    if apart:
        top = _apart(lives, capacity)
    for buffer in inside:
        assert buffer.arena is not None
        arena_of, offset = buffer.arena
        assert arena_of.addr is not None
        buffer.addr = arena_of.addr + offset
        buffer.eaddr = buffer.addr + buffer.mantissa_bytes
    return top


def _put(buffer: Buffer, at: int) -> None:
    buffer.addr, buffer.eaddr = at, at + buffer.ring * buffer.mantissa_bytes


def _apart(lives: dict[Buffer, Life], capacity: int) -> int:
    """Move small buffers to the memory that has been free longest; returns the bytes used."""
    sizes = [-(-b.bytes // ALIGNMENT) * ALIGNMENT for b in lives]
    starts = [b.addr for b in lives if b.addr is not None]
    places = [
        Place(at, at + size, life.first, life.last)
        for at, size, life in zip(starts, sizes, lives.values(), strict=True)
    ]
    movable = [i for i, size in enumerate(sizes) if size <= capacity // MOVABLE]
    starts = spread(places, movable, capacity)
    for buffer, at in zip(lives, starts, strict=True):
        _put(buffer, at)
    return max([0, *(at + size for at, size in zip(starts, sizes, strict=True))])


def _peak(lives: dict[Buffer, Life], where: Life) -> frozenset[Buffer]:
    """The buffers alive when most bytes are needed while `where` lives."""
    starts = {max(o.first, where.first) for o in lives.values() if _overlap(o, where)}
    alive = [frozenset(b for b, o in lives.items() if o.first <= t <= o.last) for t in sorted(starts)]
    return max(alive, key=lambda buffers: sum(b.bytes for b in buffers))


def _overlap(a: Life, b: Life) -> bool:
    return a.first <= b.last and b.first <= a.last
