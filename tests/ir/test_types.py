"""Types: text, sizes, and what is no type."""

from __future__ import annotations

import pytest

from pintac.errors import IRError
from pintac.ir import TensorType, f32, parse_type


def test_types_print_and_parse() -> None:
    for text in ("f32[]", "f32[100,2,256,256]", "smx8[256,16]", "i32[7]", "smx12[1,1]"):
        assert str(parse_type(text)) == text
    assert parse_type(" f32 [ 3 , 4 ]") == f32(3, 4)
    assert (f32(2, 3).rank, f32(2, 3).size, f32().size, f32(2, 3).is_smx) == (2, 6, 1, False)
    quantised = TensorType("smx12", (7, 5, 3))
    assert (quantised.padded_shape, quantised.bits, quantised.size) == ((7, 8, 4), 12, 105)
    assert f32(5, 3).padded_shape == (5, 3)


@pytest.mark.parametrize("text", ["f32", "f32[", "f32[-1]", "f32[1,]]", "smx8[3]", "smx9[4,4]", "f16[2]", "f32[a]", ""])
def test_what_is_not_a_type_is_refused(text: str) -> None:
    with pytest.raises(IRError):
        parse_type(text)
