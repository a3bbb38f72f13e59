"""The compiled engine."""

from pintac.runtime.jit.engine import JitEngine

__all__ = ["JitEngine"]
