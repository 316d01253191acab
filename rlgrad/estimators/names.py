"""The estimators by name."""

from collections.abc import Callable
from difflib import get_close_matches

from torch import nn

from rlgrad.estimators.antithetic import arm, disarm
from rlgrad.estimators.biased import gumbel_softmax, straight_through
from rlgrad.estimators.blockwise import blockwise
from rlgrad.estimators.counterfactual import counterfactual
from rlgrad.estimators.enumeration import enumeration, sum_and_sample
from rlgrad.estimators.exact import exact
from rlgrad.estimators.perturbation import evolution_strategies, spsa
from rlgrad.estimators.relaxation import REBAR, muprop
from rlgrad.estimators.score_function import score_function
from rlgrad.estimators.second_order import second_order
from rlgrad.estimators.surrogate import Estimator
from rlgrad.estimators.without_replacement import inclusion_weighted, unordered_set

ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "exact": exact,
    "second_order": second_order,
    "counterfactual": counterfactual,
    "blockwise": blockwise,
    "score_function": score_function,
    "enumeration": enumeration,
    "sum_and_sample": sum_and_sample,
    "unordered_set": unordered_set,
    "inclusion_weighted": inclusion_weighted,
    "arm": arm,
    "disarm": disarm,
    "muprop": muprop,
    "rebar": REBAR,
    "straight_through": straight_through,
    "gumbel_softmax": gumbel_softmax,
    "spsa": spsa,
    "evolution_strategies": evolution_strategies,
}


def as_estimator(choice: str | Estimator, *, also: str = "") -> Estimator:
    """The estimator itself, or the one of that name with its default arguments.

    Args:
        choice: one or the other.
        also: names that the caller knows, for the message.

    Raises:
        ValueError: an unknown name.
        TypeError: not an estimator, or a class of them that was not called.

    Example:
        >>> as_estimator("disarm")
        disarm(draws=2)
    """
    if isinstance(choice, str):
        if choice not in ESTIMATORS:
            close = get_close_matches(choice.lower(), ESTIMATORS, n=2)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise ValueError(
                f"needed an estimator of {also}{', '.join(ESTIMATORS)}, got {choice!r}; {hint}"
                "one that needs more, such as RELAX(network), is passed as an object"
            )
        return ESTIMATORS[choice]()
    if not callable(choice) or isinstance(choice, type):
        raise TypeError(f"needed an estimator such as counterfactual(draws=4), got {choice!r}; call it, or name it")
    return choice


def learning_credit(estimator: Estimator) -> nn.Module | None:
    """The credit of an estimator, where it has a state.

    A loss that keeps it as an attribute, beside an estimator that is a module itself, saves, moves and trains it.

    Example:
        >>> from rlgrad.credit import MovingAverage
        >>> learning_credit(score_function(2, MovingAverage()))
        MovingAverage(decay=0.9)
    """
    credit = getattr(estimator, "credit", None)
    return credit if isinstance(credit, nn.Module) else None
