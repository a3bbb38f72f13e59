"""From a listing to a plan: what the interpreter loop executes, with absolute addresses and kernels resolved.

Everything that does not depend on loop indices is evaluated here once; an address that does becomes a record. All
accesses whose place is known (all but gathers) are checked against their address space for every loop index there can
be, so a bad program is refused instead of touching memory that is not the machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from pintac import isa
from pintac.isa import Kind, Opcode, Operand, Sink, Space
from pintac.isa.encoding import decode_table
from pintac.program import Program
from pintac.runtime.jit import gemm, interpreter, reshape, shapes, transfers, vpu
from pintac.runtime.jit.codegen import Lowering
from pintac.runtime.jit.gemm import MATMUL_ARGS
from pintac.runtime.jit.outputs import SCRATCH_ROW
from pintac.runtime.jit.team import ThreadMemory
from pintac.runtime.jit.transfers import TRANSFER_ARGS
from pintac.runtime.listing import execution_error, loop_ends
from pintac.runtime.memory import aligned_bytes
from pintac.runtime.state import MachineState

MAX_KEPT_BYTES = 32 << 20  # packed operands kept by one plan

Writer = Callable[[ir.Module, str, Lowering], None]


@dataclass
class Plan:
    """An entry ready for the interpreter. `arguments` is int64, patched by the interpreter as it runs."""

    steps: np.ndarray
    records: np.ndarray
    arguments: np.ndarray
    flags: np.ndarray  # one int64 a kept panel: whether it is valid; the first is of those not kept, always 0
    instruction_of: np.ndarray  # step -> instruction number
    macs: int  # multiply-accumulates of one run, loops at their maximum counts
    executed: int  # instructions of one run, likewise
    memory: tuple[np.ndarray, ...]  # scratch and kept panels, which the arguments point into


@dataclass
class _Step:
    code: int
    fields: list[int]
    pc: int
    kernel: str = ""


@dataclass(frozen=True)
class _Place:
    """An address argument: constant part and how it moves with the loop indices, in bytes."""

    base: int
    steps: tuple[int, ...]
    ring_level: int = 0
    ring_size: int = 0
    ring_step: int = 0

    @property
    def fixed(self) -> bool:
        return not any(self.steps) and not (self.ring_size and self.ring_step)

    def record(self, slot: int) -> list[int]:
        """The words by which the interpreter evaluates it (see `interpreter.RECORD_HEAD`)."""
        terms = [word for level, step in enumerate(self.steps) if step for word in (8 * level, step)]
        ring = [8 * self.ring_level, self.ring_size, self.ring_step] if self.ring_size and self.ring_step else []
        return [slot, self.base, len(terms) // 2, int(bool(ring)), *terms, *ring]


class _Range(NamedTuple):
    """Bytes [low, high) of an address space, over all loop indices."""

    space: int
    low: int
    high: int

    def meets(self, other: _Range) -> bool:
        return self.space == other.space and self.low < other.high and other.low < self.high


@dataclass(frozen=True)
class _Panel:
    """The packed right operand of a matmul, which may be kept from one execution to the next.

    `form`: what its bytes depend on but for the operand's address; equal ones in one loop are packed once.
    """

    form: tuple[object, ...]
    step: int
    first_argument: int
    operand: tuple[_Range, ...]
    places: tuple[_Place, ...]
    loops: tuple[int, ...]  # the steps that open the loops around it, outermost first
    size: int


@dataclass
class _Builder:
    """Collects steps, records and arguments while walking an entry."""

    program: Program
    state: MachineState | ThreadMemory
    machine: MachineState
    of_machine: frozenset[int]
    steps: list[_Step] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    arguments: list[int] = field(default_factory=list)
    kernels: dict[str, Writer] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)  # of the open loops
    bases: dict[tuple[int, bool], int] = field(default_factory=dict)
    loops: list[int] = field(default_factory=list)  # the steps that opened them
    writes: list[tuple[int, _Range]] = field(default_factory=list)  # (step, what it writes)
    panels: list[_Panel] = field(default_factory=list)
    scratch_bytes: int = 64
    scratch_slots: list[tuple[int, int]] = field(default_factory=list)  # (argument, offset)
    macs: int = 0
    executed: int = 0
    pc: int = 0

    # --- addresses

    def base(self, space: int) -> int:
        """Where an address space begins in this process."""
        key = (space, space == Space.DRAM and self.pc in self.of_machine)
        if key not in self.bases:
            memory = self.machine if key[1] else self.state
            self.bases[key] = int(memory.padded(Space(space)).ctypes.data)
        return self.bases[key]

    def place(self, o: Operand, exponents: bool = False) -> _Place:
        """An operand's address (or that of its exponent plane)."""
        unit = 1 if exponents or not o.bits else 2 * o.bits
        start = 0 if o.kind == Kind.INDEX else self.base(o.space)
        steps = tuple(s * unit for s in o.steps)
        ring = o.ring_step * unit if o.ring_size else 0
        return _Place(start + (o.eaddr if exponents else o.addr), steps, o.ring_level, o.ring_size, ring)

    def check(self, name: str, place: _Place, space: int, low: int, high: int) -> _Range:
        """Refuse an access to [low, high) relative to `place` that leaves the space at some loop index."""
        start = place.base - self.base(space)
        for level, count in enumerate(self.counts):
            step = place.steps[level]
            if place.ring_size and level == place.ring_level:
                i = np.arange(count)
                offsets = i * step + (i % place.ring_size) * place.ring_step
                low, high = low + int(offsets.min()), high + int(offsets.max())
            else:
                furthest = step * (count - 1)
                low, high = low + min(furthest, 0), high + max(furthest, 0)
        size = self.state.size(Space(space))
        if start + low < 0 or start + high > size:
            where = f"touches [{start + low}, {start + high}) of {Space(space).name}, which has {size} bytes"
            raise execution_error(self.program, self.pc, f"{name} {where}")
        touched = _Range(space, start + low, start + high)
        if name.startswith("d"):
            self.writes.append((len(self.steps), touched))
        return touched

    def check_tensor(self, name: str, o: Operand, rows: int, cols: int) -> tuple[_Range, ...]:
        """The same for a tensor operand of a shape."""
        if o.bits:
            last_row, columns = (-(-rows // 4) - 1) * o.hi, -(-cols // 4)
            low, high = min(last_row, 0), max(last_row, 0) + columns
            return (
                self.check(name, self.place(o), o.space, low * 2 * o.bits, high * 2 * o.bits),
                self.check(name, self.place(o, exponents=True), o.space, low, high),
            )
        across, down = (cols - 1) * o.cstep, [0, (rows - 1) * o.hi]
        if o.inner:
            r = np.arange(rows)
            down = (r // o.inner * o.hi + r % o.inner * o.lo).tolist()
        low, high = min(down) + min(across, 0), max(down) + max(across, 0)
        return (self.check(name, self.place(o), o.space, 4 * low, 4 * high + 4),)

    # --- steps

    def execute(self, key: str, writer: Writer, values: Sequence[int], places: Mapping[int, _Place]) -> None:
        """A kernel call with these arguments; `places` are the addresses among them, by position."""
        first_record, first, records = len(self.records), len(self.arguments), 0
        self.arguments += values
        for slot, place in places.items():
            self.arguments[first + slot] = place.base
            if not place.fixed:
                self.records += place.record(slot)
                records += 1
        self.kernels[key] = writer
        fields = [0, first_record, records, first]
        self.steps.append(_Step(interpreter.EXECUTE, fields, self.pc, key))
        self.executed += int(np.prod(self.counts, dtype=object)) if self.counts else 1

    def scratch(self, slot: int, offset: int, size: int) -> int:
        """Have the last kernel call's argument `slot` point into the scratch buffer; the offset behind it."""
        self.scratch_slots.append((self.steps[-1].fields[3] + slot, offset))
        end = offset + -(-size // 64) * 64
        self.scratch_bytes = max(self.scratch_bytes, end)
        return end

    def matmul(self, instruction: isa.Instruction) -> None:
        m, n, k = (instruction[name] for name in "mnk")
        ta, tb = bool(instruction["ta"]), bool(instruction["tb"])
        left, right, c = (instruction.operand(g) for g in ("s0", "s1", "d0"))
        if not left.bits or not right.bits or c.bits or c.cstep != 1 or c.inner:
            raise execution_error(
                self.program, self.pc, "operands are not SMX, or the result is not fp32 with adjacent columns"
            )
        left_ranges = self.check_tensor("s0", left, *((k, m) if ta else (m, k)))
        right_ranges = self.check_tensor("s1", right, *((n, k) if tb else (k, n)))
        self.check_tensor("d0", c, m, n)
        self.macs += m * n * k * (int(np.prod(self.counts, dtype=object)) if self.counts else 1)
        if n == 1 and c.hi == 1:  # a column of adjacent results: as the row of the transposed product it fills vectors
            left, right, right_ranges = right, left, left_ranges
            ta, tb, m, n = not tb, not ta, n, m
        values = {
            "left_stride": left.hi, "right_stride": right.hi, "c_stride": 4 * c.hi, "m": m, "n": n, "k": k,
            "acc": instruction["acc"],
        }  # fmt: skip
        places = {
            "left": self.place(left), "left_codes": self.place(left, True), "right": self.place(right),
            "right_codes": self.place(right, True), "c": self.place(c),
        }  # fmt: skip
        shape = gemm.MatmulShape(left.bits, right.bits, ta, tb)
        self.execute(
            shape.key,
            partial(gemm.write_matmul, shape),
            [values.get(name, 0) for name in MATMUL_ARGS],
            {MATMUL_ARGS.index(name): place for name, place in places.items()},
        )
        offset, sizes = 0, gemm.panel_bytes(m, n, k)
        for name, size in zip(("left_panel", "left_scales", "right_panel"), sizes, strict=True):
            offset = self.scratch(MATMUL_ARGS.index(name), offset, size)
        operand = (places["right"], places["right_codes"])
        first = self.steps[-1].fields[3]
        form = (shape, right.hi, n, k)
        self.panels.append(_Panel(form, len(self.steps) - 1, first, right_ranges, operand, tuple(self.loops), sizes[2]))

    def vpu(self, instruction: isa.Instruction) -> None:
        instruction, row = reshape.widened(instruction), self.program.table[self.pc]
        rows, cols = instruction["rows"], instruction["cols"]
        if instruction is not self.program.instructions[self.pc]:
            row = decode_table([instruction])[0]
        shape = shapes.shape_of(row)
        words: dict[str, int] = {"rows": rows, "cols": cols, "params": self.state.params.ctypes.data}
        words["status"] = self.state.status.ctypes.data
        words |= {f"imm{i}": instruction[f"imm{i}"] for i in range(isa.IMMEDIATES)}
        words |= {f"p{i}": instruction[f"scalar{i}"] for i in range(isa.SCALARS)}
        places: dict[str, _Place] = {}

        def group(name: str, o: Operand) -> None:
            scale = 1 if o.bits or o.kind == Kind.INDEX else 4  # blocks, elements, bytes of fp32
            places[f"{name}.address"] = self.place(o)
            if o.bits:
                places[f"{name}.codes"] = self.place(o, exponents=True)
            strides = {"hi": o.hi * scale, "lo": o.lo * scale, "cstep": o.cstep * scale, "inner": o.inner}
            words.update({f"{name}.{key}": value for key, value in strides.items()})

        for i, source in enumerate(shape.sources):
            if source is not None:
                o = instruction.operand(f"s{i}")
                if o.kind == Kind.TENSOR:
                    self.check_tensor(f"s{i}", o, rows, cols)
                group(f"s{i}", o)
        for i, sink in shape.sinks:
            # the kind of a destination means something else than that of a source
            o = replace(instruction.operand(f"d{i}"), kind=Kind.TENSOR)
            target, extent = o, (rows, cols)
            if sink.kind != Sink.WRITE:
                target = replace(o, inner=0, lo=0, bits=0)
                extent = isa.sink_shape(sink.kind, rows, cols, o.inner)
                if o.bits or (sink.grouped and rows % o.inner):
                    raise execution_error(
                        self.program, self.pc, "a reduction writes fp32 and its groups divide the rows"
                    )
            self.check_tensor(f"d{i}", target, *extent)
            group(f"d{i}", replace(o, inner=o.inner or rows))
        names = vpu.kernel_words(shape)
        self.execute(
            shape.key,
            partial(vpu.write_vpu, shape),
            [words.get(name, 0) for name in names],
            {names.index(name): place for name, place in places.items()},
        )
        if "scratch" in names:
            self.scratch(names.index("scratch"), 0, -(-rows // 4) * 4 * SCRATCH_ROW * isa.SINKS)

    def transfer(self, instruction: isa.Instruction) -> None:
        size, count, outer = instruction["size"], instruction["count"], instruction["outer"]
        source, target, vector = (instruction.operand(g) for g in ("s0", "d0", "s1"))
        load = instruction.opcode is Opcode.LOAD
        spaces = (Space.DRAM, Space.SRAM) if load else (Space.SRAM, Space.DRAM)
        indexed = ("source" if load else "target") if instruction["gather"] else ""
        values = {"size": size, "count": count, "outer": outer}
        places = {}
        for name, o, space in (("source", source, spaces[0]), ("target", target, spaces[1])):
            group = "s0" if name == "source" else "d0"
            o = replace(o, space=int(space), bits=0, kind=Kind.TENSOR)
            places[name] = self.place(o)
            values |= {f"{name}_hi": o.hi, f"{name}_lo": o.lo}
            if name == indexed:
                start = self.base(space)
                values |= {"low": start, "high": start + self.state.size(space)}
            else:
                reach = [(count - 1) * o.hi, (outer - 1) * o.lo]
                low, high = sum(min(x, 0) for x in reach), sum(max(x, 0) for x in reach)
                self.check(group, places[name], space, low, high + size)
        if indexed:
            vector = replace(vector, space=int(Space.SRAM), bits=0, kind=Kind.TENSOR)
            places["index"] = self.place(vector)
            self.check("s1", places["index"], Space.SRAM, 0, 4 * count)
        elif values["source_hi"] == values["target_hi"] == size:  # adjacent rows: one long one
            values |= {"size": size * count, "count": 1}
        self.execute(
            f"transfer {indexed}",
            partial(transfers.write_transfer, indexed),
            [values.get(name, 0) for name in TRANSFER_ARGS],
            {TRANSFER_ARGS.index(name): place for name, place in places.items()},
        )

    def walk(self, start: int, stop: int) -> None:
        """All instructions of an entry."""
        ends = loop_ends(self.program)
        bodies: list[int] = []
        for self.pc in range(start, stop):
            instruction = self.program.instructions[self.pc]
            op = instruction.opcode
            if op is Opcode.LOOP:
                self.counts.append(instruction["count"])
                bodies.append(len(self.steps) + 1)
                self.loops.append(len(self.steps))
                fields = [instruction["level"], instruction["count"], instruction["param"], ends[self.pc]]
                self.steps.append(_Step(interpreter.LOOP, fields, self.pc))
            elif op is Opcode.ENDLOOP:
                self.counts.pop()
                self.loops.pop()
                body = bodies.pop()
                self.steps.append(_Step(interpreter.END_LOOP, [instruction["level"], body, 0, 0], self.pc))
                self.steps[body - 1].fields[3] = len(self.steps)
            elif op not in isa.CONTROL:  # one thread needs no semaphores; a team has rows of its own
                self.handlers[op](instruction)

    @property
    def handlers(self) -> Mapping[Opcode, Callable[[isa.Instruction], None]]:
        """What turns an instruction into a step."""
        return {
            Opcode.MATMUL: self.matmul,
            Opcode.VPU: self.vpu,
            Opcode.LOAD: self.transfer,
            Opcode.STORE: self.transfer,
        }

    def kept(self) -> dict[int, list[_Panel]]:
        """Panels that stay valid during a whole run of a loop around them, by the step that opens the loop.

        That is so where the operand's address does not depend on the loop or on the ones inside it and nothing in the
        loop writes to it. Of several such loops the outermost counts.
        """
        out: dict[int, list[_Panel]] = {}
        memory = 0
        for panel in self.panels:
            for depth, opening in enumerate(panel.loops):
                closing = self.steps[opening].fields[3]
                turns = np.prod([self.steps[i].fields[1] for i in panel.loops[depth:]], dtype=object)
                still = not any(
                    any(place.steps[depth:]) or (place.ring_size and place.ring_step and place.ring_level >= depth)
                    for place in panel.places
                )
                if not still or turns == 1 or memory + panel.size > MAX_KEPT_BYTES:
                    continue
                written = (r for step, r in self.writes if opening < step < closing)
                if not any(r.meets(o) for r in written for o in panel.operand):
                    out.setdefault(opening, []).append(panel)
                    memory += panel.size
                    break
        return out


def _keep_panels(b: _Builder, steps: np.ndarray, arguments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give kept panels memory and a flag, and have their loops clear the flag on entry; (flags, memory)."""
    groups = {
        opening: list(_same(group).values()) for opening, group in b.kept().items()
    }  # one list of panels for each packed operand
    packed = [same for group in groups.values() for same in group]
    flags = aligned_bytes(8 * (1 + len(packed)), 0).view(np.int64)[: 1 + len(packed)]
    memory = aligned_bytes(sum(-(-same[0].size // 64) * 64 for same in packed), 0)
    flag_argument, keep_argument, panel_argument = (MATMUL_ARGS.index(n) for n in ("flag", "keep", "right_panel"))
    for panel in b.panels:
        arguments[panel.first_argument + flag_argument] = flags.ctypes.data
    number, offset = 1, 0
    for opening, group in groups.items():
        steps[opening, interpreter.FIRST_FLAG : interpreter.FIRST_FLAG + 2] = number, len(group)
        for same in group:
            for panel in same:
                arguments[panel.first_argument + flag_argument] = flags.ctypes.data + 8 * number
                arguments[panel.first_argument + keep_argument] = 1
                arguments[panel.first_argument + panel_argument] = memory.ctypes.data + offset
            number, offset = number + 1, offset + -(-same[0].size // 64) * 64
    return flags, memory


def _same(panels: Sequence[_Panel]) -> dict[object, list[_Panel]]:
    """Panels that always hold the same bytes, together."""
    out: dict[object, list[_Panel]] = {}
    for panel in panels:
        out.setdefault((panel.form, panel.places), []).append(panel)
    return out


def build(
    program: Program,
    machine: MachineState,
    entry: str,
    addresses: Callable[[Mapping[str, Writer]], Mapping[str, int]],
    memory: ThreadMemory | None = None,
    of_machine: frozenset[int] = frozenset(),
) -> Plan:
    """The plan of an entry; `addresses` compiles kernels (see `Library.addresses`).

    On a thread's `memory`, but for the DRAM of the transfers `of_machine`, which is the machine's.

    Raises `ExecutionError` for an access outside its address space and for operands the instruction cannot take.
    """
    b = _Builder(program, memory or machine, machine, of_machine)
    b.walk(*program.entry(entry))
    kernel = addresses(b.kernels)
    steps = np.zeros((max(len(b.steps), 1), interpreter.STEP_WORDS), np.int64)
    for row, step in zip(steps, b.steps, strict=False):
        row[:5] = [step.code, *step.fields]
        if step.kernel:
            row[1] = kernel[step.kernel]
    arguments = aligned_bytes(8 * max(len(b.arguments), 1), 0).view(np.uint64)
    arguments[: len(b.arguments)] = b.arguments
    arguments = arguments.view(np.int64)
    scratch = aligned_bytes(b.scratch_bytes, 0)
    for slot, offset in b.scratch_slots:
        arguments[slot] = scratch.ctypes.data + offset
    flags, panels = _keep_panels(b, steps, arguments)
    records = np.array(b.records or [0], np.int64)
    pcs = np.array([s.pc for s in b.steps], np.int64)
    return Plan(steps, records, arguments, flags, pcs, b.macs, b.executed, (scratch, panels))


def steps_by_instruction(plan: Plan, program: Program) -> np.ndarray:
    """The step that executes each instruction of a program, int64; -1: none of this plan."""
    out = np.full(len(program.instructions), -1, np.int64)
    executes = np.flatnonzero(plan.steps[: len(plan.instruction_of), 0] == interpreter.EXECUTE)
    out[plan.instruction_of[executes]] = executes
    return out


def cleared_flags(plan: Plan) -> np.ndarray:
    """int64 [loops, 3]: the instruction of each loop that clears flags on entry, the first one, how many."""
    first, number = interpreter.FIRST_FLAG, interpreter.FIRST_FLAG + 1
    loops = np.flatnonzero((plan.steps[:, 0] == interpreter.LOOP) & (plan.steps[:, number] > 0))
    return np.column_stack([plan.instruction_of[loops], plan.steps[loops][:, [first, number]]]).astype(np.int64)
