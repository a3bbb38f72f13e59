"""What a training run gives back, and its JSON."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pintac.api.weights import PROBLEM_PREFIX, answers, save_weights
from pintac.errors import CallbackError, PintacError
from pintac.report.files import write_text
from pintac.report.step_cost import StepCost, stats_json
from pintac.runtime.history import Row, finite

if TYPE_CHECKING:
    from pintac.program import Program


class Line(NamedTuple):
    """A line of the user's code."""

    file: str
    line: int


def _line_of(error: BaseException) -> Line | None:
    """Where it was raised, as far down as the file of the callback goes."""
    ours = str(Path(__file__).parent)
    trace = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    own = [frame for frame in trace if frame.filename == trace[0].filename]
    return Line(own[-1].filename, own[-1].lineno or 0) if own else None


NO_COST: dict[str, None] = dict.fromkeys(StepCost.__dataclass_fields__)


@dataclass(frozen=True)
class Result:
    """A finished (or interrupted) training run.

    l2              |u_hat - u| / |u| on the test points, u_hat from the compiled forward program on the simulator
                    (quant="none": from torch in fp32); None for a problem without `exact`
    l2_float        the same with the fp32 masters through torch; None if that was not computed
    l2_twin         the error of the float twin, if it was asked for
    steps           steps done, those before a resume included
    cost            modelled cost of a step; None for quant="none", which runs no program
    weights         trained masters by the names of the module's state_dict
    saturated       whether a block ever exceeded the largest SMX exponent, `nonfinite` whether one ever held an
                    infinity or a NaN; None where no machine ran
    diagnostics     what was found to be wrong (docs/DIAGNOSTICS.md); None if nobody looked
    history         rows of (step, loss, l2, values), 50 of them or every so many steps: the l2 is that on the first
                    1,024 test points, `values` has the weighted loss of each term (`loss:<term>`) and, by name, the
                    problem's parameters of up to 16 elements
    interrupted     whether Ctrl-C ended it, or its float twin
    stopped         why it ended before its last step otherwise: the callback, `stop_below`, or weights that are no
                    numbers any more
    notes           what failed beside the training, which has cost no more than what they say
    failed          what the callback raised, which ended it; never set in what `train` and `run` return, they raise it
    """

    steps: int
    seed: int
    engine: str
    machine: str | None
    bits: str | None
    l2: float | None
    l2_float: float | None
    cost: StepCost | None
    weights: Mapping[str, np.ndarray] = field(repr=False)
    l2_twin: float | None = None
    history: tuple[Row, ...] = field(default=(), repr=False)
    sim_seconds_per_step: float | None = None
    compile_seconds: float | None = None
    interrupted: bool = False
    stopped: str | None = None
    notes: tuple[str, ...] = ()
    saturated: bool | None = None
    nonfinite: bool | None = None
    diagnostics: tuple[Mapping[str, Any], ...] | None = None
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)
    program: Program | None = field(default=None, repr=False)
    failed: BaseException | None = field(default=None, repr=False)

    def unless_failed(self, checkpoint: str | Path | None = None) -> Result:
        """This result. Raises CallbackError, this result in it, if the callback ended the run by an exception."""
        if self.failed is None:
            return self
        if not isinstance(self.failed, Exception):  # SystemExit and the like are meant for others
            raise self.failed
        what = f"{type(self.failed).__name__}: {self.failed}" if str(self.failed) else type(self.failed).__name__
        hint = "the exception's `result` has the weights of these steps"
        raise CallbackError(
            f"the callback raised {what}, which ended the run after step {self.steps}",
            replace(self, failed=None),
            location=_line_of(self.failed),
            hint=hint if checkpoint is None else f"{hint}; or go on: checkpoint={str(checkpoint)!r}, resume=True",
        ) from self.failed

    @property
    def cycles(self) -> int | None:
        """Modelled cycles of the whole run."""
        return None if self.cost is None else self.cost.cycles_per_step * self.steps

    @property
    def energy(self) -> float | None:
        """Modelled joules of the whole run."""
        return None if self.cost is None else self.cost.energy_j_per_step * self.steps

    @property
    def parameters(self) -> dict[str, Any]:
        """What an inverse problem has found: `problem.NAME` -> a number or a list, those of up to 16 elements."""
        return answers(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """The trained masters as torch tensors: `net.load_state_dict(result.state_dict())`."""
        from pintac.frontend import as_tensors

        return as_tensors({name: value for name, value in self.weights.items() if not name.startswith(PROBLEM_PREFIX)})

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `pintac train`: a key that does not apply is null."""
        cost = NO_COST if self.cost is None else vars(self.cost)
        return {
            "l2_rel": self.l2,
            "l2_rel_float": self.l2_float,
            "l2_rel_twin": self.l2_twin,
            "steps": self.steps,
            "seed": self.seed,
            "bits": self.bits,
            **cost,
            "sim_seconds_per_step": self.sim_seconds_per_step,
            "compile_seconds": self.compile_seconds,
            "derivatives": "estimator",
            "program_bytes": None,
            "isa_hash": None,
            "engine": self.engine,
            "machine": self.machine,
            "interrupted": self.interrupted,
            "stopped": self.stopped,
            "notes": list(self.notes),
            "parameters": self.parameters,
            "saturated": self.saturated,
            "nonfinite": self.nonfinite,
            "diagnostics": None if self.diagnostics is None else [dict(found) for found in self.diagnostics],
            "history": [list(row) for row in self.history],
            **self.details,
        }

    def to_json(self) -> str:
        """`as_dict` as sorted JSON; numbers that are not finite (a run that diverged) are null."""
        return json.dumps(finite(self.as_dict()), indent=2, sort_keys=True, allow_nan=False) + "\n"

    def save_weights(self, path: str) -> None:
        """Write the trained masters as safetensors, in the names and layout of the state_dict."""
        save_weights(path, self.weights)

    def save_program(self, path: str) -> None:
        """Write the program that ran. Raises PintacError without one."""
        self._program("a file").save(path)

    def save_stats(self, path: str) -> None:
        """Write timing, energy and stalls of one step as JSON. Raises PintacError without a program."""
        write_text(path, stats_json(self._program("statistics")))

    def save_trace(self, path: str) -> None:
        """Write a Perfetto trace of one step. Raises PintacError without a program."""
        from pintac.report.perfetto import trace_json

        write_text(path, trace_json(self._program("a trace")))

    def _program(self, what: str) -> Program:
        if self.program is None:
            raise PintacError(f"this run executed no program, so there is nothing to make {what} of")
        return self.program
