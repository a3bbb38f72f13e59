"""Running programs: machine state, engines, sessions. Needs neither the compiler nor torch."""

from pintac.runtime.engine import ENGINES, Engine, make_engine
from pintac.runtime.session import Session
from pintac.runtime.state import MachineState
from pintac.runtime.work import Work, count_work

__all__ = [
    "ENGINES",
    "Engine",
    "MachineState",
    "Session",
    "Work",
    "count_work",
    "make_engine",
]
