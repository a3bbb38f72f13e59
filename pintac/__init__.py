"""pintac: compile a PINN training step to a PINTA program and run it on an instruction-level simulator.

Names are loaded on first use: `import pintac` costs nothing, and a program runs (`pintac.load`, `pintac.run`)
without torch ever being imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pintac.api import Result as Result
    from pintac.api import compile as compile
    from pintac.api import load as load
    from pintac.api import predict as predict
    from pintac.api import run as run
    from pintac.api import train as train
    from pintac.errors import PintacError as PintacError
    from pintac.machine import Machine as Machine
    from pintac.program import Program as Program

__version__ = "0.1.0"

# Public name -> the module it is defined in.
_EXPORTS = {
    "Machine": "pintac.machine",
    "PintacError": "pintac.errors",
    "Program": "pintac.program",
    "Result": "pintac.api",
    "compile": "pintac.api",
    "load": "pintac.api",
    "predict": "pintac.api",
    "run": "pintac.api",
    "train": "pintac.api",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'pintac' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
