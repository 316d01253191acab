"""Returns beside those of a random policy, judged as SciPy judges them."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from rlgrad.report.returns import over_runs, returns_sentence, returns_table

RANDOM = np.random.default_rng(0).normal(20.0, 5.0, size=(3, 30))
NOISE = np.random.default_rng(1).normal(0.0, 5.0, size=(3, 30))


def run(seed: int, gain: float) -> dict[str, Any]:
    returns = RANDOM[seed] + gain + NOISE[seed]
    return {"seed": seed, "returns": returns.tolist(), "random_returns": RANDOM[seed].tolist()}


def test_one_run_is_judged_over_its_episodes_in_pairs() -> None:
    trained, random, gap = over_runs([run(0, 3.0)])
    expected = stats.ttest_rel(RANDOM[0] + 3.0 + NOISE[0], RANDOM[0]).confidence_interval(0.95)
    assert (gap.low, gap.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert gap.mean == pytest.approx(trained.mean - random.mean)
    assert random.mean == pytest.approx(RANDOM[0].mean())


def test_several_runs_are_judged_over_their_means() -> None:
    _, _, gap = over_runs([run(seed, 3.0) for seed in range(3)])
    expected = stats.ttest_1samp((NOISE + 3.0).mean(1), 0).confidence_interval(0.95)
    assert (gap.low, gap.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@pytest.mark.parametrize(
    ("gain", "verdict"), [(9.0, "better than"), (-9.0, "worse than"), (0.0, "not told apart from")]
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_sentence_says_what_the_interval_does(gain: float, verdict: str, seeds: int) -> None:
    said = " ".join(returns_sentence([run(seed, gain) for seed in range(seeds)], name="Poker-v3").split())
    assert said.startswith(f"On Poker-v3 what was learned is {verdict} a random policy: ")
    assert ("more seeds" in said) == (seeds == 1)
    assert ("30 episodes" in said) == (seeds == 1)
    assert ("over 3 seeds" in said) == (seeds == 3)
    assert "solved" not in said


@pytest.mark.parametrize(
    ("gains", "end"),
    [
        ([9.0], "Its mean return reaches 25, which counts as solved."),
        ([0.0], "Its mean return does not reach 25, which would count as solved."),
        ([9.0, 0.0, 9.0], "The mean return reaches 25, which counts as solved, in 2 of 3 seeds."),
    ],
)
def test_the_sentence_says_whether_it_is_solved(gains: list[float], end: str) -> None:
    runs = [run(seed, gain) for seed, gain in enumerate(gains)]
    said = " ".join(returns_sentence(runs, name="Poker-v3", threshold=25.0).split())
    assert said.endswith(end)


def test_a_line_for_each_run_and_one_for_all() -> None:
    lines = returns_table([run(seed, 3.0) for seed in range(3)]).splitlines()
    assert [line.split()[0] for line in lines] == ["seed", "----", "0", "1", "2", "mean"]
    assert lines[2].split()[1] == f"{(RANDOM[0] + NOISE[0]).mean() + 3.0:.2f}"
    assert len(returns_table([run(0, 3.0)]).splitlines()) == 3


@pytest.mark.parametrize(("size", "shown"), [(1e-4, "0.0001000"), (1.0, "1.000"), (12345.0, "12345"), (0.0, "0.0")])
def test_numbers_are_shown_in_their_own_size(size: float, shown: str) -> None:
    table = returns_table([{"seed": 0, "returns": [size, size], "random_returns": [0.0, 0.0]}])
    assert table.splitlines()[-1].split()[1] == shown


def test_runs_that_cannot_be_judged_are_refused() -> None:
    with pytest.raises(ValueError, match="needed at least one run, got none"):
        over_runs([])
    with pytest.raises(ValueError, match="as many episodes of both policies, got 2 and 1"):
        over_runs([{"seed": 0, "returns": [1.0, 2.0], "random_returns": [1.0]}])
    with pytest.raises(ValueError, match="needed finite values"):
        over_runs([{"seed": 0, "returns": [], "random_returns": []}])
