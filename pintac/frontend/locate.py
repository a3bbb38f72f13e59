"""Which line of the user's code is running: every op of the IR carries it."""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

import numpy as np
import torch

from pintac.errors import ModelError, PintacError
from pintac.ir import Location


def _folder(path: str | Path) -> str:
    """A folder as the beginning of the files in it: `/a/b/`, which `/a/bc.py` does not begin with."""
    return f"{path}{os.sep}"


_FRONTEND = Path(__file__).parent
_PACKAGE = _FRONTEND.parent
_NUMPY = Path(np.__file__).parent
_LIBRARIES = tuple(
    _folder(path) for path in (Path(torch.__file__).parent, _NUMPY, _NUMPY.parent / "scipy", _PACKAGE)
)
_INTERPRETER = _folder(sysconfig.get_paths()["stdlib"])
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
# Built-in problems are written exactly as a user would write them: their lines are user lines.
_PROBLEMS = _folder(_FRONTEND / "problems")


def is_user_file(file: str) -> bool:
    """True for code that is neither torch's, NumPy's, SciPy's, nor the interpreter's own, nor pintac's machinery."""
    if file.startswith(_PROBLEMS):
        return True
    if file.startswith(("<frozen ", *_LIBRARIES)):
        return False
    return not file.startswith(_INTERPRETER) or any(folder in file for folder in _INSTALLED)


def display_path(file: str) -> str:
    """`file` relative to the package or working directory that it lies in, so that dumps compare across machines."""
    path = Path(file)
    for root in (_PACKAGE.parent if file.startswith(_folder(_PACKAGE)) else None, Path.cwd()):
        if root is not None and path.is_absolute() and path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return file


def location_of(file: str, line: int) -> Location:
    """The location of a line of `file`, with its text when the source can be read."""
    return Location(display_path(file), line, text=linecache.getline(file, line).strip())


# Tracing starts in these functions: who called them is not what the user's model says.
_TRACE_ENTRIES = ("trace_step", "trace_infer")


def user_location(fallback: Location | None = None) -> Location:
    """The innermost running line of user code; `fallback` (default: a synthetic location) when there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in _TRACE_ENTRIES and frame.f_code.co_filename == str(_FRONTEND / "tracing.py"):
            break
        generated = frame.f_code.co_filename == "<string>" and frame.f_code.co_name == "__init__"  # of a dataclass
        if not generated and is_user_file(frame.f_code.co_filename):
            return location_of(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return fallback or Location.synthetic("pintac")


def traceback_location(trace: TracebackType | None, fallback: Location) -> Location:
    """The innermost user line of an exception's traceback, else `fallback`."""
    found = fallback
    while trace is not None:
        if is_user_file(trace.tb_frame.f_code.co_filename):
            found = location_of(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return found


def is_own_fault(error: Exception) -> bool:
    """Whether an exception is a mistake of pintac's and not of the code that it runs.

    Errors of torch come up through the recorder as well: those say what the user did.
    """
    if not isinstance(error, (NameError, AttributeError, AssertionError, KeyError)):
        return False
    file = traceback.extract_tb(error.__traceback__)[-1].filename
    return file.startswith(_folder(_FRONTEND)) and not is_user_file(file)


def function_location(function: object) -> Location:
    """Where a function or method was defined; synthetic for things without source."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return (
        location_of(code.co_filename, code.co_firstlineno)
        if code is not None
        else Location.synthetic(type(function).__name__)
    )


@contextmanager
def user_code(fallback: Location, hint: str | None = None) -> Iterator[None]:
    """Whatever the user's code inside raises becomes a ModelError at its line, the original as the cause.

    `fallback` is the place of an exception without a line of the user's, `hint` what to do about one of torch's.
    """
    try:
        yield
    except PintacError:
        raise
    except SyntaxError as error:
        place = Location(error.filename or fallback.file, error.lineno or 0)
        raise ModelError(f"SyntaxError: {error.msg}", location=place) from error
    except Exception as error:
        location = traceback_location(error.__traceback__, fallback)
        advice = hint if isinstance(error, (RuntimeError, TypeError)) else None
        raise ModelError(f"{type(error).__name__}: {error}", location=location, hint=advice) from error
