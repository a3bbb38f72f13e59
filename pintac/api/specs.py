"""From what is typed on the command line to a TrainStep: a built-in name, or an object in a user's file."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from pintac.errors import ModelError, PintacError, UsageError, suggest

if TYPE_CHECKING:
    from pintac.frontend import TrainStep

DEFAULT_OBJECT = "step"


class Place(NamedTuple):
    """A line of a file."""

    file: str
    line: int


def load_step(spec: str, *, tt_rank: int | None = None) -> TrainStep:
    """The TrainStep that `spec` names: a built-in problem, or `FILE.py:OBJECT` (OBJECT defaults to `step`).

    OBJECT is a TrainStep or a function that returns one; `tt_rank` is handed to a function with a parameter of that
    name. Raises `ModelError` for an unknown name and for a file that fails, `UsageError` for a rank that nothing takes.
    """
    match = re.fullmatch(r"(?P<file>.*\.py)(?::(?P<name>\w+))?", spec)
    if match:
        found = _object(Path(match["file"]), match["name"] or DEFAULT_OBJECT)
    else:
        found = _built_in(spec)
    return _make(found, spec, tt_rank)


def _built_in(name: str) -> Any:
    from pintac.frontend.problems import PROBLEMS

    if name not in PROBLEMS:
        hint = suggest(name, list(PROBLEMS))
        raise ModelError(f"unknown problem {name!r}", hint=f"{hint}; your own: FILE.py:OBJECT")
    return PROBLEMS[name]


def _object(path: Path, name: str) -> Any:
    module = _module(path)
    if not hasattr(module, name):
        from pintac.frontend import TrainStep

        steps = [key for key, value in vars(module).items() if isinstance(value, TrainStep)]
        raise ModelError(f"{path} defines no {name!r}", hint=suggest(name, steps) or "it defines no TrainStep at all")
    return getattr(module, name)


def _module(path: Path) -> ModuleType:
    """Import a file as a script's author would expect: the files beside it can be imported."""
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    module_name = f"pintac_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    try:
        with _user_code(path):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


@contextmanager
def _user_code(path: Path) -> Iterator[None]:
    """Code of the user's file runs inside: what it raises is theirs, and reported at their line."""
    try:
        yield
    except PintacError:
        raise
    except SyntaxError as error:
        place = Place(error.filename or str(path), error.lineno or 1)
        raise ModelError(f"syntax error: {error.msg}", location=place) from error
    except Exception as error:
        raise ModelError(f"{type(error).__name__}: {error}", location=_last_line(error, path)) from error


def _last_line(error: Exception, path: Path) -> Place:
    """The deepest line of the user's file in a traceback."""
    resolved = path.resolve()
    lines = [f.lineno or 1 for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == resolved]
    return Place(str(path), lines[-1] if lines else 1)


def _make(found: Any, spec: str, tt_rank: int | None) -> TrainStep:
    from pintac.frontend import TrainStep

    if isinstance(found, TrainStep):
        if tt_rank is not None:
            raise UsageError(
                f"{spec} is a finished TrainStep; its ranks stand in the file",
                hint="make it a function with a parameter tt_rank that returns the TrainStep",
            )
        return found
    if not callable(found):
        raise ModelError(f"{spec} is a {type(found).__name__}, not a TrainStep or a function that returns one")
    arguments: dict[str, Any] = {}
    if tt_rank is not None:
        if "tt_rank" not in inspect.signature(found).parameters:
            raise UsageError(f"{spec} takes no tt_rank")
        arguments["tt_rank"] = tt_rank
    with _user_code(Path(inspect.getsourcefile(found) or spec)):
        step = found(**arguments)
    if not isinstance(step, TrainStep):
        raise ModelError(f"{spec}() returned a {type(step).__name__}, not a TrainStep")
    return step
