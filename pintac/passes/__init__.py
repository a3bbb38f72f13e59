"""Passes over the graph IR: from the frontend's graph to one that the backend can schedule."""

from pintac.passes.base import Pass
from pintac.passes.manager import Observer, PassManager
from pintac.passes.observers import Dump, NumericCheck, Timing, Verify
from pintac.passes.pipeline import (
    PASSES,
    PipelineOptions,
    default_pipeline,
    make_pass,
    options_of,
    parse_pipeline,
    print_pipeline,
)

__all__ = [
    "PASSES",
    "Dump",
    "NumericCheck",
    "Observer",
    "Pass",
    "PassManager",
    "PipelineOptions",
    "Timing",
    "Verify",
    "default_pipeline",
    "make_pass",
    "options_of",
    "parse_pipeline",
    "print_pipeline",
]
