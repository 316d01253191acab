"""What the tests of the microscope share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlgrad import Bernoulli
from rlgrad.estimators import Estimator, exact
from rlgrad.metrics import Scorer, f1


@pytest.fixture
def at_once() -> Callable[..., Tensor]:
    """Many independent estimates of the gradient of E[F1] from one call: each is a row of a batch."""

    def estimates(estimator: Estimator, logits: Tensor, target: Tensor, count: int, seed: int) -> Tensor:
        rows = logits.expand(count, -1).clone().requires_grad_()
        generator = torch.Generator().manual_seed(seed)
        value = estimator(Bernoulli(rows), Scorer(f1, target.expand(count, -1)), generator=generator)
        return torch.autograd.grad(value.sum(), rows)[0].double()

    return estimates


@pytest.fixture
def true_f1() -> Callable[[Tensor, Tensor], Tensor]:
    """The exact gradient of E[F1] of one row."""

    def gradient(logits: Tensor, target: Tensor) -> Tensor:
        leaf = logits.double().requires_grad_()
        return torch.autograd.grad(exact()(Bernoulli(leaf), Scorer(f1, target)), leaf)[0]

    return gradient
