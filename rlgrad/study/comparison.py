"""Run methods x seeds of one setting, with the same split, initial weights and batches for all methods of a seed.

What every setting has in common, and the setting of a table; that of a network of hard steps is ``rlgrad.study.steps``.
"""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from rlgrad.metrics import Counts, hard_counts
from rlgrad.model import Description, Label, TableModel, build
from rlgrad.study.methods import LABEL_METHODS, METHODS, REFERENCE, Budget, Method, TableMetric
from rlgrad.study.records import Json, Key, Record, append, latest, missing, read, run_key, versions
from rlgrad.surrogates import best_threshold
from rlgrad.tables import Part, Problem, Target
from rlgrad.train import Evaluation, Threshold, evaluate, fit

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TEST_SHARE = 0.25
VALIDATION_SHARE = 0.2
# Rows of the test part for each of the train part: what seeds that split the same rows anew have in common.
OVERLAP = TEST_SHARE / ((1 - TEST_SHARE) * (1 - VALIDATION_SHARE))


class Setting(ABC):
    """Everything that defines the runs of a study but the method and the seed.

    Attributes:
        reference: the method that the others are compared with.
        overlap: n_test / n_train, see ``statistics.interval``.
    """

    reference: ClassVar[str]
    overlap: ClassVar[float]

    @property
    @abstractmethod
    def task(self) -> str:
        """What tables call the setting."""

    @property
    @abstractmethod
    def metric_name(self) -> str:
        """Name of the metric that counts in the end."""

    @property
    @abstractmethod
    def arguments(self) -> dict[str, Json]:
        """What a record must agree on, besides task and metric, to belong to this setting."""

    @abstractmethod
    def result(self, method: str, seed: int) -> dict[str, Any]:
        """Train and judge once: the fields of a ``Record`` that tell what came out."""

    def key(self, method: str, seed: int) -> Key:
        """The key under which a run is recorded."""
        return run_key(task=self.task, metric=self.metric_name, arguments=self.arguments, method=method, seed=seed)

    def missing(self, path: Path, methods: Sequence[str], seeds: Sequence[int]) -> list[Key]:
        """Which runs the records do not hold yet, those of one seed together."""
        return missing((self.key(method, seed) for seed in seeds for method in methods), read(path))

    def records(self, path: Path, methods: Sequence[str], seeds: Sequence[int]) -> list[Record]:
        """The records of this setting, methods and seeds, in the order of the methods."""
        found = latest(read(path))
        keys = (self.key(method, seed) for method in methods for seed in seeds)
        return [found[key] for key in keys if key in found]


def run(setting: Setting, runs: Sequence[Key], path: Path, *, workers: int = -1) -> Iterator[Record]:
    """Make runs in parallel processes and append each record as it comes; a run that fails is a record, too.

    Args:
        setting: whose runs they are.
        runs: from ``Setting.missing``.
        path: the records file.
        workers: processes, one thread each; -1 for one a processor core.

    Yields:
        Each record after it is written, in the order in which the runs end.
    """
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=workers, return_as="generator_unordered")
    for record in parallel(delayed(run_one)(setting, key.method, key.seed) for key in runs):
        append(path, record)
        yield record


def run_one(setting: Setting, method: str, seed: int) -> Record:
    """Train and judge once; what goes wrong is told in the record."""
    torch.set_num_threads(1)
    asked: dict[str, Any] = {"task": setting.task, "metric": setting.metric_name, "arguments": setting.arguments}
    asked |= {"method": method, "seed": seed}
    try:
        result = setting.result(method, seed)
    except Exception:
        return Record(**asked, error=traceback.format_exc())
    return Record(**asked, **result)


