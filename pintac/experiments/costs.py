"""Taking over what the steps of kept runs cost as they are compiled today.

A schedule changes what a step costs and no bit of what it computes. So the first steps are trained again, every loss
has to be the recorded one, and then the costs of today's program replace those in the file.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any

from pintac.errors import ResultsError
from pintac.experiments.runs import Run
from pintac.experiments.store import Finished, Store

COSTS = (
    "compile_seconds", "cycles_per_step", "dram_bytes_per_step", "energy_j_per_step", "file_bytes",
    "instructions_executed_per_step", "lower_bound_cycles", "macs_per_step", "program_bytes", "program_digest",
    "sim_seconds_per_step", "tcu_cycles_per_step", "vpu_cycles_per_step",
)  # fmt: skip
"""Keys of a result that say what a step costs."""

CHECKED_STEPS = 60
"""Steps that are trained again."""


def refresh(run: Run, store: Store) -> Finished | None:
    """Take over today's costs into a kept run; None if it is not there or has no program.

    Raises ResultsError if a loss differs: then the run itself has to be made again.
    """
    kept = store.load(run)
    if kept is None or not run.has_program:
        return None
    fresh = _train(run, min(CHECKED_STEPS, int(kept.result["steps"])))
    return store.save(run, merged(kept, fresh), kept.date)


def merged(kept: Finished, fresh: Mapping[str, Any]) -> dict[str, Any]:
    """The kept result with today's costs. Raises ResultsError unless the losses of both are equal."""
    recorded = {step: loss for step, loss, _ in kept.result["history"]}
    compared = [(step, loss, recorded[step]) for step, loss, _ in fresh["history"] if step in recorded]
    other = [entry for entry in compared if not _equal(*entry[1:])]
    if not compared or other:
        found = (
            f"step {other[0][0]} has the loss {other[0][1]}, recorded is {other[0][2]}" if other else "none to compare"
        )
        raise ResultsError(
            f"{kept.run.name}: the first steps are others than the recorded ones: {found}",
            hint="remove the file and make the run again",
        )
    costs = {key: fresh[key] for key in COSTS if key in fresh}
    return {**kept.result, **costs, "costs_date": datetime.date.today().isoformat()}


def _equal(a: float | None, b: float | None) -> bool:
    """Equal losses; one that is not finite is null in JSON."""
    return a == b or (b is None and a is not None and not math.isfinite(a))


def _train(run: Run, steps: int) -> Mapping[str, Any]:
    from pintac import api
    from pintac.frontend import load_step

    options = {flag: getattr(run, flag) for flag in ("quant", "scheme", "bits", "saved", "passes")}
    scheme = {} if ":" in run.problem else {"scheme": run.scheme}
    step = load_step(run.problem, **dict(run.settings), **scheme)
    result = api.train(step, steps, seed=run.seed, progress=False, **options)
    if result.interrupted:
        raise KeyboardInterrupt
    return result.as_dict()
