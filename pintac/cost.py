"""What one decoded instruction costs on a machine: cycles of its unit, bytes, multiply-accumulates, picojoules.

Cycles are whole and depend on the instruction alone, not on what runs beside it (`timeline.py` adds waiting). The
numbered statements in `ASSUMPTIONS` are the model; docs/MACHINE.md prints them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Mapping as MappingABC
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields

import numpy as np

from pintac import isa
from pintac.cost_matmul import Matmul, access_limits, block_bytes, ceil_div, map_matmul
from pintac.errors import MachineError
from pintac.isa import Dataflow, Instruction, Kind, MicroOp, Opcode, Operand, Sink, Space
from pintac.machine import Machine

ASSUMPTIONS: tuple[str, ...] = (
    "A block product takes ceil(a/d) * ceil(b/d) cycles of one engine, d = dpe_operand_bits; SMX exponents are handled "
    "in the same time.",
    "The array forms rectangles of r x s engines (any with array_foldable, else rows x cols or "
    "its transpose); a matmul uses the fastest. Output-stationary passes hold output blocks and take kb * c cycles; "
    "weight- and input-stationary ones hold r x s operand blocks, k along rows, and take one product a streamed block.",
    "Accumulators and the stationary operand are double-buffered: the results of a pass are written and the next "
    "stationary blocks are read while the array computes. Edge passes take as long as full ones. In the stationary "
    "dataflows results also leave while their own pass runs; only those of its last step drain behind it.",
    "Results go to the partial-sum buffer or to SRAM, each at its rate; accumulation in SRAM also reads the old values "
    "through the operand port, accumulation in the partial-sum buffer through a read port as wide as its write port.",
    "Operands cross r x s engines in r + s - 2 cycles, r and s those that hold blocks, not the whole rectangle's; "
    "back-to-back matmuls hide that and the last drain.",
    "The vector unit processes 4x4 blocks where an operand is SMX, else any h x w grid of lanes, of all or of the "
    "largest power of two; every micro-op chain within the limit is one pass. Broadcast operands are held; other "
    "streams share the read ports. Decoding is free, quantising has its own rate, and reductions cost no lanes.",
    "SRAM words are interleaved over the banks, shifted by one bank every row of banks; the rows that one step of one "
    "stream touches conflict when they fall in one bank. Within a step a port moves whole bank words: its bytes a "
    "cycle (a third of them for a read port of the vector unit) count rounded down to words (at least one). Between "
    "units, DRAM and the tensor unit come first: the vector unit gets what the banks deliver beyond those ports' peak "
    "rates.",
    "A transfer holds the bus for its bytes, each separate row rounded up to whole bursts; direction changes, refresh "
    "and page misses cost nothing.",
    "Energy of a product of digits of d bits: (d/8)^2 of an INT8 multiplication, d/4 of an INT8 addition in the "
    "product tree, a quarter of an INT32 addition. A block's contribution to an output: one fp32 addition and two "
    "exponent additions.",
    "Energy of a vector micro-op: an fp32 addition for add, sub, min, max, neg, abs, comparisons, select, floor and "
    "round (the last two, and what they cost, are our addition to the unit), a multiplication for mul, 4 of both for "
    "div and sqrt, 8 of both for exp, log, tanh, sigmoid, sin, cos and erf, 10 rounds of 4 INT32 multiplications and "
    "additions for philox; quantising an element three INT32 additions.",
    "SRAM energy goes by the size of a bank, linear in its logarithm between the table's sizes; the partial-sum buffer "
    "is one bank. Leakage, clock and control cost no energy.",
)

_ADDITIVE = {
    MicroOp.ADD, MicroOp.SUB, MicroOp.NEG, MicroOp.ABS, MicroOp.MIN, MicroOp.MAX, MicroOp.LT, MicroOp.LE, MicroOp.GT,
    MicroOp.GE, MicroOp.EQ, MicroOp.NE, MicroOp.SELECT, MicroOp.FLOOR, MicroOp.ROUND,
}  # fmt: skip
_ITERATIVE = {MicroOp.DIV, MicroOp.SQRT}
_TABLE = {MicroOp.EXP, MicroOp.LOG, MicroOp.TANH, MicroOp.SIGMOID, MicroOp.SIN, MicroOp.COS, MicroOp.ERF}
_FREE = {MicroOp.NOP, MicroOp.MOV}
MICRO_OP_CLASSES: tuple[AbstractSet[MicroOp], ...] = (_FREE, _ADDITIVE, {MicroOp.MUL}, _ITERATIVE, _TABLE, isa.PHILOX)
"""Micro-operations of equal energy. Each micro-operation is in one of them."""


@dataclass(frozen=True)
class Cost:
    """Cost of one execution of an instruction.

    busy            cycles its unit is taken (matmul: by itself, back to back)
    latency         cycles from its start to its completion, by itself
    limit           what sets `busy`
    macs            logical multiply-accumulates
    work            engine-cycles of padded block products (matmul), lane-cycles (VPU)
    *_read/_write   bytes by space
    *_pj            energy by part
    passes, compute, drain, preload, skew    see `cost_matmul.Mapping`
    """

    busy: int
    latency: int
    limit: str
    macs: int = 0
    work: int = 0
    passes: int = 1
    compute: int = 0
    drain: int = 0
    preload: int = 0
    skew: int = 0
    sram_read: int = 0
    sram_write: int = 0
    psum_read: int = 0
    psum_write: int = 0
    dram_read: int = 0
    dram_write: int = 0
    tcu_pj: float = 0.0
    vpu_pj: float = 0.0
    sram_pj: float = 0.0
    psum_pj: float = 0.0
    dram_pj: float = 0.0


COST_INTEGERS = (
    "busy", "latency", "macs", "work", "passes", "compute", "drain", "preload", "skew", "sram_read", "sram_write",
    "psum_read", "psum_write", "dram_read", "dram_write",
)  # fmt: skip
COST_ENERGIES = ("tcu_pj", "vpu_pj", "sram_pj", "psum_pj", "dram_pj")
assert {*COST_INTEGERS, *COST_ENERGIES, "limit"} == {f.name for f in fields(Cost)}


def cost(instruction: Instruction, machine: Machine) -> Cost:
    """Cost of one execution. Raises `MachineError` for what this machine cannot execute."""
    return COSTS[instruction.opcode](instruction, machine)


def _loop(instruction: Instruction, machine: Machine) -> Cost:
    """Nothing: the sequencers handle loops beside their instructions."""
    return Cost(busy=0, latency=0, limit="none")


def _semaphore(instruction: Instruction, machine: Machine) -> Cost:
    return Cost(busy=1, latency=1, limit="issue")


def sram_pj_per_byte(kib: float, machine: Machine) -> float:
    """Energy of a byte of an access to a bank of so many KiB."""
    sizes = [math.log2(8), math.log2(32), math.log2(1024)]
    table = [
        machine.energy_sram_8kib_pj_per_64bit,
        machine.energy_sram_32kib_pj_per_64bit,
        machine.energy_sram_1mib_pj_per_64bit,
    ]
    return float(np.interp(math.log2(kib), sizes, table)) / 8


def mac_pj(bits_a: int, bits_b: int, machine: Machine) -> float:
    """Energy of one multiply-accumulate of the tensor unit, its share of the block's fp32 accumulation included."""
    size = machine.dpe_operand_bits
    digit = machine.energy_mul_int8_pj * (size / 8) ** 2 + machine.energy_add_int8_pj * size / 4
    digit += machine.energy_add_int32_pj / 4
    accumulate = machine.energy_add_fp32_pj + 2 * machine.energy_add_int8_pj
    return machine.product_cycles(bits_a, bits_b) * digit + accumulate / 4


