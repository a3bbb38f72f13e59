"""What blocks of another shape would cost: derived from what a compiled program with 4x4 blocks moves.

Simulated: the error of every shape (the IR evaluator), and cycles, bytes and joules of 4x4. Everything here is derived
from the instructions of the 4x4 program, executed as often as they are; nothing is scheduled anew:

1. Mantissas are the same everywhere. Exponents of an operand shrink as its number of blocks does, partial blocks at its
   edges included (a product of a rank-16 layer has half a 1x32 block in a row). Elements of partial blocks that do not
   exist are not counted as bytes, in favour of the large shapes.
2. Square blocks have one copy. Blocks of one row need a second quantisation of what is contracted along both of its
   dimensions: weights, and gradients of activations; and activations, whose second copy is kept for backward. What
   leaves for DRAM is one of the two, so traffic there differs by exponents only.
3. A second copy is written once: SRAM bytes, and the energy of quantising. The quantiser takes two 4x4 blocks a cycle;
   so the vector unit is taken by (at least) half a cycle a 16 elements more. Products cost the same cycles: eight
   4x4x4 products with one exponent are no fewer.
4. Cycles of a step: between those of 4x4, where all of that hides in what the vector unit idles, and those plus all of
   it. Copies of weights are in SRAM together for the whole step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pintac import blocks, isa
from pintac.cost import cost_table, instruction_of, sram_pj_per_byte
from pintac.ir import Graph, Node
from pintac.isa import Opcode, Space
from pintac.isa.regions import regions
from pintac.machine import Machine
from pintac.program import Program
from pintac.report.explain.ledger import names_in
from pintac.timeline import Timing

_LANE_BLOCK = 16


@dataclass(frozen=True)
class Traffic:
    """Bytes and blocks of SMX operands in a step of a 4x4 program.

    exponents_*   bytes of exponents that products read, that vector instructions read, that go over the DRAM bus
    written       4x4 blocks that vector instructions quantise; `twice` those of values contracted along two dimensions,
                  `twice_bytes` their mantissas
    """

    exponents_tcu: float
    exponents_vpu: float
    exponents_dram: float
    written: int
    twice: int
    twice_bytes: int


@dataclass(frozen=True)
class ShapeCost:
    """A shape beside 4x4, a step. Cycles: from `cycles` to `cycles_most`."""

    shape: str
    copies_share: float
    dram_bytes: int
    sram_bytes: int
    weights_bytes: int
    vpu_cycles: int
    cycles: int
    cycles_most: int
    joules: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def bytes_per_element(bits: int, shape: str, copies: int = 1) -> float:
    """Mantissa and share of an exponent, in full blocks."""
    rows, columns = blocks.SHAPES[shape]
    return copies * (bits / 8 + 1 / (rows * columns))


def contracted(graph: Graph) -> dict[Node, set[int]]:
    """The dimensions (-1, -2) along which products contract each quantised value."""
    axes: dict[Node, set[int]] = {node: set() for node in graph.of("quantize")}
    for node in graph.of("matmul", "matmul_tn"):
        both = (-2, -2) if node.op == "matmul_tn" else (-1, -1 if node.attrs["transpose_b"] else -2)
        for operand, axis in zip(node.operands, both, strict=False):
            axes[operand].add(axis)
    return axes


def traffic(program: Program, graph: Graph, timing: Timing) -> Traffic:
    """What the `step` of a program moves; `graph` is the one that it was compiled from."""
    start, stop = program.entry("step")
    machine_costs = cost_table(program.table[start:stop], _machine(program))
    axes = {node.name: (node, found) for node, found in contracted(graph).items()}
    tcu = vpu = dram = 0.0
    written = twice = twice_bytes = 0
    for pc in range(start, stop):
        times = int(timing.executed[pc])
        instruction = instruction_of(program.table[pc])
        names = names_in(program.origin(pc).op or "")
        if not times:
            continue
        if instruction.opcode is Opcode.MATMUL:
            a, b = instruction.operand("s0"), instruction.operand("s1")
            m, k, n = (-(-instruction[size] // 4) for size in ("m", "k", "n"))
            share = (m * k + k * n) / (m * k * (2 * a.bits + 1) + k * n * (2 * b.bits + 1))
            tcu += times * share * float(machine_costs["sram_read"][pc - start])
        elif instruction.opcode is Opcode.VPU:
            count = -(-instruction["rows"] // 4) * -(-instruction["cols"] // 4)
            vpu += times * count * sum(instruction.operand(f"s{i}").bits > 0 for i in range(isa.SOURCES))
            for i in range(isa.SINKS):
                bits = instruction.operand(f"d{i}").bits
                if not bits:
                    continue
                written += times * count
                if any(len(axes[name][1]) == 2 for name in names if name in axes and axes[name][0].type.bits == bits):
                    twice += times * count
                    twice_bytes += times * count * 2 * bits
        elif instruction.opcode in (Opcode.LOAD, Opcode.STORE):
            of = [axes[name][0] for name in names if name in axes]
            if of:
                moved = sum(r.size * r.count * r.outer for r in regions(instruction, [0] * isa.LOOP_LEVELS)
                            if r.space == Space.DRAM)  # fmt: skip
                dram += times * moved / (2 * of[0].type.bits + 1)
    return Traffic(tcu, vpu, dram, written, twice, twice_bytes)


def shape_cost(shape: str, program: Program, graph: Graph, timing: Timing, moved: Traffic) -> ShapeCost:
    """Cost of a step with blocks of a shape, by the rules at the top."""
    machine = _machine(program)
    axes = contracted(graph)
    exponents = _fewer(axes, shape)
    two = blocks.copies(shape, {-1, -2}) == 2
    again, again_bytes = (moved.twice, moved.twice_bytes) if two else (0, 0)
    again_exponents = again * exponents
    saved = moved.exponents_tcu + moved.exponents_vpu + moved.written
    start, stop = program.entry("step")
    costs = cost_table(program.table[start:stop], machine)
    executed = np.asarray(timing.executed[start:stop])
    base_sram = sum(int((costs[column] * executed).sum()) for column in ("sram_read", "sram_write"))
    sram = again_bytes + again_exponents - saved * (1 - exponents)
    dram = -moved.exponents_dram * (1 - exponents)
    extra = -(-again // machine.quantise_blocks_per_cycle)
    picojoules = (
        (sram + dram) * sram_pj_per_byte(machine.sram_bank_kib, machine)  # a transfer has an end in SRAM
        + 8 * dram * machine.energy_dram_pj_per_bit
        + 3 * machine.energy_add_int32_pj * _LANE_BLOCK * again
    )
    weights = [n for n, found in axes.items() if len(found) == 2 and _is_weight(graph, n)]
    return ShapeCost(
        shape=shape,
        copies_share=again / max(1, moved.written),
        dram_bytes=round(timing.dram_bytes + dram),
        sram_bytes=round(base_sram + sram + dram),
        weights_bytes=sum(n.type.size * n.type.bits // 8 + blocks.blocks_of(n.shape, blocks.SHAPES[shape])
                          for n in weights) if two else 0,
        vpu_cycles=timing.busy["vpu"] + extra,
        cycles=max(timing.cycles, timing.busy["vpu"] + extra),
        cycles_most=timing.cycles + extra,
        joules=timing.joules + picojoules * 1e-12,
    )  # fmt: skip


def _fewer(axes: Mapping[Node, set[int]], shape: str) -> float:
    """Exponents of the shape over those of 4x4, over every quantised value as products read it."""
    ours = sum(blocks.blocks_of(n.shape, blocks.oriented(shape, axis)) for n, found in axes.items() for axis in found)
    smx = sum(blocks.blocks_of(n.shape, (4, 4)) * len(found) for n, found in axes.items())
    return ours / max(1, smx)


def _is_weight(graph: Graph, node: Node) -> bool:
    for user in graph.users(node):
        for operand, role in zip(user.operands, ("lhs_role", "rhs_role"), strict=False):
            if operand is node and user.attrs.get(role) == "weight":
                return True
    return False


def _machine(program: Program) -> Machine:
    from pintac.timeline import program_machine

    return program_machine(program)


def measure(arguments: Mapping[str, Any], flags: Mapping[str, str], problem: str = "poisson2d") -> dict[str, Any]:
    """Costs of a configuration in every shape: compiles its program (seconds to a minute)."""
    from pintac.api.compilation import as_machine
    from pintac.api.lowering import lower
    from pintac.api.reuse import emit_or_reuse
    from pintac.frontend import load_step
    from pintac.passes import PipelineOptions
    from pintac.timeline import simulate

    options = PipelineOptions.from_bits(flags.get("bits", "8/16/8/12"), quant=flags.get("quant", "diff"))
    lowered = lower(load_step(problem, **arguments), options)
    program = emit_or_reuse(lowered, as_machine("pinta"))
    timing = simulate(program)
    graph = lowered.graphs["step"]
    moved = traffic(program, graph, timing)
    costs = [shape_cost(shape, program, graph, timing, moved).to_dict() for shape in blocks.SHAPES]
    return {"traffic": asdict(moved), "shapes": costs, "cycles": timing.cycles, "joules": timing.joules}
