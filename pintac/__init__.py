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
    from pintac.api import explain as explain
    from pintac.api import load as load
    from pintac.api import predict as predict
    from pintac.api import run as run
    from pintac.api import train as train
    from pintac.errors import CallbackError as CallbackError
    from pintac.errors import PintacError as PintacError
    from pintac.frontend import SGD as SGD
    from pintac.frontend import Adam as Adam
    from pintac.frontend import AdamW as AdamW
    from pintac.frontend import At as At
    from pintac.frontend import Ball as Ball
    from pintac.frontend import Boundary as Boundary
    from pintac.frontend import Estimator as Estimator
    from pintac.frontend import Mixture as Mixture
    from pintac.frontend import OrthonormalDirections as OrthonormalDirections
    from pintac.frontend import Points as Points
    from pintac.frontend import Problem as Problem
    from pintac.frontend import Product as Product
    from pintac.frontend import QuasiRandom as QuasiRandom
    from pintac.frontend import Sampler as Sampler
    from pintac.frontend import SecondDifference as SecondDifference
    from pintac.frontend import Sphere as Sphere
    from pintac.frontend import Stein as Stein
    from pintac.frontend import Term as Term
    from pintac.frontend import TrainStep as TrainStep
    from pintac.frontend import TTLinear as TTLinear
    from pintac.frontend import Uniform as Uniform
    from pintac.frontend import constant as constant
    from pintac.frontend import cosine_decay as cosine_decay
    from pintac.frontend import dt as dt
    from pintac.frontend import exponential_decay as exponential_decay
    from pintac.frontend import grad as grad
    from pintac.frontend import laplacian as laplacian
    from pintac.frontend import linear_decay as linear_decay
    from pintac.frontend import piecewise as piecewise
    from pintac.frontend import warmup as warmup
    from pintac.machine import Machine as Machine
    from pintac.program import Program as Program

__version__ = "0.1.0"

# Public name -> the module it is defined in.
_EXPORTS = {
    "Adam": "pintac.frontend",
    "AdamW": "pintac.frontend",
    "At": "pintac.frontend",
    "Ball": "pintac.frontend",
    "Boundary": "pintac.frontend",
    "CallbackError": "pintac.errors",
    "Estimator": "pintac.frontend",
    "Machine": "pintac.machine",
    "Mixture": "pintac.frontend",
    "OrthonormalDirections": "pintac.frontend",
    "PintacError": "pintac.errors",
    "Points": "pintac.frontend",
    "Problem": "pintac.frontend",
    "Product": "pintac.frontend",
    "Program": "pintac.program",
    "QuasiRandom": "pintac.frontend",
    "Result": "pintac.api",
    "SGD": "pintac.frontend",
    "Sampler": "pintac.frontend",
    "SecondDifference": "pintac.frontend",
    "Sphere": "pintac.frontend",
    "Stein": "pintac.frontend",
    "TTLinear": "pintac.frontend",
    "Term": "pintac.frontend",
    "TrainStep": "pintac.frontend",
    "Uniform": "pintac.frontend",
    "compile": "pintac.api",
    "constant": "pintac.frontend",
    "cosine_decay": "pintac.frontend",
    "dt": "pintac.frontend",
    "explain": "pintac.api",
    "exponential_decay": "pintac.frontend",
    "grad": "pintac.frontend",
    "laplacian": "pintac.frontend",
    "linear_decay": "pintac.frontend",
    "load": "pintac.api",
    "piecewise": "pintac.frontend",
    "predict": "pintac.api",
    "run": "pintac.api",
    "train": "pintac.api",
    "warmup": "pintac.frontend",
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
