"""The search for orders, compiled: list schedules, what they cost, moves. `order.py` prepares the arrays.

numba keeps machine code under the file of a function and renews it when that file changes, not when one changes whose
functions it calls. So what is kept lies in a folder named after all of these files.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numba

_HERE = Path(__file__).parent
_SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_HERE.glob("*.py")))).hexdigest()[:16]
_before = numba.config.CACHE_DIR
numba.config.CACHE_DIR = str(Path(_before or _HERE / "__pycache__") / f"orders-{_SOURCES}")
try:
    from pintac.backend.ordering.compiled.body import (
        ACC,
        BUSY,
        COLUMNS,
        COMPUTE,
        DEST,
        DRAIN,
        LOAD,
        PASSES,
        PRELOAD,
        QUEUE,
        ROUNDS,
        SKEW,
        STORE,
        TAIL,
        TCU,
        VPU,
        Body,
        Lists,
    )
    from pintac.backend.ordering.compiled.improve import improve
    from pintac.backend.ordering.compiled.search import search
finally:
    numba.config.CACHE_DIR = _before

__all__ = [
    "ACC", "BUSY", "COLUMNS", "COMPUTE", "DEST", "DRAIN", "LOAD", "PASSES", "PRELOAD", "QUEUE", "ROUNDS", "SKEW",
    "STORE", "TAIL", "TCU", "VPU", "Body", "Lists", "improve", "search",
]  # fmt: skip
