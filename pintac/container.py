"""Sealed safetensors files: tensors, one key of sorted JSON, and a digest over every byte of the file.

Programs and checkpoints are such files. The digest is computed with its own 64 digits read as zeros, so any truncation
or alteration is noticed before anything is decoded.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

_NO_DIGEST = "0" * 64
_DIGEST_KEY = "!digest"  # sorts before every key of ours, so its first occurrence is the digest's
_DIGEST_MARK = b'\\"!digest\\": \\"'  # as it stands inside the doubly encoded header


class SealError(Exception):
    """Why a file is not a sealed file of the wanted kind; callers turn it into their own error."""


def seal(key: str, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> tuple[bytes, str]:
    """(bytes, digest) of the file: equal content gives equal bytes."""
    text = json.dumps({**header, _DIGEST_KEY: _NO_DIGEST}, sort_keys=True, allow_nan=False)
    blank = safetensors.numpy.save(dict(tensors), {key: text})
    digest = hashlib.sha256(blank).hexdigest()
    at = _digest_position(blank)
    return blank[:at] + digest.encode() + blank[at + 64 :], digest


def unseal(key: str, raw: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(header, tensors) of a file's bytes. Raises `SealError` unless it is what `seal` wrote with the same key."""
    end = 8 + int.from_bytes(raw[:8], "little")
    if len(raw) < 10 or raw[8:9] != b"{" or json.dumps(key).encode() not in raw[8:end]:
        raise SealError("it is another kind of file")
    at = _digest_position(raw)
    if at < 0:
        raise SealError("it is damaged: its header carries no digest")
    digest = hashlib.sha256(raw[:at] + _NO_DIGEST.encode() + raw[at + 64 :]).hexdigest()
    if raw[at : at + 64] != digest.encode():
        raise SealError("it is damaged (truncated or altered): its digest does not match")
    try:
        header = json.loads(json.loads(raw[8:end])["__metadata__"][key])
        return header, safetensors.numpy.load(raw)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise SealError(f"it is damaged: {error}") from None


def _digest_position(raw: bytes) -> int:
    """Where the 64 digits of the digest stand in the header; -1 if nowhere."""
    end = min(8 + int.from_bytes(raw[:8], "little"), len(raw))
    at = raw.find(_DIGEST_MARK, 8, end)
    return at + len(_DIGEST_MARK) if at >= 0 and at + len(_DIGEST_MARK) + 64 <= end else -1


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all (temporary file beside it, then rename)."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
