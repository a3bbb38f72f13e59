"""The rules a program keeps before an engine may see it: structure only, nothing that needs unrolling.

Addresses, semaphore values and uninitialised reads depend on loop indices; `hazards.py` checks those.

Limits that no program for a real machine comes near keep what reads one from running without end: `MOST_EXECUTED`
instructions and turns of loops of an entry, `MOST_ON_CHIP` bytes of SRAM and of PSUM, less than 4 GiB by a transfer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pintac import isa
from pintac.errors import ProgramError
from pintac.isa import Gather, Instruction, Kind, MicroOp, Opcode, Operand, Sink, Space
from pintac.machine import Machine
from pintac.overlaps import complaint
from pintac.program import DTYPES, FIRST_PARAMS, KINDS, Program
from pintac.program_meta import check_meta

MOST_EXECUTED = 1 << 28
MOST_ON_CHIP = 1 << 26

_SMX_BITS = (4, 8, 12, 16)


@dataclass(frozen=True)
class _Place:
    """The source line that an offending instruction was compiled from."""

    file: str
    line: int


def validated(program: Program) -> Program:
    """The program itself. Raises `ProgramError` naming the first instruction or entry that breaks a rule."""
    check_meta(program.meta)
    _check_sizes(program)
    _check_params(program)
    _check_symbols(program)
    _check_semaphores(program)
    if program.debug and len(program.debug) != len(program.instructions):
        raise ProgramError(f"{len(program.debug)} debug records for {len(program.instructions)} instructions")
    depth = _check_listing(program)
    _check_entries(program, depth)
    return program


def _check_sizes(program: Program) -> None:
    for name, size in (("DRAM", program.dram_bytes), ("SRAM", program.sram_bytes), ("PSUM", program.psum_bytes)):
        if not 0 <= size < 1 << 32:
            raise ProgramError(f"{name} of {size} bytes: sizes are between 0 and 2^32 - 1")
    machine = Machine.from_dict(described) if (described := program.meta.get("machine")) else None
    for name, size, limit in (
        ("SRAM", program.sram_bytes, machine.sram_bytes if machine else MOST_ON_CHIP),
        ("PSUM", program.psum_bytes, machine.psum_bytes if machine else MOST_ON_CHIP),
    ):
        if size > limit:
            of = f"machine {machine.name!r} has" if machine else "a program that names no machine has at most"
            raise ProgramError(f"{name} of {size} bytes: {of} {limit}")


def _check_params(program: Program) -> None:
    params, table = program.params, program.param_table
    if params[:2] != FIRST_PARAMS:
        raise ProgramError(f"the parameter block starts with {FIRST_PARAMS}, not {params[:2]}")
    if len(params) > isa.PARAMS or len(set(params)) != len(params):
        raise ProgramError(
            f"{len(params)} parameters, {len(set(params))} distinct names: at most {isa.PARAMS}, distinct"
        )
    if table.dtype != np.uint32 or table.ndim != 2 or table.shape[1] != len(params) or not len(table):
        raise ProgramError(
            f"the parameter table is {table.dtype}{list(table.shape)}, it must be uint32[steps >= 1, {len(params)}]"
        )


def _check_symbols(program: Program) -> None:
    """DRAM symbols, what they start with, and the test points."""
    for key, symbol in program.symbols.items():
        if key != symbol.name or symbol.dtype not in DTYPES or symbol.kind not in KINDS:
            raise ProgramError(f"symbol {key!r} is malformed: {symbol}")
        if any(n < 0 for n in symbol.shape) or (symbol.bits and len(symbol.shape) < 2):
            raise ProgramError(f"symbol {key!r} has the impossible shape {symbol.dtype}{list(symbol.shape)}")
        for addr, size in symbol.planes:
            if not 0 <= addr <= addr + size <= program.dram_bytes:
                raise ProgramError(
                    f"symbol {key!r} lies at [{addr}, {addr + size}), outside the DRAM of {program.dram_bytes} bytes"
                )
        if not symbol.bits and symbol.addr % 4:
            raise ProgramError(f"symbol {key!r} lies at {symbol.addr}, not a multiple of 4")
    for title, arrays in (("init", program.init), ("data", program.data)):
        for name, array in arrays.items():
            symbol = program.symbol(name)
            expected = np.int32 if symbol.dtype == "i32" else np.float32
            if array.shape != symbol.shape or array.dtype != expected:
                raise ProgramError(
                    f"{title} of {name!r} is {array.dtype}{list(array.shape)}, "
                    f"the symbol {symbol.dtype}{list(symbol.shape)}"
                )
    for name, points in (("test_x", program.test_x), ("test_u", program.test_u)):
        if points is not None and (points.ndim != 2 or points.dtype != np.float32):
            raise ProgramError(f"{name} is {points.dtype}{list(points.shape)}, it must be float32[points, width]")
    if program.test_x is not None and program.test_u is not None and len(program.test_x) != len(program.test_u):
        raise ProgramError(f"test_x has {len(program.test_x)} points, test_u values of {len(program.test_u)}")


def _check_semaphores(program: Program) -> None:
    seen = set()
    for s in program.semaphores:
        if not 0 <= s.number < isa.MAX_SEMAPHORES or s.number in seen:
            raise ProgramError(
                f"semaphore {s.number} is declared twice or out of range (0 to {isa.MAX_SEMAPHORES - 1})"
            )
        if not 0 <= s.credit <= s.capacity or not 1 <= s.capacity < 1 << 31:
            raise ProgramError(f"semaphore {s.number}: credit {s.credit} and capacity {s.capacity} do not agree")
        if s.source == s.target:
            raise ProgramError(f"semaphore {s.number} goes from {s.source.name} to itself; a queue is in order anyway")
        seen.add(s.number)


def _check_entries(program: Program, depth: list[int]) -> None:
    if not program.entries:
        raise ProgramError("the program has no entry")
    for name, (start, stop) in program.entries.items():
        if not 0 <= start <= stop <= len(program.instructions):
            raise ProgramError(f"entry {name!r} is [{start}, {stop}) of {len(program.instructions)} instructions")
        if depth[start] or depth[stop]:
            raise ProgramError(f"entry {name!r}, [{start}, {stop}), begins or ends inside a loop")


def _check_listing(program: Program) -> list[int]:
    """Check every instruction; the loop depth before each one (and after the last)."""
    semaphores = {s.number: s for s in program.semaphores}
    depth = [0]
    executed: list[list[int]] = [[0, 1, 0]]  # of the listing and each open loop: pc, turns, instructions of a turn
    for pc, instruction in enumerate(program.instructions):
        op, open_loops = instruction.opcode, depth[-1]
        origin = program.origin(pc)

        def fail(text: str, pc: int = pc, op: Opcode = op, place: _Place = _Place(origin.file, origin.line)) -> None:
            raise ProgramError(f"instruction {pc} ({op.name.lower()}): {text}", location=place if place.file else None)

        if op is Opcode.LOOP:
            if instruction["level"] != open_loops or open_loops >= isa.LOOP_LEVELS:
                fail(f"level {instruction['level']} inside {open_loops} loops (at most {isa.LOOP_LEVELS})")
            if instruction["count"] < 1:
                fail("a loop's count is at least 1")
            if instruction["param"] != isa.NO_PARAM and instruction["param"] >= len(program.params):
                fail(f"parameter {instruction['param']} of {len(program.params)}")
            open_loops += 1
            executed.append([pc, instruction["count"], 0])
        elif op is Opcode.ENDLOOP:
            open_loops -= 1
            if instruction["level"] != open_loops:
                fail(f"level {instruction['level']} does not close a loop; {open_loops + 1} are open")
            begin, turns, body = executed.pop()
            executed[-1][2] += turns * (body + 1)
            if turns * (body + 1) > MOST_EXECUTED:
                fail(
                    f"the loop that begins at instruction {begin} executes {turns * (body + 1)} instructions and turns "
                    f"({turns} of it), at most {MOST_EXECUTED}"
                )
        elif op in (Opcode.SIGNAL, Opcode.WAIT):
            declared = semaphores.get(instruction["sem"])
            if declared is None:
                fail(f"semaphore {instruction['sem']} is not declared")
            elif instruction["queue"] != (declared.source if op is Opcode.SIGNAL else declared.target):
                fail(
                    f"queue {isa.Queue(instruction['queue']).name} does not own this end of semaphore {declared.number}"
                )
        else:
            CHECKS[op](instruction, fail)
            if overlap := complaint(instruction):
                fail(overlap)
        executed[-1][2] += op not in (Opcode.LOOP, Opcode.ENDLOOP)
        depth.append(open_loops)
    if depth[-1]:
        raise ProgramError(f"{depth[-1]} loops are not closed at the end of the listing")
    return depth


def _check_operand(name: str, o: Operand, spaces: tuple[Space, ...], fail: Callable[[str], None]) -> None:
    if o.space not in spaces:
        fail(f"{name} must lie in {' or '.join(s.name for s in spaces)}")
    if o.ring_size and o.ring_level >= isa.LOOP_LEVELS:
        fail(f"{name}: ring level {o.ring_level}")
    if o.bits and o.bits not in _SMX_BITS:
        fail(f"{name}: {o.bits} bits; SMX has 4, 8, 12 or 16")
    if o.bits and o.inner:
        fail(f"{name}: SMX tensors have no row groups")
    if not o.bits and any(a % 4 for a in (o.addr, *o.steps, o.ring_step)):
        fail(f"{name}: fp32 addresses and steps are multiples of 4")
    if min(o.hi, o.lo, o.cstep) < 0:
        fail(f"{name}: negative stride")


def _check_transfer(i: Instruction, fail: Callable[[str], None]) -> None:
    load = i.opcode is Opcode.LOAD
    for name, in_dram in (("s0", load), ("d0", not load)):
        o = i.operand(name)
        if o.space != (Space.DRAM if in_dram else Space.SRAM):
            fail(f"{name} must lie in {'DRAM' if in_dram else 'SRAM'}")
        if min(o.hi, o.lo) < 0:
            fail(f"{name}: negative stride")
        if o.ring_size and o.ring_level >= isa.LOOP_LEVELS:
            fail(f"{name}: ring level {o.ring_level}")
    if min(i["size"], i["count"], i["outer"]) < 1:
        fail("size, count and outer are at least 1")
    if i["size"] * i["count"] * i["outer"] >= 1 << 32:
        fail(f"{i['size'] * i['count'] * i['outer']} bytes; a transfer moves less than 2^32")
    if i["gather"] not in tuple(Gather):
        fail(f"unknown row addressing {i['gather']}")
    if i["gather"]:
        if i["outer"] != 1:
            fail("a gather or scatter has one group of rows")
        _check_operand("s1", i.operand("s1"), (Space.SRAM,), fail)


def _check_matmul(i: Instruction, fail: Callable[[str], None]) -> None:
    if min(i["m"], i["n"], i["k"]) < 1:
        fail("m, n and k are at least 1")
    if i["ta"] and i["tb"]:
        fail("ta and tb not both")
    if i["dataflow"] not in tuple(isa.Dataflow):
        fail(f"unknown dataflow {i['dataflow']}")
    for name in ("s0", "s1"):
        o = i.operand(name)
        _check_operand(name, o, (Space.SRAM,), fail)
        if not o.bits:
            fail(f"{name} must be SMX")
    d = i.operand("d0")
    _check_operand("d0", d, (Space.PSUM, Space.SRAM), fail)
    if d.bits or d.inner or d.cstep != 1:
        fail("d0 must be fp32 with cstep 1 and without row groups")


def _check_vpu(i: Instruction, fail: Callable[[str], None]) -> None:
    rows, cols = i["rows"], i["cols"]
    on_chip = (Space.SRAM, Space.PSUM)
    if min(rows, cols) < 1:
        fail("rows and cols are at least 1")
    for n in range(isa.SOURCES):
        o = i.operand(f"s{n}")
        if o.kind not in tuple(Kind):
            fail(f"s{n}: unknown kind {o.kind}")
        if o.kind == Kind.TENSOR:
            _check_operand(f"s{n}", o, on_chip, fail)
            if o.bits and o.cstep != 1:
                fail(f"s{n}: SMX tensors have cstep 1")
        elif o.kind == Kind.INDEX and o.ring_size and o.ring_level >= isa.LOOP_LEVELS:
            fail(f"s{n}: ring level {o.ring_level}")
    _check_micro_ops(i, fail)
    for n in range(isa.SINKS):
        o = i.operand(f"d{n}")
        if o.kind not in tuple(Sink):
            fail(f"d{n}: unknown sink {o.kind}")
        if o.kind == Sink.NONE:
            continue
        _check_selector(i, i[f"sel{n}"], i["uops"], f"sel{n}", fail)
        if o.kind == Sink.WRITE:
            _check_operand(f"d{n}", o, on_chip, fail)
            if o.bits and o.cstep != 1:
                fail(f"d{n}: SMX tensors have cstep 1")
            if i[f"acc{n}"]:
                fail(f"acc{n}: only reductions accumulate")
            continue
        if o.bits:
            fail(f"d{n}: reductions write fp32")
        if o.inner and o.kind not in (Sink.SUM_ROWS, Sink.MAX_ROWS):
            fail(f"d{n}: only row reductions have groups")
        if o.inner and rows % o.inner:
            fail(f"d{n}: {rows} rows are not a multiple of the group of {o.inner}")
        _check_operand(f"d{n}", o, on_chip, fail)
    if i["d0.kind"] == i["d1.kind"] == Sink.NONE:
        fail("no sink")


def _check_micro_ops(i: Instruction, fail: Callable[[str], None]) -> None:
    if i["uops"] > isa.MAX_MICRO_OPS:
        fail(f"{i['uops']} micro-operations; at most {isa.MAX_MICRO_OPS}")
    for n in range(i["uops"]):
        bits = i[f"uop{n}"]
        if bits & 63 not in tuple(MicroOp):
            fail(f"uop{n}: unknown micro-operation {bits & 63}")
        op, *selectors = isa.split_micro_op(bits)
        if op in isa.PHILOX:
            a, b = selectors[:2]
            source = a - isa.SELECT_SOURCE
            if not 0 <= source < isa.SOURCES or i[f"s{source}.kind"] != Kind.INDEX:
                fail(f"uop{n}: a Philox counter is an index operand")
            if not isa.SELECT_IMM <= b < isa.SELECT_IMM + isa.IMMEDIATES:
                fail(f"uop{n}: the Philox stream is an immediate")
            continue
        for selector in selectors[: isa.ARITY[op]]:
            _check_selector(i, selector, n, f"uop{n}", fail)


def _check_selector(i: Instruction, selector: int, registers: int, where: str, fail: Callable[[str], None]) -> None:
    """A selector names a register that is already written, a tensor source, an immediate or a scalar."""
    if selector < isa.SELECT_SOURCE:
        if selector >= registers:
            fail(f"{where} reads r{selector} before it is written")
        elif isa.split_micro_op(i[f"uop{selector}"])[0] is MicroOp.NOP:
            fail(f"{where} reads r{selector}, which a nop leaves undefined")
    elif selector < isa.SELECT_SOURCE + isa.SOURCES:
        if i[f"s{selector - isa.SELECT_SOURCE}.kind"] != Kind.TENSOR:
            fail(f"{where} reads s{selector - isa.SELECT_SOURCE}, which is not a tensor")
    elif selector < isa.SELECT_IMM or selector >= isa.SELECT_SCALAR + isa.SCALARS:
        fail(f"{where}: selector {selector} names nothing")
    elif selector >= isa.SELECT_SCALAR and i[f"scalar{selector - isa.SELECT_SCALAR}"] >= isa.PARAMS:
        fail(f"{where}: the parameter block has {isa.PARAMS} words")


CHECKS: Mapping[Opcode, Callable[[Instruction, Callable[[str], None]], None]] = {
    Opcode.LOAD: _check_transfer,
    Opcode.STORE: _check_transfer,
    Opcode.MATMUL: _check_matmul,
    Opcode.VPU: _check_vpu,
}
"""What each instruction that does work keeps."""
