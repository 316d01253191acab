"""One call of a user's function, and what came of it: numbers, or the fault that kept it from giving any."""

import faulthandler
import math
import os
import pickle
import reprlib
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from jaxtyping import Shaped
from torch import Tensor

Function: TypeAlias = Callable[..., Any]
Values: TypeAlias = tuple[int | float, ...]


def name_of(function: object) -> str:
    """The function's own name, seen through ``functools.partial``."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


@dataclass(frozen=True)
class Fault:
    """Why a call gave no numbers, in two parts between which draw and row are named, with the original exception."""

    kind: type[Exception]
    before: str
    after: str
    cause: BaseException | None = None
    trace: str = ""

    def error(self, at: tuple[int, ...]) -> Exception:
        """The error to raise; where the cause comes from another process, it shows the traceback there."""
        error = self.kind(f"{self.before} at draw and row {at}{self.after}")
        if self.cause is not None and self.trace:
            self.cause.__cause__ = RuntimeError(f"in a worker process:\n{self.trace}")
        error.__cause__ = self.cause
        return error

    def sendable(self) -> "Fault":
        """The same for another process, where exceptions that cannot be sent arrive as their text."""
        if self.cause is None:
            return self
        trace = "".join(traceback.format_exception(self.cause))
        try:
            pickle.loads(pickled(self.cause))
        except Exception:
            return replace(self, cause=RuntimeError(f"{type(self.cause).__name__}: {self.cause}"), trace=trace)
        return replace(self, trace=trace)


Outcome: TypeAlias = Values | Fault


@dataclass(frozen=True)
class Call:
    """One call of the function, and what came of it.

    Args:
        function: of one row's decision and target.
        name: how messages call it.
        several: it gives a tuple of numbers; otherwise one.
        timeout: seconds, in a process where nothing else runs; None for no limit.
    """

    function: Function
    name: str
    several: bool = False
    timeout: int | float | None = None

    def __call__(self, decision: Shaped[Tensor, "*items"], target: Shaped[Tensor, "*items"]) -> Outcome:
        """Finite numbers, or a fault."""
        try:
            with _time_limit(self.timeout):
                result = self.function(decision, target)
        except (Exception, SystemExit) as error:
            return Fault(RuntimeError, f"{self.name} raised {type(error).__name__}", f": {error}", error)
        try:
            values = tuple(map(self._number, _listed(result))) if self.several else (self._number(result),)
        except (TypeError, ValueError) as error:
            needed, advice = ("a tuple of numbers", "floats") if self.several else ("a number", "one float")
            return self._needed(needed, reprlib.repr(result), f"; return {advice}", error)
        finite = all(map(math.isfinite, values))
        return values if finite else self._needed(*self._not_finite(values))

    def _needed(self, what: str, got: object, advice: str, cause: Exception | None = None) -> Fault:
        return Fault(ValueError, f"needed {what} from {self.name}, got {got}", advice, cause)

    def _not_finite(self, values: Values) -> tuple[str, object, str]:
        if self.several:
            return "finite statistics", values, "; leave 0/0 to the score"
        return "a finite score", values[0], "; return the worst value instead"

    def _number(self, result: object) -> float:
        if isinstance(result, Tensor) and result.requires_grad:
            warn_of_graph(self.name)
            result = result.detach()
        return float(result)  # type: ignore[arg-type]  # what is no number is caught by the caller


def warn_of_graph(name: str) -> None:
    """A black box gave a tensor that could be differentiated, which goes unused."""
    warnings.warn(
        f"{name} returned a score with a gradient, which a black box has no use for; it is taken as a number. "
        "If what it holds is to learn, score by rlgrad.metrics.Downstream",
        stacklevel=2,
    )


def _listed(result: Any) -> Any:
    return list(result.unbind()) if isinstance(result, Tensor) else result


def call_all(call: Call, decisions: Tensor, targets: Tensor, *, stop: bool) -> list[Outcome]:
    """Outcomes of the calls in order, up to the first fault where that stops them; targets repeat for each draw."""
    outcomes: list[Outcome] = []
    for index, decision in enumerate(decisions):
        outcomes.append(call(decision.clone(), targets[index % len(targets)].clone()))
        if stop and isinstance(outcomes[-1], Fault):
            break
    return outcomes


@contextmanager
def _time_limit(seconds: int | float | None) -> Iterator[None]:
    """Raise TimeoutError in the code within after so many seconds; end the process if that does not end the code.

    The alarm reaches Python code alone. The watchdog is a thread that needs no interpreter lock, so it also ends a
    process that hangs in C code; it waits a little longer, since a process costs more to replace than a call.
    """
    if seconds is None:
        yield
        return
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(2 * seconds + 1, exit=True, file=nowhere)
        try:
            _set_alarm(seconds)
            yield
        finally:
            try:
                _set_alarm(0)
            finally:
                faulthandler.cancel_dump_traceback_later()


def _set_alarm(seconds: float) -> None:
    if not hasattr(signal, "SIGALRM"):  # as on Windows, where the watchdog is the only limit
        return

    def late(number: int, frame: object) -> None:
        raise TimeoutError("no answer in time; raise timeout if it needs longer")

    if seconds:
        signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def pickled(value: object) -> bytes:
    """The value as loky sends it: by cloudpickle, so functions of no module are sent as they are."""
    from joblib.externals.loky.backend.reduction import dumps

    return bytes(dumps(value))
