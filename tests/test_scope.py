"""The metric of the whole data set from small batches: the gradient of all of it, one pass behind."""

import io

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rlgrad
from rlgrad import MetricLoss, Stage
from rlgrad.constrained import Constrained
from rlgrad.metrics import (
    OpaqueMetric,
    SummedMetric,
    class_mcc,
    f1,
    iou,
    macro,
    mean_iou,
    micro,
    ndcg,
    precision,
    recall,
    weighted,
)
from rlgrad.scope import Rest


def data(rows: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 3, (rows,), generator=generator)


def slope(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


KINDS = {
    "f1": (f1, lambda z, y: (z[:, 0], (y == 0).long())),
    "images": (iou.over(2), lambda z, y: (z, torch.nn.functional.one_hot(y, 3))),
    "macro of classes": (macro(f1, classes=3), lambda z, y: (z, y)),
    "micro of classes": (micro(f1, classes=3), lambda z, y: (z, y)),
    "mean iou": (mean_iou(3).ignoring(2), lambda z, y: (z, y)),
    "macro of labels": (macro(f1, labels=3), lambda z, y: (z, torch.nn.functional.one_hot(y, 3))),
    "weighted by label": (weighted(iou, labels=3), lambda z, y: (z, torch.nn.functional.one_hot(y, 3))),
    "micro of labels": (micro(f1, labels=3), lambda z, y: (z, torch.nn.functional.one_hot(y, 3))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_batches_gradients_make_that_of_the_whole(kind: str) -> None:
    """Where the rest is known, the mean gradient of the batches is the whole's but for the rest's own spread."""
    metric, view = KINDS[kind]
    logits, target = view(*data())
    leaf = logits.clone().requires_grad_()
    whole_loss = MetricLoss(metric)(leaf, target)
    whole = slope(whole_loss, leaf)
    loss = MetricLoss(metric, scope="data")
    losses = []
    for _ in range(2):  # a pass to count, and a pass to be judged
        loss.start_pass()
        leaf.grad = None
        for part in range(0, 60, 6):
            value = loss(leaf[part : part + 6], target[part : part + 6])
            (value / 10).backward()
            losses.append(value.item())
    cosine = torch.nn.functional.cosine_similarity(leaf.grad.flatten(), whole.flatten(), dim=0)
    assert cosine > 0.995
    assert leaf.grad.norm() / whole.norm() == pytest.approx(1, abs=0.1)
    assert np.mean(losses[10:]) == pytest.approx(whole_loss.item(), abs=0.03)


def test_small_batches_by_themselves_have_another_gradient() -> None:
    """What the scope is for: F1 of a rare class in batches of six is 0/0 or noise."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(600, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.rand(600, generator=generator) < 0.03
    whole = slope(MetricLoss(f1)(logits, target), logits)

    def of_batches(loss: MetricLoss) -> Tensor:
        for _ in range(2):
            loss.start_pass()
            logits.grad = None
            for part in range(0, 600, 6):
                (loss(logits[part : part + 6], target[part : part + 6]) / 100).backward()
        assert logits.grad is not None
        return torch.nn.functional.cosine_similarity(logits.grad, whole, dim=0)

    assert of_batches(MetricLoss(f1, scope="data")) > 0.99
    assert of_batches(MetricLoss(f1)) < 0.9


def test_summed_statistics() -> None:
    metric = SummedMetric(
        lambda d, t: (int((d & t.bool()).sum()), int(d.sum()), int(t.sum())),
        lambda both, claimed, true: 2 * both / (claimed + true),
        undefined=1.0,
    )
    logits, target = KINDS["images"][1](*data(12))
    leaf = logits.clone().requires_grad_()
    loss = MetricLoss(metric, scope="data", generator=torch.Generator().manual_seed(0))
    whole = slope(MetricLoss(f1.over(2))(leaf, target), leaf)
    total = torch.zeros_like(leaf)
    for number in range(40):
        loss.start_pass()
        for part in range(0, 12, 4):
            grad = slope(loss(leaf[part : part + 4], target[part : part + 4]) / 3, leaf)
            total += grad if number else 0
    cosine = torch.nn.functional.cosine_similarity(total.flatten(), whole.flatten(), dim=0)
    assert cosine > 0.95


def test_the_rest_is_saved() -> None:
    logits, target = data()
    loss = MetricLoss(class_mcc(3), scope="data", generator=torch.Generator().manual_seed(0))
    for part in range(0, 60, 20):
        loss(logits[part : part + 20], target[part : part + 20])
    loss.start_pass()
    loss(logits[:20], target[:20])
    buffer = io.BytesIO()
    torch.save(loss.state_dict(), buffer)
    buffer.seek(0)
    other = MetricLoss(class_mcc(3), scope="data")
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for mine, theirs in ((loss.rest.now, other.rest.now), (loss.rest.before, other.rest.before)):
        assert torch.equal(mine[0], theirs[0])
        assert mine[1] == theirs[1]


def test_evaluation_counts_nothing() -> None:
    logits, target = data()
    loss = MetricLoss(class_mcc(3), scope="data").eval()
    loss(logits, target)
    assert loss.rest.of(rows=3) == [None]


def test_an_interrupted_pass_is_not_forgotten() -> None:
    rest = Rest()
    rest.add(torch.ones(2, dtype=torch.float64), rows=5)
    rest.start_pass()
    rest.start_pass()  # a pass without a batch
    assert rest.of(rows=0)[0].tolist() == [1, 1]
    assert rest.times(rows=2) == 2.5


def test_fit_begins_the_passes() -> None:
    x, y = torch.randn(40, 2), torch.rand(40) < 0.3
    model = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    loss = MetricLoss(f1, scope="data")
    rlgrad.fit(model, Stage(loss, epochs=3), (x, y), (x, y), f1, batch_size=8, progress=False)
    assert loss.rest.before[1] == loss.rest.now[1] == 40


def test_passes_begin_in_both_parts_of_a_constraint_too() -> None:
    """Without, the sums would grow with every epoch, and the gradient with them."""
    x, y = torch.randn(40, 2), torch.rand(40) < 0.3
    model = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    losses = [MetricLoss(metric, scope="data") for metric in (recall, precision)]
    criterion = Constrained(*losses, at_least=0.5)
    rlgrad.fit(model, Stage(criterion, epochs=3), (x, y), (x, y), f1, batch_size=8, progress=False)
    assert all(loss.rest.before[1] == loss.rest.now[1] == 40 for loss in losses)
    criterion.start_pass()
    assert all(loss.rest.now[1] == 0 for loss in losses)


def test_the_representation_tells_of_it() -> None:
    assert "reduction='mean', scope='data'" in repr(MetricLoss(f1, scope="data"))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MetricLoss(f1, scope="all"), ValueError, "needed scope batch or data, got 'all'"),
        (
            lambda: MetricLoss(f1, scope="data")(torch.zeros(2, 3), torch.zeros(2, 3)),
            ValueError,
            r"needed rows scored jointly.*metric\.over\(2\)",
        ),
        (
            lambda: MetricLoss(OpaqueMetric(lambda d, t: 1.0), scope="data"),
            TypeError,
            "needed a formula of counts or of summed statistics",
        ),
        (lambda: MetricLoss(ndcg(2), scope="data"), TypeError, "got RankingMetric.*leave scope=.batch"),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_what_does_not_fit_is_named(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
