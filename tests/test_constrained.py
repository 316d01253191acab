"""One metric subject to another: the Lagrangian, the metric that ranks, the report."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_score, recall_score
from torch import Tensor, nn

from rlgrad import MetricLoss, Stage, evaluate, fit
from rlgrad.constrained import Constrained, ConstraintReport, met, subject_to
from rlgrad.credit import LearnedValue, MovingAverage
from rlgrad.estimators import counterfactual, score_function, second_order
from rlgrad.metrics import (
    CountMetric,
    OpaqueMetric,
    cost_matrix,
    f1,
    iou,
    macro,
    mean_iou,
    micro,
    mrr,
    ndcg,
    precision,
    recall,
    span_f1,
    specificity,
)
from rlgrad.policies import Categorical
from rlgrad.surrogates import bce, best_offsets, best_threshold, soft

LOGITS = 2 * torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGET = torch.rand(12, generator=torch.Generator().manual_seed(1)) < 0.4


def expected(metric: CountMetric, logits: Tensor, target: Tensor) -> Tensor:
    """E[metric] over every decision there is, without an estimator."""
    every = torch.cartesian_prod(*[torch.tensor([False, True])] * len(logits))
    p = torch.sigmoid(logits)
    return (torch.where(every, p, 1 - p).prod(-1) * metric(every, target)).sum()


# The Lagrangian


@pytest.mark.parametrize("multiplier", [0.0, 0.7, 3.0])
def test_value_and_gradient_are_those_of_the_lagrangian(multiplier: float) -> None:
    criterion = Constrained(recall, precision, at_least=0.9, multiplier=multiplier)
    ours, theirs = (LOGITS[:8].clone().requires_grad_() for _ in range(2))
    loss = criterion(ours, TARGET[:8])
    short = 0.9 - expected(precision, theirs, TARGET[:8])
    lagrangian = (1 - expected(recall, theirs, TARGET[:8])) + float(np.float32(multiplier)) * short
    torch.testing.assert_close(loss, lagrangian, rtol=1e-9, atol=1e-9)
    (gradient,), (truth,) = torch.autograd.grad(loss, ours), torch.autograd.grad(lagrangian, theirs)
    torch.testing.assert_close(gradient, truth, rtol=1e-7, atol=1e-9)
    # Ascent of the dual: its gradient in the multiplier is how far the constraint falls short.
    assert criterion.multiplier.item() == pytest.approx(max(0, multiplier + 0.1 * short.item()), abs=1e-6)


def test_the_multiplier_grows_while_violated_and_falls_to_zero_when_met() -> None:
    criterion = Constrained(recall, precision, at_least=0.9, rate=0.5)
    right = 10.0 * (2 * TARGET - 1)
    seen = [criterion.multiplier.item()]
    for logits in [-right] * 3 + [right] * 40:
        criterion(logits, TARGET)
        seen.append(criterion.multiplier.item())
    assert seen[0] < seen[1] < seen[2] < seen[3]
    assert all(later < before or later == 0 for before, later in pairwise(seen[3:]))
    assert seen[-1] == 0


def test_it_rests_in_evaluation_mode_and_on_an_empty_batch() -> None:
    criterion = Constrained(recall, precision, at_least=0.9, multiplier=0.3)
    criterion.eval()(LOGITS, TARGET)
    empty = torch.zeros(0, 3, requires_grad=True)
    criterion.train()(empty, torch.zeros(0, 3)).backward()
    assert criterion.multiplier == pytest.approx(0.3)
    assert empty.grad is not None


def test_items_may_weigh_differently() -> None:
    weight = torch.rand(8, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.1
    every = torch.cartesian_prod(*[torch.tensor([False, True])] * 8)
    p = torch.sigmoid(LOGITS[:8])
    chance = torch.where(every, p, 1 - p).prod(-1)
    want = [(chance * metric(every, TARGET[:8], weight)).sum() for metric in (recall, precision)]
    losses = [MetricLoss(metric, "enumeration") for metric in (recall, precision)]
    criterion = Constrained(*losses, at_least=0.9, multiplier=2.0)
    torch.testing.assert_close(criterion(LOGITS[:8], TARGET[:8], weight), 1 - want[0] + 2 * (0.9 - want[1]))


def test_the_multiplier_is_saved() -> None:
    first, second = (Constrained(recall, precision, at_least=0.9) for _ in range(2))
    first(LOGITS, TARGET)
    assert list(first.state_dict()) == ["multiplier"]
    second.load_state_dict(first.state_dict())
    assert second.multiplier == first.multiplier != 0


def test_estimators_of_ones_own_and_repr() -> None:
    objective = MetricLoss(recall, counterfactual(draws=2))
    criterion = Constrained(objective, lambda b, y: float((b == y).all()), at_least=0.0)
    assert repr(criterion).startswith("Constrained(\n  at_least=0, rate=0.1\n  (objective): MetricLoss")
    assert criterion.objective is objective
    assert isinstance(criterion.constraint.metric, OpaqueMetric)
    criterion(LOGITS.clone().requires_grad_(), TARGET).backward()


def test_what_an_estimator_remembers_is_saved_with_it() -> None:
    objective = MetricLoss(recall, score_function(draws=2, credit=MovingAverage()))
    assert "objective.credit.average" in Constrained(objective, precision, at_least=0.9).state_dict()


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Constrained(MetricLoss(f1, reduction="sum"), iou, at_least=0.5), ValueError, "reduction='sum'"),
        (lambda: Constrained(f1, iou, at_least=math.nan), ValueError, "needed a finite at_least, got nan"),
        (lambda: Constrained(f1, iou, at_least=0.5, rate=-1), ValueError, "needed a finite rate of at least 0, got -1"),
        (lambda: Constrained(f1, iou, at_least=0.5, multiplier=-1), ValueError, "a finite multiplier of at least 0"),
        (lambda: Constrained(3, iou, at_least=0.5), TypeError, "got 3"),
        (lambda: subject_to(f1, iou, at_least=math.inf), ValueError, "needed finite numbers, got at_least=inf"),
        (lambda: subject_to(f1.over(2), iou, at_least=0.5), ValueError, "of the same items, got item_axes 2 and 1"),
        (lambda: subject_to(f1, iou.ignoring(9), at_least=0.5), ValueError, "ignore_index None and 9"),
        (lambda: subject_to(mean_iou(3), mean_iou(4), at_least=0.5), ValueError, "same classes, got 3 and 4"),
        (
            lambda: met(torch.zeros(1), torch.zeros(1), f1, iou, at_least=0.5),
            ValueError,
            "needed at least two rows or items to resample, got (1,)",
        ),
        (
            lambda: met(
                torch.zeros(2, 3), torch.zeros(2).long(), mean_iou(3), mean_iou(3), at_least=0.5, threshold=1.0
            ),
            ValueError,
            "needed a finite threshold, and 0 for classes, got 1.0",
        ),
    ],
)
def test_bad_input(make, error, message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)


# A small model


def linear_data(seed: int, rows: int) -> tuple[Tensor, Tensor]:
    """Overlapping classes, of which the rare one is to be found without claiming much of the other."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=generator)
    score = 1.5 * x[:, 0] - x[:, 1] - 1 + torch.randn(rows, generator=generator)
    return x, (score > 0).float()


