"""Networks of hard steps, trained by policy gradient: each unit is a decision, scored by all that follows.

In training a unit with inputs z is drawn: it is 1 with probability sigmoid(z / temperature), as if logistic noise were
added to its input. Its gradient is that of an estimator of this library, whose score is the rest of the network, down
to the loss of the row; where further steps follow, their estimates are nested in that score. At evaluation the network
is what it looks like, hard and deterministic; ``averaged`` gives the mean output over draws instead.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlgrad.checks import describe
from rlgrad.estimators import Estimator, counterfactual
from rlgrad.policies import Bernoulli, open_uniform
from rlgrad.steps import Sign, Step

_CACHED = 1 << 17
RowLoss = Callable[[Tensor, Tensor], Tensor]
Unit = Step | Sign


@dataclass(frozen=True)
class policy_gradient:
    """The backward rule of a step that ``ExpectedLoss`` draws, and gives a policy gradient.

    Everywhere else the step is hard, and its derivative the true one, zero: a warning says so on the way back.

    Example:
        >>> Step(backward=policy_gradient())(torch.tensor([-1.0, 2.0]))
        tensor([0., 1.])
    """

    def __call__(self, distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Zero."""
        warnings.warn(
            "back-propagation alone has passed a step with policy_gradient(), and nothing before it learns from that; "
            "train the network with rlgrad.ExpectedLoss",
            stacklevel=2,
        )
        return torch.zeros_like(distance)


