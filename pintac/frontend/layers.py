"""`TTLinear`: a linear layer whose reshaped weight is a tensor train, and switching it for a dense layer."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor, nn

from pintac.errors import ModelError
from pintac.frontend.locate import user_location
from pintac.ir import Location


def balanced_factors(size: int) -> tuple[int, int]:
    """The pair a <= b with a * b = size closest to square: 256 -> (16, 16), 20 -> (4, 5), a prime p -> (1, p)."""
    if size < 1:
        raise ModelError(f"a layer needs at least one feature, got {size}", location=user_location())
    small = next(a for a in range(math.isqrt(size), 0, -1) if size % a == 0)
    return small, size // small


def largest_ranks(factors: Sequence[int]) -> tuple[int, ...]:
    """The largest useful TT rank at each bond: the smaller of the sizes to its left and right."""
    return tuple(min(math.prod(factors[:k]), math.prod(factors[k:])) for k in range(1, len(factors)))


class TTLinear(nn.Module):
    """A linear layer x [..., N] -> [..., M] whose weight, reshaped to n_1 x .. x n_p x m_1 x .. x m_q, is a tensor
    train.

    This is the TT of the *reshaped weight* (p input cores, then q output cores, bonds r_1 .. r_{p+q-1}), not the
    TT-matrix format. Core k has the shape [r_{k-1}, size_k, r_k], r_0 = r_{p+q} = 1; N and M run row-major over their
    factors. With R = r_p, the input cores give B [N, R], the output cores A [R, M], and y = (x B) A + bias.

    `rank` is used at every bond, clipped to the largest that means anything there; `ranks` gives each bond and is
    checked. The factors default to the most balanced pair of N and of M; a prime has only 1 x p, which saves nothing
    on that side: a UserWarning says so for primes above 16. Raises ModelError for factors that do not multiply up.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int = 16,
        *,
        ranks: Sequence[int] | None = None,
        in_factors: Sequence[int] | None = None,
        out_factors: Sequence[int] | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.location: Location = user_location()
        self.in_features, self.out_features = int(in_features), int(out_features)
        self.in_factors = self._factors("in", self.in_features, in_factors)
        self.out_factors = self._factors("out", self.out_features, out_factors)
        self.ranks = self._ranks(rank, ranks)
        shapes = self.core_shapes()
        self.cores = nn.ParameterList([nn.Parameter(torch.empty(shape)) for shape in shapes])
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if bias else None
        self.reset_parameters()

    def _factors(self, side: str, size: int, given: Sequence[int] | None) -> tuple[int, ...]:
        if given is None:
            factors = balanced_factors(size)
            if factors[0] == 1 and size > 16:
                warnings.warn(
                    f"TTLinear: {side}_features = {size} is prime, so its factors are 1 x {size} and the tensor train "
                    f"saves nothing there; choose a composite width or give {side}_factors",
                    UserWarning,
                    stacklevel=3,
                )
            return factors
        factors_given = tuple(int(factor) for factor in given)
        if not factors_given or min(factors_given) < 1 or math.prod(factors_given) != size:
            raise ModelError(
                f"TTLinear: {side}_factors {factors_given} do not multiply up to {side}_features = {size}",
                location=self.location,
                hint=f"for example {side}_factors={balanced_factors(size)}",
            )
        return factors_given

    def _ranks(self, rank: int, ranks: Sequence[int] | None) -> tuple[int, ...]:
        largest = largest_ranks(self.in_factors + self.out_factors)
        if ranks is None:
            if rank < 1:
                raise ModelError(f"TTLinear: the rank must be at least 1, got {rank}", location=self.location)
            return tuple(min(int(rank), most) for most in largest)
        given = tuple(int(r) for r in ranks)
        if len(given) != len(largest) or any(not 1 <= r <= most for r, most in zip(given, largest, strict=True)):
            raise ModelError(
                f"TTLinear: the ranks {given} do not fit the factors {self.in_factors} and {self.out_factors}",
                location=self.location,
                hint=f"{len(largest)} bonds, each rank from 1 up to {largest}",
            )
        return given

    def core_shapes(self) -> list[tuple[int, int, int]]:
        """[r_{k-1}, size_k, r_k] of every core, input cores first."""
        bonds = (1, *self.ranks, 1)
        return [(bonds[k], size, bonds[k + 1]) for k, size in enumerate(self.in_factors + self.out_factors)]

    def core_std(self) -> float:
        """Standard deviation of the cores that gives the product the Xavier variance 2 / (N + M) (NUMERICS 9)."""
        variance = 2.0 / (self.in_features + self.out_features) / math.prod(self.ranks)
        return math.sqrt(variance ** (1.0 / len(self.core_shapes())))

    def reset_parameters(self) -> None:
        """Gaussian cores, bias 0, from torch's global generator. Training draws its own values (see `TrainStep`)."""
        for core in self.cores:
            nn.init.normal_(core, std=self.core_std())
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """B [N, R] from the input cores and A [R, M] from the output cores."""
        return chain(list(self.cores)[: len(self.in_factors)]), chain(
            list(self.cores)[len(self.in_factors) :], left=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [..., N] -> [..., M]."""
        tracer = _TRACER.get()
        if tracer is not None:
            return tracer.tt_linear(self, x)
        b, a = self.matrices()
        y = (x @ b) @ a
        return y if self.bias is None else y + self.bias

    def to_dense(self) -> nn.Linear:
        """An `nn.Linear` that computes the same function."""
        dense = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        b, a = self.matrices()
        with torch.no_grad():
            dense.weight.copy_((b @ a).T)
            if self.bias is not None:
                dense.bias.copy_(self.bias)
        return dense

    def extra_repr(self) -> str:
        factors = f"in_factors={self.in_factors}, out_factors={self.out_factors}, ranks={self.ranks}"
        return f"{self.in_features}, {self.out_features}, {factors}, bias={self.bias is not None}"


class LayerTracer(Protocol):
    """A tracer that takes TT layers as leaves."""

    def tt_linear(self, layer: TTLinear, x: Tensor) -> Tensor: ...


_TRACER: ContextVar[LayerTracer | None] = ContextVar("tracer", default=None)


@contextmanager
def use_tracer(value: LayerTracer) -> Iterator[None]:
    """Inside, TT layers are recorded instead of computed."""
    token = _TRACER.set(value)
    try:
        yield
    finally:
        _TRACER.reset(token)


def chain(cores: Sequence[Tensor], left: bool = True) -> Tensor:
    """The product of consecutive TT cores: the first ones as [sizes, r] (`left`), the last ones as [r, sizes]."""
    result = cores[0].reshape(-1, cores[0].shape[-1])
    first = cores[0].shape[0]
    for core in cores[1:]:
        result = (result @ core.reshape(core.shape[0], -1)).reshape(-1, core.shape[-1])
    return result if left else result.reshape(first, -1)


def to_dense(net: nn.Module) -> nn.Module:
    """A copy of `net` with every TTLinear replaced by the dense layer of the same function: the scheme "dense".

    A layer used in several places stays one layer.
    """
    net = copy.deepcopy(net)
    if isinstance(net, TTLinear):
        return net.to_dense()
    made: dict[TTLinear, nn.Linear] = {}
    for parent in list(net.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, TTLinear):
                if child not in made:
                    made[child] = child.to_dense()
                setattr(parent, name, made[child])
    return net