def trained(criterion: nn.Module, steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    x, y = linear_data(0, 1500)
    for step in range(steps):
        loss = (bce if step < 20 else criterion)(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.requires_grad_(False)


def test_training_meets_the_constraint_on_held_out_data() -> None:
    x, y = linear_data(2, 4000)
    # More is asked for than is needed: what 1500 rows learn is less precise on others.
    criterion = Constrained(recall, precision, at_least=0.93)
    model = trained(criterion, 240)
    report = met(model(x), y, recall, precision, at_least=0.9)
    assert report.met
    assert report.value > 0.4  # and yet something is found
    seen = linear_data(0, 1500)
    held = 1 - criterion.constraint(model(seen[0]), seen[1]).item()
    assert criterion.multiplier > 0  # the constraint binds,
    assert held == pytest.approx(0.93, abs=0.01)  # so on the training data it holds exactly
    assert evaluate(trained(MetricLoss(recall), 60), (x, y), precision).value < 0.5  # which recall alone does not bring


class Value(nn.Linear):
    def __init__(self) -> None:
        super().__init__(100, 1)

    def forward(self, logits: Tensor) -> Tensor:
        return super().forward(logits).squeeze(-1)


def test_fit_trains_on_it_and_chooses_by_what_is_feasible() -> None:
    train, validation = linear_data(0, 300), linear_data(1, 300)
    value = Value()
    critic, before = LearnedValue(value), value.weight.detach().clone()
    criterion = Constrained(MetricLoss(recall, score_function(draws=2, credit=critic)), precision, at_least=0.8)
    metric = subject_to(recall, precision, at_least=0.8)
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    stage = Stage(criterion, epochs=2)
    history = fit(model, stage, train, validation, metric, threshold="tuned", batch_size=100, progress=False)
    assert criterion.multiplier > 0
    assert not torch.equal(value.weight, before)  # what an estimator learns is trained with the model
    held = evaluate(model, validation, precision, threshold=history.best.threshold).value
    assert (held >= 0.8) == (history.best.validation >= 0)


# The metric that ranks


def test_subject_to_is_its_definition() -> None:
    decisions = torch.cartesian_prod(*[torch.tensor([False, True])] * 6)
    target = torch.tensor([1, 1, 0, 1, 0, 0])
    metric = subject_to(recall, precision, at_least=0.6)
    assert isinstance(metric, CountMetric)
    assert repr(metric) == "CountMetric(recall_at_precision_0.6, undefined=-1)"
    for decision in decisions:
        held = precision_score(target, decision, zero_division=0)
        found = recall_score(target, decision)
        expected = found if held >= 0.6 else -1 - (0.6 - held)
        assert metric(decision, target).item() == pytest.approx(expected)


def test_what_is_feasible_ranks_first_even_where_the_objective_is_below_its_worst() -> None:
    loss = CountMetric(lambda tp, fp, fn, tn: -100 * fp - fn, undefined=0.0, name="loss")
    metric = subject_to(loss, recall, at_least=0.5, worst=-50.0)
    target = torch.tensor([1, 1, 0, 0])
    feasible, not_so = torch.tensor([[True, False, True, True], [False, False, False, False]])
    assert metric(feasible, target).item() == -50
    assert metric(not_so, target).item() == -50.5


def test_the_best_threshold_is_the_textbooks() -> None:
    for seed in range(3):
        x, y = linear_data(seed, 60)
        scores = x[:, 0].double()
        threshold, value = best_threshold(subject_to(recall, precision, at_least=0.8), scores, y)
        cuts = [scores > float(cut - 1e-9) for cut in scores]
        feasible = [recall_score(y, cut) for cut in cuts if precision_score(y, cut) >= 0.8]
        assert value == pytest.approx(max(feasible))
        assert precision_score(y, scores > threshold) >= 0.8


CLASSES = torch.randint(3, (5, 4), generator=torch.Generator().manual_seed(2))
CHOSEN = torch.randint(3, (7, 5, 4), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("objective", "constraint", "decision", "target"),
    [
        (macro(f1, classes=3), mean_iou(3), CHOSEN, CLASSES),
        (macro(f1, classes=3).over(2), mean_iou(3).over(2), CHOSEN, CLASSES),
        (macro(f1, classes=3).ignoring(2), mean_iou(3).ignoring(2), CHOSEN, CLASSES),
        (recall.ignoring(2), OpaqueMetric(lambda b, y: float((b == y).sum()) / 4, ignore_index=2), CHOSEN > 1, CLASSES),
        (macro(f1, labels=4), micro(iou, labels=4), CHOSEN > 1, CLASSES > 1),
        (recall.over(2), specificity.over(2), CHOSEN > 1, CLASSES > 1),
        (lambda b, y: float((b == y).any()), specificity, CHOSEN > 1, CLASSES > 1),
    ],
    ids=["classes", "all items", "ignored classes", "black box", "labels", "images", "function"],
)
def test_any_pair_of_metrics(objective, constraint, decision: Tensor, target: Tensor) -> None:
    one = objective if hasattr(objective, "name") else OpaqueMetric(objective)
    value, held = one(decision, target), constraint(decision, target)
    needed = held.median().item()
    metric = subject_to(objective, constraint, at_least=needed)
    torch.testing.assert_close(metric(decision, target), torch.where(held >= needed, value, -1 - (needed - held)))
    assert held.min() < needed
    assert (metric.item_axes, metric.ignore_index) == (one.item_axes, one.ignore_index)


# The report


def test_the_sentence() -> None:
    report = ConstraintReport("recall", "precision", 0.71, 0.93, 0.904, 0.961, at_least=0.9, confidence=0.95)
    assert str(report) == "precision 0.93 [0.904, 0.961] >= 0.9: met; recall 0.71"
    assert report.met
    assert report.surely
    report = ConstraintReport("recall", "precision", 0.71, 0.93, 0.89, 0.961, at_least=0.9, confidence=0.95)
    assert "[0.89, 0.961] >= 0.9: met on these data, not surely on others; recall" in str(report)
    assert report.met
    assert not report.surely
    report = ConstraintReport("recall", "precision", 0.71, 0.85, 0.8, 0.92, at_least=0.9, confidence=0.95)
    assert str(report) == "precision 0.85 [0.8, 0.92] < 0.9: not met; recall 0.71"
    assert not report.met


def test_the_report_holds_the_metrics_and_an_interval_of_the_right_width() -> None:
    """Precision of n claims has the standard error sqrt(p (1 - p) / n)."""
    x, y = linear_data(0, 3000)
    scores = x[:, 0]
    report = met(scores, y, recall, precision, at_least=0.8, threshold=0.5)
    decision = scores > 0.5
    assert report.held == pytest.approx(precision_score(y, decision))
    assert report.value == pytest.approx(recall_score(y, decision))
    error = math.sqrt(report.held * (1 - report.held) / int(decision.sum()))
    assert report.high - report.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert report.low < report.held < report.high
    assert met(scores, y, recall, precision, at_least=0.8, threshold=0.5) == report  # the seed is an argument
    assert met(scores, y, recall, precision, at_least=0.8, threshold=0.5, rng=1).low != report.low


def test_rows_are_resampled_where_they_are_scored_apart() -> None:
    scores = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    truth = scores + torch.randn(200, 6, generator=torch.Generator().manual_seed(1)) > 0
    report = met(scores, truth, f1, recall, at_least=0.5, confidence=0.9)
    rows = recall(scores > 0, truth)
    width = 2 * 1.645 * rows.std().item() / math.sqrt(200)
    assert report.held == pytest.approx(rows.mean().item())
    assert report.high - report.low == pytest.approx(width, rel=0.15)


def test_images_scored_as_one_and_classes_are_resampled_by_their_first_axis() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, 2, 3, generator=generator)
    target = torch.randint(3, (6, 3, 2), generator=generator)
    report = met(logits, target, macro(f1, classes=3).over(3), mean_iou(3).over(3), at_least=0.5)
    assert report.held == pytest.approx(mean_iou(3).over(3)(logits.argmax(-1), target).item())
    assert report.low < report.held < report.high


def test_decisions_are_those_of_the_policy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(30, 4, 3, generator=generator), torch.randint(3, (30, 4), generator=generator)
    metric = span_f1(["O", "B-X", "I-X"])
    report = met(logits, target, metric, metric, at_least=0.5, policy=Categorical, resamples=50)
    assert report.held == pytest.approx(metric(logits.argmax(-1), target).item())


def test_rankings_with_lists_that_were_filled_up() -> None:
    relevance, ranking = torch.tensor([[-1, 0, 2, 1]]), torch.tensor([[[2, 0, 1, 3]], [[1, 3, 2, 0]]])
    objective, constraint = ndcg(2).ignoring(-1), mrr().ignoring(-1)
    metric = subject_to(objective, constraint, at_least=0.8)
    value = metric(ranking, relevance)
    assert value[0] == objective(ranking, relevance)[0]
    assert value[1].item() == pytest.approx(-1 - 0.3)


# Money

profit = CountMetric(lambda tp, fp, fn, tn: 100 * tp - 5 * fp, undefined=0.0, name="profit")


def test_a_formula_of_money_trains_tunes_and_gives_credit() -> None:
    """Linear in the counts, so each decision is worth what its cell pays: (100 y - 5 (1 - y)) p (1 - p) a logit."""
    p = torch.sigmoid(LOGITS)
    worth = torch.where(TARGET, 100.0, -5.0).double()
    for loss in (MetricLoss(profit), MetricLoss(profit, counterfactual(draws=1))):
        leaf = LOGITS.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, TARGET), leaf)
        torch.testing.assert_close(gradient, -worth * p * (1 - p), rtol=1e-6, atol=1e-6)
    threshold, value = best_threshold(profit, LOGITS, TARGET)
    cuts = [cut - 1e-9 < LOGITS for cut in LOGITS]
    assert value == max(float((worth * cut).sum()) for cut in cuts) == float((worth * (threshold < LOGITS)).sum())


