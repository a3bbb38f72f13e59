"""Regions: the operations of a loop body, or straight code of a unit, which are put in order as a whole.

How long an order is searched for depends on the part of the entry's cycles that the region takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pintac.backend.bodies.choices import Choices
from pintac.backend.grouping.units import Unit
from pintac.backend.ordering.order import Ordered, Search, order
from pintac.backend.ordering.repeat import repeated
from pintac.backend.tiles.costs import work
from pintac.backend.tiles.tile import Buffer, TileOp
from pintac.isa import Space
from pintac.machine import Machine

TRIES = 16
"""Random changes of the best list schedule of a loop body."""
HOT = 2000
"""Cycles that all runs of a loop body must take for a long search for its order to be worth it."""
SHARE = 0.01
"""Part of the cycles of the entry that they must take."""
WARM = 0.1
"""Of the cycles that a loop body must take for a long search, those that straight code must."""
LEAST_HALF = 4
"""Tiles from which on half of a loop body is ordered first."""


@dataclass(frozen=True)
class Effort:
    """How long orders are searched for: in `moves` for a loop body, and `straight`: for straight code, too.

    `expected` are the cycles of the entry, as far as they are known.
    """

    moves: int = 0
    straight: bool = True
    expected: int = 0

    @property
    def hot(self) -> float:
        """Cycles from which on a loop body is worth a long search."""
        return max(HOT, SHARE * self.expected)

    @property
    def warm(self) -> float:
        """Cycles from which on straight code is."""
        return WARM * self.hot


@dataclass(frozen=True)
class Region:
    """Operations in the order found for them, which take `cycles` in all their executions.

    `own` is the SRAM of what belongs to the region alone: an arena for a loop body (`in_loop`), else the buffers;
    `largest` the bytes of the largest of these. `hot`: a longer search would look at it.
    """

    unit: Unit
    in_loop: bool
    ops: list[TileOp]
    cycles: int
    own: frozenset[Buffer] = frozenset()
    largest: int = 0
    hot: bool = False

    @property
    def room(self) -> str:
        """What its memory is called in `Choices.rooms`."""
        return self.unit.name if self.in_loop else straight_name(self.unit.name)


@dataclass(frozen=True)
class Regions:
    """Puts the regions of an entry in order, one after the other; `found` are those so far.

    `unit_of` are its tile buffers, `tile_of` the (stage, tile) of its operations.
    """

    machine: Machine
    choices: Choices
    effort: Effort
    unit_of: Mapping[Buffer, Unit]
    tile_of: Mapping[TileOp, tuple[int, int]]
    found: list[Region] = field(default_factory=list)

    @property
    def cycles(self) -> int:
        """What those found so far take, by the costs that orders are chosen by."""
        return sum(region.cycles for region in self.found)

    def loop_body(
        self, unit: Unit, ops: list[TileOp], trips: int, turns: int, pause: int, ends: frozenset[Buffer]
    ) -> list[TileOp]:
        """The operations of a body that runs `trips` times in a good order, its own buffers arranged.

        After `turns` of these an outer loop goes on (see `Search`: `pause`, `ends`).
        """
        own, tiling = self._own(ops), self.choices.tiling
        hot = trips * work(ops, self.machine) >= self.effort.hot
        search = Search(
            tries=TRIES if self.effort.moves and hot else -1,
            moves=self.effort.moves if hot else 0,
            room=self.choices.rooms.get(unit.name, 1 << 40),
            pause=pause if hot else 0,
            ends=ends,
            turns=turns,
            local=frozenset(own),
            tiles=self.tile_of,
            window=tiling.window,
            tight=tiling.tight,
        )
        found = self._searched(ops, search)
        arena = frozenset(b.arena[0] for b in own if b.arena is not None)
        self.found.append(Region(unit, True, found.ops, trips * found.cycles, arena, _largest(own), hot))
        return found.ops

    def straight(self, unit: Unit, ops: list[TileOp]) -> list[TileOp]:
        """Straight code in an order that fits the memory it has (`joined` makes a better one)."""
        own, room = self._own(ops), self.choices.rooms.get(straight_name(unit.name))
        search = Search(tries=-1, loop=False)
        if room is not None:
            search = replace(search, room=room, local=frozenset(own))
        found = order(ops, self.machine, search)
        self.found.append(Region(unit, False, found.ops, found.cycles, frozenset(own), _largest(own)))
        return found.ops

    def between(self, unit: Unit, ops: list[TileOp], trips: int) -> list[TileOp]:
        """What runs `trips` times between loops, in its simplest order; no trips: in time that is counted elsewhere."""
        found = order(ops, self.machine, Search(tries=-1, loop=False))
        self.found.append(Region(unit, trips != 1, found.ops, trips * found.cycles))
        return found.ops

    def _own(self, ops: Sequence[TileOp]) -> list[Buffer]:
        """Tile buffers that these operations alone use: written before they are read, without a ring."""
        first: dict[Buffer, bool] = {}
        for op in ops:
            for view in op.reads():
                first.setdefault(view.buffer, False)
            for view in op.writes():
                first.setdefault(view.buffer, True)
        written = [b for b, before in first.items() if before]
        return [b for b in written if b in self.unit_of and b.ring == 1 and b.space == Space.SRAM]

    def _searched(self, ops: list[TileOp], search: Search) -> Ordered:
        """A loop body in order; a long one begins from the order of half of its tiles."""
        half = (1 + max(self.tile_of.get(op, (0, 0))[1] for op in ops)) // 2
        if search.moves and half >= LEAST_HALF:
            first = [op for op in ops if self.tile_of.get(op, (0, 0))[1] < half]
            begun = self._searched(first, replace(search, moves=search.moves // 3)).ops
            like = repeated(ops, begun, self.tile_of, half)
            return order(ops, self.machine, replace(search, like=like))
        return order(ops, self.machine, search)


def straight_name(unit: str) -> str:
    """What the memory of the straight code of a unit is called among that of loop bodies."""
    return f"{unit} outside loops"


def _largest(own: Sequence[Buffer]) -> int:
    return max((b.bytes for b in own), default=0)
