"""``audit_network``: the truth against an enumeration by hand, what is told apart, what is left alone and refused."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count, product
from math import inf
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_iris
from torch import Tensor, nn

from rlgrad.auditing import Audit, audit_network, default_network_estimators, default_rules, mean_field
from rlgrad.auditing.bias import EVENTS, bias_test
from rlgrad.auditing.candidates import seeded
from rlgrad.auditing.drawn import UnitRarity, draw
from rlgrad.auditing.networks import Network
from rlgrad.auditing.truth import Way, listed, long_run
from rlgrad.estimators import (
    REBAR,
    Estimator,
    arm,
    counterfactual,
    disarm,
    enumeration,
    gumbel_softmax,
    muprop,
    score_function,
    straight_through,
    unordered_set,
)
from rlgrad.metrics import Score, f1
from rlgrad.objective import MetricLoss
from rlgrad.policies import Bernoulli, Policy
from rlgrad.steps import QPWC, Sign, Staircase, Step
from rlgrad.stochastic import ExpectedLoss, policy_gradient

LOSS = nn.CrossEntropyLoss(reduction="none")
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 1])
UNBIASED: dict[str, Estimator] = {
    "what if": counterfactual(),
    "leave one out": score_function(2),
    "arm": arm(2),
    "disarm": disarm(2),
    "muprop": muprop(1),
    "rebar": REBAR(1),
    "without replacement": unordered_set(3),
    "all": enumeration(),
}
BIASED: dict[str, Estimator] = {
    "straight-through": straight_through(),
    "soft": gumbel_softmax(),
    "hard": gumbel_softmax(hard=True),
    "means": mean_field,
}


def linear(inputs: int, outputs: int, seed: int, scale: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=scale, generator=torch.Generator().manual_seed(seed))
    return layer


def step() -> Step:
    return Step(backward=policy_gradient())


def one() -> Any:
    """Large weights after the step: the loss is far from linear in the decisions, and short cuts err."""
    return nn.Sequential(linear(3, 3, 1), step(), linear(3, 3, 2, scale=3.0))


def two() -> Any:
    rest = nn.Sequential(Sign(backward=policy_gradient()), nn.Tanh(), linear(2, 3, 3))
    return nn.Sequential(linear(3, 3, 1), step(), linear(3, 2, 2), rest)


def expected(layers: list[nn.Module], hidden: Tensor, temperature: float) -> Tensor:
    """The expected loss of each row, by every outcome of every step."""
    if not layers:
        return LOSS(hidden, Y)
    first, *others = layers
    if not isinstance(first, Step | Sign):
        return expected(others, first(hidden), temperature)
    total = torch.zeros(len(Y), dtype=hidden.dtype)
    for outcome in product([0.0, 1.0], repeat=hidden.shape[1]):
        decision = torch.tensor(outcome, dtype=hidden.dtype).expand_as(hidden)
        chance = torch.sigmoid(torch.where(decision > 0, hidden, -hidden) / temperature).prod(1)
        value = decision if isinstance(first, Step) else 2 * decision - 1
        total = total + chance * expected(others, value, temperature)
    return total


def flat(gradients: Any) -> Tensor:
    return torch.cat([each.flatten() for each in gradients])


def uphill(network: nn.Sequential, temperature: float) -> Tensor:
    """Minus the gradient of the expected loss, by hand."""
    wide = copy.deepcopy(network).double()
    layers = [part for layer in wide for part in (layer if isinstance(layer, nn.Sequential) else [layer])]
    return -flat(torch.autograd.grad(expected(layers, X.double(), temperature).mean(), list(wide.parameters())))


def point(network: nn.Module, temperature: float = 1.0) -> Network:
    return Network(network, X, Y, LOSS, temperature, seed=0)


@pytest.fixture(scope="module")
def found() -> Audit:
    return audit_network(one(), X, Y, estimators={**UNBIASED, **BIASED}, estimates=150, seconds=inf)


# The truth.


@pytest.mark.parametrize("make", [one, two])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_the_truth_is_that_of_an_enumeration_by_hand(make: Callable[[], nn.Sequential], temperature: float) -> None:
    network = make()
    truth = listed(point(network, temperature)).truth
    assert truth.blocks is None
    torch.testing.assert_close(truth.gradient, uphill(network, temperature), rtol=0, atol=1e-10)


def test_a_long_run_comes_within_its_error() -> None:
    network = two()
    run = long_run(point(network), [Way("counterfactual", counterfactual(), 1)], seconds=0.5, seed=0).truth
    error = float((run.gradient - uphill(network, 1.0)).square().sum())
    assert 0 < error < 4 * run.noise


def test_many_outcomes_take_a_long_run() -> None:
    network = nn.Sequential(linear(3, 17, 1), step(), linear(17, 3, 2))
    chosen = {"what if": counterfactual()}
    result = audit_network(network, X, Y, None, chosen, {}, estimates=100, seconds=inf, truth_seconds=1.0)
    assert result.truth.startswith("a long run of ")
    assert "standard error" in str(result)
    assert 0 < result.noise < 0.5
    assert result["what if"].biased is False


# What is told apart.


@pytest.mark.parametrize("name", UNBIASED)
def test_no_bias_is_found_where_there_is_none(found: Audit, name: str) -> None:
    assert found.truth == "every outcome, listed"
    assert found[name].error is None
    assert found[name].biased is False


@pytest.mark.parametrize("name", [*BIASED, *default_rules()])
def test_a_bias_is_found(found: Audit, name: str) -> None:
    assert found[name].error is None
    assert found[name].biased is True
    assert found[name].kind == ("surrogate" if name.startswith("rule-") else "estimator")


def test_two_layers() -> None:
    chosen = {"disarm": disarm(2), "means": mean_field}
    result = audit_network(two(), X, Y, None, chosen, {"none": None}, temperature=0.7, estimates=300, seconds=inf)
    assert (result["disarm"].biased, result["means"].biased, result["none"].biased) == (False, True, True)
    assert (result.units, result.temperature, result.shape, result.weights) == ((3, 2), 0.7, (4,), 12 + 8 + 9)
    assert list(result["none"].layers) == ["0", "2", "3.2"]
    assert result["none"].layers["0"].cosine == 0
    assert result["none"].layers["3.2"].cosine > 0.3


def test_a_small_layer_has_a_say() -> None:
    """Before the step the gradient points the wrong way; it is a thousandth of what comes after, which is right."""

    def turned(policy: Policy, score: Score, *, generator: torch.Generator | None = None) -> Tensor:
        return disarm(2)(Bernoulli(2 * policy.logits.detach() - policy.logits), score, generator=generator)

    network = one()
    with torch.no_grad():
        network[2].weight.mul_(1e-3)
    row = audit_network(network, X, Y, None, {"turned": turned}, {}, estimates=150, seconds=inf)["turned"]
    assert row.layers["0"].cosine < 0
    assert 0 <= (row.weights.bias or 0.0) < 0.2
    assert row.biased is True


def test_each_layer_has_its_own_truth(found: Audit) -> None:
    for layer in found["all"].layers.values():
        assert layer.cosine == pytest.approx(1)
        assert layer.bias == 0


def test_the_variance_is_that_of_the_estimates() -> None:
    result = audit_network(one(), X, Y, None, {"a": score_function(2)}, {}, estimates=400, seconds=inf)
    generator, where = seeded(X.device, 5, "again"), point(one())
    sample = torch.stack([where.estimate(score_function(2), generator) for _ in range(400)]).double()
    truth = uphill(one(), 1.0)
    assert result["a"].weights.variance == pytest.approx(float(sample.var(0).sum() / truth.square().sum()), rel=0.2)
    assert result["a"].rewards == 2


# Candidates, each against plain PyTorch.


def test_a_rule_is_back_propagation_through_hard_steps() -> None:
    hard = nn.Sequential(one()[0], Step(backward="arctan"), one()[2])
    plain = flat(torch.autograd.grad(LOSS(hard(X), Y).mean(), list(hard.parameters())))
    where = point(one())
    assert torch.allclose(where.descent(where.ruled(default_rules()["rule-arctan"])), -plain)


def test_the_mean_field_is_a_network_of_sigmoids() -> None:
    class Soft(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(x / 0.5)

    network = nn.Sequential(one()[0], Soft(), one()[2])
    plain = flat(torch.autograd.grad(LOSS(network(X), Y).mean(), list(network.parameters())))
    estimate = point(one(), 0.5).estimate(mean_field, torch.Generator())
    assert torch.allclose(estimate, -plain, atol=1e-6)


def test_the_true_derivative_is_a_step_s_own() -> None:
    network = nn.Sequential(linear(3, 3, 1), QPWC(sharp=5.0, backward=policy_gradient()), linear(3, 3, 2))
    where, x = point(network), X.clone()
    smooth = nn.Sequential(network[0], QPWC(sharp=5.0), network[2])
    plain = flat(torch.autograd.grad(LOSS(smooth(x), Y).mean(), list(smooth.parameters())))
    assert plain[:9].any()
    assert torch.allclose(where.descent(where.ruled(None)), -plain)


def test_a_true_derivative_of_zero_may_leave_no_path() -> None:
    network = one()
    network[2].requires_grad_(False)
    result = audit_network(network, X, Y, None, {}, {"none": None, "arctan": "arctan"}, estimates=5, seconds=inf)
    assert [row.error for row in result.rows] == [None, None]
    assert (result["none"].weights.cosine, result["none"].biased) == (0, True)


def test_what_a_loss_holds_need_not_be_double() -> None:
    weight = torch.tensor([1.0, 2.0, 0.5])
    weighted = lambda output, target: F.cross_entropy(output, target, weight=weight, reduction="none")  # noqa: E731
    wide = nn.CrossEntropyLoss(weight=weight, reduction="none")
    chosen = {"all": enumeration(), "disarm": disarm(2)}
    found, same = (audit_network(one(), X, Y, loss, chosen, {}, estimates=20, seconds=inf) for loss in (weighted, wide))
    assert found.norm == pytest.approx(same.norm, rel=1e-5)
    assert [row.biased for row in found.rows] == [False, False]
    assert found["disarm"].weights.cosine == pytest.approx(same["disarm"].weights.cosine, rel=1e-4)


def test_any_loss_a_row() -> None:
    network = nn.Sequential(linear(3, 3, 1), step(), linear(3, 1, 2), nn.Flatten(0))
    squares = lambda output, target: (output - target).square()  # noqa: E731
    chosen = {"what if": counterfactual()}
    result = audit_network(network, X, X[:, 0], squares, chosen, {"sigmoid": "sigmoid"}, estimates=100, seconds=inf)
    assert result["what if"].biased is False
    assert result.metric == "<lambda>"


class Wrapped(nn.Module):
    """No chain, and units of three levels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = linear(3, 3, 1), linear(3, 3, 2, scale=3.0)
        self.unit = Staircase([0.0, 0.5, 1.0], [-0.5, 0.5], backward=policy_gradient())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.unit(self.first(x)))


