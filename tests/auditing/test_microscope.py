"""``audit`` from end to end: golden variances, what is told apart, what is refused, what is written."""

import json
import math
import re
import time
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlgrad import Bernoulli, Categorical
from rlgrad.auditing import Audit, Subject, audit, builtin, prepare
from rlgrad.credit import none
from rlgrad.estimators import REBAR, arm, counterfactual, disarm, enumeration, exact, score_function, straight_through
from rlgrad.metrics import OpaqueMetric, Scorer, accuracy, f1
from rlgrad.policies import Policy
from rlgrad.surrogates import bce, soft
from rlgrad.tables import digits_table, load_problem

LOGITS = torch.tensor([2.0, 0.5, -0.5, -1.5])
TARGET = torch.tensor([1, 0, 1, 0])


def own_mean(reward: Tensor, play: object) -> Tensor:
    return reward - reward.mean(0)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return builtin()


@pytest.fixture(scope="module")
def digits(subject: Subject) -> Audit:
    estimators = {
        "exact": exact(),
        "enumeration": enumeration(),
        "counterfactual": counterfactual(),
        "leave-one-out": score_function(draws=2),
        "own mean": score_function(draws=2, credit=own_mean),
    }
    return audit(
        subject.logits, subject.target, f1, estimators, weights=subject.weights, estimates=200, seconds=inf,
        problem=subject.name,
    )  # fmt: skip


# Numbers.


def test_golden_variances() -> None:
    """E[(b - .499)^2] at p = .5: gradient 5e-4; REINFORCE 1.5625e-2, leave-one-out 2.5e-7, ARM 8.333e-8, DisARM 0."""
    metric = OpaqueMetric(lambda decision, target: (decision.double() - 0.499).square().sum(-1), batched=True)
    candidates = {
        "reinforce": score_function(draws=1, credit=none),
        "leave-one-out": score_function(draws=2),
        "arm": arm(draws=2),
        "disarm": disarm(draws=2),
    }
    zero = torch.zeros(1, dtype=torch.float64)
    result = audit(zero, torch.tensor([0]), metric, candidates, {}, estimates=300, seconds=inf)
    assert result.norm == pytest.approx(5e-4)
    assert result["reinforce"].logits.variance == pytest.approx(1.5625e-2 / 2.5e-7, rel=0.02)
    assert result["leave-one-out"].logits.variance == pytest.approx(1.0, rel=0.15)
    assert result["arm"].logits.variance == pytest.approx(8.333e-8 / 2.5e-7, rel=0.2)
    assert result["disarm"].logits.variance == pytest.approx(0, abs=1e-12)
    # cos = 0.9 needs the variance, over the truth squared, below 1 / .81 - 1
    assert result["leave-one-out"].logits.rewards == pytest.approx(2 * math.ceil(1 / (1 / 0.81 - 1)), abs=3)


def test_the_built_in_problem(digits: Audit) -> None:
    assert digits["exact"].biased is False
    assert digits["exact"].logits.variance == 0
    assert digits["counterfactual"].biased is False
    assert digits["counterfactual"].logits.cosine > 0.99
    assert digits["leave-one-out"].biased is not True
    assert 0.02 < digits["leave-one-out"].logits.cosine < 0.1
    assert digits["own mean"].biased is True
    assert digits["own mean"].logits.bias == pytest.approx(0.5, abs=0.2)
    assert digits["soft"].biased is True
    assert digits["soft"].logits.cosine > 0.999
    assert digits["bce"].logits.cosine < 0.9
    assert digits["bce"].logits.rewards == inf


def test_the_weights_see_the_same_estimates(digits: Audit, subject: Subject) -> None:
    (leaf,) = torch.autograd.grad(-bce(subject.logits, subject.target), subject.logits, retain_graph=True)
    pulled = torch.autograd.grad(subject.logits, subject.weights, leaf, retain_graph=True)
    loss = 1 - exact()(Bernoulli(subject.logits), Scorer(f1, subject.target))
    true = torch.autograd.grad(-loss, subject.weights, retain_graph=True)
    flat = [torch.cat([each.flatten() for each in gradients]) for gradients in (pulled, true)]
    assert digits["bce"].weights.cosine == pytest.approx(float(torch.cosine_similarity(flat[0], flat[1], 0)), abs=1e-5)
    assert digits.weights == 65


def test_straight_through_is_biased_on_a_few_decisions() -> None:
    candidates = {"straight-through": straight_through(), "counterfactual": counterfactual()}
    result = audit(LOGITS, TARGET, f1, candidates, {}, estimates=150, seconds=inf)
    assert result["straight-through"].biased is True
    assert result["counterfactual"].biased is False


