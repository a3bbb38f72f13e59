"""`pintac.load`, `pintac.run`, `pintac.predict`: what can be done with a program; none of it needs torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pintac.api.loop import History, Outcome, drive
from pintac.api.result import Result
from pintac.api.watching import Watch, watch_program
from pintac.api.weights import to_states, to_weights
from pintac.errors import CheckpointError, PintacError, ProgramError, UsageError
from pintac.program import Program
from pintac.program_file import load as load_program
from pintac.report.step_cost import step_cost

if TYPE_CHECKING:
    from pintac.runtime.session import Session

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
    weights: Mapping[str, np.ndarray] | None = None,
    threads: int = 1,
    diagnostics: bool = True,
) -> Result:
    """Train with a compiled program.

    steps       steps of training in all, a resumed run included (default: the N of the schedule)
    seed        of the random numbers of the steps (default: the one it was compiled with); the initial weights are
                those in the program, or `weights` in the names and layout of the state_dict
    engine      "jit" or "reference": the same bits
    checkpoint  file to write while running; `resume` goes on from it, bit for bit
    threads     of the jit engine: the same bits, sooner where as many processors are free
    diagnostics whether the run is looked at, and what is wrong with it said on stderr (docs/DIAGNOSTICS.md)

    Ctrl-C ends the run after the current step and returns what it has (`result.interrupted`).
    """
    loaded = program if isinstance(program, Program) else load(program)
    used_seed = int(loaded.meta.get("seed", 0)) if seed is None else seed
    if resume and weights is not None:
        raise UsageError("a resumed run goes on with the weights of its checkpoint", hint="leave out the weights")
    session = open_session(loaded, engine, used_seed, weights, threads)
    history = resume_session(session, checkpoint) if resume else []
    if seed is not None and session.seed != seed:
        raise CheckpointError(
            f"{checkpoint} goes on with the random numbers of seed {session.seed}, not {seed}",
            hint=f"seed {session.seed}, or none",
        )
    used_seed = session.seed
    total = total_steps(loaded, steps)
    watch = watch_program(session, loaded, used_seed) if diagnostics else None
    outcome = drive_session(
        session, loaded, total, progress=progress, checkpoint=checkpoint, history=history, watch=watch
    )
    return finish(session, loaded, outcome, engine=engine, seed=used_seed, watch=watch)


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
    """
    if weights is not None and checkpoint is not None:
        raise UsageError("a checkpoint has weights of its own", hint="give weights or a checkpoint, not both")
    loaded = program if isinstance(program, Program) else load(program)
    points = np.asarray(x, np.float32)
    dims = loaded.symbol("x").shape[-1]
    if points.ndim != 2 or points.shape[1] != dims or not len(points):
        raise PintacError(f"expected points [n, {dims}], got the shape {list(points.shape)}")
    session = open_session(loaded, engine, 0, weights)
    if checkpoint is not None:
        resume_session(session, checkpoint)
    return session.infer(points)


def open_session(
    program: Program, engine: str, seed: int, weights: Mapping[str, np.ndarray] | None, threads: int = 1
) -> Session:
    """A session at step 0, with `weights` in place of the program's."""
    from pintac.runtime.session import Session

    session = Session(program, engine=engine, seed=seed, threads=threads)
    if weights is not None:
        shapes = {s.name: s.shape for s in program.symbols_of("state")}
        for name, value in to_states(weights, export(program), shapes).items():
            session.state.write(name, value)
    return session


def resume_session(session: Session, checkpoint: str | Path | None) -> History:
    """Go on from a checkpoint; the history until there."""
    if checkpoint is None:
        raise UsageError("which checkpoint shall be resumed?", hint="--checkpoint FILE --resume")
    if not Path(checkpoint).exists():
        raise CheckpointError(f"there is no checkpoint {checkpoint}", hint="run without --resume first")
    return list(session.load_checkpoint(checkpoint))


def drive_session(
    session: Session,
    program: Program,
    total: int,
    *,
    progress: bool,
    checkpoint: str | Path | None,
    history: History,
    watch: Watch | None = None,
) -> Outcome:
    """The training loop on a session, with the live error on the first test points.

    `history` is what a resumed run measured before; the loop adds to it.
    """
    x, u = program.test_x, program.test_u

    def live() -> float:
        assert x is not None and u is not None
        return l2_rel(session.infer(x[:LIVE_POINTS]), u[:LIVE_POINTS])

    def save() -> None:
        assert checkpoint is not None
        session.save_checkpoint(checkpoint, history)

    return drive(
        SessionSteps(session),
        total,
        title=str(program.meta.get("problem", "program")),
        progress=progress,
        measure=None if x is None or u is None else live,
        macs=session.work().macs,
        save=None if checkpoint is None else save,
        history=history,
        watch=None if watch is None else watch.after_step,
    )


class SessionSteps:
    """A session as the training loop sees it."""

    def __init__(self, session: Any) -> None:
        self.session = session

    @property
    def step_number(self) -> int:
        return int(self.session.step_number)

    def advance(self) -> float | None:
        self.session.step(1)
        loss = self.session.metrics().get("loss")
        return None if loss is None else float(loss)


def finish(
    session: Session, program: Program, outcome: Outcome, *, engine: str, seed: int, watch: Watch | None = None
) -> Result:
    """The result of a run: the error on all test points, cost, trained weights."""
    l2 = None
    if program.test_x is not None and program.test_u is not None:
        l2 = l2_rel(session.infer(program.test_x), program.test_u)
    return Result(
        steps=session.step_number,
        seed=seed,
        engine=engine,
        machine=machine_name(program),
        bits=program.meta.get("bits"),
        l2=l2,
        l2_float=None,
        cost=step_cost(program),
        weights=to_weights(session.state_arrays(), export(program)),
        history=tuple(outcome.history),
        sim_seconds_per_step=outcome.seconds_per_step,
        interrupted=outcome.interrupted,
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


def total_steps(program: Program, steps: int | None) -> int:
    """The steps asked for, or the N of the schedule."""
    if steps is not None:
        return steps
    schedule = (program.meta.get("optimizer") or {}).get("schedule") or {}
    if "steps" not in schedule:
        raise UsageError("how many steps? The schedule of the learning rate has no end", hint="--steps 1000")
    return int(schedule["steps"])


def l2_rel(u_hat: np.ndarray, u: np.ndarray) -> float:
    """|u_hat - u| / |u| in float64; inf for values that are not finite."""
    error = float(np.linalg.norm(u_hat.astype(np.float64) - u) / np.linalg.norm(u.astype(np.float64)))
    return error if math.isfinite(error) else math.inf
