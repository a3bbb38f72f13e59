"""What a program says about itself: which keys of `meta` mean what, checked where programs are made from files.

Every key may be absent (a program written by hand), others may be there. What is there is of the kind that readers rely
on: they need not ask again.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from typing import Any

from pintac.errors import PintacError, ProgramError
from pintac.json_kinds import KindError, each, flag, having, items, maybe, number, text, whole
from pintac.machine import Machine

_COUNT = whole(0)
_ANY = having({})


def _probe(value: Any, place: str) -> None:
    """A graph as compressed text; whether it is one is found when it is read."""
    text(value, place)
    try:
        zlib.decompress(base64.b64decode(value, validate=True)).decode()
    except (binascii.Error, zlib.error, ValueError):
        raise KindError(f"{place} is no compressed text") from None


def _precision(value: Any, place: str) -> None:
    """The errors of chosen bits: both kinds predicted, and all of those observed."""
    having(
        {"budget": number, "bits": each(whole(1, 32)), "predicted": each(number), "observed": each(number)}
    )(value, place)  # fmt: skip
    for kind in ("predicted", "observed"):
        gradients = [key.endswith("/gradient") for key in value[kind]]
        if all(gradients) or not any(gradients):
            raise KindError(f"{place}.{kind} needs errors of residuals and of gradients")
    if missing := sorted(set(value["predicted"]) - set(value["observed"])):
        raise KindError(f"{place}.observed lacks {missing[0]!r}")


_META = having(
    {},
    problem=text,
    quant=text,
    scheme=text,
    saved=text,
    block=text,
    rows=text,
    passes=text,
    machine=maybe(_ANY),
    machine_hash=text,
    seed=whole(0, 2**32 - 1),
    optimizer=maybe(having({}, kind=text, schedule=maybe(having({}, kind=text, steps=_COUNT)))),
    estimator=maybe(having({}, kind=text, K=whole(1), sigma=maybe(number))),
    terms=maybe(items(having({"name": text}))),
    test=maybe(having({}, term=text, inside=flag)),
    export=each(having({"state": text, "transposed": flag})),
    constants=maybe(each(having({"dtype": text, "shape": items(_COUNT), "values": text}))),
    purposes=each(each(each(items(text)))),
    probe=_probe,
    precision=maybe(_precision),
    backend=each(
        having(
            {},
            bound=having(
                {"cycles": number},
                limit=text,
                crossing=items(_ANY),
                tcu=number,
                vpu=number,
                dram=number,
                products=number,
                results=number,
            ),
            predicted_cycles=number,
            sram_bytes=_COUNT,
            in_dram=items(text),
        )
    ),
)


def check_meta(meta: Any) -> None:
    """Raise `ProgramError` for a value of another kind than its readers take it for, or a machine that cannot be."""
    try:
        _META(meta, "")
        json.dumps(meta, allow_nan=False, ensure_ascii=False).encode()
    except KindError as error:
        raise ProgramError(f"the program's description of itself (meta): {error}") from None
    except (TypeError, ValueError) as error:
        raise ProgramError(f"the program's description of itself (meta) is not JSON: {error}") from None
    described: Mapping[str, Any] | None = meta.get("machine")
    if described:
        try:
            Machine.from_dict(described, "the program's machine")
        except PintacError as error:
            raise ProgramError(f"the program's machine: {error.message}", hint=error.hint) from None
