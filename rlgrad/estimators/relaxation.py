"""Control variates from a relaxation: REINFORCE less what a differentiable guess of the reward explains."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, log

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.credit import checked, rewards_of
from rlgrad.estimators.perturbed import perturbed_logits, soft_decision
from rlgrad.estimators.surrogate import check_draws, is_differentiable, per_logit, relaxed_rewards, with_logit_gradient
from rlgrad.metrics import Score
from rlgrad.policies import Bernoulli, Independent, Policy, independent


@dataclass(frozen=True)
class muprop:
    """MuProp: REINFORCE less the reward's first-order expansion about the mean decision, whose gradient is known.

        dE/dz = E[ (r(b) - r(m) - r'(m) (b - m)) d log P(b) / dz ] + r'(m) dm/dz,   m = E[b]

    Unbiased, for a differentiable score; without noise where it is linear.

    Args:
        draws: rewards asked for, besides one of the mean.

    Raises:
        TypeError: draws are no whole number; on use, a score that is not differentiable in the decision.
        ValueError: fewer draws than 1.

    Source: Gu, Levine, Sutskever, Mnih, MuProp: Unbiased backpropagation for stochastic neural networks (2016).

    Example:
        >>> from rlgrad.metrics import Downstream
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> linear = Downstream(lambda b: b @ torch.tensor([1.0, 2.0]))
        >>> muprop(draws=1)(Bernoulli(logits), linear).backward()
        >>> logits.grad
        tensor([0.2500, 0.5000])
    """

    draws: int = 1

    def __post_init__(self) -> None:
        check_draws(self.draws, least=1)

    def __call__(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        policy = independent(policy, who="muprop")
        mean = policy.probs.detach()[None]
        decision = policy.sample(self.draws, generator=generator)
        reward = rewards_of(score, decision)
        guess, slope = _slope(lambda m: relaxed_rewards(score, policy, m, who="muprop"), mean)
        surprise = policy.surprise(decision)
        left = reward.detach() - guess - (slope * surprise).sum(policy.axes)
        gradient = (per_logit(left, policy).to(mean.dtype) * surprise).mean(0) + _through_probs(slope[0], policy)
        return with_logit_gradient(reward.mean(0), policy, gradient)


class REBAR(nn.Module):
    """REBAR: the control variate is the score itself at relaxed decisions.

        dE/dz = E[ (r(b) - c(x~)) d log P(b) / dz + dc(x)/dz - dc(x~)/dz ],   c(x) = strength * r(soft(x))

    x are the logits perturbed by logistic (Gumbel) noise, b = 1[x > 0] (or the largest), x~ the same drawn again given
    b, and soft(x) = sigmoid(x / temperature) or softmax. Unbiased for any strength and temperature. Noises are coupled
    so that x~ has the value of x: one reward of b and one of soft(x) for each draw.

    Both parameters learn to make the gradient quiet: the loss of an estimate also carries the gradient of its squared
    length. Give ``parameters()`` to the optimizer (``MetricLoss.parameters()`` holds them), or leave them as they are;
    ``requires_grad_(False)`` saves the time this takes.

    Args:
        draws: rewards asked for, and as many relaxed ones.
        temperature: of the relaxation, above 0, to begin with.
        strength: of the control variate, to begin with.

    Raises:
        TypeError: draws are no whole number; on use, a score that is not differentiable in the decision.
        ValueError: fewer draws than 1, a temperature that is not above 0.

    Source: Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein, REBAR: Low-variance, unbiased gradient estimates for
        discrete latent variable models (2017).

    Example:
        >>> from rlgrad.metrics import Downstream
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> score = Downstream(lambda b: b @ torch.tensor([1.0, 2.0]))
        >>> estimate = REBAR(draws=1000)
        >>> estimate(Bernoulli(logits), score, generator=torch.Generator().manual_seed(0)).backward()
        >>> print((logits.grad - torch.tensor([0.25, 0.5])).abs().max() < 0.05)
        tensor(True)
        >>> sorted(name for name, parameter in estimate.named_parameters() if parameter.grad is not None)
        ['log_temperature', 'strength']
    """

    def __init__(self, draws: int = 1, *, temperature: float = 0.5, strength: float = 1.0) -> None:
        super().__init__()
        check_draws(draws, least=1)
        self.draws = draws
        self.log_temperature = _log_temperature(temperature)
        self.strength = _parameter(strength, what="strength")

    def extra_repr(self) -> str:
        """What it was made with, for ``repr``."""
        return f"draws={self.draws}"

    def forward(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        law = independent(policy, who="REBAR")

        def control(perturbed: Tensor) -> Tensor:
            soft = soft_decision(perturbed, law, self.log_temperature.exp())
            return self.strength * relaxed_rewards(score, law, soft, who="REBAR")

        return _estimate(law, score, control, self, generator=generator)


class RELAX(nn.Module):
    """RELAX: the control variate is a network that learns; the score may be a black box.

        dE/dz = E[ (r(b) - c(x~)) d log P(b) / dz + dc(x)/dz - dc(x~)/dz ],
        c(x) = network(soft(x)) + strength * r(soft(x))

    As ``REBAR``, with a network of the relaxed decisions added, and the score itself only where it is differentiable.
    Unbiased whatever the network says. Its weights, temperature and strength learn to make the gradient quiet: the loss
    of an estimate also carries the gradient of its squared length. Give ``parameters()`` to the optimizer;
    ``MetricLoss.parameters()`` holds them.

    Args:
        network: from relaxed decisions ``draws *batch items``, or ``draws *batch items * classes``, numbers between 0
            and 1, to guesses of the reward, ``draws *batch``. Where the items are the rows of a minibatch, whose last
            may be smaller, it must take any number of them.
        draws: rewards asked for, and as many guesses.
        temperature: of the relaxation, above 0, to begin with.
        strength: of the score's own relaxation, to begin with, where there is one.

    Raises:
        TypeError: draws are no whole number, the network no module.
        ValueError: fewer draws than 1, a temperature that is not above 0; on use, guesses of another shape.

    Source: Grathwohl, Choi, Wu, Roeder, Duvenaud, Backpropagation through the void: Optimizing control variates for
        black-box gradient estimation (2018).

    Example:
        >>> from rlgrad.metrics import OpaqueMetric, Scorer
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> score = Scorer(OpaqueMetric(lambda decision, target: (decision == target).all()), torch.tensor([1, 0, 1]))
        >>> estimate = RELAX(nn.Sequential(nn.Linear(3, 1), nn.Flatten(-2)), draws=500)
        >>> estimate(Bernoulli(logits), score, generator=torch.Generator().manual_seed(0)).backward()
        >>> logits.grad > 0
        tensor([ True, False,  True])
    """

    def __init__(
        self,
        network: nn.Module,
        draws: int = 1,
        *,
        temperature: float = 0.5,
        strength: float = 1.0,
    ) -> None:
        super().__init__()
        check_draws(draws, least=1)
        if not isinstance(network, nn.Module):
            raise TypeError(f"needed a network as control variate, got {network!r}; pass an nn.Module")
        self.draws = draws
        self.network = network
        self.log_temperature = _log_temperature(temperature)
        self.strength = _parameter(strength, what="strength")

    def extra_repr(self) -> str:
        """What it was made with, for ``repr``."""
        return f"draws={self.draws}"

    def forward(
        self, policy: Policy, score: Score, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch"]:
        """E[reward] for each row, differentiable in the policy's logits."""
        law, differentiable = independent(policy, who="RELAX"), is_differentiable(score)
        dtype = next((weight.dtype for weight in self.network.parameters()), policy.logits.dtype)

        def control(perturbed: Tensor) -> Tensor:
            soft = soft_decision(perturbed, law, self.log_temperature.exp())
            seen = soft.flatten(policy.axes[0]).to(dtype)
            guess = checked(self.network(seen), perturbed.shape[: policy.axes[0]], what="guesses")
            if differentiable:
                guess = guess + self.strength * relaxed_rewards(score, law, soft, who="RELAX")
            return guess

        return _estimate(law, score, control, self, generator=generator)


def _estimate(
    policy: Independent,
    score: Score,
    control: Callable[[Tensor], Tensor],
    learner: REBAR | RELAX,
    *,
    generator: torch.Generator | None,
) -> Float[Tensor, "*batch"]:
    perturbed, decision = perturbed_logits(policy, learner.draws, generator=generator)
    reward = rewards_of(score, decision)
    # A score may say that it is part of another control variate's guess: that one's learning is not to meet this one's.
    learns = torch.is_grad_enabled() and getattr(score, "learns", True)
    weights = [weight for weight in learner.parameters() if weight.requires_grad] if learns else []
    guess, slope = _slope(control, perturbed, keep_graph=bool(weights))
    surprise = policy.surprise(decision)
    left = (reward.detach() - guess).to(surprise.dtype)
    difference = _through_log_probs(slope * _coupling(perturbed.detach(), decision, policy), policy)
    gradient = (per_logit(left, policy) * surprise + difference).mean(0)
    value = with_logit_gradient(reward.mean(0), policy, gradient)
    return value - _learning(gradient, weights).to(value.dtype) / max(1, value.numel())


def _learning(gradient: Tensor, weights: list[nn.Parameter]) -> Float[Tensor, ""]:
    """Zero, with the gradient of the squared length of a policy gradient in the weights of its control variate.

    An unbiased estimate's variance is its mean square less a constant. Nothing else in the graph of the control
    variate, such as the weights downstream, is to learn from it.
    """
    if not (weights and gradient.requires_grad):
        return torch.zeros((), device=gradient.device)
    total = gradient.new_zeros(())
    slopes = torch.autograd.grad(gradient.square().sum(), weights, allow_unused=True)
    for weight, slope in zip(weights, slopes, strict=True):
        if slope is not None:
            total = total + (weight * slope.nan_to_num(posinf=0.0, neginf=0.0)).sum().to(gradient)
    return total - total.detach()


def _coupling(perturbed: Tensor, decision: Tensor, policy: Independent) -> Tensor:
    """How much faster x moves than x~, which has its value: d(x - x~) / dz, in logits or log-probabilities.

    Given b, x~ = sign(b) softplus(noise - log P(not b)) moves by P(b) (1 - exp(-|x|)); among classes the largest stays,
    and another moves by 1 - exp(x~ - largest).
    """
    if isinstance(policy, Bernoulli):
        of_decision = torch.sigmoid(torch.where(decision, policy.logits, -policy.logits)).detach()
        return 1 + of_decision * torch.expm1(-perturbed.abs())
    return torch.exp(perturbed - perturbed.amax(-1, keepdim=True))


def _slope(function: Callable[[Tensor], Tensor], at: Tensor, *, keep_graph: bool = False) -> tuple[Tensor, Tensor]:
    """The function's values at a tensor, and the derivative of their sum."""
    with torch.enable_grad():
        leaf = at.detach().requires_grad_()
        values = function(leaf)
        slope = None
        if values.requires_grad:
            (slope,) = torch.autograd.grad(values.sum(), leaf, create_graph=keep_graph, allow_unused=True)
    return (values if keep_graph else values.detach()), torch.zeros_like(leaf) if slope is None else slope


def _through_probs(slope: Tensor, policy: Independent) -> Tensor:
    """From a derivative in the probabilities to that in the logits."""
    probs = policy.probs.detach()
    if isinstance(policy, Bernoulli):
        return slope * probs * (1 - probs)
    return probs * (slope - (probs * slope).sum(-1, keepdim=True))


def _through_log_probs(slope: Tensor, policy: Independent) -> Tensor:
    """From a derivative in log-probabilities to that in the logits; yes/no decisions are perturbed in logits."""
    if isinstance(policy, Bernoulli):
        return slope
    return slope - policy.probs.detach() * slope.sum(-1, keepdim=True)


def _parameter(number: float, *, what: str) -> nn.Parameter:
    if not isfinite(number):
        raise ValueError(f"needed a finite {what}, got {number}")
    return nn.Parameter(torch.tensor(float(number)))


def _log_temperature(temperature: float) -> nn.Parameter:
    if not 1e-6 <= temperature < inf:
        raise ValueError(f"needed a temperature above 0 (at least 1e-6), got {temperature}; 0.5 is usual")
    return _parameter(log(temperature), what="temperature")
