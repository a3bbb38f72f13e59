"""What a run would take, before it is started."""

from __future__ import annotations

import time

from pintac.api.running import open_session
from pintac.api.steps import total_steps
from pintac.program import Program
from pintac.report.progress import duration


def dry_run(program: Program, steps: int | None = None, engine: str = "jit", threads: int = 1) -> str:
    """Instructions, bytes and the time that `steps` steps would take here, measured on one step; ends in a newline."""
    total = total_steps(steps, program.meta.get("optimizer"))
    session = open_session(program, engine, 0, None, threads)
    work = session.work()
    session.step(1)  # compiles the engine
    start = time.perf_counter()
    session.step(1)
    seconds = time.perf_counter() - start
    memory = program.dram_bytes + program.sram_bytes + program.psum_bytes
    rows = [
        ("instructions", f"{len(program.instructions):,} in the program, {work.instructions:,} executed a step"),
        ("MACs", f"{work.macs:,} a step"),
        ("bytes", f"{len(program.code):,} of code, {memory:,} of simulated memory"),
        ("one step", f"{seconds:.3f} s with the {engine} engine, {work.macs / seconds / 1e9:.2f} GMAC/s"),
        ("ETA", f"{duration(seconds * total)} for {total} steps"),
    ]
    return "".join(f"{name:<13} {text}\n" for name, text in rows)
