"""`pintac.load`, `pintac.run`, `pintac.predict`: what can be done with a program; none of it needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pintac.accuracy import l2_rel
from pintac.api.following import Callback, Following, check_new
from pintac.api.loop import Outcome, drive
from pintac.api.result import Result
from pintac.api.steps import positive, seed_of, total_steps
from pintac.api.watching import Watch, watch_program
from pintac.api.weights import PROBLEM_PREFIX, Arrays, answers, arrays_of, constants_of, to_states, to_weights
from pintac.errors import CheckpointError, PintacError, ProgramError, UsageError
from pintac.program import Program
from pintac.program_file import load as load_program
from pintac.report.files import check_writable, say
from pintac.report.step_cost import StepCost, step_cost
from pintac.runtime.history import Row
from pintac.smx import BLOCK

if TYPE_CHECKING:
    from pintac.runtime.session import Session

FAR = 16.0  # a row so many times the size of the domain spoils its neighbours: 16 of 2^15 steps are left to them
LIVE_POINTS = 1024  # test points of the error shown while training; the final one takes all


def load(path: str | Path) -> Program:
    """A program from its file. Raises ProgramError for anything that is not a whole program for this ISA."""
    return load_program(path)


def run(
    program: Program | str | Path,
    steps: int | None = None,
    *,
    seed: int | None = None,
    engine: str = "jit",
    progress: bool = True,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    weights: Mapping[str, np.ndarray] | None = None,
    threads: int = 1,
    diagnostics: bool = True,
    callback: Callback | None = None,
    every: int | None = None,
    log: str | Path | None = None,
    stop_below: float | None = None,
) -> Result:
    """Train with a compiled program.

    steps       steps of training in all, a resumed run included (default: the N of the schedule)
    seed        of the random numbers of the steps (default: the one it was compiled with); the initial weights are
                those in the program, or `weights` in the names and layout of the state_dict
    engine      "jit" or "reference": the same bits
    checkpoint  file to write every 30 seconds, at the end and on Ctrl-C; `resume` goes on from it, bit for bit
    overwrite   begin anew though checkpoint or log are there from an earlier run; otherwise that is refused
    threads     of the jit engine: the same bits, sooner where as many processors are free
    diagnostics whether the run is looked at, and what is wrong with it said on stderr (docs/DIAGNOSTICS.md)
    callback    called with the number of steps done and what was measured: `loss`, `l2`, the loss of each term as
                `loss:<term>`, the problem's small parameters; when it returns true the run ends (`result.stopped`)
    every       history, log and callback get every so many steps, and the last one (default: 50 of the run)
    log         file that the same is written to, a line of JSON each; a resumed run goes on with it
    stop_below  end the run when the l2 of such a step is below this

    Ctrl-C ends the run after the current step and returns what it has (`result.interrupted`). What the callback raises
    ends it too: the checkpoint is written, and a CallbackError raised that has the result (`error.result`).
    """
    loaded = program if isinstance(program, Program) else load(program)
    total = total_steps(steps, loaded.meta.get("optimizer"))
    following = Following(progress, callback, every, log, stop_below)
    following.check(loaded.test_u is not None)
    if not (resume or overwrite):
        check_new(checkpoint, log)
    used_seed = int(loaded.meta.get("seed", 0)) if seed is None else seed_of(seed)
    if resume and weights is not None:
        raise UsageError("a resumed run goes on with the weights of its checkpoint", hint="leave out the weights")
    session = open_session(loaded, engine, used_seed, arrays_of(weights), threads)
    history = resume_session(session, checkpoint) if resume else []
    if seed is not None and session.seed != seed:
        raise CheckpointError(
            f"{checkpoint} goes on with the random numbers of seed {session.seed}, not {seed}",
            hint=f"seed {session.seed}, or none",
        )
    watch = watch_program(session, loaded, session.seed) if diagnostics else None
    result = run_session(session, loaded, total, following, checkpoint=checkpoint, history=history, watch=watch)
    return result.unless_failed(checkpoint)


def predict(
    program: Program | str | Path,
    x: np.ndarray,
    *,
    weights: Mapping[str, np.ndarray] | None = None,
    checkpoint: str | Path | None = None,
    engine: str = "jit",
) -> np.ndarray:
    """u at the points x [n, d], from the compiled forward program on the simulator: float32 [n, m].

    The weights are the program's initial ones, `weights`, or those of a training `checkpoint`.

    Each four rows share SMX blocks and their scales: other neighbours change a value in its last bits (1e-5 at 16
    bits), one far outside of the domain changes it more, of which a note on stderr tells. Points that are not finite
    are refused.
    """
    if weights is not None and checkpoint is not None:
        raise UsageError("a checkpoint has weights of its own", hint="give weights or a checkpoint, not both")
    loaded = program if isinstance(program, Program) else load(program)
    points = _points(x, loaded.symbol("x").shape[-1])
    if note := _far_rows(points, loaded.test_x):
        say(f"note: {note}")
    session = open_session(loaded, engine, 0, arrays_of(weights))
    if checkpoint is not None:
        resume_session(session, checkpoint)
    return session.infer(points)


def _points(x: Any, dims: int) -> np.ndarray:
    """float32 [n, dims]. Raises PintacError for anything else, or rows that are not finite."""
    try:
        with np.errstate(over="ignore"):
            points = np.asarray(x, np.float32)
    except (TypeError, ValueError):
        raise PintacError(f"expected points [n, {dims}], got a {type(x).__name__}") from None
    if points.ndim != 2 or points.shape[1] != dims or not len(points):
        raise PintacError(f"expected points [n, {dims}], got the shape {list(points.shape)}")
    wrong = np.flatnonzero(~np.isfinite(points).all(1))
    if len(wrong):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise PintacError(
            f"row {wrong[0] + 1} of {len(points)}{more} is not finite in fp32: {points[wrong[0]].tolist()}",
            hint="leave such rows out: they would change the rows beside them",
        )
    return points


def _far_rows(points: np.ndarray, domain: np.ndarray | None) -> str | None:
    """What is to be said of rows far outside of the domain beside others: block neighbours are read at their scale."""
    sizes = np.abs(points).max(1)
    size = float(np.median(sizes) if domain is None else np.abs(domain).max())
    far = sizes > FAR * size
    starts = np.arange(0, len(points), BLOCK)
    mixed = np.add.reduceat(far, starts)
    mixed = (mixed > 0) & (mixed < np.diff([*starts, len(points)]))
    if not mixed.any():
        return None
    row = int(np.flatnonzero(far & np.repeat(mixed, BLOCK)[: len(far)])[0])
    start = row // BLOCK * BLOCK
    return (
        f"row {row + 1} of {len(points)} is far outside of the domain ({sizes[row]:.3g}, others {size:.3g}): the rows "
        f"that share SMX blocks with it, {start + 1} to {min(len(points), start + BLOCK)}, are rounded at its scale"
        f"{f', and so in {mixed.sum() - 1} more blocks' if mixed.sum() > 1 else ''}; predict such rows apart"
    )


def open_session(
    program: Program, engine: str, seed: int, weights: Mapping[str, np.ndarray] | None, threads: int = 1
) -> Session:
    """A session at step 0, with `weights` in place of the program's."""
    from pintac.runtime.session import Session

    positive(threads, "a positive whole number of threads")
    session = Session(program, engine=engine, seed=seed, threads=threads)
    if weights is not None:
        shapes = {s.name: s.shape for s in program.symbols_of("state")}
        for name, value in to_states(weights, export(program), shapes, constants_of(program.meta)).items():
            session.state.write(name, value)
    return session


