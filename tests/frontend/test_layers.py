"""TTLinear: factorisations, ranks, equality with its dense form and with the IR."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from pintac.errors import ModelError
from pintac.frontend.layers import TTLinear, balanced_factors, largest_ranks, to_dense
from tests.frontend.support import ir_of_net, points, torch_of_net

LAYERS = {
    "default": lambda: TTLinear(16, 24, rank=4),
    "rank 1": lambda: TTLinear(12, 12, rank=1),
    "rank 3, no bias": lambda: TTLinear(12, 20, rank=3, bias=False),
    "clipped": lambda: TTLinear(4, 4, rank=1000),
    "three and one factors": lambda: TTLinear(12, 6, rank=5, in_factors=(2, 3, 2), out_factors=(6,)),
    "rank for each bond": lambda: TTLinear(12, 12, ranks=(2, 5, 3), in_factors=(4, 3), out_factors=(3, 4)),
    "one factor each": lambda: TTLinear(7, 5, rank=3, in_factors=(7,), out_factors=(5,)),
    "prime": lambda: TTLinear(13, 7, rank=4),
    "one feature": lambda: TTLinear(1, 9, rank=2),
}


def brute_force_weight(layer: TTLinear) -> np.ndarray:
    """W[n, m] summed over all bond indices, element by element: the definition."""
    cores = [core.detach().double().numpy() for core in layer.cores]
    factors = layer.in_factors + layer.out_factors
    weight = np.zeros(factors)
    for index in itertools.product(*(range(size) for size in factors)):
        product = np.eye(1)
        for core, i in zip(cores, index, strict=True):
            product = product @ core[:, i, :]
        weight[index] = product[0, 0]
    return weight.reshape(layer.in_features, layer.out_features)


@pytest.mark.parametrize("name", LAYERS)
def test_definition_dense_form_and_ir_agree(name: str) -> None:
    layer = LAYERS[name]()
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    x = points(5, layer.in_features)
    expected = x @ brute_force_weight(layer)
    if layer.bias is not None:
        expected = expected + layer.bias.detach().double().numpy()
    np.testing.assert_allclose(torch_of_net(layer, x), expected, atol=1e-13)
    np.testing.assert_allclose(ir_of_net(layer, x), expected, atol=1e-13)
    with torch.no_grad():
        dense = copy.deepcopy(layer).double().to_dense()
        assert tuple(dense.weight.shape) == (layer.out_features, layer.in_features)
        np.testing.assert_allclose(dense.double()(torch.from_numpy(x)).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("size", range(1, 200))
def test_balanced_factors(size: int) -> None:
    a, b = balanced_factors(size)
    assert a * b == size and a <= b
    assert not any(size % c == 0 for c in range(a + 1, math.isqrt(size) + 1))


def test_default_factors_and_clipped_ranks() -> None:
    layer = TTLinear(256, 256, rank=16)
    assert (layer.in_factors, layer.out_factors, layer.ranks) == ((16, 16), (16, 16), (16, 16, 16))
    assert sum(p.numel() for p in layer.parameters()) == 16 * 16 + 2 * 16**3 + 16 * 16 + 256
    assert TTLinear(256, 256, rank=1000).ranks == (16, 256, 16)
    assert largest_ranks((2, 3, 5)) == (2, 5)


def test_inits_have_the_stated_variance() -> None:
    torch.manual_seed(0)
    weights = [TTLinear(64, 64, rank=8).to_dense().weight.detach() for _ in range(40)]
    assert abs(torch.stack(weights).var().item() / (2.0 / 128) - 1.0) < 0.15


def test_a_large_prime_is_called_out() -> None:
    with pytest.warns(UserWarning, match="257 is prime"):
        TTLinear(257, 16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TTLinear(16, 16, in_factors=(3, 5)), "do not multiply up"),
        (lambda: TTLinear(16, 16, out_factors=()), "do not multiply up"),
        (lambda: TTLinear(16, 16, ranks=(4, 4)), "3 bonds"),
        (lambda: TTLinear(16, 16, ranks=(5, 4, 4)), "do not fit"),
        (lambda: TTLinear(16, 16, rank=0), "at least 1"),
        (lambda: TTLinear(0, 16), "at least one feature"),
    ],
)
def test_impossible_layers(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError) as caught:
        make()
    assert message in str(caught.value)
    assert caught.value.location is not None and caught.value.location.file.endswith("test_layers.py")


def test_dense_scheme_keeps_the_function_and_shares_shared_layers() -> None:
    shared = TTLinear(12, 12, rank=3)
    net = nn.Sequential(nn.Linear(2, 12), shared, nn.Tanh(), nn.ModuleDict({"a": shared})["a"], TTLinear(12, 1, rank=2))
    dense = to_dense(net)
    assert not any(isinstance(module, TTLinear) for module in dense.modules())
    assert dense[1] is dense[3]
    assert isinstance(net[1], TTLinear)
    x = torch.rand(4, 2)
    torch.testing.assert_close(dense(x), net(x))
    assert isinstance(to_dense(TTLinear(4, 4)), nn.Linear)
