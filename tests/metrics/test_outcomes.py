"""One call, and what came of it."""

import math
from functools import partial

import torch
from torch import Tensor

from rlgrad.metrics.outcomes import Call, Fault, call_all, name_of

DECISION = torch.tensor([[True, False], [True, True], [False, False], [False, True]])
TARGET = torch.tensor([[True, True], [False, False]])


def hits(decision: Tensor, target: Tensor) -> float:
    return float((decision == target).double().mean())


def test_a_call_ends_in_values_or_a_fault() -> None:
    assert Call(hits, "hits")(DECISION[0], TARGET[0]) == (0.5,)
    fault = Call(lambda decision, target: (1.0, math.nan), "mine", several=True)(DECISION[0], TARGET[0])
    assert isinstance(fault, Fault)
    assert str(fault.error((1, 2))) == (
        "needed finite statistics from mine, got (1.0, nan) at draw and row (1, 2); leave 0/0 to the score"
    )


def test_names_are_seen_through_partial() -> None:
    assert name_of(partial(partial(hits, 1), 2)) == "hits"
    assert name_of(Call(hits, "hits")) == "Call"


def test_targets_repeat_for_each_draw_and_a_fault_may_stop_the_rest() -> None:
    assert call_all(Call(hits, "hits"), DECISION, TARGET, stop=True) == [(0.5,), (0.0,), (0.0,), (0.5,)]
    picky = Call(lambda decision, target: 1 / int(decision.sum()), "picky")
    assert [isinstance(outcome, Fault) for outcome in call_all(picky, DECISION, TARGET, stop=False)] == [0, 0, 1, 0]
    assert [isinstance(outcome, Fault) for outcome in call_all(picky, DECISION, TARGET, stop=True)] == [0, 0, 1]


def test_an_exception_that_cannot_be_sent_is_sent_as_its_text() -> None:
    class Homemade(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    def fails(decision: Tensor, target: Tensor) -> float:
        raise Homemade(1, 2) if decision.all() else KeyError("two")

    sent = [call(*rows).sendable() for call in [Call(fails, "fails")] for rows in zip(DECISION, TARGET, strict=False)]
    assert isinstance(sent[0].cause, KeyError)
    assert type(sent[1].cause) is RuntimeError
    assert str(sent[1].cause) == "Homemade: 1 and 2"
    assert all("in fails" in fault.trace for fault in sent)
