"""What this package was when it made something that is kept."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from pathlib import Path

import numpy as np


@lru_cache(maxsize=1)
def sources() -> str:
    """Digest of every source file of the package, and of what else decides what the backend does."""
    digest = hashlib.sha256(f"{platform.python_version()} {np.__version__}".encode())
    root = Path(__file__).parents[1]
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.toml")]):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
