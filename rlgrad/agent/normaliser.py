"""Observations brought to mean 0 and variance 1."""

import torch
from gymnasium.wrappers.utils import update_mean_var_count_from_moments
from jaxtyping import Float
from torch import Tensor, nn

_BOUND = 10.0


class Normaliser(nn.Module):
    """(observation - mean) / deviation, over all observations that it was shown; the numbers as they are before any.

    Args:
        shape: of an observation.

    Example:
        >>> normalise = Normaliser((1,))
        >>> normalise.learn(torch.tensor([[1.0], [3.0]]))
        >>> normalise(torch.tensor([[3.0]]))
        tensor([[1.]])
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, observation: Float[Tensor, "rows *shape"]) -> Float[Tensor, "rows *shape"]:
        """Normalised observations, cut off at ten deviations."""
        scaled = (observation - self.mean) / (self.variance + 1e-8).sqrt()
        return scaled.clamp(-_BOUND, _BOUND).to(observation.dtype)

    def restored(self, scaled: Float[Tensor, "rows *shape"]) -> Float[Tensor, "rows *shape"]:
        """The other way: numbers of mean 0 and deviation 1 as those that were seen."""
        return (scaled * (self.variance + 1e-8).sqrt() + self.mean).to(scaled.dtype)

    def learn(self, observation: Float[Tensor, "rows *shape"]) -> None:
        """Take in more observations."""
        seen = observation.double().cpu().numpy()
        buffers = self.mean, self.variance, self.count
        mean, variance, count = (buffer.cpu().numpy() for buffer in buffers)
        batch = seen.mean(0), seen.var(0), len(seen)
        new = update_mean_var_count_from_moments(mean, variance, count, *batch)  # type: ignore[no-untyped-call]
        for buffer, value in zip(buffers, new, strict=True):
            buffer.copy_(torch.as_tensor(value, device=buffer.device))
