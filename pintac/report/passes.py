"""What `--list-passes` prints."""

from __future__ import annotations

import inspect
import typing

from pintac.passes import PASSES
from pintac.passes.pipeline import option_fields


def list_passes() -> str:
    """Every pass in the order of the default pipeline: what it is for, its options, their defaults."""
    lines = []
    for name, pass_type in PASSES.items():
        module = inspect.getmodule(pass_type)
        about = ((module.__doc__ if module else None) or "").splitlines()[0].removeprefix(f"{name}: ")
        lines.append(f"{name}")
        lines.append(f"    {about}")
        types = typing.get_type_hints(pass_type)
        for option in option_fields(pass_type):
            choices = typing.get_args(types[option.name])
            values = "|".join(map(str, choices)) if choices else types[option.name].__name__
            lines.append(f"    {option.name}={values} (default {option.default})")
    return "\n".join(lines) + "\n"
