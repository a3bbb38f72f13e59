"""What bits of tensors cost on a machine: cycles of a step, or energy, of an assignment of bits to tensors.

A matmul takes the longest of its block products on the array, its results through the result port and its operands
through the read port (docs/MACHINE.md section 5). The products of two widths take ceil(a/4) ceil(b/4) cycles, so bits
that a matmul cannot use, because its results take longer to leave, cost nothing and are kept. Perturbed values that
wait for the backward pass go to DRAM and back as far as they do not fit into half of SRAM; tiles take the other half.

Units overlap, but the less the more evenly they are busy: a step takes the 4-norm of the cycles of tensor unit, vector
unit and DRAM. (The lower bound is their maximum; docs/PRECISION.md sets both beside schedules.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

from pintac.backend.bound import lower_bound, matmul_cycles
from pintac.cost import mac_pj, sram_pj_per_byte
from pintac.cost_matmul import block_bytes
from pintac.ir import Graph, Node
from pintac.machine import Machine
from pintac.passes.dataflow import live
from pintac.passes.tensors import WIDTHS, role_of

_WIDE = 16  # of every tensor in the graphs that costs are read from
_OVERLAP = 4.0  # the norm over units
_TIE = 1 / 32  # of a byte that waits: more bits than are of use to the error should not be for nothing


@dataclass(frozen=True)
class Product:
    """A matmul: its operands, and its cycles and picojoules by their widths."""

    left: str
    right: str
    cycles: Mapping[tuple[int, int], float]
    energy: Mapping[tuple[int, int], float]


class Parts(NamedTuple):
    """Cycles of the tensor unit, energy in SRAM and on the array (pJ), bytes that wait for the backward pass."""

    tensor_unit: float
    energy: float
    waiting: float

    def changed(self, old: Parts, new: Parts) -> Parts:
        """With `new` in place of `old`."""
        return Parts(*(total - a + b for total, a, b in zip(self, old, new, strict=True)))


class Costs:
    """The matmuls of a graph (16 bits throughout) whose quantize nodes make the tensors `names`, on a machine."""

    def __init__(self, graph: Graph, names: Mapping[str, str], machine: Machine) -> None:
        self.machine = machine
        self._graph = graph
        needed = live(graph)
        self.products: list[Product] = []
        self.blocks: dict[str, int] = {}
        for node in graph.nodes:
            if node in needed and node.op == "quantize":
                name = names[node.name]
                self.blocks[name] = self.blocks.get(name, 0) + _blocks(node)
            if node in needed and node.op in ("matmul", "matmul_tn"):
                left, right = (names[operand.name] for operand in node.operands[:2])
                widths = list(product(WIDTHS, WIDTHS))
                costs = [self._product(node, *pair) for pair in widths]
                cycles, energy = (dict(zip(widths, values, strict=True)) for values in zip(*costs, strict=True))
                self.products.append(Product(left, right, cycles, energy))
        waiting = [
            n for n in graph.of("quantize") if n in needed and n.type.rank > 2 and role_of(names[n.name]) == "delta"
        ]
        self.waiting = {names[n.name] for n in waiting}
        self.room = max((n.shape[0] for n in waiting), default=0) * machine.sram_bytes / 2
        self.of_tensor: dict[str, list[Product]] = {name: [] for name in self.blocks}
        for p in self.products:
            for name in dict.fromkeys((p.left, p.right)):
                self.of_tensor[name].append(p)

    @cached_property
    def vector_unit(self) -> float:
        """Cycles of the vector unit, which bits do not change."""
        return lower_bound(self._graph, self.machine).vpu

    def parts(self, bits: Mapping[str, int]) -> Parts:
        """The sums over all tensors that a cost is made of."""
        return Parts(
            sum(p.cycles[bits[p.left], bits[p.right]] for p in self.products),
            sum(p.energy[bits[p.left], bits[p.right]] for p in self.products)
            + sum(self._bytes(name, bits[name]) for name in self.blocks) * self._sram_pj,
            sum(self._bytes(name, bits[name]) for name in self.waiting),
        )

    def part(self, name: str, bits: Mapping[str, int]) -> Parts:
        """The part of `parts` that the bits of one tensor decide."""
        products, size = self.of_tensor[name], self._bytes(name, bits[name])
        return Parts(
            sum(p.cycles[bits[p.left], bits[p.right]] for p in products),
            sum(p.energy[bits[p.left], bits[p.right]] for p in products) + size * self._sram_pj,
            size if name in self.waiting else 0.0,
        )

    def total(self, parts: Parts, objective: str) -> float:
        """Cycles, or picojoules for the objective `energy`."""
        moved = 2 * max(0.0, parts.waiting - self.room) + _TIE * parts.waiting
        if objective == "energy":
            return parts.energy + moved * 8 * self.machine.energy_dram_pj_per_bit
        units = (parts.tensor_unit, self.vector_unit, moved / self.machine.dram_bytes_per_cycle)
        return float(sum(unit**_OVERLAP for unit in units) ** (1 / _OVERLAP))

    def cost(self, bits: Mapping[str, int], objective: str = "cycles") -> float:
        """The cost of an assignment."""
        return self.total(self.parts(bits), objective)

    def _product(self, node: Node, a: int, b: int) -> tuple[float, float]:
        """Cycles and picojoules of a matmul whose operands have these widths."""
        machine = self.machine
        left, right = node.operands[:2]
        read = _blocks(left) * block_bytes(a) + _blocks(right) * block_bytes(b)
        digits = matmul_cycles(node, machine) / machine.product_cycles(_WIDE, _WIDE)
        cycles = max(
            digits * machine.product_cycles(a, b),
            16 * _blocks(node) / machine.psum_write_fp32_per_cycle,
            read / machine.tcu_sram_read_bytes_per_cycle,
        )
        return cycles, 64 * digits * machine.bmes * mac_pj(a, b, machine) + read * self._sram_pj

    def _bytes(self, name: str, bits: int) -> int:
        return self.blocks[name] * block_bytes(bits)

    @cached_property
    def _sram_pj(self) -> float:
        return sram_pj_per_byte(self.machine.sram_bank_kib, self.machine)


def _blocks(node: Node) -> int:
    *lead, rows, columns = node.shape
    return math.prod(lead) * -(-rows // 4) * -(-columns // 4)
