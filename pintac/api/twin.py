"""The fp32 run in torch: the float twin of a run on the simulator, and `quant="none"`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pintac.api.following import Following
from pintac.api.loop import drive
from pintac.api.result import Result
from pintac.api.running import LIVE_POINTS, kept
from pintac.api.sigma import SigmaLook
from pintac.api.weights import PROBLEM_PREFIX, answers
from pintac.passes.expand_operators import ExpandOperators
from pintac.report import diagnostics

if TYPE_CHECKING:
    from pintac.frontend import SampledStep, TestSet, TrainStep

DERIVATIVES: Mapping[str, str] = {"autograd": "nested", "forward": "forward"}  # besides "estimator"
TWIN_ROWS = 2048  # evaluations at once: activations stay in cache
TRIED_POINTS = 4  # of the test set, before a run


class FloatRun:
    """A training step in torch, traced and tried on a few points when it is made, so that running it finds no fault.

    Raises what the estimator would raise, for automatic differentiation too.
    """

    def __init__(
        self,
        step: TrainStep,
        *,
        seed: int,
        weights: Mapping[str, np.ndarray] | None = None,
        derivatives: str = "estimator",
    ) -> None:
        from pintac.frontend import AutodiffStep, SampledStep, test_set, trace

        self.step, self.seed, self.derivatives = step, seed, derivatives
        traced = trace(step)
        self.test = test_set(step, outputs=traced.outputs)
        self._twin: SampledStep
        if derivatives == "estimator":
            chunk = max(1, TWIN_ROWS // step.estimator.K)
            self._twin = SampledStep(step, ExpandOperators().run, seed=seed, chunk=chunk, weights=weights)
        else:
            ExpandOperators().run(traced.step)  # raises for residuals that mix points or nest derivatives
            self._twin = AutodiffStep(step, DERIVATIVES[derivatives], seed=seed, weights=weights)
        self._twin.trace()
        try_out(step, self._twin.weights(), self.test)

    def run(self, total: int, following: Following, *, look: bool) -> Result:
        """Train `total` steps; `look` at the schedule and at sigma before them, which is all that is diagnosed here."""
        few = None if self.test is None else self.test.first(LIVE_POINTS)
        found = list(diagnostics.spent(self.step.optimizer.rate, total)) if look else []
        if look and self.derivatives == "estimator":
            states = {name: state.detach().numpy() for name, state in self._twin.states.items()}
            found += SigmaLook(self.step)(self.seed, 0, states, 1)
        for finding in found:
            diagnostics.show(finding)
        name = "float twin" if self.derivatives == "estimator" else self.derivatives
        outcome = drive(
            _Steps(self._twin, total),
            total,
            title=f"{self.step.name} ({name})",
            following=following,
            measure=None if few is None else lambda: float_error(self.step, self._twin.weights(), few),
        )
        result = Result(
            steps=outcome.steps,
            seed=self.seed,
            engine="torch",
            machine=None,
            bits=None,
            l2=None,
            l2_float=None,
            cost=None,
            weights=self._twin.weights(),
            history=tuple(outcome.history),
            sim_seconds_per_step=outcome.seconds_per_step,
            interrupted=outcome.interrupted,
            stopped=outcome.stopped,
            notes=tuple(outcome.notes),
            failed=outcome.failed,
            diagnostics=tuple(finding.as_dict() for finding in found) or None,
            details={
                "problem": self.step.name,
                "quant": "none",
                "derivatives": self.derivatives,
                "test": None if self.test is None else measured_on(self.test),
            },
        )
        return with_float_error(self.step, result, self.test, both=True)


class _Steps:
    """The twin as the training loop sees it; its optimizer lives as long as the run."""

    def __init__(self, twin: SampledStep, total: int) -> None:
        self.step_number = 0
        self._twin = twin
        self._steps = twin.steps(total)

    def advance(self) -> dict[str, float]:
        loss = next(self._steps)
        self.step_number += 1
        return {"loss": loss, **{f"loss:{term}": part for term, part in self._twin.term_losses.items()}}

    def answers(self) -> dict[str, Any]:
        names = [name for name in self._twin.states if name.startswith(PROBLEM_PREFIX)]
        return answers({name: self._twin.states[name].detach().numpy() for name in names})


def measured_on(test: TestSet) -> dict[str, Any]:
    """The points of the error, as results state them (`running.measured_at`)."""
    return {"points": len(test.x), "term": test.term, "inside": test.inside}


def float_error(step: TrainStep, weights: Mapping[str, np.ndarray], test: TestSet) -> float:
    """The error of fp32 weights through torch."""
    from pintac.frontend import predict_float

    return test.l2_rel(predict_float(step, weights, test.x))


def try_out(step: TrainStep, weights: Mapping[str, np.ndarray], test: TestSet | None) -> None:
    """Evaluate a few points in torch: what is wrong with that is said before a run, not after it."""
    from pintac.frontend import predict_float

    if test is not None:
        predict_float(step, weights, test.x[:TRIED_POINTS])


def with_float_error(step: TrainStep, result: Result, test: TestSet | None, both: bool = False) -> Result:
    """The result with the error of its weights through torch; with `both` that is its l2, too."""
    if test is None:
        return result

    def measured() -> Result:
        error = float_error(step, result.weights, test)
        return replace(result, l2_float=error, l2=error if both else result.l2)

    return kept(result, "l2 in fp32", measured)
