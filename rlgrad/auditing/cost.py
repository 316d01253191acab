"""What one estimate costs: seconds, and the most memory that it holds at any time."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import profile

SHORT = 0.1  # seconds of a call up to which memory is looked at: one that is busy in Python takes 25 times as long then


def timed(function: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    """A function's tensor and its seconds, the device's own work included."""
    _finish(device)
    start = time.perf_counter()
    result = function()
    _finish(device)
    return result, time.perf_counter() - start


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(function: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors that are allocated at the worst moment of a call, beyond those that were before it.

    On CUDA by the allocator's own statistics, which this resets. On the processor by the profiler, which sees every
    allocation that torch makes, and none that NumPy makes; on other devices likewise, for the part on the processor.

    Example:
        >>> peak_memory(lambda: torch.zeros(1000, dtype=torch.float64).exp().sum(), torch.device("cpu"))
        16000
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    with _quiet(), profile(profile_memory=True) as trace:
        function()
    # The events as they were recorded: what torch makes of them to be shown takes far longer than the call.
    changes = [(event.start_ns(), event.nbytes()) for event in trace.kineto_results.events() if _of_memory(event)]
    held = most = 0
    for _, change in sorted(changes, key=itemgetter(0)):
        held += change
        most = max(most, held)
    return most


def _of_memory(event: Any) -> bool:
    return bool(event.name() == "[memory]")


@contextmanager
def _quiet() -> Iterator[None]:
    """The profiler writes lines of its own past Python to the error stream; what Python raises is not lost."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no such stream
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
