"""A learned value of observations, as a baseline that looks ahead."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.agent.episodes import Episodes
from rlgrad.agent.networks import in_type_of
from rlgrad.agent.normaliser import Normaliser
from rlgrad.credit import generalized_advantage


class Value(nn.Module):
    """Credit by a network that expects the return of an observation: generalized advantage estimation.

        A_t = delta_t + discount decay A_{t+1},   delta_t = r_t + discount V(s_{t+1}) - V(s_t)

    The value of what follows is 0 where an episode came to its end, and V where it was merely cut off. The network
    learns with the policy, by least squares on A_t + V(s_t).

    Args:
        network: from observations ``rows *observation`` to values ``rows`` or ``rows 1``; by default the agent makes
            one like that of its policy. They are in deviations from the mean of the returns of earlier updates, so that
            returns of any size are learned at the same pace; before the first update they are the returns themselves.
        decay: 1 for the whole return, which is unbiased but for the tails of episodes that were cut off; less leans on
            the values, with less variance and more bias.

    Raises:
        TypeError: ``network`` is not a module.
        ValueError: ``decay`` lies outside [0, 1]; on use, the network gives something else than values.

    Source: Schulman, Moritz, Levine, Jordan, Abbeel, High-dimensional continuous control using generalized advantage
        estimation (2016).
    """

    def __init__(self, network: nn.Module | None = None, *, decay: float = 0.98) -> None:
        super().__init__()
        if network is not None and not isinstance(network, nn.Module):
            raise TypeError(f"needed a network that gives values, got {network!r}; pass an nn.Module")
        if not (0 <= decay <= 1 and math.isfinite(decay)):
            raise ValueError(f"needed a decay from 0 to 1, got {decay}; 0.98 is usual")
        self.network, self.decay = network, decay
        self.returns = Normaliser(())

    def extra_repr(self) -> str:
        """The decay, for ``repr``."""
        return f"decay={self.decay}"

    def forward(self, seen: Float[Tensor, "rows *observation"]) -> Float[Tensor, " rows"]:
        """The return that the network expects of each observation.

        Raises:
            ValueError: it gives something of another shape.
        """
        assert self.network is not None
        value: Tensor = self.network(in_type_of(self.network, seen))
        if value.shape not in ((len(seen),), (len(seen), 1)):
            raise ValueError(
                f"needed values of shape ({len(seen)},) or ({len(seen)}, 1) from the network of values, got "
                f"{tuple(value.shape)}; end it so"
            )
        return self.returns.restored(value.reshape(len(seen)))

    def advantage(
        self,
        episodes: Episodes,
        expected: Float[Tensor, " rows"],
        after: Float[Tensor, " draws"],
        *,
        discount: float,
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
        """The advantage of each step, and what its value should have been.

        Args:
            episodes: that were played.
            expected: the values of the observations of their steps.
            after: the value of each episode's last observation; it counts where the episode was cut off.
            discount: weight of the next step against this one.
        """
        ran, rows = episodes.ran, torch.arange(len(after), device=after.device)
        value = torch.zeros_like(episodes.reward)
        value[ran] = expected.to(value)
        following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
        following[rows, episodes.lengths - 1] = after.to(value).masked_fill(episodes.terminated, 0.0)
        advantage = generalized_advantage(
            episodes.reward, value, following, ended=episodes.ended, discount=discount, decay=self.decay
        )
        return advantage[ran], (advantage + value)[ran]
