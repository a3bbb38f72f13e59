"""Files of points: `.npy`, and CSV, a point a line, numbers separated by commas.

The first line of CSV may name the columns: a line in which no cell is a number. Everything else is numbers, or an error
with the line, so that no row is lost or read in part.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pintac.errors import PintacError


def read_points(path: Path) -> np.ndarray:
    """The array of a `.npy` file, else float64 [n, d] of CSV. Raises `PintacError`."""
    if path.suffix.lower() == ".npy":
        return _read_npy(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PintacError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PintacError(f"{path} is not a text file in UTF-8") from None
    return parse_csv(text, str(path))


def parse_csv(text: str, name: str) -> np.ndarray:
    """float64 [n, d] of CSV; `name` stands in errors."""
    rows: list[list[float]] = []
    lines = text.removeprefix("\ufeff").splitlines()
    first = next((number for number, line in enumerate(lines, 1) if line.strip()), 0)
    for number, line in enumerate(lines, 1):
        cells = line.split(",")
        if not line.strip() or (number == first and all(map(_names, cells))):
            continue
        row = [_number(cell) for cell in cells]
        if None in row:
            at = row.index(None)
            said = f"{cells[at].strip()!r} is no number" if cells[at].strip() else "is empty"
            raise PintacError(
                f"{name}:{number}: cell {at + 1} {said}",
                hint="plain numbers separated by commas, a point a line; only the first line may be names",
            )
        rows.append([value for value in row if value is not None])
        if len(row) != len(rows[0]):
            raise PintacError(f"{name}:{number}: {len(row)} columns, the first row has {len(rows[0])}")
    return np.array(rows, np.float64).reshape(len(rows), len(rows[0]) if rows else 0)


def _names(cell: str) -> bool:
    """Whether a cell is a name: neither a number, nor one in quotes, nor several that something else separates."""
    parts = cell.strip().strip("\"'").replace(";", " ").split()
    return not parts or any(_number(part) is None for part in parts)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _read_npy(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except OSError as error:
        raise PintacError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise PintacError(f"cannot read {path}: {error}") from None
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        raise PintacError(f"{path}: expected real numbers, got {values.dtype}")
    return np.asarray(values)