def resume_session(session: Session, checkpoint: str | Path | None) -> list[Row]:
    """Go on from a checkpoint; the history until there."""
    if checkpoint is None:
        raise UsageError("which checkpoint shall be resumed?", hint="--checkpoint FILE --resume")
    if not Path(checkpoint).exists():
        raise CheckpointError(f"there is no checkpoint {checkpoint}", hint="run without --resume first")
    return list(session.load_checkpoint(checkpoint))


def run_session(
    session: Session,
    program: Program,
    total: int,
    following: Following,
    *,
    checkpoint: str | Path | None,
    history: list[Row],
    watch: Watch | None = None,
) -> Result:
    """The training loop on a session, with the live error on the first test points, and its result.

    `history` is what a resumed run measured before; the loop adds to it.
    """
    if checkpoint is not None:
        check_writable(str(checkpoint))
    x, u = program.test_x, program.test_u
    names, cost = export(program), step_cost(program)  # before the run, which shall not be lost by what could fail

    def live() -> float:
        assert x is not None and u is not None
        return l2_rel(session.infer(x[:LIVE_POINTS]), u[:LIVE_POINTS])

    def save() -> None:
        assert checkpoint is not None
        session.save_checkpoint(checkpoint, history)

    if watch is not None:
        watch.before_steps(total)
    outcome = drive(
        SessionSteps(session),
        total,
        title=str(program.meta.get("problem", "program")),
        following=following,
        measure=None if x is None or u is None else live,
        macs=session.work().macs,
        save=None if checkpoint is None else save,
        history=history,
        watch=None if watch is None else watch.after_step,
    )
    weights = {**constants_of(program.meta), **to_weights(session.state_arrays(), names)}
    result = _result(session, program, outcome, cost, weights, watch)

    def final() -> Result:
        assert x is not None and u is not None
        return replace(result, l2=l2_rel(session.infer(x), u))

    return result if x is None or u is None else kept(result, "l2 on all test points", final)


