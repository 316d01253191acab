"""Models and data that the tests of training share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


class Shift(nn.Module):
    """Logits x - w of a single weight: every step of training can be worked out by hand."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.w


@pytest.fixture
def shift() -> Callable[[float], nn.Module]:
    return Shift


@pytest.fixture
def ladder() -> tuple[Tensor, Tensor]:
    """Eight numbers, of which the upper four are positive: the decisions x > w are right for w in [3, 4)."""
    x = torch.arange(8.0)  # a power of two of them, so that a mean's gradients add up to one exactly
    return x, x >= 4


@pytest.fixture
def toy() -> tuple[Tensor, Tensor]:
    """Rows of three numbers, a fifth of them positive."""
    x = torch.randn(121, 3, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0.8).float()


@pytest.fixture
def network() -> Callable[..., nn.Module]:
    """Makes a linear network, with further layers before it; the same weights each time."""

    def make(*layers: nn.Module, outputs: int = 1) -> nn.Module:
        last = nn.Linear(3, outputs)
        weight = torch.randn(outputs, 3, generator=torch.Generator().manual_seed(1))
        last.load_state_dict({"weight": weight, "bias": torch.zeros(outputs)})
        return nn.Sequential(*layers, last, *([nn.Flatten(0)] if outputs == 1 else []))

    return make
