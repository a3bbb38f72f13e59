"""`pintac.train`: compile a TrainStep, run it on the simulator, and set the float figures beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pintac.accuracy import l2_rel
from pintac.api import running
from pintac.api.compilation import DEFAULT_BITS, Compilation
from pintac.api.evaluator import EvaluatorSession
from pintac.api.following import Callback, Following, check_new
from pintac.api.loop import drive
from pintac.api.lowering import Lowered
from pintac.api.named import as_step, say_if_discarded
from pintac.api.result import Result
from pintac.api.reuse import emit_or_reuse
from pintac.api.sigma import SigmaLook
from pintac.api.steps import seed_of, total_steps
from pintac.api.twin import DERIVATIVES, FloatRun, measured_on, try_out, with_float_error
from pintac.api.watching import Watch, Watched, parameters_of
from pintac.api.weights import PROBLEM_PREFIX, answers, arrays_of
from pintac.blocks import SMX_BLOCK
from pintac.errors import UsageError, suggest
from pintac.machine import Machine
from pintac.passes import Observer
from pintac.report.probe import Probe, small
from pintac.report.purpose import from_meta

if TYPE_CHECKING:
    from pintac.frontend import TrainStep

ENGINES = ("jit", "reference", "evaluator")


def train(
    step: TrainStep | str,
    steps: int | None = None,
    *,
    seed: int = 0,
    engine: str = "jit",
    progress: bool = True,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
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
    effort: float = 1.0,
    threads: int = 1,
    derivatives: str = "estimator",
    diagnostics: bool = True,
    callback: Callback | None = None,
    every: int | None = None,
    log: str | Path | None = None,
    stop_below: float | None = None,
) -> Result:
    """Train on the simulator.

    step      a `TrainStep`, the name of a built-in problem, or "my_pde.py:step"
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
    "forward", the same by a forward Laplacian. The other arguments are those of `compile`, and those from `checkpoint`
    and `resume` to `stop_below` those of `run`. `step.net` is not changed; see `Result.state_dict`.
    """
    how = Compilation.of(
        machine=machine,
        quant=quant,
        scheme=scheme,
        bits=bits,
        saved=saved,
        block=block,
        rows=rows,
        passes=passes,
        observers=observers,
        verify=verify,
        effort=effort,
    )
    return train_with(
        as_step(step, how.options.scheme, seed_of(seed)),
        how,
        TrainingRun(
            seed=seed_of(seed),
            engine=engine,
            checkpoint=checkpoint,
            resume=resume,
            overwrite=overwrite,
            weights=arrays_of(weights),
            twin=twin,
            threads=threads,
            derivatives=derivatives,
            diagnostics=diagnostics,
        ),
        Following(progress, callback, every, log, stop_below),
        steps,
    )


@dataclass(frozen=True)
class TrainingRun:
    """What `train` says of these arguments."""

    seed: int = 0
    engine: str = "jit"
    checkpoint: str | Path | None = None
    resume: bool = False
    overwrite: bool = False
    weights: Mapping[str, np.ndarray] | None = None
    twin: bool = False
    threads: int = 1
    derivatives: str = "estimator"
    diagnostics: bool = True


def train_with(
    step: TrainStep, how: Compilation, run: TrainingRun, following: Following, steps: int | None = None
) -> Result:
    """As `train`. Everything that can be wrong is tried before the first step; what fails after it is a note."""
    _check(how, run)
    total = total_steps(steps, step.optimizer.attrs())
    following.check(step.problem.has_exact)
    if not (run.resume or run.overwrite):
        check_new(run.checkpoint, following.log)
    say_if_discarded(step, run.weights)
    if how.options.quant == "none":
        alone = FloatRun(step, seed=run.seed, weights=run.weights, derivatives=run.derivatives)
        return alone.run(total, following, look=run.diagnostics).unless_failed()
    start = time.perf_counter()
    lowered = how.lower(step, run.seed, run.weights)
    try_out(step, lowered.layout.export(lowered.init), lowered.test)
    twin = FloatRun(step, seed=run.seed, weights=run.weights) if run.twin else None
    if run.engine == "evaluator":
        result = _train_evaluator(step, lowered, total, run, following, start)
    else:
        program = emit_or_reuse(lowered, how.machine, how.effort)
        compile_seconds = time.perf_counter() - start
        session = running.open_session(program, run.engine, run.seed, None, run.threads)
        history = running.resume_session(session, run.checkpoint) if run.resume else []
        watch = watch_lowered(session, lowered, run.seed, step) if run.diagnostics else None
        result = running.run_session(
            session, program, total, following, checkpoint=run.checkpoint, history=history, watch=watch
        )
        result = replace(result, compile_seconds=compile_seconds)
    result = with_float_error(step, result, lowered.test)
    if twin is None or result.interrupted or result.failed:
        return result.unless_failed(run.checkpoint)
    return running.kept(result, "float twin", lambda: _with_twin(result, twin, following.progress))


def _check(how: Compilation, run: TrainingRun) -> None:
    """Raises UsageError for arguments that do not go together."""
    floating = how.options.quant == "none"
    if run.resume and run.checkpoint is None:
        raise UsageError("which checkpoint shall be resumed?", hint="--checkpoint FILE --resume")
    if run.derivatives != "estimator":
        if run.derivatives not in DERIVATIVES:
            hint = suggest(run.derivatives, ["estimator", *DERIVATIVES])
            raise UsageError(f"there are no derivatives {run.derivatives!r}", hint=hint)
        if not floating:
            raise UsageError(
                f"derivatives by {run.derivatives!r} are those of fp32 in torch, the machine has the estimator alone",
                hint="quant='none', --quant none",
            )
        if run.twin:
            raise UsageError("the float twin is a run with the estimator", hint="train it by itself, quant='none'")
    if floating:
        if run.checkpoint is not None:
            raise UsageError("quant='none' trains in torch, without checkpoints")
        return
    if run.engine not in ENGINES:
        raise UsageError(f"there is no engine {run.engine!r}", hint=suggest(run.engine, list(ENGINES)))
    if how.options.block != SMX_BLOCK and run.engine != "evaluator":
        raise UsageError(
            f"the simulated machine has 4x4 blocks, not {how.options.block}", hint="--engine evaluator"
        )
    if run.engine == "evaluator" and run.checkpoint is not None:
        raise UsageError("the evaluator writes no checkpoints", hint="--engine jit")


def _with_twin(result: Result, twin: FloatRun, progress: bool) -> Result:
    """The result beside that of its float twin, trained as many steps; one that Ctrl-C ended gives no figure."""
    beside = twin.run(result.steps, Following(progress), look=False)
    if beside.interrupted:
        note = f"float twin: interrupted after {beside.steps} of {result.steps} steps"
        return replace(result, interrupted=True, notes=(*result.notes, note))
    details = {**result.details, "history_twin": beside.history}
    return replace(result, l2_twin=beside.l2, notes=(*result.notes, *beside.notes), details=details)


def watch_lowered(session: Watched, lowered: Lowered, seed: int, step: TrainStep) -> Watch:
    """A watch over a session of a step that was lowered here."""

    def probe() -> Probe:
        return Probe(small(lowered.graphs["step"]), from_meta(lowered.meta, "step"), lowered.data)

    params = parameters_of(lowered.params, lowered.param_table, seed)
    return Watch(session, probe, params, lowered.meta, sigma=SigmaLook(step))


class _EvaluatorSteps:
    def __init__(self, session: EvaluatorSession) -> None:
        self.session = session

    @property
    def step_number(self) -> int:
        return self.session.step_number

    def advance(self) -> dict[str, float]:
        self.session.step()
        return self.session.metrics()

    def answers(self) -> dict[str, Any]:
        states = self.session.state_arrays()
        return answers({name: value for name, value in states.items() if name.startswith(PROBLEM_PREFIX)})


def _train_evaluator(
    step: TrainStep, lowered: Lowered, total: int, run: TrainingRun, following: Following, start: float
) -> Result:
    session = EvaluatorSession(lowered, run.seed)
    compile_seconds = time.perf_counter() - start
    test = lowered.test
    few = None if test is None else test.first(running.LIVE_POINTS)
    watch = watch_lowered(session, lowered, run.seed, step) if run.diagnostics else None
    if watch is not None:
        watch.before_steps(total)
    outcome = drive(
        _EvaluatorSteps(session),
        total,
        title=f"{lowered.meta['problem']} (evaluator)",
        following=following,
        measure=None if few is None else lambda: l2_rel(session.infer(few.x), few.u),
        watch=None if watch is None else watch.after_step,
    )
    keys = ("problem", "quant", "scheme", "saved", "block", "rows")
    details: dict[str, Any] = {key: lowered.meta[key] for key in keys if key in lowered.meta}
    result = Result(
        steps=session.step_number,
        seed=run.seed,
        engine="evaluator",
        machine=None,
        bits=lowered.meta["bits"],
        l2=None,
        l2_float=None,
        cost=None,
        weights=lowered.layout.export(session.state_arrays()),
        history=tuple(outcome.history),
        sim_seconds_per_step=outcome.seconds_per_step,
        compile_seconds=compile_seconds,
        interrupted=outcome.interrupted,
        stopped=outcome.stopped,
        notes=tuple(outcome.notes),
        failed=outcome.failed,
        diagnostics=None if watch is None else watch.as_json(),
        details={**details, "test": None if test is None else measured_on(test)},
    )
    if test is None:
        return result
    return running.kept(
        result, "l2 on all test points", lambda: replace(result, l2=l2_rel(session.infer(test.x), test.u))
    )