def test_the_error_of_a_long_run_is_counted_and_shown() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(20, generator=generator), torch.rand(20, generator=generator) < 0.5
    black_box = OpaqueMetric(lambda decision, y: f1(decision, y), batched=True, name="box")
    candidates = {"leave-one-out": score_function(draws=64), "soft": counterfactual()}
    result = audit(logits, target, black_box, candidates, {}, estimates=100, seconds=inf, truth_seconds=1.0)
    assert 0 < result.noise < 0.5
    assert "standard error" in str(result)
    assert result["leave-one-out"].biased is False
    assert abs(result["soft"].logits.cosine) <= 1.01


def test_rows_and_classes() -> None:
    logits = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    target = torch.arange(15).reshape(5, 3) % 4
    right = OpaqueMetric(lambda decision, y: (decision == y).double().mean(-1), batched=True, name="accuracy")
    candidates = {"leave-one-out": score_function(draws=16), "exact": exact()}
    result = audit(logits, target, right, candidates, policy=Categorical, estimates=300, seconds=inf)
    assert result.truth == "every outcome, listed"
    assert result["leave-one-out"].biased is False
    assert result["cross-entropy"].logits.cosine > 0.5
    assert result["exact"].error.startswith("exact needed a Bernoulli policy")
    assert "5 rows of 3 decisions" in str(result)


def test_numbers_repeat() -> None:
    def numbers(seed: int) -> list[float]:
        candidates = {"a": score_function(draws=2), "b": REBAR()}
        result = audit(LOGITS, TARGET, f1, candidates, {}, estimates=40, seconds=inf, seed=seed)
        return [result[name].logits.cosine for name in candidates]

    assert numbers(0) == numbers(0) != numbers(1)


def test_time_ends_a_run() -> None:
    result = audit(LOGITS, TARGET, f1, {"a": counterfactual()}, {}, estimates=10**6, seconds=0.5)
    made = result["a"].estimates
    assert made is not None
    assert 16 <= made < 10**5


# How numbers change with the number of decisions.


