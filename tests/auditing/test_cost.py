"""Seconds and bytes of one estimate, against allocations of known size."""

import os
import time

import pytest
import torch
from torch import Tensor

from rlgrad.auditing.cost import SHORT, peak_memory, timed

CPU = torch.device("cpu")
MIB = 1 << 20


def block(mebibytes: int) -> Tensor:
    return torch.zeros(mebibytes * MIB, dtype=torch.uint8)


def test_the_peak_counts_what_is_held_together() -> None:
    def at_most_five() -> None:
        first = block(2)
        second = block(3)
        del first, second
        block(4)

    assert peak_memory(at_most_five, CPU) == 5 * MIB


def test_what_was_there_before_does_not_count() -> None:
    before = block(8)
    assert peak_memory(lambda: before[:100].clone(), CPU) == 100
    assert peak_memory(lambda: before.view(-1), CPU) == 0


def test_the_backward_pass_counts() -> None:
    leaf = torch.zeros(MIB // 4, requires_grad=True)  # 1 MiB
    forward = peak_memory(lambda: leaf.exp(), CPU)
    both = peak_memory(lambda: torch.autograd.grad(leaf.exp().sum(), leaf), CPU)
    assert forward == MIB
    assert 2 * MIB <= both < 2 * MIB + 100


def test_the_profiler_says_nothing(capfd) -> None:
    peak_memory(lambda: block(1), CPU)
    assert capfd.readouterr() == ("", "")


def test_an_error_passes_through_and_the_error_stream_comes_back(capfd) -> None:
    def fails() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        peak_memory(fails, CPU)
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_seconds_are_those_of_the_call() -> None:
    def slow() -> Tensor:
        time.sleep(0.02)
        return torch.ones(1)

    result, seconds = timed(slow, CPU)
    assert result == 1
    assert 0.02 <= seconds < 1


def test_looking_at_memory_is_quick_where_python_is_busy() -> None:
    def busy() -> Tensor:
        for _ in range(8000):
            block = torch.zeros(10).clone()
        return block

    _, seconds = timed(busy, CPU)
    start = time.perf_counter()
    assert peak_memory(busy, CPU) == 120
    assert time.perf_counter() - start < 60 * max(seconds, SHORT)
