"""Loops over points alone whose last tile is half a turn behind.

A loop body over several tiles that begin and end together leaves the units waiting at its ends: every tile there waits
for its own last products. So one tile of a body, the *turned* one, begins in one iteration and ends in the next: an
iteration runs the late half of the tile begun before it, then whole tiles, then the early half of another. What the
early half makes for the late one is kept in place from iteration to iteration: the late half reads it before the next
early half writes it, as the listing says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pintac.backend.bodies.folds import Folds
from pintac.backend.bodies.placement import Position
from pintac.backend.bodies.values import Body, Passing
from pintac.backend.grouping.axes import RowAxis
from pintac.backend.grouping.fuse import KernelStep, Step, Value
from pintac.backend.grouping.kinds import root
from pintac.backend.grouping.units import storage_bytes
from pintac.backend.tiles.costs import cost
from pintac.backend.tiles.tile import Buffer, Item, Loop, TileOp
from pintac.ir import Node

UNEVEN = 0.15
"""Part of the cost by which the halves may differ from half of it."""


@dataclass(frozen=True)
class Turn:
    """Rows of a loop of `count` iterations over tiles of `rows` rows, `tiles` an iteration.

    Before it runs the early half of tile 0; iteration i runs the late half of tile i * tiles, the tiles behind it, and
    the early half of tile (i + 1) * tiles; after it the late half of the last begun one and what is left, `rest`.
    """

    rows: int
    tiles: int
    count: int
    rest: tuple[tuple[int, int], ...]

    @property
    def step(self) -> int:
        """Rows from iteration to iteration."""
        return self.rows * self.tiles


def turn(size: int, rows: int, tiles: int) -> Turn | None:
    """How a loop over `size` rows turns; None where it is too short for it."""
    count = (size // rows - 1) // tiles
    if count < 2 or tiles < 2:
        return None
    begun = (count * tiles + 1) * rows
    return Turn(rows, tiles, count, tuple((at, min(rows, size - at)) for at in range(begun, size, rows)))


def made(step: Step) -> tuple[Node, ...]:
    """The values that a step computes."""
    return step.targets if isinstance(step, KernelStep) else (step.node,)


def read(step: Step) -> list[Node]:
    """The values that a step reads."""
    if isinstance(step, KernelStep):
        return [root(s.node) for s in step.sources if isinstance(s, Value)]
    return [root(o) for o in step.node.operands]


def crossing(steps: Sequence[Step], cut: int) -> list[Node]:
    """The values that the steps before `cut` make and those behind it read."""
    readers = {node for step in steps[cut:] for node in read(step)}
    return [node for step in steps[:cut] for node in made(step) if node in readers]


def middle(steps: Sequence[Step], costs: Sequence[float], whole: Collection[Node]) -> int | None:
    """Where the early half ends: with the least to keep near half of the cost, where no value in `whole` crosses.

    None: nowhere.
    """
    total, at = sum(costs), 0.0
    best: tuple[int, int] | None = None
    for cut in range(1, len(steps)):
        at += costs[cut - 1]
        kept = crossing(steps, cut)
        if abs(at - total / 2) < UNEVEN * total and not any(node in whole for node in kept):
            found = sum(storage_bytes(node) for node in kept), cut
            best = found if best is None else min(best, found)
    return best[1] if best is not None else None


def turned_loop(
    at: Turn,
    steps: Sequence[Step],
    axis: RowAxis,
    outer: Body,
    bodies: Folds,
    ordered: Callable[[list[TileOp], int], list[TileOp]],
) -> list[Item] | None:
    """The loop over `axis` inside `outer` that turns so; None where steps have no middle.

    `ordered` puts the operations of a body that runs so many times in order.
    """
    passing = bodies.passing(steps, outer.unit)
    cut = middle(steps, _costs(steps, axis, at.rows, outer, bodies, passing), passing.psum)
    if cut is None:
        return None
    early, late, crosses = steps[:cut], steps[cut:], set(crossing(steps, cut))
    passing = replace(passing, cut=passing.cut - crosses)

    def body(
        work: Sequence[tuple[Sequence[Step], int, int]], kept: Mapping[Node, Buffer], trips: int
    ) -> tuple[list[TileOp], dict[Node, Buffer]]:
        """Steps for the tiles at (start, extent), and what of the last one crosses.

        The halves of the turned tile have what is kept of it.
        """
        level, step = (0, at.step) if trips > 1 else (-1, 0)
        group = Body(outer.unit, level=level, parent=outer, group=True)
        for i, (part, start, extent) in enumerate(work):
            context = {axis: Position(0, step, start, extent)}
            local = {} if part is steps else dict(kept)
            tile = Body(outer.unit, context, i, level, group.ops, local, parent=group)
            bodies.run(part, [tile], passing)
        return ordered(group.ops, trips), {node: b for node, b in tile.local.items() if node in crosses}

    first, kept = body([(early, 0, at.rows)], {}, 1)
    whole = [(steps, i * at.rows, at.rows) for i in range(1, at.tiles)]
    ops, _ = body([(late, 0, at.rows), *whole, (early, at.step, at.rows)], kept, at.count)
    last, _ = body([(late, at.count * at.step, at.rows), *((steps, *tile) for tile in at.rest)], kept, 1)
    return [*first, Loop(0, at.count, list(ops), name=str(axis)), *last]


def _costs(
    steps: Sequence[Step], axis: RowAxis, rows: int, outer: Body, bodies: Folds, passing: Passing
) -> list[float]:
    """Cycles of each step for a tile of so many rows."""
    tile = Body(outer.unit, {axis: Position(0, 0, 0, rows)}, parent=outer)
    costs = []
    for step in steps:
        bodies.run([step], [tile], passing)
        costs.append(sum(cost(op, bodies.machine) for op in tile.ops))
        tile.ops.clear()
    return costs
