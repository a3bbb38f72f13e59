"""Runs the training configurations of docs/RESULTS.md and keeps their JSON in docs/results/.

    python tools/run_results.py                        every configuration, three seeds
    python tools/run_results.py default --seeds 0 1    one of them
    python tools/run_results.py --costs                what the steps cost as they are compiled today

A run that is already there is not repeated. Each file is what `pintac train --json` wrote, plus nothing. A schedule
changes what a step costs and no bit of what it computes: `--costs` trains the first steps again, insists that every
loss is the recorded one, and takes over the costs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"

# name -> arguments of `pintac train`
CONFIGURATIONS = {
    "float": ["poisson2d", "--quant", "none"],
    "default": ["poisson2d"],
    "paper-bits": ["poisson2d", "--bits", "8/8/8/12"],
    "naive": ["poisson2d", "--bits", "8/8/8/12", "--quant", "naive"],
    "sequential": ["poisson2d", "--scheme", "sequential"],
    "rank-8": ["poisson2d", "--tt-rank", "8"],
    "rank-32": ["poisson2d", "--tt-rank", "32"],
    "rank-8-float": ["poisson2d", "--tt-rank", "8", "--quant", "none"],
    "rank-32-float": ["poisson2d", "--tt-rank", "32", "--quant", "none"],
    "allen-cahn": ["examples/allen_cahn_1d.py:step"],
    "allen-cahn-float": ["examples/allen_cahn_1d.py:step", "--quant", "none"],
    "helmholtz": ["examples/helmholtz2d.py:step"],
    "helmholtz-float": ["examples/helmholtz2d.py:step", "--quant", "none"],
}

# configuration -> its float twin: the same network in fp32, whatever the precisions and the order of contraction
TWINS = {
    "default": "float",
    "paper-bits": "float",
    "naive": "float",
    "sequential": "float",
    "rank-8": "rank-8-float",
    "rank-32": "rank-32-float",
    "allen-cahn": "allen-cahn-float",
    "helmholtz": "helmholtz-float",
}


def command(name: str, seed: int, steps: int) -> list[str]:
    """The arguments after `pintac` that make one result."""
    return ["train", *CONFIGURATIONS[name], "--steps", str(steps), "--seed", str(seed)]


def result_path(name: str, seed: int) -> Path:
    return RESULTS / f"{name}-seed{seed}.json"


COSTS = (
    "compile_seconds", "cycles_per_step", "dram_bytes_per_step", "energy_j_per_step", "file_bytes",
    "instructions_executed_per_step", "lower_bound_cycles", "program_bytes", "program_digest", "sim_seconds_per_step",
    "tcu_cycles_per_step", "vpu_cycles_per_step",
)  # fmt: skip
COSTS_STEPS = 60


def refresh_costs(name: str, seed: int) -> None:
    """Take over the costs of today's program into a recorded run. Exits if a loss differs from the recorded one."""
    path = result_path(name, seed)
    recorded = json.loads(path.read_text())
    if recorded["cycles_per_step"] is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "run.json"
        arguments = [*command(name, seed, COSTS_STEPS), "--json", str(fresh)]
        subprocess.run([sys.executable, "-m", "pintac", *arguments], check=True, cwd=ROOT)
        run = json.loads(fresh.read_text())
    losses = {step: loss for step, loss, _ in recorded["history"]}
    compared = [(step, loss, losses[step]) for step, loss, _ in run["history"] if step in losses]
    if not compared or any(new != old for _, new, old in compared):
        sys.exit(f"{path.name}: the first steps are others than the recorded ones: {compared}; run it again")
    path.write_text(json.dumps(recorded | {key: run[key] for key in COSTS}, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CONFIGURATIONS)} (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--costs", action="store_true", help="only take over what the recorded runs cost today")
    options = parser.parse_args()
    unknown = set(options.names) - set(CONFIGURATIONS)
    if unknown:
        parser.error(f"unknown configuration {', '.join(sorted(unknown))}; known: {', '.join(CONFIGURATIONS)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.names or CONFIGURATIONS:
            path = result_path(name, seed)
            if options.costs:
                if path.exists():
                    refresh_costs(name, seed)
                continue
            if path.exists():
                continue
            arguments = command(name, seed, options.steps)
            print("pintac", *arguments, flush=True)
            subprocess.run([sys.executable, "-m", "pintac", *arguments, "--json", str(path)], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
