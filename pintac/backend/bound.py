"""A number of cycles below which no schedule of a graph can come on a machine (docs/MACHINE.md section 5).

The bound is the optimum of a linear program over the graph after `insert-smx`; no schedule is consulted.

- TCU: padded block products over the engines, or all results over the faster way out of the array (to PSUM or to
  SRAM), whichever is longer. (The results of one matmul leave while another computes, so only the sums bind.)
- VPU: element-wise ops joined by their values form regions, cut at matmuls and reductions. A region passes its largest
  size as often as its micro-ops need chains, or as its values alternate with matmuls.
- DRAM: inputs and data once, states that SRAM cannot hold read and written, perturbations if the machine has no
  generator.
- Quantised values that the backward pass reads after the residual of their point is known are kept (SRAM), spilled
  (written and read) or recomputed, in fractions that sum to one and make the longest unit shortest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from pintac.backend.simplex import maximise
from pintac.ir import Graph, Node, pruned
from pintac.ir.ops import REDUCTIONS
from pintac.ir.types import TensorType
from pintac.machine import Machine

_CONTRACTIONS = ("matmul", "matmul_tn")
_SOURCES = ("state", "input", "scalar", "const", "data")
_FREE = ("reshape", "permute", "slice", "concat", "broadcast", "pad", "quantize", "decode", *REDUCTIONS)
_NORMAL_MICRO_OPS = 8  # two philox words, log, square root, cosine, three products


@dataclass(frozen=True)
class Crossing:
    """A quantised value that lives across the residual: bytes of one point, cost of all, and what becomes of it."""

    name: str
    bytes_per_point: float
    spill_cycles: float
    tcu_cycles: float
    vpu_cycles: float
    kept: float
    recomputed: float

    @property
    def spilled(self) -> float:
        """The fraction that goes through DRAM."""
        return 1.0 - self.kept - self.recomputed


@dataclass(frozen=True)
class Bound:
    """The bound in cycles, and each unit's total at the optimum.

    `results` is the result port's total (part of `tcu`); `limit` the unit that sets the bound.
    """

    cycles: int
    tcu: float
    vpu: float
    dram: float
    products: float
    results: float
    limit: str
    crossing: tuple[Crossing, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """JSON-able."""
        out = asdict(self)
        out["crossing"] = [asdict(c) for c in self.crossing]
        out["details"] = dict(self.details)
        return out


def lower_bound(graph: Graph, machine: Machine) -> Bound:
    """The bound of one run of a graph after all passes."""
    live = list(pruned(graph).nodes)
    products = sum(matmul_cycles(node, machine) for node in live if _on_array(node))
    outputs = sum(_padded(node.type) for node in live if _on_array(node))
    results = outputs / _results_per_cycle(machine)
    vpu = sum(_region_cycles(region, machine) for region in regions(live))
    vpu += sum(_fp32_contraction_cycles(node, machine) for node in live if node.op in _CONTRACTIONS)
    dram = _compulsory_bytes(live, machine) / machine.dram_bytes_per_cycle
    crossing, free = _crossing(live, machine)
    solved, tcu_extra, vpu_extra, dram_extra = _place(crossing, free, max(products, results), vpu, dram)
    totals = {
        "tcu": max(products + tcu_extra, results),
        "vpu": vpu + vpu_extra,
        "dram": dram + dram_extra,
    }
    limit = max(totals, key=lambda unit: totals[unit])
    return Bound(
        math.ceil(totals[limit] - 1e-6), totals["tcu"], totals["vpu"], totals["dram"], products, results, limit,
        tuple(solved), {"capacity_bytes": free},
    )  # fmt: skip


def _results_per_cycle(machine: Machine) -> float:
    """fp32 results a cycle: a schedule may send all of them to PSUM or to SRAM, whichever takes them sooner."""
    return max(float(machine.psum_write_fp32_per_cycle), machine.tcu_sram_write_bytes_per_cycle / 4)


def _blocks(size: int) -> int:
    return -(-size // 4)


def _padded(t: TensorType) -> int:
    """Elements with the last two dimensions rounded up to blocks."""
    *lead, rows, cols = (1, 1, *t.shape) if t.rank < 2 else t.shape
    return math.prod(lead) * 16 * _blocks(rows) * _blocks(cols)


def _on_array(node: Node) -> bool:
    return node.op in _CONTRACTIONS and node.operands[0].type.is_smx


def _products(node: Node) -> int:
    """Padded 4x4x4 block products of a contraction."""
    a, b = node.operands[0].type, node.operands[1].type
    rows = math.prod(a.shape[:-2])
    if node.op == "matmul_tn":
        return rows * _blocks(a.shape[-2]) * _blocks(a.shape[-1]) * _blocks(b.shape[-1])
    return rows * _blocks(a.shape[-2]) * _blocks(a.shape[-1]) * _blocks(node.shape[-1])


def matmul_cycles(node: Node, machine: Machine) -> float:
    """Cycles of a contraction if every engine were busy."""
    bits = node.operands[0].type.bits, node.operands[1].type.bits
    return _products(node) * machine.product_cycles(*bits) / machine.bmes


def _fp32_contraction_cycles(node: Node, machine: Machine) -> float:
    """A contraction of fp32 operands is multiply-reduce on the vector unit."""
    if _on_array(node):
        return 0.0
    a = node.operands[0].type
    return math.prod(a.shape) * node.shape[-1] / machine.vpu_lanes


def micro_ops(node: Node) -> int:
    """Micro-ops an element of a node takes."""
    if node.op in _SOURCES or node.op in _FREE or node.op in _CONTRACTIONS:
        return 0
    if node.op == "random":
        return _NORMAL_MICRO_OPS if node.attrs["kind"] == "normal" else 1
    return 1


def _is_vector(node: Node) -> bool:
    return node.op not in _SOURCES and node.op not in _CONTRACTIONS


def _elements(node: Node) -> int:
    """Lane slots of one pass over a node: whole blocks where it quantises."""
    if node.op == "quantize":
        return _padded(node.type)
    if node.op in REDUCTIONS:
        return node.operands[0].type.size
    return node.type.size


def regions(nodes: Iterable[Node]) -> list[list[Node]]:
    """Vector nodes joined by the values that pass between them; a reduction ends its operand's region."""
    parent: dict[Node, Node] = {node: node for node in nodes if _is_vector(node)}

    def root(node: Node) -> Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in parent:
        for operand in node.operands:
            if operand in parent and operand.op not in REDUCTIONS:
                parent[root(node)] = root(operand)
    groups: dict[Node, list[Node]] = {}
    for node in parent:
        groups.setdefault(root(node), []).append(node)
    return list(groups.values())


