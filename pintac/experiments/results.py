"""Rows over their seeds: means, geometric spreads, float twins, cost (NUMERICS 9)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from pintac.experiments.facts import Facts
from pintac.experiments.rows import Row, Seeds
from pintac.experiments.store import Finished, Store

L2_REACHED = 2e-2
"""The error that `steps_to` counts to."""

EXACT = 1e-9
"""An error of a trivial solution below this is rounding: it solves the problem."""


class Results:
    """The finished runs of a store as tables and claims ask for them.

    `quick` looks at the runs with fewer points that `--quick` makes. Every question about a row is answered over those
    of its seeds that are finished.
    """

    def __init__(self, store: Store, seeds: Seeds | None = None, quick: bool = False) -> None:
        self.store = store
        self.seeds = seeds or Seeds()
        self.quick = quick
        self.facts = Facts(store.results)
        self._summaries: dict[Row, Summary] = {}

    def __getitem__(self, row: Row) -> Summary:
        used = row.quick() if self.quick else row
        if used not in self._summaries:
            runs = [used.run.but(seed=seed) for seed in used.seeds(self.seeds)]
            finished = tuple(found for found in map(self.store.load, runs) if found)
            twins = [run.run.twin for run in finished]
            found = tuple(twin for twin in (self.store.load(t) for t in twins if t is not None and used.twin) if twin)
            self._summaries[used] = Summary(used, finished, found, self.facts)
        return self._summaries[used]

    def smaller(self) -> Results:
        """The same with the fewer points of `--quick`."""
        other = Results(self.store, self.seeds, quick=True)
        other.facts = self.facts
        return other

    def l2(self, row: Row) -> float | None:
        """Mean error of a row."""
        return self[row].l2

    def l2_ratio(self, over: Row, under: Row) -> float | None:
        """Mean error of a row over that of another, over the seeds that both have."""
        a, b = self[over], self[under]
        common = set(a.seeds) & set(b.seeds)
        return quotient(_mean(a.l2_of(common)), _mean(b.l2_of(common)))

    def cycles_ratio(self, over: Row, under: Row) -> float | None:
        """Cycles of a step of a row over those of another."""
        return quotient(self[over].cycles, self[under].cycles)


@dataclass(frozen=True)
class Summary:
    """One row. Figures are None where no run, no program or no reference has them; a run that diverged has l2 = inf."""

    row: Row
    finished: tuple[Finished, ...]
    twins: tuple[Finished, ...]
    facts: Facts

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that are finished."""
        return tuple(run.run.seed for run in self.finished)

    @property
    def twin_seeds(self) -> tuple[int, ...]:
        """Seeds whose float twin is finished too."""
        return tuple(run.run.seed for run in self.twins)

    @property
    def errors(self) -> tuple[float, ...]:
        """l2 by seed."""
        return tuple(map(l2_of, self.finished))

    def l2_of(self, seeds: Iterable[int]) -> list[float]:
        """l2 of some seeds."""
        wanted = set(seeds)
        return [l2_of(run) for run in self.finished if run.run.seed in wanted]

    @cached_property
    def l2(self) -> float | None:
        """Mean over the seeds."""
        return _mean(self.errors)

    @cached_property
    def spread(self) -> float | None:
        """Geometric: exp of the sample standard deviation of the logarithms; None for one seed."""
        return geometric_spread(self.errors)

    @property
    def diverged(self) -> int:
        """Seeds that ended without a finite error."""
        return sum(not math.isfinite(error) for error in self.errors)

    @cached_property
    def twin(self) -> float | None:
        """Mean error of the float twins."""
        return _mean(list(map(l2_of, self.twins)))

    @cached_property
    def ratio(self) -> float | None:
        """Quantised over float twin: the geometric mean over the seeds that have both."""
        twins = {run.run.seed: l2_of(run) for run in self.twins}
        pairs = [(l2_of(run), twins[run.run.seed]) for run in self.finished if run.run.seed in twins]
        return geometric_mean([a / b if b else math.inf for a, b in pairs]) if pairs else None

    @property
    def masters(self) -> float | None:
        """Mean error of the fp32 master weights through torch: another function than the program that was trained."""
        return self.of_step("l2_rel_float") if self.row.run.has_program else None

    @property
    def affine(self) -> float | None:
        """The error of the best affine function on the test points."""
        return self.facts.problem(self.row.run).get("affine")

    @property
    def constant(self) -> float | None:
        """The error of the best constant on the test points."""
        return self.facts.problem(self.row.run).get("constant")

    @property
    def skill(self) -> float | None:
        """l2 over the best affine function's; None where that is exact."""
        affine = self.affine
        return None if affine is None or affine < EXACT else quotient(self.l2, affine)

    @property
    def mse(self) -> float | None:
        """Mean squared error on the test points, mean over the seeds."""
        square = self.facts.problem(self.row.run).get("mean_square")
        return None if square is None else _mean([error**2 * square for error in self.errors])

    # --- cost ----------------------------------------------------------------------------------------------------

    def of_step(self, key: str) -> float | None:
        """A figure of the result's JSON, such as a cost of a step: the mean, should programs of seeds differ."""
        return _mean([run.result[key] for run in self.finished if run.result.get(key) is not None])

    @property
    def cycles(self) -> float | None:
        """Cycles of a step."""
        return self.of_step("cycles_per_step")

    @property
    def over_bound(self) -> float | None:
        """Cycles of a step over the lower bound."""
        return quotient(self.cycles, self.of_step("lower_bound_cycles"))

    @property
    def joules_step(self) -> float | None:
        """Joules of a step."""
        return self.of_step("energy_j_per_step")

    @property
    def steps(self) -> float | None:
        """Steps of a run."""
        return _mean([run.result["steps"] for run in self.finished])

    @property
    def joules(self) -> float | None:
        """Joules of a whole run."""
        return None if self.joules_step is None or self.steps is None else self.joules_step * self.steps

    @property
    def cycles_run(self) -> float | None:
        """Cycles of a whole run."""
        return None if self.cycles is None or self.steps is None else self.cycles * self.steps

    @property
    def programs(self) -> int:
        """How many different costs the seeds report: more than one says that some are of an older backend."""
        return len({run.result["cycles_per_step"] for run in self.finished})

    def busy(self, unit: str) -> float | None:
        """Share of a step in which a unit, `tcu` or `vpu`, is taken."""
        return quotient(self.of_step(f"{unit}_cycles_per_step"), self.cycles)

    # --- on the way ----------------------------------------------------------------------------------------------

    def steps_to(self, level: float = L2_REACHED) -> tuple[float | None, int]:
        """(mean steps until l2 <= level, seeds that got there), at the granularity of the history."""
        reached = [found for found in (first_step(run, level) for run in self.finished) if found is not None]
        return _mean(reached), len(reached)

    @property
    def parameters(self) -> int:
        """Trained parameters."""
        return self.facts.network(self.row.run)["parameters"]

    @property
    def compression(self) -> float:
        """Parameters of the same network with dense layers over these."""
        counts = self.facts.network(self.row.run)
        return counts["dense"] / counts["parameters"]

    @property
    def dates(self) -> tuple[str, ...]:
        """Days on which the runs were made, without repeats."""
        return tuple(sorted({run.date for run in self.finished}))


