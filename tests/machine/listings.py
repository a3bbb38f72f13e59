"""Short ways to write instructions for tests of cost, timing and hazards."""

from __future__ import annotations

import numpy as np

from pintac import isa
from pintac.isa import Instruction, Kind, MicroOp, Opcode, Operand, Queue, Semaphore, Sink, Space, make

PARAMS = np.zeros(isa.PARAMS, np.uint32)
NO_STEPS = (0,) * isa.LOOP_LEVELS


def steps(*first: int) -> tuple[int, ...]:
    return (*first, *(0,) * (isa.LOOP_LEVELS - len(first)))


def fp32(addr: int, hi: int, space: Space = Space.SRAM, **more: object) -> Operand:
    return Operand(**({"kind": Kind.TENSOR, "space": space, "addr": addr, "hi": hi, "cstep": 1} | more))  # type: ignore[arg-type]


def smx(bits: int, addr: int, eaddr: int, hi: int, **more: object) -> Operand:
    return Operand(
        **(
            {"kind": Kind.TENSOR, "space": Space.SRAM, "bits": bits, "addr": addr, "eaddr": eaddr, "hi": hi, "cstep": 1}
            | more
        )  # type: ignore[arg-type]
    )


def matmul(
    m: int, k: int, n: int, a: Operand, b: Operand, d: Operand, flow: isa.Dataflow = isa.Dataflow.OUTPUT, acc: int = 0
) -> Instruction:
    return make(Opcode.MATMUL, {"s0": a, "s1": b, "d0": d}, m=m, k=k, n=n, acc=acc, dataflow=flow)


def vpu(rows: int, cols: int, sources: list[Operand], sinks: list[Operand], ops: int = 1, **header: int) -> Instruction:
    """A VPU instruction whose `ops` micro-ops each add s0 to s0 (or the last result to s0)."""
    groups = {f"s{i}": o for i, o in enumerate(sources)} | {f"d{i}": o for i, o in enumerate(sinks)}
    chain = {
        f"uop{i}": isa.micro_op(MicroOp.ADD, isa.SELECT_REG + i - 1 if i else isa.SELECT_SOURCE, isa.SELECT_SOURCE)
        for i in range(ops)
    }
    return make(Opcode.VPU, groups, rows=rows, cols=cols, uops=ops, sel0=max(ops - 1, 0), **chain, **header)


def write(o: Operand, kind: Sink = Sink.WRITE) -> Operand:
    return Operand(**({f: getattr(o, f) for f in o.__dataclass_fields__} | {"kind": kind}))


def load(
    dram: int, sram: int, size: int, count: int = 1, stride: int = 0, local: int | None = None,
    dram_steps: tuple[int, ...] = NO_STEPS, sram_steps: tuple[int, ...] = NO_STEPS, **ring: int,
) -> Instruction:  # fmt: skip
    remote = Operand(kind=Kind.TENSOR, space=Space.DRAM, addr=dram, hi=stride or size, steps=dram_steps)
    near = Operand(
        kind=Sink.WRITE, space=Space.SRAM, addr=sram, hi=size if local is None else local, steps=sram_steps, **ring
    )
    return make(Opcode.LOAD, {"s0": remote, "d0": near}, size=size, count=count, outer=1)


def store(
    sram: int, dram: int, size: int, dram_steps: tuple[int, ...] = NO_STEPS, sram_steps: tuple[int, ...] = NO_STEPS,
    **ring: int,
) -> Instruction:  # fmt: skip
    near = Operand(kind=Kind.TENSOR, space=Space.SRAM, addr=sram, hi=size, steps=sram_steps, **ring)
    remote = Operand(kind=Sink.WRITE, space=Space.DRAM, addr=dram, hi=size, steps=dram_steps)
    return make(Opcode.STORE, {"s0": near, "d0": remote}, size=size, count=1, outer=1)


def signal(queue: Queue, sem: int) -> Instruction:
    return make(Opcode.SIGNAL, queue=queue, sem=sem)


def wait(queue: Queue, sem: int) -> Instruction:
    return make(Opcode.WAIT, queue=queue, sem=sem)


def loop(level: int, count: int, param: int = isa.NO_PARAM) -> Instruction:
    return make(Opcode.LOOP, level=level, count=count, param=param)


def end(level: int) -> Instruction:
    return make(Opcode.ENDLOOP, level=level)


def semaphore(number: int, source: Queue, target: Queue, credit: int = 0, capacity: int = 8) -> Semaphore:
    return Semaphore(number, source, target, credit, capacity, f"sem{number}")