def _region_cycles(region: list[Node], machine: Machine) -> float:
    """Lane cycles that a region cannot do without."""
    working = [n for n in region if micro_ops(n) or n.op in ("quantize", *REDUCTIONS)]
    if not working:
        return 0.0
    chain = machine.vpu_max_micro_ops
    largest = max(_elements(n) for n in working)
    # Ops and sinks of the largest size (quantising pads: sizes within a block of each other are one).
    large = [n for n in working if 4 * _elements(n) > largest]
    top = [n for n in large if _size(n) == max(map(_size, large))]
    forced = _forced_passes([n for n in top if n.op in ("quantize", *REDUCTIONS)])
    passes = max(1, forced, math.ceil(sum(map(micro_ops, top)) / chain))
    smallest = min(_elements(n) for n in top)
    spread = sum(micro_ops(n) * _elements(n) for n in working) / chain
    return max(passes * smallest, largest, spread) / machine.vpu_lanes


def _size(node: Node) -> int:
    """Elements of a pass over all rows as one matrix, in whole blocks: the same for packed rows and rows apart."""
    shape = (node.operands[0] if node.op in REDUCTIONS else node).shape
    return 16 * _blocks(math.prod(shape[:-1])) * _blocks(shape[-1] if shape else 1)


def _forced_passes(sinks: list[Node]) -> int:
    """The longest chain of sinks in which a contraction lies between one and the next."""
    wanted = set(sinks)
    longest: dict[Node, tuple[int, int]] = {}  # node -> (sinks on the best path, those behind a contraction)

    def visit(node: Node) -> tuple[int, int]:
        if node in longest:
            return longest[node]
        stack = [node]
        while stack:
            at = stack[-1]
            pending = [o for o in at.operands if o not in longest]
            if pending:
                stack.extend(pending)
                continue
            stack.pop()
            done = max((longest[o][0] for o in at.operands), default=0)
            behind = max((longest[o][1] for o in at.operands), default=0)
            if at.op in _CONTRACTIONS:
                behind = done
            if at in wanted:
                done = max(done, behind + 1)
            longest[at] = (done, behind)
        return longest[node]

    return max((visit(node)[0] for node in sinks), default=0)


def _compulsory_bytes(nodes: list[Node], machine: Machine) -> float:
    amount = 0.0
    states = 0
    for node in nodes:
        if node.op in ("input", "data"):
            amount += 4 * node.type.size
        elif node.op == "state":
            states += 4 * node.type.size
        elif node.op == "random" and not machine.vpu_philox:
            amount += 4 * node.type.size
    return amount + 2 * max(0, states - machine.sram_bytes)


@dataclass(frozen=True)
class _Candidate:
    name: str
    bytes_per_point: float
    spill: float
    tcu: float
    vpu: float


def _smx_bytes(t: TensorType) -> int:
    return _padded(t) // 16 * (2 * t.bits + 1)


def _per_point(node: Node) -> bool:
    return node.type.rank >= 3 and node.shape[0] > 1 and math.prod(node.shape[1:-1]) > 1


