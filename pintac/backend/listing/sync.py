"""Semaphores: every pair of conflicting accesses in different queues is ordered by a signal and a wait.

Each loop body is analysed by itself, an inner loop counting as one node that touches what any of its iterations
touches. Two accesses conflict when they touch the same bytes and one writes. A body's own iterations are counted
through all loops around it: the k-th execution of a body follows the (k-1)-th, whether an inner loop went on or was
entered again, because that is how signals and waits are matched. At distance d (executions of the body) the later
access is moved by the steps and ring slots of every loop index that changed. A conflict from node j to a later node i
of the same execution becomes a semaphore with credit 0, one from j to i of a later execution a semaphore with that
distance as credit. What is ordered already, directly or through a third queue, gets none. Edges whose signals and
waits come in the same order share a semaphore, and bodies that are not nested in each other use the same ones.

`pintac.hazards` checks the result on the instructions, knowing nothing of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pintac.backend.tiles.tile import Buffer, Item, Loop, Sync, TileOp, View
from pintac.errors import DoesNotFitError
from pintac.isa import MAX_SEMAPHORES, Queue, Semaphore

NEAR = 4
"""Executions of a body apart up to which all are looked at; further apart, those at which an outer loop moves on."""

CAPACITY = (1 << 20) - 1


@dataclass(frozen=True)
class Access:
    """Bytes touched: hull [low, high) at index 0 of every loop around, and how loops move it."""

    queue: Queue
    write: bool
    buffer: Buffer
    space: int
    low: int
    high: int
    row: int  # bytes of a row and from row to row when it is a plain strided matrix, else 0
    stride: int
    steps: tuple[tuple[int, int], ...]
    ring_level: int
    ring: int
    ring_bytes: int


def accesses(op: TileOp) -> list[Access]:
    """The accesses of an operation: a view of SMX data touches two planes."""
    out = []
    for views, write in ((op.reads(), False), (op.writes(), True)):
        for view in views:
            out += _planes(op.queue, view, write)
    return out


def _planes(queue: Queue, view: View, write: bool) -> list[Access]:
    buffer = view.buffer
    assert buffer.addr is not None, f"{buffer.name} has no address"
    shape = list(view.shape)
    if view.bits:
        shape[-2:] = [-(-shape[-2] // 4), -(-shape[-1] // 4)]
    planes = ((buffer.addr, 2 * view.bits), (buffer.eaddr, 1)) if view.bits else ((buffer.addr, 4),)
    out = []
    for base, unit in planes:
        axes = [(n, s * unit) for n, s in zip(shape, view.strides, strict=True) if n != 1 and s]
        low = base + view.offset * unit
        high = low + sum((n - 1) * s for n, s in axes) + unit
        row = stride = 0
        if len(axes) == 2 and axes[1][1] == unit and axes[0][1] > axes[1][0] * unit:
            row, stride = axes[1][0] * unit, axes[0][1]
        steps = tuple((level, step * unit) for level, step in view.steps)
        ring_bytes = buffer.size * unit
        out.append(
            Access(
                queue, write, buffer, int(buffer.space), low, high, row, stride, steps,
                buffer.ring_level if buffer.ring > 1 else -1, buffer.ring, ring_bytes,
            )
        )  # fmt: skip
    return out


def _swept(access: Access, loop: Loop) -> Access:
    """The access over all iterations of a loop."""
    steps = dict(access.steps)
    if loop.level not in steps and access.ring_level != loop.level:
        return access
    move = steps.pop(loop.level, 0) * (loop.count - 1)
    low, high = access.low + min(0, move), access.high + max(0, move)
    ring_level, ring = access.ring_level, access.ring
    if ring_level == loop.level:
        high += (ring - 1) * access.ring_bytes
        ring_level, ring = -1, 1
    changed = move or ring != access.ring
    return replace(
        access, low=low, high=high, steps=tuple(sorted(steps.items())), ring_level=ring_level, ring=ring,
        row=0 if changed else access.row, stride=0 if changed else access.stride,
    )  # fmt: skip


class TooManySemaphoresError(DoesNotFitError):
    """The schedule orders more pairs of accesses at a time than there are semaphores."""


class Synchronizer:
    """Inserts signals and waits into a schedule; `semaphores` are those it needed.

    `known` are those of earlier entries. The machine has `limit` of them, and drains between entries: where it has no
    more, earlier ones are used again.
    """

    def __init__(self, known: Sequence[Semaphore] = (), limit: int = MAX_SEMAPHORES) -> None:
        self.semaphores: list[Semaphore] = []
        self.known = known
        self.limit = limit

    def insert(self, items: Sequence[Item]) -> list[Item]:
        """The schedule with signals and waits."""
        return self._body(list(items), ()).items

    def _body(self, items: list[Item], loops: tuple[Loop, ...]) -> _Done:
        nodes: list[Item] = []
        touched: list[list[Access]] = []
        taken: set[int] = set()
        for item in items:
            if isinstance(item, Loop):
                done = self._body(item.body, (*loops, item))
                nodes.append(Loop(item.level, item.count, done.items, item.name))
                touched.append(_unique(_swept(a, item) for a in done.touched))
                taken |= done.semaphores
            else:
                assert isinstance(item, TileOp)
                nodes.append(item)
                touched.append(accesses(item))
        edges = _edges(touched, [isinstance(item, Loop) for item in items], loops)
        nodes, used = self._place(nodes, edges, taken)
        return _Done(nodes, [a for t in touched for a in t], taken | used)

    def _place(
        self, nodes: list[Item], edges: Iterable[tuple[int, Queue, int, Queue, int]], taken: set[int]
    ) -> tuple[list[Item], set[int]]:
        """The body with its signals and waits, and the semaphores they use: none of `taken`, by bodies inside."""
        waits: dict[int, list[Item]] = {}
        signals: dict[int, list[Item]] = {}
        used: set[int] = set()
        for (qa, qb, distance), chain in chains(edges):
            number = self._semaphore(qa, qb, distance * len(chain), taken | used)
            used.add(number)
            for j, i in chain:
                signals.setdefault(j, []).append(Sync(qa, number, True))
                waits.setdefault(i, []).append(Sync(qb, number, False))
        out: list[Item] = []
        for i, node in enumerate(nodes):
            out += [*waits.get(i, ()), node, *signals.get(i, ())]
        return out, used

    def _semaphore(self, source: Queue, target: Queue, credit: int, taken: set[int]) -> int:
        """A semaphore of this kind that no body around or inside uses; those of finished bodies are used again.

        A body signals and waits equally often, so the matching starts afresh in the next one.
        """
        number = len(self.known) + len(self.semaphores)
        for semaphore in (*self.semaphores, *(self.known if number >= self.limit else ())):
            same = (semaphore.source, semaphore.target, semaphore.credit) == (source, target, credit)
            if same and semaphore.number not in taken:
                return semaphore.number
        if number >= self.limit:
            raise TooManySemaphoresError(
                f"the schedule needs more than the {self.limit} semaphores of the machine",
                hint="a smaller network, or a machine with more of them: --machine-key semaphores=1024",
            )
        self.semaphores.append(Semaphore(number, source, target, credit, CAPACITY))
        return number


@dataclass(frozen=True)
class _Done:
    """A body with semaphores, what it touches, and the semaphores in it."""

    items: list[Item]
    touched: list[Access]
    semaphores: set[int]


def _unique(found: Iterable[Access]) -> list[Access]:
    return list(dict.fromkeys(found))


Edge = tuple[int, Queue, int, Queue, int]
"""(node, its queue, later node, its queue, executions of the body between)."""


def chains(edges: Iterable[Edge]) -> list[tuple[tuple[Queue, Queue, int], list[tuple[int, int]]]]:
    """Edges that can share a semaphore: the same queues and distance, signals and waits in the same order.

    The k-th wait of a body then matches the k-th signal, as if each edge had a semaphore of its own. Few chains are
    enough: an edge joins the chain whose last wait is the nearest before its own.
    """
    found: dict[tuple[Queue, Queue, int], list[list[tuple[int, int]]]] = {}
    for j, qa, i, qb, distance in sorted(edges):
        kind = found.setdefault((qa, qb, distance), [])
        fitting = [chain for chain in kind if chain[-1][1] <= i]
        if fitting:
            max(fitting, key=lambda chain: chain[-1][1]).append((j, i))
        else:
            kind.append([(j, i)])
    return [(key, chain) for key, kind in found.items() for chain in kind]


def _edges(touched: list[list[Access]], is_loop: list[bool], loops: tuple[Loop, ...]) -> list[Edge]:
    """What must be ordered, in the order found."""
    n = len(touched)
    conflicts = _Conflicts(touched, is_loop, loops)
    found = {d: conflicts.at(d) for d in distances(loops)}
    by_distance = {d: last.tolist() for d, last in found.items() if (last >= 0).any()}
    queues = [sorted({a.queue for a in t}) for t in touched]
    known = {q: dict.fromkeys(Queue, -1) for q in Queue}
    snapshots: dict[tuple[Queue, int], dict[Queue, int]] = {}
    edges: dict[Edge, None] = {}
    last = min(NEAR, max(by_distance, default=0))
    for turn in range(last + 1):
        for i in range(n):
            for qb in queues[i]:
                for qa in Queue:
                    if qa == qb:
                        continue
                    need = -1
                    for distance in range(turn + 1):
                        if distance in by_distance and (j := by_distance[distance][qa][qb][i]) >= 0:
                            need = max(need, (turn - distance) * n + j)
                    if need > known[qb][qa]:
                        edges[need % n, qa, i, qb, turn - need // n] = None
                        known[qb][qa] = need
                        for q, p in snapshots.get((qa, need), {}).items():
                            known[qb][q] = max(known[qb][q], p)
                    for distance, conflict in by_distance.items() if turn == last else ():
                        j = conflict[qa][qb][i]
                        if distance > last and j >= 0 and (last - distance) * n + j > known[qb][qa]:
                            edges[j, qa, i, qb, distance] = None
            for q in queues[i]:
                snapshots[q, turn * n + i] = dict(known[q])
    return list(edges)


def distances(loops: Sequence[Loop]) -> list[int]:
    """Executions of a body apart at which the same bytes may be touched again: near, or an outer loop's step away."""
    out = {0}
    total = 1
    for loop in reversed(loops):
        out |= {m * total + d for m in (1, 2) for d in (-1, 0, 1)}
        total *= loop.count
    out |= set(range(NEAR + 1))
    return sorted(d for d in out if 0 <= d < total)


