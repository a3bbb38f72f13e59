"""The training step that a caller of `train` or `compile` means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pintac.errors import UsageError
from pintac.report.files import say

if TYPE_CHECKING:
    from pintac.frontend import TrainStep

NEEDED = "TrainStep(net, problem, Adam(1e-3), SecondDifference(K=512, sigma=0.01))"


def say_if_discarded(step: TrainStep, weights: object) -> None:
    """A note on stderr if the network holds weights that somebody has set and that are not what a run starts from."""
    from pintac.frontend import discarded

    if weights is None and (note := discarded(step)):
        say(f"note: {note}")


def is_file(spec: str) -> bool:
    """Whether a text names an object in a user's file, not a built-in problem."""
    return ":" in spec or spec.endswith(".py")


def named_step(spec: str, seed: int, scheme: str, settings: Mapping[str, Any]) -> TrainStep:
    """The TrainStep that `spec` names, made with `settings` if it is a built-in problem or a function in a file.

    What it draws from torch's and NumPy's global generators while it is made depends on `seed` alone. A built-in
    problem makes its layers by the `scheme`; one that has no such option is only asked for it if it is not the default.
    Raises UsageError, and what `load_step` raises.
    """
    from pintac.frontend import load_seeded
    from pintac.passes import PipelineOptions

    arguments = dict(settings)
    if not is_file(spec):
        if "scheme" in arguments:
            raise UsageError("the scheme is a flag of its own", hint=f"--scheme {arguments['scheme']}")
        if scheme != PipelineOptions.scheme:
            arguments["scheme"] = scheme
    return load_seeded(seed, spec, **arguments)


def as_step(step: Any, scheme: str, seed: int) -> TrainStep:
    """A TrainStep itself, or the one that a string names: a built-in problem (in this `scheme`) or "my_pde.py:step".

    What a named one draws from torch's and NumPy's global generators while it is made depends on `seed` alone. Raises
    UsageError for anything else, and what `load_step` raises.
    """
    from pintac.frontend import Problem, TrainStep

    if isinstance(step, TrainStep):
        return step
    if isinstance(step, str):
        return named_step(step, seed, scheme, {})
    kind = (
        f"the class {step.__name__}"
        if isinstance(step, type)
        else "a problem alone"
        if isinstance(step, Problem)
        else "a network alone"
        if hasattr(step, "state_dict")
        else f"a {type(step).__name__}"
    )
    raise UsageError(f"what is trained is a TrainStep, got {kind}", hint=f'{NEEDED}; or "poisson2d", "my_pde.py:step"')
