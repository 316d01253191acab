"""What one estimate costs: seconds, and the most memory that it holds at any time."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


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
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as trace:
            function()
        trace.export_chrome_trace(str(path))
        return _peak(json.loads(path.read_text(encoding="utf-8"))["traceEvents"])


def _peak(events: list[dict[str, Any]]) -> int:
    held = most = 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=_order):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


def _order(event: dict[str, Any]) -> tuple[float, int]:
    return event["ts"], event["args"]["Ev Idx"]


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