def displacements(distance: int, loops: Sequence[Loop]) -> list[tuple[int, ...]]:
    """How the indices of nested loops (outermost first) can differ `distance` executions of the body apart."""
    if not loops:
        return [()] if distance == 0 else []
    *outer, inner = loops
    carry, rest = divmod(distance, inner.count)
    out = [(*head, rest) for head in displacements(carry, outer)]
    if rest:
        out += [(*head, rest - inner.count) for head in displacements(carry + 1, outer)]
    return out


def _overlapping(
    low: np.ndarray, high: np.ndarray, space: np.ndarray, queue: np.ndarray, write: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (a, b) and (b, a) of ranges [low, high) of one space that share a byte, by a, then by b.

    Only those in different queues, one of them written.
    """
    order = np.lexsort((low, space))
    key = space[order] * (int(high.max(initial=0)) + 1)  # spaces behind each other
    first, last = key + low[order], key + high[order]
    # Of those that begin no earlier than a range, these many begin before it ends.
    count = np.maximum(np.searchsorted(first, last, "left") - np.arange(len(order)) - 1, 0)
    a = np.repeat(np.arange(len(order)), count)
    b = a + 1 + np.arange(len(a)) - np.repeat(np.cumsum(count) - count, count)
    a, b = order[a], order[b]
    conflict = (queue[a] != queue[b]) & (write[a] | write[b])
    a, b = a[conflict], b[conflict]
    a, b = np.concatenate([a, b]), np.concatenate([b, a])
    by = np.argsort(a * len(order) + b)
    return a[by], b[by]


class _Conflicts:
    """Pairs of accesses in different queues that can touch the same bytes, one writing."""

    def __init__(self, touched: list[list[Access]], is_loop: list[bool], loops: tuple[Loop, ...]) -> None:
        self.loops = loops
        self.size = len(touched)
        flat = [(node, a) for node, found in enumerate(touched) for a in found]
        every = [a for _, a in flat]
        node = np.array([k for k, _ in flat], np.int64)
        queue = np.array([a.queue for a in every], np.int64)
        write = np.array([a.write for a in every], bool)
        space = np.array([a.space for a in every], np.int64)
        # Everything an access can touch, whatever the loops' indices.
        counts = {lp.level: lp.count for lp in loops}
        moves = [[s * (counts.get(lv, 1) - 1) for lv, s in a.steps] for a in every]
        low = np.array([a.low + sum(min(0, m) for m in ms) for a, ms in zip(every, moves, strict=True)], np.int64)
        slots = np.array([(a.ring - 1) * a.ring_bytes for a in every], np.int64)
        high = np.array([a.high + sum(max(0, m) for m in ms) for a, ms in zip(every, moves, strict=True)], np.int64)
        high += slots
        a, b = _overlapping(low, high, space, queue, write)
        self.nodes, self.queues = (node[a], node[b]), (queue[a], queue[b])
        self.itself = (node[a] == node[b]) & np.array(is_loop, bool)[node[a]] if len(a) else np.zeros(0, bool)
        # Accesses that the loops move alike are compared where they are; others wherever they can be.
        kinds = {k: i for i, k in enumerate(dict.fromkeys((a.steps, a.ring_level, a.ring) for a in every))}
        kind = np.array([kinds[a.steps, a.ring_level, a.ring] for a in every], np.int64)
        ids = {x: i for i, x in enumerate(dict.fromkeys(a.buffer for a in every))}
        buffer = np.array([ids[a.buffer] for a in every], np.int64)
        ring = np.array([a.ring for a in every], np.int64)
        together = (kind[a] == kind[b]) & ((ring[a] == 1) | (buffer[a] == buffer[b]))
        self.apart = np.nonzero(~together)[0]
        self.together = np.nonzero(together)[0]
        first, second = a[together], b[together]
        steps = np.array([[dict(k[0]).get(lp.level, 0) for lp in loops] for k in kinds], np.int64)
        self.steps = steps.reshape(len(kinds), len(loops))[kind[first]]
        where = np.array([(x.low, x.high, x.row, x.stride) for x in every], np.int64).reshape(-1, 4)
        self.first, self.second = where[first], where[second]
        levels = {lp.level: i for i, lp in enumerate(loops)}
        self.ring_at = np.array([levels.get(x.ring_level, -1) for x in every], np.int64)[first]
        self.ring = ring[first]

    def at(self, distance: int) -> np.ndarray:
        """The last node in conflict with one `distance` executions later: [queue, later queue, later node]; -1: none.

        At distance 0 nodes before it only. A loop in the body orders its own iterations itself.
        """
        hits = [self.apart]
        for moved in displacements(distance, self.loops):
            if self.together.size:
                hits.append(self.together[self._overlap(moved)])
        found = np.concatenate(hits)
        earlier, later = self.nodes[0][found], self.nodes[1][found]
        found = found[earlier < later if distance == 0 else ~self.itself[found]]
        out = np.full((len(Queue), len(Queue), self.size), -1, np.int64)
        np.maximum.at(out, (self.queues[0][found], self.queues[1][found], self.nodes[1][found]), self.nodes[0][found])
        return out

    def _overlap(self, moved: tuple[int, ...]) -> np.ndarray:
        """Which pairs overlap when the later access has moved by these loop indices."""
        shift = self.steps @ np.array(moved, np.int64) if moved else np.zeros(len(self.first), np.int64)
        low, high, row, stride = self.first.T
        later_low, later_high, later_row, later_stride = self.second.T
        later_low, later_high = later_low + shift, later_high + shift
        hit = (low < later_high) & (later_low < high)
        same_rows = (stride == later_stride) & (stride > 0)
        period = np.maximum(stride, 1)
        hit &= ~same_rows | ((later_low - low) % period < row) | ((low - later_low) % period < later_row)
        turns = np.append(np.array(moved, np.int64), 0)[self.ring_at]
        hit &= (self.ring_at < 0) | (turns % np.maximum(self.ring, 1) == 0)
        return hit
