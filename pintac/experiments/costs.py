"""Taking over what the steps of kept runs cost as they are compiled today.

A schedule changes what a step costs and no bit of what it computes. So the first steps are trained again, every loss
has to be the recorded one, and then the costs of today's program replace those in the file.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pintac.errors import ComparisonError
from pintac.experiments.runs import Run
from pintac.experiments.store import Finished, Store

COSTS = (
    "cycles_per_step", "dram_bytes_per_step", "energy_j_per_step", "instructions_executed_per_step",
    "lower_bound_cycles", "macs_per_step", "program_bytes", "tcu_cycles_per_step", "vpu_cycles_per_step",
)  # fmt: skip
"""Keys of a result that say what a step costs: the same for every seed."""

CHECKED_STEPS = 60
"""Steps that are trained again, and on to the next recorded one: a long run records few."""


def refresh(runs: Sequence[Run], store: Store) -> list[Finished]:
    """Take over today's costs into the kept ones of `runs`, seeds of one configuration; those that were renewed.

    The losses of one of them are compared; seeds have equal programs but for the initial weights. Raises
    ComparisonError if a loss differs: then the runs themselves have to be made again.
    """
    kept = [found for found in map(store.load, runs) if found is not None and found.run.has_program]
    if not kept:
        return []
    if len({found.run.label for found in kept}) > 1:
        raise ValueError("runs of several configurations")
    checked = kept[0]
    recorded = [step for step, *_ in checked.result["history"]]
    steps = next((step for step in recorded if step >= CHECKED_STEPS), int(checked.result["steps"]))
    costs = compared(checked, _train(checked.run, steps))
    return [store.save(found.run, {**found.result, **costs}, found.date) for found in kept]


def compared(kept: Finished, fresh: Mapping[str, Any]) -> dict[str, Any]:
    """The costs of a fresh start of a kept run. Raises ComparisonError unless the losses of both are equal."""
    recorded = {step: loss for step, loss, *_ in kept.result["history"]}
    pairs = [(step, loss, recorded[step]) for step, loss, *_ in fresh["history"] if step in recorded]
    other = [entry for entry in pairs if not _equal(*entry[1:])]
    if not pairs or other:
        found = (
            f"step {other[0][0]} has the loss {other[0][1]}, recorded is {other[0][2]}" if other else "none to compare"
        )
        raise ComparisonError(
            f"{kept.run.name}: the first steps are others than the recorded ones: {found}",
            hint="remove the file and make the run again",
        )
    costs = {key: fresh[key] for key in COSTS if key in fresh}
    return {**costs, "costs_date": datetime.date.today().isoformat()}


def _equal(a: float | None, b: float | None) -> bool:
    """Equal losses; one that is not finite is null in JSON."""
    return a == b or (b is None and a is not None and not math.isfinite(a))


def _train(run: Run, steps: int) -> Mapping[str, Any]:
    from pintac import api
    from pintac.frontend import load_step

    options = {flag: getattr(run, flag) for flag in ("quant", "scheme", "bits", "saved", "passes", "rows")}
    scheme = {} if ":" in run.problem else {"scheme": run.scheme}
    step = load_step(run.problem, **dict(run.settings), **scheme)
    result = api.train(step, steps, seed=run.seed, progress=False, **options)
    if result.interrupted:
        raise KeyboardInterrupt
    return result.as_dict()
