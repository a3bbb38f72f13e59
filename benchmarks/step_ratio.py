"""Host seconds of a simulated training step / of the best eager fp32 PyTorch arrangement of the same step, one thread.

    python benchmarks/step_ratio.py [--workloads poisson,poisson-dense,heat100] [--rounds 2] [--json F]

Every measurement is a process of its own; a round runs each of them once, so that a busy machine slows all alike, and a
figure is the least over rounds of a process's median step. PyTorch runs all points at once or in chunks that stay in
cache, and with malloc told to keep its memory; the fastest counts. Beside them, by name and outside the ratio: torch
compiled, torch and the simulator with all processors, the simulator without AVX-512.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**28)}
PROBLEMS = {
    "poisson": ["poisson2d"],
    "poisson-dense": ["poisson2d", "--scheme", "dense"],
    "heat100": ["heat100"],
}
CHUNKS = (1, 2, 4, 8)
PROCESSORS = os.cpu_count() or 1
COMPILE_SECONDS = 90  # that torch.compile may take for its first step

SIMULATE = """
import json, statistics, sys, time
from pintac.program_file import load
from pintac.runtime.jit import JitEngine
from pintac.runtime.session import Session
program, steps, threads, isa = load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
session = Session(program, threads=threads)
session.engine = JitEngine(program, session.state, threads=threads, isa=isa)
session.step(1)
seconds = []
for _ in range(steps):
    start = time.perf_counter()
    session.step(1)
    seconds.append(time.perf_counter() - start)
print(json.dumps({"min": min(seconds), "median": statistics.median(seconds)}))
"""


@dataclass
class Case:
    """One arrangement. kind: "simulated", "torch" (both count), or "beside" (shown only)."""

    kind: str
    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    rounds: int = 1_000
    timeout: float = 300.0
    seconds: list[float] = field(default_factory=list)
    note: str = ""

    def run(self) -> None:
        """Measure once more: the median step of a process."""
        if self.note or len(self.seconds) >= self.rounds:
            return
        number = str(self.threads)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), number)
        try:
            done = subprocess.run(
                [sys.executable, *self.command],
                env={**os.environ, **threads, **self.environment},
                capture_output=True,
                text=True,
                cwd=HERE.parent,
                timeout=self.timeout,
            )
        except subprocess.TimeoutExpired:
            self.note = f"no step within {self.timeout:.0f} s"
            return
        if done.returncode:
            self.note = "failed: " + (done.stderr.strip().splitlines() or ["no message"])[-1][:90]
            return
        self.seconds.append(float(json.loads(done.stdout.splitlines()[-1])["median"]))


def cases_of(workload: str, program: str | None, steps: int) -> dict[str, Case]:
    """Everything measured for a workload, by name."""
    count, cases = str(steps), {}
    if program is not None:
        run = ["-c", SIMULATE, program, count]
        cases["simulated"] = Case("simulated", [*run, "1", "auto"])
        cases[f"simulated, {PROCESSORS} threads"] = Case("beside", [*run, str(PROCESSORS), "auto"])
        cases["simulated, no AVX-512"] = Case("beside", [*run, "1", "portable"], rounds=1)
    torch = [str(HERE / "torch_step.py"), "--workload", workload, "--steps", count]
    cases["torch, all points"] = Case("torch", torch)
    cases["torch, all points, malloc"] = Case("torch", torch, KEEP_MEMORY)
    for chunk in CHUNKS:
        chunked = [*torch, "--chunk", str(chunk)]
        cases[f"torch, chunks of {chunk}, malloc"] = Case("torch", chunked, KEEP_MEMORY)
    four = [*torch, "--chunk", "4"]
    cases["torch, chunks of 4"] = Case("torch", four)
    cases["torch.compile, chunks of 4, malloc"] = Case(
        "beside", [*four, "--compile"], KEEP_MEMORY, rounds=1, timeout=COMPILE_SECONDS
    )
    for name, command in (("all points", torch), ("chunks of 4", four)):
        threads = ["--threads", str(PROCESSORS)]
        label = f"torch, {name}, malloc, {PROCESSORS} threads"
        cases[label] = Case("beside", [*command, *threads], KEEP_MEMORY, threads=PROCESSORS)
    return cases


def compiled(workload: str, folder: str) -> str | None:
    """The workload's program file; None (and why, on stdout) if it does not compile."""
    path = str(Path(folder) / f"{workload}.pinta")
    command = [sys.executable, "-m", "pintac", "compile", *PROBLEMS[workload], "-o", path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=HERE.parent, env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"{workload}: no program: {done.stderr.strip().splitlines()[0]}")
        return None
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=",".join(PROBLEMS), help="comma-separated (default: all three)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--program", action="append", default=[], metavar="WORKLOAD=F", help="a program file in place of compiling"
    )
    parser.add_argument("--steps", type=int, default=4, help="steps of a process, after a first one to warm up")
    parser.add_argument("--json", metavar="F", help="write the figures")
    options = parser.parse_args()
    names = options.workloads.split(",")
    given = dict(text.split("=", 1) for text in options.program)
    began = time.perf_counter()
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        programs = {name: given.get(name) or compiled(name, folder) for name in names}
        cases = {name: cases_of(name, programs[name], options.steps) for name in names}
        for _ in range(options.rounds):
            for group in cases.values():
                for case in group.values():
                    case.run()
    for workload, group in cases.items():
        best = min(min(case.seconds) for case in group.values() if case.kind == "torch" and case.seconds)
        print(f"\n{workload}: seconds a step, and how many times the best eager fp32 PyTorch")
        for name, case in group.items():
            marks = {"simulated": "*", "torch": " ", "beside": "-"}
            text = f"{min(case.seconds):7.3f} s  {min(case.seconds) / best:5.2f}" if case.seconds else case.note
            print(f"  {marks[case.kind]} {name:<44} {text}")
        simulated = group.get("simulated")
        ratio = min(simulated.seconds) / best if simulated is not None and simulated.seconds else None
        report[workload] = {"seconds": {name: case.seconds for name, case in group.items()}, "ratio": ratio}
    print("\n* the ratio that counts; - shown beside it")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{PROCESSORS} processors, load average {load:.1f}, {time.perf_counter() - began:.0f} s in all")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
