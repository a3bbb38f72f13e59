"""The backend as a whole: graphs after all passes to a program."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pintac import isa
from pintac.backend.allocate import SramFullError, allocate
from pintac.backend.bound import lower_bound
from pintac.backend.check import check
from pintac.backend.deferred import Chain, chain_of, deferrable
from pintac.backend.emit import Emitter
from pintac.backend.order import NoRoomError, PsumFullError
from pintac.backend.prefetch import prefetch
from pintac.backend.prepare import prepare
from pintac.backend.schedule import Scheduler
from pintac.backend.sync import Synchronizer, TooManySemaphoresError
from pintac.backend.tile import Buffer, Item
from pintac.backend.tiling import Tiling
from pintac.backend.units import Sweep, accumulator
from pintac.errors import PassError
from pintac.ir import Graph, Node
from pintac.ir.types import SMX_BLOCK
from pintac.isa import Space
from pintac.machine import Machine
from pintac.program import Origin, Program, Symbol

ALIGNMENT = 64
LARGE = 65536
"""Bytes of a value that goes to DRAM rather than have the tiles made smaller."""
LARGE_GRADIENT = 16384
"""The same for a weight gradient where tiles would get small (`_fits`)."""
SLACK = 2048
"""Bytes by which a loop body's room falls short of what is free, because buffers do not fill it without gaps."""
LEAST_ROOM = 2
"""Largest buffers that the room of a body over evaluations must hold at least: below, smaller tiles are better."""
WORTH = 0.0075
"""Part of the cycles that smaller parts of results must save before orders are searched: less is chance."""
MOVES = 12000
"""Length of the search for the order of a loop body, at effort 1."""
SMALL = 2048
"""Bytes of a value too small to be worth moving."""


@dataclass(frozen=True)
class Entry:
    """The schedule of one entry with addresses, and what was decided."""

    items: list[Item]
    sram_bytes: int
    tiling: Tiling
    spilled: tuple[str, ...]
    deferred: tuple[str, ...]
    scratch: tuple[Buffer, ...]
    predicted: int


