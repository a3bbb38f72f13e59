"""The trace of the chain of test_timeline: every slice, arrow and counter where the derivation there puts it."""

import json
from typing import Any

import numpy as np

from pintac.isa import Instruction, Queue
from pintac.isa.encoding import decode_table, encode_program
from pintac.machine import Machine
from pintac.program import Origin, Program
from pintac.report.explain.residency import residents
from pintac.report.perfetto import stalls, trace_json
from pintac.timeline import simulate, simulate_listing
from tests.machine.listings import PARAMS, end, load, loop, semaphore, signal, store, wait
from tests.machine.test_timeline import CHAIN, CHAIN_SEMAPHORES, DOUBLE_BUFFERED, add, double_buffer, mm

TINY = Machine.load("tiny")


def chain() -> Program:
    origins = tuple(Origin(f"op{pc}", "net.py", pc + 1) for pc in range(len(CHAIN)))
    return Program(
        encode_program(CHAIN), {"step": (0, len(CHAIN))}, 4096, 8192, 1024, CHAIN_SEMAPHORES, debug=origins
    )


def events(text: str, ph: str) -> list[dict[str, Any]]:
    return [e for e in json.loads(text)["traceEvents"] if e["ph"] == ph]


def test_slices_flows_and_counters() -> None:
    text = trace_json(chain(), machine=TINY)
    tracks = {e["tid"]: e["args"]["name"] for e in events(text, "M") if e["name"] == "thread_name"}
    slices = {
        (tracks[e["tid"]], e["args"]["pc"]): (round(1000 * e["ts"]), round(1000 * e["dur"]))
        for e in events(text, "X") if e["cat"] != "path"
    }  # fmt: skip
    stood = {
        (tracks[e["tid"]], e["name"], round(1000 * e["ts"]), round(1000 * e["dur"]))
        for e in events(text, "X") if e["cat"] == "stall"
    }  # fmt: skip
    path = [(e["name"], e["args"]["op"], round(1000 * e["dur"])) for e in events(text, "X") if e["cat"] == "path"]
    assert path == [
        ("load busy", "op0", 4), ("load latency", "op0", 10), ("tcu signals, waits, issue", "op2", 1),
        ("tcu busy", "op3", 8), ("tcu latency", "op3", 6), ("vpu signals, waits, issue", "op5", 1),
        ("vpu busy", "op6", 4), ("vpu latency", "op6", 4), ("store signals, waits, issue", "op8", 1),
        ("store busy", "op9", 4), ("store latency", "op9", 10),
    ]  # fmt: skip
    assert stood == {
        ("tcu stalls", "waiting for load", 0, 14),
        ("vpu stalls", "waiting for tcu", 0, 29),
        ("store stalls", "waiting for vpu", 0, 38),
    }
    assert slices["load", 0] == (0, 4)
    assert slices["tcu", 3] == (15, 8)
    assert slices["vpu", 6] == (30, 4)
    assert slices["store", 9] == (39, 4)
    assert slices["tcu semaphores", 2] == (0, 14)
    assert slices["load semaphores", 1] == (14, 1)
    matmul = next(e for e in events(text, "X") if e["args"]["pc"] == 3)
    assert matmul["name"] == "op3"
    assert matmul["args"]["source"] == "net.py:4"
    assert matmul["args"]["limit"] == "array"
    starts, finishes = events(text, "s"), events(text, "f")
    assert [e["id"] for e in starts] == [e["id"] for e in finishes] == ["0.0", "1.0", "2.0"]
    assert all(a["ts"] <= b["ts"] + 0.001 for a, b in zip(starts, finishes, strict=True))
    busy = [(round(1000 * e["ts"]), e["args"]["units"]) for e in events(text, "C") if e["name"] == "units busy"]
    assert busy == [(0, 1), (4, 0), (15, 1), (23, 0), (30, 1), (34, 0), (39, 1), (43, 0)]
    bus = [(round(1000 * e["ts"]), e["args"]["bytes"]) for e in events(text, "C") if e["name"].startswith("DRAM")]
    assert bus == [(0, 16), (4, 0), (39, 16), (43, 0)]
    assert json.loads(text)["otherData"]["cycles"] == 53


