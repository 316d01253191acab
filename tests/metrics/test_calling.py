"""Calling a user's function: here or in worker processes, with time limits and penalties.

Functions for workers are local, so that they are sent as they are. One test file shares one pool: starting a worker
costs seconds, so each test of them checks several things.
"""

import math
import os
import sys
import threading
import time
import warnings
from collections import deque
from itertools import repeat

import pytest
import torch
from joblib import Parallel, delayed
from torch import Tensor

from rlgrad.metrics import OpaqueMetric
from rlgrad.metrics.calling import Calling, _Workers
from rlgrad.metrics.outcomes import Call, Fault

DECISION = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(1)) < 0.5
TARGET = torch.rand(3, 5, generator=torch.Generator().manual_seed(2)) < 0.5
HITS = (DECISION == TARGET).double().mean(-1)


def hits(decision: Tensor, target: Tensor) -> float:
    return float((decision == target).double().mean())


def failing_at(*calls: int, result: object = None):
    """Hits, but at the given calls an exception, or the result; in this process alone, where calls can be counted."""
    count = iter(range(10_000))

    def metric(decision: Tensor, target: Tensor) -> object:
        if next(count) not in calls:
            return hits(decision, target)
        if result is None:
            raise ZeroDivisionError("no pixels")
        return result

    return metric


def test_workers_give_what_calling_here_gives() -> None:
    here = os.getpid()

    def away(decision: Tensor, target: Tensor) -> float:
        if os.getpid() == here:
            raise AssertionError("called here")
        score = float((decision == target).double().mean())
        decision.fill_(False)  # a worker has copies of its own, too
        target.fill_(False)
        return score

    decision, target = DECISION.clone(), TARGET.clone()
    scores = OpaqueMetric(away, workers=2)(decision, target)
    assert torch.equal(scores, HITS)
    assert torch.equal(decision, DECISION)
    assert torch.equal(target, TARGET)
    assert torch.equal(OpaqueMetric(hits, workers=2)(DECISION[0, 0], TARGET[0]), HITS[0, 0])
    assert OpaqueMetric(hits, workers=2)(DECISION[:, :0], TARGET[:0]).shape == (4, 0)
    assert Parallel(n_jobs=2)(delayed(abs)(number) for number in (-1, -2)) == [1, 2]  # beside joblib's own workers


@pytest.mark.usefixtures("as_a_user")
def test_an_error_in_a_worker_is_the_first_in_order_with_its_traceback() -> None:
    class Homemade(Exception):
        def __init__(self, one: int, two: int) -> None:  # cannot be rebuilt from its message, so not be sent
            super().__init__(f"{one} and {two}")

    def fails(decision: Tensor, target: Tensor) -> float:
        count = int(decision.sum())
        if count >= 12:
            raise Homemade(1, 2) if count == 20 else ZeroDivisionError(f"count {count}")
        return 0.0

    decision = torch.arange(20).unsqueeze(-1) < torch.arange(40) % 21  # counts 0 to 20, the first 12 at draw 12
    decision = decision.T.contiguous()
    with pytest.raises(
        RuntimeError, match=r"^fails raised ZeroDivisionError at draw and row \(12,\): count 12$"
    ) as caught:
        OpaqueMetric(fails, workers=2)(decision, torch.zeros(20))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "in fails" in str(caught.value.__cause__.__cause__)  # the worker's traceback
    with pytest.raises(RuntimeError, match=r"^fails raised Homemade at draw and row \(0,\): 1 and 2") as caught:
        OpaqueMetric(fails, workers=2)(decision[20:21], torch.zeros(20))
    assert str(caught.value.__cause__) == "Homemade: 1 and 2"
    # Nothing is left behind: the next call is like any other.
    assert torch.equal(OpaqueMetric(fails, workers=2)(decision[:12], torch.zeros(20)), torch.zeros(12).double())


