"""The backend as a whole: graphs after all passes to a program."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from pintac import isa
from pintac.backend.bodies.choices import Entry
from pintac.backend.bodies.tiling import Tiling
from pintac.backend.bound import lower_bound
from pintac.backend.grouping.prepare import prepare
from pintac.backend.listing.check import check
from pintac.backend.listing.emit import Emitter
from pintac.backend.listing.sync import Synchronizer, TooManySemaphoresError
from pintac.backend.scheduling.fit import fitted
from pintac.backend.tiles.tile import Buffer, Item
from pintac.errors import MachineError, PassError
from pintac.ir import Graph, Node
from pintac.ir.types import SMX_BLOCK
from pintac.isa import Space
from pintac.isa.encoding import encode_program
from pintac.machine import Machine
from pintac.program import Origin, Program, Symbol

ALIGNMENT = 64
MOVES = 96000
"""Length of the search for the order of a loop body, at effort 1."""
COLLECTED = 100_000
"""Objects made between two garbage collections: schedules are many small objects, most of which stay."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect garbage less often inside: otherwise a tenth of the time of a compilation goes there."""
    before = gc.get_threshold()
    gc.set_threshold(max(COLLECTED, before[0]) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


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


def _check_random(graph: Graph, machine: Machine) -> None:
    """Random numbers are made where they are needed: there is no program that reads them from DRAM instead."""
    drawn = next((node for node in graph.nodes if node.op == "random"), None)
    if drawn is not None and not machine.vpu_philox:
        raise MachineError(
            f"machine {machine.name!r} has no philox generator, and the step draws random numbers",
            location=drawn.loc if drawn.loc.file else None,
            hint="vpu_philox = true: pintac has no other source of random numbers",
        )


def _check_blocks(graph: Graph) -> None:
    """The machine has SMX blocks; others exist in the IR evaluator only."""
    for node in graph.of("quantize"):
        if node.type.block != SMX_BLOCK:
            raise PassError(
                f"%{node.name} has blocks of {node.attrs['block']}, the machine and its simulator have 4x4",
                location=node.loc,
                hint="other shapes are evaluated only: --engine evaluator",
            )


@rare_collections()
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
        _check_random(graph, machine)
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
        tiling = Tiling(split_results=bound.limit == "tcu", per_sign=bound.limit != "vpu")
        entry = Entry(graph, machine, leaves, outputs)
        while True:
            schedule = fitted(entry, tiling, round(MOVES * effort))
            synchronizer = Synchronizer(semaphores, machine.semaphores)
            top = dram.top
            for buffer in schedule.scratch:
                dram.place(buffer)
            try:
                items = synchronizer.insert(schedule.items)
                break
            except TooManySemaphoresError:
                fewer = _fewer_tiles(tiling, schedule.tiling)
                if fewer is None:
                    raise
                tiling, dram.top = fewer, top
        check(schedule.items, machine)
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
        sram = max(sram, schedule.sram_bytes)
        info[name] = {
            "rows_per_tile": schedule.tiling.rows,
            "tiles_interleaved": schedule.tiling.interleave,
            "sram_bytes": schedule.sram_bytes,
            "predicted_cycles": schedule.predicted,
            "in_dram": list(schedule.spilled),
            "deferred": list(schedule.deferred),
            "recomputed": list(schedule.recomputed),
            "per_sign": list(schedule.per_sign),
            "streamed": list(schedule.streamed),
            "bound": bound.to_dict(),
        }
    return Program(
        code=encode_program(instructions),
        entries=entries,
        dram_bytes=dram.top,
        sram_bytes=machine.sram_kib * 1024,
        psum_bytes=machine.psum_kib * 1024,
        semaphores=tuple(semaphores),
        symbols=dram.symbols,
        params=tuple(params),
        param_table=param_table,
        init=dict(init),
        data={(k if k.startswith("const:") else f"data:{k}"): np.asarray(v, order="C") for k, v in arrays.items()},
        test_x=test_x,
        test_u=test_u,
        debug=tuple(debug),
        meta={**(meta or {}), "backend": info, "machine": machine.to_dict(), "machine_hash": machine.hash},
    )


def _fewer_tiles(asked: Tiling, chosen: Tiling) -> Tiling | None:
    """What to ask for where the tiles `chosen` need too many semaphores; None where nothing less is left.

    Every tiling that is asked for has fewer rows in a loop body than the one before, so this ends.
    """
    rows, interleave = chosen.rows, max(1, chosen.interleave // 2)
    fewer = replace(asked, rows=rows, interleave=interleave, longer=False)
    less = rows * interleave < asked.rows * asked.interleave or (asked.longer and interleave < chosen.interleave)
    return fewer if less else None


def _output(key: str, node: Node, states: Mapping[str, Buffer], dram: Dram) -> Buffer:
    """Where an output goes: a state's own memory, or a symbol of its name."""
    if key.startswith("state:"):
        return states[key.removeprefix("state:")]
    kind = "metric" if key.startswith("metric:") else "output"
    name = key.removeprefix("metric:")
    return dram.symbol(name, node.type.shape, kind)
