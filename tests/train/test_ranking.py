"""A scorer of documents trained on the nDCG of its rankings."""

import pytest
import torch
from torch import Tensor, nn

import rlgrad
from rlgrad import MetricLoss, PlackettLuce, Stage
from rlgrad.credit import reward_to_go
from rlgrad.estimators import score_function
from rlgrad.metrics import ndcg

NDCG = ndcg(5).ignoring(-1)


def queries(*, seed: int) -> tuple[Tensor, Tensor]:
    """Lists of 8 to 20 documents, whose relevance from 0 to 4 hangs on two of five features, through noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 20, 5, generator=generator)
    quality = 1.5 * x[..., 0] - x[..., 1] + 0.5 * torch.randn(60, 20, generator=generator)
    relevance = quality.round().clamp(0, 4).long()
    length = torch.randint(8, 21, (60, 1), generator=generator)
    return x, torch.where(torch.arange(20) < length, relevance, -1)


def scorer() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 1), nn.Flatten(-2))
    weight = torch.tensor([[-0.5, 0.3, 0.5, -0.5, 0.2]])
    model.load_state_dict({"0.weight": weight, "0.bias": torch.zeros(1)})
    return model


def loss() -> MetricLoss:
    estimator = score_function(16, credit=reward_to_go)
    return MetricLoss(NDCG, estimator, policy=PlackettLuce, generator=torch.Generator().manual_seed(0))


def test_training_raises_the_ndcg_of_new_queries() -> None:
    model, criterion, (x, y) = scorer(), loss(), queries(seed=0)
    before = rlgrad.evaluate(model, queries(seed=1), NDCG, policy=PlackettLuce).value
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(criterion(model(x), y))
        losses[-1].backward()
        optimizer.step()
    after = rlgrad.evaluate(model, queries(seed=1), NDCG, policy=PlackettLuce)
    assert losses[-1] < losses[0] - 0.2
    assert before < 0.4
    assert after.value > 0.85
    assert after.counts is None


def test_fit_and_evaluate_rank_too() -> None:
    model, train, validation = scorer(), queries(seed=0), queries(seed=1)
    stage = Stage(loss(), lr=0.1, epochs=8)
    history = rlgrad.fit(model, stage, train, validation, NDCG, policy=PlackettLuce, batch_size=20, progress=False)
    assert history.best.validation > 0.8
    found = rlgrad.evaluate(model, validation, NDCG, policy=PlackettLuce, batch_size=7)
    assert found.value == pytest.approx(history.best.validation)


def test_what_fills_lists_up_has_no_gradient() -> None:
    _, y = queries(seed=0)
    logits = torch.zeros(y.shape, requires_grad=True)
    loss()(logits, y).backward()
    assert logits.grad is not None
    assert (logits.grad[y == -1] == 0).all()
    assert (logits.grad[y >= 0] != 0).any()


@pytest.mark.usefixtures("as_a_user")
def test_a_ranking_has_no_divergence_and_no_threshold() -> None:
    model, data = scorer(), queries(seed=0)
    with pytest.raises(TypeError, match=r"^kl_divergence needed a policy of independent decisions"):
        rlgrad.fit(model, Stage(loss(), kl=0.1), data, data, NDCG, policy=PlackettLuce, progress=False)
    with pytest.raises(ValueError, match=r"^needed a finite threshold, and 0 but for a Bernoulli policy, got 0.5"):
        rlgrad.evaluate(model, data, NDCG, policy=PlackettLuce, threshold=0.5)
    x, y = data
    with pytest.raises(
        ValueError, match=r"^needed a target of shape \(60, 20\) for the logits \(60, 20\) float32, got"
    ):
        rlgrad.evaluate(model, (x, y[:, :19]), NDCG, policy=PlackettLuce)
