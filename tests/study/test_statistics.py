"""Statistics over seeds: against SciPy, against the formula written out, and by simulation."""

from math import isnan, nan, sqrt

import numpy as np
import pytest
from scipy import stats

from rlgrad.study.statistics import Interval, differences, interval, paired_difference, verdict

Results = dict[str, dict[int, float]]


def numbered(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


def within(rate: float, expected: float, trials: int) -> bool:
    """Whether a rate seen in independent trials lies within four binomial standard errors of the expected."""
    return abs(rate - expected) < 4 * sqrt(expected * (1 - expected) / trials)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("n", [2, 3, 30])
def test_without_overlap_it_is_the_interval_of_scipy(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(0.8, 0.02, n)
    judge = stats.ttest_1samp(values, popmean=0).confidence_interval(confidence_level=level)
    found = interval(values, level=level)
    assert found == pytest.approx((values.mean(), judge.low, judge.high), rel=1e-12)


def test_with_overlap_it_is_the_formula_written_out() -> None:
    values = [0.70, 0.74, 0.71, 0.77, 0.73]
    mean = sum(values) / 5
    variance = sum((value - mean) ** 2 for value in values) / 4
    half = 2.7764451051977987 * sqrt(variance * (1 / 5 + 0.25))  # the 97.5% point of Student's t with 4 degrees
    assert interval(values, overlap=0.25) == pytest.approx((mean, mean - half, mean + half), rel=1e-9)


def test_one_value_has_no_bounds() -> None:
    found = interval([0.7])
    assert found.mean == 0.7
    assert isnan(found.low)
    assert isnan(found.high)


def test_equal_values_have_zero_width_whatever_their_mean_rounds_to() -> None:
    assert np.var([0.1] * 3) > 0  # the rounding that is to be kept out
    assert interval([0.1] * 3, overlap=0.5) == Interval(0.1, 0.1, 0.1)


@pytest.mark.parametrize("values", [[], [0.1, nan], [0.1, np.inf]])
def test_values_must_be_finite(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"needed finite values, at least one, got \[.*\]; leave failed runs out"):
        interval(values)


@pytest.mark.parametrize("overlap", [-0.1, nan, np.inf])
def test_overlap_is_a_ratio(overlap: float) -> None:
    with pytest.raises(ValueError, match="needed overlap = n_test / n_train >= 0, got "):
        interval([0.1, 0.2], overlap=overlap)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, nan])
def test_level_is_a_probability(level: float) -> None:
    with pytest.raises(ValueError, match=r"needed a level in \(0, 1\), got .*; pass 0\.95 for 95%"):
        interval([0.1, 0.2], level=level)


def coverage(overlap_of_data: float, overlap: float, *, trials: int, n: int = 5) -> float:
    """How often the interval covers the mean of normal values, correlated as splits of the same rows are."""
    rng = np.random.default_rng(7)
    shared = sqrt(overlap_of_data) * rng.standard_normal((trials, 1))
    values = 0.8 + 0.02 * (shared + rng.standard_normal((trials, n)))
    bounds = [interval(row, overlap=overlap) for row in values]
    return sum(low < 0.8 < high for _, low, high in bounds) / trials


def test_it_covers_independent_normal_values_in_95_of_100_cases() -> None:
    assert within(coverage(0.0, 0.0, trials=4000), 0.95, 4000)


def test_seeds_that_share_rows_are_covered_with_the_correction_and_not_without() -> None:
    """With r / (1 - r) = overlap, the corrected interval is exactly Student's and the plain one too short."""
    assert within(coverage(0.25, 0.25, trials=4000), 0.95, 4000)
    ratio = sqrt((1 / 5 + 0.25) / (1 / 5))
    expected = 2 * float(stats.t.cdf(stats.t.ppf(0.975, df=4) / ratio, df=4)) - 1
    assert expected < 0.87
    assert within(coverage(0.25, 0.0, trials=4000), expected, 4000)


def test_pairs_are_the_seeds_in_common() -> None:
    a, b = {0: 9.0, 1: 0.5, 2: 0.7, 3: 0.6}, {3: 0.2, 2: 0.4, 1: 0.4, 7: -9.0}
    assert paired_difference(a, b, overlap=0.1, level=0.9) == pytest.approx(
        interval([0.5 - 0.4, 0.7 - 0.4, 0.6 - 0.2], overlap=0.1, level=0.9)
    )
    with pytest.raises(ValueError, match=r"needed seeds in common, got \[0\] and \[1\]; run both"):
        paired_difference({0: 0.1}, {1: 0.1})


def test_pairing_takes_out_what_the_seeds_share() -> None:
    hard = np.random.default_rng(0).normal(0, 1, 8)
    a, b = numbered((hard + 0.01).tolist()), numbered(hard.tolist())
    assert paired_difference(a, b).low == pytest.approx(0.01)


def test_each_of_m_comparisons_has_an_mth_of_the_error() -> None:
    rng = np.random.default_rng(1)
    results = {name: numbered(rng.normal(size=6).tolist()) for name in "abcde"}
    found = differences(results, reference="c", overlap=0.2, level=0.9)
    assert list(found) == ["a", "b", "d", "e"]
    for name, bounds in found.items():
        alone = paired_difference(results[name], results["c"], overlap=0.2, level=0.975)
        assert bounds == pytest.approx(alone, rel=1e-9)


