"""Latency and energy of a step and of a run against automatic differentiation, and the claims that go with them."""

from __future__ import annotations

from pintac.experiments.hardware.experiment import HardwareExperiment

EXPERIMENT = HardwareExperiment()
