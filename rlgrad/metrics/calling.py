"""A user's function called for each draw and row: here or in worker processes, with a time limit, or with a penalty.

The outcomes of the calls are collected first and judged afterwards, so that every way of calling tells of a fault in
the same words. Nothing outlives a call of the metric but idle workers, and those not if one of them was lost.
"""

import math
import pickle
import warnings
from collections import deque
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.metrics.counts import count_dtype
from rlgrad.metrics.outcomes import Call, Fault, Function, Outcome, Values, call_all, pickled

OnError: TypeAlias = Literal["raise"] | int | float | Values

_START = 60.0
"""Seconds that starting worker processes, with imports, may add to a time limit before they are given up."""

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Calling:
    """How a function is called for each draw and row.

    Args:
        workers: worker processes that share the calls; 1 calls here, one after the other, unless a timeout is set.
            The function is sent to them (by cloudpickle: lambdas and functions of a notebook too) with every share.
        timeout: seconds that a call may take. It needs worker processes, be it one: only a process can be stopped. A
            function that hangs in C code, where Python cannot interrupt it, is ended with its process a little later.
        on_error: "raise", or the number (of ``several``: numbers) that stands for a call that raises, hangs, ends its
            process or gives no finite number; one warning then tells how many of how many did.

    Raises:
        TypeError: workers is no whole number, or one of the others not of its kind.
        ValueError: workers below 1, a timeout that is not positive and finite, or a penalty that is not finite.
    """

    workers: int = 1
    timeout: int | float | None = None
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        if isinstance(self.workers, bool) or not isinstance(self.workers, int):
            raise TypeError(f"needed a whole number of workers, got {self.workers!r}")
        if self.workers < 1:
            raise ValueError(f"needed at least 1 worker, got {self.workers}; 1 calls one after the other")
        if self.timeout is not None and not (_is_number(self.timeout) and 0 < self.timeout < math.inf):
            raise ValueError(f"needed a timeout in seconds above 0, got {self.timeout!r}; None sets no limit")
        if self.on_error != "raise" and not all(map(_is_number, self.penalty)):
            raise TypeError(f'needed on_error "raise" or a number that stands for a failure, got {self.on_error!r}')
        if not all(map(math.isfinite, self.penalty)):
            raise ValueError(f"needed a finite penalty for on_error, got {self.on_error!r}; use the metric's worst")

    @property
    def raises(self) -> bool:
        """A failing call is an error."""
        return self.on_error == "raise"

    @property
    def penalty(self) -> Values:
        """What stands for a failing call; nothing where it is an error."""
        if self.on_error == "raise":
            return ()
        return self.on_error if isinstance(self.on_error, tuple) else (self.on_error,)

    def each(
        self,
        function: Function,
        decision: Shaped[Tensor, "..."],
        target: Shaped[Tensor, "..."],
        *,
        item_axes: int,
        name: str,
        several: bool = False,
    ) -> Float[Tensor, "*rows values"]:
        """Call the function for each draw and row; it gets copies on the processor, which it may change.

        Args:
            function: of a decision and a target, ``*items`` each.
            decision: ``*draws *batch *items``.
            target: ``*batch *items``.
            item_axes: how many trailing axes are items.
            name: how messages call the function.
            several: it gives a tuple of numbers; otherwise one.

        Returns:
            The numbers, ``*draws *batch values``, float64, detached, on the decision's device.

        Raises:
            ValueError: the function gave no finite number; draw and row are named.
            RuntimeError: the function raised, hung, or ended its process; the original is the cause.
        """
        rows, items = decision.shape[: decision.ndim - item_axes], target.shape[target.ndim - item_axes :]
        decisions = decision.detach().cpu().reshape(math.prod(rows), *items)
        targets = target.detach().cpu().reshape(math.prod(target.shape[: target.ndim - item_axes]), *items)
        call = Call(function, name, several, self.timeout)
        if self.workers == 1 and self.timeout is None:
            outcomes = call_all(call, decisions, targets, stop=self.raises)
        else:
            outcomes = _Workers(self, call, decisions, targets).outcomes()
        values = self.judge(outcomes, rows, name=name, several=several)
        return values.to(decision.device, count_dtype(decision.device))

    def judge(
        self, outcomes: list[Outcome], rows: tuple[int, ...], *, name: str, several: bool
    ) -> Float[Tensor, "*rows values"]:
        """The numbers of all outcomes, with the penalty and one warning for faults, or the first fault's error."""
        sizes = (len(outcome) for outcome in outcomes if not isinstance(outcome, Fault))
        size = len(self.penalty) or (next(sizes, 0) if several else 1)
        outcomes = [_of_size(outcome, size, name=name) for outcome in outcomes]
        faults = [(call, outcome) for call, outcome in enumerate(outcomes) if isinstance(outcome, Fault)]
        if faults:
            error = faults[0][1].error(_position(faults[0][0], rows))
            if self.raises:
                raise error
            warnings.warn(
                f"{len(faults)} of {len(outcomes)} calls of {name} failed and count as {self.on_error}; "
                f"the first: {error}",
                stacklevel=4,
            )
        numbers = [self.penalty if isinstance(outcome, Fault) else outcome for outcome in outcomes]
        return torch.tensor(numbers, dtype=torch.float64).reshape(*rows, size)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _of_size(outcome: Outcome, size: int, *, name: str) -> Outcome:
    if isinstance(outcome, Fault) or len(outcome) == size:
        return outcome
    return Fault(ValueError, f"needed {size} statistics from {name}, got {len(outcome)}", "; as many from every row")


