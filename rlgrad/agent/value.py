"""A learned value of observations, as a baseline that looks ahead."""

import math

from torch import nn


class Value(nn.Module):
    """Credit by a network that expects the return of an observation: generalized advantage estimation.

        A_t = delta_t + discount decay A_{t+1},   delta_t = r_t + discount V(s_{t+1}) - V(s_t)

    The value of what follows is 0 where an episode came to its end, and V where it was merely cut off. The network
    learns with the policy, by least squares on A_t + V(s_t).

    Args:
        network: from observations ``rows *observation`` to values ``rows`` or ``rows 1``; by default the agent makes
            one like that of its policy.
        decay: 1 for the whole return, which is unbiased but for the tails of episodes that were cut off; less leans on
            the values, with less variance and more bias.

    Raises:
        TypeError: ``network`` is not a module.
        ValueError: ``decay`` lies outside [0, 1].

    Source: Schulman, Moritz, Levine, Jordan, Abbeel, High-dimensional continuous control using generalized advantage
        estimation (2016).
    """

    def __init__(self, network: nn.Module | None = None, *, decay: float = 0.95) -> None:
        super().__init__()
        if network is not None and not isinstance(network, nn.Module):
            raise TypeError(f"needed a network that gives values, got {network!r}; pass an nn.Module")
        if not (0 <= decay <= 1 and math.isfinite(decay)):
            raise ValueError(f"needed a decay from 0 to 1, got {decay}; 0.95 is usual")
        self.network, self.decay = network, decay
