"""Cost of single instructions on the 2x2-engine machine, derived by hand in the comments.

tiny: 4 engines, 64 B/cycle operand reads, 32 B/cycle SRAM results, 16 fp32/cycle partial sums; 16 lanes, three 64 B
read ports, one 64 B write port, 1 block quantised a cycle, 4 cycles of pipeline; DRAM 16 B/cycle in 16 B bursts, 10
cycles of latency; 32 banks of 16 B words.
"""

import dataclasses

import pytest

from pintac import isa
from pintac.cost import COST_ENERGIES, COST_INTEGERS, Cost, cost, cost_table, mac_pj, sram_pj_per_byte
from pintac.cost_matmul import Matmul, best_dataflow, map_matmul
from pintac.errors import MachineError
from pintac.isa import Dataflow, Instruction, Kind, MicroOp, Opcode, Operand, Queue, Sink, Space, make
from pintac.isa.encoding import decode_table
from pintac.machine import Machine
from tests.machine.listings import fp32, load, loop, matmul, smx, store, vpu, wait, write

TINY = Machine.load("tiny")
PINTA = Machine.default()


def mm(
    m: int,
    k: int,
    n: int,
    a: int = 8,
    b: int = 8,
    flow: Dataflow = Dataflow.OUTPUT,
    acc: int = 0,
    space: Space = Space.PSUM,
) -> Cost:
    left, right = smx(a, 0, 0x4000, -(-k // 4)), smx(b, 0x2000, 0x5000, -(-n // 4))
    return cost(matmul(m, k, n, left, right, fp32(0x1000, n, space), flow, acc), TINY)


def test_output_stationary() -> None:
    # 2x2 output blocks fill the 2x2 engines: one pass of 2 k-steps x 4 cycles. A step reads 2 + 2 blocks of 17 bytes:
    # 136 bytes in all, 3 cycles. 64 results leave in 4 cycles, after 2 hops.
    c = mm(8, 8, 8)
    assert (c.passes, c.compute, c.drain, c.preload, c.skew) == (1, 8, 4, 0, 2)
    assert (c.busy, c.latency, c.limit) == (8, 14, "array")
    assert (c.macs, c.work, c.sram_read, c.psum_write, c.psum_read) == (512, 32, 136, 256, 0)


def test_bit_serial_precision() -> None:
    # 12 x 8 bits: 3 x 2 digit products a block
    assert [mm(8, 8, 8, a, b).compute for a, b in ((4, 4), (8, 4), (8, 8), (12, 8), (12, 12), (16, 12))] == [
        2, 4, 8, 12, 18, 24,
    ]  # fmt: skip


def test_more_blocks_than_engines_and_edges() -> None:
    assert mm(16, 8, 8).busy == 16  # two passes of 8
    assert mm(9, 8, 8).busy == 16  # the third row of blocks takes a whole pass
    assert mm(16, 8, 3).busy == 8  # one column of four blocks: the array folds to 4 x 1


def test_result_writes_limit_short_contractions() -> None:
    # INT4, one k-step: a pass computes for 1 cycle, its results take 4. Two passes: 1 + 4 before the array is free, and
    # 4 + 2 more until the last result is there.
    c = mm(16, 4, 8, 4, 4)
    assert (c.passes, c.compute, c.drain, c.limit) == (2, 1, 4, "result writes")
    assert (c.busy, c.latency) == (5, 11)


def test_operand_reads_limit_narrow_operands() -> None:
    # 4 x 1 engines, INT4, 8 k-steps of 1 cycle: (4 + 1) blocks x 9 bytes x 8 = 360 bytes, 6 cycles for 8 of work
    assert mm(16, 32, 4, 4, 4).limit == "array"
    # A machine with a port of 32 bytes: 12 cycles of reads for 8 of work.
    left, right = smx(4, 0, 0x4000, 8), smx(4, 0x2000, 0x5000, 1)
    slow = cost(matmul(16, 32, 4, left, right, fp32(0, 4, Space.PSUM)), TINY.replace(tcu_sram_read_bytes_per_cycle=32))
    assert (slow.busy, slow.limit) == (12, "operand reads")


def test_weight_stationary() -> None:
    # 2 x 2 weight blocks stay (68 bytes, 2 cycles of preload), 4 row blocks stream at 4 cycles: 16. All 16 x 8 results
    # take 8 cycles and stream out meanwhile; the last step's 2 blocks take 2; 2 hops.
    c = mm(16, 8, 8, flow=Dataflow.WEIGHT)
    assert (c.passes, c.compute, c.preload, c.drain, c.skew) == (1, 16, 2, 2, 2)
    assert (c.busy, c.latency) == (16, 22)
    # operands: 4 weight blocks once, 4 x 2 row blocks once
    assert c.sram_read == 12 * 17


def test_weight_stationary_over_two_k_passes_rewrites_partial_sums() -> None:
    # k = 32: 8 k-blocks over 4 rows at most (4 x 1: n of one block): 2 passes of 4 row blocks x 4 cycles
    c = mm(16, 32, 4, flow=Dataflow.WEIGHT)
    assert (c.passes, c.busy) == (2, 32)
    assert (c.psum_write, c.psum_read) == (2 * 256, 256)


def test_input_stationary_mirrors_weight_stationary() -> None:
    c = mm(8, 8, 16, flow=Dataflow.INPUT)
    assert (c.passes, c.compute, c.preload, c.drain, c.busy, c.latency) == (1, 16, 2, 2, 16, 22)


def test_accumulation_in_sram_reads_modifies_writes() -> None:
    # 256 bytes of results: 8 cycles out, 4 in before the first pass; reads take (136 + 256) / 64 = 7 cycles
    c = mm(8, 8, 8, acc=1, space=Space.SRAM)
    assert (c.compute, c.drain, c.preload, c.latency) == (8, 8, 4, 22)
    assert (c.sram_read, c.sram_write, c.psum_write) == (136 + 256, 256, 0)


def test_best_dataflow_reaches_the_arrays_limit_for_the_networks_matmuls() -> None:
    for m, k, n, a, b in [(512, 256, 16, 8, 8), (512, 16, 256, 8, 8), (512, 16, 256, 12, 8), (256, 512, 16, 8, 12)]:
        best = best_dataflow(m, k, n, a, b, PINTA)
        assert best.busy == (m // 4) * (k // 4) * (n // 4) * PINTA.product_cycles(a, b) // 64
    assert best_dataflow(512, 16, 256, 8, 8, PINTA).dataflow is Dataflow.WEIGHT
    assert best_dataflow(512, 2, 256, 8, 8, PINTA).busy == 4 + 127 * 16  # 131,072 results at 64 a cycle


def test_folding_is_a_machine_option() -> None:
    task = Matmul(512, 256, 16, 8, 8)  # four columns of output blocks: an 8 x 8 array leaves half its engines idle
    rigid = PINTA.replace(array_foldable=False)
    assert map_matmul(task, Dataflow.OUTPUT, PINTA).busy == 2048
    assert map_matmul(task, Dataflow.OUTPUT, rigid).busy == 4096


def test_vpu_lanes_pipeline_and_ports() -> None:
    a = fp32(0, 8)
    c = cost(vpu(8, 8, [a], [write(fp32(512, 8))]), TINY)
    assert (c.busy, c.latency, c.limit) == (4, 8, "lanes")  # 64 elements on 16 lanes, 4 cycles of pipeline
    assert (c.sram_read, c.sram_write) == (256, 256)
    assert cost(vpu(8, 8, [a], [write(fp32(512, 8))], ops=8), TINY).busy == 4  # a chain is one pass
    # four streams of 256 bytes through 192 bytes a cycle: 5.3
    four = [fp32(256 * i, 8) for i in range(4)]
    assert (lambda c: (c.busy, c.limit))(cost(vpu(8, 8, four, [write(fp32(1024, 8))]), TINY)) == (6, "read ports")
    # two fp32 results of 256 bytes through 64 bytes a cycle
    two = [write(fp32(1024, 8)), write(fp32(2048, 8))]
    assert (lambda c: (c.busy, c.limit))(cost(vpu(8, 8, [a], two), TINY)) == (8, "write port")
    # a row vector and a column vector are held, not streamed
    held = [a, fp32(256, 0), fp32(512, 1, cstep=0)]
    c = cost(vpu(8, 8, held, [write(fp32(1024, 8))]), TINY)
    assert (c.busy, c.sram_read) == (4, 256 + 32 + 32)


def test_vpu_quantises_whole_blocks() -> None:
    a = fp32(0, 8)
    one = cost(vpu(5, 7, [a], [write(smx(8, 1024, 2048, 2))]), TINY)
    assert (one.busy, one.limit) == (4, "lanes")  # 2 x 2 blocks of 16 lanes each, though 35 elements need only 3
    assert one.sram_write == 4 * 17
    two = cost(vpu(8, 8, [a], [write(smx(8, 1024, 2048, 2)), write(smx(12, 1200, 2100, 2))]), TINY)
    assert (two.busy, two.limit) == (8, "quantise")


def test_vpu_bank_conflicts() -> None:
    # 16 banks. Rows 4096 bytes apart = 256 words: bank 256 + 256/16 = 272 = 0 mod 16: a block's four rows share a bank.
    banks16 = TINY.replace(sram_banks=16)
    c = cost(vpu(4, 4, [fp32(0, 1024)], [write(smx(8, 64, 32, 1))]), banks16)
    assert (c.busy, c.limit) == (4, "bank conflicts")
    # 256 bytes apart = 16 words: the shift puts the rows in banks 0, 1, 2, 3
    assert cost(vpu(4, 4, [fp32(0, 64)], [write(smx(8, 64, 32, 1))]), banks16).busy == 1
    # a partial-sum source has no banks
    assert cost(vpu(4, 4, [fp32(0, 1024, Space.PSUM)], [write(smx(8, 64, 32, 1))]), banks16).busy == 1


def test_vpu_ports_are_no_banks() -> None:
    """A step that needs more words than its port moves is held up by the port, though no two are in one bank."""
    narrow = PINTA.replace(vpu_sram_write_bytes_per_cycle=64)
    c = cost(vpu(4, 32, [fp32(0, 32)], [write(fp32(4096, 32))]), narrow)
    assert (c.busy, c.limit) == (8, "port width")
    # ports count in whole bank words: 127 bytes are three words of 32, so a step of four takes two cycles
    cut = PINTA.replace(vpu_sram_write_bytes_per_cycle=127)
    assert cost(vpu(4, 32, [fp32(0, 32)], [write(fp32(4096, 32))]), cut).busy == 8


@pytest.mark.parametrize("lanes", [48, 80, 96, 112])
@pytest.mark.parametrize("shape", [(4, 32), (32, 64), (32, 256), (7, 50)])
def test_more_lanes_are_never_slower(lanes: int, shape: tuple[int, int]) -> None:
    rows, cols = shape
    smaller = 1 << lanes.bit_length() - 1
    for sinks in ([write(fp32(65536, cols))], [write(smx(8, 65536, 131072, -(-cols // 4)))]):
        task = vpu(rows, cols, [fp32(0, cols)], sinks)
        assert cost(task, PINTA.replace(vpu_lanes=lanes)).busy <= cost(task, PINTA.replace(vpu_lanes=smaller)).busy


def test_vpu_gets_what_the_banks_leave() -> None:
    # 32 banks of 4 bytes = 128 B/cycle, of which the tensor unit and DRAM may take 64 + 32 + 16: 16 are left for 512
    narrow = TINY.replace(sram_bank_bytes_per_cycle=4)
    c = cost(vpu(8, 8, [fp32(0, 8)], [write(fp32(512, 8))]), narrow)
    assert (c.busy, c.limit) == (32, "banks")


def test_vpu_refusals() -> None:
    with pytest.raises(MachineError, match="3 micro-ops: machine 'tiny' chains 2"):
        cost(vpu(4, 4, [fp32(0, 4)], [write(fp32(64, 4))], ops=3), TINY.replace(vpu_max_micro_ops=2))
    philox = make(
        Opcode.VPU,
        {"s0": Operand(kind=Kind.INDEX, hi=4, cstep=1), "d0": write(fp32(0, 4))},
        rows=4, cols=4, uops=1, uop0=isa.micro_op(MicroOp.PHILOX_U, isa.SELECT_SOURCE, isa.SELECT_IMM),
    )  # fmt: skip
    assert cost(philox, TINY).busy == 1
    with pytest.raises(MachineError, match=r"instruction 1: .*no philox"):
        cost_table(decode_table([loop(0, 1), philox]), TINY.replace(vpu_philox=False))


def test_reductions_write_little() -> None:
    c = cost(vpu(8, 8, [fp32(0, 8)], [write(fp32(512, 8), Sink.SUM_ROWS)], acc0=1), TINY)
    assert (c.busy, c.sram_read, c.sram_write) == (4, 256 + 32, 32)


def test_transfers() -> None:
    c = cost(load(0, 0, 64), TINY)
    assert (c.busy, c.latency, c.dram_read, c.sram_write) == (4, 14, 64, 64)
    # four rows of 8 bytes, 64 apart: each takes a burst of 16
    c = cost(load(0, 0, 8, count=4, stride=64), TINY)
    assert (c.busy, c.dram_read, c.dram_pj) == (4, 32, 64 * 8 * 8.0)
    # the same rows one after the other are 32 contiguous bytes
    assert cost(load(0, 0, 8, count=4), TINY).busy == 2
    c = cost(store(0, 0, 100), TINY)
    assert (c.busy, c.latency, c.dram_write, c.sram_read) == (7, 17, 100, 100)
    # a gather: a row a burst, and the index vector is read
    remote, near = Operand(kind=Kind.TENSOR, space=Space.DRAM, hi=8), Operand(kind=1, space=Space.SRAM, hi=8)
    gather = make(
        Opcode.LOAD, {"s0": remote, "s1": fp32(256, 1), "d0": near}, size=8, count=6, outer=1, gather=isa.Gather.INDEX
    )
    c = cost(gather, TINY)
    assert (c.busy, c.sram_read, c.sram_write) == (6, 24, 48)


def test_sequencer_instructions() -> None:
    assert cost(wait(Queue.VPU, 0), TINY).busy == 1
    assert cost(loop(0, 3), TINY) == Cost(0, 0, "none")


def test_energy_by_hand() -> None:
    # INT8: 4 digit products of .07/4 + .007 + .03/4 = .032, and a quarter of .38 + 2 x .007 for the accumulation
    assert mac_pj(8, 8, PINTA) == pytest.approx(4 * 0.032 + 0.0985)
    wide = PINTA.replace(dpe_operand_bits=8)  # one digit product of .07 + 2 x .007 + .03/4; INT16 takes four
    assert mac_pj(8, 8, wide) == pytest.approx(0.0915 + 0.0985)
    assert mac_pj(16, 16, wide) == pytest.approx(4 * 0.0915 + 0.0985)
    narrow = PINTA.replace(dpe_operand_bits=2)  # 16 of .07/16 + .007/2 + .03/4
    assert mac_pj(8, 8, narrow) == pytest.approx(16 * 0.015375 + 0.0985)
    assert sram_pj_per_byte(32, PINTA) == pytest.approx(8.5 / 8)
    assert sram_pj_per_byte(4, PINTA) == pytest.approx(7.5 / 8)
    assert sram_pj_per_byte(2048, PINTA) == pytest.approx(14 / 8)
    assert sram_pj_per_byte(16, PINTA) == pytest.approx(8 / 8)  # half way in the logarithm
    c = mm(8, 8, 8)
    assert c.tcu_pj == pytest.approx(512 * (4 * 0.032 + 0.0985))
    assert c.sram_pj == pytest.approx(136 * 7.5 / 8)  # banks of 1 KiB: the smallest entry
    assert c.psum_pj == pytest.approx(256 * 7.5 / 8)
    v = cost(vpu(4, 4, [fp32(0, 4)], [write(smx(8, 64, 96, 1))], ops=3), TINY)
    assert v.vpu_pj == pytest.approx(16 * (3 * 0.38 + 0.09))


def test_table_agrees_with_single_instructions() -> None:
    listing: list[Instruction] = [load(0, 0, 64), loop(0, 2), store(0, 0, 64), load(0, 0, 64)]
    table = cost_table(decode_table(listing), TINY)
    for pc, instruction in enumerate(listing):
        single = dataclasses.asdict(cost(instruction, TINY))
        assert {k: table[k][pc] for k in COST_INTEGERS + COST_ENERGIES} == {
            k: single[k] for k in COST_INTEGERS + COST_ENERGIES
        }
        assert table.limits[pc] == single["limit"]