def test_staircases_in_a_module_of_one_s_own() -> None:
    chosen = {"what if": counterfactual(), "means": mean_field}
    result = audit_network(Wrapped(), X, Y, None, chosen, {"arctan": "arctan"}, estimates=120, seconds=inf)
    assert result.truth == "every outcome, listed"
    assert [row.biased for row in result.rows] == [False, True, True]
    assert (result.policy, list(result["arctan"].layers)) == ("Categorical", ["first", "last"])
    wide, x = Wrapped().double(), X.double()
    passed = torch.sigmoid(torch.stack([wide.first(x) - at for at in wide.unit.thresholds]))
    chances = torch.stack([1 - passed[0], passed[0] - passed[1], passed[1]])
    loss = torch.zeros(())
    for outcome in product(range(3), repeat=3):
        chance = torch.stack([chances[level, :, unit] for unit, level in enumerate(outcome)]).prod(0)
        values = torch.tensor([wide.unit.levels[level] for level in outcome], dtype=x.dtype).expand(4, -1)
        loss = loss + (chance * LOSS(wide.last(values), Y)).mean()
    truth = flat(torch.autograd.grad(loss, list(wide.parameters())))
    assert result.norm == pytest.approx(float(truth.norm()), rel=1e-9)


def test_the_usual_candidates() -> None:
    result = audit_network(two(), X, Y, estimates=3, seconds=inf)
    assert {row.name for row in result.rows} == {*default_network_estimators(), *default_rules()}
    assert [row.name for row in result.rows if row.error is not None] == []


