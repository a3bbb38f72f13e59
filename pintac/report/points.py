"""Points in, values out: `.npy` or CSV."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np

from pintac.errors import PintacError
from pintac.points_file import parse_csv, read_points
from pintac.report.files import STDOUT, write_bytes, write_text


def read(source: str) -> np.ndarray:
    """float32 [n, d] from a `.npy` file, a CSV file or CSV on stdin (`-`). Raises `PintacError`."""
    values = parse_csv(sys.stdin.read(), "<stdin>") if source == STDOUT else read_points(Path(source))
    if values.ndim != 2 or 0 in values.shape:
        raise PintacError(f"{source}: expected points [n, d], got the shape {list(values.shape)}")
    return np.ascontiguousarray(values, np.float32)


def write(target: str | None, values: np.ndarray) -> None:
    """Values [n, m] to a `.npy` file, a CSV file, or as CSV to stdout."""
    if target is not None and target.lower().endswith(".npy"):
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        write_bytes(target, buffer.getvalue())
        return
    lines = [",".join(f"{v:.9g}" for v in row) for row in values]
    write_text(target or STDOUT, "\n".join(lines) + "\n")
