"""What `explain` says of listings whose every cycle test_timeline derives by hand, and that its accounts balance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pintac import isa
from pintac.cost import cost_table
from pintac.errors import MachineError, ProgramError
from pintac.isa import Dataflow, Instruction, Opcode, Queue, Semaphore
from pintac.isa.encoding import encode_program
from pintac.machine import Machine
from pintac.program import Origin, Program, Symbol
from pintac.report.explain.explain import COLUMNS, Explanation, explain
from pintac.report.explain.facts import BUS
from pintac.report.explain.ledger import BY, names_in
from pintac.report.explain.path import SYNC
from pintac.report.explain.path import path_of as segments_of
from pintac.report.explain.whatif import STAYS
from pintac.timeline import program_machine, simulate, simulate_listing
from tests.machine.listings import PARAMS, end, load, loop, semaphore, signal, store, wait
from tests.machine.test_timeline import CHAIN, CHAIN_SEMAPHORES, DOUBLE_BUFFERED, add, double_buffer, listings, mm

TINY = Machine.load("tiny")
OPS = {0: "load w", 3: "matmul_0", 6: "tanh_0+quantize_1", 9: "store quantize_1"}
PURPOSES = {"weights": {"net.0": ["w"]}, "forward base": {"net.0": ["matmul_0", "tanh_0"], "net.1": ["quantize_1"]}}


def program(
    listing: list[Instruction], semaphores: tuple[Semaphore, ...] = (), *, machine: Machine = TINY, **meta: Any
) -> Program:
    """A program for `machine`; `OPS` name the instructions of the chain, the others are `op<number>`."""
    origins = tuple(
        Origin("", "", 0) if i.opcode not in isa.QUEUE_OF else Origin(OPS.get(pc, f"op{pc}"), "net.py", 10 + pc // 5)
        for pc, i in enumerate(listing)
    )
    return Program(
        encode_program(listing), {"step": (0, len(listing))}, 4096, machine.sram_bytes, machine.psum_bytes,
        semaphores, {"w": Symbol("w", 0, (4, 4), kind="state")}, debug=origins,
        meta={"machine": machine.to_dict()} | meta,
    )  # fmt: skip


def bound(cycles: int, limit: str = "tcu", **totals: float) -> dict[str, Any]:
    """`meta["backend"]` with a lower bound."""
    return {"step": {"bound": {"cycles": cycles, "limit": limit, **totals}}}


def chain(**meta: Any) -> Program:
    """load 0-4 (complete 14), matmul 15-23 (29), vector 30-34 (38), store 39-43 (53)."""
    return program(CHAIN, CHAIN_SEMAPHORES, purposes={"step": PURPOSES}, **meta)


def balanced(e: Explanation) -> None:
    """Every account of an explanation adds up to what the simulation says."""
    t = e.timing
    for unit in t.busy:
        mine = [g for g in e.groups if g.unit == unit]
        assert sum(g.busy for g in mine) == t.busy[unit]
        assert sum(g.busy + g.stalled for g in mine) + e.tails[unit] == t.cycles
        assert e.tails[unit] >= 0
        assert sum(w.cycles for w in e.waits if w.unit == unit) == sum(t.waits[unit].values())
        for source, cycles in t.waits[unit].items():
            assert sum(w.cycles for w in e.waits if (w.unit, w.source) == (unit, source)) == cycles
    for g in e.groups:
        assert g.ideal <= g.busy + 1e-9, "no unit is faster than its peak"
        assert 0 <= g.useful <= g.ideal + 1e-9
        assert g.gap == pytest.approx(g.busy + g.stalled - g.ideal)
    for name in ("macs", "sram_bytes", "psum_bytes", "dram_bytes"):
        assert sum(getattr(g, name) for g in e.groups) == getattr(t, name)
    assert sum(g.joules for g in e.groups) == pytest.approx(t.joules)
    assert sum(g.executed for g in e.groups) <= t.instructions
    for u in e.units:
        assert u.busy + sum(u.stalls.values()) == t.cycles
        assert sum(u.busy_by_bucket) == u.busy and len(u.busy_by_bucket) == COLUMNS
    if e.bound is not None:
        assert sum(e.bound.gap.values()) == pytest.approx(t.cycles - e.bound.cycles)
    assert e.path is not None and e.path.cycles == t.cycles
    on_path = {(p.unit, p.kind): p.cycles for p in e.path.by_unit}
    assert all(cycles > 0 for cycles in on_path.values())
    taken = {u.name: u.busy for u in e.units}
    assert all(cycles <= taken[unit] for (unit, kind), cycles in on_path.items() if kind == "busy")
    passed = sum(cycles for (_, kind), cycles in on_path.items() if kind == SYNC)
    assert sum(p.cycles for p in e.path.by_labels) >= t.cycles - passed
    assert [w.saved for w in e.what_if] == sorted((w.saved for w in e.what_if), reverse=True)
    assert all(w.cycles + w.saved == t.cycles for w in e.what_if)


def test_the_chain_by_layer() -> None:
    e = explain(chain())
    balanced(e)
    found = {(g.labels, g.unit): g for g in e.groups}
    assert set(found) == {
        (("net.0", "weights"), "load"),
        (("net.0", "forward base"), "tcu"),
        (("net.0", "forward base"), "vpu"),
        (("net.1", "optimizer"), "store"),
    }
    matmul = found[("net.0", "forward base"), "tcu"]
    # 2x2x2 block products of four cycles on four engines: eight cycles, nothing lost; 14 + 1 cycles of waiting
    assert (matmul.busy, matmul.ideal, matmul.useful, matmul.utilisation, matmul.padding) == (8, 8, 8, 1, 0)
    assert (matmul.waited, matmul.gap) == ({"wait": 14, "issue": 1}, 15)
    assert (matmul.macs, matmul.psum_bytes, matmul.dram_bytes) == (512, 256, 0)
    assert matmul.sram_bytes == 2 * 4 * 17  # both operands once: 4 blocks of 16 mantissas and an exponent each
    assert e.tails == {"load": 49, "tcu": 30, "vpu": 19, "store": 10}


def test_who_waited_for_whom() -> None:
    found = [
        (w.unit, w.op, w.layer, w.phase, w.source, w.source_op, w.semaphores, w.cycles) for w in explain(chain()).waits
    ]
    assert found == [
        ("store", "store quantize_1", "net.1", "optimizer", "vpu", "tanh_0+quantize_1", ("sem2",), 38),
        ("vpu", "tanh_0+quantize_1", "net.0", "forward base", "tcu", "matmul_0", ("sem1",), 29),
        ("tcu", "matmul_0", "net.0", "forward base", "load", "load w", ("sem0",), 14),
    ]


def path_of(e: Explanation) -> dict[tuple[str, str], int]:
    assert e.path is not None
    return {(p.unit, p.kind): p.cycles for p in e.path.by_unit}


def contiguous(p: Program, cycles: int) -> None:
    """The segments of the path follow on each other from 0 to the end."""
    at = 0
    for segment in segments_of(p, "step", program_machine(p)):
        assert segment.start == at < segment.stop
        at = segment.stop
    assert at == cycles


def test_the_path_of_the_chain() -> None:
    """Nothing overlaps in it: every part of 53 is on the path."""
    contiguous(chain(), 53)
    assert path_of(explain(chain())) == {
        ("dram", "busy"): 8, ("dram", "latency"): 20, ("tcu", "busy"): 8, ("tcu", "latency"): 6, ("vpu", "busy"): 4,
        ("vpu", "latency"): 4, ("all", SYNC): 3,
    }  # fmt: skip


def test_the_path_prefers_what_keeps_a_unit_busy() -> None:
    # arrays 0-8, 8-16; the second's results 20, complete 22
    assert path_of(explain(program([mm(0), mm(256)]))) == {("tcu", "busy"): 16, ("tcu", "latency"): 6}
    # 19 cycles: the first matmul's, three results (4) that the next ones stand behind, results and hops of the last
    ports = explain(program([mm(256 * i, k=4, bits=4) for i in range(4)]))
    assert path_of(ports) == {("tcu", "busy"): 1, ("tcu", "result port"): 12, ("tcu", "latency"): 6}
    # preload 2, array 2-18, 18-34, the last results 2, hops 2
    held = explain(program([mm(d, m=16, flow=Dataflow.WEIGHT) for d in (0, 512)]))
    assert path_of(held) == {("tcu", "preload"): 2, ("tcu", "busy"): 32, ("tcu", "latency"): 4}
    # the result that is accumulated into: 14, read back 4, array 8, results and hops 6
    again = explain(program([mm(), mm(acc=1)]))
    assert path_of(again) == {("tcu", "busy"): 16, ("tcu", "latency"): 12, ("tcu", "preload"): 4}
    # two transfers outstanding: 0-4, complete 14; the third at 14-18, complete 28. The one in between is not on it.
    bus = explain(program([load(0, 0, 64), store(0x100, 0x100, 64), load(0, 0x200, 64)]))
    assert path_of(bus) == {("dram", "busy"): 8, ("dram", "latency"): 20}


@settings(max_examples=150)
@given(listings(), st.integers(1, 3))
def test_what_is_not_on_the_path_could_be_free(
    case: tuple[list[Instruction], tuple[Semaphore, ...]], rounds: int
) -> None:
    """With one queue on the bus, whose order then is fixed, this holds to the cycle."""
    listing = [load(0, 0, 64) if i.opcode is Opcode.STORE else i for i in case[0]]
    p = program([loop(0, rounds), *listing, end(0)], case[1])
    on_path = np.zeros(len(p.table), bool)
    on_path[[segment.pc for segment in segments_of(p, "step", TINY)]] = True
    costs = cost_table(p.table, TINY)
    free = {
        name: np.where(on_path, column, 0) if name in ("busy", "compute", "preload") else column
        for name, column in costs.integers.items()
    }
    again = simulate_listing(p.table, 0, len(p.table), p.semaphores, TINY, PARAMS, costs=replace(costs, integers=free))
    assert again.cycles == simulate(p, machine=TINY).cycles


def test_waits_round_a_loop() -> None:
    """A wait at the end of a body holds up the body's first instruction; a signal at its head tells of its last one."""
    listing = [
        loop(0, 3),
        signal(Queue.VPU, 0), add(0, 512), wait(Queue.VPU, 1),
        wait(Queue.LOAD, 0), load(0, 0, 64), signal(Queue.LOAD, 1),
        end(0),
    ]  # fmt: skip
    e = explain(program(listing, (semaphore(0, Queue.VPU, Queue.LOAD), semaphore(1, Queue.LOAD, Queue.VPU))))
    balanced(e)
    assert {(w.unit, w.op, w.source, w.source_op) for w in e.waits} == {
        ("vpu", "op2", "load", "op5"),
        ("load", "op5", "vpu", "op2"),
    }


