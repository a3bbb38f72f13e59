"""The hazard check on a compiled training step: clean as compiled, and right about every mutant, by replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

import pintac
from pintac import isa
from pintac.api import checking
from pintac.backend.listing.sync import Synchronizer
from pintac.errors import ExecutionError
from pintac.frontend import Adam, Problem, SecondDifference, Term, TrainStep, Uniform, laplacian, linear_decay
from pintac.hazards import ORDERINGS, check, is_legal, legal_orders
from pintac.isa import Instruction, Opcode
from pintac.isa.encoding import encode, encode_program
from pintac.program import Program
from pintac.runtime.reference import _Refused
from pintac.timeline import parameter_block, simulate
from tests.machine.test_hazards import replay


class _Poisson(Problem):
    def terms(self):  # type: ignore[no-untyped-def]
        return [Term("interior", Uniform([(0.0, 1.0)] * 2), self.pde, points=3)]

    def pde(self, u, x):  # type: ignore[no-untyped-def]
        return laplacian(u, x) + torch.sin(x.sum(-1, keepdim=True))


def small_step() -> TrainStep:
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimiser = Adam(1e-3, schedule=linear_decay(10))
    return TrainStep(net, _Poisson(), optimiser, SecondDifference(K=18, sigma=0.01))


@pytest.fixture(scope="module")
def compiled() -> Program:
    p = pintac.compile(small_step())
    assert isinstance(p, Program)
    return p


def orders(p: Program, random: int) -> Iterator[np.ndarray]:
    return legal_orders(p.table, *p.entry("step"), p.semaphores, parameter_block(p), random)


def without(p: Program, drop: list[int]) -> Program:
    start, stop = p.entry("step")
    kept = [i for pc, i in enumerate(p.instructions) if pc not in set(drop)]
    return replace(p, code=encode_program(kept), entries={"step": (start, stop - len(drop))}, debug=())


def with_instruction(p: Program, pc: int, instruction: Instruction) -> Program:
    code = p.code[: pc * isa.WORD_BYTES] + encode(instruction) + p.code[(pc + 1) * isa.WORD_BYTES :]
    return replace(p, code=code, debug=())


def test_compiled_step_is_clean_in_every_order(compiled: Program) -> None:
    assert check(compiled).clean
    assert check(compiled, "infer").clean
    expected = replay(compiled)
    count = 0
    for order in orders(compiled, 100):
        assert replay(compiled, order) == expected
        count += 1
    assert count == 124


def test_every_deleted_semaphore_is_judged_rightly(compiled: Program) -> None:
    """A mutant is a hazard with a legal witness, or its memory is the same in extreme and random orders."""
    expected = replay(compiled)
    start, stop = compiled.entry("step")
    hazards = visible = 0
    for semaphore in compiled.semaphores[::2]:
        uses = [
            pc
            for pc in range(start, stop)
            if (i := compiled.instructions[pc]).opcode in (Opcode.SIGNAL, Opcode.WAIT) and i["sem"] == semaphore.number
        ]
        if not uses:
            continue
        mutant = without(compiled, uses)
        verdict = check(mutant)
        if verdict.clean:
            assert all(replay(mutant, order) == expected for order in list(orders(mutant, 2))[::5])
            continue
        assert verdict.name == "hazard"
        assert verdict.problems[0].kind in ORDERINGS
        witnesses = [problem.order for problem in verdict.problems if problem.order is not None]
        for order in witnesses:
            assert is_legal(order, mutant.table, *mutant.entry("step"), mutant.semaphores, parameter_block(mutant))
        hazards += 1
        visible += any(replay(mutant, order) != expected for order in witnesses)
    assert hazards >= 5
    # The rest race to the same bits: a buffer loaded again with what it held.
    assert visible >= 0.8 * hazards


def test_shifted_destinations_are_judged_rightly(compiled: Program) -> None:
    """Moving what one instruction writes to SRAM by 64 bytes: a problem, or the same memory in every order."""
    start, stop = compiled.entry("step")
    found = 0
    targets = [
        pc
        for pc in range(start, stop)
        if (i := compiled.instructions[pc]).opcode in (Opcode.VPU, Opcode.LOAD) and i["d0.space"] == isa.Space.SRAM
    ]
    for pc in targets[::4]:
        i = compiled.instructions[pc]
        mutant = with_instruction(compiled, pc, Instruction(i.opcode, {**i.values, "d0.addr": i["d0.addr"] + 64}))
        verdict = check(mutant)
        if verdict.clean:
            try:
                expected = replay(mutant)
            except _Refused:  # operands of one instruction overlap: the engine says so in every order
                found += 1
                continue
            assert all(replay(mutant, order) == expected for order in list(orders(mutant, 1))[::6])
        else:
            found += 1
    assert found >= len(targets[::4]) // 3  # the others read what an earlier use of the buffer left: wrong, but ordered


def test_timing_of_a_compiled_step_keeps_the_books(compiled: Program) -> None:
    timing = simulate(compiled)
    for queue, busy in timing.busy.items():
        assert busy + sum(timing.stalls[queue].values()) == timing.cycles
    assert timing.cycles >= max(timing.busy.values())
    assert timing.cycles >= compiled.meta["backend"]["step"]["bound"]["cycles"]
    assert timing.instructions == check(compiled).positions


def test_what_the_compiler_makes_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the signals and waits of its schedule a program is refused, with the user's line."""
    monkeypatch.setattr(Synchronizer, "insert", lambda self, items: list(items))
    with pytest.raises(ExecutionError, match="hazard in the entry step: read before its write") as caught:
        pintac.compile(small_step())
    assert caught.value.location is not None and caught.value.location.file.endswith("test_hazards_compiled.py")
    assert "bug of the compiler" in (caught.value.hint or "")
    monkeypatch.setattr(checking, "AT_ONCE", 10)
    assert not check(pintac.compile(small_step())).clean