def micro_op_pj(op: MicroOp, machine: Machine) -> float:
    """Energy of one micro-op on one element. Raises `KeyError` for one that no class of `MICRO_OP_CLASSES` has."""
    both = machine.energy_add_fp32_pj + machine.energy_mul_fp32_pj
    if op in _ADDITIVE:
        return machine.energy_add_fp32_pj
    if op is MicroOp.MUL:
        return machine.energy_mul_fp32_pj
    if op in _ITERATIVE:
        return 4 * both
    if op in _TABLE:
        return 8 * both
    if op in isa.PHILOX:
        return 40 * (machine.energy_mul_int32_pj + machine.energy_add_int32_pj)
    if op in _FREE:
        return 0.0
    raise KeyError(op)


def _memory(machine: Machine, moved: MappingABC[str, int], bus_bytes: int = 0) -> dict[str, float]:
    """Byte counts as `Cost` has them, and their energy."""
    sram = moved.get("sram_read", 0) + moved.get("sram_write", 0)
    psum = moved.get("psum_read", 0) + moved.get("psum_write", 0)
    return {
        **moved,
        "sram_pj": sram * sram_pj_per_byte(machine.sram_bank_kib, machine),
        "psum_pj": psum * sram_pj_per_byte(machine.psum_kib, machine),
        "dram_pj": 8 * bus_bytes * machine.energy_dram_pj_per_bit,
    }