@dataclass(frozen=True)
class Comparison(Setting):
    """The setting of a table.

    Args:
        problem: the table, of one label or of several.
        network: a name in ``rlgrad.model.NETWORKS``.
        metric: what is trained for and judged by, a metric of the rows' decisions or of tables (rows, labels), as
            ``rlgrad.metrics.metric_named`` gives it; larger is better.
        budget: what every method may spend.
    """

    problem: Problem
    network: str
    metric: TableMetric
    budget: Budget

    reference: ClassVar[str] = REFERENCE
    overlap: ClassVar[float] = OVERLAP

    @property
    def methods(self) -> dict[str, Method]:
        """What can train on it: a threshold for each label is a matter of several labels."""
        return METHODS if len(self.problem.target.labels) == 1 else LABEL_METHODS

    @property
    def task(self) -> str:
        """Names of the table and of the network."""
        return f"{self.problem.name}, {self.network}"

    @property
    def metric_name(self) -> str:
        """Name of the metric."""
        return self.metric.name

    @property
    def arguments(self) -> dict[str, Json]:
        """Table, labels, network, parts and budget."""
        labels = self.problem.target.labels
        columns, positives = [label.column for label in labels], [label.classes[1] for label in labels]
        return {
            "data": self.problem.fingerprint[:16],
            "target": columns if len(labels) > 1 else columns[0],
            "positive": positives if len(labels) > 1 else positives[0],
            "network": self.network,
            "test_share": TEST_SHARE,
            "validation_share": VALIDATION_SHARE,
            **asdict(self.budget),
        }

    def result(self, method: str, seed: int) -> dict[str, Any]:
        """The metric on each part, by the method's own threshold and by the tuned one."""
        trained = train(self, method, seed)
        threshold = trained.results["test"].threshold
        return {
            **trained.model.description.scores,
            "threshold": nan if isinstance(threshold, tuple) else threshold,
            "test_tuned": trained.test_tuned,
            "counts": {name: _named(result.counts) for name, result in trained.results.items()},
            "epochs": trained.epochs,
            "seconds": trained.seconds,
        }


@dataclass(frozen=True)
class Trained:
    """A model, what it is judged to be worth, and by which decisions.

    Args:
        model: network, preprocessing and description, ready to be saved.
        results: its evaluation on train, validation and test.
        confusion: counts of the test rows, one of each, or of several labels ``labels``.
        test_tuned: test metric of the same weights with the threshold, one for all labels, tuned on the validation
            rows.
        epochs: passes over the training rows.
        seconds: that these took.
    """

    model: TableModel
    results: dict[str, Evaluation]
    confusion: Counts
    test_tuned: float
    epochs: int
    seconds: float


def train(comparison: Comparison, method: str, seed: int, *, progress: bool = False) -> Trained:
    """Split, train by a method, and evaluate.

    Args:
        comparison: the setting.
        method: a name in ``comparison.methods``.
        seed: of the split, the initial weights, the shuffles and the draws.
        progress: show a progress bar.

    Raises:
        FloatingPointError: the training diverged.
        ValueError: a class has too few rows for three parts, or a number of the budget is out of range.
    """
    metric, problem, budget = comparison.metric, comparison.problem, comparison.budget
    parts = problem.split(seed=seed, test=TEST_SHARE, validation=VALIDATION_SHARE)
    data = {name: _tensors(getattr(parts, name)) for name in ("train", "validation", "test")}
    recipe = comparison.methods[method](metric, budget, torch.Generator().manual_seed(seed))
    inputs, labels = parts.train.x.shape[1], problem.target.labels
    network = build(comparison.network, inputs, len(labels), seed=seed)
    history = fit(
        network,
        recipe.stages,
        data["train"],
        data["validation"],
        metric,
        threshold=recipe.threshold,
        batch_size=budget.batch_size,
        fabric=_cpu(),
        seed=seed,
        progress=progress,
    )
    threshold = history.best.threshold
    results = {name: evaluate(network, part, metric, threshold=threshold) for name, part in data.items()}
    x, y = data["validation"]
    tuned, _ = best_threshold(metric, _logits(network, x), y)
    description = Description(
        network=comparison.network,
        inputs=inputs,
        labels=_described(labels, threshold),
        metric=metric.name,
        scores={name: result.value for name, result in results.items()},
        versions=versions(),
    )
    return Trained(
        model=TableModel(description, network, parts.transformer),
        results=results,
        confusion=_confusion(network, data["test"], threshold),
        test_tuned=evaluate(network, data["test"], metric, threshold=tuned).value,
        epochs=len(history.epochs),
        seconds=history.epochs[-1].seconds,
    )


def _cpu() -> "Fabric":
    # These networks are too small for an accelerator, and the processor gives the same numbers everywhere.
    from lightning_fabric import Fabric

    return Fabric(accelerator="cpu", devices=1)


def _tensors(part: Part) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(part.x), torch.from_numpy(part.y)


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(x)
    return logits


def _described(labels: tuple[Target, ...], threshold: Threshold) -> tuple[Label, ...]:
    each = threshold if isinstance(threshold, tuple) else (threshold,) * len(labels)
    return tuple(Label(label.column, label.classes, t) for label, t in zip(labels, each, strict=True))


def _confusion(network: nn.Module, data: tuple[Tensor, Tensor], threshold: Threshold) -> Counts:
    x, y = data
    decision = _logits(network, x) > torch.tensor(threshold)
    return hard_counts(decision.T, y.T) if y.ndim > 1 else hard_counts(decision, y)


def _named(counts: Counts | None) -> dict[str, int]:
    assert counts is not None  # decisions on a table are yes or no
    return {name: int(count) for name, count in counts._asdict().items()}
