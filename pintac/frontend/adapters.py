"""Finding the training step that a command names: a built-in problem or `file.py:object`."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from pintac.errors import ModelError, PintacError, UsageError, suggest
from pintac.frontend.locate import function_location, user_code
from pintac.frontend.problem import Problem, TrainStep
from pintac.frontend.problems import BUILTIN, options_of
from pintac.ir import Location


def load_step(target: str, **options: object) -> TrainStep:
    """The training step that `target` names.

    `poisson2d` is built in and takes `options` (such as rank, width, K). `my_pde.py:step` is an object of a file: a
    TrainStep, or a function that returns one; its parameters are its options (`rank` may also be called `tt_rank`).
    Raises ModelError for what cannot be found or is no TrainStep, UsageError for options that do not apply.
    """
    file, separator, name = target.rpartition(":")
    if not separator and not target.endswith(".py"):
        return builtin_step(target, **options)
    if not separator:
        return _from_file(Path(target), None, options)
    return _from_file(Path(file), name, options)


def load_seeded(seed: int, target: str, **options: object) -> TrainStep:
    """As `load_step`, and its terms: what they draw from torch's and NumPy's global generators depends on `seed` alone.

    The generators are left as they were.
    """
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            step = load_step(target, **options)
            step.terms()  # data may be drawn there
        finally:
            np.random.set_state(state)
    return step


def builtin_step(name: str, **options: object) -> TrainStep:
    """A built-in problem by name, with the keyword arguments of its factory."""
    if name not in BUILTIN:
        raise ModelError(
            f"unknown problem {name!r}", hint=(suggest(name, sorted(BUILTIN)) or "") + "; your own: file.py:step"
        )
    defaults = options_of(name)
    for key, value in options.items():
        if key not in defaults:
            raise UsageError(f"{name} has no option {key!r}", hint=suggest(key, sorted(defaults)))
        kinds = (int, float) if isinstance(defaults[key], float) else type(defaults[key])
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise UsageError(f"{name}: the option {key} cannot be {value!r}", hint=f"the default is {defaults[key]!r}")
    return BUILTIN[name](**options)


def _from_file(path: Path, name: str | None, options: Mapping[str, object]) -> TrainStep:
    module = load_module(path)
    if name is not None and inspect.isfunction(vars(module).get(name)):
        return _call_factory(path, name, vars(module)[name], options)
    if options:
        given = ", ".join(f"{key} (--tt-rank)" if key == "rank" else key for key in sorted(options))
        raise UsageError(
            f"the option {given}: only for built-in problems and functions",
            hint=f"{path} says itself what it trains: set these where the TrainStep is made, or name a function",
        )
    place = Location(str(path), 1)
    steps = sorted(key for key, value in vars(module).items() if isinstance(value, TrainStep))
    if name is None:
        if len(steps) == 1:
            return vars(module)[steps[0]]
        found = "defines no TrainStep" if not steps else f"defines several: {', '.join(steps)}"
        raise ModelError(f"which object? {path} {found}", hint=f"{path}:{steps[0] if steps else 'step'}")
    if name not in vars(module):
        names = [key for key in vars(module) if not key.startswith("_")]
        listed = f"its training steps: {', '.join(steps)}" if steps else suggest(name, names)
        raise ModelError(f"{path} has no {name!r}", location=place, hint=listed)
    value = vars(module)[name]
    if isinstance(value, TrainStep):
        return value
    needed = "step = TrainStep(net, problem, Adam(1e-3), SecondDifference(K=512, sigma=0.01))"
    if isinstance(value, (tuple, list)) and any(isinstance(part, torch.nn.Module) for part in value):
        raise ModelError(
            f"{path}:{name} is a {type(value).__name__} with a network: a step also needs an "
            "optimizer and an estimator",
            location=place,
            hint=needed,
        )
    kind = (
        "a network"
        if isinstance(value, torch.nn.Module)
        else "a problem"
        if isinstance(value, Problem)
        else f"a {type(value).__name__}"
    )
    raise ModelError(f"{path}:{name} is {kind}, not a TrainStep", location=place, hint=needed)


def _call_factory(path: Path, name: str, function: Callable[..., object], options: Mapping[str, object]) -> TrainStep:
    parameters = inspect.signature(function).parameters
    arguments = {
        "tt_rank" if key == "rank" and "rank" not in parameters else key: value for key, value in options.items()
    }
    for key in arguments:
        if key not in parameters:
            raise UsageError(f"{path}:{name} has no parameter {key!r}", hint=suggest(key, sorted(parameters)))
    required = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    missing = sorted(set(required) - set(arguments))
    if missing:
        raise ModelError(
            f"{path}:{name} needs the arguments {', '.join(missing)}",
            location=function_location(function),
            hint=f"give them defaults, or call it in the file: step = {name}(...)",
        )
    with user_code(Location(str(path), 1)):
        value = function(**arguments)
    if not isinstance(value, TrainStep):
        raise ModelError(
            f"{path}:{name}() returns a {type(value).__name__}, not a TrainStep", location=function_location(function)
        )
    return value


def load_module(path: Path) -> ModuleType:
    """Runs a user's file as a module of its own name, not as `__main__`. Raises ModelError with the failing line."""
    if not path.is_file():
        raise ModelError(f"no such file: {path}", hint="file.py:object")
    if path.suffix != ".py":
        raise ModelError(f"{path} is not a Python file", hint="file.py:object")
    full = path.resolve()
    name = f"pintac_user_{full.stem}_{hashlib.sha256(str(full).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, full)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the file look their module up there
    sys.path.insert(0, str(full.parent))  # the file may import its neighbours, as when it is run
    try:
        with user_code(Location(str(path), 1)):
            spec.loader.exec_module(module)
    except PintacError:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(full.parent))
    return module