def test_hangs_and_deaths_count_as_the_penalty() -> None:
    def metric(decision: Tensor, target: Tensor) -> float:
        count = int(decision.sum())
        if count == 1:
            while True:  # Python that hangs
                time.sleep(0.01)
        if count == 2:
            deque(repeat(0), maxlen=0)  # C that hangs, holds the interpreter's lock and hears no signal
        return float(count)

    decision = torch.arange(8).unsqueeze(-1) > torch.arange(8)  # counts 0 to 7
    penalised = OpaqueMetric(metric, workers=2, timeout=0.5, on_error=-1.0)
    start = time.monotonic()
    with pytest.warns(
        UserWarning, match=r"^2 of 8 calls of metric failed and count as -1.0; the first: metric"
    ) as told:
        scores = penalised(decision, torch.zeros(8))
    assert scores.tolist() == [0, -1, -1, 3, 4, 5, 6, 7]
    assert len(told) == 1
    assert time.monotonic() - start < 40


@pytest.mark.parametrize("on_error", ["raise", -1.0])
def test_of_calls_in_flight_when_a_worker_is_lost_the_one_that_does_it_again_is_to_blame(on_error, monkeypatch) -> None:
    repeated = []

    def scripted(self: _Workers, waiting: deque[range]) -> list[int]:
        calls = [call for share in waiting for call in share]
        waiting.clear()
        for call in calls:
            self._note(call, (float(call),))
        if len(calls) > 1:  # all but two are done when a worker dies
            del self.found[2], self.found[5]
            return [2, 5]
        repeated.extend(calls)
        return [call for call in calls if call == 5]

    monkeypatch.setattr(_Workers, "_work", scripted)
    calling = Calling(workers=2, on_error=on_error)
    outcomes = _Workers(calling, Call(hits, "hits"), torch.zeros(8, 5), torch.zeros(1, 5)).outcomes()
    assert repeated == [2, 5]
    assert isinstance(outcomes[5], Fault)
    assert outcomes[:5] == [(0.0,), (1.0,), (2.0,), (3.0,), (4.0,)]
    assert outcomes[6:] == ([] if on_error == "raise" else [(6.0,), (7.0,)])


@pytest.mark.usefixtures("as_a_user")
def test_one_worker_with_a_time_limit_raises_in_time_and_starts_afresh() -> None:
    def metric(decision: Tensor, target: Tensor) -> float:
        if decision.all():
            time.sleep(60)
        if not decision.any():
            os._exit(1)  # as a crash or the kernel would end it
        return 1.0

    limited = OpaqueMetric(metric, timeout=0.5)
    mixed, ones = torch.tensor([[True, False]]), torch.tensor([[True, False], [True, True]])
    with pytest.raises(
        RuntimeError, match=r"^metric raised TimeoutError at draw and row \(1,\): no answer in time"
    ) as caught:
        limited(ones, torch.zeros(2))
    assert isinstance(caught.value.__cause__, TimeoutError)
    with pytest.raises(RuntimeError, match=r"^the worker process of metric ended at draw and row \(1,\): it was kill"):
        limited(torch.tensor([[True, False], [False, False]]), torch.zeros(2))
    assert limited(mixed, torch.zeros(2)).tolist() == [1.0]


@pytest.mark.usefixtures("as_a_user")
def test_what_cannot_be_sent_is_refused() -> None:
    lock = threading.Lock()

    def locked(decision: Tensor, target: Tensor) -> float:
        with lock:
            return 0.0

    with pytest.raises(TypeError, match=r"^needed a function that can be sent to worker processes, got TypeError"):
        OpaqueMetric(locked, workers=2)(DECISION, TARGET)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, "best", [1.0, 2.0], torch.ones(2)], ids=repr)
def test_a_penalty_stands_for_any_failure_with_one_warning(bad: object) -> None:
    metric = OpaqueMetric(failing_at(4, 7, result=bad), on_error=-2, name="mine")
    with pytest.warns(
        UserWarning, match=r"^2 of 12 calls of mine failed and count as -2; the first: .*\(1, 1\)"
    ) as told:
        scores = metric(DECISION, TARGET)
    assert len(told) == 1
    expected = HITS.clone()
    expected[1, 1] = expected[2, 1] = -2
    assert torch.equal(scores, expected)
    assert torch.equal(metric(DECISION, TARGET), HITS)  # no failure, no warning, nothing left of the last one


