"""Draws docs/figures/error-against-energy.svg (2-D Poisson) from docs/results/; prints the table of docs/RESULTS.md.

Error against simulated energy: each run gives a curve of (joules so far, l2), seeds of one configuration share a
colour; the float twin, which runs no program and has no energy, is the dashed level that its runs end at.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from run_results import TWINS

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "error-against-energy.svg"


def load() -> dict[str, list[dict[str, Any]]]:
    """Runs by configuration, in seed order."""
    runs = defaultdict(list)
    for path in sorted(RESULTS.glob("*-seed*.json")):
        runs[path.stem.rsplit("-seed", 1)[0]].append(json.loads(path.read_text()))
    return dict(runs)


def twins(runs: dict[str, list[dict[str, Any]]], name: str) -> list[float]:
    """Errors of the float twins of a configuration, those seeds that were run."""
    seeds = {run["seed"] for run in runs[name]}
    return [run["l2_rel"] for run in runs.get(TWINS[name], []) if run["seed"] in seeds]


def spread(values: list[float]) -> tuple[float, float]:
    """Mean, and the geometric spread exp(std of the logarithms)."""
    logs = [math.log(v) for v in values]
    mean_log = sum(logs) / len(logs)
    return sum(values) / len(values), math.exp(math.sqrt(sum((v - mean_log) ** 2 for v in logs) / len(logs)))


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """The results as Markdown: one row a configuration."""
    lines = [
        "| configuration | bits | seeds | l2 | spread | float twin (seeds) | ratio | cycles a step | / bound | mJ |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, group in runs.items():
        if name not in TWINS:
            continue
        mean, geometric = spread([run["l2_rel"] for run in group])
        fp32 = twins(runs, name)
        twin = spread(fp32)[0] if fp32 else None
        first = group[0]
        cycles, bound = first["cycles_per_step"], first["lower_bound_cycles"]
        cells = [
            name,
            first["bits"],
            len(group),
            f"{mean:.2e}",
            f"x{geometric:.2f}",
            f"{twin:.2e} ({len(fp32)})" if twin else "not run",
            f"{mean / twin:.2f}" if twin else "",
            f"{cycles:,}",
            f"{cycles / bound:.3f}" if bound else "",
            f"{first['energy_j_per_step'] * 1e3:.3f}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def draw(runs: dict[str, list[dict[str, Any]]]) -> None:
    """One curve a run, drawn without a date so that equal results give equal files."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "pintac"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for number, (name, group) in enumerate((n, g) for n, g in runs.items() if n in TWINS):
        colour = f"C{number}"
        for i, run in enumerate(group):
            curve = [(step * run["energy_j_per_step"], l2) for step, _, l2 in run["history"] if l2 is not None]
            axes.plot(
                *zip(*curve, strict=True),
                color=colour,
                lw=1.2,
                alpha=0.8,
                label=f"{name} ({run['bits']})" if not i else None,
            )
        if fp32 := twins(runs, name):
            axes.axhline(spread(fp32)[0], color="grey", ls="--", lw=0.8)
    axes.plot([], [], color="grey", ls="--", lw=0.8, label="float twin, at the end")
    axes.set(yscale="log", xlabel="simulated energy [J]", ylabel="relative l2 error")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    runs = load()
    if not runs:
        raise SystemExit(f"no results in {RESULTS}; tools/run_results.py makes them")
    print(table(runs))
    poisson = {name: group for name, group in runs.items() if group[0]["problem"] == "poisson2d"}
    if poisson:
        draw(poisson)


if __name__ == "__main__":
    main()
