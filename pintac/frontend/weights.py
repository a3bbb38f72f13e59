"""Parameters and states: names, layouts, first values.

A state of the IR carries the name of its parameter in `net.state_dict()`; weights of `nn.Linear` are stored [in, out],
everything else as torch has it. Parameters of the problem (inverse problems) are named `problem.<attribute>`, those of
a module that it holds `problem.<attribute>.<name in its state_dict>`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pintac import rng
from pintac.errors import CheckpointError, ModelError, suggest
from pintac.frontend.layers import TTLinear
from pintac.frontend.problem import Problem, TrainStep
from pintac.ir import Location

Arrays = dict[str, np.ndarray]

PROBLEM_PREFIX = "problem."


@dataclass(frozen=True)
class Layout:
    """The trainable parameters of a step by state name, and which of them are stored transposed.

    `aliases` maps every name in the state_dict of the network to the state that holds it (shared layers have several).
    """

    net: nn.Module
    parameters: Mapping[str, nn.Parameter]
    transposed: frozenset[str]
    aliases: Mapping[str, str]

    @classmethod
    def of(cls, net: nn.Module, problem: Problem, location: Location | None = None) -> Layout:
        """Raises ModelError, at `location`, for parameters that are not float32 on the CPU, or if none is trained."""
        parameters: dict[str, nn.Parameter] = {}
        first: dict[int, str] = {}
        aliases: dict[str, str] = {}
        own = list(net.named_parameters(remove_duplicate=False))
        taken = [name for name, _ in own if name.startswith(PROBLEM_PREFIX)]
        if taken:
            raise ModelError(
                f"the network has a parameter {taken[0]!r}: names that begin with {PROBLEM_PREFIX!r} are those of the "
                "problem's own parameters",
                location=location,
                hint="give the submodule `problem` of the network another name",
            )
        held = {id(parameter) for _, parameter in own}
        also = [(name, parameter) for name, parameter in problem_parameters(problem) if id(parameter) not in held]
        for name, parameter in [*own, *also]:
            if not parameter.requires_grad:
                continue
            canonical = first.setdefault(id(parameter), name)
            aliases[name] = canonical
            parameters.setdefault(canonical, parameter)
        if not parameters:
            frozen = bool(own or also)
            raise ModelError(
                "the network has no trainable parameters",
                location=location,
                hint="all of them have requires_grad=False: net.requires_grad_(True)" if frozen else None,
            )
        for name, parameter in parameters.items():
            if parameter.device.type == "meta":
                raise ModelError(
                    f"the parameter {name!r} is on the device meta: it has no values",
                    location=location,
                    hint="net.to_empty(device='cpu'), then values: net.load_state_dict(...), or an initialisation",
                )
            if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
                raise ModelError(
                    f"the parameter {name!r} is {parameter.dtype} on {parameter.device}, training computes in float32",
                    location=location,
                    hint=f"{_owner(name)}.float().cpu()",
                )
        transposed = {
            aliases[name]
            for prefix, module in _modules(net, problem)
            if isinstance(module, nn.Linear)
            and isinstance(module._parameters.get("weight"), nn.Parameter)
            and (name := f"{prefix}.weight" if prefix else "weight") in aliases
        }
        return cls(net, parameters, frozenset(transposed), aliases)

    def stored(self, name: str, value: np.ndarray) -> np.ndarray:
        """A parameter as its state keeps it: float32, contiguous."""
        return np.array(value.T if name in self.transposed else value, dtype=np.float32, order="C")

    def from_module(self) -> Arrays:
        """Every state from the module's own values."""
        return {name: self.stored(name, p.detach().numpy()) for name, p in self.parameters.items()}

    def from_weights(self, weights: Mapping[str, np.ndarray]) -> Arrays:
        """States from arrays in torch's names and layout (`export`, a state_dict). CheckpointError if they do not fit.

        Buffers and frozen parameters are constants of the step: if given, they must have the module's values.
        """
        module = self.net.state_dict()
        known = {*self.aliases, *module}
        for name in weights:
            if name not in known:
                raise CheckpointError(
                    f"the weights hold {name!r}, which the network does not have", hint=suggest(name, sorted(known))
                )
            if name not in self.aliases and not np.array_equal(module[name].numpy(), weights[name]):
                raise CheckpointError(
                    f"the weights hold other values of {name!r}, which is not trained, than the network",
                    hint="net.load_state_dict(...) before the TrainStep, or seed torch where they are made",
                )
        states: Arrays = {}
        for name, parameter in self.parameters.items():
            given = next(
                (weights[alias] for alias, target in self.aliases.items() if target == name and alias in weights), None
            )
            if given is None:
                raise CheckpointError(f"the weights lack {name!r} of shape {tuple(parameter.shape)}")
            if tuple(given.shape) != tuple(parameter.shape):
                raise CheckpointError(
                    f"the weights hold {name!r} with shape {tuple(given.shape)}, "
                    f"the network has {tuple(parameter.shape)}",
                    hint="the same widths, TT ranks and scheme as in training?",
                )
            states[name] = self.stored(name, np.asarray(given))
        return states

    def export(self, states: Mapping[str, np.ndarray]) -> Arrays:
        """States in torch's names and layout, complete for `net.load_state_dict` (the rest is as in the module).

        Parameters of the problem follow under their own names.
        """
        result: Arrays = {}
        for name, value in {**self.net.state_dict(), **self.parameters}.items():
            state = self.aliases.get(name)
            if state is not None and state in states:
                array = states[state]
                result[name] = np.array(array.T if state in self.transposed else array, np.float32, order="C")
            else:
                result[name] = np.array(value.detach().numpy())
        return result

    def constants(self) -> Arrays:
        """What else the state_dict holds: buffers and frozen parameters, in torch's names and layout."""
        return {
            name: np.array(value.detach().numpy())
            for name, value in self.net.state_dict().items()
            if name not in self.aliases
        }

    def tensors(self, states: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """`export` as torch tensors, without the parameters of the problem: for `net.load_state_dict`."""
        return as_tensors({name: v for name, v in self.export(states).items() if not name.startswith(PROBLEM_PREFIX)})


def _owner(name: str) -> str:
    """What a user calls the thing that holds a parameter, or the parameter."""
    parts = name.split(".")
    return f"self.{parts[1]}" if parts[0] == PROBLEM_PREFIX.rstrip(".") and len(parts) > 1 else "net"


def problem_parameters(problem: Problem) -> list[tuple[str, nn.Parameter]]:
    """The parameters that a problem holds, itself or in its modules, by state name."""
    found = [(PROBLEM_PREFIX + name, p) for name, p in vars(problem).items() if isinstance(p, nn.Parameter)]
    for prefix, module in _problem_modules(problem):
        own = module.named_parameters(remove_duplicate=False)
        found += [(f"{prefix}.{name}", p) for name, p in own]
    return found


def _problem_modules(problem: Problem) -> list[tuple[str, nn.Module]]:
    """The modules that a problem is or holds, by the beginning of their parameters' names."""
    if isinstance(problem, nn.Module):
        return [(PROBLEM_PREFIX.rstrip("."), problem)]
    return [(PROBLEM_PREFIX + name, module) for name, module in vars(problem).items() if isinstance(module, nn.Module)]


def _modules(net: nn.Module, problem: Problem) -> list[tuple[str, nn.Module]]:
    """Every module, those within modules too, by the beginning of its parameters' names."""
    found = list(net.named_modules())
    for prefix, module in _problem_modules(problem):
        found += module.named_modules(prefix=prefix)
    return found


def as_tensors(weights: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays as torch tensors that own their memory."""
    return {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}


# ---------------------------------------------------------------------------------------------- first values


def draw_normal(name: str, shape: tuple[int, ...], std: float, seed: int) -> np.ndarray:
    """float32 [shape], N(0, std^2), from the stream `init`, keyed by the seed and the parameter's name.

    Configurations that share a layer (its name and shape) therefore share its draws (NUMERICS 9).
    """
    key = zlib.crc32(name.encode())
    normal = rng.normal(seed, rng.STREAM_INIT, 0, key, shape)
    return np.asarray(normal * np.float32(std), dtype=np.float32)


def initial_weights(net: nn.Module, seed: int, problem: Problem | None = None) -> Arrays:
    """First values of the parameters that the protocol draws, in torch's names and layout (NUMERICS 9).

    Xavier normal for Linear, Gaussian cores for TTLinear, biases 0, in modules of the problem too. Other parameters are
    not in the result.
    """
    drawn: Arrays = {}
    for prefix, module in net.named_modules() if problem is None else _modules(net, problem):
        dot = f"{prefix}." if prefix else ""
        if isinstance(module, TTLinear):
            for k, shape in enumerate(module.core_shapes()):
                name = f"{dot}cores.{k}"
                drawn[name] = draw_normal(name, shape, module.core_std(), seed)
        elif isinstance(module, nn.Linear):
            std = (2.0 / (module.in_features + module.out_features)) ** 0.5
            drawn[f"{dot}weight"] = draw_normal(f"{dot}weight", (module.out_features, module.in_features), std, seed)
        else:
            continue
        if module.bias is not None:
            drawn[f"{dot}bias"] = np.zeros(module.out_features, np.float32)
    return drawn


def evidently_set(net: nn.Module) -> list[str]:
    """Linear layers whose values neither torch's constructor nor a usual initialisation leaves: loaded, set by hand.

    Fresh biases are constant or uniform within 1 / sqrt(in); fresh weights have about torch's spread, Xavier's or He's.
    """
    return [name for name, module in net.named_modules() if isinstance(module, nn.Linear) and _is_set(module)]


def _is_set(layer: nn.Linear) -> bool:
    bound = layer.in_features**-0.5
    spread = float(layer.weight.detach().std(correction=0))
    usual = (bound / 3**0.5, (2.0 / (layer.in_features + layer.out_features)) ** 0.5, (2.0 / layer.in_features) ** 0.5)
    if layer.weight.numel() >= 64 and all(not 0.5 * std <= spread <= 2.0 * std for std in usual):
        return True
    if layer.bias is None or bool((layer.bias == layer.bias[0]).all()):
        return False
    largest = float(layer.bias.detach().abs().max())
    return largest > 1.001 * bound or (layer.out_features >= 16 and largest < 0.5 * bound)


def discarded(step: TrainStep) -> str | None:
    """What is to be said of values that `init="xavier"` draws anew though somebody has set them; None if nothing."""
    names = evidently_set(step.net) if step.init == "xavier" else []
    if not names:
        return None
    listed = ", ".join(name or "the network" for name in names[:3]) + (", ..." if len(names) > 3 else "")
    return (
        f"the network's weights look set ({listed}) and are not used, init='xavier' draws others: "
        "TrainStep(..., init='module') starts from them"
    )


def initial_states(step: TrainStep, seed: int, weights: Mapping[str, np.ndarray] | None = None) -> Arrays:
    """The states before the first step: from `weights` if given, else as `step.init` says."""
    layout = Layout.of(step.net, step.problem, step.location)
    if weights is not None:
        return layout.from_weights(weights)
    states = layout.from_module()
    if step.init == "xavier":
        for name, value in initial_weights(step.net, seed, step.problem).items():
            if layout.aliases.get(name) == name:
                states[name] = layout.stored(name, value)
    return states