def test_methods_without_a_shared_seed_are_not_compared() -> None:
    results: Results = {
        "ref": {0: 0.1, 1: 0.2},
        "soft": {0: 0.2, 1: 0.1},
        "failed": {},
        "elsewhere": {5: 0.9},
    }
    found = differences(results, reference="ref")
    assert found == {"soft": paired_difference(results["soft"], results["ref"])}


NOISE = np.array([-0.010, 0.005, -0.002, 0.004, 0.003])


def shifted(**shifts: float) -> Results:
    """Methods that differ from "ref" by a shift, and by noise that is not the same for any two of them."""
    base = np.array([0.70, 0.75, 0.72, 0.78, 0.71])
    methods = {name: base + shift + np.roll(NOISE, at) for at, (name, shift) in enumerate(shifts.items())}
    return {name: numbered(values.tolist()) for name, values in {"ref": base, **methods}.items()}


def test_the_winner_is_the_best_of_those_better_beyond_luck() -> None:
    found = verdict(shifted(much=0.10, more=0.20, same=0.0, less=-0.10), reference="ref")
    assert (found.best, found.won, found.seeds, found.level) == ("more", True, 5, 0.95)
    assert (found.better, found.worse) == (("more", "much"), ("less",))
    assert found.difference == found.differences["more"]
    assert found.difference.mean == pytest.approx(0.20)


def test_a_larger_mean_within_luck_does_not_hide_a_winner() -> None:
    results = shifted(steady=0.05)
    results["wild"] = {seed: value + (1.0 if seed == 0 else 0.0) for seed, value in results["ref"].items()}
    found = verdict(results, reference="ref")
    assert found.differences["wild"].mean > found.differences["steady"].mean
    assert (found.best, found.better) == ("steady", ("steady",))


def test_without_a_winner_the_best_is_the_candidate_nearest_to_it() -> None:
    found = verdict(shifted(same=0.001, less=-0.10), reference="ref")
    assert (found.best, found.won, found.better, found.worse) == ("same", False, (), ("less",))


def test_a_method_shown_to_be_worse_is_no_candidate_while_another_may_be_better() -> None:
    results = shifted(slightly=-0.01)
    results["wild"] = {seed: value - (1.0 if seed == 0 else 0.0) for seed, value in results["ref"].items()}
    found = verdict(results, reference="ref", level=0.9)
    assert found.differences["wild"].mean < found.differences["slightly"].mean
    assert (found.best, found.worse) == ("wild", ("slightly",))


def test_when_the_reference_beats_all_the_best_is_the_nearest_loser() -> None:
    found = verdict(shifted(less=-0.10, least=-0.20), reference="ref")
    assert (found.best, found.won, found.worse) == ("less", False, ("less", "least"))


def test_one_seed_never_wins_and_never_hides_methods_that_have_more() -> None:
    results: Results = {**shifted(same=-0.001), "lucky": {0: 0.99}}
    found = verdict(results, reference="ref")
    assert (found.best, found.won) == ("same", False)
    alone = verdict({"ref": {0: 0.1}, "lucky": {0: 0.9}}, reference="ref")
    assert (alone.best, alone.won, alone.better, alone.worse, alone.seeds) == ("lucky", False, (), (), 1)


def test_equal_results_are_no_win() -> None:
    results = {"ref": numbered([0.1, 0.2, 0.3]), "same": numbered([0.1, 0.2, 0.3])}
    found = verdict(results, reference="ref")
    assert (found.won, found.worse, found.difference) == (False, (), Interval(0.0, 0.0, 0.0))


def test_there_must_be_something_to_compare() -> None:
    with pytest.raises(ValueError, match=r"needed the reference 'cw', got \['ce'\]; pass one of them"):
        verdict({"ce": {0: 0.1}}, reference="cw")
    with pytest.raises(ValueError, match=r"needed methods on the seeds of 'ce', got none in \['ce', 'soft'\]"):
        verdict({"ce": {0: 0.1}, "soft": {}}, reference="ce")


def test_under_the_null_eleven_comparisons_rarely_find_anything() -> None:
    """Bonferroni bounds a false win by 2.5%, any false finding by 5%; eleven plain intervals do not."""
    trials, rng = 400, np.random.default_rng(3)
    wins = findings = plain = 0
    for _ in range(trials):
        values = rng.normal(0.8, 0.02, (12, 6))
        results = {f"method {row}": numbered(values[row].tolist()) for row in range(12)}
        found = verdict(results, reference="method 0")
        wins += found.won
        findings += bool(found.better or found.worse)
        plain += verdict(results, reference="method 0", level=1 - 11 * 0.05).won
    bound = 0.025 + 4 * sqrt(0.025 * 0.975 / trials)
    assert wins / trials <= bound < plain / trials
    assert findings / trials <= 0.05 + 4 * sqrt(0.05 * 0.95 / trials)