def _matmul(instruction: Instruction, machine: Machine) -> Cost:
    left, right, out = (instruction.operand(group) for group in ("s0", "s1", "d0"))
    m, k, n = instruction["m"], instruction["k"], instruction["n"]
    task = Matmul(
        m, k, n, left.bits, right.bits, bool(instruction["acc"]), out.space == Space.SRAM,
        0 if instruction["ta"] else left.hi * 2 * left.bits,
        right.hi * 2 * right.bits if instruction["tb"] else 0,
    )  # fmt: skip
    mapping = map_matmul(task, Dataflow(instruction["dataflow"]), machine)
    place = "sram" if task.to_sram else "psum"
    moved = {"sram_read": mapping.operand_bytes}
    moved[f"{place}_write"] = mapping.result_writes
    moved[f"{place}_read"] = moved.get(f"{place}_read", 0) + mapping.result_reads
    products = ceil_div(m, 4) * ceil_div(k, 4) * ceil_div(n, 4)
    return Cost(
        busy=mapping.busy,
        latency=mapping.alone,
        limit=mapping.limit,
        macs=m * k * n,
        work=products * machine.product_cycles(left.bits, right.bits),
        passes=mapping.passes,
        compute=mapping.compute,
        drain=mapping.drain,
        preload=mapping.preload,
        skew=mapping.skew,
        tcu_pj=64 * products * mac_pj(left.bits, right.bits, machine),
        **_memory(machine, moved),  # type: ignore[arg-type]
    )


def bus_cycles(size: int, count: int, outer: int, hi: int, lo: int, machine: Machine) -> tuple[int, int]:
    """Cycles and bytes of the bus for `outer` x `count` runs of `size` bytes, `lo` and `hi` bytes apart in DRAM.

    Runs that follow each other there are one; each is rounded up to whole bursts.
    """
    rows, run = count * outer, size
    if count == 1 or hi == size:
        rows, run = outer, size * count
        if outer == 1 or lo == run:
            rows, run = 1, run * outer
    bus_bytes = rows * ceil_div(run, machine.dram_burst_bytes) * machine.dram_burst_bytes
    return max(1, math.ceil(bus_bytes / machine.dram_bytes_per_cycle - 1e-9)), bus_bytes


def _transfer(instruction: Instruction, machine: Machine) -> Cost:
    size, count, outer = instruction["size"], instruction["count"], instruction["outer"]
    load = instruction.opcode is Opcode.LOAD
    remote = instruction.operand("s0" if load else "d0")
    alone = bool(instruction["gather"])  # every run by itself
    busy, bus_bytes = bus_cycles(size, count, outer, 0 if alone else remote.hi, 0 if alone else remote.lo, machine)
    index_bytes = 4 * count if alone else 0
    total = size * count * outer
    moved = {"dram_read" if load else "dram_write": total, "sram_write" if load else "sram_read": total}
    moved["sram_read"] = moved.get("sram_read", 0) + index_bytes
    return Cost(
        busy=busy,
        latency=busy + machine.dram_latency_cycles,
        limit="bus",
        **_memory(machine, moved, bus_bytes),  # type: ignore[arg-type]
    )


