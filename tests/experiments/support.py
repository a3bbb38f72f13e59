"""Runs that nobody made: results with the figures a test wants to see in a table."""

from __future__ import annotations

from typing import Any

from pintac.experiments.facts import Facts
from pintac.experiments.runs import Run
from pintac.experiments.store import Store

DAY = "2026-01-02"
PROBLEM = {"constant": 0.5, "affine": 0.1, "zero": 1.0, "untrained": 1.0, "time": None, "mean_square": 4.0}


def result(run: Run, l2: float | None, **others: Any) -> dict[str, Any]:
    """The JSON of a run of 1000 steps: 200 cycles and 2 mJ a step where there is a program."""
    cost = run.has_program
    return {
        "l2_rel": l2,
        "l2_rel_float": l2,
        "steps": 1000,
        "seed": run.seed,
        "bits": run.bits if cost else None,
        "interrupted": False,
        "history": [[20, 3.0, 0.5], [40, 2.0, 0.02], [1000, 1.0, l2]],
        "cycles_per_step": 200 if cost else None,
        "energy_j_per_step": 2e-3 if cost else None,
        "lower_bound_cycles": 100 if cost else None,
        "tcu_cycles_per_step": 100 if cost else None,
        "vpu_cycles_per_step": 50 if cost else None,
        "macs_per_step": 4096 if cost else None,
        "sim_seconds_per_step": 0.25,
        **others,
    }


def keep(store: Store, run: Run, l2: float | None, **others: Any) -> None:
    """Put a made-up run into a store."""
    store.save(run, result(run, l2, **others), DAY)


def know(store: Store, *runs: Run) -> None:
    """Put made-up facts of a problem and of networks beside a store."""
    facts = Facts(store.results)
    for run in runs:
        facts.keep_problem(run, PROBLEM)
        facts.keep_network(run, {"parameters": 100, "dense": 400})
