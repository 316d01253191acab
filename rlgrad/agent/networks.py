"""The networks that an agent has if it is not given one."""

import math

import torch
from torch import nn


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