def test_what_would_help_the_chain() -> None:
    cycles = {w.name: w.cycles for w in explain(chain()).what_if}
    # 53 is 4 + 10 (load) 1 + 8 + 4 + 2 (matmul) 1 + 4 + 4 (vector) 1 + 4 + 10 (store)
    assert cycles["DRAM latency 0"] == 33
    assert cycles["vector pipeline 0 cycles"] == 49
    assert cycles["DRAM bandwidth x2"] == 49  # 2 cycles for each transfer
    assert cycles["outstanding transfers x2"] == 53
    assert cycles["no latency anywhere"] == 53 - 20 - 4 - 2
    # The matmul of no time: started at 15, its signal is reached a cycle later and visible one after that, at 17.
    assert cycles["tensor unit infinitely fast"] == 53 - 29 + 17
    # Nobody waits: load 0-4, complete 14; the store has the bus at 4, 8, complete 18.
    assert cycles["units never wait for each other"] == 18
    assert cycles["DRAM infinitely fast"] == 53 - 28 + 3  # signals and the last issue still take a cycle each
    # 2x2 output blocks use no more than four engines
    assert cycles["tensor unit: engines x2"] == 53


def test_variants_that_cannot_be_are_left_out() -> None:
    # 448 of the 512 bytes that the banks deliver in a cycle are taken: neither bandwidth nor read rate can double
    full = TINY.replace(tcu_sram_read_bytes_per_cycle=400, vpu_lanes=4096)
    names = {w.name for w in explain(chain(), machine=full).what_if}
    assert "tensor unit: SRAM read rate x2" not in names and "vector unit: lanes x2" not in names
    assert {"tensor unit: PSUM write rate x2", "DRAM latency 0", "vector unit infinitely fast"} <= names