def test_values_in_memory() -> None:
    """What the load writes is not read; the matmul's result lives till the vector unit is done with it, and so on."""
    text = trace_json(chain(), machine=TINY)
    ends = {e["id"]: round(1000 * e["ts"]) for e in events(text, "e")}
    found = {
        (e["name"], e["args"]["first"], e["args"]["last"], round(1000 * e["ts"]), ends[e["id"]])
        for e in events(text, "b")
    }
    assert found == {
        ("SRAM op0", 0, 63, 0, 14),
        ("PSUM op3", 0, 255, 15, 38),
        ("SRAM op6", 0x200, 0x2FF, 30, 53),
    }
    alive = [(round(1000 * e["ts"]), e["args"]["bytes"]) for e in events(text, "C") if e["name"] == "SRAM bytes alive"]
    assert alive == [(0, 64), (14, 0), (30, 256), (53, 0)]


def named(listing: list[Instruction]) -> Program:
    origins = tuple(Origin(f"v{pc}", "net.py", 1) for pc in range(len(listing)))
    return Program(encode_program(listing), {"step": (0, len(listing))}, 4096, 8192, 4096, (), debug=origins)


def lifetimes(listing: list[Instruction]) -> list[tuple[str, int, int]]:
    p = named(listing)
    timing = simulate(p, machine=TINY, events=1000)
    rows = timing.events[np.argsort(timing.events[:, 3], kind="stable")]
    return [(r.name, r.since, r.until) for r in residents(p, "step", PARAMS, rows)]


def test_lifetimes() -> None:
    # 0-4, complete 8; the second reads that: 8-12, complete 16. Nobody reads the third: 12-16, complete 20.
    assert lifetimes([add(0x400, 0), add(0, 0x200), add(0, 0x200)]) == [("v0", 0, 20), ("v1", 8, 16), ("v2", 12, 20)]
    # half of v0 is overwritten by v1 (4x4 elements: 64 bytes); the other half lives until v2 has read it
    half = add(0x400, 0, 4)
    assert lifetimes([add(0x400, 0), half, add(0x80, 0x300, 4)]) == [("v0", 0, 13), ("v1", 4, 9), ("v2", 8, 13)]
    # an accumulator lives on under its first name: matmul 0-8, complete 14; the next 18-26, complete 32
    assert lifetimes([mm(), mm(acc=1)]) == [("v0", 0, 32)]
    # a tile each round, at addresses that move; the third round's is read after it (bus 0-4, 4-8, then two outstanding)
    tiles = [loop(0, 3), load(0, 0, 64, sram_steps=(64, 0, 0, 0, 0)), end(0)]
    assert lifetimes(tiles) == [("v1", 0, 14), ("v1", 4, 18), ("v1", 14, 28)]


def test_the_slices_are_the_stalls() -> None:
    for listing, semaphores in ((CHAIN, CHAIN_SEMAPHORES), (DOUBLE_BUFFERED, double_buffer(2))):
        t = simulate_listing(decode_table(listing), 0, len(listing), semaphores, TINY, PARAMS, events=1000)
        for queue in Queue:
            waited = sum(
                end - begin for q, _, begin, end, _, sem in stalls(t.events, t.cycles) if q == queue and sem >= 0
            )
            assert waited == sum(t.waits[queue.name.lower()].values())


def test_long_runs_are_cut_at_one_time_for_all_queues() -> None:
    listing = [loop(0, 500), load(0, 0, 64), signal(Queue.LOAD, 0), wait(Queue.STORE, 0), store(0, 0, 64), end(0)]
    sems = (semaphore(0, Queue.LOAD, Queue.STORE, 0, 1000),)
    p = Program(encode_program(listing), {"step": (0, len(listing))}, 4096, 8192, 1024, sems)
    short = json.loads(trace_json(p, machine=TINY, events=200))
    whole = json.loads(trace_json(p, machine=TINY))
    assert not short["otherData"]["complete"] and whole["otherData"]["complete"]
    kept = [e for e in short["traceEvents"] if e["ph"] == "X" and e["cat"] not in ("stall", "path")]
    assert 0 < len(kept) <= 200
    horizon = max(e["ts"] for e in kept if e["cat"] != "semaphore")
    expected = [
        e for e in whole["traceEvents"] if e["ph"] == "X" and e["cat"] in ("load", "store") and e["ts"] < horizon
    ]
    assert [e for e in kept if e["cat"] != "semaphore" and e["ts"] < horizon] == expected
