"""Seconds and memory of a simulated Poisson step over rows, widths and depths, one thread.

    python benchmarks/scaling.py [--steps 5] [--only rows] [--json F]

Rows are evaluations of the network a step (points x 512). Every line is a process of its own. "Memory" is the peak of
the process less what it held before the program was loaded; "growth" is what it held after the last step less after
the first one. Time a row and a MAC, and memory, should not depend on the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
EVALUATIONS = 512
SMALL = {"interior": 20, "boundary": 20}  # 10k rows
LINES: dict[str, list[dict[str, int]]] = {
    "rows": [{"interior": n, "boundary": n} for n in (20, 60, 200, 600, 2000)],
    "width": [{"width": n, **SMALL} for n in (64, 128, 256, 512, 1024)],
    "hidden": [{"hidden": n, **SMALL} for n in (1, 2, 3, 4, 6, 8)],
}

MEASURE = """
import json, resource, sys, time
from pathlib import Path
from pintac.program_file import load
from pintac.runtime.jit import JitEngine
from pintac.runtime.session import Session

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

before = held()
session = Session(load(sys.argv[1]))
start = time.perf_counter()
session.step(1)
first, after_first, seconds = time.perf_counter() - start, held(), []
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    session.step(1)
    seconds.append(time.perf_counter() - start)
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
work = session.work()
growth = held() - after_first
print(json.dumps({"seconds": min([first, *seconds]), "first": first, "memory": peak - before, "growth": growth,
                  "macs": work.macs, "instructions": len(session.program.instructions)}))
"""


def measure(options: dict[str, int], steps: int, folder: str) -> dict[str, float] | str:
    """The figures of one line, or why there are none."""
    program = str(Path(folder) / "p.pinta")
    settings = [text for name, value in options.items() for text in ("--set", f"{name}={value}")]
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")}
    for command in (
        ["-m", "pintac", "compile", "poisson2d", *settings, "-o", program],
        ["-c", MEASURE, program, "0"],  # so that the one that counts finds its machine code
        ["-c", MEASURE, program, str(steps)],
    ):
        done = subprocess.run(
            [sys.executable, *command], env=environment, cwd=HERE.parent, capture_output=True, text=True
        )
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no message"])[0]
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="steps timed, after a first one")
    parser.add_argument("--only", choices=list(LINES), help="one part of the table")
    parser.add_argument("--json", metavar="F", help="write the figures")
    options = parser.parse_args()
    report = []
    print("     rows  width  hidden  s a step  ns a row  GMAC/s   memory   growth  instructions")
    with tempfile.TemporaryDirectory() as folder:
        for part in [options.only] if options.only else LINES:
            for line in LINES[part]:
                rows = line["interior"] * EVALUATIONS
                width, hidden = line.get("width", 256), line.get("hidden", 3)
                figures = measure(line, options.steps, folder)
                report.append({**line, "figures": figures})
                head = f"{rows:>9,} {width:>6} {hidden:>7}"
                if isinstance(figures, str):
                    print(f"{head}  {figures}", flush=True)
                    continue
                seconds = figures["seconds"]
                print(
                    f"{head} {seconds:>9.4f} {1e9 * seconds / rows:>9.0f} {figures['macs'] / seconds / 1e9:>7.1f}"
                    f" {figures['memory'] / 2**20:>5.0f} MB {figures['growth'] / 2**20:>5.1f} MB"
                    f" {figures['instructions']:>13,}",
                    flush=True,
                )
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
