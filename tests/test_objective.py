"""The module that stands where a criterion stood."""

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn

from rlgrad.credit import MovingAverage, none
from rlgrad.estimators import counterfactual, exact, score_function
from rlgrad.metrics import CountMetric, OpaqueMetric, Scorer, class_accuracy, f1, mcc
from rlgrad.objective import MetricLoss
from rlgrad.policies import Bernoulli, Categorical

LOGITS = 2 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
TARGET = (torch.rand(3, 6, generator=torch.Generator().manual_seed(1)) < 0.5).float()
TARGET[2] = 0.0  # nothing to be found in the last row


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hits(decision: Tensor, target: Tensor) -> float:
    return float((decision == target).double().mean())


def step(criterion: MetricLoss, logits: Tensor = LOGITS, target: Tensor = TARGET) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient."""
    leaf = logits.detach().clone().requires_grad_()
    loss = criterion(leaf, target)
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.long, torch.bool])
def test_it_is_called_as_binary_cross_entropy_is(dtype: torch.dtype) -> None:
    model, features, target = nn.Linear(4, 1), torch.randn(8, 4, generator=seeded()), (torch.arange(8) % 2).to(dtype)
    for criterion in (nn.BCEWithLogitsLoss(), MetricLoss(f1), MetricLoss(hits)):
        model.zero_grad()
        logits = model(features).squeeze(-1)
        loss = criterion(logits, target.float() if isinstance(criterion, nn.BCEWithLogitsLoss) else target)
        assert loss.shape == ()
        loss.backward()
        assert model.weight.grad.isfinite().all()
        assert model.weight.grad.abs().sum() > 0


def test_the_loss_is_one_minus_the_expected_metric() -> None:
    loss, gradient = step(MetricLoss(f1, reduction="none"))
    leaf = LOGITS.clone().requires_grad_()
    expected = exact()(Bernoulli(leaf), Scorer(f1, TARGET))
    torch.testing.assert_close(loss, 1 - expected.detach())
    torch.testing.assert_close(gradient, -torch.autograd.grad(expected.sum(), leaf)[0])


def test_golden_f1() -> None:
    logits = torch.tensor([0.9, 0.6, 0.4, 0.2], dtype=torch.float64).logit()
    loss, gradient = step(MetricLoss(f1), logits, torch.tensor([1, 0, 1, 0]))
    assert loss.item() == pytest.approx(1 - 0.61925333, abs=5e-9)
    assert gradient.tolist() == pytest.approx([-0.040272, 0.037472, -0.079232, 0.02097067], abs=5e-9)


def test_reductions_over_rows() -> None:
    rows, gradient = step(MetricLoss(f1, reduction="none"))
    assert rows.shape == (3,)
    torch.testing.assert_close(step(MetricLoss(f1, reduction="sum")), (rows.sum(), gradient))
    torch.testing.assert_close(step(MetricLoss(f1)), (rows.mean(), gradient / 3))


def test_a_batch_of_rows_is_its_rows_apart() -> None:
    criterion = MetricLoss(mcc, reduction="none")
    loss, gradient = step(criterion)
    for row in range(3):
        torch.testing.assert_close(step(criterion, LOGITS[row], TARGET[row]), (loss[row], gradient[row]))


# Choices


@pytest.mark.parametrize(
    ("criterion", "estimator"),
    [
        (lambda: MetricLoss(f1), exact()),
        (lambda: MetricLoss(hits), score_function()),
        (lambda: MetricLoss(OpaqueMetric(hits)), score_function()),
        (lambda: MetricLoss(hits, policy=Categorical), score_function()),
        (lambda: MetricLoss(f1, policy=Categorical), score_function()),
        (lambda: MetricLoss(f1, "exact"), exact()),
        (lambda: MetricLoss(f1, "counterfactual"), counterfactual()),
        (lambda: MetricLoss(f1, "score_function"), score_function()),
        (lambda: MetricLoss(f1, counterfactual(draws=4)), counterfactual(draws=4)),
    ],
)
def test_the_estimator_is_chosen_or_named(criterion: Callable[[], MetricLoss], estimator: object) -> None:
    assert criterion().estimator == estimator


def test_any_function_called_like_an_estimator_is_one() -> None:
    def half(policy, score, *, generator=None) -> Tensor:
        return policy.probs.mean(-1)

    torch.testing.assert_close(MetricLoss(f1, half)(LOGITS, TARGET), 1 - torch.sigmoid(LOGITS).mean())


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("metric", "options", "error", "message"),
    [
        ("f1", {}, TypeError, "needed a metric, got 'f1'"),
        (None, {}, TypeError, "needed a function(decision, target), got None"),
        (
            f1,
            {"estimator": "reinforce"},
            ValueError,
            "needed an estimator of auto, exact, second_order, counterfactual",
        ),
        (f1, {"estimator": None}, TypeError, "needed an estimator such as counterfactual(draws=4), got None"),
        (f1, {"estimator": counterfactual}, TypeError, "call it, or name it"),
        (f1, {"reduction": "average"}, ValueError, "needed reduction mean, sum or none, got 'average'"),
    ],
)
def test_what_cannot_be_chosen(metric, options, error, message: str) -> None:
    with pytest.raises(error) as caught:
        MetricLoss(metric, **options)
    assert message in str(caught.value)


def test_the_representation_names_the_choices() -> None:
    assert (
        repr(MetricLoss(f1)) == "MetricLoss(CountMetric(f1, undefined=1), exact(), policy=Bernoulli, reduction='mean')"
    )


# Bad input


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        ((4, 1), (4, 1), ValueError, "squeeze(-1)"),
        ((2, 4, 1), (2, 4, 1), ValueError, "squeeze(-1)"),
        ((4, 1), (4,), ValueError, "needed a target of shape (4, 1) for the logits (4, 1) float32, got (4,) float32"),
        ((4,), (4, 1), ValueError, "needed a target of shape (4,)"),
        ((4,), (3,), ValueError, "needed a target of shape (4,)"),
        ((2, 4), (4,), ValueError, "nothing is broadcast"),
        ((2, 4), (1, 4), ValueError, "nothing is broadcast"),
        ((4,), (), ValueError, "needed a target of shape (4,)"),
        ((), (), ValueError, "use squeeze(-1)"),
    ],
)
def test_shapes_are_exact(logits: tuple[int, ...], target: tuple[int, ...], error, message: str) -> None:
    for metric in (f1, hits):
        with pytest.raises(error) as caught:
            MetricLoss(metric)(torch.zeros(logits), torch.zeros(target))
        assert message in str(caught.value)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("metric", "logits", "target", "advice"),
    [
        (f1, (6, 3), (6,), "for a choice among classes take a metric of classes, or policy=Categorical"),
        (hits, (2, 4, 3), (2, 4), "or policy=Categorical"),
        (class_accuracy(3).over(2), (2, 3, 4, 5), (2, 4, 5), r"the classes are the last axis: logits.movedim(1, -1)"),
        (class_accuracy(3), (6, 3), (6, 3), "pass the numbers of the classes: target.argmax(-1) where it is one-hot"),
        (f1.over(2), (2, 1, 4, 5), (2, 4, 5), "squeeze(1) the logits"),
        (f1, (4, 1), (4,), "squeeze(-1) the logits"),
        (class_accuracy(3), (6, 3), (5,), "reshape one of them"),
    ],
)
def test_the_usual_slips_are_known(metric, logits: tuple[int, ...], target: tuple[int, ...], advice: str) -> None:
    with pytest.raises(ValueError, match="nothing is broadcast") as caught:
        MetricLoss(metric)(torch.zeros(logits), torch.zeros(target, dtype=torch.int64))
    assert str(caught.value).endswith(advice)


@pytest.mark.usefixtures("as_a_user")
def test_arrays_are_no_tensors() -> None:
    with pytest.raises(TypeError, match=r"needed a tensor as target, got list; torch\.as_tensor makes one"):
        MetricLoss(f1)(torch.zeros(2), [0, 1])
    with pytest.raises(TypeError, match="needed a tensor of weights, got list"):
        MetricLoss(f1)(torch.zeros(2), torch.tensor([0, 1]), [1.0, 2.0])


def test_a_single_row_of_a_single_item_is_no_mistake() -> None:
    loss, gradient = step(MetricLoss(f1), torch.zeros(1, 1), torch.ones(1, 1))
    assert loss.item() == 0.5
    assert gradient.tolist() == [[-0.25]]


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("metric", [f1, hits])
def test_nan_logits_are_named_by_index(metric) -> None:
    logits = LOGITS.clone()
    logits[1, 4] = math.nan
    with pytest.raises(ValueError, match=r"^needed logits without NaN, got 1 of 18, the first at \(1, 4\)"):
        MetricLoss(metric)(logits, TARGET)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("estimator", ["exact", "counterfactual", "score_function"])
@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, math.nan])
def test_targets_are_zero_or_one(estimator: str, value: float) -> None:
    target = TARGET.clone()
    target[1, 4] = value
    with pytest.raises(ValueError, match=rf"^needed a target of 0 and 1, got {value} at \(1, 4\)"):
        MetricLoss(f1, estimator)(LOGITS, target)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("dtype", [torch.bool, torch.long])
def test_decisions_are_no_logits(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"^needed floating-point logits, got \(3, 6\) "):
        MetricLoss(f1)(TARGET.to(dtype), TARGET)
    with pytest.raises(TypeError, match=r"^needed floating-point logits, got \(3, 6\) "):
        MetricLoss(f1.ignoring(-1))(TARGET.to(dtype), TARGET)


# Corners

ONE_DRAW = pytest.param(score_function(draws=1, credit=none), id="one draw")
ESTIMATORS = ["exact", "counterfactual", "score_function", ONE_DRAW]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_empty_batch_costs_nothing_and_is_attached_to_the_graph(estimator, reduction) -> None:
    for shape in ((0, 6), (0,)):
        layer = nn.Linear(2, 6)
        logits = layer(torch.zeros(0, 2)) if len(shape) == 2 else layer(torch.zeros(0, 2)).sum(-1)
        loss = MetricLoss(f1, estimator, reduction=reduction)(logits, torch.zeros(shape))
        assert loss.sum().item() == 0.0
        loss.sum().backward()
        assert torch.equal(layer.weight.grad, torch.zeros(6, 2))


@pytest.mark.parametrize("truth", [0.0, 1.0])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rows_of_one_class_have_a_finite_gradient(estimator, truth: float) -> None:
    for metric in (f1, mcc):
        for part in step(MetricLoss(metric, estimator, generator=seeded()), LOGITS, torch.full_like(LOGITS, truth)):
            assert torch.isfinite(part).all()


def test_nothing_to_find_teaches_to_claim_nothing() -> None:
    _, gradient = step(MetricLoss(f1), LOGITS, torch.zeros_like(LOGITS))
    assert (gradient > 0).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("extreme", [1e4, math.inf])
def test_extreme_logits_have_a_finite_gradient(extreme: float, estimator) -> None:
    logits = torch.where(LOGITS > 1, extreme, torch.where(LOGITS < -1, -extreme, LOGITS))
    for part in step(MetricLoss(f1, estimator, generator=seeded()), logits):
        assert torch.isfinite(part).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bfloat16_autocast(estimator) -> None:
    layer = nn.Linear(4, 6)
    features = 3 * torch.randn(3, 4, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(features)
        loss = MetricLoss(f1, estimator, generator=seeded())(logits, TARGET)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()
    assert layer.weight.grad.dtype == torch.float32
    plain, _ = step(MetricLoss(f1, estimator, generator=seeded()), logits.detach().float())
    torch.testing.assert_close(loss.detach(), plain)


@pytest.mark.parametrize("estimator", ["exact", "counterfactual", "score_function"])
def test_the_layout_in_memory_does_not_matter(estimator: str) -> None:
    for logits in (LOGITS.t().contiguous().t(), LOGITS.repeat_interleave(2, 1)[:, ::2], LOGITS[:1].expand(3, 6)):
        assert not logits.is_contiguous()
        target = TARGET.t().contiguous().t()
        actual = step(MetricLoss(f1, estimator, generator=seeded()), logits, target)
        torch.testing.assert_close(actual, step(MetricLoss(f1, estimator, generator=seeded()), logits.contiguous()))


COMPILED = """
import torch
from rlgrad.metrics import f1
from rlgrad.objective import MetricLoss
from rlgrad.surrogates import bce, soft

