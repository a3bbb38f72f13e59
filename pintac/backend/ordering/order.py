"""The order of a loop body: list scheduling on the four units, and room for its results in PSUM.

The listing's order is its meaning, so only what depends keeps its order; the rest is free. A body that runs many times
is judged by the cycles of one iteration once it goes round and round, with the next iteration's work entering each
unit as soon as the last one's is done; straight code by when its last result is there. Orders are made by list
scheduling under several priorities, and the best ones are improved by moving single operations. Results in PSUM and the
buffers that belong to the body alone get their addresses here, because when memory is free is what limits how far the
units can run ahead; so they are chosen anew as the order changes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from pintac.backend.ordering import compiled as core
from pintac.backend.ordering.plain_order import plain_order
from pintac.backend.tiles.costs import cost, mapping_of, vpu_cycles
from pintac.backend.tiles.dependencies import buffers_of, dependencies, reach
from pintac.backend.tiles.tile import Buffer, CopyOp, MatmulOp, TileOp, VpuOp
from pintac.backend.tiles.transfer import transfer_cycles
from pintac.ir import Node
from pintac.isa import Queue, Space
from pintac.machine import Machine

PSUM_GRANULE = 1024
"""Bytes to which results in PSUM are aligned."""
SRAM_GRANULE = 256
"""Bytes to which buffers of a loop body are aligned."""

_QUEUE = {Queue.LOAD: core.LOAD, Queue.TCU: core.TCU, Queue.VPU: core.VPU, Queue.STORE: core.STORE}


NEAR = 8
"""Operations ahead of the plain order below which there is no point in more."""
LONG = 2000
"""Operations of straight code for which every attempt at an order takes seconds."""
STARTS = 5
"""List schedules of a loop body that are improved a little, to go on from the best of them."""
TRIAL = 9
"""Part of the moves after which they are compared."""
CHAINS = 2
"""Searches of a loop body with different random numbers, side by side."""
MANY = 400
"""Operations from which on all moves are made; with fewer, fewer do."""
REMEMBERED = 256
"""Results of searches that are kept."""
HEAT = 5.0
"""Cycles an iteration may get longer by a move that is kept, at first: the search cools to none."""


_MEMORY: dict[bytes, Any] = {}
_MEMORY_LOCK = Lock()


T = TypeVar("T")


class NoOrderError(Exception):
    """Memory is too small for any order that was tried. `reached`: the cycles of what had its order before."""

    reached = 0


class PsumFullError(NoOrderError):
    """Results in PSUM wait for work that itself needs PSUM: `owners` must go to SRAM."""

    def __init__(self, owners: set[Node]) -> None:
        super().__init__("PSUM is full")
        self.owners = owners


class NoRoomError(NoOrderError):
    """A loop body needs more SRAM for its own buffers than it is given."""


@dataclass(frozen=True)
class Search:
    """How the order of a loop body, or of straight code (not `loop`), is looked for.

    `tries` list schedules with other priorities (-1: the simplest ones only), then `moves` of single operations;
    `room` bytes of SRAM for the buffers that are the body's own (`local`). The vector unit is away for `pause` cycles
    when an outer loop goes on, once in `turns` iterations, and reads what is in `ends` there. `tiles` are (stage, tile)
    of the operations; at most `window` tiles of a stage are under way at a time. `tight`: rather a slow order than none
    in so little memory. `like`: when each operation should come, near enough, if that is known: list schedules then
    begin from there alone, unless memory is short.
    """

    tries: int = 20
    moves: int = 0
    room: int = 1 << 40
    pause: int = 0
    ends: frozenset[Buffer] = frozenset()
    turns: int = 2
    local: frozenset[Buffer] = frozenset()
    tiles: Mapping[TileOp, tuple[int, int]] = field(default_factory=dict)
    window: int = 4
    tight: bool = True
    loop: bool = True
    like: Mapping[TileOp, float] | None = None


@dataclass(frozen=True)
class Ordered:
    """Operations in order, and the cycles expected: of an iteration in a loop, else from begin to end."""

    ops: list[TileOp]
    cycles: int


def order(ops: Sequence[TileOp], machine: Machine, how: Search) -> Ordered:
    """The operations in a good order; places PSUM buffers.

    Raises `PsumFullError`, or `NoRoomError` when the body's own buffers do not fit into `how.room`.
    """
    if not ops:
        return Ordered([], 0)
    tiles = [how.tiles.get(op, (0, 0)) for op in ops]
    before, after, again = dependencies(ops)
    placed = list(dict.fromkeys(b for op in ops for b in buffers_of(op) if b.space == Space.PSUM or b in how.local))
    number = {b: i for i, b in enumerate(placed)}
    using = [[number[b] for b in buffers_of(op) if b in number] for op in ops]
    heads, tails = _ends(using, before, len(placed))
    depends = _lists(before)
    _windowed(before, after, tiles, how.window)
    rows = _rows(ops, machine)
    psum, own, room = _memory(placed, machine, how.room)
    buffers = np.array([_granules(b, psum, room) for b in placed], np.int64).reshape(-1, 3)
    uses = np.bincount([b for found in using for b in found], minlength=len(placed)).astype(np.int64)
    ends = [i for i, op in enumerate(ops) if any(v.buffer in how.ends for v in op.writes())]
    moved = rows[np.isin(rows[:, core.QUEUE], (core.LOAD, core.STORE))]
    traffic = int((moved[:, core.BUSY] + moved[:, core.COMPUTE]).sum())
    body = core.Body(
        rows, depends, _lists(before), _lists(after), _lists(again), _lists(using), _lists(heads), _lists(tails),
        buffers, uses, psum + room, traffic, how.pause, np.array(ends, np.int64), how.turns,
        core.ROUNDS if how.loop else 1,
    )  # fmt: skip
    priorities = _priorities(ops, before, after, tiles, machine, how)
    alike = [np.array([-how.like[op] for op in ops])] if how.like is not None else priorities
    starts = STARTS if how.loop and how.moves and how.like is None else 1
    ahead, plain = len(ops), np.arange(len(ops))
    found = _list_schedules(body, plain, ahead, np.array(alike), how.tries, starts)
    if not found and (how.tight or how.like is not None):  # memory ran full: it is taken nearer to the plain order
        plain = np.argsort(-alike[0]) if how.like is not None else plain_order(ops, before, after, tiles, number)
        while not found and ahead:
            ahead = ahead // (2 if how.tries >= 0 else 4) if ahead > NEAR and len(ops) <= LONG else 0
            found = _list_schedules(body, plain, ahead, np.array([*alike, *priorities]), how.tries, starts)
    if not found:
        if room < own:
            raise NoRoomError
        raise PsumFullError({b.owner for b in placed if b.owner is not None})
    best = found[0]
    if how.moves:
        begun = [part for f in found for part in (f.order, f.address)]
        best = _remembered(("moves", how.moves, *body, *begun), lambda: _improved(body, found, how))
    _put(placed, best.address.tolist(), psum, how.loop)
    return Ordered([ops[i] for i in best.order.tolist()], best.cycles)


def _list_schedules(
    body: core.Body, plain: np.ndarray, ahead: int, priorities: np.ndarray, tries: int, starts: int
) -> list[Found]:
    """The best `starts` that `core.search` finds, fewest cycles first; fewer, or none, if memory is short."""

    def search() -> list[Found]:
        orders, addresses = np.zeros((starts, len(body.ops)), np.int64), np.zeros((starts, len(body.uses)), np.int64)
        cycles = core.search(body, plain, ahead, priorities, tries, orders, addresses)
        return [Found(int(c), o, a) for c, o, a in zip(cycles, orders, addresses, strict=True) if c >= 0]

    return _remembered(("list schedules", ahead, tries, starts, *body, plain, priorities), search)


def _remembered(key: Sequence[object], make: Callable[[], T]) -> T:
    """What `make` makes, but once for equal keys: ways to fit that are compared have much in common."""
    digest = hashlib.blake2b(digest_size=16)
    for value in key:
        for part in value if isinstance(value, core.Lists) else (value,):
            digest.update(
                str(part.shape).encode() + part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
            )
            digest.update(b"|")
    name = digest.digest()
    found = _MEMORY.get(name)
    if found is None:
        found = make()
        with _MEMORY_LOCK:
            while len(_MEMORY) >= REMEMBERED:
                del _MEMORY[next(iter(_MEMORY))]
            _MEMORY[name] = found
    return found


@dataclass(frozen=True)
class Found:
    """An order by the numbers of the operations, places of the buffers, and the cycles expected."""

    cycles: int
    order: np.ndarray
    address: np.ndarray


def _improved(body: core.Body, found: list[Found], how: Search) -> Found:
    """The best order after moves of single operations in the best of those found; of a loop body, by several searches.

    Which one of those found that is, a short search in each decides. Searches run side by side; what comes out does not
    depend on how many processors there are.
    """
    whole = round(how.moves * min(1.0, len(body.ops) / MANY))

    def improved(begin: Found, moves: int, draws: int) -> Found:
        order, address = begin.order.copy(), begin.address.copy()
        return Found(int(core.improve(body, moves, HEAT, draws, order, address)), order, address)

    with ThreadPoolExecutor(CHAINS) as pool:
        if len(found) > 1:
            found = list(pool.map(lambda f: improved(f, whole // TRIAL, 0), found))
        begin = min(found, key=lambda f: f.cycles)
        chains = CHAINS if how.loop else 1
        return min(pool.map(lambda draws: improved(begin, whole, draws), range(chains)), key=lambda f: f.cycles)


def _rows(ops: Sequence[TileOp], machine: Machine) -> np.ndarray:
    """The operations as `orders` has them."""
    rows = np.array([_row(op, machine) for op in ops], np.int64)
    places = {p: i for i, p in enumerate(dict.fromkeys(_place(op) for op in ops))}
    rows[:, core.DEST] = [places[_place(op)] for op in ops]
    return rows


def _memory(placed: Sequence[Buffer], machine: Machine, room: int) -> tuple[int, int, int]:
    """Granules of PSUM, of all SRAM buffers of a body, and of the SRAM that they get in `room` bytes."""
    own = sum(-(-b.bytes // SRAM_GRANULE) for b in placed if b.space != Space.PSUM)
    return machine.psum_kib * 1024 // PSUM_GRANULE, own, min(own, room // SRAM_GRANULE)


def _granules(buffer: Buffer, psum: int, room: int) -> tuple[int, int, int]:
    """A buffer as `orders` has it: SRAM lies behind PSUM."""
    if buffer.space == Space.PSUM:
        return -(-buffer.bytes // PSUM_GRANULE), 0, psum
    return -(-buffer.bytes // SRAM_GRANULE), psum, psum + room


def _put(placed: Sequence[Buffer], address: Sequence[int], psum: int, loop: bool) -> None:
    """Give buffers their places: in PSUM an address, in SRAM (of a loop's body) one in an arena of all of them."""
    inside = [(b, (at - psum) * SRAM_GRANULE) for b, at in zip(placed, address, strict=True) if b.space != Space.PSUM]
    if loop:
        whole = max([0, *(-(-b.bytes // SRAM_GRANULE) * SRAM_GRANULE + at for b, at in inside)])
        arena = Buffer("tiles", whole // 4)
        for buffer, at in inside:
            buffer.arena = arena, at
    for buffer, at in zip(placed, address, strict=True):
        if buffer.space == Space.PSUM:
            buffer.addr = at * PSUM_GRANULE


def _priorities(
    ops: Sequence[TileOp],
    before: list[set[int]],
    after: list[set[int]],
    tiles: list[tuple[int, int]],
    machine: Machine,
    how: Search,
) -> list[np.ndarray]:
    """What list schedules begin from: how long the work behind an operation takes, progress of tiles; or `how.like`."""
    costs = [cost(op, machine) for op in ops]
    urgency = [0.0] * len(ops)
    for i in reversed(range(len(ops))):
        urgency[i] = costs[i] + max((urgency[j] for j in after[i]), default=0.0)
    found = [np.array(urgency)]
    return found + _staggered(before, costs, urgency, tiles) if how.tries >= 0 else found


def _staggered(
    before: list[set[int]], costs: list[float], urgency: list[float], tiles: list[tuple[int, int]]
) -> list[np.ndarray]:
    """Priorities under which the tiles progress alike, or one a little behind the other."""
    since = [0.0] * len(costs)
    for i in range(len(costs)):
        since[i] = max((since[j] + costs[j] for j in before[i]), default=0.0)
    progress = np.array([s / max(s + u, 1.0) for s, u in zip(since, urgency, strict=True)])
    lag = np.array([t for _, t in tiles]) / max(1, max(t for _, t in tiles) + 1)
    scale = max(urgency)
    return [-scale * (progress + share * lag) for share in (0.0, 0.2, 0.3, 0.4, 0.6, 1.0, 3.0)]


def _windowed(before: list[set[int]], after: list[set[int]], tiles: list[tuple[int, int]], window: int) -> None:
    """Let a tile begin when the one `window` before it, of the same stage, has ended: they use the same memory."""
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, key in enumerate(tiles):
        members[key].append(i)
    for (stage, tile), found in members.items():
        for i in found:
            if any(tiles[j] == (stage, tile) for j in before[i]):
                continue
            for j in members.get((stage, tile - window), ()):
                if not any(tiles[k] == tiles[j] for k in after[j]):
                    before[i].add(j)
                    after[j].add(i)


def _ends(
    using: Sequence[Sequence[int]], before: Sequence[set[int]], buffers: int
) -> tuple[list[list[int]], list[list[int]]]:
    """For each buffer, its users that follow no other of its users, and those that no other follows."""
    users: list[list[int]] = [[] for _ in range(buffers)]
    reached = reach(before)
    for i, found in enumerate(using):
        for b in found:
            users[b].append(i)
    heads, tails = [], []
    for own in users:
        together = sum(1 << i for i in own)
        followed = 0
        for i in own:
            followed |= reached[i]
        heads.append([i for i in own if not reached[i] & together])
        tails.append([i for i in own if not followed >> i & 1])
    return heads, tails


def _lists(lists: Iterable[Iterable[int]]) -> core.Lists:
    """Lists as arrays."""
    flat: list[int] = []
    at = [0]
    for values in lists:
        flat += sorted(values)
        at.append(len(flat))
    return core.Lists(np.array(at, np.int64), np.array(flat, np.int64))


def _row(op: TileOp, machine: Machine) -> list[int]:
    """An operation as the columns of `orders`."""
    row = [0] * core.COLUMNS
    row[core.QUEUE] = _QUEUE[op.queue]
    if isinstance(op, MatmulOp):
        mapping = mapping_of(op, machine)
        row[core.COMPUTE], row[core.PASSES], row[core.DRAIN] = mapping.compute, mapping.passes, mapping.drain
        row[core.PRELOAD], row[core.SKEW], row[core.ACC] = mapping.preload, mapping.skew, op.accumulate
    elif isinstance(op, VpuOp):
        row[core.BUSY], row[core.TAIL] = vpu_cycles(op, machine), machine.vpu_pipeline_cycles
    else:
        assert isinstance(op, CopyOp)
        first, second = transfer_cycles(op, machine)
        row[core.BUSY], row[core.COMPUTE], row[core.TAIL] = first, second, machine.dram_latency_cycles
    return row


def _place(op: TileOp) -> tuple[Buffer, int] | None:
    """Where a matmul's results go."""
    return (op.d.buffer, op.d.offset) if isinstance(op, MatmulOp) else None
