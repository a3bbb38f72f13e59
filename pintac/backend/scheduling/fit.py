"""What an entry needs to fit the machine, and of the ways to fit the one that takes fewest cycles."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pintac.backend.bodies import streamed
from pintac.backend.bodies.choices import Choices, Entry
from pintac.backend.bodies.deferred import STRIP, chain_of, deferrable
from pintac.backend.bodies.tiling import Tiling, widest
from pintac.backend.grouping.axes import Axes
from pintac.backend.grouping.recompute import recomputable, recomputed
from pintac.backend.grouping.units import Sweep, accumulator, storage_bytes
from pintac.backend.listing.allocate import SramFullError, allocate
from pintac.backend.listing.prefetch import prefetch
from pintac.backend.ordering.order import NoRoomError, PsumFullError
from pintac.backend.ordering.straight import SLACK
from pintac.backend.scheduling.schedule import Scheduler, straight_name
from pintac.backend.tiles.tile import Buffer, CopyOp, Item, to_text, walk
from pintac.backend.tiles.transfer import transfer_cycles
from pintac.backend.ways import WayError
from pintac.ir import Node
from pintac.machine import Machine

LARGE = 65536
"""Bytes of a value that goes to DRAM rather than have the tiles made smaller."""
LARGE_GRADIENT = 16384
"""The same for a weight gradient where tiles would get small (`_fits`)."""
LEAST_ROOM = 2
"""Largest buffers that the room of a body over evaluations must hold at least: below, smaller tiles are better."""
SMALL = 2048
"""Bytes of a value too small to be worth moving: where tiles would get small, all others go before (`_fits`)."""
PREVIEW = 24
"""Part of the search for orders after which ways to fit are compared."""
RIVAL = 1.1
"""Cycles of another way to fit, before orders are searched, up to which it may turn out the better one."""
CROWDED = 0.67
"""Part of SRAM that straight code takes from which on parameters go into loops over their rows."""
LEAST_WHOLE = 1024
"""Bytes of parameters that are not worth a loop."""
BUSY = 0.65
"""Part of the cycles from which on the bus is worth relieving."""
CLOSE = 1.025
"""Cycles of one way after that part up to which it and another are compared after a longer one."""
CLOSER_LOOK = 4
"""Part of the search for orders after which they are."""
WORTH = 0.003
"""Part of the cycles that smaller parts of results must save: they make more instructions."""


@dataclass(frozen=True)
class Schedule:
    """The schedule of one entry with addresses, and what was decided."""

    items: list[Item]
    sram_bytes: int
    tiling: Tiling
    spilled: tuple[str, ...]
    deferred: tuple[str, ...]
    recomputed: tuple[str, ...]
    per_sign: tuple[str, ...]
    streamed: tuple[str, ...]
    scratch: tuple[Buffer, ...]
    predicted: int


@dataclass(frozen=True)
class Limits:
    """What goes to DRAM before tiles get smaller: saved activations and weight gradients of so many bytes.

    Values in `keep` do not go at all.
    """

    activation: int = LARGE
    gradient: int = LARGE
    keep: frozenset[Node] = frozenset()


DEFAULT = Limits()


@dataclass(frozen=True)
class Fit:
    """A schedule that fits."""

    scheduler: Scheduler
    items: list[Item]
    short: bool = False
    """Whether a loop body had no good order in the memory that it was to have."""

    @property
    def predicted(self) -> int:
        """Cycles, by the costs that orders are chosen by."""
        return self.scheduler.predicted

    @property
    def choices(self) -> Choices:
        """What made it fit."""
        return self.scheduler.choices


def fitted(entry: Entry, tiling: Tiling, moves: int) -> Schedule:
    """The schedule of an entry: from `tiling` on smaller until it fits, few values in DRAM, in the best order found.

    `moves` is how long the orders of loop bodies are searched for. Raises `WayError` when nothing fits.
    """
    found = _fits_or_streams(entry, tiling)
    tiling = replace(tiling, streamed=found[0].choices.tiling.streamed)
    fewer = replace(tiling, rows=tiling.rows // 2, interleave=2 * tiling.interleave, window=2 * tiling.window)
    wide = 4 * tiling.rows * widest(found[0].scheduler.units) > entry.machine.psum_kib * 1024
    if wide and tiling.rows >= 8 and not tiling.streamed:  # tiles get in each other's way
        with contextlib.suppress(WayError):
            found += _fits(entry, fewer)
    found = _different(sorted(found, key=lambda f: f.predicted))
    others = sorted(_recomputing(found[0]), key=lambda f: f.predicted)
    fits = sorted([*found[:2], *others[:2]], key=lambda f: f.predicted)
    fit = fits[0]
    if moves and fit.scheduler.hot:
        rivals = [f for f in fits if f.predicted < RIVAL * fit.predicted]
        smaller = [replace(fewer, gradient_tiles=2)] if tiling.rows >= 8 else []
        fit = _searched(rivals + _roomier(fit, [tiling, *smaller]), moves)
    items, used = prefetch(fit.items, entry.machine)
    chosen = fit.choices
    return Schedule(
        items,
        used,
        chosen.tiling,
        tuple(sorted(n.name for n in chosen.spilled)),
        tuple(chain[0].name for chain in chosen.deferred),
        tuple(sorted(n.name for n in fit.scheduler.entry.again if n.op == "quantize")),
        tuple(sorted(n.name for n in fit.scheduler.units.per_sign)),
        tuple(sorted(n.name for n in chosen.spilled & fit.scheduler.streamed)),
        tuple(fit.scheduler.scratch),
        fit.predicted,
    )


def _different(fits: list[Fit]) -> list[Fit]:
    """Without those that came to the schedule of one before them, from other limits."""
    found: dict[str, Fit] = {}
    for fit in fits:
        found.setdefault(to_text(fit.items), fit)
    return list(found.values())


def _recomputing(fit: Fit) -> list[Fit]:
    """Where the bus is busy: ways to fit with some of what goes through DRAM computed again instead."""
    entry, units = fit.scheduler.entry, fit.scheduler.units
    if _transfers(fit.items, entry.machine) < BUSY * fit.predicted:
        return []
    values = [node for node in recomputable(units) if node in fit.choices.spilled]
    tiling = replace(fit.choices.tiling, halved=())
    found: list[Fit] = []
    for count in range(1, len(values) + 1):
        other = recomputed(units, values[:count])
        leaves = {other.new[node]: buffer for node, buffer in entry.leaves.items()}
        again = replace(entry, graph=other.graph, leaves=leaves, again=other.again)
        spilled = frozenset(other.new[node] for node in fit.choices.spilled if node not in values[:count])
        deferred = tuple(tuple(other.new[node] for node in chain) for chain in fit.choices.deferred)
        with contextlib.suppress(WayError):
            choices = Choices(tiling, spilled, deferred=deferred)
            found.append(_greedy(again, choices, DEFAULT, _rows(tiling)))
    return found


def _roomier(fit: Fit, tilings: Sequence[Tiling]) -> list[Fit]:
    """Where memory is short: ways to fit with all that is kept between the sweeps of a point in DRAM."""
    kept, movable = fit.scheduler.unit_home, {*fit.scheduler.candidates, *fit.choices.spilled}
    between = frozenset(n for n, h in kept.items() if h.covers and h.buffer.bytes >= SMALL and n in movable)
    if not between or not (fit.short or fit.choices.tiling.tight):
        return []
    found: list[Fit] = []
    for tiling in tilings:
        with contextlib.suppress(WayError):
            found.append(_greedy(fit.scheduler.entry, Choices(replace(tiling, tight=True), between), DEFAULT))
    return found


def _transfers(items: list[Item], machine: Machine) -> int:
    """Cycles that the bus is busy."""
    moved = ((op, loops) for op, loops in walk(items) if isinstance(op, CopyOp))
    return sum(sum(transfer_cycles(op, machine)) * math.prod(loop.count for loop in loops) for op, loops in moved)


def _searched(fits: list[Fit], moves: int) -> Fit:
    """The best of these with the orders of its loop bodies searched for.

    Also with its results in smaller parts, and in the end with loop bodies of twice the tiles.
    """
    seen = _close([_ordered(f, f.choices, moves // PREVIEW) or f for f in fits])
    for fit in seen[:]:
        tiling = fit.choices.tiling
        smaller = _ordered(fit, replace(fit.choices, tiling=replace(tiling, parts=2 * tiling.parts)), moves // PREVIEW)
        seen += [smaller] if smaller is not None else []
    seen = _close(seen)
    if len(seen) > 1:
        seen = [_ordered(f, f.choices, moves // CLOSER_LOOK) or f for f in seen]
    fewest = min(f.choices.tiling.parts for f in seen)
    return _longest(min(seen, key=lambda f: f.predicted * (1 + WORTH * (f.choices.tiling.parts > fewest))), moves)


def _close(fits: list[Fit]) -> list[Fit]:
    """Those of which a longer search may find that they are the best."""
    least = min(fit.predicted for fit in fits)
    return [fit for fit in fits if fit.predicted < CLOSE * least]


def _longest(fit: Fit, moves: int) -> Fit:
    """The same after the whole search, with loop bodies of twice the tiles if that is better."""
    if fit.choices.tiling.longer:
        tiling = replace(fit.choices.tiling, interleave=2 * fit.choices.tiling.interleave, longer=False)
        longer = _ordered(fit, replace(fit.choices, tiling=tiling), moves)
        if longer is not None and longer.predicted < fit.predicted:
            return longer
    full = _ordered(fit, fit.choices, moves)
    return full if full is not None and full.predicted < fit.predicted else fit


def _ordered(fit: Fit, choices: Choices, moves: int) -> Fit | None:
    """The entry under these choices with the orders of its loop bodies searched for; None if they do not fit so.

    Straight code too, unless there is no memory for that: a faster order has more values under way at a time. A loop
    body that takes more memory than is free, for more tiles or a longer search, is searched for again in what is; what
    loops over points alone do not have room for they do in smaller tiles.
    """
    straight = fit.scheduler.straight
    while True:
        scheduler = Scheduler(fit.scheduler.entry, choices, fit.scheduler, moves, straight)
        try:
            items = scheduler.build()
            allocate(items, fit.scheduler.entry.machine)
            return Fit(scheduler, items)
        except SramFullError as error:
            tighter = _tighter(scheduler, error.alive)
            if tighter is not None:
                choices = replace(choices, rooms={**choices.rooms, **tighter})
            elif straight:
                straight = False
            else:
                smaller = _smaller(scheduler, error.alive, choices.tiling)
                if smaller is None or smaller.halved == choices.tiling.halved:
                    return None
                choices = replace(choices, tiling=smaller)
        except (NoRoomError, PsumFullError, WayError):
            return None


def _fits_or_streams(entry: Entry, tiling: Tiling) -> list[Fit]:
    """Ways to fit the entry: with its weights streaming where SRAM has no room for them, or for nothing else."""
    sram = entry.machine.sram_kib * 1024
    ways = [tiling, streamed.tiling_for(tiling)]
    if sum(map(storage_bytes, streamed.weights(entry.graph, Axes(entry.graph), sram))) > sram:
        ways.reverse()
    try:
        return _fits(entry, ways[0])
    except WayError:
        return _fits(entry, ways[1])


def _fits(entry: Entry, tiling: Tiling) -> list[Fit]:
    """Ways to fit the entry: where tiles get small, also with smaller values out of their way.

    Where a loop over points has no room for all evaluations of a few, they are a loop of their own.
    """
    found: list[Fit] = []
    with contextlib.suppress(WayError):
        found.append(_fit(entry, tiling))
    tight = replace(tiling, tight=True)
    if not found or found[0].short:
        try:
            found.append(_fit(entry, tight))
        except WayError:
            if not found:
                found.append(_fit(entry, replace(tight, unrolled=0)))
        if tiling.streamed:
            return found  # fewer rows make strips dearer
        at, reached = tight, min(found, key=lambda f: f.predicted).choices.tiling
        while reached.interleave == 1 and at.rows * at.interleave > reached.rows:
            with contextlib.suppress(WayError):
                found.append(_fit(entry, at, Limits(gradient=LARGE_GRADIENT)))
            if at.interleave == 1:
                break
            at = replace(at, interleave=at.interleave // 2, window=min(at.window, max(2, at.interleave // 2)))
    if all(fit.choices.tiling.rows < tiling.rows for fit in found):
        with contextlib.suppress(WayError):
            found.append(_fit(entry, tight, Limits(SMALL, SMALL)))
    return found


def _rows(tiling: Tiling) -> int:
    """Rows of a loop body over evaluations."""
    return tiling.rows * tiling.interleave


def _fit(entry: Entry, tiling: Tiling, limits: Limits = DEFAULT) -> Fit:
    """The choices that make the entry fit.

    Where a gradient was deferred and tiles did not get smaller there is room that was not there when values went to
    DRAM: those that are read several times stay, if that is faster.
    """
    fit = _greedy(entry, Choices(tiling), limits)
    keep = frozenset(n for n in fit.choices.spilled if _sweeps_reading(n, fit.scheduler) > 1)
    if fit.choices.deferred and keep and fit.choices.tiling.interleave == tiling.interleave:
        with contextlib.suppress(WayError):
            kept = _greedy(entry, Choices(tiling), replace(limits, keep=keep), _rows(fit.choices.tiling))
            return min(fit, kept, key=lambda f: f.predicted)
    return fit


def _sweeps_reading(node: Node, scheduler: Scheduler) -> int:
    """How often loops over the evaluations of a point read the whole of what an earlier one made; 0: another value."""
    home = scheduler.unit_home.get(node)
    if home is None or not home.covers:
        return 0
    unit, made = scheduler.units.of[node]
    own = {tag for tag in scheduler.units.tags(node, unit) if tag is not None}
    reading: dict[Sweep, int] = {}
    for reader in scheduler.units.executed_users(node):
        of, sweep = scheduler.units.of[reader]
        if of is unit and sweep is not made and 4 * reader.type.size >= node.type.size:
            reading[sweep] = math.prod(axis.size for axis in sweep.axes if axis not in own)
    return sum(reading.values())


def _greedy(entry: Entry, choices: Choices, limits: Limits, least: int = 0) -> Fit:
    """One choice after the other, from these on, until the entry fits; no loop bodies of fewer rows than `least`."""
    scheduler: Scheduler | None = None
    failed: Scheduler | None = None
    alive: set[Buffer] = set()
    short = False
    while True:
        scheduler = Scheduler(entry, choices, scheduler)
        tighter: dict[str, int] | None = None
        try:
            items = scheduler.build()
            allocate(items, entry.machine)
            return Fit(scheduler, items, short)
        except PsumFullError as full:
            choices = replace(choices, not_in_psum=choices.not_in_psum | full.owners)
            short = True
            continue
        except SramFullError as error:
            failed, alive, problem = scheduler, error.alive, error
            tighter = _tighter(scheduler, alive)
        except NoRoomError:
            short = True  # tighter than `failed` does not go
        assert failed is not None
        cold = _cold(failed, alive)
        victim = _victim(failed, alive, limits)
        smaller = _smaller(failed, alive, choices.tiling)
        if _crowded(failed, alive):
            choices = replace(choices, whole=failed.units.whole // 2, rooms={})
        elif cold:
            choices = replace(choices, spilled=choices.spilled | cold, rooms={})
        elif tighter is not None:
            choices = replace(choices, rooms={**choices.rooms, **tighter})
        elif smaller is not None and smaller.halved != choices.tiling.halved:
            halved = smaller.halved[len(choices.tiling.halved) :]
            others = (n for n in choices.rooms if n not in halved and n not in map(straight_name, halved))
            rooms = {name: choices.rooms[name] for name in others}
            choices = replace(choices, tiling=smaller, rooms=rooms, not_in_psum=frozenset())
        elif victim is not None and _spill_kind(failed, victim, limits) < 2:
            choices = replace(_without(choices, failed, alive, limits), rooms={})
        elif smaller is not None and _rows(smaller) < least:
            raise problem
        elif smaller is not None:
            choices = replace(choices, tiling=smaller, rooms={}, not_in_psum=frozenset())
        elif victim is not None:
            choices = replace(choices, spilled=choices.spilled | {victim}, rooms={})
        elif choices.tiling.pipelined:
            choices = replace(choices, tiling=replace(choices.tiling, pipelined=False), rooms={})
        else:
            raise problem


def _crowded(scheduler: Scheduler, alive: set[Buffer]) -> bool:
    """Whether SRAM is full of parameters and moments that straight code works on whole, so that loops should."""
    straight = sum(b.bytes for b in alive if b in scheduler.unit_of and scheduler.unit_of[b].kind == "global")
    return straight > CROWDED * scheduler.machine.sram_kib * 1024 and scheduler.units.whole > LEAST_WHOLE


def _without(choices: Choices, failed: Scheduler, alive: set[Buffer], limits: Limits) -> Choices:
    """The choices with as many saved activations and large gradients out of SRAM as the shortage asks for."""
    needed = _shortage(failed, alive)
    victim = _victim(failed, alive, limits)
    while victim is not None and _spill_kind(failed, victim, limits) < 2:
        chain = chain_of(failed.graph, victim)
        if chain not in choices.deferred and deferrable(chain, failed.units):
            strips = failed.candidates[victim] > STRIP * failed.machine.sram_kib * 1024
            spilled = choices.spilled | ({victim} if strips else frozenset())
            choices = replace(choices, deferred=(*choices.deferred, chain), spilled=spilled)
        else:
            choices = replace(choices, spilled=choices.spilled | {victim})
        needed -= failed.candidates[victim]
        alive = alive - {failed.home_buffer(victim)}
        victim = _victim(failed, alive, limits) if needed > 0 else None
    return choices


def _cold(scheduler: Scheduler, alive: set[Buffer]) -> frozenset[Node]:
    """Values that only occupy SRAM in the loop in which it is short: made before it and read after it."""
    units = {scheduler.own[b] for b in alive if b in scheduler.own}
    if len(units) != 1:
        return frozenset()
    (unit,) = units
    found = []
    for node, size in scheduler.candidates.items():
        if scheduler.home_buffer(node) not in alive or size < SMALL or accumulator(node) is not None:
            continue
        near = [node, *scheduler.units.executed_users(node)]
        if node.op != "matmul_tn" and unit not in {scheduler.units.of[n][0] for n in near if n in scheduler.units.of}:
            found.append(node)
    return frozenset(found)


def _tighter(scheduler: Scheduler, alive: set[Buffer]) -> dict[str, int] | None:
    """Less room for the own buffers of the loop body or straight code in which SRAM is short, if that can be enough."""
    in_loops = not alive.isdisjoint(scheduler.own)
    if not in_loops and not scheduler.choices.tiling.streamed:
        return None  # smaller tiles are as good for straight code, and orders easier to find
    unit_of = scheduler.own if in_loops else scheduler.loose
    own = {b for b in alive if b in unit_of}
    units = {unit_of[b] for b in own}
    if len(units) != 1:
        return None
    (unit,) = units
    name = unit.name if in_loops else straight_name(unit.name)
    taken = sum(b.bytes for b in own)
    room = scheduler.machine.sram_kib * 1024 - sum(b.bytes for b in alive if b not in own) - SLACK
    room = min(room, scheduler.choices.rooms.get(name, taken) - SLACK)
    least = LEAST_ROOM if unit.kind == "evaluations" else 1
    return {name: room} if room >= least * scheduler.largest.get(name, 0) else None


def _shortage(scheduler: Scheduler, alive: set[Buffer]) -> int:
    """Bytes that have to leave SRAM at least, for a loop body to have room for a few of its largest buffers."""
    names = {scheduler.own[b].name for b in alive if b in scheduler.own}
    needed = sum(LEAST_ROOM * scheduler.largest.get(name, 0) for name in names)
    return sum(b.bytes for b in alive if b not in scheduler.own) + needed + SLACK - scheduler.machine.sram_kib * 1024


def _smaller(scheduler: Scheduler, alive: set[Buffer], tiling: Tiling) -> Tiling | None:
    """The next smaller tiling for the kind of loop in which SRAM is short."""
    units = {scheduler.unit_of.get(b) or scheduler.own.get(b) for b in alive}
    kinds = ("points", "parameter", "deferred")
    points = sorted({unit.name for unit in units if unit is not None and unit.kind in kinds})
    if points:
        halved = [name for name in points if not scheduler.smallest.get(name, True)]
        return replace(tiling, halved=(*tiling.halved, *halved)) if halved else None
    if tiling.window > 2 and tiling.interleave > 2:
        return replace(tiling, window=2)
    if tiling.interleave > 1:
        return replace(tiling, interleave=tiling.interleave // 2)
    return replace(tiling, rows=tiling.rows // 2) if tiling.rows > 4 else None


def _spill_kind(scheduler: Scheduler, node: Node, limits: Limits) -> int:
    """In which order values go to DRAM: 0 saved activations, 1 weight gradients, 2 the rest (weights, small values).

    Weights that stream are like their gradients.
    """
    if node in scheduler.streamed:
        return 1
    size = scheduler.candidates[node]
    home = scheduler.unit_home.get(node)
    if home is not None and home.covers:
        return 0 if size >= limits.activation else 2
    return 1 if node.op == "matmul_tn" and size >= limits.gradient else 2


def _victim(scheduler: Scheduler, alive: set[Buffer], limits: Limits) -> Node | None:
    """The value to move to DRAM next: saved activations first, then weight gradients and weights; largest first."""

    def rank(node: Node) -> tuple[int, int, str]:
        return _spill_kind(scheduler, node, limits), -scheduler.candidates[node], node.name

    choices = [
        n
        for n in scheduler.candidates
        if scheduler.home_buffer(n) in alive
        and n not in limits.keep
        and scheduler.candidates[n] >= SMALL
    ]
    return min(choices, key=rank, default=None)
