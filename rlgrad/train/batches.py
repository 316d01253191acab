"""Batches of (inputs, targets), from a pair of tensors or from any iterable of pairs."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

Data = tuple[Tensor, Tensor] | Iterable[Sequence[Tensor]]


class Batches:
    """A data set that can be gone through in order, or shuffled.

    Args:
        data: a pair of tensors or arrays of equal length, moved whole to the device in training, or an iterable of
            pairs such as a DataLoader.
        what: its name, for messages.

    Raises:
        TypeError: it is neither.
        ValueError: the pair is empty, or of unequal lengths.
    """

    def __init__(self, data: Data, what: str) -> None:
        self.loader: Iterable[Sequence[Tensor]] = ()
        self.pair: tuple[Tensor, Tensor] | None = None
        if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(part, "shape") for part in data):
            self.pair = x, y = _tensor(data[0]), _tensor(data[1])
            if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
                raise ValueError(
                    f"needed as many inputs as targets in {what}, and one at least, got shapes {tuple(x.shape)} and "
                    f"{tuple(y.shape)}"
                )
        elif isinstance(data, Iterable) and not isinstance(data, str | bytes):
            self.loader = cast("Iterable[Sequence[Tensor]]", data)
        else:
            raise TypeError(f"needed a pair of tensors or an iterable of batches as {what}, got {type(data).__name__}")

    def in_order(self, batch_size: int) -> Iterable[Sequence[Tensor]]:
        """Batches as they come."""
        if self.pair is None:
            return self.loader
        return zip(*(part.split(batch_size) for part in self.pair), strict=True)

    def shuffled(self, batch_size: int, *, seed: int, epoch: int) -> Iterable[Sequence[Tensor]]:
        """Batches of nearly equal size, so that none is left with a single row; a DataLoader shuffles by itself.

        The order depends on the seed and the epoch alone.
        """
        if self.pair is None:
            return self.loader
        x, y = self.pair
        key = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(key)).to(x.device)
        return ((x[part], y[part]) for part in order.tensor_split(math.ceil(len(x) / batch_size)))

    def to(self, device: torch.device) -> None:
        """Move a pair of tensors to a device, once; a loader's batches are moved one by one."""
        if self.pair is not None:
            self.pair = self.pair[0].to(device), self.pair[1].to(device)


def _tensor(values: Any) -> Tensor:
    # Arrays are copied: PyTorch takes neither read-only ones nor reversed ones as they are.
    # NumPy's default float64 becomes PyTorch's default, which is the models'.
    if isinstance(values, Tensor):
        return values
    tensor = torch.from_numpy(np.array(values, order="C"))
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor
