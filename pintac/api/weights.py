"""Weights in files and between names, without torch: the program says how states lead to the module's state_dict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from pintac.errors import CheckpointError, suggest
from pintac.report.files import write_bytes

Arrays = dict[str, np.ndarray]
Export = Mapping[str, Mapping[str, Any]]
"""Name in the state_dict -> {"state": its state, "transposed": whether the state is its transpose}."""

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", **{f"I{8 * n}": f"<i{n}" for n in (1, 2, 4, 8)}}
_TYPES |= {"BOOL": "?", **{f"U{8 * n}": f"<u{n}" for n in (1, 2, 4, 8)}}

PROBLEM_PREFIX = "problem."  # parameters of the problem, which no state_dict of the network has


def load_weights(path: str) -> Arrays:
    """The arrays of a safetensors file; bfloat16 as float32. Raises `CheckpointError`."""
    try:
        entries = safetensors.deserialize(Path(path).read_bytes())
        return {name: _array(entry) for name, entry in entries}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot read weights from {path}: {error}", hint="a safetensors file") from None
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} holds numbers of a type that is not read: {error}", hint="float32") from None


def _array(entry: Mapping[str, Any]) -> np.ndarray:
    if entry["dtype"] == "BF16":  # the upper half of a float32
        halves = np.frombuffer(entry["data"], "<u2").astype(np.uint32) << np.uint32(16)
        return halves.view(np.float32).reshape(entry["shape"])
    return np.frombuffer(entry["data"], _TYPES[entry["dtype"]]).reshape(entry["shape"])


def save_weights(path: str, weights: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file, whole or not at all; names are sorted."""
    arrays = {name: np.array(weights[name], order="C") for name in sorted(weights)}
    write_bytes(path, safetensors.numpy.save(arrays))


def to_weights(states: Mapping[str, np.ndarray], export: Export) -> Arrays:
    """States in the names and layout of the state_dict."""
    weights: Arrays = {}
    for name, entry in export.items():
        if entry["state"] in states:
            value = states[entry["state"]]
            weights[name] = np.array(value.T if entry["transposed"] else value, order="C")
    return weights


def to_states(weights: Mapping[str, np.ndarray], export: Export, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Weights as states. Raises `CheckpointError` for one that is missing, unknown or of another shape."""
    for name in weights:
        if name not in export:
            raise CheckpointError(
                f"the weights hold {name!r}, which the program lacks", hint=suggest(name, list(export))
            )
    states: Arrays = {}
    for name, entry in export.items():
        state = entry["state"]
        if name in weights:
            value = np.asarray(weights[name], np.float32)
            states[state] = np.array(value.T if entry["transposed"] else value, order="C")
            if states[state].shape != shapes[state]:
                raise CheckpointError(
                    f"the weights hold {name!r} with shape {list(value.shape)}, which does not fit the program",
                    hint="the same widths, ranks and scheme as in training?",
                )
    for name, entry in export.items():
        if entry["state"] not in states and entry["state"] in shapes:
            raise CheckpointError(f"the weights lack {name!r}")
    return states
