"""Instructions from the tile schedule: one a tile operation, more for unrolled axes and for the planes of SMX data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from pintac import isa
from pintac.backend.tiles.costs import mapping_of
from pintac.backend.tiles.tile import Arg, CopyOp, IndexView, Item, Loop, MatmulOp, Sync, TileOp, View, VpuOp
from pintac.backend.tiles.transfer import plane_bytes, runs
from pintac.backend.tiles.vpu import instructions
from pintac.isa import LOOP_LEVELS, Instruction, Kind, Opcode, Operand, Sink, Space
from pintac.machine import Machine

_SELECT = {"reg": isa.SELECT_REG, "src": isa.SELECT_SOURCE, "imm": isa.SELECT_IMM, "scalar": isa.SELECT_SCALAR}


class Emitter:
    """Collects instructions and, beside each, the tile operation it came from (None for loops and semaphores)."""

    def __init__(self, machine: Machine, params: Mapping[str, int]) -> None:
        self.machine = machine
        self.params = params
        self.instructions: list[Instruction] = []
        self.origins: list[TileOp | None] = []

    def emit(self, items: Sequence[Item]) -> None:
        """Append the instructions of a schedule."""
        for item in items:
            if isinstance(item, Loop):
                self._add(isa.make(Opcode.LOOP, level=item.level, param=isa.NO_PARAM, count=item.count), None)
                self.emit(item.body)
                self._add(isa.make(Opcode.ENDLOOP, level=item.level), None)
            elif isinstance(item, Sync):
                opcode = Opcode.SIGNAL if item.signal else Opcode.WAIT
                self._add(isa.make(opcode, queue=item.queue, sem=item.semaphore), None)
            elif isinstance(item, MatmulOp):
                self._add(self._matmul(item), item)
            elif isinstance(item, VpuOp):
                for part in instructions(item):
                    self._add(self._vpu(part), item)
            elif isinstance(item, CopyOp):
                for instruction in transfers(item):
                    self._add(instruction, item)

    def _add(self, instruction: Instruction, origin: TileOp | None) -> None:
        self.instructions.append(instruction)
        self.origins.append(origin)

    def _matmul(self, op: MatmulOp) -> Instruction:
        return isa.make(
            Opcode.MATMUL,
            {"s0": tensor(op.a, op.a.strides), "s1": tensor(op.b, op.b.strides), "d0": tensor(op.d, op.d.strides)},
            ta=op.ta,
            tb=op.tb,
            acc=op.accumulate,
            m=op.m,
            n=op.n,
            k=op.k,
            dataflow=int(mapping_of(op, self.machine).dataflow),
        )

    def _vpu(self, op: VpuOp) -> Instruction:
        rows = math.prod(op.shape[:-1])
        kernel = op.kernel
        header = {"uops": len(kernel.ops), "rows": rows, "cols": op.shape[-1]}
        for i, bits in enumerate(kernel.immediates):
            header[f"imm{i}"] = bits
        for i, name in enumerate(kernel.scalars):
            header[f"scalar{i}"] = self.params[name]
        for i, (code, args) in enumerate(kernel.ops):
            header[f"uop{i}"] = isa.micro_op(code, *(_selector(a) for a in args))
        operands = {}
        for i, source in enumerate(op.sources):
            inner = source.shape[1] if len(source.shape) == 3 else 0
            if isinstance(source, IndexView):
                operands[f"s{i}"] = _index(source, inner)
            else:
                operands[f"s{i}"] = tensor(source, source.strides, inner=inner)
        for i, (sink, view) in enumerate(zip(kernel.sinks, op.sinks, strict=True)):
            header[f"sel{i}"] = _selector(sink.value)
            header[f"acc{i}"] = sink.accumulate
            strides, inner = view.strides, view.shape[1] if len(view.shape) == 3 else 0
            if sink.kind in (Sink.SUM_COLS, Sink.MAX_COLS):
                strides, inner = (strides[-2], 1), 0
            elif sink.kind != Sink.WRITE:
                strides, inner = (strides[0] if sink.group else 0, strides[-1] or 1), sink.group
            operands[f"d{i}"] = tensor(view, strides, inner=inner, kind=sink.kind)
        return isa.make(Opcode.VPU, operands, **header)


def _selector(arg: Arg) -> int:
    return _SELECT[arg[0]] + arg[1]


def _steps(steps: Sequence[tuple[int, int]], unit: int) -> tuple[int, ...]:
    out = [0] * LOOP_LEVELS
    for level, step in steps:
        out[level] = step * unit
    return tuple(out)


def tensor(view: View, strides: Sequence[int], *, inner: int = 0, kind: int = Kind.TENSOR) -> Operand:
    """The operand of a view whose axes are (rows, columns) or, with `inner`, (row groups, rows, columns)."""
    buffer, bits = view.buffer, view.bits
    assert buffer.addr is not None, buffer.name
    unit = 1 if bits else 4
    ring = {"ring_level": buffer.ring_level, "ring_size": buffer.ring, "ring_step": buffer.size * unit}
    return Operand(
        kind=kind,
        space=buffer.space,
        bits=bits,
        addr=buffer.addr + view.offset * (2 * bits if bits else 4),
        eaddr=buffer.eaddr + view.offset if bits else 0,
        inner=inner,
        hi=strides[0],
        lo=strides[1] if len(strides) == 3 else 0,
        cstep=strides[-1],
        steps=_steps(view.steps, unit),
        **(ring if buffer.ring > 1 else {}),
    )


def _index(view: IndexView, inner: int) -> Operand:
    return Operand(
        kind=Kind.INDEX,
        addr=view.offset,
        inner=inner,
        hi=view.strides[0],
        lo=view.strides[1] if len(view.strides) == 3 else 0,
        cstep=view.strides[-1],
        steps=_steps(view.steps, 1),
    )


def transfers(op: CopyOp) -> list[Instruction]:
    """The DMA instructions of a copy: two outer dimensions each, more are unrolled."""
    opcode = Opcode.LOAD if op.source.buffer.space == Space.DRAM else Opcode.STORE
    found = runs(op)
    dims, outer = found.dims, found.outer
    out = []
    for plane, unit in enumerate(plane_bytes(op)):
        for index in itertools.product(*(range(n) for n, _, _ in outer)):
            offsets = [sum(i * axis[s] for i, axis in zip(index, outer, strict=True)) for s in (1, 2)]
            operands = {}
            for group, view, side in (("s0", op.source, 1), ("d0", op.target, 2)):
                buffer = view.buffer
                assert buffer.addr is not None, buffer.name
                base = buffer.eaddr if plane else buffer.addr
                operands[group] = Operand(
                    kind=Kind.TENSOR,
                    space=buffer.space,
                    addr=base + (view.offset + offsets[side - 1]) * unit,
                    hi=dims[1][side] * unit,
                    lo=dims[0][side] * unit,
                    steps=_steps(view.steps, unit),
                    ring_level=buffer.ring_level if buffer.ring > 1 else 0,
                    ring_size=buffer.ring if buffer.ring > 1 else 0,
                    ring_step=buffer.size * unit if buffer.ring > 1 else 0,
                )
            out.append(isa.make(opcode, operands, size=found.size * unit, count=dims[1][0], outer=dims[0][0]))
    return out
