"""Running a network from one layer of drawn steps to the next.

A chain of layers is cut at its steps, and each piece runs once. Any other module is run from its input each time, with
the steps that are decided already held at what they gave: dearer, and free in how its layers are connected.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from rlgrad.steps import Sign, Staircase, Step
from rlgrad.stochastic.units import Unit, is_drawn


@dataclass(frozen=True)
class Given:
    """What a layer of drawn steps gave, or the network is given.

    Args:
        values: ``*lead rows units``; lead are draws, and changes that are asked about.
        features: the shape of the units of a row.
    """

    values: Shaped[Tensor, "*lead rows units"]
    features: tuple[int, ...]

    def flat(self, lead: tuple[int, ...]) -> Shaped[Tensor, "..."]:
        """The values as ``rows *features``, once for each of more draws."""
        *_, rows, units = self.values.shape
        return self.values.expand(*lead, rows, units).reshape(math.prod(lead) * rows, *self.features)


@dataclass(frozen=True)
class Stop:
    """Where a run stands: before a layer of drawn steps, or at the end.

    Args:
        unit: that layer; None at the end.
        reached: its inputs, or the network's output, ``*lead rows *features``.
        lead: how many axes of it there are.
        before: what the drawn layers before it gave.
    """

    unit: Unit | None
    reached: Tensor
    lead: int
    before: tuple[Given, ...]

    @property
    def inputs(self) -> Float[Tensor, "*lead rows units"]:
        """Of the layer, with the features of a row in one axis."""
        return self.reached.flatten(self.lead + 1)

    def given(self, values: Float[Tensor, "*more rows units"]) -> Given:
        """What the layer gives."""
        return Given(values, tuple(self.reached.shape[self.lead + 1 :]))


Shortcut = tuple[Tensor, Tensor, Callable[[Tensor], Stop]]


class Chain:
    """Layers one after another, cut at the steps that are drawn.

    Args:
        layers: of the whole network.
        x: ``rows *features``.
    """

    def __init__(self, layers: Sequence[nn.Module], x: Tensor) -> None:
        self.x = x
        self.segments: list[list[nn.Module]] = [[]]
        self.units: list[Unit] = []
        for layer in layers:
            if is_drawn(layer):
                self.units.append(layer)
                self.segments.append([])
            else:
                self.segments[-1].append(layer)

    def start(self) -> Stop:
        """Run to the first layer of drawn steps."""
        return self._run(self.segments[0], self.x, (len(self.x),), ())

    def resume(self, stop: Stop, values: Float[Tensor, "*lead rows units"]) -> Stop:
        """Run on to the next, from what the layer gives."""
        given, lead = stop.given(values), tuple(values.shape[:-2])
        return self._run(self._after(stop), given.flat(lead), values.shape[:-1], (*stop.before, given))

    def shortcut(self, stop: Stop, values: Float[Tensor, "*lead rows units"]) -> Shortcut | None:
        """Past the layer that follows, where it is linear in the units.

        Returns:
            What it gives for the values; for each unit, how that changes with the unit; and what runs on from there.
        """
        first, *others = self._after(stop) or [nn.Identity()]
        if not isinstance(first, nn.Linear) or stop.inputs.ndim != stop.reached.ndim:
            return None
        if type(first).forward is not nn.Linear.forward or _has_hooks(first):
            return None
        before = (*stop.before, stop.given(values))

        def run_on(outputs: Tensor) -> Stop:
            return self._run(others, outputs.flatten(0, -2), outputs.shape[:-1], before)

        return first(values), first.weight.T, run_on

    @property
    def ends_in_steps(self) -> bool:
        """Whether the output is what a layer of drawn steps gives, if in another shape."""
        return all(isinstance(layer, nn.Flatten | nn.Unflatten | nn.Identity) for layer in self.segments[-1])

    def _after(self, stop: Stop) -> list[nn.Module]:
        return self.segments[len(stop.before) + 1]

    def _run(self, layers: list[nn.Module], hidden: Tensor, rows: tuple[int, ...], before: tuple[Given, ...]) -> Stop:
        for layer in layers:
            hidden = layer(hidden)
        unit = self.units[len(before)] if len(before) < len(self.units) else None
        return Stop(unit, hidden.unflatten(0, rows), len(rows) - 1, before)


class Replay:
    """Any module, run from its input each time until it calls a step that is not decided yet.

    Args:
        network: may call its steps in any order, and one of them several times.
        x: ``rows *features``.
    """

    def __init__(self, network: nn.Module, x: Tensor) -> None:
        self.network = network
        self.x = Given(x[:, None] if x.ndim == 1 else x.flatten(1), tuple(x.shape[1:]))

    def start(self) -> Stop:
        """Run to the first layer of drawn steps."""
        return self._run((), lead=())

    def resume(self, stop: Stop, values: Float[Tensor, "*lead rows units"]) -> Stop:
        """Run to the next, with what the layer gives."""
        return self._run((*stop.before, stop.given(values)), lead=tuple(values.shape[:-2]))

    def _run(self, before: tuple[Given, ...], *, lead: tuple[int, ...]) -> Stop:
        decided = iter(before)
        stopped: list[tuple[Unit, Tensor]] = []

        def hold(layer: Unit, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor:
            given = next(decided, None)
            if given is None:
                stopped.append((layer, inputs[0] if inputs else named["x"]))
                raise _Reached
            return given.flat(lead).clone()  # a copy, since a layer may work in place

        units = [layer for layer in self.network.modules() if is_drawn(layer)]
        hooks = [unit.register_forward_hook(hold, with_kwargs=True) for unit in units]
        unit, reached = None, None
        try:
            reached = self.network(self.x.flat(lead).clone())
        except _Reached:
            unit, reached = stopped[0]
        finally:
            for hook in hooks:
                hook.remove()
        if stopped and unit is None:
            raise RuntimeError(
                "needed a network to be stopped at its drawn steps, got one that catches what stops it; write "
                "`except Exception`, not a bare `except`"
            )
        return Stop(unit, reached.unflatten(0, (*lead, len(self.x.values))), len(lead), before)


class _Reached(BaseException):
    """A step is called that is not decided yet: no error, so that no ``except Exception`` on the way stops it."""


Runner = Chain | Replay


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def opened(network: nn.Module, x: Shaped[Tensor, "rows *features"]) -> Runner:
    """A network on a batch, ready to run.

    Raises:
        TypeError: it is no module, or no step in it is drawn.
        ValueError: a layer mixes rows; or it draws something itself, where layers are not a chain.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"needed a network to draw the steps of, got {network!r}; pass an nn.Module")
    dead = [
        layer for layer in network.modules() if isinstance(layer, Step | Sign | Staircase) and layer.backward is None
    ]
    if not any(is_drawn(layer) for layer in network.modules()):
        raise TypeError(
            f"needed a network with a step that is drawn, got none in {type(network).__name__}; write "
            "Step(backward=policy_gradient())"
        )
    if dead:
        warnings.warn(
            f"{dead[0]} beside drawn steps has the true derivative, zero, and nothing before it learns; give it "
            "backward=policy_gradient() or a rule",
            stacklevel=2,
        )
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    if any(layer.training or layer.running_mean is None for layer in norms):
        raise ValueError(
            "needed layers that treat rows apart, got batch normalization in training mode, which mixes the draws of a "
            "row with those of others; use nn.LayerNorm"
        )
    layers = _in_sequence(network)
    if not any(is_drawn(part) for layer in layers if not is_drawn(layer) for part in layer.modules()):
        return Chain(layers, x)
    if any(isinstance(layer, _DropoutNd) and layer.training and layer.p for layer in network.modules()):
        raise ValueError(
            "needed a network that does the same when it is run again, got dropout in training mode; leave it out, or "
            "chain the layers in an nn.Sequential, where what is before a step runs once"
        )
    return Replay(network, x)


def _in_sequence(module: nn.Module) -> list[nn.Module]:
    """The layers of nested nn.Sequential, in the order in which they run."""
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward or _has_hooks(module):
        return [module]
    return [layer for part in module for layer in _in_sequence(part)]