def test_a_table_of_costs_trains_and_tunes() -> None:
    costs = torch.tensor([[0.0, 1.0, 4.0], [9.0, -1.0, 1.0], [2.0, 2.0, 0.0]], dtype=torch.float64)
    metric = cost_matrix(costs)
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.arange(9) % 3
    decision = logits.argmax(-1)
    assert metric(decision, target).item() == pytest.approx(-costs[target, decision].mean().item())
    leaf = logits.clone().requires_grad_()
    mean_cost = (leaf.softmax(-1) * costs[target]).sum(-1).mean()
    (truth,) = torch.autograd.grad(mean_cost, leaf)
    for criterion in (MetricLoss(metric, second_order()), soft(metric)):
        again = logits.clone().requires_grad_()
        loss = criterion(again, target)
        torch.testing.assert_close(loss, 1 + mean_cost)
        torch.testing.assert_close(torch.autograd.grad(loss, again)[0], truth)
    _, value = best_offsets(metric, logits, target)
    assert value >= metric(decision, target).item()
    assert cost_matrix([[0, 1], [5, 0]])(torch.tensor([1, 0]), torch.tensor([0, 1])).item() == -3


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("costs", [[[1.0]], [[0.0, 1.0]], [[0.0, math.inf], [1.0, 0.0]], [0.0, 1.0]])
def test_costs_that_are_no_table(costs) -> None:
    with pytest.raises(ValueError, match="needed a finite cost for each true and claimed class"):
        cost_matrix(costs)
