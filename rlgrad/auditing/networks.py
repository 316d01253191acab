"""``audit_network``: gradients through hard steps against the true gradient of the expected loss, in the weights."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.auditing.bench import Bench, View, check_effort, check_not_zero, versions
from rlgrad.auditing.bias import Truth
from rlgrad.auditing.candidates import Tally, TooSlow, candidates, default_estimators, seeded, uphill
from rlgrad.auditing.drawn import UnitRarity, draw, drawn_steps, weights_of
from rlgrad.auditing.result import Audit
from rlgrad.auditing.truth import OUTCOMES, Found, Way, listed, long_run, seconds_a_reward
from rlgrad.checks import describe, first_index
from rlgrad.estimators import Estimator, counterfactual, gumbel_softmax, score_function
from rlgrad.estimators.surrogate import relaxed_rewards
from rlgrad.metrics import Score
from rlgrad.metrics.counts import count_dtype
from rlgrad.objective import MetricLoss
from rlgrad.policies import Policy, independent
from rlgrad.steps import RULES, Rule, straight_through
from rlgrad.steps.rules import as_rule
from rlgrad.stochastic import ExpectedLoss

RowLoss = Callable[[Tensor, Tensor], Tensor]
_HELD = 1 << 24  # units of all rows and outcomes that are held at once


def mean_field(policy: Policy, score: Score, *, generator: torch.Generator | None = None) -> Float[Tensor, "*batch"]:
    """What a network of probabilities gives in place of decisions: no noise, and biased.

        E[r(b)] ~ r(E[b])

    Exact where the reward is linear in the decisions.

    Args:
        policy: of the decisions.
        score: that is differentiable between them.
        generator: not used.

    Example:
        >>> from rlgrad import Bernoulli, Downstream
        >>> mean_field(Bernoulli(torch.zeros(2)), Downstream(lambda hidden: hidden.square().sum(-1)))
        tensor(0.5000)
    """
    policy = independent(policy, who="mean_field")
    return relaxed_rewards(score, policy, policy.probs[None], who="mean_field")[0]


def default_network_estimators() -> dict[str, Estimator]:
    """Those of ``default_estimators`` but ``exact``; Gumbel-softmax with hard decisions as well; ``mean_field``."""
    usual = {name: each for name, each in default_estimators().items() if name != "exact"}
    return {**usual, "gumbel_softmax-hard": gumbel_softmax(hard=True), "mean_field": mean_field}


def default_rules() -> dict[str, Rule | None]:
    """Those of ``rlgrad.steps.RULES``, the clipped straight-through, and None, the true derivative."""
    named: dict[str, Rule | None] = {name: rule() for name, rule in RULES.items()}
    named |= {"straight_through-1": straight_through(clip=1.0), "none": None}
    return {f"rule-{name}": rule for name, rule in named.items()}


def audit_network(
    network: nn.Module,
    x: Tensor,
    target: Tensor,
    loss: RowLoss | None = None,
    estimators: Mapping[str, Estimator] | None = None,
    rules: Mapping[str, Rule | str | None] | None = None,
    *,
    temperature: float = 1.0,
    estimates: int = 1000,
    seconds: float = 0.8,
    truth_seconds: float = 10.0,
    seed: int = 0,
    problem: str = "batch",
    progress: bool = False,
) -> Audit:
    """Measure how good gradients through the hard steps of a network are, on a batch of one's own.

    The objective is that of ``ExpectedLoss``: the mean over rows of the expected loss, where each step with
    ``policy_gradient()`` is drawn at the temperature. Its true gradient in all weights is found by listing the outcomes
    of all layers where that is possible, and otherwise by a long run of an unbiased estimator, whose standard error is
    shown and taken into account. Against it stand estimators, which draw the units; and surrogate rules, which leave
    the steps hard and put a pseudo-derivative in place of theirs. The loss of the hard network is flat before its last
    step, so there is no other gradient to compare rules with; how long theirs is is not held against them, as for any
    surrogate. A bias is tested in projections that weigh all weights, where enough of the units that drive them are
    undecided, and no few dear rows and draws make all of the noise; false alarms were 0.8% in trained networks, and a
    run too short to tell says so. See ``UnitRarity``.

    Args:
        network: with steps that are drawn. It is copied, in evaluation mode: no dropout, batch normalization by what it
            has stored. Weights that take no gradient are left out.
        x: ``rows *features``.
        target: ``rows ...``, in the form that the loss takes.
        loss: function of ``(output, target)`` with one loss for each row; cross-entropy by default. The truth is found
            in double precision, if the loss and the network take that, and otherwise in that of the weights.
        estimators: by name, each called ``(policy, score, generator=...)`` for E[reward]; the library's own by default.
            They are copied: what they learn or remember here is forgotten.
        rules: by name, backward rules of ``rlgrad.steps``, or None for the true derivative; all of them by default. It
            is zero but for a ``QPWC``: that is not hard, is run with its smooth slopes, and has a gradient of its own.
        temperature: of the noise of the units.
        estimates: of each candidate, at most.
        seconds: for each candidate, as in ``audit``.
        truth_seconds: that a long run for the truth may take.
        seed: of all draws. Numbers repeat if ``estimates`` end a run, not ``seconds``.
        problem: what the table calls it.
        progress: show a bar.

    Returns:
        The result: ``print`` it, or ``save`` it as JSON. A row has the space ``weights``, and the same for each of its
        ``layers``.

    Raises:
        TypeError: no network with steps that are drawn, or one that does not call them; x or target that is no tensor;
            a candidate or a rule that is none.
        ValueError: x and target of different lengths, NaN or infinity in x, a loss that is not one number for each row,
            weights of which none takes a gradient, fewer than 2 estimates, or a true gradient of zero.

    Example:
        >>> from rlgrad.estimators import disarm
        >>> from rlgrad.steps import Step
        >>> from rlgrad.stochastic import policy_gradient
        >>> _ = torch.manual_seed(0)
        >>> network = nn.Sequential(nn.Linear(2, 3), Step(backward=policy_gradient()), nn.Linear(3, 2))
        >>> x, y = torch.randn(8, 2), torch.arange(8) % 2
        >>> chosen = {"estimators": {"disarm": disarm(2)}, "rules": {"arctan": "arctan"}}
        >>> found = audit_network(network, x, y, **chosen, estimates=100, seconds=60.0)
        >>> found.truth, found["disarm"].biased, found["arctan"].biased
        ('every outcome, listed', False, True)
    """
    _check(network, x, target, loss)
    check_effort(estimates, seconds, truth_seconds)
    row_loss = nn.CrossEntropyLoss(reduction="none") if loss is None else loss
    point = Network(network, x, target, row_loss, temperature, seed=seed)
    chosen = default_network_estimators() if estimators is None else estimators
    compared = candidates(point, chosen, _ruled(point, rules), seed=seed)
    found = _find(point, seconds=truth_seconds, seed=seed)
    guard = UnitRarity(*point.wide, temperature, seeded(point.device, seed, "rarity"))
    view = View(found.truth)
    least = max(1e-12 * float(guard.spread.norm()), torch.finfo(point.dtype).tiny)
    check_not_zero(view, least, where="weights", advice="take a batch that the network has something to learn from")
    bench = Bench(point, found, guard, {"weights": view}, estimates, seconds, seed, dict(_layers(point, found.truth)))
    return Audit(
        problem=problem,
        metric=getattr(row_loss, "__name__", type(row_loss).__name__),
        policy="Bernoulli" if all(len(layer.thresholds) == 1 for layer in point.layers) else "Categorical",
        shape=tuple(target.shape),
        weights=found.truth.gradient.numel(),
        truth=found.how,
        noise=view.noise,
        noise_weights=None,
        norm=math.sqrt(found.truth.squared),
        rows=bench.rows(compared, progress=progress),
        seed=seed,
        device=str(point.device),
        versions=versions(),
        units=tuple(layer.units for layer in point.layers),
        temperature=temperature,
    )


class Side(NamedTuple):
    """A network with what it is asked about, in one precision.

    Args:
        network: a copy.
        x: ``rows *features``.
        target: ``rows ...``.
        loss: of each row.
    """

    network: nn.Module
    x: Tensor
    target: Tensor
    loss: RowLoss

    @classmethod
    def of(cls, network: nn.Module, x: Tensor, target: Tensor, loss: RowLoss, dtype: torch.dtype) -> "Side":
        """Copies, with all that is floating point of this dtype."""
        return cls(
            copy.deepcopy(network).to(dtype).eval(),
            _converted(x, dtype),
            _converted(target, dtype),
            copy.deepcopy(loss).to(dtype) if isinstance(loss, nn.Module) else loss,
        )

    @torch.no_grad()
    def runs(self) -> bool:
        """Whether network and loss take this precision: tensors that they hold may be of another."""
        try:
            self.loss(self.network(self.x), self.target)
        except Exception:
            return False
        return True


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor


class Network:
    """The weights of a network of drawn steps, and the mean over rows of minus the expected loss.

    Args:
        network: which is copied.
        x: ``rows *features``.
        target: ``rows ...``.
        loss: one for each row.
        temperature: of the noise of the units.
        seed: of the draw that layers are looked at by.
    """

    def __init__(
        self, network: nn.Module, x: Tensor, target: Tensor, loss: RowLoss, temperature: float, *, seed: int
    ) -> None:
        weight = weights_of(network)[0]
        self.device, self.temperature = weight.device, temperature
        self.dtype = torch.promote_types(weight.dtype, torch.float32)
        self.own = Side.of(network, x, target, loss, self.dtype)
        wide = Side.of(network, x, target, loss, count_dtype(self.device))
        self.wide = wide if wide.runs() else self.own
        with torch.no_grad():
            self.layers = draw(self.own.network, self.own.x, temperature, seeded(self.device, seed, "layers")).layers
        if not self.layers:
            raise TypeError(
                "needed a network that calls a drawn step on its way, got one that calls none; call the module itself, "
                "not its forward"
            )

    def rewards(self, draws: int, *, generator: torch.Generator) -> Tensor:
        """Minus the mean loss of all."""
        network, x, target, loss = self.own
        criterion = ExpectedLoss(loss, temperature=self.temperature, generator=generator)
        with torch.no_grad():
            mean: Tensor = criterion(network, torch.cat([x] * draws), torch.cat([target] * draws))
        return -mean

    def estimate(
        self, estimator: Estimator, generator: torch.Generator, *, wide: bool = False, tally: Tally | None = None
    ) -> Float[Tensor, " numbers"]:
        """One estimate of the gradient in all weights, one after the other."""
        network, x, target, loss = self.wide if wide else self.own
        if tally is not None:
            loss = _Counted(loss, tally, rows=len(x), room=_HELD // (len(x) * self.units))
        criterion = ExpectedLoss(loss, estimator, temperature=self.temperature, generator=generator)
        return uphill(-criterion(network, x, target), weights_of(network), "weights")

    def ruled(self, rule: Rule | None) -> nn.Module:
        """The network with hard steps that have this backward rule, or None for the true derivative."""
        network = copy.deepcopy(self.own.network)
        for step in drawn_steps(network):
            step.backward = rule
        return network

    def descent(self, surrogate: nn.Module) -> Float[Tensor, " numbers"]:
        """Where the loss of such a network falls, as back-propagation has it."""
        weights = weights_of(surrogate)
        loss = self.own.loss(surrogate(self.own.x), self.own.target).mean()
        # A true derivative of zero may leave no path to any weight.
        return -uphill(loss + 0 * torch.stack([weight.sum() for weight in weights]).sum(), weights, "weights")

    @property
    def units(self) -> int:
        """Drawn of a row, in all layers."""
        return sum(layer.units for layer in self.layers)


@dataclass
class _Counted:
    """A loss that counts how often each row's is asked for, and how many are kept for the way back."""

    loss: RowLoss
    tally: Tally
    rows: int
    room: int
    kept: int = 0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        asked = len(target) // self.rows
        self.tally.add(asked)
        self.kept += asked if output.requires_grad else 0
        if self.kept > self.room:
            raise TooSlow(f"too large: it would keep more than {self.room} losses of each row; take fewer rows")
        return self.loss(output, target)