def _position(call: int, rows: tuple[int, ...]) -> tuple[int, ...]:
    at = []
    for size in reversed(rows):
        call, index = divmod(call, size)
        at.append(index)
    return tuple(reversed(at))


def _share(job: bytes, decisions: Tensor, targets: Tensor, stop: bool) -> bytes:
    """What a worker does: the outcomes of some of the calls."""
    outcomes = call_all(pickle.loads(job), decisions, targets, stop=stop)
    sendable = [outcome.sendable() if isinstance(outcome, Fault) else outcome for outcome in outcomes]
    return pickled(sendable)


class _Workers:
    """The calls of one function, shared among worker processes.

    A worker that dies takes the whole pool with it. The calls that were in flight are then repeated one at a time, so
    that the one that is to blame is found, and the innocent ones are not blamed with it.
    """

    def __init__(self, calling: Calling, call: Call, decisions: Tensor, targets: Tensor) -> None:
        self.calling, self.call, self.decisions, self.targets = calling, call, decisions, targets
        self.found: dict[int, Outcome] = {}
        self.first = len(decisions)  # the first fault, if it is an error
        try:
            self.job = pickled(call)
        except Exception as error:
            raise TypeError(
                f"needed a function that can be sent to worker processes, got {type(error).__name__} from pickling "
                f"{call.name}: {error}; take out what belongs to this process, or leave workers and timeout out"
            ) from error

    def outcomes(self) -> list[Outcome]:
        """All outcomes in order, or those up to the first fault where that stops them."""
        calls, workers = len(self.decisions), self.calling.workers
        size = max(1, min(64, math.ceil(calls / (4 * workers))))
        waiting = deque(range(start, min(start + size, calls)) for start in range(0, calls, size))
        while waiting and not self._vain(waiting[0].start):
            suspects = self._work(waiting)
            for call in suspects:
                if not self._vain(call) and (len(suspects) == 1 or self._work(deque([range(call, call + 1)]))):
                    self._note(call, self._lost())
        return [self.found[call] for call in range(min(calls, self.first + 1))]

    def _note(self, call: int, outcome: Outcome) -> None:
        self.found[call] = outcome
        if self.calling.raises and isinstance(outcome, Fault):
            self.first = min(self.first, call)

    def _vain(self, call: int) -> bool:
        """Whether an error is certain before this call."""
        return call > self.first

    def _lost(self) -> Fault:
        limit = self.calling.timeout
        hung = "" if limit is None else f", or hung where Python cannot interrupt it (timeout {limit:g} s)"
        why = f": it was killed, crashed, exited or ran out of memory{hung}"
        return Fault(RuntimeError, f"the worker process of {self.call.name} ended", why)

    def _work(self, waiting: deque[range]) -> list[int]:
        """Have shares of the calls done until none waits or a worker is lost; gives the calls in flight then."""
        # The pool that joblib.Parallel uses, by joblib's own door: one taken from loky behind its back breaks Parallel.
        from joblib.executor import get_memmapping_executor

        pool = get_memmapping_executor(self.calling.workers, timeout=300, env=_ONE_THREAD, max_nbytes=None)
        flying: dict[Future[bytes], range] = {}
        try:
            while flying or (waiting and not self._vain(waiting[0].start)):
                while waiting and len(flying) < self.calling.workers and not self._vain(waiting[0].start):
                    flying[self._submit(pool, waiting[0])] = waiting[0]
                    waiting.popleft()
                self._collect(flying)
        except BrokenExecutor:
            pool.shutdown(kill_workers=True)
            return sorted(call for share in flying.values() for call in share)
        except BaseException:  # an interrupt among them: what still runs is of no use
            pool.shutdown(kill_workers=True)
            raise
        return []

    def _submit(self, pool: Any, share: range) -> "Future[bytes]":
        rows = [call % len(self.targets) for call in share]
        decisions, targets = self.decisions[share.start : share.stop].clone(), self.targets[rows]
        future: Future[bytes] = pool.submit(_share, self.job, decisions, targets, self.calling.raises)
        return future

    def _collect(self, flying: "dict[Future[bytes], range]") -> None:
        limit = self.calling.timeout
        longest = max(map(len, flying.values()))
        done, _ = wait(flying, None if limit is None else _START + longest * (2 * limit + 1), FIRST_COMPLETED)
        if not done:
            raise BrokenExecutor
        for future in done:
            outcomes = pickle.loads(future.result())
            for call, outcome in zip(flying.pop(future), outcomes, strict=False):  # fewer where a fault stopped them
                self._note(call, outcome)
