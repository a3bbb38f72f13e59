"""Weights in files and between names, without torch: the program says how states lead to the module's state_dict."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from pintac.errors import CheckpointError, ProgramError, UsageError, suggest
from pintac.report.files import write_bytes

Arrays = dict[str, np.ndarray]
Export = Mapping[str, Mapping[str, Any]]
"""Name in the state_dict -> {"state": its state, "transposed": whether the state is its transpose}."""

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", **{f"I{8 * n}": f"<i{n}" for n in (1, 2, 4, 8)}}
_TYPES |= {"BOOL": "?", **{f"U{8 * n}": f"<u{n}" for n in (1, 2, 4, 8)}}

PROBLEM_PREFIX = "problem."  # parameters of the problem, which no state_dict of the network has
MOST_ANSWERS = 16  # elements of a parameter that is reported


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


def to_constants(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the state_dict holds and nothing trains (buffers, frozen parameters), as a program keeps it: JSON."""
    return {
        name: {
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "values": base64.b64encode(np.array(array, order="C").tobytes()).decode(),
        }
        for name, array in sorted(arrays.items())
    }


def constants_of(meta: Mapping[str, Any]) -> Arrays:
    """The arrays of `to_constants` that a program carries. Raises `ProgramError` for what is none."""
    try:
        return {
            name: np.frombuffer(base64.b64decode(entry["values"]), np.dtype(entry["dtype"])).reshape(entry["shape"])
            for name, entry in (meta.get("constants") or {}).items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ProgramError(f"the program's constants cannot be read: {error}") from None


def answers(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What an inverse problem is asked for: the problem's own parameters of few elements, as numbers or lists."""
    return {
        name: value.tolist()
        for name, value in sorted(weights.items())
        if name.startswith(PROBLEM_PREFIX) and value.size <= MOST_ANSWERS
    }


def arrays_of(weights: Any) -> Arrays | None:
    """Weights as a caller gives them, tensors or arrays by name, as arrays. Raises UsageError for anything else."""
    if weights is None:
        return None
    if not isinstance(weights, Mapping):
        hint = "safetensors.numpy.load_file(path)" if isinstance(weights, (str, Path)) else "result.weights"
        raise UsageError(f"weights are arrays by name, as in a state_dict, got {weights!r}", hint=hint)
    arrays: Arrays = {}
    for name, value in weights.items():
        try:
            arrays[name] = np.asarray(value.detach() if hasattr(value, "detach") else value)
        except (TypeError, ValueError):
            arrays[name] = np.array(None)
        if arrays[name].dtype.kind not in "fiub":
            raise UsageError(f"the weights hold {name!r} that is no array of numbers: a {type(value).__name__}")
    return arrays


def to_weights(states: Mapping[str, np.ndarray], export: Export) -> Arrays:
    """States in the names and layout of the state_dict."""
    weights: Arrays = {}
    for name, entry in export.items():
        if entry["state"] in states:
            value = states[entry["state"]]
            weights[name] = np.array(value.T if entry["transposed"] else value, order="C")
    return weights


def to_states(
    weights: Mapping[str, np.ndarray],
    export: Export,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, np.ndarray] | None = None,
) -> Arrays:
    """Weights as states. Raises `CheckpointError` for one that is missing, unknown or of another shape.

    `constants` may be among them, with the values that the program was compiled with.
    """
    fixed = constants or {}
    for name, given in weights.items():
        if name in fixed:
            if not np.array_equal(given, fixed[name], equal_nan=fixed[name].dtype.kind == "f"):
                raise CheckpointError(
                    f"the weights hold other values of {name!r}, which is not trained, than the program",
                    hint="compile the network that they belong to",
                )
        elif name not in export:
            raise CheckpointError(
                f"the weights hold {name!r}, which the program lacks", hint=suggest(name, [*export, *fixed])
            )
    states: Arrays = {}
    for name, entry in export.items():
        state = entry["state"]
        if name in weights and state in shapes:  # one that no term depends on is no state of the program
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