def test_padding_and_ports() -> None:
    # 13x8x8: 4x2x2 block products of four cycles on four engines are 16, without padding 13; two passes of 8
    e = explain(program([mm(m=13)]))
    balanced(e)
    (group,) = e.groups
    assert (group.busy, group.ideal, group.useful) == (16, 16, 13)
    assert (group.utilisation, group.padding) == (13 / 16, 3 / 16)
    # 8x4x8 of INT4, four times: four products of a cycle, 4 of results: each later one waits 3 for the port
    e = explain(program([mm(256 * i, k=4, bits=4) for i in range(4)], backend=bound(4, tcu=4.0)))
    balanced(e)
    assert e.bound is not None and dict(e.bound.gap) == {"result writes": 9, "end": 6}
    assert [(g.waited, g.busy) for g in e.groups] == [({"result writes": 9}, 4)]


def test_gap_of_another_limit() -> None:
    e = explain(chain(backend=bound(10, "dram", tcu=8.0, vpu=4.0, dram=10.0)))
    balanced(e)
    assert e.bound is not None and e.bound.limit == BUS and e.bound.ratio == 5.3
    # the bus carries 8 cycles of bytes; the bound has two more that are not transfers here; it stands for 45
    assert dict(e.bound.gap) == {
        "work that the bound counts otherwise": -2.0,
        "no transfer asked for or allowed": 45,
    }