def classifier(items: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(items, generator=generator) < 0.2
    return torch.where(target, 1.0, -1.0) + torch.randn(items, generator=generator), target


def test_cosines_fall_with_the_root_of_the_decisions() -> None:
    candidates = {"2": score_function(draws=2), "16": score_function(draws=16), "counterfactual": counterfactual()}
    cosines = {}
    for items in (256, 4096):
        logits, target = classifier(items)
        result = audit(logits, target, f1, candidates, {"soft": soft(f1)}, estimates=60, seconds=inf)
        cosines[items] = {row.name: row.logits.cosine for row in result.rows}
        assert cosines[items]["counterfactual"] > 0.99
        assert cosines[items]["soft"] > 0.999
        for draws in (2, 16):
            expected = math.sqrt((draws - 1) / items)
            assert 0.5 * expected < cosines[items][f"{draws}"] < 1.7 * expected
    assert cosines[4096]["16"] / cosines[256]["16"] == pytest.approx(1 / 4, rel=0.3)
    assert cosines[4096]["2"] / cosines[256]["2"] == pytest.approx(1 / 4, rel=0.5)


# What could not be told, and what is rounding.


def test_an_estimator_that_gave_nothing_but_zero_is_not_called_done() -> None:
    logits, target = torch.tensor([0.3, -0.2, 0.1]), torch.zeros(3).long()
    result = audit(logits, target, f1, {"st": straight_through()}, {}, estimates=50, seconds=inf)
    row = result["st"]
    assert row.biased is None
    assert (row.logits.cosine, row.logits.variance, row.logits.limit, row.logits.rewards) == (0, None, None, None)
    (line,) = (line for line in str(result).splitlines() if line.startswith("st "))
    assert line.split()[1:5] == ["?", "?", "0.0000", "?"]
    assert json.loads(result.to_json())["rows"][0]["logits"]["rewards"] is None


def test_one_decision_and_surrogates_that_do_not_vary() -> None:
    result = audit(torch.tensor([0.3]), torch.tensor([1]), f1, {"exact": exact()}, {"bce": bce, "soft": soft(f1)})
    for row in result.rows:
        assert (row.logits.variance, row.logits.bias, row.logits.bias_limit) == (0, 0, 0)
    assert "~0%" in str(result)


def test_a_long_run_without_noise_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(20, generator=generator), torch.rand(20, generator=generator) < 0.5
    box = OpaqueMetric(lambda decision, y: (decision == y).double().mean(-1), batched=True, name="box")
    result = audit(logits, target, box, {"cf": counterfactual()}, {}, estimates=20, seconds=inf, truth_seconds=0.2)
    assert "long run" in result.truth
    assert 0 <= result.noise < 1e-8
    assert "(exact)" in str(result)


# What it costs.


def slow_box(seconds: float) -> OpaqueMetric:
    def score(decision: Tensor, target: Tensor) -> float:
        time.sleep(seconds)
        return float((decision == target.bool()).double().mean())

    return OpaqueMetric(score)


def test_rewards_take_the_place_of_draws() -> None:
    box = OpaqueMetric(lambda decision, y: (decision == y).double().mean(-1), batched=True)
    candidates = {"cf": counterfactual(draws=2), "2": score_function(draws=2), "all": enumeration()}
    result = audit(LOGITS, TARGET, box, candidates, {"bce": bce}, estimates=50, seconds=inf)
    assert [row.rewards for row in result.rows] == [2 * 5, 2, 16, 0]
    assert result["cf"].logits.rewards == 10
    assert int(result["2"].logits.rewards) % 2 == 0


def test_who_has_ways_of_its_own_to_rewards_is_not_counted() -> None:
    def own(policy: Policy, score: Any, *, generator: torch.Generator | None = None) -> Tensor:
        return counterfactual()(policy, Scorer(score.metric, score.target), generator=generator)

    row = audit(LOGITS, TARGET, f1, {"own": own}, {}, estimates=100, seconds=inf)["own"]
    assert (row.rewards, row.biased, row.logits.rewards) == (None, False, None)


def test_an_estimate_that_is_slower_than_the_time_is_made_once() -> None:
    logits, target = torch.linspace(-1, 1, 7), torch.arange(7) % 2
    candidates = {"all": enumeration(), "draws": score_function(draws=128), "quick": score_function(draws=2)}
    start = time.perf_counter()
    result = audit(logits, target, slow_box(5e-4), candidates, {}, seconds=0.05, truth_seconds=0.5)
    assert time.perf_counter() - start < 20  # a thousand estimates of "all" would take more than a minute
    assert (result["all"].estimates, result["all"].memory) == (1, None)
    assert result["all"].logits.cosine == pytest.approx(1, abs=0.2)
    assert result["all"].logits.variance == 0
    assert re.match(r"too slow: 0\.\d+ s an estimate", result["draws"].error)
    assert result["quick"].error is None
    assert "not measured: draws: too slow" in str(result)


def test_an_estimate_that_would_take_for_ever_is_not_made() -> None:
    logits, target = torch.linspace(-1, 1, 16), torch.arange(16) % 2
    start = time.perf_counter()
    result = audit(logits, target, slow_box(1e-3), {"all": enumeration()}, {"bce": bce}, seconds=0.1, truth_seconds=2.0)
    assert time.perf_counter() - start < 20
    assert result["all"].error.startswith("too slow: about ")


# What is written.


def test_the_table(digits: Audit) -> None:
    text = str(digits)
    assert max(map(len, text.splitlines())) <= 110
    assert "digits, 8 against the others, linear: f1 under a Bernoulli policy" in text
    assert "not measured: enumeration: enumeration needed at most 65536 outcomes a row" in text
    (row,) = (line for line in text.splitlines() if line.startswith("bce "))
    assert "never" in row
    assert " ~" in row
    assert "score_function-of-a-very-long-name" in str(
        audit(LOGITS, TARGET, f1, {"score_function-of-a-very-long-name": exact()}, {})
    )


def test_json_is_strict_and_whole(digits: Audit, tmp_path) -> None:
    path = tmp_path / "new" / "audit.json"
    digits.save(path)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(path.read_text(), parse_constant=refuse)
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["bce"]["logits"]["rewards"] is None
    assert rows["exact"]["biased"] is False
    assert rows["enumeration"]["logits"] is None
    assert rows["counterfactual"]["logits"]["cosine"] == digits["counterfactual"].logits.cosine
    assert [each.name for each in path.parent.iterdir()] == ["audit.json"]


def test_a_failed_save_leaves_the_old_file(digits: Audit, tmp_path, monkeypatch) -> None:
    path = tmp_path / "audit.json"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        digits.save(path)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("audit.json", "old")]


def test_a_candidate_of_another_name(digits: Audit) -> None:
    with pytest.raises(KeyError, match="needed a candidate of exact"):
        digits["nobody"]