def _check(network: nn.Module, x: Tensor, target: Tensor, loss: object) -> None:
    if not isinstance(network, nn.Module) or not drawn_steps(network):
        got = "one without" if isinstance(network, nn.Module) else repr(network)
        raise TypeError(f"needed a network with drawn steps, got {got}; write Step(backward=policy_gradient())")
    if isinstance(loss, MetricLoss):
        raise TypeError("needed a function with one loss for each row, got a MetricLoss; audit it without the network")
    if not weights_of(network):
        raise ValueError("needed weights that take gradients, got none; call requires_grad_() on some")
    for name, given in (("x", x), ("target", target)):
        if not isinstance(given, Tensor):
            raise TypeError(f"needed {name} as a tensor, got {type(given).__name__}; convert it with torch.as_tensor")
        if not given.ndim:
            raise ValueError(f"needed {name} with a row axis, got {describe(given)}; give one for each row")
    if not len(x) or len(x) != len(target):
        raise ValueError(
            f"needed a target for each row of x, got {describe(target)} for {describe(x)}; give both whole"
        )
    if (bad := ~torch.isfinite(x)).any():
        raise ValueError(
            f"needed input without NaN or infinity, got {int(bad.sum())}, the first at {first_index(bad)}; mend it"
        )


def _ruled(point: Network, rules: Mapping[str, Rule | str | None] | None) -> dict[str, nn.Module]:
    chosen: Mapping[str, Rule | str | None] = default_rules() if rules is None else rules
    if not isinstance(chosen, Mapping):
        raise TypeError(f"needed rules by name, got {rules!r}; pass a dictionary such as {{'mine': arctan(slope=4)}}")
    return {name: point.ruled(as_rule(rule)) for name, rule in chosen.items()}


def _find(point: Network, *, seconds: float, seed: int) -> Found:
    each = seconds_a_reward(point, seed)
    bits = sum(layer.bits for layer in point.layers)
    outcomes = 2 ** min(bits, 64.0)
    held = outcomes * len(point.own.x) * point.units
    if outcomes <= OUTCOMES and held <= _HELD and outcomes * each <= seconds:
        return replace(listed(point), each=each)
    ways = [Way("counterfactual", counterfactual(), 1), Way("leave-one-out REINFORCE", score_function(2), 2)]
    return replace(long_run(point, ways, seconds=seconds, seed=seed), each=each)


def _layers(point: Network, truth: Truth) -> Iterator[tuple[str, slice]]:
    """The weights of each module that has a true gradient, as part of all."""
    named = [(name, weight) for name, weight in point.own.network.named_parameters() if weight.requires_grad]
    start = 0
    children = dict(point.own.network.named_children())
    root = "network" if "network" not in children else "network itself"
    for layer, weights in groupby(named, lambda each: each[0].rpartition(".")[0]):
        part = slice(start, start := start + sum(weight.numel() for _, weight in weights))
        if View(truth.part(part)).tells(0.0):
            yield layer or root, part
