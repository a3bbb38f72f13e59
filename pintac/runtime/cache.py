"""The folders in the user's cache directory where machine code and programs wait for the next start."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache() -> Path:
    """The directory for caches of this platform, whether it exists or not. Raises `RuntimeError` without a home."""
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    return Path.home() / ".cache"


def cache_folder(*names: str) -> Path | None:
    """A folder of ours in it, made if need be; None where it cannot be written."""
    try:
        path = user_cache().joinpath("pintac", *names)
        path.mkdir(parents=True, exist_ok=True)
        return path if os.access(path, os.W_OK) else None
    except (OSError, RuntimeError):
        return None
