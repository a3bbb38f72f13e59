"""What an entry needs to fit the machine, and of the ways to fit the one that takes fewest cycles."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pintac.backend.bodies import streamed
from pintac.backend.bodies.choices import Choices, Entry
from pintac.backend.bodies.tiling import Tiling, widest
from pintac.backend.grouping.axes import Axes
from pintac.backend.grouping.recompute import recomputable, recomputed
from pintac.backend.grouping.units import Sweep, storage_bytes
from pintac.backend.listing.allocate import SramFullError, allocate
from pintac.backend.listing.prefetch import prefetch
from pintac.backend.ordering.order import NoOrderError, NoRoomError, PsumFullError
from pintac.backend.scheduling.kernels import Fused, fused
from pintac.backend.scheduling.regions import Effort
from pintac.backend.scheduling.remedies import (
    DEFAULT_LIMITS,
    SMALL,
    Limits,
    Shortage,
    halvable,
    halve,
    less_room,
    relieved,
)
from pintac.backend.scheduling.schedule import TileSchedule, scheduled
from pintac.backend.tiles.tile import Buffer, CopyOp, Item, to_text, walk
from pintac.backend.tiles.transfer import transfer_cycles
from pintac.backend.ways import WayError
from pintac.ir import Node
from pintac.machine import Machine

LARGE_GRADIENT = 16384
"""Bytes of a weight gradient that goes to DRAM where tiles would get small (`_fits`)."""
PREVIEW = 24
"""Part of the search for orders after which ways to fit are compared."""
RIVAL = 1.1
"""Cycles of another way to fit, before orders are searched, up to which it may turn out the better one."""
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


def fitted(entry: Entry, tiling: Tiling, moves: int) -> Schedule:
    """The schedule of an entry: from `tiling` on smaller until it fits, few values in DRAM, in the best order found.

    `moves` is how long the orders of loop bodies are searched for. Raises `WayError` when nothing fits.
    """
    found = _fits_or_streams(entry, tiling)
    tiling = replace(tiling, streamed=found[0].choices.tiling.streamed)
    fewer = replace(tiling, rows=tiling.rows // 2, interleave=2 * tiling.interleave, window=2 * tiling.window)
    wide = 4 * tiling.rows * widest(found[0].units) > entry.machine.psum_kib * 1024
    if wide and tiling.rows >= 8 and not tiling.streamed:  # tiles get in each other's way
        with contextlib.suppress(WayError):
            found += _fits(entry, fewer)
    found = _different(sorted(found, key=lambda f: f.predicted))
    others = sorted(_recomputing(found[0]), key=lambda f: f.predicted)
    fits = sorted([*found[:2], *others[:2]], key=lambda f: f.predicted)
    fit = fits[0]
    if moves and fit.hot:
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
        tuple(sorted(n.name for n in fit.entry.again if n.op == "quantize")),
        tuple(sorted(n.name for n in fit.units.per_sign)),
        tuple(sorted(n.name for n in chosen.spilled & fit.placement.streamed)),
        tuple(fit.placement.scratch),
        fit.predicted,
    )


def _different(fits: list[TileSchedule]) -> list[TileSchedule]:
    """Without those that came to the schedule of one before them, from other limits."""
    found: dict[str, TileSchedule] = {}
    for fit in fits:
        found.setdefault(to_text(fit.items), fit)
    return list(found.values())


def _recomputing(fit: TileSchedule) -> list[TileSchedule]:
    """Where the bus is busy: ways to fit with some of what goes through DRAM computed again instead."""
    entry, units = fit.entry, fit.units
    if _transfers(fit.items, entry.machine) < BUSY * fit.predicted:
        return []
    values = [node for node in recomputable(units) if node in fit.choices.spilled]
    tiling = replace(fit.choices.tiling, halved=())
    found: list[TileSchedule] = []
    for count in range(1, len(values) + 1):
        other = recomputed(units, values[:count])
        leaves = {other.new[node]: buffer for node, buffer in entry.leaves.items()}
        again = replace(entry, graph=other.graph, leaves=leaves, again=other.again)
        spilled = frozenset(other.new[node] for node in fit.choices.spilled if node not in values[:count])
        deferred = tuple(tuple(other.new[node] for node in chain) for chain in fit.choices.deferred)
        with contextlib.suppress(WayError):
            choices = Choices(tiling, spilled, deferred=deferred)
            found.append(_greedy(again, choices, DEFAULT_LIMITS, _rows(tiling)))
    return found


def _roomier(fit: TileSchedule, tilings: Sequence[Tiling]) -> list[TileSchedule]:
    """Where memory is short: ways to fit with all that is kept between the sweeps of a point in DRAM."""
    kept, movable = fit.placement.unit_home, {*fit.placement.candidates, *fit.choices.spilled}
    between = frozenset(n for n, h in kept.items() if h.covers and h.buffer.bytes >= SMALL and n in movable)
    if not between or not (fit.short or fit.choices.tiling.tight):
        return []
    found: list[TileSchedule] = []
    for tiling in tilings:
        with contextlib.suppress(WayError):
            found.append(_greedy(fit.entry, Choices(replace(tiling, tight=True), between), DEFAULT_LIMITS))
    return found


def _transfers(items: list[Item], machine: Machine) -> int:
    """Cycles that the bus is busy."""
    moved = ((op, loops) for op, loops in walk(items) if isinstance(op, CopyOp))
    return sum(sum(transfer_cycles(op, machine)) * math.prod(loop.count for loop in loops) for op, loops in moved)


def _searched(fits: list[TileSchedule], moves: int) -> TileSchedule:
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


def _close(fits: list[TileSchedule]) -> list[TileSchedule]:
    """Those of which a longer search may find that they are the best."""
    least = min(fit.predicted for fit in fits)
    return [fit for fit in fits if fit.predicted < CLOSE * least]


def _longest(fit: TileSchedule, moves: int) -> TileSchedule:
    """The same after the whole search, with loop bodies of twice the tiles if that is better."""
    if fit.choices.tiling.longer:
        tiling = replace(fit.choices.tiling, interleave=2 * fit.choices.tiling.interleave, longer=False)
        longer = _ordered(fit, replace(fit.choices, tiling=tiling), moves)
        if longer is not None and longer.predicted < fit.predicted:
            return longer
    full = _ordered(fit, fit.choices, moves)
    return full if full is not None and full.predicted < fit.predicted else fit


def _ordered(fit: TileSchedule, choices: Choices, moves: int) -> TileSchedule | None:
    """The entry under these choices with the orders of its loop bodies searched for; None if they do not fit so.

    Straight code too, unless there is no memory for that: a faster order has more values under way at a time. A loop
    body that takes more memory than is free, for more tiles or a longer search, is searched for again in what is; what
    loops over points alone do not have room for they do in smaller tiles.
    """
    effort = Effort(moves, fit.effort.straight, fit.predicted)
    while True:
        try:
            found = scheduled(fit.entry, choices, fused(fit.entry, choices, fit.fused), effort)
        except (NoOrderError, WayError):
            return None
        try:
            allocate(found.items, fit.entry.machine)
            return found
        except SramFullError as error:
            shortage = Shortage(found, error.alive)
            tighter = less_room(shortage, choices)
            halved = halvable(shortage)
            if tighter is not None:
                choices = tighter
            elif effort.straight:
                effort = replace(effort, straight=False)
            elif halved:
                choices = replace(choices, tiling=halve(choices.tiling, halved))
            else:
                return None


def _fits_or_streams(entry: Entry, tiling: Tiling) -> list[TileSchedule]:
    """Ways to fit the entry: with its weights streaming where SRAM has no room for them, or for nothing else."""
    sram = entry.machine.sram_kib * 1024
    ways = [tiling, streamed.tiling_for(tiling)]
    if sum(map(storage_bytes, streamed.weights(entry.graph, Axes(entry.graph), sram))) > sram:
        ways.reverse()
    try:
        return _fits(entry, ways[0])
    except WayError:
        return _fits(entry, ways[1])


def _fits(entry: Entry, tiling: Tiling) -> list[TileSchedule]:
    """Ways to fit the entry: where tiles get small, also with smaller values out of their way.

    Where a loop over points has no room for all evaluations of a few, they are a loop of their own.
    """
    found: list[TileSchedule] = []
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


def _fit(entry: Entry, tiling: Tiling, limits: Limits = DEFAULT_LIMITS) -> TileSchedule:
    """The choices that make the entry fit.

    Where a gradient was deferred and tiles did not get smaller there is room that was not there when values went to
    DRAM: those that are read several times stay, if that is faster.
    """
    fit = _greedy(entry, Choices(tiling), limits)
    keep = frozenset(n for n in fit.choices.spilled if _sweeps_reading(n, fit) > 1)
    if fit.choices.deferred and keep and fit.choices.tiling.interleave == tiling.interleave:
        with contextlib.suppress(WayError):
            kept = _greedy(entry, Choices(tiling), replace(limits, keep=keep), _rows(fit.choices.tiling))
            return min(fit, kept, key=lambda f: f.predicted)
    return fit


def _sweeps_reading(node: Node, fit: TileSchedule) -> int:
    """How often loops over the evaluations of a point read the whole of what an earlier one made; 0: another value."""
    home, units = fit.placement.unit_home.get(node), fit.units
    if home is None or not home.covers:
        return 0
    unit, made = units.of[node]
    own = {tag for tag in units.tags(node, unit) if tag is not None}
    reading: dict[Sweep, int] = {}
    for reader in units.executed_users(node):
        of, sweep = units.of[reader]
        if of is unit and sweep is not made and 4 * reader.type.size >= node.type.size:
            reading[sweep] = math.prod(axis.size for axis in sweep.axes if axis not in own)
    return sum(reading.values())


def _greedy(entry: Entry, choices: Choices, limits: Limits, least: int = 0) -> TileSchedule:
    """One choice after the other, from these on, until the entry fits; no loop bodies of fewer rows than `least`."""
    kernels: Fused | None = None
    shortage: Shortage | None = None
    expected, short = 0, False
    while True:
        kernels = fused(entry, choices, kernels)
        try:
            found = scheduled(entry, choices, kernels, Effort(expected=expected))
            expected = found.predicted
            allocate(found.items, entry.machine)
            return replace(found, short=short)
        except PsumFullError as full:
            choices = replace(choices, not_in_psum=choices.not_in_psum | full.owners)
            expected, short = full.reached, True
            continue
        except SramFullError as error:
            problem = error
            shortage = Shortage(found, error.alive, limits)
        except NoRoomError as error:
            assert shortage is not None  # only the room that a shortage left can be too small for an order
            shortage = replace(shortage, tightest=True)
            expected, short = error.reached, True
        less = relieved(shortage, choices)
        if less is None or _rows(less.tiling) < least:
            raise problem
        choices = less