def _crossing(nodes: list[Node], machine: Machine) -> tuple[list[_Candidate], float]:
    """Quantised perturbed values read behind the reduction over their point's evaluations, and the SRAM for them.

    With several terms that have such values, only the one with most bytes is constrained: a looser, still valid bound.
    """
    evaluated = [n for n in nodes if _per_point(n)]
    after: set[Node] = set()  # depends on a reduction over evaluations
    for node in nodes:
        operands = node.operands
        if any(o in after for o in operands) or (
            node.op in REDUCTIONS and _per_point(operands[0]) and not _per_point(node) and 0 not in _axes(node)
        ):
            after.add(node)
    component = _components(evaluated)
    found: dict[int, list[_Candidate]] = {}
    for node in evaluated:
        if node.type.is_smx and node not in after and any(u in after for u in _users(nodes, node)):
            total = _smx_bytes(node.type)
            matmuls, size = _recompute(node)
            found.setdefault(component[node], []).append(
                _Candidate(
                    node.name,
                    total / node.shape[0],
                    2 * total / machine.dram_bytes_per_cycle,
                    sum(matmul_cycles(m, machine) for m in matmuls if _on_array(m)),
                    size / machine.vpu_lanes,
                )
            )
    if not found:
        return [], float(machine.sram_bytes)
    chosen = max(found.values(), key=lambda c: sum(x.bytes_per_point for x in c))
    weights = {o for n in nodes if _on_array(n) and _per_point(n.operands[0]) for o in n.operands if not _per_point(o)}
    accumulators = sum(4 * n.type.size for n in nodes if n.op == "matmul_tn" and _per_point(n.operands[0]))
    fixed = sum(_smx_bytes(w.type) for w in weights) + max(0, accumulators - machine.psum_bytes)
    return chosen, max(0.0, float(machine.sram_bytes - fixed))


def _axes(node: Node) -> tuple[int, ...]:
    axes = node.attrs["axes"]
    return tuple(int(a) for a in axes) if isinstance(axes, tuple) else ()


def _users(nodes: list[Node], node: Node) -> list[Node]:
    return [n for n in nodes if node in n.operands]


def _components(nodes: list[Node]) -> dict[Node, int]:
    """Number of the connected component of each node, joined through these nodes only."""
    parent = {node: node for node in nodes}

    def root(node: Node) -> Node:
        while parent[node] is not node:
            node = parent[node]
        return node

    for node in nodes:
        for operand in node.operands:
            if operand in parent:
                parent[root(node)] = root(operand)
    number: dict[Node, int] = {}
    return {node: number.setdefault(root(node), len(number)) for node in nodes}


def _recompute(node: Node) -> tuple[list[Node], int]:
    """Contractions and lane slots to make a quantised value again from the nearest quantised ones before it."""
    matmuls: list[Node] = []
    seen: set[Node] = set()
    stack = list(node.operands)
    while stack:
        at = stack.pop()
        if at in seen or at.type.is_smx or not _per_point(at):
            continue
        seen.add(at)
        if at.op in _CONTRACTIONS:
            matmuls.append(at)
        else:
            stack.extend(at.operands)
    return sorted(matmuls, key=lambda m: m.name), _elements(node)


def _place(
    candidates: list[_Candidate], free: float, tcu: float, vpu: float, dram: float
) -> tuple[list[Crossing], float, float, float]:
    """Keep, spill or recompute so that the longest unit is shortest.

    Variables: fractions kept and recomputed of each value, and y, by how much the bound lies below the one of spilling
    everything. That start is feasible, so the simplex method needs no first phase.
    """
    n = len(candidates)
    spills = sum(c.spill for c in candidates)
    top = max(tcu, vpu, dram + spills)
    rows: list[list[float]] = []
    limits: list[float] = []
    for i in range(n):
        row = [0.0] * (2 * n + 1)
        row[i] = row[n + i] = 1.0
        rows.append(row)
        limits.append(1.0)
    rows.append([c.bytes_per_point for c in candidates] + [0.0] * n + [0.0])
    limits.append(free)
    rows.append([0.0] * n + [c.tcu for c in candidates] + [1.0])
    limits.append(top - tcu)
    rows.append([0.0] * n + [c.vpu for c in candidates] + [1.0])
    limits.append(top - vpu)
    rows.append([-c.spill for c in candidates] * 2 + [1.0])
    limits.append(top - dram - spills)
    x = maximise([0.0] * (2 * n) + [1.0], rows, limits)
    solved = [
        Crossing(c.name, c.bytes_per_point, c.spill, c.tcu, c.vpu, x[i], x[n + i]) for i, c in enumerate(candidates)
    ]
    return (
        solved,
        sum(c.tcu_cycles * c.recomputed for c in solved),
        sum(c.vpu_cycles * c.recomputed for c in solved),
        sum(c.spill_cycles * c.spilled for c in solved),
    )
