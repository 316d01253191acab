"""Returns of trained agents beside those of a random policy: a table, and a sentence that answers.

A run is a mapping with ``seed``, ``returns`` of the trained agent and ``random_returns``, each of episodes that began
alike, in the same order. Intervals are Student's at 95%: of one run over its episodes, of several over the runs.
"""

from collections.abc import Mapping, Sequence
from math import floor, isnan, log10
from textwrap import fill
from typing import Any

from rlgrad.study.statistics import Interval, interval
from rlgrad.text import aligned


def returns_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """A line for each run, with intervals over its episodes, and one for their mean, with intervals over the runs.

    Example:
        >>> print(returns_table([{"seed": 0, "returns": [9.0, 10.0, 11.0], "random_returns": [4.0, 5.0, 6.0]}]))
        seed        trained [95%]       random [95%]      difference [95%]
        ----  -------------------  -----------------  --------------------
        0     10.00 [7.52, 12.48]  5.00 [2.52, 7.48]  +5.00 [+5.00, +5.00]
    """
    lines = {str(run["seed"]): over_runs([run]) for run in runs}
    if len(runs) > 1:
        lines["mean"] = over_runs(runs)
    digits = _decimals([bound for line in lines.values() for each in line for bound in each])
    rows = [
        [name, _shown(trained, digits), _shown(random, digits), _shown(gap, digits, sign="+")]
        for name, (trained, random, gap) in lines.items()
    ]
    return aligned([["seed", "trained [95%]", "random [95%]", "difference [95%]"], *rows])


def returns_sentence(runs: Sequence[Mapping[str, Any]], *, name: str, threshold: float | None = None) -> str:
    """Whether the agents are better than chance, and whether they reach what counts as solved.

    Args:
        runs: one or several.
        name: of the environment.
        threshold: mean return at which it counts as solved; None where it has none.
    """
    gap = over_runs(runs)[2]
    verdict = "better than" if gap.low > 0 else "worse than" if gap.high < 0 else "not told apart from"
    digits = _decimals(list(gap))
    over = f"{len(runs[0]['returns'])} episodes" if len(runs) == 1 else f"{len(runs)} seeds"
    said = f"On {name} what was learned is {verdict} a random policy: {_told(gap, digits)} over {over})."
    if len(runs) == 1:
        said += " That is of this one agent; more seeds tell how another would have fared."
    if threshold is not None:
        reached = sum(over_runs([run])[0].mean >= threshold for run in runs)
        if len(runs) > 1:
            said += (
                f" The mean return reaches {threshold:g}, which counts as solved, in {reached} of {len(runs)} seeds."
            )
        elif reached:
            said += f" Its mean return reaches {threshold:g}, which counts as solved."
        else:
            said += f" Its mean return does not reach {threshold:g}, which would count as solved."
    return fill(said, width=100)


def over_runs(runs: Sequence[Mapping[str, Any]]) -> tuple[Interval, Interval, Interval]:
    """Mean return of the trained, of the random policy, and their difference.

    Of several runs the intervals are over their means, as the episodes of one agent share whatever luck it had.

    Raises:
        ValueError: no run, or one without episodes.
    """
    if not runs:
        raise ValueError("needed at least one run, got none; train an agent")
    if len(runs) == 1:
        trained, random, gap = map(interval, _columns(runs[0]))
    else:
        means = [[interval(column).mean for column in _columns(run)] for run in runs]
        trained, random, gap = map(interval, zip(*means, strict=True))
    return trained, random, gap


def _columns(run: Mapping[str, Any]) -> tuple[list[float], list[float], list[float]]:
    """Returns of the trained, of the random policy, and differences: episodes that began alike are compared."""
    trained, random = list(run["returns"]), list(run["random_returns"])
    if len(trained) != len(random):
        raise ValueError(
            f"needed as many episodes of both policies, got {len(trained)} and {len(random)}; test both alike"
        )
    return trained, random, [a - b for a, b in zip(trained, random, strict=True)]


def _decimals(numbers: Sequence[float]) -> int:
    """As many as show four digits of the largest."""
    largest = max((abs(number) for number in numbers if not isnan(number)), default=0.0)
    return max(0, 3 - floor(log10(largest))) if largest else 1


def _shown(each: Interval, digits: int, *, sign: str = "") -> str:
    if isnan(each.low):
        return f"{each.mean:{sign}.{digits}f}"
    mean, low, high = (f"{bound:{sign}.{digits}f}" for bound in each)
    return f"{mean} [{low}, {high}]"


def _told(gap: Interval, digits: int) -> str:
    return f"{gap.mean:+.{digits}f} a return (95% interval {gap.low:+.{digits}f} to {gap.high:+.{digits}f}"
