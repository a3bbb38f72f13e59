"""`pintac.train`: compile a TrainStep, run it on the simulator, and set the float figures beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pintac.api import running
from pintac.api.compiling import DEFAULT_BITS, as_machine
from pintac.api.evaluator import EvaluatorSession
from pintac.api.loop import drive
from pintac.api.lowering import Lowered, default_steps, lower
from pintac.api.result import Result
from pintac.api.reuse import emit_or_reuse
from pintac.api.watching import watch_lowered
from pintac.blocks import SMX_BLOCK
from pintac.errors import UsageError, suggest
from pintac.machine import Machine
from pintac.passes import Observer, PipelineOptions
from pintac.passes.expand_operators import ExpandOperators

if TYPE_CHECKING:
    from pintac.frontend import SampledStep, TestSet, TrainStep

ENGINES = ("jit", "reference", "evaluator")
DERIVATIVES: Mapping[str, str] = {"autograd": "nested", "forward": "forward"}  # besides "estimator"
TWIN_ROWS = 2048  # evaluations of the float twin at once: activations stay in cache


def train(
    step: TrainStep,
    steps: int | None = None,
    *,
    seed: int = 0,
    engine: str = "jit",
    progress: bool = True,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    weights: Mapping[str, np.ndarray] | None = None,
    twin: bool = False,
    machine: Machine | str | Path = "pinta",
    quant: str = "diff",
    scheme: str = "prs",
    bits: str = DEFAULT_BITS,
    saved: str = "smx",
    block: str = SMX_BLOCK,
    rows: str = "apart",
    passes: str | None = None,
    observers: Sequence[Observer] = (),
    verify: str = "ends",
    threads: int = 1,
    derivatives: str = "estimator",
    diagnostics: bool = True,
) -> Result:
    """Train on the simulator.

    steps     steps of training in all (default: the N of the schedule); fewer steps do not change the schedule
    seed      draws the initial weights and every random number of the run
    engine    "jit" or "reference" execute the program (equal bits); "evaluator" runs the IR itself, without a program
    weights   initial weights in the names and layout of the state_dict, in place of drawn ones
    threads   of the jit engine: the same bits, sooner where as many processors are free
    block     shape of the blocks that share an exponent: "4x4", or on the evaluator "8x8", "1x16", "1x32"
    diagnostics  whether the run is looked at, and what is wrong with it said on stderr (docs/DIAGNOSTICS.md)
    twin      also train the fp32 torch twin: same weights, random numbers, estimator and schedule

    quant="none" is that fp32 run by itself: no program, so cycles and energy are None. There alone `derivatives` may be
    "autograd", exact derivatives of the residual by nested automatic differentiation in place of the estimator, or
    "forward", the same by a forward Laplacian. The other arguments are those of `compile`, `checkpoint` and `resume`
    those of `run`. `step.net` is not changed; see `Result.state_dict`.
    """
    if derivatives != "estimator":
        if derivatives not in DERIVATIVES:
            hint = suggest(derivatives, ["estimator", *DERIVATIVES])
            raise UsageError(f"there are no derivatives {derivatives!r}", hint=hint)
        if quant != "none":
            raise UsageError(
                f"derivatives by {derivatives!r} are those of fp32 in torch, the machine has the estimator alone",
                hint="quant='none', --quant none",
            )
        if twin:
            raise UsageError("the float twin is a run with the estimator", hint="train it by itself, quant='none'")
    total = _total(step, steps)
    if quant == "none":
        if checkpoint is not None:
            raise UsageError("quant='none' trains in torch, without checkpoints")
        return _train_float(step, total, seed=seed, progress=progress, weights=weights, derivatives=derivatives)
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}", hint=suggest(engine, list(ENGINES)))
    if block != SMX_BLOCK and engine != "evaluator":
        raise UsageError(f"the simulated machine has 4x4 blocks, not {block}", hint="--engine evaluator")
    options = PipelineOptions.from_bits(bits, quant=quant, scheme=scheme, saved=saved, block=block, rows=rows)
    target = as_machine(machine)
    start = time.perf_counter()
    lowered = lower(
        step, options, passes=passes, observers=observers, verify=verify, seed=seed, weights=weights, machine=target
    )
    if engine == "evaluator":
        if checkpoint is not None:
            raise UsageError("the evaluator writes no checkpoints", hint="--engine jit")
        result = _train_evaluator(lowered, total, seed=seed, progress=progress, start=start, diagnostics=diagnostics)
    else:
        program = emit_or_reuse(lowered, target)
        compile_seconds = time.perf_counter() - start
        session = running.open_session(program, engine, seed, None, threads)
        history = running.resume_session(session, checkpoint) if resume else []
        watch = watch_lowered(session, lowered, seed) if diagnostics else None
        outcome = running.drive_session(
            session, program, total, progress=progress, checkpoint=checkpoint, history=history, watch=watch
        )
        result = running.finish(session, program, outcome, engine=engine, seed=seed, watch=watch)
        states = session.state_arrays()
        result = replace(result, compile_seconds=compile_seconds, weights=lowered.layout.export(states))
    result = replace(result, l2_float=_l2_of(step, result.weights, lowered.test))
    if twin and not result.interrupted:
        beside = _train_float(step, result.steps, seed=seed, progress=progress, weights=weights)
        result = replace(result, l2_twin=beside.l2, details={**result.details, "history_twin": beside.history})
    return result


def _total(step: TrainStep, steps: int | None) -> int:
    total = steps if steps is not None else default_steps(step)
    if total is None:
        raise UsageError(
            "how many steps? The schedule of the learning rate has no end", hint="steps=1000, --steps 1000"
        )
    if total < 1:
        raise UsageError(f"expected a positive number of steps, got {total}")
    return total


def _l2_of(step: TrainStep, weights: Mapping[str, np.ndarray], test: TestSet | None) -> float | None:
    """The error of fp32 weights through torch."""
    if test is None:
        return None
    from pintac.frontend import predict_float

    return running.l2_rel(predict_float(step, weights, test.x), test.u)


class _TwinSteps:
    """The float twin as the training loop sees it; its optimizer lives as long as the run."""

    def __init__(self, twin: SampledStep, total: int) -> None:
        self.step_number = 0
        self._steps = twin.steps(total)

    def advance(self) -> float | None:
        loss = next(self._steps)
        self.step_number += 1
        return loss


def _train_float(
    step: TrainStep,
    total: int,
    *,
    seed: int,
    progress: bool,
    weights: Mapping[str, np.ndarray] | None,
    derivatives: str = "estimator",
) -> Result:
    from pintac.frontend import test_set

    twin = _float_step(step, derivatives, seed, weights)
    test = test_set(step)
    few = None if test is None else replace(test, x=test.x[: running.LIVE_POINTS], u=test.u[: running.LIVE_POINTS])

    def live() -> float:
        error = _l2_of(step, twin.weights(), few)
        assert error is not None
        return error

    outcome = drive(
        _TwinSteps(twin, total),
        total,
        title=f"{step.name} ({'float twin' if derivatives == 'estimator' else derivatives})",
        progress=progress,
        measure=None if few is None else live,
    )
    error = _l2_of(step, twin.weights(), test)
    return Result(
        steps=outcome.steps,
        seed=seed,
        engine="torch",
        machine=None,
        bits=None,
        l2=error,
        l2_float=error,
        cost=None,
        weights=twin.weights(),
        history=tuple(outcome.history),
        sim_seconds_per_step=outcome.seconds_per_step,
        interrupted=outcome.interrupted,
        details={"problem": step.name, "quant": "none", "derivatives": derivatives},
    )


def _float_step(step: TrainStep, derivatives: str, seed: int, weights: Mapping[str, np.ndarray] | None) -> SampledStep:
    """The training step in torch. Automatic differentiation is refused what the estimator is refused."""
    from pintac.frontend import AutodiffStep, SampledStep, trace

    if derivatives == "estimator":
        chunk = max(1, TWIN_ROWS // step.estimator.K)
        return SampledStep(step, ExpandOperators().run, seed=seed, chunk=chunk, weights=weights)
    ExpandOperators().run(trace(step).step)  # raises for residuals that mix points or nest derivatives
    return AutodiffStep(step, DERIVATIVES[derivatives], seed=seed, weights=weights)


class _EvaluatorSteps:
    def __init__(self, session: EvaluatorSession) -> None:
        self.session = session

    @property
    def step_number(self) -> int:
        return self.session.step_number

    def advance(self) -> float | None:
        self.session.step()
        return self.session.metrics().get("loss")


def _train_evaluator(
    lowered: Lowered, total: int, *, seed: int, progress: bool, start: float, diagnostics: bool
) -> Result:
    session = EvaluatorSession(lowered, seed)
    compile_seconds = time.perf_counter() - start
    test = lowered.test
    watch = watch_lowered(session, lowered, seed) if diagnostics else None
    outcome = drive(
        _EvaluatorSteps(session),
        total,
        title=f"{lowered.meta['problem']} (evaluator)",
        progress=progress,
        watch=None if watch is None else watch.after_step,
    )
    error = None if test is None else running.l2_rel(session.infer(test.x), test.u)
    keys = ("problem", "quant", "scheme", "saved", "block", "rows")
    details: dict[str, Any] = {key: lowered.meta[key] for key in keys if key in lowered.meta}
    return Result(
        steps=session.step_number,
        seed=seed,
        engine="evaluator",
        machine=None,
        bits=lowered.meta["bits"],
        l2=error,
        l2_float=None,
        cost=None,
        weights=lowered.layout.export(session.state_arrays()),
        history=tuple(outcome.history),
        sim_seconds_per_step=outcome.seconds_per_step,
        compile_seconds=compile_seconds,
        interrupted=outcome.interrupted,
        diagnostics=None if watch is None else watch.as_json(),
        details=details,
    )