class Dram:
    """Addresses in DRAM, handed out in order."""

    def __init__(self) -> None:
        self.top = 0
        self.symbols: dict[str, Symbol] = {}

    def place(self, buffer: Buffer) -> Buffer:
        """Give a buffer its address."""
        buffer.addr, buffer.space = self.top, Space.DRAM
        buffer.eaddr = self.top + buffer.mantissa_bytes
        self.top += -(-buffer.bytes // ALIGNMENT) * ALIGNMENT
        return buffer

    def symbol(self, name: str, shape: tuple[int, ...], kind: str) -> Buffer:
        """A named fp32 tensor."""
        size = int(np.prod(shape, dtype=np.int64))
        buffer = self.place(Buffer(name, size))
        assert buffer.addr is not None
        self.symbols[name] = Symbol(name, buffer.addr, shape, "f32", kind)
        return buffer


def _check_blocks(graph: Graph) -> None:
    """The machine has SMX blocks; others exist in the IR evaluator only."""
    for node in graph.of("quantize"):
        if node.type.block != SMX_BLOCK:
            raise PassError(
                f"%{node.name} has blocks of {node.attrs['block']}, the machine and its simulator have 4x4",
                location=node.loc,
                hint="other shapes are evaluated only: --engine evaluator",
            )


def lower(
    graphs: Mapping[str, Graph],
    *,
    machine: Machine,
    init: Mapping[str, np.ndarray],
    data: Mapping[str, np.ndarray],
    params: Sequence[str],
    param_table: np.ndarray,
    test_x: np.ndarray | None = None,
    test_u: np.ndarray | None = None,
    meta: Mapping[str, Any] | None = None,
    watch: Callable[[str, list[Item]], None] | None = None,
    effort: float = 1.0,
) -> Program:
    """Schedule, allocate, synchronise and encode the graphs, one entry each.

    `init` are the start values of states, `data` those of stored arrays. Raises `DoesNotFitError` when the machine
    cannot hold the step, with the demand and what would help. `watch` is told the tile schedule of each entry,
    `effort` scales how long the orders of loop bodies are searched for.
    """
    for graph in graphs.values():
        _check_blocks(graph)
    dram = Dram()
    states = {n: dram.symbol(n, v.shape, "state") for n, v in sorted(init.items())}
    arrays = dict(data)
    stored = {n: dram.symbol(f"data:{n}", v.shape, "data") for n, v in sorted(data.items())}
    instructions: list[isa.Instruction] = []
    debug: list[Origin] = []
    entries: dict[str, tuple[int, int]] = {}
    semaphores: list[isa.Semaphore] = []
    numbers = {name: i for i, name in enumerate(params)}
    info: dict[str, Any] = {}
    sram = 0
    for name, given in graphs.items():
        graph = prepare(given)
        leaves: dict[Node, Buffer] = {}
        for node in graph.nodes:
            if node.op == "state":
                leaves[node] = states[str(node.attrs["name"])]
            elif node.op == "data":
                leaves[node] = stored[str(node.attrs["name"])]
            elif node.op == "input":
                leaves[node] = dram.symbol(str(node.attrs["name"]), node.type.shape, "input")
            elif node.op == "const" and node.type.size > 1:
                key = f"const:{name}.{node.name}"
                leaves[node] = dram.symbol(key, node.type.shape, "data")
                values = node.attrs["values"]
                arrays[key] = np.broadcast_to(np.array(values, np.float32), (node.type.size,)).reshape(node.type.shape)
        outputs = {k: _output(k, v, states, dram) for k, v in graph.outputs.items()}
        bound = lower_bound(given, machine)
        tiling = Tiling(split_results=bound.limit == "tcu")
        while True:
            entry = _schedule(graph, machine, leaves, outputs, tiling, round(MOVES * effort))
            synchronizer = Synchronizer(len(semaphores))
            top = dram.top
            for buffer in entry.scratch:
                dram.place(buffer)
            try:
                items = synchronizer.insert(entry.items)
                break
            except TooManySemaphoresError:
                if entry.tiling.interleave == 1:
                    raise
                tiling, dram.top = replace(tiling, interleave=entry.tiling.interleave // 2), top
        check(entry.items, machine)
        if watch is not None:
            watch(name, items)
        emitter = Emitter(machine, numbers)
        emitter.emit(items)
        start = len(instructions)
        instructions += emitter.instructions
        entries[name] = (start, len(instructions))
        debug += [
            Origin("", "", 0) if op is None else Origin(op.name, op.loc.file, op.loc.line) for op in emitter.origins
        ]
        semaphores += synchronizer.semaphores
        sram = max(sram, entry.sram_bytes)
        info[name] = {
            "rows_per_tile": entry.tiling.rows,
            "tiles_interleaved": entry.tiling.interleave,
            "sram_bytes": entry.sram_bytes,
            "predicted_cycles": entry.predicted,
            "in_dram": list(entry.spilled),
            "deferred": list(entry.deferred),
            "bound": bound.to_dict(),
        }
    return Program(
        code=isa.encode_program(instructions),
        entries=entries,
        dram_bytes=dram.top,
        sram_bytes=machine.sram_kib * 1024,
        psum_bytes=machine.psum_kib * 1024,
        semaphores=tuple(semaphores),
        symbols=dram.symbols,
        params=tuple(params),
        param_table=param_table,
        init=dict(init),
        data={(k if k.startswith("const:") else f"data:{k}"): np.ascontiguousarray(v) for k, v in arrays.items()},
        test_x=test_x,
        test_u=test_u,
        debug=tuple(debug),
        meta={**(meta or {}), "backend": info, "machine": machine.to_dict(), "machine_hash": machine.hash},
    )


def _output(key: str, node: Node, states: Mapping[str, Buffer], dram: Dram) -> Buffer:
    """Where an output goes: a state's own memory, or a symbol of its name."""
    if key.startswith("state:"):
        return states[key.removeprefix("state:")]
    kind = "metric" if key.startswith("metric:") else "output"
    name = key.removeprefix("metric:")
    return dram.symbol(name, node.type.shape, kind)


@dataclass(frozen=True)
class Fit:
    """A schedule that fits, its loop bodies not yet searched for better orders, and the choices that made it fit."""

    scheduler: Scheduler
    items: list[Item]
    tiling: Tiling
    spilled: frozenset[Node]
    not_in_psum: frozenset[Node]
    rooms: Mapping[str, int]
    deferred: tuple[Chain, ...]
    short: bool
    """Whether a loop body had no good order in the memory that it was to have."""


def _schedule(
    graph: Graph,
    machine: Machine,
    leaves: Mapping[Node, Buffer],
    outputs: Mapping[str, Buffer],
    tiling: Tiling,
    moves: int,
) -> Entry:
    """The first tiling from `tiling` on that fits, with as few values in DRAM as greedy choices need, well ordered.

    Where a gradient was deferred and tiles did not get smaller there is room that was not there when values went to
    DRAM: those that are read several times are kept if that is faster.
    """
    fits = list(_fits(graph, machine, leaves, outputs, tiling))
    fit = min(fits, key=lambda f: f.scheduler.predicted)
    keep = frozenset(n for n in fit.spilled if _sweeps_reading(n, fit.scheduler) > 1)
    if fit.deferred and keep and fit.tiling.interleave == tiling.interleave:
        with contextlib.suppress(SramFullError):
            other = _fit(graph, machine, leaves, outputs, tiling, keep, LARGE)
            fit = min(fit, other, key=lambda f: f.scheduler.predicted)
    if moves and fit.scheduler.hot and tiling.split_results:
        fit = _with_smaller_parts(fit, machine)
    items, scratch, predicted = fit.items, fit.scheduler.scratch, fit.scheduler.predicted
    if moves and fit.scheduler.hot:
        best = Scheduler(
            graph, machine, leaves, outputs, fit.tiling, fit.spilled, fit.not_in_psum, fit.scheduler, fit.rooms, moves,
            fit.deferred,
        )  # fmt: skip
        with contextlib.suppress(SramFullError, NoRoomError):  # else the first order stays
            searched = best.build()
            allocate(searched, machine)
            items, scratch, predicted = searched, best.scratch, best.predicted
    items, used = prefetch(items, machine)
    spilled = tuple(sorted(n.name for n in fit.spilled))
    deferred = tuple(chain[0].name for chain in fit.deferred)
    return Entry(items, used, fit.tiling, spilled, deferred, tuple(scratch), predicted)


def _fits(
    graph: Graph, machine: Machine, leaves: Mapping[Node, Buffer], outputs: Mapping[str, Buffer], tiling: Tiling
) -> Iterator[Fit]:
    """Ways to fit the entry: where tiles get small, also with smaller gradients out of their way.

    Where a loop over points has no room for all evaluations of a few, they are a loop of their own.
    """
    first: Fit | None = None
    with contextlib.suppress(SramFullError):
        first = _fit(graph, machine, leaves, outputs, tiling, frozenset(), LARGE)
        yield first
    if first is not None and not first.short:
        return
    tight = replace(tiling, tight=True)
    try:
        found = _fit(graph, machine, leaves, outputs, tight, frozenset(), LARGE)
    except SramFullError:
        if first is not None:
            return
        found = _fit(graph, machine, leaves, outputs, replace(tight, unrolled=0), frozenset(), LARGE)
    yield found
    if first is not None and first.scheduler.predicted < found.scheduler.predicted:
        found = first
    at = tight
    while found.tiling.interleave == 1 and at.rows * at.interleave > found.tiling.rows:
        with contextlib.suppress(SramFullError):
            yield _fit(graph, machine, leaves, outputs, at, frozenset(), LARGE_GRADIENT)
        if at.interleave == 1:
            break
        at = replace(at, interleave=at.interleave // 2, window=min(at.window, max(2, at.interleave // 2)))


def _with_smaller_parts(fit: Fit, machine: Machine) -> Fit:
    """The same choices with results in smaller parts, where that is clearly faster: it makes more instructions."""
    tiling = replace(fit.tiling, parts=2 * fit.tiling.parts)
    known = fit.scheduler
    scheduler = Scheduler(
        known.graph, machine, known.leaves, known.outputs, tiling, fit.spilled, fit.not_in_psum, known, fit.rooms,
        deferred=fit.deferred,
    )  # fmt: skip
    with contextlib.suppress(SramFullError, NoRoomError, PsumFullError):
        items = scheduler.build()
        allocate(items, machine)
        if scheduler.predicted < (1 - WORTH) * known.predicted:
            return replace(fit, scheduler=scheduler, items=items, tiling=tiling)
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


def _fit(
    graph: Graph,
    machine: Machine,
    leaves: Mapping[Node, Buffer],
    outputs: Mapping[str, Buffer],
    tiling: Tiling,
    keep: frozenset[Node],
    large_gradient: int,
) -> Fit:
    """The choices that make the entry fit, values in `keep` not sent to DRAM.

    Gradients of `large_gradient` bytes and more leave SRAM before tiles get smaller.
    """
    spilled: frozenset[Node] = frozenset()
    not_in_psum: frozenset[Node] = frozenset()
    rooms: dict[str, int] = {}
    deferred: tuple[Chain, ...] = ()
    scheduler: Scheduler | None = None
    failed: Scheduler | None = None
    alive: set[Buffer] = set()
    short = False
    while True:
        scheduler = Scheduler(
            graph, machine, leaves, outputs, tiling, spilled, not_in_psum, scheduler, rooms, deferred=deferred
        )
        tighter: dict[str, int] | None = None
        try:
            items = scheduler.build()
            allocate(items, machine)
            return Fit(scheduler, items, tiling, spilled, not_in_psum, rooms, deferred, short)
        except PsumFullError as full:
            not_in_psum |= full.owners
            short = True
            continue
        except SramFullError as error:
            failed, alive, problem = scheduler, error.alive, error
            tighter = _tighter(scheduler, alive, machine)
        except NoRoomError:
            short = True  # tighter than `failed` does not go
        assert failed is not None
        cold = _cold(failed, alive)
        victim = _victim(failed, alive, keep, large_gradient)
        smaller = _smaller(failed, alive, tiling)
        if cold:
            spilled, rooms = spilled | cold, {}
        elif tighter is not None:
            rooms |= tighter
        elif smaller is not None and smaller.halved != tiling.halved:
            tiling, rooms, not_in_psum = smaller, {}, frozenset()
        elif victim is not None and _spill_kind(failed, victim, large_gradient) < 2:
            rooms = {}
            needed = _shortage(failed, alive, machine)
            while victim is not None and _spill_kind(failed, victim, large_gradient) < 2:
                chain = chain_of(graph, victim)
                if chain not in deferred and deferrable(chain, failed.units):
                    deferred = (*deferred, chain)
                else:
                    spilled |= {victim}
                needed -= failed.candidates[victim]
                alive = alive - {failed.home_buffer(victim)}
                victim = _victim(failed, alive, keep, large_gradient) if needed > 0 else None
        elif smaller is not None:
            tiling, rooms, not_in_psum = smaller, {}, frozenset()
        elif victim is not None:
            spilled, rooms = spilled | {victim}, {}
        elif tiling.pipelined:
            tiling, rooms = replace(tiling, pipelined=False), {}
        else:
            raise problem


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
        if node.op in ("sum", "amax"):
            continue  # what loops fold stays where they add to it
        near = [node, *scheduler.units.executed_users(node)]
        if node.op != "matmul_tn" and unit not in {scheduler.units.of[n][0] for n in near if n in scheduler.units.of}:
            found.append(node)
    return frozenset(found)


def _tighter(scheduler: Scheduler, alive: set[Buffer], machine: Machine) -> dict[str, int] | None:
    """Less room for the own buffers of the loop body in which SRAM is short, if that can be enough."""
    own = [b for b in alive if b in scheduler.own]
    units = {scheduler.own[b] for b in own}
    if len(units) != 1:
        return None
    (unit,) = units
    taken = sum(b.bytes for b in own)
    room = machine.sram_kib * 1024 - sum(b.bytes for b in alive if b not in scheduler.own) - SLACK
    room = min(room, scheduler.rooms.get(unit.name, taken) - SLACK)
    least = LEAST_ROOM if unit.kind == "evaluations" else 1
    return {unit.name: room} if room >= least * scheduler.largest.get(unit.name, 0) else None


def _shortage(scheduler: Scheduler, alive: set[Buffer], machine: Machine) -> int:
    """Bytes that have to leave SRAM at least, for a loop body to have room for a few of its largest buffers."""
    names = {scheduler.own[b].name for b in alive if b in scheduler.own}
    needed = sum(LEAST_ROOM * scheduler.largest.get(name, 0) for name in names)
    return sum(b.bytes for b in alive if b not in scheduler.own) + needed + SLACK - machine.sram_kib * 1024


def _smaller(scheduler: Scheduler, alive: set[Buffer], tiling: Tiling) -> Tiling | None:
    """The next smaller tiling for the kind of loop in which SRAM is short."""
    units = [scheduler.unit_of.get(b) or scheduler.own.get(b) for b in alive]
    points = sorted({unit.name for unit in units if unit is not None and unit.kind in ("points", "deferred")})
    if points:
        halved = [name for name in points if not scheduler.smallest.get(name, True)]
        return replace(tiling, halved=(*tiling.halved, *halved)) if halved else None
    if tiling.window > 2 and tiling.interleave > 2:
        return replace(tiling, window=2)
    if tiling.interleave > 1:
        return replace(tiling, interleave=tiling.interleave // 2)
    return replace(tiling, rows=tiling.rows // 2) if tiling.rows > 4 else None


def _spill_kind(scheduler: Scheduler, node: Node, large_gradient: int) -> int:
    """In which order values go to DRAM: 0 saved activations, 1 weight gradients, 2 the rest (weights, small values)."""
    size = scheduler.candidates[node]
    home = scheduler.unit_home.get(node)
    if home is not None and home.covers:
        return 0 if size >= LARGE else 2
    return 1 if node.op == "matmul_tn" and size >= large_gradient else 2


def _victim(scheduler: Scheduler, alive: set[Buffer], keep: frozenset[Node], large_gradient: int) -> Node | None:
    """The value to move to DRAM next: saved activations first, then weight gradients and weights; largest first."""

    def rank(node: Node) -> tuple[int, int, str]:
        return _spill_kind(scheduler, node, large_gradient), -scheduler.candidates[node], node.name

    choices = [
        n
        for n in scheduler.candidates
        if scheduler.home_buffer(n) in alive
        and n not in keep
        and scheduler.candidates[n] >= SMALL
        and (n.op not in ("sum", "amax") or n in scheduler.unit_home)  # what loops fold stays where they add to it
    ]
    return min(choices, key=rank, default=None)
