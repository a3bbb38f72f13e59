"""Built-in problems: factories of training steps by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pintac.frontend.problem import TrainStep
from pintac.frontend.problems.heat100 import heat100
from pintac.frontend.problems.heat100_wave import heat100_wave
from pintac.frontend.problems.hjb20 import hjb20
from pintac.frontend.problems.hjb20_wave import hjb20_wave
from pintac.frontend.problems.poisson2d import poisson2d

BUILTIN: Mapping[str, Callable[..., TrainStep]] = {
    "poisson2d": poisson2d,
    "hjb20": hjb20,
    "hjb20-wave": hjb20_wave,
    "heat100": heat100,
    "heat100-wave": heat100_wave,
}
"""Problem name -> factory; its keyword arguments are the options of the command line."""

__all__ = ["BUILTIN", "heat100", "heat100_wave", "hjb20", "hjb20_wave", "poisson2d"]


def options_of(name: str) -> dict[str, Any]:
    """The options of a built-in problem with their defaults."""
    import inspect

    return {key: parameter.default for key, parameter in inspect.signature(BUILTIN[name]).parameters.items()}
