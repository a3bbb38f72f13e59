"""First weights, layouts, and the way back to the module's state_dict."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pintac.errors import CheckpointError
from pintac.frontend import TrainStep, TTLinear, as_tensors, discarded, initial_states, load_step
from pintac.frontend.problems import BUILTIN, poisson2d
from pintac.frontend.weights import Layout, evidently_set, initial_weights
from tests.frontend.support import OneTerm, make_step, mlp


def layout_of(net: nn.Module) -> Layout:
    return Layout.of(net, OneTerm(lambda u, x: u(x)))


class Mixed(nn.Module):
    """Shared, frozen, buffered, unusual: every kind of entry of a state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 6)
        self.tt = TTLinear(6, 6, rank=2)
        self.again = self.tt
        self.norm = nn.LayerNorm(6)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("table", torch.arange(4.0))


def test_round_trip_of_a_state_dict() -> None:
    net = Mixed()
    layout = layout_of(net)
    states = layout.from_module()
    assert states["first.weight"].shape == (2, 6) and "again.bias" not in states and "frozen" not in states
    changed = {name: value + 1 for name, value in states.items()}
    target = copy.deepcopy(net)
    target.load_state_dict(layout.tensors(changed))
    torch.testing.assert_close(target.first.weight, net.first.weight + 1)
    torch.testing.assert_close(target.again.cores[1], net.tt.cores[1] + 1)
    torch.testing.assert_close(target.scale, net.scale + 1)
    torch.testing.assert_close(target.frozen, net.frozen)
    torch.testing.assert_close(target.table, net.table)
    back = layout.from_weights(layout.export(changed))
    assert set(back) == set(changed)
    assert all(np.array_equal(back[name], changed[name]) for name in back)


def test_weights_given_are_what_training_starts_from() -> None:
    step = make_step(mlp(2, 4, 1))
    weights = {name: p.detach().numpy() * 2 for name, p in step.net.named_parameters()}
    states = initial_states(step, seed=3, weights=weights)
    np.testing.assert_array_equal(states["0.weight"], weights["0.weight"].T)
    with pytest.raises(CheckpointError, match=r"lack '0\.bias'"):
        initial_states(step, 0, {name: w for name, w in weights.items() if name != "0.bias"})
    with pytest.raises(CheckpointError, match="does not have") as caught:
        initial_states(step, 0, {**weights, "0.biaz": weights["0.bias"]})
    assert "0.bias" in (caught.value.hint or "")
    with pytest.raises(CheckpointError, match="other values of 'table'"):
        layout_of(Mixed()).from_weights({**layout_of(Mixed()).export({}), "table": np.zeros(4, np.float32)})
    with pytest.raises(CheckpointError, match=r"shape \(3, 2\)"):
        initial_states(step, 0, {**weights, "0.weight": np.zeros((3, 2))})


def test_init_module_keeps_the_values_and_xavier_draws_them() -> None:
    net = mlp(2, 4, 1)
    step = make_step(net)
    np.testing.assert_array_equal(initial_states(step, 0)["0.weight"], net[0].weight.detach().numpy().T)
    drawn = TrainStep(net, step.problem, step.optimizer, step.estimator)
    a, b, other = initial_states(drawn, 0), initial_states(drawn, 0), initial_states(drawn, 1)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["0.weight"], other["0.weight"])
    assert not a["0.bias"].any() and not np.array_equal(a["0.weight"], net[0].weight.detach().numpy().T)


def trained(net: nn.Module) -> nn.Module:
    """After a few hundred steps on some function."""
    adam = torch.optim.Adam(net.parameters(), 1e-2)
    x = torch.rand(64, 2)
    for _ in range(300):
        adam.zero_grad()
        ((net(x) - torch.sin(4 * x[:, :1])) ** 2).mean().backward()
        adam.step()
    return net


def fresh(init: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    for layer in net[::2]:
        if init != "torch":
            getattr(nn.init, init)(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


INITIALISATIONS = ("torch", "xavier_normal_", "xavier_uniform_", "kaiming_normal_", "orthogonal_")


@pytest.mark.parametrize("init", INITIALISATIONS)
def test_weights_that_xavier_discards_are_noticed(init: str) -> None:
    """No false alarm on fresh networks, of any usual initialisation; each that was trained is seen."""
    for seed in range(20):
        assert evidently_set(fresh(init, seed)) == []
    net = trained(fresh(init, 0))
    assert evidently_set(net)
    step = make_step(net)
    assert step.init == "module" and discarded(step) is None
    said = discarded(TrainStep(net, step.problem, step.optimizer, step.estimator))
    assert said is not None and "init='module'" in said


def test_deliberate_initialisations_are_noticed() -> None:
    siren = fresh("torch", 0)
    nn.init.uniform_(siren[2].weight, -0.0144, 0.0144)  # sqrt(6 / 32) / 30
    last = fresh("torch", 0)
    nn.init.zeros_(last[2].weight)
    assert evidently_set(siren) == ["2"] and evidently_set(last) == ["2"]
    assert all(not evidently_set(load_step(name).net) for name in BUILTIN)


def test_draws_have_the_variances_of_the_protocol() -> None:
    drawn = initial_weights(nn.Sequential(nn.Linear(200, 300), TTLinear(256, 256, rank=16)), seed=0)
    assert abs(drawn["0.weight"].std() / (2 / 500) ** 0.5 - 1) < 0.02
    expected = (2 / 512 / 16**3) ** (1 / 8)
    for k in range(4):
        assert abs(drawn[f"1.cores.{k}"].std() / expected - 1) < 0.12
    assert abs(drawn["1.cores.1"].std() / expected - 1) < 0.05
    assert all(value.dtype == np.float32 for value in drawn.values())


def test_equal_draws_for_equal_shapes_across_configurations() -> None:
    tt, dense, other_rank = (
        initial_states(poisson2d(width=16, **options), seed=4)  # type: ignore[arg-type]
        for options in ({"rank": 2}, {"scheme": "dense"}, {"rank": 3})
    )
    for name in ("0.weight", "6.weight", "0.bias"):
        np.testing.assert_array_equal(tt[name], dense[name])
        np.testing.assert_array_equal(tt[name], other_rank[name])


def test_parameters_that_the_protocol_does_not_draw_keep_their_values() -> None:
    net = Mixed()
    step = TrainStep(net, OneTerm(lambda u, x: u(x)), make_step(net).optimizer, make_step(net).estimator)
    states = initial_states(step, 7)
    assert states["scale"] == 1.5 and (states["norm.weight"] == 1).all()


def test_as_tensors_owns_its_memory() -> None:
    source = np.ones(3, np.float32)
    tensor = as_tensors({"a": source})["a"]
    source[:] = 5
    assert tensor.tolist() == [1, 1, 1]
