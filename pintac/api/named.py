"""The training step that a caller of `train` or `compile` means."""

from __future__ import annotations

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


def as_step(step: Any, scheme: str, seed: int) -> TrainStep:
    """A TrainStep itself, or the one that a string names: a built-in problem (in this `scheme`) or "my_pde.py:step".

    What a named one draws from torch's and NumPy's global generators while it is made depends on `seed` alone. Raises
    UsageError for anything else, and what `load_step` raises.
    """
    from pintac.frontend import Problem, TrainStep, load_seeded

    if isinstance(step, TrainStep):
        return step
    if isinstance(step, str):
        own = ":" in step or step.endswith(".py")
        return load_seeded(seed, step) if own else load_seeded(seed, step, scheme=scheme)
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