def test_what_does_not_fit_into_memory_is_not_kept() -> None:
    network = nn.Sequential(linear(3, 12, 1), step(), linear(12, 12, 2), step(), linear(12, 3, 3))
    result = audit_network(
        network, X, Y, None, {"all": enumeration(), "a": arm(2)}, {}, estimates=20, truth_seconds=0.2, seconds=inf
    )
    assert result["all"].error.startswith("too large")
    assert result["a"].error is None


# Rare decisions.


def test_one_draw_of_all_units() -> None:
    found = draw(two(), X, 1.0, torch.Generator().manual_seed(0))
    assert [layer.units for layer in found.layers] == [3, 2]
    assert [layer.bits for layer in found.layers] == [3, 2]
    p = torch.sigmoid(two()[0](X)).double()
    torch.testing.assert_close(found.layers[0].spread(1.0), p * (1 - p), atol=1e-6, rtol=0)
    counts = torch.stack([draw(one(), X, 0.2, torch.Generator().manual_seed(seed)).output for seed in range(600)]).mean(
        0
    )
    torch.testing.assert_close(counts, one()[2](torch.sigmoid(one()[0](X) / 0.2)), atol=0.6, rtol=0)


def test_a_projection_weighs_units_by_how_it_moves_them() -> None:
    network = one().double()
    guard = UnitRarity(network, X.double(), Y, LOSS, 1.0, torch.Generator().manual_seed(0))
    x = X.double().repeat(16, 1)  # rows are few, so that they are drawn several times
    along = torch.randn(1, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = x @ along[0, :9].reshape(3, 3).T + along[0, 9:12]
    p = torch.sigmoid(network[0](x))
    generator = torch.Generator().manual_seed(0)  # of the same noise
    hidden = draw(network, x, 1.0, generator).output
    decided = torch.linalg.lstsq(network[2].weight, (hidden - network[2].bias).T).solution.T
    turned = decided @ along[0, 12:21].reshape(3, 3).T + along[0, 21:]
    output = draw(network, X.double().repeat(512, 1), 1.0, generator).output
    centred = LOSS(output, Y.repeat(512)).reshape(512, 4)
    centred = centred - centred.mean(0)
    second, fourth = (centred.pow(power).mean(0).repeat(16)[:, None].detach() for power in (2, 4))
    units, rows = moved.square() * second, torch.cat([moved, turned], 1).square().sum(1, keepdim=True).detach()
    spread = (p * (1 - p)).detach() / 16
    decisions = (units * spread).sum() ** 2 / (units.square() * spread).sum()
    losses = (rows * second).sum() ** 2 / (rows.square() * fourth).sum() / 16
    told = [trials for trials in range(1, 60) if guard.projections(along, trials).all()]
    assert told == [trials for trials in range(1, 60) if trials * min(decisions, losses) >= EVENTS]
    assert told[0] > 1
    assert guard.coordinates(10**9).tolist() == [False] * 24


def test_rows_that_seldom_err_are_events() -> None:
    """Of one row in a thousand draws the loss is large: units as undecided as before say nothing of it."""
    dear = lambda output, target: LOSS(output, target) * (1 + 1e3 * (output[:, 0] > 9))  # noqa: E731
    network = one().double()
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[4.0, 4.0, 4.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
        network[0].bias.fill_(-2.0)
    guards = [UnitRarity(network, X.double(), Y, loss, 1.0, torch.Generator().manual_seed(0)) for loss in (LOSS, dear)]
    along = torch.ones(1, 24, dtype=torch.float64)
    needed = [next(trials for trials in count(1) if guard.projections(along, trials).all()) for guard in guards]
    assert needed[1] > 3 * needed[0]


@pytest.mark.usefixtures("as_a_user")  # hundreds of estimates, whose shapes other tests check
def test_false_alarms_are_rare_in_a_trained_network() -> None:
    """One of four rows carries the noise, in few draws: by its decisions alone 2 of these 30 would be false alarms."""
    x, y = map(torch.from_numpy, load_iris(return_X_y=True))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = ((x - x.mean(0)) / x.std(0)).float()[order], y[order]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), step(), nn.Linear(5, 4), step(), nn.Linear(4, 3))
    generator = torch.Generator().manual_seed(0)
    criterion = ExpectedLoss(LOSS, generator=generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(200):
        batch = torch.randperm(len(y), generator=generator)[:128]
        optimizer.zero_grad()
        criterion(network, x[batch], y[batch]).backward()
        optimizer.step()
    where = Network(network, x[:4], y[:4], LOSS, 1.0, seed=0)
    truth, guard = listed(where).truth, UnitRarity(*where.wide, 1.0, torch.Generator().manual_seed(0))
    parts = [slice(0, 25), slice(25, 49), slice(49, 64)]
    p_values = []
    for seed in range(30):
        generator = seeded(X.device, seed, "sf2")
        sample = torch.stack([where.estimate(score_function(2), generator).double() for _ in range(60)])
        p_values.append(bias_test(sample, truth, guard, draws=2, slack=0.0, seed=seed, parts=parts))
    assert not any(p < 0.01 for p in p_values)


def test_sure_units_are_not_judged_by_what_they_never_did() -> None:
    network: Any = nn.Sequential(linear(3, 2, 1), step(), linear(2, 3, 2))
    with torch.no_grad():
        network[0].bias.fill_(-8.0)
    result = audit_network(network, X, Y, None, {"a": score_function(2)}, {}, estimates=50, seconds=inf)
    assert result["a"].biased is None
    assert next(line for line in str(result).splitlines() if line.startswith("a ")).split()[1] == "?"


# What is left alone.


def test_nothing_of_the_user_s_is_touched() -> None:
    network: Any = nn.Sequential(two(), nn.Dropout(0.5))
    network[0][0].weight.grad = torch.ones(3, 3)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    learner = REBAR(1)
    learned = copy.deepcopy(learner.state_dict())
    audit_network(network, X, Y, None, {"rebar": learner}, {"arctan": "arctan"}, estimates=5, seconds=inf)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network[0][0].weight.grad, torch.ones(3, 3))
    assert [weight.grad is None for weight in network.parameters()] == [False] + 5 * [True]
    assert network.training
    assert isinstance(network[0][1].backward, policy_gradient)
    assert not network[0][1]._forward_pre_hooks
    assert all(torch.equal(value, learned[name]) for name, value in learner.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_weights_are_left_out() -> None:
    network = one()
    network[2].requires_grad_(False)
    result = audit_network(network, X, Y, None, {"all": enumeration()}, {}, estimates=5)
    assert (result.weights, list(result["all"].layers)) == (12, ["0"])
    assert result.norm == pytest.approx(float(uphill(one(), 1.0)[:12].norm()))


def test_numbers_repeat() -> None:
    def numbers(seed: int) -> list[float]:
        chosen = {"a": score_function(2), "b": REBAR()}
        result = audit_network(two(), X, Y, None, chosen, {}, estimates=10, seconds=inf, seed=seed)
        return [result[name].weights.cosine for name in chosen]

    assert numbers(0) == numbers(0) != numbers(1)


# What is written.


def test_the_table_and_the_json(found: Audit) -> None:
    text = str(found)
    assert max(map(len, text.splitlines())) <= 110
    assert "CrossEntropyLoss of 4 rows under a network of 24 weights, 3 units of a row drawn at temperature 1" in text
    assert "bias  variance  cosine  rewards" in text
    assert " w bias" not in text
    row = json.loads(found.to_json())["rows"][0]
    assert row["logits"] is None
    assert row["weights"]["cosine"] == found["what if"].weights.cosine
    assert row["layers"]["0"]["cosine"] == found["what if"].layers["0"].cosine


def test_a_bias_below_the_noise_has_a_bound(found: Audit) -> None:
    measured = found["soft"].weights
    assert measured is not None
    space = replace(measured, bias=0.0, bias_limit=0.13)
    text = str(replace(found, rows=(replace(found["soft"], weights=space),)))
    assert next(line for line in text.splitlines() if line.startswith("soft")).split()[1] == "!<13%"
    assert "!<b: one was found" in text


def test_weights_of_the_network_itself_have_a_name() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.body = nn.Parameter(torch.full((3,), 2.0)), one()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) * self.scale

    result = audit_network(Scaled(), X, Y, None, {"all": enumeration()}, {}, estimates=5)
    assert list(result["all"].layers) == ["network", "body.0", "body.2"]


class Uncalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.unit = linear(3, 3, 1), step()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


# What is refused.


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": nn.Sequential(nn.Linear(3, 3), Step())}, TypeError, "needed a network with drawn steps"),
        ({"network": "mlp"}, TypeError, "needed a network with drawn steps, got 'mlp'"),
        ({"network": one().requires_grad_(False)}, ValueError, "needed weights that take gradients"),
        ({"loss": nn.CrossEntropyLoss()}, ValueError, "needed one loss for each"),
        ({"loss": MetricLoss(f1)}, TypeError, "needed a function with one loss for each row"),
        ({"network": Uncalled()}, TypeError, "needed a network that calls a drawn step"),
        ({"x": X * torch.nan}, ValueError, r"needed input without NaN or infinity, got 12, the first at \(0, 0\)"),
        ({"x": X / 0}, ValueError, "needed input without NaN or infinity, got 12"),
        ({"x": X.numpy()}, TypeError, "needed x as a tensor, got ndarray"),
        ({"target": Y.tolist()}, TypeError, "needed target as a tensor, got list"),
        ({"target": Y[0]}, ValueError, r"needed target with a row axis, got \(\) int64"),
        ({"target": Y[:3]}, ValueError, "needed a target for each row of x"),
        ({"x": X[:0], "target": Y[:0]}, ValueError, "needed a target for each row of x"),
        ({"temperature": 0.0}, ValueError, "needed temperatures above 0"),
        ({"rules": {"a": "arctangent"}}, ValueError, "needed a backward rule of sigmoid"),
        ({"rules": ["arctan"]}, TypeError, "needed rules by name"),
        ({"estimators": {"a": 1}}, TypeError, "needed estimator 'a'"),
        ({"estimators": {"a": arm(2)}, "rules": {"a": None}}, ValueError, "needed names of their own"),
        ({"estimates": 1}, ValueError, "needed at least 2 estimates"),
        ({"seconds": 0}, ValueError, "needed seconds above 0"),
        ({"loss": lambda output, target: 0 * output.sum(-1)}, ValueError, "needed a true gradient to compare with"),
    ],
)
def test_what_cannot_be_audited(change: dict[str, Any], error: type, message: str) -> None:
    arguments = {"network": one(), "x": X, "target": Y, "estimators": {"arm": arm(2)}, "rules": {}} | change
    with pytest.raises(error, match=message):
        audit_network(**arguments, truth_seconds=0.1)
