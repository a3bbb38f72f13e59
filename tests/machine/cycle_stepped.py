"""The timing rules once more, told cycle by cycle: slow, and with nothing in common with `pintac.timeline_core`.

Every cycle, whatever can happen happens: signals become visible, sequencers take instructions, units start them. Passes
of a matmul are played one by one through two accumulators and the result port. No loops, gathers or rings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pintac import isa
from pintac.cost import Cost, cost
from pintac.isa import Instruction, Opcode, Queue, Semaphore
from pintac.isa.regions import regions
from pintac.machine import Machine

NO_INDEX = (0,) * isa.LOOP_LEVELS


@dataclass
class _Lane:
    """One queue: its instructions, sequencer, one waiting instruction, and unit."""

    todo: list[Instruction]
    now: int = 0
    slot: tuple[Instruction, int] | None = None
    taken: int = 0  # data instructions that the sequencer has passed
    free: int = 0
    starts: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    tokens: list[tuple[int, int, int]] = field(default_factory=list)  # semaphore, earliest, data instructions before


def _span(i: Instruction, write: bool) -> list[tuple[int, int, int]]:
    return [(r.space, r.start, r.end) for r in regions(i, NO_INDEX) if r.write == write]


def _meet(a: list[tuple[int, int, int]], b: list[tuple[int, int, int]]) -> bool:
    return any(s == t and low < top and bottom < high for s, low, high in a for t, bottom, top in b)


class _Tensor:
    """The array with two accumulators and one result port."""

    def __init__(self) -> None:
        self.computed = 0  # the array is free of the last pass
        self.written: list[int] = []  # when the results of each pass so far are out

    def run(self, start: int, c: Cost) -> tuple[int, int]:
        """(first pass's results, last pass's results), without the way through the array."""
        first = 0
        for number in range(c.passes):
            earliest = self.written[-2] if len(self.written) > 1 else 0  # an accumulator is free
            begin = max(start if number == 0 else self.computed, earliest)
            self.computed = begin + c.compute
            port = self.written[-1] if self.written else 0
            self.written.append(max(self.computed, port) + c.drain)
            first = first or self.written[-1]
        return first, self.written[-1]

    def ready(self) -> int:
        """When the next instruction's first pass can begin."""
        return max(self.computed, self.written[-2] if len(self.written) > 1 else 0)


def run(
    listing: Sequence[Instruction], semaphores: Sequence[Semaphore], machine: Machine, limit: int = 100_000
) -> tuple[int, dict[Queue, list[int]]]:
    """(cycles, start of every data instruction by queue) of a listing without loops."""
    lanes = {q: _Lane([i for i in listing if i.queue is q]) for q in Queue}
    costs: dict[int, Cost] = {}
    visible: dict[int, int] = {s.number: s.credit for s in semaphores}
    tensor = _Tensor()
    last_matmul: tuple[Instruction, Cost, int, int] | None = None
    vector: list[tuple[list[tuple[int, int, int]], int]] = []
    transfers: list[int] = []
    bus = 0
    end = 0

    def price(i: Instruction) -> Cost:
        if id(i) not in costs:
            costs[id(i)] = cost(i, machine)
        return costs[id(i)]

    for t in range(limit):
        changed = True
        while changed:
            changed = False
            for lane in lanes.values():
                for token in list(lane.tokens):
                    number, earliest, before = token
                    if t >= earliest and len(lane.done) >= before and all(d <= t for d in lane.done[:before]):
                        lane.tokens.remove(token)
                        visible[number] = visible.get(number, 0) + 1
                        end = max(end, t)
                        changed = True
                if lane.todo and lane.now <= t:
                    i = lane.todo[0]
                    if i.opcode is Opcode.SIGNAL:
                        lane.tokens.append((i["sem"], t + 1, lane.taken))
                    elif i.opcode is Opcode.WAIT:
                        if visible.get(i["sem"], 0) == 0:
                            continue
                        visible[i["sem"]] -= 1
                    elif lane.slot is None:
                        lane.slot = (i, t)
                        lane.taken += 1
                    else:
                        continue
                    lane.todo.pop(0)
                    lane.now = t + 1
                    changed = True
            tcu, vpu = lanes[Queue.TCU], lanes[Queue.VPU]
            if tcu.slot is not None:
                i, issued = tcu.slot
                c = price(i)
                ready = issued
                if i["acc"] and last_matmul is not None:
                    other, its, first, final = last_matmul
                    if _meet(_span(i, True), _span(other, True)):
                        same = _span(i, True) == _span(other, True) and (its.passes, its.drain) == (c.passes, c.drain)
                        ready = max(issued, (first if same else final) + its.skew)
                if t >= max(ready + c.preload, tensor.ready()):
                    first, final = tensor.run(t, c)
                    last_matmul = (i, c, first, final)
                    tcu.starts.append(t)
                    tcu.done.append(final + c.skew)
                    tcu.slot = None
                    changed = True
            if vpu.slot is not None:
                i, _ = vpu.slot
                c = price(i)
                reads = _span(i, False)
                if t >= vpu.free and all(d <= t for area, d in vector[-16:] if _meet(reads, area)):
                    vpu.starts.append(t)
                    vpu.free = t + c.busy
                    vpu.done.append(t + c.busy + machine.vpu_pipeline_cycles)
                    vector.append((_span(i, True), vpu.done[-1]))
                    vpu.slot = None
                    changed = True
            if t >= bus and sum(d > t for d in transfers) < machine.dram_outstanding:
                asking = [q for q in (Queue.LOAD, Queue.STORE) if lanes[q].slot is not None]
                if asking:
                    lane = lanes[min(asking, key=lambda q: lanes[q].slot[1])]  # type: ignore[index]
                    assert lane.slot is not None
                    c = price(lane.slot[0])
                    lane.starts.append(t)
                    bus = t + c.busy
                    lane.done.append(bus + machine.dram_latency_cycles)
                    transfers.append(lane.done[-1])
                    lane.slot = None
                    changed = True
        if all(not lane.todo and lane.slot is None and not lane.tokens for lane in lanes.values()):
            last = [d for lane in lanes.values() for d in lane.done] + [lane.now for lane in lanes.values()]
            return max([end, *last]), {q: lane.starts for q, lane in lanes.items()}
    raise AssertionError("the queues never finished")
