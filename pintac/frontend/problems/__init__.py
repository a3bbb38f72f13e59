"""Built-in problems: factories of training steps by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pintac.frontend.problem import TrainStep
from pintac.frontend.problems.poisson2d import poisson2d

BUILTIN: Mapping[str, Callable[..., TrainStep]] = {"poisson2d": poisson2d}
"""Problem name -> factory; its keyword arguments are the options of the command line."""

__all__ = ["BUILTIN", "poisson2d"]


def options_of(name: str) -> dict[str, Any]:
    """The options of a built-in problem with their defaults."""
    import inspect

    return {key: parameter.default for key, parameter in inspect.signature(BUILTIN[name]).parameters.items()}