class ExpectedLoss(nn.Module):
    """The expected loss of a network whose steps are drawn, with a policy gradient through each of them.

    Called with a network, its input and the target, it stands where ``criterion(network(x), target)`` stood, and
    ``rlgrad.fit`` takes it as the criterion of a stage. Credit is per row: each row of the batch is scored by its own
    loss, so the network must treat rows apart (no batch normalization). Layers after a step learn by back-propagation
    from the draws.

    Args:
        loss: function of ``(output, target)`` with one loss for each row, ``rows *classes`` and ``rows`` to ``rows``,
            such as ``nn.CrossEntropyLoss(reduction="none")``.
        estimator: of the gradient of each layer of steps. The default asks for each unit what the loss would have been,
            had it gone the other way; where an ``nn.Linear`` follows that is one row of its weights more.
        temperature: of the noise. The smaller, the nearer to hard units, and the fainter the gradient. Two numbers are
            the first and the last of a geometric schedule.
        calls: over how many calls in training mode the schedule runs.
        generator: source of randomness, on the device of the network.

    Raises:
        ValueError: a temperature that is not above 0, or a schedule without calls; on use, a loss that is not one
            number for each row.
        TypeError: what is given for an estimator is none; on use, a network that is not an ``nn.Sequential``, or that
            has no step to be drawn.

    Source: Williams (1992); Titsias, Lazaro-Gredilla (2015) for the default estimator.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 8), Step(backward=policy_gradient()), nn.Linear(8, 3))
        >>> criterion = ExpectedLoss(nn.CrossEntropyLoss(reduction="none"))
        >>> criterion(network, torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])).backward()
        >>> network[0].weight.grad.abs().sum() > 0
        tensor(True)
    """

    called: Tensor

    def __init__(
        self,
        loss: RowLoss,
        estimator: Estimator | None = None,
        *,
        temperature: float | tuple[float, float] = 1.0,
        calls: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        first, last = temperature if isinstance(temperature, tuple) else (temperature, temperature)
        if not (0 < first < float("inf") and 0 < last < float("inf")):
            raise ValueError(f"needed temperatures above 0, got {temperature}; 1.0, or (1.0, 0.3) over a training")
        if first != last and calls < 1:
            raise ValueError(f"needed the number of calls that the schedule {temperature} takes, got {calls}")
        if estimator is not None and not isinstance(estimator, Estimator):
            raise TypeError(f"needed an estimator such as disarm(draws=4), got {estimator!r}; it is not taken by name")
        self.loss = loss
        self.estimator = counterfactual() if estimator is None else estimator
        self.first, self.last, self.calls = float(first), float(last), calls
        self.generator = generator
        self.register_buffer("called", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """What it is made of, for ``repr``."""
        return f"{self.estimator!r}, temperature=({self.first:g}, {self.last:g}), calls={self.calls}"

    @property
    def temperature(self) -> float:
        """That of the next call."""
        share = min(1.0, int(self.called) / self.calls) if self.calls else 0.0
        return float(self.first * (self.last / self.first) ** share)

    def forward(self, network: nn.Module, x: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """The mean over rows of the estimated expected loss."""
        reward = _Chain(network, self, target).expected(0, x, lead=())
        if self.training:
            self.called += 1
        return -reward.sum() / max(1, reward.numel())


def averaged(
    network: nn.Sequential,
    x: Tensor,
    *,
    draws: int = 16,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The mean output of a network over draws of its steps, in place of the output of hard ones.

    Args:
        network: with steps that are drawn.
        x: ``rows *features``.
        draws: how many.
        temperature: of the noise.
        generator: source of randomness.

    Returns:
        ``rows *classes``.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 8), Step(backward=policy_gradient()), nn.Linear(8, 3))
        >>> averaged(network, torch.randn(5, 4), draws=100).shape
        torch.Size([5, 3])
    """
    segments, steps = _cut(network)
    hidden = x.expand(draws, *x.shape)
    for segment, step in zip(segments, steps, strict=False):
        inputs = _run(segment, hidden)
        noise = open_uniform(inputs.shape, like=inputs, generator=generator)
        hidden = _values(step, (noise < torch.sigmoid(inputs / temperature)).to(inputs.dtype))
    return _run(segments[-1], hidden).mean(0)


class _Chain:
    """A network cut at the steps that are drawn, on one batch.

    Hidden tensors are ``*lead rows *features``; lead are draws, and changes that are asked about. All of them share the
    noise of later steps: it does not depend on what was decided before, and what it does to two of them cancels.
    """

    def __init__(self, network: nn.Module, criterion: ExpectedLoss, target: Tensor) -> None:
        self.segments, self.steps = _cut(network)
        self.criterion, self.target, self.temperature = criterion, target, criterion.temperature
        self.noise: dict[tuple[int, int], Tensor] = {}
        self.bars: dict[int, Tensor] = {}

    def expected(self, level: int, hidden: Tensor, *, lead: tuple[int, ...]) -> Float[Tensor, "*lead rows"]:
        """The reward to be expected of what enters a segment."""
        return self.beyond(level, _run(self.segments[level], hidden, lead=lead), lead=lead)

    def beyond(self, level: int, inputs: Tensor, *, lead: tuple[int, ...]) -> Float[Tensor, "*lead rows"]:
        """The reward to be expected of what leaves a segment and enters a step, or the loss."""
        if level == len(self.steps):
            return -self._losses(inputs, lead)
        units = inputs.flatten(len(lead) + 1)
        score = _Rest(self, level, features=inputs.shape[len(lead) + 1 :])
        if not torch.is_grad_enabled():  # only asked what if, which is asked often
            # Written as numbers at once: turning truth values into numbers would take longer than the comparison.
            return score.relaxed(torch.gt(units, self.bar(level, units), out=torch.empty_like(units)))
        policy = _Common(units / self.temperature, self, level)
        return self.criterion.estimator(policy, score, generator=self.criterion.generator)

    def uniform(self, level: int, draws: int, units: Tensor) -> Float[Tensor, "draws rows units"]:
        """The noise of a layer of steps, drawn once for a batch."""
        if (level, draws) not in self.noise:
            shape = (draws, *units.shape[-2:])
            self.noise[level, draws] = open_uniform(shape, like=units, generator=self.criterion.generator)
        return self.noise[level, draws]

    def bar(self, level: int, units: Tensor) -> Float[Tensor, "rows units"]:
        """What inputs must exceed: u < sigmoid(z / temperature) where z > temperature x logit(u)."""
        if level not in self.bars:
            self.bars[level] = self.temperature * torch.logit(self.uniform(level, 1, units)[0])
        return self.bars[level]

    def _losses(self, output: Tensor, lead: tuple[int, ...]) -> Float[Tensor, "*lead rows"]:
        target = self.target.expand(*lead, *self.target.shape).flatten(0, len(lead))
        losses: object = self.criterion.loss(output.flatten(0, len(lead)), target)
        if not isinstance(losses, Tensor) or losses.shape != target.shape[:1]:
            got = describe(losses) if isinstance(losses, Tensor) else repr(losses)
            raise ValueError(f'needed one loss for each of {len(target)} rows, got {got}; use reduction="none"')
        return losses.reshape(*lead, len(self.target))


class _Common(Bernoulli):
    """A layer of steps as a policy; all rows of ``lead`` share their noise."""

    def __init__(self, logits: Float[Tensor, "*lead rows units"], chain: _Chain, level: int) -> None:
        super().__init__(logits)
        self.chain, self.level = chain, level

    def uniform(self, draws: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "draws *batch items"]:
        """The noise of this layer, drawn once for a batch."""
        *lead, rows, units = self.logits.shape
        noise = self.chain.uniform(self.level, draws, self.logits)
        return noise.reshape(draws, *[1] * len(lead), rows, units).expand(draws, *self.logits.shape)


class _Rest:
    """What follows a layer of steps, as the score of its decisions."""

    def __init__(self, chain: _Chain, level: int, *, features: tuple[int, ...]) -> None:
        self.chain, self.level, self.features = chain, level, features
        self.step, self.segment = chain.steps[level], chain.segments[level + 1]

    def __call__(self, decision: Bool[Tensor, "draws *batch units"]) -> Float[Tensor, "draws *batch"]:
        """Rewards of the decisions."""
        return self.relaxed(decision.to(_dtype(self.segment)))

    def relaxed(self, decision: Float[Tensor, "draws *batch units"]) -> Float[Tensor, "draws *batch"]:
        """Rewards of decisions between 0 and 1."""
        hidden = _values(self.step, decision).unflatten(-1, self.features)
        return self.chain.expected(self.level + 1, hidden, lead=tuple(decision.shape[:-2]))

    @property
    def gain(self) -> Callable[[Tensor], Tensor] | None:
        """What each unit is worth; a change of one moves what a linear layer gives by one row of its weights."""
        follows = len(self.segment) > 0 and isinstance(self.segment[0], nn.Linear) and len(self.features) == 1
        return self._through_linear if follows else None

    @torch.no_grad()
    def _through_linear(self, decision: Bool[Tensor, "draws *batch units"]) -> Float[Tensor, "draws *batch units"]:
        linear, *others = self.segment
        assert isinstance(linear, nn.Linear)
        tail = nn.Sequential(*others)
        hidden = _values(self.step, decision.to(_dtype(self.segment)))
        outputs = linear(hidden)
        lead = tuple(decision.shape[:-2])
        now = self.chain.beyond(self.level + 1, _run(tail, outputs, lead=lead), lead=lead)
        moves = _values(self.step, 1 - decision.to(hidden.dtype)) - hidden
        rewards = []
        for part in _blocks(decision.shape[-1], outputs.numel()):
            move = moves[..., part].movedim(-1, 0).contiguous()[..., None]
            weights = linear.weight.T[part].contiguous().reshape(-1, *[1] * (outputs.ndim - 1), outputs.shape[-1])
            changed = torch.addcmul(outputs, move, weights)
            further = (len(changed), *lead)
            rewards.append(self.chain.beyond(self.level + 1, _run(tail, changed, lead=further), lead=further))
        added = torch.cat(rewards).movedim(0, -1) - now[..., None]
        return torch.where(decision, -added, added)


def _cut(network: nn.Module) -> tuple[list[nn.Sequential], list[Unit]]:
    if not isinstance(network, nn.Sequential):
        raise TypeError(f"needed an nn.Sequential to draw the steps of, got {type(network).__name__}; chain the layers")
    segments: list[list[nn.Module]] = [[]]
    steps: list[Unit] = []
    for layer in _layers(network):
        if isinstance(layer, Step | Sign) and isinstance(layer.backward, policy_gradient):
            steps.append(layer)
            segments.append([])
        else:
            segments[-1].append(layer)
    if not steps:
        raise TypeError(
            "needed a step that is drawn among the layers of the chain, got none there (modules of one's own are not "
            "looked into); write Step(backward=policy_gradient())"
        )
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training for part in network.modules()):
        raise ValueError(
            "needed layers that treat rows apart, got batch normalization in training mode, which mixes the draws of a "
            "row with those of others; use nn.LayerNorm"
        )
    return [nn.Sequential(*segment) for segment in segments], steps


def _layers(network: nn.Sequential) -> list[nn.Module]:
    return [part for layer in network for part in (_layers(layer) if isinstance(layer, nn.Sequential) else [layer])]


def _run(segment: nn.Sequential, hidden: Tensor, *, lead: tuple[int, ...] | None = None) -> Tensor:
    """A segment on ``*lead rows *features``, which it sees as rows alone."""
    if lead is None:
        lead = tuple(hidden.shape[:1])
    if not len(segment):
        return hidden
    output: Tensor = segment(hidden.flatten(0, len(lead)))
    return output.reshape(*lead, hidden.shape[len(lead)], *output.shape[1:])


def _values(step: Unit, decision: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
    """What a step gives for decisions 0 and 1, and linearly between."""
    return 2 * decision - 1 if isinstance(step, Sign) else decision


def _blocks(units: int, numbers: int) -> Iterator[slice]:
    """Consecutive slices of the units, each of which makes about as many numbers as a processor's cache holds."""
    size = max(1, _CACHED // max(1, numbers))
    return (slice(start, min(start + size, units)) for start in range(0, units, size))


def _dtype(segment: nn.Sequential) -> torch.dtype:
    return next((weight.dtype for weight in segment.parameters()), torch.get_default_dtype())
