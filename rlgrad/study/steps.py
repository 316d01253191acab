"""The task "steps": networks whose hidden units are hard steps, on digits, and what may train them.

Each method is a hidden unit and, where units are drawn, the estimator of their policy gradient. Whatever units are in
training, they are hard and deterministic when they are judged, but for the two references.
"""

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rlgrad.estimators import REBAR, RELAX, Estimator, arm, counterfactual, disarm, muprop, score_function
from rlgrad.metrics import OpaqueMetric
from rlgrad.policies import Categorical
from rlgrad.steps import RULES, Step, straight_through
from rlgrad.stochastic import ExpectedLoss, policy_gradient
from rlgrad.study.comparison import Setting
from rlgrad.study.methods import check_budget
from rlgrad.study.records import Json, fingerprint
from rlgrad.train import evaluate
from rlgrad.train.batches import Batches

TEST_SHARE = 0.25
TEMPERATURE = (1.0, 0.3)  # of the units that are drawn, in the first batch and in the last
PIXELS, CLASSES = 64, 10
ACCURACY = OpaqueMetric(lambda decision, target: (decision == target).double().mean(-1), batched=True, name="accuracy")

Criterion = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Method(NamedTuple):
    """A hidden unit, and for one that is drawn its estimator, a function of the number of units in a layer."""

    unit: Callable[[], nn.Module]
    estimator: Callable[[int], Estimator] | None = None

    def definition(self, width: int) -> str:
        """The unit and the estimator with all their settings, in words that are the same in every process."""
        with torch.random.fork_rng(devices=[]):  # the network of RELAX draws its weights
            estimator = None if self.estimator is None else self.estimator(width)
        return re.sub(r" at 0x\w+", "", f"{self.unit()!r}, {estimator!r}")  # where a function lies in memory


def _drawn(estimator: Callable[[int], Estimator]) -> Method:
    return Method(partial(Step, backward=policy_gradient()), estimator)


def _guess(width: int) -> nn.Sequential:
    """The loss of a row from the relaxed decisions of a layer, for RELAX."""
    return nn.Sequential(nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(-2))


METHODS: dict[str, Method] = {
    "relu": Method(nn.ReLU),
    "sigmoid": Method(nn.Sigmoid),
    **{f"surrogate-{name}": Method(partial(Step, backward=name)) for name in RULES},
    "surrogate-straight_through_clipped": Method(partial(Step, backward=straight_through(clip=1.0))),
    "counterfactual": _drawn(lambda width: counterfactual()),
    "score_function": _drawn(lambda width: score_function(draws=4)),
    "arm": _drawn(lambda width: arm(draws=4)),
    "disarm": _drawn(lambda width: disarm(draws=4)),
    "muprop": _drawn(lambda width: muprop(draws=1)),
    "rebar": _drawn(lambda width: REBAR(draws=1)),
    "relax": _drawn(lambda width: RELAX(_guess(width), draws=1)),
    "frozen": Method(Step),  # with its true derivative, zero: the last layer alone learns
}
REFERENCE = "relu"


