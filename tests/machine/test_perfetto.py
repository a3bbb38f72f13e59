"""The trace of the chain of test_timeline: every slice, arrow and counter where the derivation there puts it."""

import json
from typing import Any

from pintac import isa
from pintac.isa import Queue
from pintac.machine import Machine
from pintac.program import Origin, Program
from pintac.report.perfetto import trace_json
from tests.machine.listings import end, load, loop, semaphore, signal, store, wait
from tests.machine.test_timeline import CHAIN, CHAIN_SEMAPHORES

TINY = Machine.load("tiny")


def chain() -> Program:
    origins = tuple(Origin(f"op{pc}", "net.py", pc + 1) for pc in range(len(CHAIN)))
    return Program(
        isa.encode_program(CHAIN), {"step": (0, len(CHAIN))}, 4096, 8192, 1024, CHAIN_SEMAPHORES, debug=origins
    )


def events(text: str, ph: str) -> list[dict[str, Any]]:
    return [e for e in json.loads(text)["traceEvents"] if e["ph"] == ph]


def test_slices_flows_and_counters() -> None:
    text = trace_json(chain(), machine=TINY)
    tracks = {e["tid"]: e["args"]["name"] for e in events(text, "M") if e["name"] == "thread_name"}
    slices = {
        (tracks[e["tid"]], e["args"]["pc"]): (round(1000 * e["ts"]), round(1000 * e["dur"])) for e in events(text, "X")
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
    bus = [(round(1000 * e["ts"]), e["args"]["bytes"]) for e in events(text, "C") if e["name"] != "units busy"]
    assert bus == [(0, 16), (4, 0), (39, 16), (43, 0)]
    assert json.loads(text)["otherData"]["cycles"] == 53


def test_long_runs_are_cut_at_one_time_for_all_queues() -> None:
    listing = [loop(0, 500), load(0, 0, 64), signal(Queue.LOAD, 0), wait(Queue.STORE, 0), store(0, 0, 64), end(0)]
    sems = (semaphore(0, Queue.LOAD, Queue.STORE, 0, 1000),)
    p = Program(isa.encode_program(listing), {"step": (0, len(listing))}, 4096, 8192, 1024, sems)
    short = json.loads(trace_json(p, machine=TINY, events=200))
    whole = json.loads(trace_json(p, machine=TINY))
    assert not short["otherData"]["complete"] and whole["otherData"]["complete"]
    kept = [e for e in short["traceEvents"] if e["ph"] == "X"]
    assert 0 < len(kept) <= 200
    horizon = max(e["ts"] for e in kept if e["cat"] != "semaphore")
    expected = [e for e in whole["traceEvents"] if e["ph"] == "X" and e["cat"] != "semaphore" and e["ts"] < horizon]
    assert [e for e in kept if e["cat"] != "semaphore" and e["ts"] < horizon] == expected