# What is refused.


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": LOGITS * torch.nan}, ValueError, "needed logits without NaN"),
        ({"logits": TARGET}, TypeError, "needed floating-point logits"),
        ({"target": TARGET[:3]}, ValueError, r"needed a target of shape \(4,\)"),
        ({"target": TARGET + 1}, ValueError, "needed a target of 0 and 1"),
        ({"logits": LOGITS[:, None], "target": TARGET[:, None]}, ValueError, "needed rows of several items"),
        ({"logits": LOGITS[:0], "target": TARGET[:0]}, ValueError, "needed a batch with decisions"),
        ({"metric": "f1"}, TypeError, "needed a (function|metric)"),
        ({"metric": lambda decision, target: 1 / 0}, RuntimeError, "raised ZeroDivisionError at draw and row"),
        ({"policy": "Bernoulli"}, TypeError, "needed the policy Bernoulli or Categorical"),
        ({"estimates": 1}, ValueError, "needed at least 2 estimates"),
        ({"seconds": 0}, ValueError, "needed seconds above 0"),
        ({"weights": [nn.Parameter(torch.ones(1))]}, ValueError, "got detached ones"),
        ({"estimators": {"a": 1}}, TypeError, "needed estimator 'a'"),
        ({"metric": lambda decision, target: 0.5}, ValueError, "needed a true gradient to compare with"),
        ({"logits": torch.full((4,), 200.0)}, ValueError, "needed a true gradient to compare with"),
    ],
)
def test_what_cannot_be_audited(change: dict[str, Any], error: type, message: str) -> None:
    arguments = {"logits": LOGITS, "target": TARGET, "metric": f1, "estimators": {"cf": counterfactual()}} | change
    with pytest.raises(error, match=message):
        audit(**arguments, surrogates={}, truth_seconds=0.1)


def test_a_truth_that_is_lost_in_noise_is_refused() -> None:
    parity = OpaqueMetric(lambda decision, target: (decision.sum(-1) % 2).double(), batched=True)
    logits = torch.linspace(-1, 1, 40)
    with pytest.raises(ValueError, match="zero as far as can be told"):
        audit(logits, logits > 0, parity, {"a": score_function()}, {}, truth_seconds=0.1)


@pytest.mark.usefixtures("as_a_user")
def test_weights_without_a_gradient_are_refused() -> None:
    weight = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="zero as far as can be told"):
        audit(LOGITS + (weight * 0).sum(), TARGET, f1, {"cf": counterfactual()}, {}, weights=[weight])


@pytest.mark.usefixtures("as_a_user")
def test_a_candidate_that_fails_does_not_stop_the_others() -> None:
    def broken(logits: Tensor, target: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match. Look at them; then mend them")

    result = audit(LOGITS, TARGET, f1, {"cf": counterfactual()}, {"mine": broken}, estimates=20)
    assert result["mine"].error == "RuntimeError: shapes do not match"
    assert result["cf"].error is None
    assert "not measured: mine: RuntimeError" in str(result)


def test_half_precision() -> None:
    result = audit(LOGITS.bfloat16(), TARGET, f1, {"exact": exact()}, {"bce": bce})
    assert result["exact"].biased is False
    assert result["exact"].logits.bias == 0


# Problems.


def test_a_table_is_trained_and_batched() -> None:
    problem = load_problem(digits_table(3), "is_3", name="threes")
    global_state = torch.get_rng_state()
    before = prepare(problem, network="mlp", epochs=0, items=64, seed=1)
    after, again = (prepare(problem, network="mlp", epochs=2, items=64, seed=1) for _ in range(2))
    assert (after.name, after.logits.shape) == ("threes, mlp", (64,))
    assert torch.equal(after.logits, again.logits)
    assert torch.equal(after.target, before.target)
    assert bce(after.logits, after.target) < 0.8 * bce(before.logits, before.target)
    assert torch.equal(torch.get_rng_state(), global_state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "huge"}, "needed a network of linear, mlp"),
        ({"items": 1}, "needed at least 2 items"),
        ({"epochs": -1}, "and 0 epochs"),
    ],
)
def test_what_cannot_be_prepared(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(load_problem(digits_table(), "is_8"), **change)


def test_accuracy_has_no_noise_under_counterfactual_credit() -> None:
    result = audit(LOGITS, TARGET, accuracy, {"cf": counterfactual()}, {}, estimates=50, seconds=inf)
    assert (result["cf"].biased, result["cf"].logits.rewards) == (False, 1)