target = torch.arange(12).reshape(3, 4) % 3 == 0
sure = torch.linspace(-1, 1, 12).reshape(3, 4).sign() * 1e4  # compiled random numbers are others, so: no chance
for criterion in (bce, soft(f1), MetricLoss(f1, "counterfactual"), MetricLoss(f1, "score_function")):
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    for logits in (sure, sure / 1e4) if criterion in (bce, soft(f1)) else (sure,):
        results = []
        for function in (criterion, compiled):
            leaf = logits.clone().requires_grad_()
            loss = function(leaf, target)
            results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
        torch.testing.assert_close(*results)
"""


def test_compiled_it_is_the_same() -> None:
    """In an interpreter of its own, without the shape checks, which torch.compile cannot trace."""
    assert subprocess.run([sys.executable, "-c", COMPILED]).returncode == 0


# Randomness


@pytest.mark.parametrize("estimator", ["counterfactual", "score_function"])
def test_a_generator_determines_the_steps_and_the_global_one_is_left_alone(estimator: str) -> None:
    before = torch.get_rng_state()
    runs = []
    for seed in (3, 3, 4):
        criterion = MetricLoss(f1, estimator, generator=seeded(seed))
        runs.append(torch.stack([step(criterion)[1] for _ in range(3)]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0][0], runs[0][1])  # every step draws anew
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("estimator", ["counterfactual", "score_function"])
def test_without_a_generator_the_global_one_is_drawn_from(estimator: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first = step(MetricLoss(f1, estimator))
        torch.manual_seed(3)
        torch.testing.assert_close(step(MetricLoss(f1, estimator)), first, rtol=0, atol=0)


# State


def test_the_state_of_credit_is_saved_and_restored() -> None:
    def criterion(seed: int) -> MetricLoss:
        return MetricLoss(hits, score_function(draws=2, credit=MovingAverage()), generator=seeded(seed))

    old, new = criterion(3), criterion(4)
    step(old)
    assert list(old.state_dict()) == ["credit.average", "credit.weight"]
    assert old.state_dict()["credit.weight"] > 0
    new.load_state_dict(old.state_dict())
    new.generator.set_state(old.generator.get_state())
    for _ in range(3):
        torch.testing.assert_close(step(new), step(old), rtol=0, atol=0)


def test_without_stateful_credit_there_is_no_state() -> None:
    for estimator in ("exact", "counterfactual", "score_function"):
        assert list(MetricLoss(f1, estimator).state_dict()) == []


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("credit", [MovingAverage, lambda: none], ids=["moving average", "none"])
def test_a_metric_that_raises_leaves_nothing_behind(credit) -> None:
    failing = True

    def moody(decision: Tensor, target: Tensor) -> float:
        if failing and target.sum() == 0:
            raise ZeroDivisionError("nothing there")
        return hits(decision, target)

    def criterion() -> MetricLoss:
        return MetricLoss(moody, score_function(draws=2, credit=credit()), generator=seeded())

    broken = criterion()
    with pytest.raises(RuntimeError, match=r"^moody raised ZeroDivisionError at draw and row \(0, 2\)"):
        step(broken)
    failing = False
    broken.generator.manual_seed(0)
    fresh = criterion()
    for _ in range(3):
        torch.testing.assert_close(step(broken), step(fresh), rtol=0, atol=0)


# Training


def train(model: nn.Module, criterion: nn.Module, features: Tensor, target: Tensor, *, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(model(features), target).backward()
        optimizer.step()


@pytest.mark.parametrize("estimator", ["exact", "counterfactual", "score_function"])
def test_training_raises_the_metric(estimator: str) -> None:
    generator = seeded()
    features = torch.randn(300, 3, generator=generator)
    target = (features[:, 0] + 0.3 * torch.randn(300, generator=generator)) > 1
    layer = nn.Linear(3, 1)
    model = nn.Sequential(layer, nn.Flatten(0))
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    train(model, MetricLoss(f1, estimator, generator=generator), features, target, steps=60)
    assert f1_score(target, model(features) > 0) > 0.7  # it began with no claim at all, at 0


def test_choices_among_classes_learn_from_a_black_box() -> None:
    generator = seeded()
    features = torch.randn(60, 2, generator=generator)
    target = (features @ torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.5, -1.0]])).argmax(-1)
    model = nn.Linear(2, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    train(model, MetricLoss(hits, policy=Categorical, generator=generator), features, target, steps=60)
    assert (model(features).argmax(-1) == target).double().mean() > 0.8


def test_a_profit_that_is_no_share() -> None:
    """In other units the loss is one minus that number, and a black box points the way that its formula does."""
    profit = CountMetric(lambda tp, fp, fn, tn: 100 * tp - 5 * fp, undefined=0.0, name="profit")
    black_box = OpaqueMetric(profit, batched=True)
    loss, gradient = step(MetricLoss(profit))
    assert loss < 0
    found, direction = step(MetricLoss(black_box, score_function(draws=5000), generator=seeded()))
    assert found.item() == pytest.approx(loss.item(), rel=0.1)
    assert torch.cosine_similarity(direction, gradient, dim=-1).min() > 0.9
