"""What every estimator keeps to: shapes, dtypes, randomness, errors, and the ends of the number line."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rlgrad.estimators
from rlgrad.credit import LearnedValue
from rlgrad.estimators import (
    REBAR,
    RELAX,
    Estimator,
    arm,
    blockwise,
    counterfactual,
    disarm,
    enumeration,
    evolution_strategies,
    exact,
    gumbel_softmax,
    importance_weighted,
    inclusion_weighted,
    muprop,
    score_function,
    spsa,
    straight_through,
    sum_and_sample,
    unordered_set,
)
from rlgrad.metrics import Downstream, OpaqueMetric, Score, Scorer, f1
from rlgrad.policies import Bernoulli, Categorical, Gaussian, Policy


class PerRow(nn.Module):
    """One number for each row, whatever the number of items."""

    def __init__(self, *, classes: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))
        self.classes = classes

    def forward(self, values: Tensor) -> Tensor:
        rows = values.nan_to_num(0, 0, 0).clamp(-5, 5)
        return (self.weight.to(values.dtype) * rows).sum((-1, -2) if self.classes else -1)


def remembered(policy: Policy, score: Score, *, generator: torch.Generator | None = None) -> Tensor:
    return importance_weighted.draw(policy, score, draws=4, generator=generator)(policy, score)


@dataclass(frozen=True)
class Kind:
    """An estimator, and what it is like."""

    make: Callable[[], Estimator]
    of: Callable[[Any], object] | None = None  # with so many draws; None where nothing is drawn
    least: int = 1
    pairs: bool = False
    classes: bool = True  # takes Categorical too
    numbers: bool = False  # and Gaussian
    derivative: bool = False  # asks for the score between the decisions
    noisy_where_sure: bool = False  # a sure decision gets a share of the noise of the others


KINDS = {
    "score_function": Kind(lambda: score_function(draws=4), lambda n: score_function(draws=n), least=2, numbers=True),
    "learned value": Kind(
        lambda: score_function(draws=4, credit=LearnedValue(PerRow())),
        lambda n: score_function(draws=n, credit=LearnedValue(PerRow())),
        classes=False,
    ),
    "counterfactual": Kind(lambda: counterfactual(draws=2), lambda n: counterfactual(draws=n)),
    "blockwise": Kind(lambda: blockwise(draws=2, blocks=2), lambda n: blockwise(draws=n, blocks=2), least=2),
    "importance_weighted": Kind(
        lambda: remembered,
        lambda n: importance_weighted.draw(Bernoulli(torch.zeros(3)), lambda b: b.float().sum(-1), draws=n),
        least=2,
        numbers=True,
    ),
    "arm": Kind(lambda: arm(draws=4), lambda n: arm(draws=n), 2, pairs=True, classes=False, noisy_where_sure=True),
    "disarm": Kind(lambda: disarm(draws=4), lambda n: disarm(draws=n), 2, pairs=True, classes=False),
    "exact": Kind(exact, classes=False),
    "enumeration": Kind(enumeration),
    "sum_and_sample": Kind(
        lambda: sum_and_sample(summed=2, draws=2), lambda n: sum_and_sample(draws=n)
    ),
    "unordered_set": Kind(lambda: unordered_set(draws=3), lambda n: unordered_set(draws=n), 2),
    "inclusion_weighted": Kind(
        lambda: inclusion_weighted(draws=3), lambda n: inclusion_weighted(draws=n), 2
    ),
    "muprop": Kind(lambda: muprop(draws=2), lambda n: muprop(draws=n), derivative=True),
    "REBAR": Kind(lambda: REBAR(draws=2), lambda n: REBAR(draws=n), derivative=True),
    "RELAX": Kind(lambda: RELAX(PerRow(), draws=2), lambda n: RELAX(PerRow(), draws=n)),
    "straight_through": Kind(
        lambda: straight_through(draws=2), lambda n: straight_through(draws=n), derivative=True
    ),
    "gumbel_softmax": Kind(lambda: gumbel_softmax(draws=2), lambda n: gumbel_softmax(draws=n), derivative=True),
    "gumbel_softmax, hard": Kind(
        lambda: gumbel_softmax(draws=2, hard=True), lambda n: gumbel_softmax(draws=n, hard=True), derivative=True
    ),
    "spsa": Kind(lambda: spsa(draws=4), lambda n: spsa(draws=n), 2, pairs=True, noisy_where_sure=True, numbers=True),
    "evolution_strategies": Kind(
        lambda: evolution_strategies(draws=4), lambda n: evolution_strategies(draws=n), 2, pairs=True,
        noisy_where_sure=True, numbers=True,
    ),
}  # fmt: skip
WIDTH: dict[type[Policy], tuple[int, ...]] = {Bernoulli: (), Categorical: (3,), Gaussian: (2,)}  # logits of a decision
EACH = [
    pytest.param(name, policy, id=f"{name}, {policy.__name__}")
    for name, kind in KINDS.items()
    for policy, takes in ((Bernoulli, True), (Categorical, kind.classes), (Gaussian, kind.numbers))
    if takes
]
SAMPLING = [name for name, kind in KINDS.items() if kind.of]
ASKING = [name for name in KINDS if name != "exact"]


def test_every_estimator_is_here() -> None:
    names = {name for name in vars(rlgrad.estimators) if not name.startswith("_") and name != "Estimator"}
    public = {name for name in names if isinstance(getattr(rlgrad.estimators, name), type)}
    of_classes_alone = {"second_order"}  # see test_classes.py
    assert public == {name.split(",")[0] for name in KINDS} - {"learned value"} | of_classes_alone


def score_of(name: str, policy: type[Policy], target: Tensor, *, dtype: torch.dtype = torch.float32) -> Score:
    if name == "exact":
        return Scorer(f1, target)
    return score_by(lambda b: b.cumsum(-1).tanh().sum(-1), policy, dtype=dtype)


def score_by(function: Callable[[Tensor], Tensor], policy: type[Policy], *, dtype: torch.dtype | None = None) -> Score:
    """A function of the decisions of a row, numbers or one-hot, as one vector."""
    if policy is Gaussian:
        return function
    if policy is Categorical:
        return Downstream(lambda b: function(b.flatten(-2)), classes=3, dtype=dtype)
    return Downstream(function, dtype=dtype)


def logits_of(policy: type[Policy], *batch: int, items: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = (*batch, items, *WIDTH[policy])
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def target_of(policy: type[Policy], logits: Tensor) -> Tensor:
    shape = logits.shape[:-1] if WIDTH[policy] else logits.shape
    return (torch.arange(math.prod(shape)).reshape(shape) % 3 == 0).long()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(
    name: str, policy: type[Policy], logits: Tensor, *, seed: int = 0, score: Score | None = None
) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    leaf = logits.clone().requires_grad_()
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    score = score or score_of(name, policy, target_of(policy, logits), dtype=wide)
    value = KINDS[name].make()(policy(leaf), score, generator=seeded(seed))
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


# Shapes and dtypes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize(("name", "policy"), EACH)
def test_one_estimate_for_each_row_in_the_dtype_of_the_logits(
    name: str, policy: type[Policy], batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    value, gradient = run(name, policy, logits_of(policy, *batch, dtype=dtype))
    assert value.shape == batch
    assert value.dtype == gradient.dtype == dtype
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (0, 0), (1,), (1, 1)])
@pytest.mark.parametrize(("name", "policy"), EACH)
def test_no_rows_no_items_and_a_single_one(name: str, policy: type[Policy], shape: tuple[int, ...]) -> None:
    logits = torch.full((*shape, *WIDTH[policy]), 0.3)
    value, gradient = run(name, policy, logits)
    assert value.shape == shape[:-1]
    assert gradient.shape == logits.shape
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(("name", "policy"), EACH)
def test_autocast_and_half_precision(name: str, policy: type[Policy]) -> None:
    encoder = nn.Linear(2, 4 * math.prod(WIDTH[policy]))
    decoder = nn.Linear(12 if policy is Categorical else 4, 1)
    inputs = torch.randn(5, 2, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = encoder(inputs)
        assert logits.dtype == torch.bfloat16
        logits = logits.unflatten(-1, (4, *WIDTH[policy]))
        logits.retain_grad()
        score = score_by(lambda b: decoder(b).squeeze(-1).tanh(), policy)
        if name == "exact":
            score = Scorer(f1, torch.ones(5, 4))
        value = KINDS[name].make()(policy(logits), score, generator=seeded())
        assert value.shape == (5,)
        loss = -value.mean()
    loss.backward()
    assert logits.grad.dtype == torch.bfloat16
    assert encoder.weight.grad.dtype == torch.float32
    assert torch.isfinite(logits.grad).all()
    assert encoder.weight.grad.abs().sum() > 0
    if name not in ("exact", "importance_weighted"):  # a formula has no weights; what is remembered has no graph
        assert decoder.weight.grad.abs().sum() > 0
        assert torch.isfinite(decoder.weight.grad).all()


# Randomness


@pytest.mark.parametrize(("name", "policy"), EACH)
def test_a_generator_determines_the_estimate_and_no_other_is_touched(name: str, policy: type[Policy]) -> None:
    before = torch.get_rng_state()
    logits = logits_of(policy, 3)
    first, again, other = (run(name, policy, logits, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[1], other[1]) == (KINDS[name].of is None)


@pytest.mark.parametrize("name", SAMPLING)
def test_without_a_generator_the_global_one_is_drawn_from(name: str) -> None:
    logits = logits_of(Bernoulli, 3)
    score = score_of(name, Bernoulli, target_of(Bernoulli, logits))
    with torch.random.fork_rng(devices=[]):
        gradients: list[Tensor] = []
        for _ in range(2):
            torch.manual_seed(4)
            leaf = logits.clone().requires_grad_()
            gradients += torch.autograd.grad(KINDS[name].make()(Bernoulli(leaf), score).sum(), leaf)
        assert torch.equal(*gradients)


class Noise:
    """Noise for a batch of three rows, of which one may be looked at alone: torch's own functions, replaced.

    Noise is drawn for ``(rows, outcomes)`` or for ``draws rows ...``.
    """

    def __init__(self, row: int | None) -> None:
        self.row = row
        self.generator = seeded()

    def of(self, shape: tuple[int, ...], make: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        axis = 0 if len(shape) == 2 else 1
        assert shape[axis] == (3 if self.row is None else 1)
        full = make((*shape[:axis], 3, *shape[axis + 1 :]))
        return full if self.row is None else full.narrow(axis, self.row, 1)

    def rand(self, shape: tuple[int, ...], *, dtype: torch.dtype, **_: object) -> Tensor:
        return self.of(shape, lambda s: torch_rand(s, dtype=dtype, generator=self.generator))

    def randn(self, shape: tuple[int, ...], *, dtype: torch.dtype, **_: object) -> Tensor:
        return self.of(shape, lambda s: torch_randn(s, dtype=dtype, generator=self.generator))

    def randint(self, low: int, high: int, shape: tuple[int, ...], **_: object) -> Tensor:
        return self.of(shape, lambda s: torch_randint(low, high, s, generator=self.generator))

    def multinomial(self, weights: Tensor, draws: int, **_: object) -> Tensor:
        noise = self.of((len(weights), draws), lambda s: torch_rand(s, dtype=weights.dtype, generator=self.generator))
        cumulative = weights.cumsum(-1)
        return torch.searchsorted(cumulative, noise * cumulative[:, -1:])


torch_rand, torch_randn, torch_randint = torch.rand, torch.randn, torch.randint


@pytest.mark.parametrize(("name", "policy"), EACH)
def test_rows_are_apart(name: str, policy: type[Policy], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of a batch has the value and gradient that it has alone, given the same noise."""
    logits = logits_of(policy, 3, dtype=torch.float64)
    target = target_of(policy, logits)

    def found(row: int | None) -> tuple[Tensor, Tensor]:
        noise = Noise(row)
        for function in ("rand", "randn", "randint", "multinomial"):
            monkeypatch.setattr(torch, function, getattr(noise, function))
        part = slice(None) if row is None else slice(row, row + 1)
        result = run(name, policy, logits[part], score=score_of(name, policy, target[part], dtype=torch.float64))
        monkeypatch.undo()
        return result

    alone = tuple(torch.cat(part) for part in zip(*map(found, range(3)), strict=True))
    torch.testing.assert_close(found(None), alone, rtol=1e-10, atol=1e-13)


