"""Attributes of ops: canonical form, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from pintac.errors import IRError
from pintac.ir import OPS
from pintac.ir.attrs import Attrs, AttrSpec, normalize_attrs


def normal(op: str, **given: object) -> Attrs:
    return normalize_attrs(op, OPS[op].attrs, given)


def test_defaults_are_filled_in_and_names_are_sorted() -> None:
    attrs = normal("matmul", rhs_role="weight")
    assert list(attrs.items()) == [("lhs_role", ""), ("rhs_role", "weight"), ("transpose_b", False)]
    assert normalize_attrs("tanh", OPS["tanh"].attrs, None) == {}


def test_values_become_plain_python() -> None:
    attrs = normal("const", shape=[np.int64(2)], values=[np.float32(0.5), 1])
    assert attrs == {"shape": (2,), "values": (0.5, 1.0)}
    assert [type(value) for value in (*attrs["shape"], *attrs["values"])] == [int, float, float]  # type: ignore[misc]


def test_a_quiet_attribute_is_left_out_at_its_default() -> None:
    specs = {"block": AttrSpec("str", "4x4", quiet=True)}
    assert normalize_attrs("op", specs, {"block": "4x4"}) == normalize_attrs("op", specs, {}) == {}
    assert normalize_attrs("op", specs, {"block": "8x8"}) == {"block": "8x8"}


def test_any_op_may_carry_an_annotation() -> None:
    attrs = normalize_attrs("tanh", OPS["tanh"].attrs, {"backend.phase": [1, 2]})
    assert attrs == {"backend.phase": (1, 2)}


def test_attributes_are_read_only() -> None:
    with pytest.raises(TypeError):
        normal("sum", axes=(0,))["axes"] = (1,)  # type: ignore[index]


@pytest.mark.parametrize(
    ("op", "given", "message"),
    [
        ("random", {"kind": "gamma", "stream": 1, "term": 0, "shape": (4,)}, "cannot be 'gamma'"),
        ("compare", {"kind": "lte"}, "cannot be 'lte'"),
        ("delta_act", {"fn": "erf"}, "cannot be 'erf'"),
        ("matmul", {"lhs_role": "bias"}, "cannot be 'bias'"),
        ("quantize", {"bits": 7}, "cannot be 7"),
        ("quantize", {"bits": True}, "an integer"),
        ("slice", {"axis": 0, "start": 1}, "needs the attribute 'stop'"),
        ("tanh", {"axis": 0}, "no attribute 'axis'"),
        ("reshape", {"shape": (2.0, 2)}, "a tuple of integers"),
        ("reshape", {"shape": 4}, "a tuple of integers"),
        ("reshape", {"shape": ((2,), (2,))}, "a nested tuple"),
        ("state", {"name": object(), "shape": ()}, "cannot hold"),
    ],
)
def test_what_is_no_value_of_an_attribute_is_refused(op: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(IRError) as caught:
        normalize_attrs(op, OPS[op].attrs, given)
    assert message in caught.value.message


def test_a_name_nearly_right_is_suggested() -> None:
    with pytest.raises(IRError) as caught:
        normal("slice", axes=0, start=0, stop=1)
    assert caught.value.hint and "axis" in caught.value.hint
