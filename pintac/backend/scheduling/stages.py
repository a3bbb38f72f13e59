"""Software pipelining of a loop over points: what one iteration does for which point.

A point's work is a row of *nests* (loops over all its evaluations) with small work between them: forward, residual,
backward. A nest and the small work behind it are a *stage*; an iteration of the pipelined loop runs the last stage of
one point, the stage before it of the next point, and so on, all nests in one loop over tiles. So the tensor unit has
the backward products of one point to work on while the vector unit ends the forward sweep of another.

Values that pass from one stage to the next need no second copy where both nests touch the same tile in the same
iteration of the tile loop: the later stage reads a tile before the earlier one writes the next point's. All others
that the next iteration would overwrite are copied once an iteration (`held`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pintac.backend.bodies.placement import Home
from pintac.backend.grouping.units import Sweep, Unit, Units
from pintac.ir import Node
from pintac.isa import Space


@dataclass(eq=False)
class Stage:
    """`before` (the first stage only), the nest, and what follows it up to the next nest."""

    number: int
    nest: Sweep
    before: list[Sweep] = field(default_factory=list)
    after: list[Sweep] = field(default_factory=list)


@dataclass(frozen=True)
class Window:
    """A loop of `count` iterations whose iteration i runs stage k for point i + starts[k]."""

    count: int
    starts: Mapping[int, int]


def stages_of(unit: Unit) -> list[Stage]:
    """The stages of a unit over evaluations, in order."""
    nests = set(unit.nests)
    out: list[Stage] = []
    before: list[Sweep] = []
    for sweep in unit.sweeps:
        if sweep in nests:
            out.append(Stage(len(out), sweep, before=before))
            before = []
        elif out:
            out[-1].after.append(sweep)
        else:
            before.append(sweep)
    return out


def windows(stages: int, points: int) -> Iterator[Window]:
    """Loops that run every stage of every point, earlier stages of later points beside them."""
    for filled in range(1, stages):
        yield Window(1, {k: filled - 1 - k for k in range(filled)})
    yield Window(points - stages + 1, {k: stages - 1 - k for k in range(stages)})
    for drained in range(1, stages):
        yield Window(1, {k: points - 1 - (k - drained) for k in range(drained, stages)})


def held_values(
    unit: Unit, units: Units, homes: Mapping[Node, Home], iterations: int
) -> dict[Node, tuple[int, int]] | None:
    """Values to copy behind stages: node -> (first stage behind which, last stage that reads it).

    None when the unit cannot be pipelined.
    """
    stages = stages_of(unit)
    if unit.axis is None or len(stages) < 2 or iterations < len(stages):
        return None
    if any(s.nest.axes != stages[0].nest.axes for s in stages):
        return None
    stage_of = {sweep: s.number for s in stages for sweep in (*s.before, s.nest, *s.after)}
    nests = {s.nest for s in stages}
    made_after = {sweep for s in stages for sweep in s.after}
    out: dict[Node, tuple[int, int]] = {}
    for sweep in unit.sweeps:
        for node in sweep.nodes:
            made = stage_of[sweep]
            readers = [units.of[u][1] for u in units.executed_users(node) if units.of[u][0] is unit]
            last = max((stage_of[r] for r in readers), default=made)
            if node not in homes or last == made or (sweep in made_after and last == made + 1):
                continue
            rows = {t for t in units.tags(node, unit) if t is not None and t is not unit.axis}
            if sweep in nests and rows == set(sweep.axes):
                later = {r for r in readers if stage_of[r] > made}
                if last > made + 1 or not later <= nests:
                    return None
            elif homes[node].buffer.space == Space.DRAM:
                return None
            else:
                # What follows a nest stands until the nest after next begins: the next stage reads the original.
                out[node] = (made + (sweep in made_after), last)
    return out


def stored_behind_nests(unit: Unit, units: Units) -> list[Node]:
    """What a nest folds for its point and no later stage reads."""
    stages = stages_of(unit)
    stage_of = {sweep: s.number for s in stages for sweep in (*s.before, s.nest, *s.after)}
    out: list[Node] = []
    for stage in stages:
        for node in stage.nest.nodes:
            rows = {t for t in units.tags(node, unit) if t is not None}
            readers = [units.of[u][1] for u in units.executed_users(node) if units.of[u][0] is unit]
            if rows == {unit.axis} and all(stage_of[r] == stage.number for r in readers):
                out.append(node)
    return out