def test_every_call_may_fail() -> None:
    with pytest.warns(UserWarning, match="12 of 12 calls"):
        scores = OpaqueMetric(lambda decision, target: math.nan, on_error=0.0)(DECISION, TARGET)
    assert torch.equal(scores, torch.zeros(4, 3).double())


@pytest.mark.usefixtures("as_a_user")
def test_after_an_error_the_next_call_is_a_fresh_one() -> None:
    metric = OpaqueMetric(failing_at(7))
    with pytest.raises(RuntimeError, match=r"at draw and row \(2, 1\)"):
        metric(DECISION, TARGET)
    assert torch.equal(metric(DECISION, TARGET), HITS)


@pytest.mark.usefixtures("as_a_user")
def test_a_program_that_exits_is_a_failure_but_an_interrupt_is_not() -> None:
    with pytest.raises(RuntimeError, match=r"raised SystemExit at draw and row \(0, 0\)"):
        OpaqueMetric(lambda decision, target: sys.exit(2))(DECISION, TARGET)

    def interrupted(decision: Tensor, target: Tensor) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        OpaqueMetric(interrupted, on_error=0.0)(DECISION, TARGET)


def test_batched_failures_count_as_the_penalty_too() -> None:
    def fails(decision: Tensor, target: Tensor) -> Tensor:
        raise ZeroDivisionError("no pixels")

    with pytest.warns(UserWarning, match=r"^fails failed and counts as -1: fails raised ZeroDivisionError: no pixels"):
        scores = OpaqueMetric(fails, batched=True, on_error=-1)(DECISION, TARGET)
    assert torch.equal(scores, -torch.ones(4, 3).double())

    def holes(decision: Tensor, target: Tensor) -> Tensor:
        return torch.where(torch.arange(12).reshape(4, 3) % 5 == 1, math.nan, HITS)

    with pytest.warns(UserWarning, match=r"^3 of 12 scores of holes count as -1: .* got nan at draw and row \(0, 1\)"):
        scores = OpaqueMetric(holes, batched=True, on_error=-1)(DECISION, TARGET)
    assert torch.equal(scores, torch.where(torch.arange(12).reshape(4, 3) % 5 == 1, -1.0, HITS))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"workers": 0}, ValueError, "at least 1 worker"),
        ({"workers": 1.5}, TypeError, "whole number of workers"),
        ({"workers": True}, TypeError, "whole number of workers"),
        ({"timeout": 0}, ValueError, "timeout in seconds above 0"),
        ({"timeout": math.inf}, ValueError, "timeout in seconds above 0"),
        ({"timeout": "1"}, ValueError, "timeout in seconds above 0"),
        ({"on_error": "skip"}, TypeError, '^needed on_error "raise" or a number'),
        ({"on_error": None}, TypeError, '^needed on_error "raise" or a number'),
        ({"on_error": True}, TypeError, '^needed on_error "raise" or a number'),
        ({"on_error": math.nan}, ValueError, "finite penalty"),
        ({"on_error": (0.0, 1.0)}, TypeError, "a metric gives one number"),
        ({"batched": True, "workers": 2}, ValueError, "batched"),
        ({"batched": True, "timeout": 1}, ValueError, "batched"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        OpaqueMetric(hits, **options)


def test_calling_is_a_copy_called_in_another_way() -> None:
    metric = OpaqueMetric(hits)
    other = metric.calling(on_error=0.5, workers=3, timeout=2)
    assert repr(other) == "OpaqueMetric(hits, workers=3, timeout=2, on_error=0.5)"
    assert repr(metric) == "OpaqueMetric(hits)"
    assert metric.how == Calling()


def test_calls_here_start_no_process_and_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = OpaqueMetric(lambda decision, target: os.getpid())(DECISION, TARGET)
    assert (scores == os.getpid()).all()
