"""What an entry gives up where SRAM is too small for it: the remedies, in the order in which they are tried.

Each takes what is known of a schedule that does not fit, and returns other choices, or None where it has nothing to
give. Whatever is given up is not taken back: tiles and what is worked on whole get smaller, fewer values stay in SRAM,
and between two of these steps a loop body only gets less room. So trying ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pintac.backend.bodies.choices import Choices
from pintac.backend.bodies.deferred import STRIP, Tiles, chain_of, deferrable
from pintac.backend.bodies.tiling import Tiling, tile_of
from pintac.backend.grouping.units import Unit, accumulator
from pintac.backend.ordering.straight import SLACK
from pintac.backend.scheduling.regions import straight_name
from pintac.backend.scheduling.schedule import TileSchedule
from pintac.backend.tiles.tile import Buffer
from pintac.ir import Node

LARGE = 65536
"""Bytes of a value that goes to DRAM rather than have the tiles made smaller."""
SMALL = 2048
"""Bytes of a value too small to be worth moving: where tiles would get small, all others go before."""
LEAST_ROOM = 2
"""Largest buffers that the room of a body over evaluations must hold at least: below, smaller tiles are better."""
CROWDED = 0.67
"""Part of SRAM that straight code takes from which on parameters go into loops over their rows."""
LEAST_WHOLE = 1024
"""Bytes of parameters that are not worth a loop."""


@dataclass(frozen=True)
class Limits:
    """What goes to DRAM before tiles get smaller: saved activations and weight gradients of so many bytes.

    Values in `keep` do not go at all.
    """

    activation: int = LARGE
    gradient: int = LARGE
    keep: frozenset[Node] = frozenset()


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Shortage:
    """A schedule that SRAM is too small for.

    `alive` are the buffers that are needed at one time, `tightest` whether its loop bodies had no order in less room.
    """

    schedule: TileSchedule
    alive: frozenset[Buffer]
    limits: Limits = DEFAULT_LIMITS
    tightest: bool = False

    @property
    def sram_bytes(self) -> int:
        """What there is."""
        return self.schedule.entry.machine.sram_bytes


def relieved(short: Shortage, choices: Choices) -> Choices | None:
    """Choices that give up the next thing; None if nothing is left to give up."""
    return next((found for remedy in REMEDIES if (found := remedy(short, choices)) is not None), None)


# ---- the remedies


def parameters_in_loops(short: Shortage, choices: Choices) -> Choices | None:
    """Parameters and moments, of which SRAM is full where straight code works on them whole, by their rows."""
    unit_of, whole = short.schedule.unit_of, short.schedule.units.whole
    straight = sum(b.bytes for b in short.alive if b in unit_of and unit_of[b].kind == "global")
    if straight <= CROWDED * short.sram_bytes or whole <= LEAST_WHOLE:
        return None
    return replace(choices, whole=whole // 2, rooms={})


def cold_values(short: Shortage, choices: Choices) -> Choices | None:
    """To DRAM what only occupies SRAM in the loop in which it is short: made before it and read after it."""
    placement, units, own = short.schedule.placement, short.schedule.units, short.schedule.own(in_loops=True)
    running_out = {own[b] for b in short.alive if b in own}
    if len(running_out) != 1:
        return None
    (unit,) = running_out
    found = []
    for node, size in placement.candidates.items():
        if placement.home_buffer(node) not in short.alive or size < SMALL or accumulator(node) is not None:
            continue
        near = [node, *units.executed_users(node)]
        if node.op != "matmul_tn" and unit not in {units.of[n][0] for n in near if n in units.of}:
            found.append(node)
    return replace(choices, spilled=choices.spilled | frozenset(found), rooms={}) if found else None


def less_room(short: Shortage, choices: Choices) -> Choices | None:
    """Less room for the own buffers of the loop body or straight code in which SRAM is short, if that can be enough."""
    if short.tightest:
        return None
    schedule, alive = short.schedule, short.alive
    unit_of = schedule.own(in_loops=True)
    in_loops = not alive.isdisjoint(unit_of)
    if not in_loops:
        if not schedule.choices.tiling.streamed:
            return None  # smaller tiles are as good for straight code, and orders easier to find
        unit_of = schedule.own(in_loops=False)
    own = {b for b in alive if b in unit_of}
    units = {unit_of[b] for b in own}
    if len(units) != 1:
        return None
    (unit,) = units
    name = unit.name if in_loops else straight_name(unit.name)
    taken = sum(b.bytes for b in own)
    room = short.sram_bytes - sum(b.bytes for b in alive if b not in own) - SLACK
    room = min(room, schedule.choices.rooms.get(name, taken) - SLACK)
    least = LEAST_ROOM if unit.kind == "evaluations" else 1
    if room < least * schedule.largest(name):
        return None
    return replace(choices, rooms={**choices.rooms, name: room})


def smaller_tiles_of_points(short: Shortage, choices: Choices) -> Choices | None:
    """Half the rows a tile in the loops over points or parameters in which SRAM is short."""
    halved = halvable(short)
    if not halved:
        return None
    kept = {*choices.rooms} - {*halved, *map(straight_name, halved)}
    rooms = {name: room for name, room in choices.rooms.items() if name in kept}
    return replace(choices, tiling=halve(choices.tiling, halved), rooms=rooms, not_in_psum=frozenset())


def large_values(short: Shortage, choices: Choices) -> Choices | None:
    """Saved activations to DRAM and large gradients into loops of their own, as many as the shortage asks for."""
    schedule, alive = short.schedule, short.alive
    sizes = schedule.placement.candidates
    needed, given = _needed(short), False
    while (victim := _victim(short, alive)) is not None and _spill_kind(short, victim) < 2:
        chain = chain_of(schedule.entry.graph, victim)
        if chain not in choices.deferred and deferrable(chain, schedule.units):
            strips = sizes[victim] > STRIP * short.sram_bytes
            spilled = choices.spilled | ({victim} if strips else frozenset())
            choices = replace(choices, deferred=(*choices.deferred, chain), spilled=spilled)
        else:
            choices = replace(choices, spilled=choices.spilled | {victim})
        given = True
        needed -= sizes[victim]
        alive = alive - {schedule.placement.home_buffer(victim)}
        if needed <= 0:
            break
    return replace(choices, rooms={}) if given else None


def smaller_tiles(short: Shortage, choices: Choices) -> Choices | None:
    """A smaller window, then fewer tiles at a time, then fewer rows a tile in loops over evaluations."""
    if _points(short):
        return None
    tiling = choices.tiling
    if tiling.window > 2 and tiling.interleave > 2:
        tiling = replace(tiling, window=2)
    elif tiling.interleave > 1:
        tiling = replace(tiling, interleave=tiling.interleave // 2)
    elif tiling.rows > 4:
        tiling = replace(tiling, rows=tiling.rows // 2)
    else:
        return None
    return replace(choices, tiling=tiling, rooms={}, not_in_psum=frozenset())


def any_value(short: Shortage, choices: Choices) -> Choices | None:
    """To DRAM the largest value that can go there."""
    victim = _victim(short, short.alive)
    return None if victim is None else replace(choices, spilled=choices.spilled | {victim}, rooms={})


def one_stage_at_a_time(short: Shortage, choices: Choices) -> Choices | None:
    """No point beside another in a later stage."""
    tiling = choices.tiling
    return replace(choices, tiling=replace(tiling, pipelined=False), rooms={}) if tiling.pipelined else None


REMEDIES: tuple[Callable[[Shortage, Choices], Choices | None], ...] = (
    parameters_in_loops,
    cold_values,
    less_room,
    smaller_tiles_of_points,
    large_values,
    smaller_tiles,
    any_value,
    one_stage_at_a_time,
)


# ---- what is short, and what can go


def halve(tiling: Tiling, units: list[str]) -> Tiling:
    """Half the rows a tile in the loops of these units."""
    return replace(tiling, halved=(*tiling.halved, *units))


def _points(short: Shortage) -> list[Unit]:
    """The units over points alone, or over parameters, of what is alive, by name."""
    unit_of, own = short.schedule.unit_of, short.schedule.own(in_loops=True)
    units = {unit_of.get(b) or own.get(b) for b in short.alive}
    found = {u for u in units if u is not None and u.kind in ("points", "parameter", "deferred")}
    return sorted(found, key=lambda u: u.name)


def halvable(short: Shortage) -> list[str]:
    """Those of them whose tiles can get smaller."""
    return [unit.name for unit in _points(short) if not _smallest(unit, short.schedule)]


def _smallest(unit: Unit, schedule: TileSchedule) -> bool:
    """Whether the tiles of one of these cannot get smaller."""
    tiling = schedule.choices.tiling
    if unit.kind == "deferred":
        tiles = Tiles().halved(tiling.halved.count(unit.name))
        return tiles.smaller() == tiles
    assert unit.axis is not None
    found = tile_of(tiling, schedule.units, unit, unit.sweeps[0], unit.axis)
    return found.rows == 4 and found.interleave == 1


def _needed(short: Shortage) -> int:
    """Bytes that have to leave SRAM at least, for a loop body to have room for a few of its largest buffers."""
    own = short.schedule.own(in_loops=True)
    names = {own[b].name for b in short.alive if b in own}
    needed = sum(LEAST_ROOM * short.schedule.largest(name) for name in names)
    return sum(b.bytes for b in short.alive if b not in own) + needed + SLACK - short.sram_bytes


def _spill_kind(short: Shortage, node: Node) -> int:
    """In which order values go to DRAM: 0 saved activations, 1 weight gradients, 2 the rest (weights, small values).

    Weights that stream are like their gradients.
    """
    placement, limits = short.schedule.placement, short.limits
    if node in placement.streamed:
        return 1
    size = placement.candidates[node]
    home = placement.unit_home.get(node)
    if home is not None and home.covers:
        return 0 if size >= limits.activation else 2
    return 1 if node.op == "matmul_tn" and size >= limits.gradient else 2


def _victim(short: Shortage, alive: frozenset[Buffer]) -> Node | None:
    """The value to move to DRAM next: saved activations first, then weight gradients and weights; largest first."""
    placement = short.schedule.placement

    def rank(node: Node) -> tuple[int, int, str]:
        return _spill_kind(short, node), -placement.candidates[node], node.name

    choices = [
        node
        for node, size in placement.candidates.items()
        if placement.home_buffer(node) in alive and node not in short.limits.keep and size >= SMALL
    ]
    return min(choices, key=rank, default=None)