def test_predicted_cycles() -> None:
    described = bound(8)
    described["step"]["predicted_cycles"] = 50
    e = explain(chain(backend=described))
    assert e.predicted_cycles == 50 and e.prediction_error == pytest.approx(50 / 53 - 1)
    assert "50 cycles by the schedule's cost model, -5.66 % off" in e.text()
    assert explain(chain()).prediction_error is None


def test_choices() -> None:
    listing = [loop(0, 4), load(0, 0, 64, sram_steps=(64, 0, 0, 0, 0)), mm(acc=1, flow=Dataflow.WEIGHT), end(0)]
    described: dict[str, Any] = {"step": {"rows_per_tile": 32, "a_new_key": {"x": [1, 2.5, None]}, "bound": {}}}
    e = explain(program(listing, backend=described))
    balanced(e)
    c = e.choices
    assert e.bound is None
    assert c.settings == {"rows_per_tile": 32, "a_new_key": {"x": [1, 2.5, None]}}
    assert "  rows per tile: 32\n" in e.text() and "  a new key: x 3: 1, 2.5, None\n" in e.text()
    (matmul,) = c.matmuls
    assert (matmul.m, matmul.k, matmul.n, matmul.dataflow, matmul.accumulate) == (8, 8, 8, "weight", True)
    assert matmul.cycles_by_dataflow["output"] == 8 and matmul.executed == 4
    # four slots of 64 bytes, the operands' 4 x 16 bytes and 4 exponents each
    assert (c.memory["sram"].touched, c.memory["sram"].top) == (4 * 64 + 2 * (64 + 4), 0x1504)
    assert (c.memory["psum"].touched, c.memory["psum"].top) == (256, 256)
    assert c.micro_ops == {}
    # the four loads go to places of their own and nobody reads them: 0-4, 4-8, then two outstanding: 14-18, 18-22
    assert [(h.value, h.copies, h.bytes) for h in c.peak] == [("op1", 2, 128)] and c.peak_cycle == 4
    (held,) = explain(chain()).choices.peak
    assert (held.value, held.layer, held.bytes) == ("tanh_0", "net.0", 256)


@pytest.mark.parametrize(
    "backend", [None, [], {"step": 3}, {"step": {"bound": 4}}, {"step": {"bound": {"limit": "tcu"}}}]
)
def test_whatever_a_backend_writes_down(backend: object) -> None:
    e = explain(chain(backend=backend))
    balanced(e)
    assert e.bound is None and e.text()


