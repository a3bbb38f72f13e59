"""What bits of tensors cost on a machine: cycles of the tensor unit, or energy, as sums over matmuls.

A matmul takes the longest of its block products on the array, its results through the result port and its operands
through the read port (docs/MACHINE.md section 5). The products of two widths take ceil(a/4) ceil(b/4) cycles, so bits
that a matmul cannot use, because its results take longer to leave, cost nothing and are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pintac.backend.bound import lower_bound, matmul_cycles
from pintac.cost import mac_pj, sram_pj_per_byte
from pintac.cost_matmul import block_bytes
from pintac.ir import Graph, Node
from pintac.machine import Machine
from pintac.passes.dataflow import live

_WIDE = 16  # of every tensor in the graphs that costs are read from
_HELD = 1 / 16  # weight of moving a tensor to DRAM and back, which happens to those that SRAM cannot hold


@dataclass(frozen=True)
class Product:
    """A matmul: cycles of the array were both operands of 4 bits, cycles of its results, operands and their blocks."""

    array: float
    results: float
    left: str
    right: str
    left_blocks: int
    right_blocks: int


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
                left, right = node.operands[:2]
                self.products.append(
                    Product(
                        matmul_cycles(node, machine) / machine.product_cycles(_WIDE, _WIDE),
                        16 * _blocks(node) / machine.psum_write_fp32_per_cycle,
                        names[left.name],
                        names[right.name],
                        _blocks(left),
                        _blocks(right),
                    )
                )
        self.of_tensor: dict[str, list[Product]] = {name: [] for name in self.blocks}
        for product in self.products:
            for name in dict.fromkeys((product.left, product.right)):
                self.of_tensor[name].append(product)

    @cached_property
    def floor(self) -> float:
        """Cycles of the longest other unit: what bits cannot change."""
        return lower_bound(self._graph, self.machine).vpu

    def cycles(self, bits: Mapping[str, int]) -> float:
        """Cycles of the tensor unit."""
        return sum(self._product_cycles(product, bits) for product in self.products)

    def energy(self, bits: Mapping[str, int]) -> float:
        """Picojoules of products, and of reading operands once and writing every tensor once."""
        products = sum(self._product_pj(product, bits) for product in self.products)
        return products + sum(self._write_pj(name, bits[name]) for name in self.blocks)

    def part(self, name: str, bits: Mapping[str, int], objective: str) -> float:
        """The part of a cost that the bits of one tensor decide, with a little for its size so that no tie is left."""
        products = self.of_tensor[name]
        if objective == "energy":
            return sum(self._product_pj(product, bits) for product in products) + self._write_pj(name, bits[name])
        moved = 2 * self.blocks[name] * block_bytes(bits[name]) / self.machine.dram_bytes_per_cycle
        return sum(self._product_cycles(product, bits) for product in products) + _HELD * moved

    def _product_cycles(self, product: Product, bits: Mapping[str, int]) -> float:
        a, b = bits[product.left], bits[product.right]
        read = product.left_blocks * block_bytes(a) + product.right_blocks * block_bytes(b)
        array = product.array * self.machine.product_cycles(a, b)
        return max(array, product.results, read / self.machine.tcu_sram_read_bytes_per_cycle)

    def _product_pj(self, product: Product, bits: Mapping[str, int]) -> float:
        a, b = bits[product.left], bits[product.right]
        read = product.left_blocks * block_bytes(a) + product.right_blocks * block_bytes(b)
        macs = 64 * product.array * self.machine.bmes
        return macs * mac_pj(a, b, self.machine) + read * sram_pj_per_byte(self.machine.sram_bank_kib, self.machine)

    def _write_pj(self, name: str, bits: int) -> float:
        return self.blocks[name] * block_bytes(bits) * sram_pj_per_byte(self.machine.sram_bank_kib, self.machine)


def _blocks(node: Node) -> int:
    *lead, rows, columns = node.shape
    return math.prod(lead) * -(-rows // 4) * -(-columns // 4)
