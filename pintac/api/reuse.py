"""Programs of earlier starts: the backend need not schedule again what it has scheduled before.

A program is kept in the user's cache directory under a digest of everything that it is scheduled from: the graphs with
their source lines, stored arrays, parameter table, machine, effort, and the sources of this package. Start values and
the seed that drew them are only carried, so they are put in afterwards: seeds of one configuration share a schedule.
What is found is what the backend would give, bit for bit, and a change of anything else finds nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from pintac.api.emitting import emit
from pintac.api.lowering import Lowered
from pintac.api.sources import sources
from pintac.container import write_atomically
from pintac.errors import ProgramError
from pintac.ir import print_module
from pintac.machine import Machine
from pintac.program import Program
from pintac.program_file import from_bytes
from pintac.runtime.cache import cache_folder

KEPT_BYTES = 256 << 20  # of programs; the least recently used ones go
CARRIED = ("seed",)  # keys of `meta` that no decision depends on


def emit_or_reuse(lowered: Lowered, machine: Machine, effort: float = 1.0) -> Program:
    """`emit`, or its result from an earlier start."""
    folder = cache_folder("programs")
    if folder is None:
        return emit(lowered, machine, effort=effort)
    path = folder / f"{_key(lowered, machine, effort)}.pinta"
    with contextlib.suppress(OSError, ProgramError):  # missing or damaged: made again
        program = from_bytes(path.read_bytes())
        path.touch()
        return _started_from(program, lowered)
    program = emit(lowered, machine, effort=effort)
    with contextlib.suppress(OSError):  # a cache that cannot be written is no error
        write_atomically(path, program.to_bytes())
        _drop_old(folder)
    return program


def _started_from(program: Program, lowered: Lowered) -> Program:
    """The program with the start values and the seed of `lowered`."""
    meta = {**program.meta, **{key: lowered.meta[key] for key in CARRIED}}
    return replace(program, init=dict(lowered.init), meta=meta)


def _drop_old(folder: Path) -> None:
    by_age = sorted(folder.glob("*.pinta"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in by_age:
        total += path.stat().st_size
        if total > KEPT_BYTES:
            path.unlink(missing_ok=True)


def _key(lowered: Lowered, machine: Machine, effort: float = 1.0) -> str:
    digest = hashlib.sha256()

    def add(name: str, content: bytes) -> None:
        digest.update(f"{name} {len(content)}\n".encode() + content)

    add("sources", sources().encode())
    add("machine", machine.to_toml().encode())
    add("effort", repr(float(effort)).encode())
    for name, graph in lowered.graphs.items():
        add(f"graph {name}", print_module({name: graph}).encode())
    add("params", json.dumps(lowered.params).encode())
    meta = {key: value for key, value in lowered.meta.items() if key not in CARRIED}
    add("meta", json.dumps(meta, sort_keys=True).encode())
    add("states", json.dumps({name: value.shape for name, value in lowered.init.items()}).encode())
    arrays = {f"data {name}": value for name, value in lowered.data.items()}
    arrays["param_table"] = lowered.param_table
    if lowered.test is not None:
        arrays |= {"test_x": lowered.test.x, "test_u": np.asarray(lowered.test.u)}
    for name, array in arrays.items():
        add(f"{name} {array.dtype} {array.shape}", np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
