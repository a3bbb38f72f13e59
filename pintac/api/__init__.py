"""The public functions: one for each task of the command line."""

from pintac.api.compiling import Compiled, build, compile
from pintac.api.dry_run import dry_run
from pintac.api.explaining import explain
from pintac.api.result import Result
from pintac.api.running import load, predict, run
from pintac.api.training import train

__all__ = ["Compiled", "Result", "build", "compile", "dry_run", "explain", "load", "predict", "run", "train"]