def l2_of(run: Finished) -> float:
    """Its error; a run that diverged has null in its JSON."""
    value = run.result["l2_rel"]
    return math.inf if value is None else float(value)


def first_step(run: Finished, level: float) -> int | None:
    """The first step of the history with an error of at most `level`."""
    return next((int(step) for step, _, l2, *_ in run.result["history"] if l2 is not None and l2 <= level), None)


def geometric_mean(values: Iterable[float]) -> float:
    """exp of the mean logarithm; inf if any value is, else 0 if any is."""
    numbers = list(values)
    if math.inf in numbers or 0 in numbers:
        return math.inf if math.inf in numbers else 0.0
    return math.exp(fmean(map(math.log, numbers)))


def geometric_spread(values: Iterable[float]) -> float | None:
    """exp of the standard deviation of the logarithms as of a sample (n - 1); None for one value, or unless all
    are finite."""
    numbers = list(values)
    if len(numbers) < 2 or not all(0 < value < math.inf for value in numbers):
        return None
    return math.exp(stdev(map(math.log, numbers)))


def quotient(a: float | None, b: float | None) -> float | None:
    """a / b; None where one is missing or b is 0."""
    return None if a is None or not b else a / b


def largest(*values: float | None) -> float | None:
    """The largest; None if one is missing."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) and known else None


def _mean(values: Any) -> float | None:
    numbers = list(values)
    return fmean(numbers) if numbers else None
