"""The expected loss of a network whose steps are drawn, by policy gradients nested in one another."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rlgrad.checks import check_generator, describe
from rlgrad.estimators import Estimator, as_estimator, learning_credit
from rlgrad.estimators.surrogate import check_draws
from rlgrad.objective import MetricLoss
from rlgrad.policies import open_uniform
from rlgrad.stochastic.joint import Joint
from rlgrad.stochastic.networks import Chain, Runner, Stop, opened
from rlgrad.stochastic.units import Layer, layer_of

_CACHED = 1 << 17  # numbers
_LOOKS = 8  # draws of a whole batch by which its rows are given credit
RowLoss = Callable[[Tensor, Tensor], Tensor]


class ExpectedLoss(nn.Module):
    """The expected loss of a network whose steps are drawn, with a policy gradient through each of them.

    Called with a network, its input and the target, it stands where ``criterion(network(x), target)`` stood, and
    ``rlgrad.fit`` takes it as the criterion of a stage. Credit is per row: each row of the batch is scored by its own
    loss, so the network must treat rows apart (no batch normalization). Layers after a step learn by back-propagation
    from the draws.

    A ``MetricLoss`` makes hard units learn from a hard metric, with no surrogate on the way: of each row, where the
    network gives a row several logits, or of the whole batch, where it gives one decision. Credit is per row there too:
    the rows of a batch are first drawn together, eight times, and each is then scored by what its decision adds to the
    metric among those of the others. A black box is asked for that once for each row; a formula of counts knows.

    The network may be any module, and may hold drawn steps anywhere. An ``nn.Sequential`` of them runs piece by piece;
    any other is run from its input for each question, so its time grows with the square of its layers of steps. Runs
    that come later, as those of activation checkpointing, would find hard steps: leave it out.

    Args:
        loss: function of ``(output, target)`` with one loss for each row, ``rows *classes`` and ``rows`` to ``rows``,
            such as ``nn.CrossEntropyLoss(reduction="none")``; or a ``MetricLoss``. It is called with the rows of
            several draws of the batch, one draw after the other.
        estimator: of the gradient of each layer of steps, or its name. The default asks for each unit what the loss
            would have been, had it gone the other way; where an ``nn.Linear`` follows that is one row of its weights
            more, anywhere else a run of what follows: after convolutions, or in a module of one's own, ``disarm`` and
            ``muprop`` are far cheaper. ``muprop``, ``REBAR`` and ``RELAX`` take the surrogate's own gradient, of soft
            units, off the noise.
        temperature: of the noise. The smaller, the nearer to hard units, and the fainter the gradient. Two numbers are
            the first and the last of a geometric schedule: for a network that is judged with hard units take one, such
            as (1.0, 0.3), since at 1 alone it may learn little.
        calls: over how many calls in training mode the schedule runs, epochs times batches. They are counted as long as
            the criterion lives: take a new one for the next training.
        generator: source of randomness, on the device of the network.

    Raises:
        ValueError: a temperature that is not above 0, or a schedule without calls; on use, a loss that is not one
            number for each row.
        TypeError: what is given for an estimator is none; on use, the output in place of the network, or a network that
            has no step to be drawn.

    Warns:
        UserWarning: beside the drawn steps there are some with the true derivative, zero: nothing before them learns.

    Source: Williams (1992); Titsias, Lazaro-Gredilla (2015) for the default estimator.

    Example:
        >>> from rlgrad.steps import Step
        >>> from rlgrad.stochastic import policy_gradient
        >>> network = nn.Sequential(nn.Linear(4, 8), Step(backward=policy_gradient()), nn.Linear(8, 3))
        >>> criterion = ExpectedLoss(nn.CrossEntropyLoss(reduction="none"), temperature=(1.0, 0.3), calls=100)
        >>> criterion(network, torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])).backward()
        >>> network[0].weight.grad.abs().sum() > 0
        tensor(True)
    """

    called: Tensor

    def __init__(
        self,
        loss: RowLoss,
        estimator: str | Estimator = "counterfactual",
        *,
        temperature: float | tuple[float, float] = 1.0,
        calls: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        first, last = _first_and_last(temperature)
        if first != last and calls < 1:
            raise ValueError(f"needed the number of calls that the schedule {temperature} takes, got {calls}")
        check_generator(generator)
        if isinstance(loss, MetricLoss) and loss.reduction != "mean":
            raise ValueError(f"needed a MetricLoss with its mean over rows, got reduction={loss.reduction!r}; leave it")
        self.loss = loss
        self.estimator = as_estimator(estimator)
        self.credit = learning_credit(self.estimator)
        self.first, self.last, self.calls = first, last, calls
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

    def forward(self, network: nn.Module, x: Tensor, target: Tensor | None = None) -> Float[Tensor, ""]:
        """The mean over rows of the estimated expected loss."""
        if target is None:
            raise TypeError(
                "needed the network itself, its input and the target, got two of them; call criterion(network, x, y), "
                "not criterion(network(x), y)"
            )
        runner = opened(network, x)
        if isinstance(self.loss, MetricLoss) and isinstance(runner, Chain) and runner.ends_in_steps:
            raise TypeError(
                "needed logits for MetricLoss, which draws decisions of them, got a network that ends in drawn steps; "
                "leave the last one out"
            )
        reward = _Nest(self, runner, target).expected(_started(runner))
        if self.training:
            self.called += 1
        return -reward.sum() / max(1, reward.numel())


def averaged(
    network: nn.Module,
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

    Raises:
        TypeError: no step of the network is drawn.
        ValueError: fewer draws than 1, a temperature that is not above 0.

    Example:
        >>> from rlgrad.steps import Step
        >>> from rlgrad.stochastic import policy_gradient
        >>> network = nn.Sequential(nn.Linear(4, 8), Step(backward=policy_gradient()), nn.Linear(8, 3))
        >>> averaged(network, torch.randn(5, 4), draws=100).shape
        torch.Size([5, 3])
    """
    check_draws(draws, least=1)
    temperature, _ = _first_and_last(temperature)
    return _outputs(opened(network, x), draws, temperature, generator).mean(0)


