"""Where the host time of a simulated step goes: by kind of instruction, and the heaviest ones.

    python benchmarks/profile_step.py P.pinta [--steps 3] [--top 25] [--isa auto]

The interpreter is compiled once more with a clock around each kernel call, which itself costs some 20 ns a call.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

from pintac import isa
from pintac.isa import Kind, MicroOp, Opcode, Sink
from pintac.program_file import load
from pintac.runtime.jit import JitEngine, interpreter
from pintac.runtime.session import STEP, Session


def describe(instruction: isa.Instruction) -> str:
    """One line that says what an instruction's time depends on."""
    op = instruction.opcode
    if op is Opcode.MATMUL:
        bits = "x".join(str(instruction.operand(g).bits) for g in ("s0", "s1"))
        flags = "".join(f" {name}" for name in ("ta", "tb", "acc") if instruction[name])
        m, n, k = (instruction[name] for name in "mnk")
        return f"matmul {bits}{flags}  m {m} n {n} k {k}"
    if op is Opcode.VPU:
        ops = [isa.split_micro_op(instruction[f"uop{i}"]) for i in range(instruction["uops"])]
        names = " ".join(MicroOp(code).name.lower() for code, *_ in ops)
        sources = [o for i in range(isa.SOURCES) if (o := instruction.operand(f"s{i}")).kind != Kind.NONE]
        forms = " ".join("index" if o.kind == Kind.INDEX else str(o.bits or "f32") for o in sources)
        sinks = [o for i in range(isa.SINKS) if (o := instruction.operand(f"d{i}")).kind != Sink.NONE]
        kinds = " ".join(f"{Sink(o.kind).name.lower()}{o.bits or ''}" for o in sinks)
        return f"vpu {instruction['rows']}x{instruction['cols']}  {forms} -> {kinds}  [{names}]"
    return f"{op.name.lower()} {instruction['outer']} x {instruction['count']} x {instruction['size']} bytes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--top", type=int, default=25, help="heaviest instruction forms to list")
    parser.add_argument("--isa", default="auto", choices=("auto", "avx512", "portable"))
    options = parser.parse_args()
    session = Session(load(options.program))
    engine = JitEngine(session.program, session.state, isa=options.isa)
    engine.instrument()
    session.engine = engine
    session.step()
    plan = engine.prepare(STEP)
    executes = plan.steps[:, 0] == interpreter.EXECUTE
    plan.steps[executes, interpreter.TICKS :] = 0
    start = time.perf_counter()
    session.step(options.steps)
    seconds = (time.perf_counter() - start) / options.steps
    ticks, runs = defaultdict(int), defaultdict(int)
    kinds: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for step in executes.nonzero()[0]:
        instruction = session.program.instructions[int(plan.instruction_of[step])]
        name = describe(instruction)
        spent, count = (int(v) for v in plan.steps[step, interpreter.TICKS :])
        ticks[name] += spent
        runs[name] += count
        kind = kinds[instruction.opcode.name.lower()]
        kind[0] += spent
        kind[1] += count
    total = sum(ticks.values())
    scale = seconds / total
    executed = sum(runs.values()) // options.steps
    print(f"{1e3 * seconds:.1f} ms a step, {executed:,} instructions, isa {engine.instruction_set}")
    for name, (spent, count) in sorted(kinds.items(), key=lambda item: -item[1][0]):
        print(f"{1e3 * spent * scale:8.2f} ms {100 * spent / total:5.1f} %  {count // options.steps:>9,} x {name}")
    print()
    for name in sorted(ticks, key=ticks.__getitem__, reverse=True)[: options.top]:
        spent, count = ticks[name], runs[name]
        each = 1e9 * spent * scale * options.steps / count
        share = f"{1e3 * spent * scale:8.2f} ms {100 * spent / total:5.1f} %"
        print(f"{share}  {count // options.steps:>8,} x {each:8.0f} ns  {name}")


if __name__ == "__main__":
    main()
