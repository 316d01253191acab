"""The pull-back to the weights, against the backward pass that training makes."""

import pytest
import torch
from torch import Tensor, nn

from rlgrad.auditing.weights import PullBack


class Doubled(torch.autograd.Function):
    """Twice the input, by a backward pass that cannot be batched."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float(gradient.sum() * 0 + 2)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))


@pytest.mark.parametrize("own_function", [False, True])
def test_each_estimate_goes_through_the_graph(own_function: bool) -> None:
    network, x = model(), torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    logits = network(x)
    logits = Doubled.apply(logits) if own_function else logits
    gradients = torch.randn(5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    pulled = PullBack(logits, network.parameters())(gradients)
    assert pulled.shape == (5, 3 * 4 + 4 + 4 + 1)
    for gradient, row in zip(gradients, pulled, strict=True):
        direct = torch.autograd.grad(logits, list(network.parameters()), gradient.float(), retain_graph=True)
        assert torch.allclose(row, torch.cat([each.flatten() for each in direct]).double(), atol=1e-6)


def test_rows_and_classes_keep_their_places() -> None:
    weight = torch.arange(1.0, 7.0).reshape(3, 2).requires_grad_()
    logits = torch.stack([weight, 10 * weight])  # 2 x 3 x 2
    gradient = torch.zeros(1, 12, dtype=torch.float64)
    gradient[0, 6 + 3] = 1.0
    pulled = PullBack(logits, [weight])(gradient)
    assert pulled.tolist() == [[0, 0, 0, 10, 0, 0]]


W = torch.ones(2, requires_grad=True)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("logits", "weights", "error", "message"),
    [
        (2 * W, W, TypeError, "needed a list of weights, got Tensor"),
        (2 * W, nn.Linear(1, 1), TypeError, "needed a list of weights, got Linear"),
        (2 * W, [], ValueError, "needed weights, got none"),
        (2 * W, [1.0], TypeError, "got 1.0 at 0"),
        (2 * W, [W, torch.ones(3)], TypeError, "without requires_grad at 1"),
        (torch.ones(2), [W], ValueError, "got detached ones"),
        (2 * W, [W, torch.ones(3, requires_grad=True)], ValueError, r"\(3,\) float32 at 1 unused"),
    ],
)
def test_weights_that_cannot_be(logits: Tensor, weights: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        PullBack(logits, weights)