def _first_and_last(temperature: float | tuple[float, float]) -> tuple[float, float]:
    pair = temperature if isinstance(temperature, tuple | list) else (temperature, temperature)
    if len(pair) != 2 or not all(isinstance(each, int | float) and 0 < each < float("inf") for each in pair):
        raise ValueError(f"needed temperatures above 0, got {temperature!r}; 1.0, or (1.0, 0.3) over a training")
    return float(pair[0]), float(pair[1])


def _started(runner: Runner) -> Stop:
    """The first stop, which is before a step."""
    stop = runner.start()
    if stop.unit is None:
        raise TypeError(
            "needed a network that calls a drawn step on its way, got one that calls none; call the module itself, not "
            "its forward"
        )
    return stop


def _outputs(
    runner: Runner, draws: int, temperature: float, generator: torch.Generator | None
) -> Float[Tensor, "draws rows *classes"]:
    """What a network gives when its steps are drawn."""
    stop = _started(runner)
    while stop.unit is not None:
        inputs = stop.inputs.expand(draws, *stop.inputs.shape[-2:])
        logistic = temperature * torch.logit(_noise(tuple(inputs.shape), inputs, generator))
        stop = runner.resume(stop, layer_of(stop.unit, inputs).drawn(logistic))
    return stop.reached


