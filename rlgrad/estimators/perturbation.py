"""The expected reward as a black box of the logits: move them, look, and never ask who decided what."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from rlgrad.credit import rewards_of
from rlgrad.estimators.surrogate import check_draws, per_logit, with_logit_gradient
from rlgrad.metrics import Score
from rlgrad.policies import Policy, kind_of


@dataclass(frozen=True)
class spsa:
    """SPSA: simultaneous perturbation of all logits by a random sign each, there and back.

        dE/dz ~ E[ (r(b+) - r(b-)) / (2 radius) * sign ],   b+-  drawn at  z +- radius * sign

    b+ and b- are drawn with the same noise. The bias falls as radius^2; the variance rises
    as 1 / radius, and no faster thanks to the common noise.

    Args:
        draws: rewards asked for, two for each perturbation.
        radius: how far each logit is moved.

    Raises:
        TypeError: draws are no whole number.
        ValueError: draws are odd or below 2, a radius that is not above 0.

    Source: Spall, Multivariate stochastic approximation using a simultaneous perturbation gradient approximation
        (1992).

    Example:
        >>> from rlgrad import Bernoulli
        >>> from rlgrad.metrics import Scorer, f1
        >>> logits = torch.zeros(4, requires_grad=True)
        >>> score = Scorer(f1, torch.tensor([1, 0, 1, 0]))
        >>> value = spsa(draws=10_000)(Bernoulli(logits), score, generator=torch.Generator().manual_seed(0))
        >>> value.backward()
        >>> logits.grad > 0
        tensor([ True, False,  True, False])
    """

    draws: int = 2
    radius: float = 0.5

    def __post_init__(self) -> None:
        _check(self.draws, self.radius, what="radius")

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """The reward around the logits for each row, with the estimated gradient."""
        return _there_and_back(policy, score, self.draws, self.radius, random_signs, generator)


@dataclass(frozen=True)
class evolution_strategies:
    """Antithetic evolution strategies: as ``spsa``, with Gaussian perturbations.

        dE/dz ~ E[ (r(b+) - r(b-)) / (2 sigma) * e ],   b+-  drawn at  z +- sigma * e,   e ~ N(0, 1)

    It is the exact gradient of the expected reward smoothed by a Gaussian, hence biased by the order of sigma^2.

    Args:
        draws: rewards asked for, two for each perturbation.
        sigma: standard deviation of the perturbation of each logit.

    Raises:
        TypeError: draws are no whole number.
        ValueError: draws are odd or below 2, a sigma that is not above 0.

    Source: Salimans, Ho, Chen, Sidor, Sutskever, Evolution strategies as a scalable alternative to reinforcement
        learning (2017); Nesterov, Spokoiny, Random gradient-free minimization of convex functions (2017).

    Example:
        >>> from rlgrad import Bernoulli
        >>> from rlgrad.metrics import Scorer, f1
        >>> logits = torch.zeros(4, requires_grad=True)
        >>> score = Scorer(f1, torch.tensor([1, 0, 1, 0]))
        >>> estimate = evolution_strategies(draws=10_000)
        >>> estimate(Bernoulli(logits), score, generator=torch.Generator().manual_seed(0)).backward()
        >>> logits.grad > 0
        tensor([ True, False,  True, False])
    """

    draws: int = 2
    sigma: float = 0.5

    def __post_init__(self) -> None:
        _check(self.draws, self.sigma, what="sigma")

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """The reward around the logits for each row, with the estimated gradient."""
        return _there_and_back(policy, score, self.draws, self.sigma, gaussian, generator)


Noise = Callable[[tuple[int, ...], Tensor, torch.Generator | None], Tensor]


def _there_and_back(
    policy: Policy, score: Score, draws: int, size: float, noise: Noise, generator: torch.Generator | None
) -> Float[Tensor, "*batch"]:
    logits, half = policy.logits.detach(), draws // 2
    direction = noise((half, *logits.shape), logits, generator)
    uniform = policy.uniform(half, generator=generator)
    # Each perturbation is a row of a larger batch, with one draw.
    moved = [kind_of(policy)(logits + sign * size * direction) for sign in (1, -1)]
    decision = torch.cat([one.decide(uniform[None])[0] for one in moved])
    there, back = rewards_of(score, decision).unflatten(0, (2, half))
    slope = ((there - back) / (2 * size)).to(logits.dtype)
    gradient = (per_logit(slope, policy) * direction).mean(0)
    return with_logit_gradient((there + back).mean(0) / 2, policy, gradient)


def random_signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Float[Tensor, "..."]:
    """Plus or minus one, alike probable."""
    return 2.0 * torch.randint(0, 2, shape, device=like.device, generator=generator).to(like.dtype) - 1


def gaussian(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Float[Tensor, "..."]:
    """Standard normal numbers."""
    return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)


def _check(draws: int, size: float, *, what: str) -> None:
    check_draws(draws, least=2, pairs=True)
    if not 0 < size < inf:
        raise ValueError(f"needed a {what} above 0, got {size}; 0.5 is a start")
