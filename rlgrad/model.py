"""A trained table model as a folder: weights, preprocessing and a description, none of them code.

model/model.json             what it is: columns, classes, metric, threshold, results, versions
model/preprocessing.skops    the fitted scikit-learn transformer
model/weights.safetensors    the network
model/SHA256SUMS             of the three, verified on loading; ``sha256sum -c`` reads it too
"""

import glob
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import nn

from rlgrad.tables import encode, load_preprocessor, save_preprocessor

if TYPE_CHECKING:
    import sklearn.compose

_FORMAT = 2
_FIRST_FORMAT = {"column": "target", "classes": "classes", "threshold": "threshold"}  # of its one label, now in labels
_FILES = ("model.json", "preprocessing.skops", "weights.safetensors")
_SUMS = "SHA256SUMS"


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


def check_destination(folder: str | Path, *, overwrite: bool) -> None:
    """Find out before training whether the model can be saved there.

    Raises:
        FileExistsError: something is there, and ``overwrite`` is not asked for, or other files than a model's are.
        OSError: no folder or file can be made there.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise FileExistsError(f"needed a new folder for the model, got {folder}, which exists; pass --overwrite")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"needed a folder for the model, got the file {folder}; name another")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and (_SUMS not in names or not names <= {*_FILES, _SUMS}):
        raise FileExistsError(f"needed a model to overwrite, got {folder} with other files; name another folder")
    # The folders above are made when the model is saved, not now: the nearest one that exists must take a file.
    above = next(parent for parent in folder.resolve().parents if parent.exists())
    with tempfile.TemporaryFile(dir=above):
        pass


def save_model(model: TableModel, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a model folder, whole or not at all: it is made under another name and renamed when complete.

    Raises:
        FileExistsError, OSError: as ``check_destination``; an older model is left as it was.
        ValueError: a weight is not finite.
    """
    from safetensors.torch import save_file

    check_destination(folder, overwrite=overwrite)
    weights = model.network.state_dict()
    _check_finite(weights, "the network")
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_remains(folder)
    with _renamed_when_complete(folder) as part:
        save_file(weights, part / "weights.safetensors")
        save_preprocessor(model.preprocessing, part / "preprocessing.skops")
        text = json.dumps({"format": _FORMAT, **asdict(model.description)}, indent=2, allow_nan=False)
        (part / "model.json").write_text(text + "\n", encoding="utf-8")
        sums = "".join(f"{_sum(part / name)}  {name}\n" for name in _FILES)
        (part / _SUMS).write_text(sums, encoding="utf-8")


def load_model(folder: str | Path) -> TableModel:
    """Read a model folder that ``save_model`` wrote.

    All of it is data: JSON, tensors, and a description of scikit-learn objects that may name no other types. Loading
    runs no code that the folder brings.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a file is not as it was saved, of another format, or holds a weight that is not finite.
    """
    folder = Path(folder)
    _verify(folder)
    description = _read_description(folder / "model.json")
    network = build(description.network, description.inputs, len(description.labels), seed=0)
    _load_weights(network, folder / "weights.safetensors")
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


def _load_weights(network: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
        _check_finite(weights, str(path))
        if any(value.dtype != torch.float32 for value in weights.values()):
            raise RuntimeError("weights other than float32")
        network.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"needed the weights of the model, got {path} ({reason}); train the model anew") from error


def _verify(folder: Path) -> None:
    if not (folder / _SUMS).is_file():
        raise FileNotFoundError(f"needed a folder written by rlgrad train, got {folder}, which has no SHA256SUMS")
    lines = (folder / _SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in _FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"needed {name} in {folder}, got none; copy the whole folder")
        if sums.get(name) != _sum(folder / name):
            raise ValueError(f"needed {folder / name} as it was saved, got other content; restore the folder")


def _sum(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _check_finite(weights: dict[str, torch.Tensor], where: str) -> None:
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"needed finite weights, got others for {name} in {where}; train it anew")


@contextmanager
def _renamed_when_complete(folder: Path) -> Iterator[Path]:
    """A temporary folder beside the wanted one, which takes its place when the block is left without an error."""
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp's is private
        for path in (*part.iterdir(), part):
            _synchronise(path)
        old = part.with_suffix(".old")
        if folder.exists():
            folder.rename(old)
        try:
            part.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
        _synchronise(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _clear_remains(folder: Path) -> None:
    """Remove what a killed save left; a model that it had only moved aside comes back first."""
    for old in folder.parent.glob(f".{glob.escape(folder.name)}.*.old"):
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(folder)
    for part in folder.parent.glob(f".{glob.escape(folder.name)}.*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _synchronise(path: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