# Draws


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", SAMPLING)
def test_draws_are_a_whole_number_and_enough(name: str) -> None:
    kind = KINDS[name]
    for draws in (2.5, 4.0, True, "3", None):
        with pytest.raises(TypeError, match=r"^needed a whole number of draws, got "):
            kind.of(draws)
    for draws in (-1, 0, kind.least - 1):
        with pytest.raises(ValueError, match=r"^needed .*at least [12].*, got -?\d; raise draws$"):
            kind.of(draws)
    if kind.pairs:
        with pytest.raises(ValueError, match=r"^needed an even number of draws, at least 2, got 3; raise draws$"):
            kind.of(3)
    kind.of(kind.least)


# Scores


def bad_scores() -> Iterator[Any]:
    def at(bad: float) -> Callable[[Tensor], Tensor]:
        def score(decision: Tensor) -> Tensor:
            reward = torch.ones(decision.shape[:-1])
            reward[-1, 1] = bad
            return reward

        return score

    shape = r"^needed rewards of shape \(\d+, 2\) \(draws \*batch\), got .*; reduce the items axis alone$"
    yield pytest.param(lambda d: 1.0, TypeError, r"^needed a tensor of rewards, got 1.0; ", id="float")
    yield pytest.param(lambda d: None, TypeError, r"^needed a tensor of rewards, got None; ", id="none")
    yield pytest.param(lambda d: d.float(), ValueError, shape, id="items kept")
    yield pytest.param(lambda d: d.float().sum(), ValueError, shape, id="everything reduced")
    yield pytest.param(lambda d: d.float().sum((0, -1)), ValueError, shape, id="draws reduced")
    yield pytest.param(lambda d: d.float().sum(-1, keepdim=True), ValueError, shape, id="axis kept")
    for bad in (math.nan, math.inf, -math.inf):
        message = rf"^needed finite rewards, got {bad} for draw \d+, row \(1,\); return the worst value"
        yield pytest.param(at(bad), ValueError, message, id=str(bad))


