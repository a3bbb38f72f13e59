"""Training on the IR evaluator: the step before there is a machine, and what the engines must equal bit for bit."""

from __future__ import annotations

import numpy as np

from pintac.api.lowering import Lowered
from pintac.ir.evaluate import Evaluator

STATE, METRIC = "state:", "metric:"


class EvaluatorSession:
    """Runs the graphs of a lowered step. Slow (NumPy, one op at a time), exact in `smx` mode.

    It has the methods of `runtime.Session` that a training loop uses, and no time or energy.
    """

    def __init__(self, lowered: Lowered, seed: int = 0, mode: str = "smx") -> None:
        self.lowered = lowered
        self.seed = seed
        self.mode = mode
        self.step_number = 0
        self._states = {name: np.array(value) for name, value in lowered.init.items()}
        self._metrics: dict[str, float] = {}

    def step(self, n: int = 1) -> None:
        """Run `n` training steps."""
        graph = self.lowered.graphs["step"]
        for _ in range(n):
            table = self.lowered.param_table
            row = table[min(self.step_number, len(table) - 1)].view(np.float32)
            params: dict[str, float] = dict(zip(self.lowered.params, map(float, row), strict=True))
            params |= {"seed": self.seed, "step": self.step_number}
            results = Evaluator(self.mode, params).run(graph, {**self._states, **self.lowered.data})
            for key, value in results.items():
                if key.startswith(STATE):
                    self._states[key.removeprefix(STATE)] = value
                elif key.startswith(METRIC):
                    self._metrics[key.removeprefix(METRIC)] = float(value)
            self.step_number += 1

    def infer(self, x: np.ndarray) -> np.ndarray:
        """u at points x [n, d]: fp32 [n, m], in batches of the graph's rows, the last one filled up."""
        graph = self.lowered.graphs["infer"]
        (source,) = graph.of("input")
        rows = source.shape[0]
        parts = []
        for start in range(0, len(x), rows):
            batch = x[start : start + rows].astype(np.float32)
            padded = np.concatenate([batch, np.repeat(batch[-1:], rows - len(batch), axis=0)])
            feeds = {**self._states, **self.lowered.data, str(source.attrs["name"]): padded}
            parts.append(Evaluator(self.mode, {}).run(graph, feeds)["u"][: len(batch)])
        return np.concatenate(parts)

    def metrics(self) -> dict[str, float]:
        """`loss` and `loss:<term>` of the last step."""
        return dict(self._metrics)

    def snapshot(self) -> tuple[int, dict[str, np.ndarray], dict[str, float]]:
        """What `restore` needs to go on from here bit for bit."""
        return self.step_number, dict(self._states), dict(self._metrics)

    def restore(self, snapshot: tuple[int, dict[str, np.ndarray], dict[str, float]]) -> None:
        """Go back, or on, to a snapshot of this session."""
        self.step_number, states, metrics = snapshot
        self._states, self._metrics = dict(states), dict(metrics)

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Every state by name."""
        return {name: value.copy() for name, value in self._states.items()}