def _element_offset(o: Operand, row: int, col: int) -> int:
    """Byte offset of an element of an fp32 operand."""
    if o.inner:
        return 4 * ((row // o.inner) * o.hi + (row % o.inner) * o.lo + col * o.cstep)
    return 4 * (row * o.hi + col * o.cstep)


def _is_broadcast(o: Operand) -> bool:
    return not o.bits and (o.hi == 0 or o.cstep == 0 or (o.inner > 0 and o.lo == 0))


def _distinct_bytes(o: Operand, rows: int, cols: int) -> int:
    """Bytes of an operand that are different ones (a broadcast is read once)."""
    if o.bits:
        return ceil_div(rows, 4) * ceil_div(cols, 4) * block_bytes(o.bits)
    groups = ceil_div(rows, o.inner) if o.inner else 1
    inner = min(rows, o.inner) if o.inner else rows
    along = (groups if o.hi else 1) * (inner if o.lo else 1) if o.inner else (rows if o.hi else 1)
    return 4 * along * (cols if o.cstep else 1)


def _step_cycles(
    o: Operand, grid: tuple[int, int], rows: int, cols: int, words: int, machine: Machine
) -> tuple[int, int]:
    """Cycles to move what one step of the lane grid needs of an fp32 operand in SRAM: by port width, by bank."""
    height, width = min(grid[0], rows), min(grid[1], cols)
    base = o.addr % machine.sram_bank_bytes_per_cycle
    return access_limits([base + _element_offset(o, r, c) for r in range(height) for c in range(width)], words, machine)


def _vpu(instruction: Instruction, machine: Machine) -> Cost:
    rows, cols, uops = instruction["rows"], instruction["cols"], instruction["uops"]
    if uops > machine.vpu_max_micro_ops:
        raise MachineError(
            f"a vpu instruction of {uops} micro-ops: machine {machine.name!r} chains {machine.vpu_max_micro_ops}",
            hint="compile for this machine",
        )
    ops = [isa.split_micro_op(instruction[f"uop{i}"])[0] for i in range(uops)]
    if not machine.vpu_philox and any(op in isa.PHILOX for op in ops):
        raise MachineError(f"machine {machine.name!r} has no philox generator", hint="vpu_philox = true")
    sources = [o for i in range(isa.SOURCES) if (o := instruction.operand(f"s{i}")).kind == Kind.TENSOR]
    sinks = [(o, instruction[f"acc{i}"]) for i in range(isa.SINKS) if (o := instruction.operand(f"d{i}")).kind]

    moved = {"sram_read": 0, "sram_write": 0, "psum_read": 0, "psum_write": 0}
    for o in sources:
        moved[f"{Space(o.space).name.lower()}_read"] += _distinct_bytes(o, rows, cols)
    quantised = 0
    for o, acc in sinks:
        shape = isa.sink_shape(o.kind, rows, cols, o.inner)
        size = _distinct_bytes(o, rows, cols) if o.bits else 4 * shape[0] * shape[1]
        moved[f"{Space(o.space).name.lower()}_write"] += size
        if acc:
            moved[f"{Space(o.space).name.lower()}_read"] += size
        if o.bits:
            quantised += ceil_div(rows, 4) * ceil_div(cols, 4)

    streams = [o for o in sources if not o.bits and not _is_broadcast(o)]
    writes = [o for o, _ in sinks if o.kind == Sink.WRITE and not o.bits]
    words = machine.sram_bank_bytes_per_cycle
    read_words = max(1, machine.vpu_sram_read_bytes_per_cycle // 3 // words)  # three ports
    write_words = max(1, machine.vpu_sram_write_bytes_per_cycle // words)

    def lanes(grid: tuple[int, int]) -> tuple[int, int, int]:
        """Steps; cycles of the slowest port over all steps, and what they would be without bank conflicts."""
        steps = ceil_div(rows, grid[0]) * ceil_div(cols, grid[1])
        widest = slowest = 1
        for operands, port_words in ((streams, read_words), (writes, write_words)):
            for o in operands:
                if o.space == Space.SRAM:
                    width, bank = _step_cycles(o, grid, rows, cols, port_words, machine)
                    widest, slowest = max(widest, width), max(slowest, width, bank)
        return steps, steps * slowest, steps * widest

    def in_blocks(lanes_used: int) -> tuple[int, int, int]:
        """Whole blocks, side by side: a step covers four rows, or more where there are fewer columns of blocks."""
        blocks = ceil_div(rows, 4) * ceil_div(cols, 4)
        per_step = lanes_used // 16
        wide = min(per_step, ceil_div(cols, 4))
        steps = ceil_div(blocks, per_step)
        _, *ports = lanes((4 * (per_step // wide), 4 * wide))
        grid_steps = ceil_div(rows, 4 * (per_step // wide)) * ceil_div(cols, 4 * wide)
        port, wide_port = (ceil_div(p * steps, grid_steps) for p in ports)
        return steps, port, wide_port

    # Lanes that are no power of two can also work as the next smaller power: grids then fit operands and ports.
    sizes = sorted({machine.vpu_lanes, 1 << machine.vpu_lanes.bit_length() - 1})
    if any(o.bits for o in sources) or any(o.bits for o, _ in sinks):
        found = [in_blocks(size) for size in sizes]
    else:
        found = [lanes((h, size // h)) for size in sizes for h in range(1, size + 1) if size % h == 0]
    steps, port, wide_port = min(found, key=lambda x: (max(x[:2]), x))

    shared = machine.sram_bytes_per_cycle - (
        machine.tcu_sram_read_bytes_per_cycle + machine.tcu_sram_write_bytes_per_cycle + machine.dram_bytes_per_cycle
    )
    reads = moved["sram_read"] + moved["psum_read"]
    written = moved["sram_write"] + moved["psum_write"]
    busy, limit = max(
        (
            (steps, "lanes"),
            (port, "bank conflicts" if port > wide_port else "port width"),
            (ceil_div(reads, machine.vpu_sram_read_bytes_per_cycle), "read ports"),
            (ceil_div(written, machine.vpu_sram_write_bytes_per_cycle), "write port"),
            (ceil_div(quantised, machine.quantise_blocks_per_cycle), "quantise"),
            (math.ceil((moved["sram_read"] + moved["sram_write"]) / shared - 1e-9), "banks"),
        ),
        key=lambda x: x[0],
    )
    elements = rows * cols
    energy = elements * sum(micro_op_pj(op, machine) for op in ops)
    energy += 3 * machine.energy_add_int32_pj * elements * sum(o.bits > 0 for o, _ in sinks)
    return Cost(
        busy=busy,
        latency=busy + machine.vpu_pipeline_cycles,
        limit=limit,
        work=elements,
        vpu_pj=energy,
        **_memory(machine, moved),  # type: ignore[arg-type]
    )


COSTS: MappingABC[Opcode, Callable[[Instruction, Machine], Cost]] = {
    Opcode.LOOP: _loop,
    Opcode.ENDLOOP: _loop,
    Opcode.SIGNAL: _semaphore,
    Opcode.WAIT: _semaphore,
    Opcode.LOAD: _transfer,
    Opcode.STORE: _transfer,
    Opcode.MATMUL: _matmul,
    Opcode.VPU: _vpu,
}
"""The cost of each opcode."""


@dataclass(frozen=True)
class CostTable:
    """Costs of a listing, column by column: every integer and energy of `Cost` as an array [instructions]."""

    integers: MappingABC[str, np.ndarray]
    energies: MappingABC[str, np.ndarray]
    limits: tuple[str, ...]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.integers[name] if name in self.integers else self.energies[name]


def cost_table(table: np.ndarray, machine: Machine) -> CostTable:
    """Costs of every instruction of a decoded listing. Raises `MachineError` naming the first that cannot run."""
    seen: dict[bytes, Cost] = {}
    costs: list[Cost] = []
    for pc, row in enumerate(table):
        key = row.tobytes()
        if key not in seen:
            try:
                seen[key] = cost(instruction_of(row), machine)
            except MachineError as error:
                raise MachineError(f"instruction {pc}: {error.message}", hint=error.hint) from None
        costs.append(seen[key])
    return CostTable(
        {name: np.array([getattr(c, name) for c in costs], np.int64) for name in COST_INTEGERS},
        {name: np.array([getattr(c, name) for c in costs], np.float64) for name in COST_ENERGIES},
        tuple(c.limit for c in costs),
    )


def instruction_of(row: np.ndarray) -> Instruction:
    """The instruction of one row of a decoded table."""
    numbers = row.tolist()
    opcode = Opcode(numbers[0])
    values = {name: number for name, f in isa.DEFS[opcode].fields.items() if (number := numbers[f.column])}
    return Instruction(opcode, values)