class Both:
    """A function of decisions, given out as differentiable."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function

    def __call__(self, decision: Tensor) -> Any:
        return self.function(decision)

    relaxed = __call__


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(("score", "error", "message"), list(bad_scores()))
@pytest.mark.parametrize("name", ASKING)
def test_what_a_score_returns_is_checked(name: str, score: Score, error: type[Exception], message: str) -> None:
    given = Both(score) if KINDS[name].derivative else score
    with pytest.raises(error, match=message):
        KINDS[name].make()(Bernoulli(torch.zeros(2, 3)), given)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.derivative])
def test_a_black_box_has_no_derivative(name: str) -> None:
    policy = Bernoulli(torch.zeros(2, 3))
    opaque = Scorer(OpaqueMetric(lambda d, t: 1.0, name="mine"), torch.ones(2, 3))
    for score, got in ((opaque, r"OpaqueMetric\(mine\)"), (lambda d: d.float().sum(-1), "<function")):
        start = name.split(",")[0]
        with pytest.raises(TypeError, match=rf"^{start} needed a score that is differentiable in .*, got {got}.*Down"):
            KINDS[name].make()(policy, score)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.derivative and name != "exact"])
def test_a_black_box_will_do(name: str) -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    score = Scorer(OpaqueMetric(lambda d, t: float((d == t).sum() ** 2)), torch.ones(2, 3))
    KINDS[name].make()(Bernoulli(logits), score, generator=seeded()).sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.classes and name != "learned value"])
def test_a_policy_that_it_does_not_take_is_named(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name} needed a Bernoulli policy, got Categorical; use score_function"):
        KINDS[name].make()(Categorical(torch.zeros(3, 2)), Scorer(f1, torch.ones(3)))


# Autograd


@pytest.mark.parametrize(("name", "policy"), EACH)
def test_without_gradient_the_value_is_the_same(name: str, policy: type[Policy]) -> None:
    logits = logits_of(policy, 3)
    score = score_of(name, policy, target_of(policy, logits))
    value, _ = run(name, policy, logits, score=score)
    fixed = KINDS[name].make()(policy(logits), score, generator=seeded())
    torch.testing.assert_close(fixed.detach(), value)
    with torch.no_grad():
        silent = KINDS[name].make()(policy(logits.clone().requires_grad_()), score, generator=seeded())
    assert not silent.requires_grad
    torch.testing.assert_close(silent, value)


@pytest.mark.parametrize(("name", "policy"), EACH)
def test_a_graph_that_is_kept_serves_twice_and_scales(name: str, policy: type[Policy]) -> None:
    leaf = logits_of(policy, 3).requires_grad_()
    score = score_of(name, policy, target_of(policy, leaf))
    value = KINDS[name].make()(policy(leaf), score, generator=seeded())
    first, again = (torch.autograd.grad(value.sum(), leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    (scaled,) = torch.autograd.grad((value * torch.tensor([1.0, -2.0, 0.0])).sum(), leaf)
    factor = torch.tensor([1.0, -2.0, 0.0]).reshape(3, *[1] * (leaf.ndim - 1))
    torch.testing.assert_close(scaled, factor * first)


# The ends of the number line

SURE = [50.0, -50.0, 1e4, -1e4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ends", [[], [math.inf, -math.inf]], ids=["finite", "infinite"])
@pytest.mark.parametrize("name", KINDS)
def test_sure_decisions_have_no_gradient(name: str, ends: list[float], dtype: torch.dtype) -> None:
    logits = torch.tensor([0.3, *SURE, *ends, -0.2], dtype=dtype)
    for seed in range(3):
        value, gradient = run(name, Bernoulli, logits, seed=seed)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        sure = gradient[5:-1] if KINDS[name].noisy_where_sure else gradient[1:-1]
        assert (sure.abs() < 1e-6).all()  # some multiply the derivative of the sigmoid of a relaxed logit
        assert (gradient[len(SURE) + 1 : -1] == 0).all()


@pytest.mark.parametrize("name", KINDS)
def test_nothing_but_sure_decisions(name: str) -> None:
    _, gradient = run(name, Bernoulli, torch.tensor([[1e4, -1e4, 1e4], [-math.inf, math.inf, math.inf]]).double())
    assert (gradient.abs() < 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.classes])
def test_a_masked_class_has_no_gradient(name: str, dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.3, -math.inf, 0.1], [-math.inf, 0.0, 1.0], [0.0, -math.inf, -math.inf]], dtype=dtype)
    for seed in range(3):
        value, gradient = run(name, Categorical, logits, seed=seed)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        assert (gradient[logits.isinf()] == 0).all()
        if not KINDS[name].noisy_where_sure:
            assert gradient[2].abs().max() < 1e-6


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.classes])
def test_sure_classes_have_no_gradient(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [50.0, -50.0, 0.0], [0.1, 0.2, 0.0]], dtype=torch.float64)
    value, gradient = run(name, Categorical, logits)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    if not KINDS[name].noisy_where_sure:
        assert gradient[:2].abs().max() < 1e-6
