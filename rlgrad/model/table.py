"""A trained table model as a folder: weights, preprocessing and a description, none of them code.

model/model.json             what it is: columns, classes, metric, threshold, results, versions
model/preprocessing.skops    the fitted scikit-learn transformer
model/weights.safetensors    the network
model/SHA256SUMS             of the three, verified on loading; ``sha256sum -c`` reads it too
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import nn

from rlgrad.model.folder import check_finite, read_weights, replacing_model, verify, where_saved, write_weights
from rlgrad.tables import encode, load_preprocessor, save_preprocessor

if TYPE_CHECKING:
    import sklearn.compose

_FORMAT = 2
_FIRST_FORMAT = {"column": "target", "classes": "classes", "threshold": "threshold"}  # of its one label, now in labels
_FILES = ("model.json", "preprocessing.skops", "weights.safetensors")


def linear(inputs: int, outputs: int = 1) -> nn.Module:
    """Logistic regression's network: one logit a label, linear in the inputs."""
    return _network(nn.Linear(inputs, outputs))


def mlp(inputs: int, outputs: int = 1) -> nn.Module:
    """Two hidden layers of 64 rectified units."""
    return _network(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def _network(*layers: nn.Module) -> nn.Module:
    """The logits of one label are ``rows``, scored jointly; those of several are ``rows labels``."""
    one = layers[-1].out_features == 1
    return nn.Sequential(*layers, *[nn.Flatten(0)] * one)


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {"linear": linear, "mlp": mlp}


def build(network: str, inputs: int, outputs: int = 1, *, seed: int) -> nn.Module:
    """A network with fresh weights that depend on the seed alone; the global generator is left as it was.

    Args:
        network: a name in ``NETWORKS``.
        inputs: columns of the encoded table.
        outputs: how many labels.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[network](inputs, outputs)


@dataclass(frozen=True)
class Label:
    """One target column and how it is decided.

    Args:
        column: its name in training.
        classes: the negative and the positive class.
        threshold: the positive class is predicted where the logit is above it.

    Raises:
        ValueError: one of them cannot be.
    """

    column: str
    classes: tuple[str, str]
    threshold: float

    def __post_init__(self) -> None:
        """Refuse what no training gives: a description may come from a file."""
        if not isinstance(self.column, str):
            raise ValueError(f"needed the name of a column, got {self.column!r}")
        if len(self.classes) != 2 or not all(isinstance(label, str) for label in self.classes):
            raise ValueError(f"needed two classes, got {self.classes!r}")
        if not isinstance(self.threshold, float | int) or not math.isfinite(self.threshold):
            raise ValueError(f"needed a finite threshold, got {self.threshold!r}")


@dataclass(frozen=True)
class Description:
    """What a saved model is, as ``model.json`` holds it.

    Args:
        network: a name in ``NETWORKS``.
        inputs: columns of the encoded table.
        labels: the target columns, in the order of the logits.
        metric: name of the metric trained for.
        scores: that metric on each part of the training table.
        versions: of the software that trained it.

    Raises:
        ValueError: one of the first three cannot be.
    """

    network: str
    inputs: int
    labels: tuple[Label, ...]
    metric: str
    scores: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no training gives: a description may come from a file."""
        if self.network not in list(NETWORKS):
            raise ValueError(f"needed a network of {', '.join(NETWORKS)}, got {self.network!r}")
        if not isinstance(self.inputs, int) or self.inputs < 1:
            raise ValueError(f"needed at least one input, got {self.inputs!r}")
        if not self.labels or len({label.column for label in self.labels}) < len(self.labels):
            raise ValueError(f"needed target columns, each once, got {[label.column for label in self.labels]}")


@dataclass(frozen=True)
class TableModel:
    """A network and the preprocessing that its inputs went through."""

    description: Description
    network: nn.Module
    preprocessing: "sklearn.compose.ColumnTransformer"

    def logits(self, table: pd.DataFrame) -> Float[np.ndarray, " rows"] | Float[np.ndarray, "rows labels"]:
        """Logits of the positive class for the rows of a table, of each label where there are several.

        Raises:
            ValueError: a column of training is missing or of another kind, or a number is infinite.
        """
        x = torch.from_numpy(encode(self.preprocessing, table))
        self.network.eval()
        with torch.no_grad():
            logits: torch.Tensor = self.network(x)
        return logits.double().numpy()

    def predict(self, table: pd.DataFrame) -> pd.DataFrame:
        """For each row, in order: the probability of the positive class, and the predicted class.

        The columns are ``probability`` and ``prediction``; of several labels ``probability_`` and ``prediction_`` with
        the name of the target column, for one after the other.

        The probability is the policy's, sigmoid of the logit: a model trained on F1 puts it where F1 is highest, which
        need not be calibrated.
        """
        labels = self.description.labels
        logits = self.logits(table).reshape(len(table), len(labels))
        probabilities = torch.sigmoid(torch.from_numpy(logits)).numpy()
        columns = {}
        for at, label in enumerate(labels):
            suffix = f"_{label.column}" if len(labels) > 1 else ""
            negative, positive = label.classes
            columns[f"probability{suffix}"] = probabilities[:, at]
            columns[f"prediction{suffix}"] = np.where(logits[:, at] > label.threshold, positive, negative)
        return pd.DataFrame(columns)


def save_model(model: TableModel, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a model folder, whole or not at all: it is made under another name and renamed when complete.

    Raises:
        FileExistsError, OSError: as ``check_destination``; an older model is left as it was.
        ValueError: a weight is not finite.
    """
    check_finite(model.network.state_dict(), "the network")
    with replacing_model(folder, _FILES, overwrite=overwrite) as part:
        write_weights(model.network, part / "weights.safetensors")
        save_preprocessor(model.preprocessing, part / "preprocessing.skops")
        text = json.dumps({"format": _FORMAT, **asdict(model.description)}, indent=2, allow_nan=False)
        (part / "model.json").write_text(text + "\n", encoding="utf-8")


def load_model(folder: str | Path) -> TableModel:
    """Read a model folder that ``save_model`` wrote.

    All of it is data: JSON, tensors, and a description of scikit-learn objects that may name no other types. Loading
    runs no code that the folder brings.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file is not as it was saved, of another format, or holds a weight that is not finite.
    """
    folder = where_saved(folder)
    verify(folder, _FILES)
    description = _read_description(folder / "model.json")
    network = build(description.network, description.inputs, len(description.labels), seed=0)
    read_weights(network, folder / "weights.safetensors")
    return TableModel(description, network, load_preprocessor(folder / "preprocessing.skops"))


def _read_description(path: Path) -> Description:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        number = content.pop("format", None)
        if number == 1:
            content["labels"] = [{new: content.pop(old) for new, old in _FIRST_FORMAT.items()}]
        elif number != _FORMAT:
            raise ValueError(f"needed format 1 or {_FORMAT}, got {number!r}")
        return Description(**{**content, "labels": tuple(map(_read_label, content["labels"]))})
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"needed a description of a model, got {path} ({error}); train the model anew") from error


def _read_label(label: dict[str, Any]) -> Label:
    negative, positive = label["classes"]
    return Label(**{**label, "classes": (negative, positive)})
