"""Points in, values out: `.npy` or CSV."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from pintac.errors import PintacError
from pintac.report.files import STDOUT, read_text, write_bytes, write_text


def read(source: str) -> np.ndarray:
    """float32 [n, d] from a `.npy` file, a CSV file or CSV on stdin (`-`). Raises `PintacError`."""
    if source.endswith(".npy"):
        values = _read_npy(source)
    else:
        values = _read_csv(*read_text(source))
    if values.ndim != 2 or 0 in values.shape:
        raise PintacError(f"{source}: expected points [n, d], got the shape {list(values.shape)}")
    return np.ascontiguousarray(values, np.float32)


def write(target: str | None, values: np.ndarray) -> None:
    """Values [n, m] to a `.npy` file, a CSV file, or as CSV to stdout."""
    if target is not None and target.endswith(".npy"):
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        write_bytes(target, buffer.getvalue())
        return
    lines = [",".join(f"{v:.9g}" for v in row) for row in values]
    write_text(target or STDOUT, "\n".join(lines) + "\n")


def _read_npy(source: str) -> np.ndarray:
    try:
        values = np.load(Path(source), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise PintacError(f"cannot read {source}: {error}") from None
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise PintacError(f"{source}: expected real numbers, got {values.dtype}")
    return np.asarray(values)


def _read_csv(text: str, name: str) -> np.ndarray:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append([float(cell) for cell in line.split(",")])
        except ValueError:
            raise PintacError(f"{name}:{number}: expected numbers separated by commas, got {line!r}") from None
        if len(rows[-1]) != len(rows[0]):
            raise PintacError(f"{name}:{number}: {len(rows[-1])} columns, the first row has {len(rows[0])}")
    return np.array(rows, np.float64).reshape(len(rows), len(rows[0]) if rows else 0)