class Parts(NamedTuple):
    """Inputs and classes, to train and to test on."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


class Trained(NamedTuple):
    """A network with the weights of its last epoch, its accuracy on either part, and how long training took."""

    network: nn.Sequential
    train: float
    test: float
    seconds: float


@dataclass(frozen=True)
class Steps(Setting):
    """The setting of a network of hard steps on scikit-learn's digits.

    Args:
        hidden: how many hidden layers.
        width: units of each.
        epochs: passes over the training rows.
        lr: learning rate of Adam.
        batch_size: rows a batch, at most.

    Raises:
        ValueError: a number is out of its range.
    """

    hidden: int = 1
    width: int = 128
    epochs: int = 60
    lr: float = 0.003
    batch_size: int = 64

    reference: ClassVar[str] = REFERENCE
    overlap: ClassVar[float] = TEST_SHARE / (1 - TEST_SHARE)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained, before any run is made."""
        check_budget(**asdict(self))

    @property
    def sizes(self) -> list[int]:
        """Inputs, units of each hidden layer, classes."""
        return [PIXELS, *[self.width] * self.hidden, CLASSES]

    @property
    def task(self) -> str:
        """The data, and the sizes of the network."""
        return f"digits, {'-'.join(map(str, self.sizes))}"

    @property
    def metric_name(self) -> str:
        """Accuracy."""
        return ACCURACY.name

    @property
    def arguments(self) -> dict[str, Json]:
        """The network, the budget, the noise, the parts, and what the methods are: if one changes, all run anew."""
        return {
            "data": "digits",
            **asdict(self),
            "temperature": list(TEMPERATURE),
            "test_share": TEST_SHARE,
            "methods": fingerprint({name: method.definition(self.width) for name, method in METHODS.items()}),
        }

    def result(self, method: str, seed: int) -> dict[str, Any]:
        """Accuracy on the rows of training and of test; the last weights count, so there are no validation rows."""
        trained = train(self, method, seed)
        return {"train": trained.train, "test": trained.test, "epochs": self.epochs, "seconds": trained.seconds}


def train(setting: Steps, method: str, seed: int) -> Trained:
    """Split, train by a method, and judge.

    Args:
        setting: network and budget.
        method: a name in ``METHODS``.
        seed: of the split, the initial weights, the shuffles and the draws.

    Raises:
        FloatingPointError: the training diverged.
    """
    parts = digits(seed)
    batches = Batches(parts.train, "train")
    calls = setting.epochs * -(-len(parts.train[1]) // setting.batch_size)
    network, criterion, weights = _built(setting, METHODS[method], seed, calls)
    optimizer = torch.optim.Adam(weights, lr=setting.lr)
    start = time.perf_counter()
    for epoch in range(1, setting.epochs + 1):
        for x, y in batches.shuffled(setting.batch_size, seed=seed, epoch=epoch):
            optimizer.zero_grad()
            loss = criterion(network, x, y)
            _check_finite(loss, f"the loss in epoch {epoch}")
            loss.backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    for name, weight in network.named_parameters():  # no loss shows what the last step has done
        _check_finite(weight, f"the weights {name} after the last epoch")
    of_train, of_test = (evaluate(network, part, ACCURACY, policy=Categorical).value for part in parts)
    return Trained(network, of_train, of_test, seconds)


def digits(seed: int) -> Parts:
    """Pixels from 0 to 1, and a stratified quarter to test on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    parts = train_test_split((x / 16).astype("float32"), y, test_size=TEST_SHARE, stratify=y, random_state=seed)
    train_x, test_x, train_y, test_y = map(torch.from_numpy, parts)
    return Parts((train_x, train_y), (test_x, test_y))


def _built(
    setting: Steps, method: Method, seed: int, calls: int
) -> tuple[nn.Sequential, Criterion, list[nn.Parameter]]:
    """A network, a criterion and all that learns; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(setting.sizes, method.unit)  # first, so that its weights are the same for every method
        if method.estimator is None:
            return network, _back_propagated, list(network.parameters())
        criterion = ExpectedLoss(
            nn.CrossEntropyLoss(reduction="none"),
            method.estimator(setting.width),
            temperature=TEMPERATURE,
            calls=calls,
            generator=torch.Generator().manual_seed(seed),
        )
    return network, criterion, [*network.parameters(), *criterion.parameters()]


def _network(sizes: list[int], unit: Callable[[], nn.Module]) -> nn.Sequential:
    *hidden, last = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes)]
    return nn.Sequential(*(part for layer in hidden for part in (layer, unit())), last)


def _back_propagated(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(network(x), y)


def _check_finite(values: Tensor, what: str) -> None:
    if not torch.isfinite(values).all():
        bad = values[~torch.isfinite(values)][0].item()
        raise FloatingPointError(f"needed finite numbers, got {bad} for {what}; lower lr")
