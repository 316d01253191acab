"""Other people's metrics as rewards: scikit-learn's, torchmetrics', and programs that print a score."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlgrad.checks import describe
from rlgrad.metrics.opaque import OpaqueMetric
from rlgrad.metrics.outcomes import name_of


def from_sklearn(function: Callable[..., Any], *, larger_is_better: bool) -> OpaqueMetric:
    """A metric of scikit-learn: any ``function(y_true, y_pred)`` of labels that gives a number.

    The two are swapped into scikit-learn's order and handed over as arrays, integers where they are whole; a loss is
    negated. ``over(2)`` hands over a table of rows and labels, for multi-label metrics.

    Args:
        function: such as ``sklearn.metrics.matthews_corrcoef``; options by ``functools.partial``.
        larger_is_better: whether it is a score, and no loss.

    Raises:
        TypeError: ``function`` is not callable, or ``larger_is_better`` not a truth value.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from sklearn.metrics import f1_score, zero_one_loss
        >>> macro = from_sklearn(partial(f1_score, average="macro"), larger_is_better=True)
        >>> macro(torch.tensor([[0, 1, 2, 2]]), torch.tensor([0, 1, 2, 1]))
        tensor([0.7778], dtype=torch.float64)
        >>> from_sklearn(zero_one_loss, larger_is_better=False)(torch.tensor([True, False]), torch.tensor([1, 1]))
        tensor(-0.5000, dtype=torch.float64)
    """
    _check_function(function)
    _check_orientation(larger_is_better)
    return OpaqueMetric(_Sklearn(function, larger_is_better), name=name_of(function))


@dataclass(frozen=True)
class _Sklearn:
    function: Callable[..., Any]
    larger_is_better: bool

    def __call__(self, decision: Tensor, target: Tensor) -> float:
        value = float(self.function(_whole(target).numpy(), _whole(decision).numpy()))
        return value if self.larger_is_better else -value


def from_torchmetrics(
    metric: Any,
    *,
    larger_is_better: bool | None = None,
    as_float: bool = False,
    item_axes: int = 1,
    batch_axis: bool = False,
) -> OpaqueMetric:
    """A metric of torchmetrics: a function ``(preds, target)``, or a ``Metric``, reset before each row.

    Yes/no decisions and targets that are whole numbers arrive as integers, which torchmetrics takes for decisions;
    floats it would take for scores.

    Args:
        metric: a function such as ``torchmetrics.functional.classification.binary_f1_score``, with its options by
            ``functools.partial``, or an instance such as ``BinaryF1Score()``, of which each row meets a fresh copy.
        larger_is_better: whether it is a score, and no loss; None where a Metric's ``higher_is_better`` says so.
        as_float: pass decisions as the scores 0.0 and 1.0, for metrics of scores, such as the AUROC.
        item_axes: how many trailing axes the metric takes at once: 1, labels of one row; 2, a table of rows and
            labels, or an image.
        batch_axis: put an axis of one row before them, for metrics that want a batch: multi-label ones of a single
            row (item_axes=1), segmentation ones of a single image (item_axes=2, or 3 for classes, height and width).

    Raises:
        ImportError: torchmetrics cannot be imported.
        TypeError: ``metric`` is not callable, or a class where an instance is needed.
        ValueError: ``larger_is_better`` is needed, or contradicts the metric.

    Example:
        >>> import torch
        >>> from torchmetrics.classification import BinaryF1Score
        >>> from_torchmetrics(BinaryF1Score())(torch.tensor([[True, True, False]]), torch.tensor([1, 0, 1]))
        tensor([0.5000], dtype=torch.float64)

        The Dice score of one image at a time, from classes by pixel:

        >>> from functools import partial
        >>> from torchmetrics.functional.segmentation import dice_score
        >>> dice = partial(dice_score, num_classes=3, input_format="index", average="macro")
        >>> per_image = from_torchmetrics(dice, larger_is_better=True, item_axes=2, batch_axis=True)
        >>> per_image(torch.zeros(4, 5, 8, 8, dtype=torch.long), torch.zeros(5, 8, 8, dtype=torch.long)).shape
        torch.Size([4, 5])
    """
    _check_function(metric)
    fresh = _is_metric(metric)
    oriented = _orientation(metric, larger_is_better, stated=metric.higher_is_better if fresh else None)
    function = _Torchmetrics(metric, oriented, as_float=as_float, batch_axis=batch_axis, fresh=fresh)
    return OpaqueMetric(function, name=name_of(metric), item_axes=item_axes)


def _is_metric(metric: object) -> bool:
    try:
        from torchmetrics import Metric
    except Exception as error:  # a torchvision that does not match torch breaks this import in ways of its own
        raise ImportError(
            f"needed torchmetrics, whose import failed with {type(error).__name__}: {error}; pip install torchmetrics, "
            "and remove a torchvision that does not match torch"
        ) from error
    if isinstance(metric, type) and issubclass(metric, Metric):
        raise TypeError(f"needed an instance, got the class {metric.__name__}; call it with its options")
    return isinstance(metric, Metric)


def _orientation(metric: object, claimed: bool | None, *, stated: bool | None) -> bool:
    if stated is None and claimed is None:
        raise ValueError(f"needed larger_is_better, which {name_of(metric)} does not state; True for a score")
    if None not in (stated, claimed) and stated != claimed:
        raise ValueError(
            f"needed the orientation that {name_of(metric)} states, higher_is_better={stated}, got "
            f"larger_is_better={claimed}; leave it out"
        )
    return _check_orientation(claimed if stated is None else stated)


@dataclass(frozen=True)
class _Torchmetrics:
    metric: Callable[..., Any]
    larger_is_better: bool
    as_float: bool
    batch_axis: bool
    fresh: bool

    def __call__(self, decision: Tensor, target: Tensor) -> Any:
        decision, target = decision.float() if self.as_float else _whole(decision), _whole(target)
        if self.batch_axis:
            decision, target = decision[None], target[None]
        value = self._value(decision, target)
        return value if self.larger_is_better else -value

    def _value(self, decision: Tensor, target: Tensor) -> Any:
        if not self.fresh:
            return self.metric(decision, target)
        metric: Any = self.metric
        metric = metric.clone()
        metric.reset()
        metric.update(decision, target)
        return metric.compute()


def _whole(values: Tensor) -> Tensor:
    """The values as integers where they are whole numbers, else as they are."""
    if values.is_floating_point() and not (values.isfinite() & (values == values.round())).all():
        return values
    return values.long()


def _check_function(function: object) -> None:
    if not callable(function):
        raise TypeError(f"needed a metric function, got {function!r}; pass a callable")


def _check_orientation(larger_is_better: object) -> bool:
    if not isinstance(larger_is_better, bool):
        raise TypeError(f"needed True or False for larger_is_better, got {larger_is_better!r}; False for a loss")
    return larger_is_better


def from_program(
    command: Sequence[str],
    *,
    larger_is_better: bool = True,
    timeout: int | float | None = 60.0,
    files: Literal["npy", "txt"] = "npy",
    name: str | None = None,
) -> OpaqueMetric:
    """A program that is given two files, a decision and its target, and prints a score.

    It is started once for each draw and row, as ``command decision-file target-file``, without a shell, and the last
    line that it prints is read as the number. The files hold integers (yes and no as 1 and 0; a target that is not
    whole, floats) and are removed afterwards. ``from_program(...).calling(workers=8)`` runs eight at a time.

    Args:
        command: the program and its first arguments.
        larger_is_better: whether it prints a score, and no loss.
        timeout: seconds until the program, with all that it started, is ended; None waits for ever.
        files: "npy" for ``numpy.load``, any number of axes; "txt" for one number a line, or one row of a table.
        name: how tables and messages call it; the command's words by default.

    Raises:
        TypeError: the command is not a list of words.
        ValueError: it is empty, ``files`` is unknown; on use, more than two axes are to be written as text.
        RuntimeError: on use, the program failed, printed no number or took too long; the end of what it wrote to
            stderr is told.

    Example:
        >>> import torch
        >>> import sys
        >>> program = (
        ...     "import sys, numpy as np; a, b = map(np.load, sys.argv[1:]); print('score'); print((a == b).mean())"
        ... )
        >>> metric = from_program([sys.executable, "-c", program], name="accuracy")
        >>> metric(torch.tensor([True, False, True, True]), torch.tensor([1, 0, 1, 0]))
        tensor(0.7500, dtype=torch.float64)
    """
    if isinstance(command, str) or not all(isinstance(word, str) for word in command):
        raise TypeError(f"needed a command as a list of words, got {command!r}; ['python', 'score.py'], no shell")
    if not command:
        raise ValueError("needed a program to call, got an empty command; ['python', 'score.py']")
    if files not in ("npy", "txt"):
        raise ValueError(f"needed files npy or txt, got {files!r}")
    _check_orientation(larger_is_better)
    program = _Program(tuple(command), larger_is_better, timeout, files)
    return OpaqueMetric(program, name=name or " ".join(Path(word).name or word for word in command))


@dataclass(frozen=True)
class _Program:
    command: tuple[str, ...]
    larger_is_better: bool
    timeout: int | float | None
    files: Literal["npy", "txt"]

    def __call__(self, decision: Tensor, target: Tensor) -> float:
        with tempfile.TemporaryDirectory(prefix="rlgrad-") as folder:
            paths = [Path(folder, f"{what}.{self.files}") for what in ("decision", "target")]
            for path, values in zip(paths, (decision, target), strict=True):
                self._write(path, values)
            score = self._run(Path(folder), [*self.command, *map(str, paths)])
        return score if self.larger_is_better else -score

    def _write(self, path: Path, values: Tensor) -> None:
        array: NDArray[Any] = _whole(values).numpy()
        if self.files == "npy":
            np.save(path, array, allow_pickle=False)
        elif array.ndim <= 2:
            np.savetxt(path, array, fmt="%d" if array.dtype.kind == "i" else "%.17g")
        else:
            raise ValueError(f"needed at most two axes for files='txt', got {describe(values)}; use npy")

    def _run(self, folder: Path, command: list[str]) -> float:
        # Files and not pipes: a pipe is read to its end, which something that the program left behind may hold open.
        with open(folder / "stdout", "w+b") as stdout, open(folder / "stderr", "w+b") as stderr:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
            )
            try:
                status = process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                _end(process)
                raise TimeoutError(f"no answer in {self.timeout:g} s{_tail(stderr)}") from None
            except BaseException:  # an interrupt, or the alarm of a worker
                _end(process)
                raise
            if status:
                raise RuntimeError(f"the program ended with status {status}{_tail(stderr)}")
            lines = _text(stdout).splitlines()
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            try:
                return float(last)
            except ValueError:
                raise RuntimeError(f"needed a number on its last line, got {last!r}{_tail(stderr)}") from None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the program, with all that it started where the system knows groups of processes."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _tail(file: IO[bytes]) -> str:
    """The end of what the program wrote to stderr, for messages."""
    text = _text(file).strip()
    return f"; the end of its stderr: {text[-500:]}" if text else "; it wrote nothing to stderr"
