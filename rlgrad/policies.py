"""Logits in, decisions out: distributions over independent decisions, as plain functions of logits.

Both policies offer the same things: ``probs``, ``mode``, ``sample``, ``log_prob``, ``entropy``, ``log_likelihood``, the
weighted sum of log-probabilities that carries a policy gradient, ``encode``, decisions as the numbers that a network
takes, and the two halves of ``sample``, ``uniform`` and ``decide``, for estimators that use one noise twice.
Half-precision logits are computed in float32, under autocast too: the log-probability of many decisions is a long sum.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlgrad.checks import check_logits, describe, first_index, values_visible
from rlgrad.metrics.counts import count_dtype

# Where only sums over draws are needed, draws are taken in slices of about this many numbers.
_SLICE = 1 << 22


def slices(draws: int, items: int) -> Iterator[slice]:
    """Consecutive slices of the draws, each of at most about four million decisions and at least one draw."""
    step = max(1, _SLICE // max(1, items))
    return (slice(start, min(start + step, draws)) for start in range(0, draws, step))


class Bernoulli:
    """Independent yes/no decisions: P(decision = 1) = sigmoid(logit).

    Everything is written with log-sigmoid, so log-probabilities and gradients are finite for any finite logit. An
    infinite logit is a sure decision, with log-probability 0 and no gradient.

    Args:
        logits: ``*batch items``.

    Raises:
        TypeError: logits are not floating point.
        ValueError: logits hold NaN or have no items axis.

    Example:
        >>> policy = Bernoulli(torch.tensor([2.0, -1.0]))
        >>> policy.mode
        tensor([ True, False])
        >>> policy.log_prob(policy.mode)
        tensor([-0.1269, -0.3133])
        >>> policy.sample(3, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 2])
    """

    axes: ClassVar[tuple[int, ...]] = (-1,)
    """Those of the logits that stand for one row: its items."""

    def __init__(self, logits: Float[Tensor, "*batch items"]) -> None:
        check_logits(logits)
        self.logits = _finite(_wide(logits))

    @property
    def probs(self) -> Float[Tensor, "*batch items"]:
        """P(decision = 1)."""
        return torch.sigmoid(self.logits)

    @property
    def mode(self) -> Bool[Tensor, "*batch items"]:
        """The more probable decision; 0 on a tie."""
        return self.logits > 0

    def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Bool[Tensor, "draws *batch items"]:
        """Decisions drawn independently."""
        return self.decide(self.uniform(draws, generator=generator))

    def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "draws *batch items"]:
        """The noise of ``sample``: one number strictly between 0 and 1 for each decision."""
        return open_uniform((draws, *self.logits.shape), like=self.logits, generator=generator)

    def decide(self, uniform: Float[Tensor, "draws *batch items"]) -> Bool[Tensor, "draws *batch items"]:
        """The decisions that this noise makes: 1 where it lies below the probability."""
        return uniform < self.probs.detach()

    def encode(self, decision: Bool[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch items"]:
        """Decisions as the numbers 0 and 1, in the logits' dtype."""
        return decision.to(self.logits.dtype)

    def surprise(self, decision: Bool[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch items"]:
        """Decision less probability, which is d log P(decision) / d logits; detached, and exact for sure ones."""
        logits = self.logits.detach()
        return torch.where(decision, torch.sigmoid(-logits), -torch.sigmoid(logits))

    def log_prob(self, decision: Bool[Tensor, "... items"]) -> Float[Tensor, "... items"]:
        """Log P(decision), for each decision, with or without a draws axis.

        Raises:
            ValueError: the decision's trailing axes are not those of the logits.
        """
        _check_shape(decision, self.logits.shape)
        return F.logsigmoid(torch.where(decision, self.logits, -self.logits))

    def entropy(self) -> Float[Tensor, "*batch items"]:
        """- p log p - (1 - p) log(1 - p), for each decision, in nats."""
        z = self.logits
        return -(torch.sigmoid(z) * F.logsigmoid(z) + torch.sigmoid(-z) * F.logsigmoid(-z))

    def log_likelihood(
        self, decision: Bool[Tensor, "draws *batch items"], weight: Float[Tensor, "draws ..."]
    ) -> Float[Tensor, "*batch"]:
        """Sum over draws and items of weight times log P(decision).

        The draws' weights are added up for each outcome first, so autograd keeps O(items), however many draws.

        Args:
            decision: what was drawn.
            weight: constants, ``draws *batch``, or ``draws *batch items`` for credit to single decisions.
        """
        _check_shape(decision, self.logits.shape)
        weight = _per_item(weight, decision)
        ones = sum((weight[part] * decision[part]).sum(0) for part in slices(len(decision), self.logits.numel()))
        zeros = weight.sum(0) - ones
        return (ones * F.logsigmoid(self.logits) + zeros * F.logsigmoid(-self.logits)).sum(-1)


class Categorical:
    """Independent choices among classes: P(decision = c) = softmax(logits)[c].

    A logit of -inf masks its class: it is never drawn and has no gradient.

    Args:
        logits: ``*batch items classes``.

    Raises:
        TypeError: logits are not floating point.
        ValueError: logits hold NaN or +inf, lack an axis, or an item has every class masked.

    Example:
        >>> policy = Categorical(torch.tensor([[0.0, 1.0, float("-inf")]]))
        >>> policy.probs
        tensor([[0.2689, 0.7311, 0.0000]])
        >>> policy.mode
        tensor([1])
    """

    axes: ClassVar[tuple[int, ...]] = (-2, -1)
    """Those of the logits that stand for one row: its items and their classes."""

    def __init__(self, logits: Float[Tensor, "*batch items classes"]) -> None:
        check_logits(logits, axes=2)
        if values_visible() and (bad := ~torch.isfinite(logits.amax(-1))).any():
            raise ValueError(
                f"needed logits below +inf and a class that is not masked for each item, got {describe(logits)} "
                f"without at {first_index(bad)}; unmask a class there"
            )
        self.logits = _wide(logits)

    @property
    def probs(self) -> Float[Tensor, "*batch items classes"]:
        """P(decision = c), for each class c."""
        return torch.softmax(self.logits, -1)

    @property
    def mode(self) -> Int[Tensor, "*batch items"]:
        """The most probable class."""
        return self.logits.argmax(-1)

    def sample(self, draws: int, *, generator: torch.Generator | None = None) -> Int[Tensor, "draws *batch items"]:
        """Classes drawn independently, by inversion: the first class whose cumulative probability exceeds a uniform.

        One random number a decision whatever the number of classes, and no limit on them.
        """
        return self.decide(self.uniform(draws, generator=generator))

    def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "draws *batch items"]:
        """The noise of ``sample``: one number strictly between 0 and 1 for each decision."""
        like = torch.empty(0, dtype=count_dtype(self.logits.device), device=self.logits.device)
        return open_uniform((draws, *self.logits.shape[:-1]), like=like, generator=generator)

    def decide(self, uniform: Float[Tensor, "draws *batch items"]) -> Int[Tensor, "draws *batch items"]:
        """The decisions that this noise makes."""
        cumulative = self.probs.detach().to(uniform.dtype).cumsum(-1)
        cumulative = cumulative / cumulative[..., -1:]
        return torch.searchsorted(cumulative, uniform.movedim(0, -1).contiguous(), right=True).movedim(-1, 0)

    def encode(self, decision: Int[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch items classes"]:
        """Decisions one-hot, in the logits' dtype."""
        return F.one_hot(decision, self.logits.shape[-1]).to(self.logits.dtype)

    def surprise(self, decision: Int[Tensor, "draws *batch items"]) -> Float[Tensor, "draws *batch items classes"]:
        """One-hot decision less probabilities, which is d log P(decision) / d logits, detached."""
        probs = self.probs.detach().expand(*decision.shape, -1)
        others = probs.scatter(-1, decision[..., None], 0.0)
        return (-others).scatter(-1, decision[..., None], others.sum(-1, keepdim=True))

    def log_prob(self, decision: Int[Tensor, "... items"]) -> Float[Tensor, "... items"]:
        """Log P(decision), for each decision, with or without a draws axis.

        Raises:
            ValueError: the decision's trailing axes are not those of the logits, or name no class.
        """
        self._check(decision)
        log_probs = torch.log_softmax(self.logits, -1).expand(*decision.shape, -1)
        return log_probs.gather(-1, decision[..., None]).squeeze(-1)

    def entropy(self) -> Float[Tensor, "*batch items"]:
        """- sum over classes of p log p, for each decision, in nats."""
        log_probs = self._finite_log_probs()
        return -(log_probs.exp() * log_probs).sum(-1)

    def log_likelihood(
        self, decision: Int[Tensor, "draws *batch items"], weight: Float[Tensor, "draws ..."]
    ) -> Float[Tensor, "*batch"]:
        """Sum over draws and items of weight times log P(decision); see ``Bernoulli.log_likelihood``."""
        self._check(decision)
        weight = _per_item(weight, decision).expand(decision.shape)
        of_class = torch.zeros_like(self.logits)
        of_class.scatter_add_(-1, decision.movedim(0, -1), weight.movedim(0, -1).to(of_class.dtype))
        return (of_class * self._finite_log_probs()).sum((-1, -2))

    def _finite_log_probs(self) -> Tensor:
        # A masked class has log-probability -inf; as a finite constant its product with a weight of zero is zero.
        log_probs = torch.log_softmax(self.logits, -1)
        return torch.where(torch.isfinite(log_probs), log_probs, torch.finfo(log_probs.dtype).min)

    def _check(self, decision: Tensor) -> None:
        classes = self.logits.shape[-1]
        _check_shape(decision, self.logits.shape[:-1])
        if values_visible() and (bad := (decision < 0) | (decision >= classes)).any():
            where = first_index(bad)
            raise ValueError(
                f"needed classes from 0 to {classes - 1}, got {int(decision[where])} at {where}; "
                "check the number of classes"
            )


Policy = Bernoulli | Categorical


def open_uniform(
    shape: tuple[int, ...], *, like: Tensor, generator: torch.Generator | None = None
) -> Float[Tensor, "..."]:
    """Uniform noise u with both u and 1 - u above 0 and below 1, in the dtype and on the device of ``like``."""
    noise = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
    return noise.clamp_min(torch.finfo(like.dtype).eps / 2)  # the step between the numbers that rand gives


def kl_divergence(policy: Policy, reference: Policy) -> Float[Tensor, "*batch items"]:
    """KL(policy || reference) = sum over outcomes of p (log p - log q), for each decision, in nats.

    Raises:
        TypeError: the two are not of one kind.
        ValueError: they are not of one shape.

    Example:
        >>> kl_divergence(Bernoulli(torch.tensor([1.0, 0.0])), Bernoulli(torch.tensor([0.0, 0.0])))
        tensor([0.1109, 0.0000])
    """
    if type(policy) is type(reference) and policy.logits.shape != reference.logits.shape:
        raise ValueError(
            f"needed two policies of one shape, got {describe(policy.logits)} and {describe(reference.logits)}; "
            "nothing is broadcast"
        )
    if isinstance(policy, Bernoulli) and isinstance(reference, Bernoulli):
        z, r = policy.logits, reference.logits
        yes = torch.sigmoid(z) * (F.logsigmoid(z) - F.logsigmoid(r))
        return yes + torch.sigmoid(-z) * (F.logsigmoid(-z) - F.logsigmoid(-r))
    if isinstance(policy, Categorical) and isinstance(reference, Categorical):
        log_p, log_q = policy._finite_log_probs(), reference._finite_log_probs()
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    kinds = type(policy).__name__, type(reference).__name__
    raise TypeError(f"needed two policies of one kind, got {kinds[0]} and {kinds[1]}; use one policy for both")


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _finite(logits: Tensor) -> Tensor:
    # Beyond this bound sigmoid is 0 or 1 to the last bit, and sums of log-probabilities still do not overflow.
    return logits.clamp(-1e30, 1e30)


def _check_shape(decision: Tensor, items: torch.Size) -> None:
    if decision.shape[max(0, decision.ndim - len(items)) :] != items:
        raise ValueError(
            f"needed decisions of shape (*draws, {', '.join(map(str, items))}), got {describe(decision)}; "
            "the draws axis comes first, and nothing is broadcast"
        )


def _per_item(weight: Tensor, decision: Tensor) -> Tensor:
    if weight.shape == decision.shape:
        return weight
    if weight.shape != decision.shape[:-1]:
        raise ValueError(
            f"needed advantages of shape {tuple(decision.shape[:-1])} or {tuple(decision.shape)}, "
            f"got {describe(weight)}; nothing is broadcast"
        )
    return weight[..., None]