def _noise(shape: tuple[int, ...], inputs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform noise for units with these inputs: in half precision it would have but a few hundred values."""
    like = inputs.new_empty((), dtype=torch.promote_types(inputs.dtype, torch.float32))
    return open_uniform(shape, like=like, generator=generator)


class _Nest:
    """A network with its steps drawn, on one batch.

    All that is asked about a batch shares the noise of later steps: it does not depend on what was decided before, and
    what it does to two decisions cancels in their comparison.
    """

    def __init__(self, criterion: ExpectedLoss, runner: Runner, target: Tensor) -> None:
        self.criterion, self.runner, self.target = criterion, runner, target
        self.temperature = criterion.temperature
        self.noise: dict[tuple[int, int, int], Tensor] = {}
        self.logistic: dict[int, Tensor] = {}
        self.joint: Joint | None = None

    def expected(self, stop: Stop, *, learns: bool = True) -> Float[Tensor, "*lead rows"]:
        """The reward to be expected from where a run stands; estimators learn from it unless it is only a guess."""
        if stop.unit is None:
            return -self._losses(stop, self._loss(stop))
        layer, level = layer_of(stop.unit, stop.inputs), len(stop.before)
        calls = count()  # an estimator may draw in several portions, each with a noise of its own
        policy = layer.policy(self.temperature, lambda draws: self._uniform(level, draws, layer.inputs, next(calls)))
        return self.criterion.estimator(policy, _Rest(self, stop, layer, learns), generator=self.criterion.generator)

    def drawn(self, stop: Stop) -> Float[Tensor, "*lead rows"]:
        """The reward when all that follows is drawn once: what if, which is asked often."""
        while stop.unit is not None:
            layer = layer_of(stop.unit, stop.inputs)
            stop = self.runner.resume(stop, layer.drawn(self._logistic(len(stop.before), layer.inputs)))
        loss = self.criterion.loss
        if isinstance(loss, MetricLoss) and not self._is_joint(loss, stop):
            return -self._losses(stop, partial(self._decided, loss, len(stop.before)))
        return -self._losses(stop, self._loss(stop))

    def _losses(self, stop: Stop, loss: RowLoss) -> Float[Tensor, "*lead rows"]:
        *lead, rows = stop.reached.shape[: stop.lead + 1]
        target = self.target.expand(*lead, *self.target.shape).flatten(0, stop.lead)
        losses: object = loss(stop.reached.flatten(0, stop.lead), target)
        if not isinstance(losses, Tensor) or losses.shape != target.shape[:1]:
            got = describe(losses) if isinstance(losses, Tensor) else repr(losses)
            raise ValueError(
                f'needed one loss for each of {len(target)} rows, got {got}; use reduction="none", '
                "a mean over all axes of the loss but the first, and a target of the output's shape"
            )
        return losses.reshape(*lead, rows)

    def _loss(self, stop: Stop) -> RowLoss:
        loss = self.criterion.loss
        if not isinstance(loss, MetricLoss):
            return loss
        if not self._is_joint(loss, stop):
            return partial(loss.of_rows, generator=self.criterion.generator)
        if self.joint is None:
            with torch.no_grad():
                outputs = _outputs(self.runner, _LOOKS, self.temperature, self.criterion.generator)
            self.joint = Joint.of(loss, outputs, self.target, generator=self.criterion.generator)
        return self.joint

    def _is_joint(self, loss: MetricLoss, stop: Stop) -> bool:
        return stop.reached.ndim - stop.lead - 1 < len(loss.policy.axes)

    def _decided(self, loss: MetricLoss, level: int, logits: Tensor, target: Tensor) -> Tensor:
        """Of decisions that are drawn as well, in place of the expectation over them."""
        policy = loss.policy(logits)
        noise = self._uniform(level, 1, policy.logits.new_empty(self.target.shape))
        decision = policy.decide(noise.repeat(1, len(target) // max(1, len(self.target)), 1))
        return 1 - loss.metric(decision[0], target)

    def _uniform(self, level: int, draws: int, inputs: Tensor, portion: int = 0) -> Float[Tensor, "draws rows units"]:
        key = level, draws, portion
        if key not in self.noise:
            self.noise[key] = _noise((draws, *inputs.shape[-2:]), inputs, self.criterion.generator)
        return self.noise[key]

    def _logistic(self, level: int, inputs: Tensor) -> Float[Tensor, "rows units"]:
        # u < sigmoid(z / temperature) where z > temperature x logit(u)
        if level not in self.logistic:
            self.logistic[level] = self.temperature * torch.logit(self._uniform(level, 1, inputs)[0])
        return self.logistic[level]


class _Rest:
    """What follows a layer of steps, as the score of its decisions."""

    def __init__(self, nest: _Nest, stop: Stop, layer: Layer, learns: bool) -> None:
        self.nest, self.stop, self.layer, self.learns = nest, stop, layer, learns

    def __call__(self, decision: Shaped[Tensor, "draws *batch units"]) -> Float[Tensor, "draws *batch"]:
        """Rewards of the decisions."""
        return self._expected(self.layer.encoded(decision), learns=self.learns)

    def relaxed(self, decision: Float[Tensor, "draws *logits"]) -> Float[Tensor, "draws *batch"]:
        """Rewards of decisions between 0 and 1."""
        return self._expected(decision.to(self.layer.inputs.dtype), learns=False)

    def _expected(self, decision: Tensor, *, learns: bool) -> Tensor:
        return self.nest.expected(self.nest.runner.resume(self.stop, self.layer.values(decision)), learns=learns)

    @torch.no_grad()
    def gain(self, decision: Shaped[Tensor, "draws *batch units"]) -> Float[Tensor, "draws *logits"]:
        """What each unit is worth: the reward when it alone moves less the reward now, under the same noise."""
        nest, runner = self.nest, self.nest.runner
        values = self.layer.values(self.layer.encoded(decision))
        shortcut = runner.shortcut(self.stop, values) if isinstance(runner, Chain) else None
        each = torch.eye(values.shape[-1], dtype=values.dtype, device=values.device)
        now, directions, run_on = shortcut or (values, each, partial(runner.resume, self.stop))

        def added(moves: Tensor) -> Tensor:
            rewards = [nest.drawn(run_on(changed)) for changed in _moved(now, moves, directions)]
            return torch.cat(rewards).movedim(0, -1) - before

        before = nest.drawn(run_on(now.clone()))[..., None]  # of a copy, since a layer may work in place
        return self.layer.gains([added(moves) for moves in self.layer.moves(decision)], decision)

    def __repr__(self) -> str:
        return "the rest of a network"


def _moved(
    now: Float[Tensor, "*lead rows numbers"],
    moves: Float[Tensor, "*lead rows units"],
    directions: Float[Tensor, "units numbers"],
) -> Iterator[Float[Tensor, "some *lead rows numbers"]]:
    """The numbers after each single move along its direction, so many at once as a processor's cache holds."""
    units = moves.shape[-1]
    size = max(1, _CACHED // max(1, now.numel()))
    for start in range(0, units, size):
        part = slice(start, min(start + size, units))
        move = moves[..., part].movedim(-1, 0).contiguous()[..., None]
        along = directions[part].contiguous().reshape(-1, *[1] * (now.ndim - 1), now.shape[-1])
        yield torch.addcmul(now, move, along)
