"""Host seconds of a simulated training step / of the best eager fp32 PyTorch arrangement of the same step, one thread.

    python benchmarks/step_ratio.py [--rounds 3] [--json F]

Every measurement is a process of its own; a round runs each of them once, so that a busy machine slows all alike. The
ratio is that of the medians over rounds; the target is 3. PyTorch runs all points at once or in chunks that stay in
cache, each also with malloc told to keep its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**28)}

SIMULATE = """
import json, statistics, sys, time
from pintac.program import load
from pintac.runtime.session import Session
session = Session(load(sys.argv[1]), engine="jit")
session.step(1)
seconds = []
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    session.step(1)
    seconds.append(time.perf_counter() - start)
print(json.dumps({"min": min(seconds), "median": statistics.median(seconds)}))
"""


def measure(command: list[str], environment: dict[str, str]) -> float:
    """The median seconds of a step that a process reports."""
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **ONE_THREAD, **environment},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parent,
    )
    return float(json.loads(done.stdout.splitlines()[-1])["median"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="steps of a process, after a first one to warm up")
    parser.add_argument("--json", metavar="F", help="write the figures")
    options = parser.parse_args()
    baseline = str(HERE / "torch_step.py")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "poisson2d.pinta")
        subprocess.run(
            [sys.executable, "-m", "pintac", "compile", "poisson2d", "-o", program], check=True, cwd=HERE.parent
        )
        steps = str(options.steps)
        cases = {
            "simulated": (["-c", SIMULATE, program, steps], {}),
            "torch, all points": ([baseline, "--steps", steps], {}),
            "torch, chunks of 4": ([baseline, "--chunk", "4", "--steps", steps], {}),
            "torch, chunks of 4, malloc": ([baseline, "--chunk", "4", "--steps", steps], KEEP_MEMORY),
            "torch, all points, malloc": ([baseline, "--steps", steps], KEEP_MEMORY),
        }
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(options.rounds):
            for name, (command, environment) in cases.items():
                seconds[name].append(measure(command, environment))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(value for name, value in medians.items() if name != "simulated")
    for name, value in medians.items():
        print(f"{name:<28} {value:.3f} s  {value / best:.2f} x the best of torch")
    if options.json:
        report = {"seconds": seconds, "medians": medians, "ratio": medians["simulated"] / best}
        Path(options.json).write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
