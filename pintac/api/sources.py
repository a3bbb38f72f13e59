"""What this package was when it made something that is kept."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path

DECIDING = ("numpy", "numba", "llvmlite", "networkx")  # packages whose versions decide what the backend does


@lru_cache(maxsize=1)
def sources() -> str:
    """Digest of every source file of the package, and of what else decides what the backend does."""
    versions = [platform.python_version(), *(metadata.version(name) for name in DECIDING)]
    digest = hashlib.sha256(" ".join(versions).encode())
    root = Path(__file__).parents[1]
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.toml")]):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
