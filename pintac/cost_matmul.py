"""How a matmul runs on the array of block-matrix engines: the three dataflows, their passes and what limits them.

A matmul is mb x nb x kb products of 4x4x4 blocks, each taking `c = ceil(a/4) * ceil(b/4)` cycles of one engine. The
array forms a rectangle of r x s engines and works in *passes*:

- output-stationary: a pass holds r x s output blocks and runs over all k blocks: kb * c cycles;
  ceil(mb/r) * ceil(nb/s) passes. Each step reads one left block a row and one right block a column (multicast).
- weight-stationary: a pass holds r x s blocks of the right operand (k along rows, n along columns) and streams all
  row blocks of the left one: mb * c cycles; ceil(kb/r) * ceil(nb/s) passes.
- input-stationary: the same with the left operand held (k along rows, m along columns) and nb * c cycles.

With more than one pass along k the stationary dataflows read and rewrite the partial results between passes, in
increasing k order (so rounding is the same in all three).

Results leave through a second stage: while a pass computes, the results of the pass before are written. A pass takes
the longer of its computation (or its operand reads, if those are slower) and its result writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pintac.isa import Dataflow
from pintac.machine import Machine

BLOCK_OUTPUTS = 16


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def block_bytes(bits: int) -> int:
    """Bytes of an SMX block: 16 mantissas and an exponent."""
    return 2 * bits + 1


@dataclass(frozen=True)
class Matmul:
    """What a matmul instruction asks for: logical sizes, operand widths, where results go.

    `left_stride` and `right_stride` are bytes between the operand rows that a pass reads side by side (0: they are
    contiguous); they decide bank conflicts.
    """

    m: int
    k: int
    n: int
    bits_a: int
    bits_b: int
    acc: bool = False
    to_sram: bool = False
    left_stride: int = 0
    right_stride: int = 0


@dataclass(frozen=True)
class Mapping:
    """A matmul placed on the array.

    A pass computes for `compute` cycles (`limit` says what sets them) and its results take `drain` cycles of the
    result port; `preload` cycles of reads come before the first pass, `skew` is the way through the array.
    """

    dataflow: Dataflow
    rows: int
    cols: int
    passes: int
    compute: int
    drain: int
    preload: int
    skew: int
    limit: str
    operand_bytes: int
    result_writes: int
    result_reads: int

    @property
    def busy(self) -> int:
        """Cycles from the first pass to the moment the array can take the next instruction."""
        return self.compute + (self.passes - 1) * max(self.compute, self.drain)

    @property
    def alone(self) -> int:
        """Cycles of the instruction by itself, from issue to its last result."""
        return self.preload + self.busy + self.drain + self.skew


def array_shapes(machine: Machine) -> tuple[tuple[int, int], ...]:
    """Rectangles the array can form."""
    if machine.array_foldable:
        return tuple((r, machine.bmes // r) for r in range(1, machine.bmes + 1) if machine.bmes % r == 0)
    shapes = {(machine.bme_rows, machine.bme_cols), (machine.bme_cols, machine.bme_rows)}
    return tuple(sorted(shapes))


def bank_of(address: int, machine: Machine) -> int:
    """Bank of a scratchpad byte: words interleaved over the banks, shifted by one bank every row of banks."""
    word = address // machine.sram_bank_bytes_per_cycle
    return (word + word // machine.sram_banks) % machine.sram_banks


def access_cycles(addresses: Sequence[int], words_per_cycle: int, machine: Machine) -> int:
    """Cycles to fetch the distinct bank words under these byte addresses through a port: conflicts serialise."""
    return max(access_limits(addresses, words_per_cycle, machine))


def access_limits(addresses: Sequence[int], words_per_cycle: int, machine: Machine) -> tuple[int, int]:
    """Cycles that such an access takes for the width of its port, and for the bank with most of its words."""
    words = {a // machine.sram_bank_bytes_per_cycle for a in addresses}
    per_bank: dict[int, int] = {}
    for word in words:
        bank = bank_of(word * machine.sram_bank_bytes_per_cycle, machine)
        per_bank[bank] = per_bank.get(bank, 0) + 1
    return ceil_div(len(words), max(words_per_cycle, 1)), max(per_bank.values())


def _read_bytes(blocks: int, bytes_each: int, side: int, stride: int, machine: Machine) -> int:
    """Bytes of `blocks` blocks, `side` rows of them at a time and `stride` bytes apart, as the port feels them.

    Bank conflicts between the rows read side by side count as further bytes.
    """
    amount = blocks * bytes_each
    if stride == 0 or side == 1:
        return amount
    words_per_cycle = max(machine.tcu_sram_read_bytes_per_cycle // machine.sram_bank_bytes_per_cycle, 1)
    fetched = access_cycles([i * stride for i in range(side)], words_per_cycle, machine)
    return ceil_div(amount * fetched, ceil_div(side, words_per_cycle))


def _map(task: Matmul, dataflow: Dataflow, rows: int, cols: int, machine: Machine) -> Mapping:
    mb, kb, nb = ceil_div(task.m, 4), ceil_div(task.k, 4), ceil_div(task.n, 4)
    c = machine.product_cycles(task.bits_a, task.bits_b)
    left, right = block_bytes(task.bits_a), block_bytes(task.bits_b)
    read_rate = machine.tcu_sram_read_bytes_per_cycle
    elements = task.m * task.n
    if dataflow is Dataflow.OUTPUT:
        r, s = min(rows, mb), min(cols, nb)
        passes = ceil_div(mb, rows) * ceil_div(nb, cols)
        array = kb * c
        reads = _read_bytes(r * kb, left, r, task.left_stride, machine)
        reads += _read_bytes(s * kb, right, s, task.right_stride, machine)
        operand_bytes = mb * kb * ceil_div(nb, cols) * left + nb * kb * ceil_div(mb, rows) * right
        outputs, writes, rereads = r * s, 1, int(task.acc)
        stationary = 0
    else:
        if dataflow is Dataflow.WEIGHT:
            streamed, held_side, held_bytes, stream_bytes = mb, nb, right, left
            held_stride, stream_stride = task.right_stride, task.left_stride
        else:
            streamed, held_side, held_bytes, stream_bytes = nb, mb, left, right
            held_stride, stream_stride = task.left_stride, task.right_stride
        r, s = min(rows, kb), min(cols, held_side)
        k_passes, side_passes = ceil_div(kb, rows), ceil_div(held_side, cols)
        passes = k_passes * side_passes
        array = streamed * c
        held = _read_bytes(r * s, held_bytes, r, held_stride, machine)
        reads = held + _read_bytes(streamed * r, stream_bytes, r, stream_stride, machine)
        operand_bytes = kb * held_side * held_bytes + streamed * kb * side_passes * stream_bytes
        outputs, writes, rereads = streamed * s, k_passes, k_passes - 1 + int(task.acc)
        stationary = ceil_div(held, read_rate)
    if task.to_sram:
        drain = ceil_div(4 * BLOCK_OUTPUTS * outputs, machine.tcu_sram_write_bytes_per_cycle)
        restore = ceil_div(4 * BLOCK_OUTPUTS * outputs, read_rate) if rereads else 0
        reads += 4 * BLOCK_OUTPUTS * outputs if rereads else 0
    else:
        drain = ceil_div(BLOCK_OUTPUTS * outputs, machine.psum_write_fp32_per_cycle)
        restore = drain if rereads else 0
    compute, limit = max((array, "array"), (ceil_div(reads, read_rate), "operand reads"), key=lambda x: x[0])
    preload = restore if task.acc and dataflow is Dataflow.OUTPUT else stationary
    if dataflow is not Dataflow.OUTPUT:
        # Results stream out while the pass runs; only those of the last step are left when it ends.
        if max(drain, restore) > compute:
            compute, limit = max(drain, restore), "result writes"
        one = BLOCK_OUTPUTS * s
        drain = (
            ceil_div(4 * one, machine.tcu_sram_write_bytes_per_cycle)
            if task.to_sram
            else ceil_div(one, machine.psum_write_fp32_per_cycle)
        )
    elif drain > compute:
        limit = "result writes"
    return Mapping(
        dataflow, rows, cols, passes, compute, drain, preload, r + s - 2, limit,
        operand_bytes, 4 * elements * writes, 4 * elements * rereads,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def map_matmul(task: Matmul, dataflow: Dataflow, machine: Machine) -> Mapping:
    """The rectangle that makes the matmul fastest in this dataflow (then: fewest operand reads, least skew)."""
    candidates = (_map(task, dataflow, rows, cols, machine) for rows, cols in array_shapes(machine))
    return min(candidates, key=lambda p: (p.busy, p.operand_bytes, p.skew, p.rows))


def best_dataflow(
    m: int, k: int, n: int, bits_a: int, bits_b: int, machine: Machine, *, acc: bool = False, to_sram: bool = False
) -> Mapping:
    """The fastest dataflow for a matmul of these logical sizes; ties: fewer bytes moved, then the least latency."""
    task = Matmul(m, k, n, bits_a, bits_b, acc, to_sram)
    candidates = (map_matmul(task, dataflow, machine) for dataflow in Dataflow)
    return min(
        candidates,
        key=lambda p: (p.busy, p.operand_bytes + p.result_writes + p.result_reads, p.alone, int(p.dataflow)),
    )
