"""The networks that an agent has if it is not given one."""

import math

import torch
from torch import Tensor, nn


def mlp(shape: tuple[int, ...], outputs: int, *, seed: int, last: float = 1.0) -> nn.Sequential:
    """The usual network of observations: two layers of 64 tanh units, and a linear one.

    Args:
        shape: of an observation.
        outputs: how many.
        seed: of the initial weights.
        last: factor of the last layer's initial weights; small for a policy that begins by trying everything.
    """
    with torch.random.fork_rng(devices=[]):  # torch.manual_seed would move the numbers of other devices as well
        torch.default_generator.manual_seed(seed)
        network = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), 64),
            nn.Tanh(),
            nn.Linear(64, 64),
            nn.Tanh(),
            nn.Linear(64, outputs),
        )
    output = network[-1]
    assert isinstance(output, nn.Linear)
    with torch.no_grad():
        output.weight.mul_(last)
        output.bias.zero_()
    return network


def in_type_of(network: nn.Module, numbers: Tensor) -> Tensor:
    """The numbers in the floating-point type that the network calculates in, or as they are if it has none."""
    return numbers.to(next((each.dtype for each in network.parameters() if each.is_floating_point()), numbers.dtype))