def test_spill_is_what_no_symbol_names() -> None:
    listing = [add(0, 512), store(512, 1024, 64), load(1024, 512, 64), load(1024, 512, 64), store(512, 0, 64)]
    names = ["tanh_0", "store tanh_0", "load tanh_0", "load tanh_0", "output state:w"]
    p = program(listing)
    e = explain(replace(p, debug=tuple(Origin(name, "net.py", 1) for name in names)))
    balanced(e)
    assert [(t.value, t.stored, t.loaded) for t in e.choices.spilled] == [("tanh_0", 64, 128)]
    assert {g.labels[1] for g in e.groups if g.unit == "store"} == {"spill", "optimizer"}
    # The bus: store 0-4, load 4-8 (complete 18), the second load when the store is complete at 14: 14-18 (28), the
    # last store at 18-22 (32). Of the first three only a cycle of issue is left: the last store 1-5, complete 15.
    assert e.timing.cycles == 32
    assert {w.name: w.cycles for w in e.what_if}[STAYS] == 15


def test_names_in_an_instruction() -> None:
    assert names_in("load 0.weight") == ["0.weight", "0"]
    assert names_in("tanh_0+random_4.log") == ["tanh_0", "random_4.log", "random_4"]


@pytest.mark.parametrize("by", BY)
def test_by(by: str) -> None:
    e = explain(chain(), by=by)
    balanced(e)
    labels = {g.labels for g in e.groups}
    expected: dict[str, set[tuple[str, ...]]] = {
        "unit": {()},
        "op": {("load w",), ("matmul_0",), ("tanh_0+quantize_1",), ("store quantize_1",)},
        "line": {("net.py:10",), ("net.py:11",)},
    }
    assert by == "layer" or labels == expected[by]
    assert e.text().endswith("\n") and "what would help: same program, no recompilation" in e.text()


def test_another_machine() -> None:
    own = explain(chain(backend=bound(8)))
    assert own.same_machine and own.bound is not None
    fast = explain(chain(backend=bound(8)), machine=TINY.replace(dram_latency_ns=0.0))
    assert (fast.timing.cycles, fast.same_machine, fast.bound) == (33, False, None)
    assert "its bound is of that one" in fast.text()
    renamed = explain(chain(backend=bound(8)), machine=TINY.replace(name="other"))
    assert renamed.same_machine


def test_machines_that_cannot() -> None:
    with pytest.raises(MachineError, match=r"uses 5380 bytes of SRAM, machine 'tiny' has 4096"):
        explain(chain(), machine=TINY.replace(sram_kib=4))
    with pytest.raises(MachineError, match="instruction 0: a vpu instruction of 2 micro-ops"):
        two = isa.Instruction(Opcode.VPU, {**add(0, 512).values, "uops": 2})
        explain(program([two]), machine=TINY.replace(vpu_max_micro_ops=1))
    with pytest.raises(ProgramError, match="no entry 'stpe'"):
        explain(chain(), "stpe")


def test_golden(golden: Callable[[str, str], None]) -> None:
    e = explain(chain(backend=bound(8, tcu=8.0, vpu=4.0, dram=8.0), problem="chain"))
    golden("machine/explain_chain.txt", e.text())
    golden("machine/explain_chain.json", e.to_json())


def test_without_debug_information() -> None:
    bare = replace(chain(), debug=(), meta={})
    e = explain(bare, machine=TINY)
    balanced(e)
    assert {g.labels[1] for g in e.groups} == {"weights", "matmul", "vpu", "optimizer"}
    assert {w.op for w in e.waits} == {"(no op)"}


def test_no_instructions() -> None:
    e = explain(program([]))
    balanced(e)
    assert e.timing.cycles == 0 and e.groups == () and e.text()


def test_double_buffering_by_hand() -> None:
    # test_timeline: load waits 15 for the vector unit to give a buffer back, the vector unit 16 + 14 for loads
    e = explain(program(DOUBLE_BUFFERED, double_buffer(2)))
    balanced(e)
    assert [(w.unit, w.source, w.cycles) for w in e.waits] == [("vpu", "load", 30), ("load", "vpu", 15)]


@settings(max_examples=40, deadline=None)
@given(listings(), st.sampled_from(BY), st.integers(1, 4))
def test_accounts_of_random_programs_balance(
    case: tuple[list[Instruction], tuple[Semaphore, ...]], by: str, rounds: int
) -> None:
    listing, semaphores = case
    p = program([loop(0, rounds), *listing, end(0)], semaphores, backend=bound(3, "vpu", vpu=3.0))
    e = explain(p, by=by)
    balanced(e)
    contiguous(p, e.timing.cycles)
    assert e.timing.cycles == simulate(p, machine=TINY).cycles
    assert e.to_json()
