"""Who computes what: a listing shared out among threads, with barriers where one needs what another wrote.

Every instruction is cut along its rows or columns (`split`), so no sum is taken apart and the bits do not depend on the
number of threads. Which way is chosen so that few bytes go from one thread to another: bytes that another processor
wrote cost as much as the arithmetic on them. Where some must, a barrier comes before the instruction that reads or
overwrites what another thread touched since the last barrier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pintac.isa import Instruction, Opcode, Space
from pintac.program import Program
from pintac.runtime.jit.regions import Access, accesses, disjoint
from pintac.runtime.jit.split import COLUMNS, ROWS, split, split_in_rows
from pintac.runtime.listing import loop_ends

Part = tuple[Instruction | None, ...]  # what each thread does of an instruction
_WORK = (Opcode.MATMUL, Opcode.VPU, Opcode.LOAD, Opcode.STORE)
_SWEEPS = 4  # over all instructions, to settle which way each is cut


@dataclass
class Shares:
    """The parts of every instruction of an entry that does something, and before which ones all threads meet."""

    parts: dict[int, Part] = field(default_factory=dict)
    barriers: set[int] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class _Touch:
    """What a thread touches in its part of an instruction."""

    thread: int
    access: Access


@dataclass(frozen=True, eq=False)
class _Way:
    """One way to share an instruction out."""

    parts: Part
    touches: tuple[_Touch, ...]


class _Planner:
    def __init__(self, program: Program, entry: str, threads: int, sizes: Sequence[int]) -> None:
        self.program, self.threads, self.sizes = program, threads, sizes
        self.start, self.stop = program.entry(entry)
        self.ends = loop_ends(program)
        self.known: dict[tuple[_Touch, _Touch], bool] = {}
        self.counts: dict[int, list[int]] = {}  # of the loops around each instruction
        open_loops: list[int] = []
        for pc in range(self.start, self.stop):
            instruction = program.instructions[pc]
            if instruction.opcode is Opcode.LOOP:
                open_loops.append(instruction["count"])
            elif instruction.opcode is Opcode.ENDLOOP:
                open_loops.pop()
            elif instruction.opcode in _WORK:
                self.counts[pc] = list(open_loops)
        self.flows = self._flows()
        self.ways = {pc: self._ways(pc) for pc in self.counts}
        self.chosen = {pc: ways[0] for pc, ways in self.ways.items()}
        self.barriers: set[int] = set()

    def conflict(self, a: _Touch, b: _Touch) -> bool:
        """Whether different threads touch the same bytes, one of them writing."""
        if a.thread == b.thread or not (a.access.write or b.access.write) or a.access.space != b.access.space:
            return False
        key = (a, b)
        if key not in self.known:
            self.known[key] = not disjoint(a.access, b.access)
        return self.known[key]

    # --- which way to cut

    def _flows(self) -> list[tuple[int, int, int]]:
        """(writer, reader, bytes): each access and the last instruction before it in the listing that wrote there."""
        flows = []
        writers: list[list[tuple[int, Access]]] = [[] for _ in Space]
        for pc, counts in self.counts.items():
            touched = accesses(self.program.instructions[pc], counts, self.sizes)
            for access in touched:
                last = next((w for w, a in reversed(writers[access.space]) if not disjoint(a, access)), None)
                if last is not None and not access.write:
                    flows.append((last, pc, access.bytes))
            for access in touched:
                if access.write:
                    writers[access.space].append((pc, access))
        return flows

    def _ways(self, pc: int) -> list[_Way]:
        """Ways to share an instruction out, the preferred one first."""
        instruction, threads = self.program.instructions[pc], self.threads
        axes = [ROWS, COLUMNS]
        if instruction.opcode is Opcode.MATMUL and instruction["n"] > 4 * instruction["m"]:
            axes.reverse()
        ways = [tuple(parts) for axis in axes if (parts := split(instruction, axis, threads)) is not None]
        if instruction.opcode in (Opcode.LOAD, Opcode.STORE):
            for stride in self._strides_around(pc):
                if (parts := split_in_rows(instruction, stride, threads)) is not None:
                    ways.append(tuple(parts))
        if not ways:
            ways = [tuple(instruction if t == who else None for t in range(threads)) for who in range(threads)]
        return [self._way(parts, self.counts[pc]) for parts in ways]

    def _strides_around(self, pc: int) -> list[int]:
        """Row strides of the instructions that a transfer brings data to or takes it from."""
        partners = {r for w, r, _ in self.flows if w == pc} | {w for w, r, _ in self.flows if r == pc}
        found: set[int] = set()
        for partner in partners:
            for access in accesses(self.program.instructions[partner], [], self.sizes):
                found.update(stride for stride, _ in access.terms)
        return sorted(found)

    def _way(self, parts: Part, counts: Sequence[int]) -> _Way:
        touches = [
            _Touch(thread, access)
            for thread, part in enumerate(parts)
            if part is not None
            for access in accesses(part, counts, self.sizes)
        ]
        return _Way(parts, tuple(touches))

    def _exchanged(self, writer: _Way, reader: _Way) -> int:
        """Bytes that threads read of what others wrote, roughly: of each part all or nothing."""
        return sum(
            r.access.bytes
            for r in reader.touches
            if not r.access.write and any(self.conflict(w, r) for w in writer.touches if w.access.write)
        )

    def choose(self) -> None:
        """Settle the ways, one instruction after the other, by what then has to change hands."""
        sources: dict[int, set[int]] = {}
        targets: dict[int, set[int]] = {}
        for writer, reader, _ in self.flows:
            sources.setdefault(reader, set()).add(writer)
            targets.setdefault(writer, set()).add(reader)
        for _ in range(_SWEEPS):
            changed = False
            for pc, ways in self.ways.items():
                if len(ways) == 1:
                    continue
                costs = [
                    sum(self._exchanged(self.chosen[w], way) for w in sorted(sources.get(pc, ())))
                    + sum(self._exchanged(way, self.chosen[r]) for r in sorted(targets.get(pc, ())))
                    for way in ways
                ]
                best = ways[costs.index(min(costs))]
                if costs[ways.index(self.chosen[pc])] > min(costs):
                    self.chosen[pc], changed = best, True
            if not changed:
                break

    # --- barriers

    def meet(self, start: int, stop: int, before: list[_Touch]) -> list[_Touch]:
        """Put barriers between `start` and `stop`; `before` and the result: touches since the last one."""
        pc = start
        while pc < stop:
            if pc in self.ends:
                before = self._meet_in_loop(pc, before)
                pc = self.ends[pc]
            elif pc in self.chosen:
                touches = self.chosen[pc].touches
                if pc in self.barriers or any(self.conflict(a, b) for b in touches for a in before):
                    self.barriers.add(pc)
                    before = []
                before = [*before, *touches]
            pc += 1
        return before

    def _meet_in_loop(self, opening: int, before: list[_Touch]) -> list[_Touch]:
        """A loop's body after what came before, and after itself, until no more barriers are found."""
        entering = before
        while True:
            found = len(self.barriers)
            after = self.meet(opening + 1, self.ends[opening], entering)
            reaching = list(dict.fromkeys([*before, *after]))
            if found == len(self.barriers) and set(reaching) <= set(entering):
                return reaching  # `before` too: a loop may run no times
            entering = reaching


def share(program: Program, entry: str, threads: int, sizes: Sequence[int]) -> Shares:
    """Share an entry out; `sizes`: bytes of the address spaces."""
    planner = _Planner(program, entry, threads, sizes)
    planner.choose()
    planner.meet(planner.start, planner.stop, [])
    return Shares({pc: way.parts for pc, way in planner.chosen.items()}, planner.barriers)