class SessionSteps:
    """A session as the training loop sees it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        entries = session.program.meta.get("export") or {}
        self._export = {  # those that a term depends on
            name: entry
            for name, entry in entries.items()
            if name.startswith(PROBLEM_PREFIX) and entry["state"] in session.program.symbols
        }

    @property
    def step_number(self) -> int:
        return self.session.step_number

    def advance(self) -> dict[str, float]:
        self.session.step(1)
        return self.session.metrics()

    def answers(self) -> dict[str, Any]:
        states = {entry["state"]: self.session.state.read(entry["state"]) for entry in self._export.values()}
        return answers(to_weights(states, self._export))


def kept(result: Result, what: str, more: Callable[[], Result]) -> Result:
    """The result of `more`; the one there is, with a note, if that fails: no run is lost by what comes after it."""
    try:
        return more()
    except KeyboardInterrupt:
        failed = replace(result, interrupted=True, notes=(*result.notes, f"{what}: interrupted"))
    except Exception as error:  # noqa: BLE001  whatever it is, hours of training are worth more
        message = str(error) if isinstance(error, PintacError) else f"{type(error).__name__}: {error}"
        failed = replace(result, notes=(*result.notes, f"{what}: {message}"))
    say(f"note: {failed.notes[-1]}")
    return failed


def _result(
    session: Session, program: Program, outcome: Outcome, cost: StepCost, weights: Arrays, watch: Watch | None
) -> Result:
    """What a run leaves, but for its error on all test points."""
    return Result(
        steps=session.step_number,
        seed=session.seed,
        engine=session.engine_name,
        machine=machine_name(program),
        bits=program.meta.get("bits"),
        l2=None,
        l2_float=None,
        cost=cost,
        weights=weights,
        history=tuple(outcome.history),
        sim_seconds_per_step=outcome.seconds_per_step,
        interrupted=outcome.interrupted,
        stopped=outcome.stopped,
        notes=tuple(outcome.notes),
        failed=outcome.failed,
        saturated=session.saturated,
        nonfinite=session.nonfinite,
        program=program,
        diagnostics=None if watch is None else watch.as_json(),
        details=details(program),
    )


def details(program: Program) -> dict[str, Any]:
    """The entries of a result's JSON that describe the program."""
    from pintac.isa import isa_hash

    keys = ("problem", "quant", "scheme", "saved", "rows", "optimizer", "estimator", "terms", "precision")
    return {
        **{key: program.meta[key] for key in keys if key in program.meta},
        "test": measured_at(program.meta, program.test_x),
        "program_bytes": len(program.code),
        "file_bytes": len(program.to_bytes()),
        "isa_hash": isa_hash(),
        "machine_hash": program.meta.get("machine_hash"),
        "program_digest": program.digest,
    }


def export(program: Program) -> Mapping[str, Mapping[str, Any]]:
    """How states lead to the state_dict. Raises ProgramError for a program that does not say (hand-written ones)."""
    if "export" not in program.meta:
        raise ProgramError("the program does not say how its states are named in the network")
    names: Mapping[str, Mapping[str, Any]] = program.meta["export"]
    return names


def machine_name(program: Program) -> str:
    """The name of the machine it was compiled for."""
    machine = program.meta.get("machine") or {}
    return str(machine.get("name", "custom"))


def measured_at(meta: Mapping[str, Any], x: np.ndarray | None) -> dict[str, Any] | None:
    """On how many points the error is measured, and of which term ("": a sampler of the problem's own).

    `inside` is False where every term draws a fixed set or a surface. None for a problem without an exact solution.
    """
    if x is None:
        return None
    terms = meta.get("terms") or [{"name": ""}]
    return {"points": len(x), "term": terms[0]["name"], "inside": True, **(meta.get("test") or {})}
