"""Reading a `.pinta` file (`Program.save` writes it): every failure is one message that names the file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pintac import isa
from pintac.container import SealError, unseal
from pintac.errors import ProgramError
from pintac.json_kinds import KindError, each, having, items, row, text, whole
from pintac.program import FORMAT, MAGIC_KEY, Origin, Program, Symbol
from pintac.program_rules import validated

_WHOLE, _COUNT = whole(), whole(0)
_HEADER = having(
    {
        "entries": each(row(_COUNT, _COUNT)),
        "semaphores": items(row(_COUNT, _COUNT, _COUNT, _COUNT, _COUNT, text)),
        "bytes": row(_WHOLE, _WHOLE, _WHOLE),
        "symbols": each(row(_COUNT, items(_COUNT), text, text, _COUNT)),
        "params": items(text),
        "strings": items(text),
        "meta": having({}),
    }
)


def load(path: str | os.PathLike[str]) -> Program:
    """Read and validate a `.pinta` file. Every failure is a `ProgramError` with one message that names the file."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ProgramError(f"cannot read {path}: {error.strerror}") from None
    return from_bytes(raw, str(path))


def from_bytes(raw: bytes, name: str = "program") -> Program:
    """The validated program of a file's bytes; see `load`."""
    again = "compile it again with this version of pintac"
    try:
        header, tensors = unseal(MAGIC_KEY, raw)
    except SealError as error:
        raise ProgramError(f"{name} is not a usable program: {error}", hint="`pintac compile` writes them") from None
    if header.get("format") != FORMAT:
        raise ProgramError(f"{name} has format {header.get('format')}, this pintac reads {FORMAT}", hint=again)
    if header.get("isa_hash") != isa.isa_hash():
        made_for = header.get("isa_hash")
        raise ProgramError(f"{name} was made for ISA {made_for}, this pintac has {isa.isa_hash()}", hint=again)
    try:
        _HEADER(header, "")
        program = _assemble(header, tensors)
    except KindError as error:
        raise ProgramError(f"{name} is malformed: {error}", hint=again) from None
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ProgramError(f"{name} lacks something: {type(error).__name__}: {error}", hint=again) from None
    return validated(program)


def _assemble(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Program:
    strings = header["strings"]
    dram, sram, psum = header["bytes"]
    debug = tensors["debug"].tolist() if "debug" in tensors else []
    return Program(
        code=tensors["code"].tobytes(),
        entries={entry: (span[0], span[1]) for entry, span in header["entries"].items()},
        dram_bytes=dram,
        sram_bytes=sram,
        psum_bytes=psum,
        semaphores=tuple(
            isa.Semaphore(number, isa.Queue(source), isa.Queue(target), credit, capacity, label)
            for number, source, target, credit, capacity, label in header["semaphores"]
        ),
        symbols={
            symbol: Symbol(symbol, addr, tuple(shape), dtype, kind, eaddr)
            for symbol, (addr, shape, dtype, kind, eaddr) in header["symbols"].items()
        },
        params=tuple(header["params"]),
        param_table=tensors["param_table"],
        init={key[5:]: array for key, array in tensors.items() if key.startswith("init:")},
        data={key[5:]: array for key, array in tensors.items() if key.startswith("data:")},
        test_x=tensors.get("test_x"),
        test_u=tensors.get("test_u"),
        debug=tuple(Origin(strings[op], strings[file], line) for op, file, line in debug),
        meta=header["meta"],
    )
