"""Learning curves: each run is drawn as it is, the thick line is the mean, and odd histories are drawn or refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.integrate import trapezoid

from rlgrad.report.curves import figure, learning_curves, running_mean

STEPS = np.array([10.0, 30.0, 40.0, 90.0, 100.0])
RETURNS = np.array([1.0, -2.0, 4.0, 3.0, 8.0])


def updates(returns: Any, steps: Any = STEPS) -> list[dict[str, Any]]:
    return [
        {"steps": int(step), "mean_return": float(each), "entropy": 0.5}
        for step, each in zip(steps, returns, strict=True)
    ]


def lines(drawn: Figure, width: float) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in drawn.axes[0].lines if line.get_linewidth() == width]


@pytest.mark.parametrize("reach", [1.0, 7.0, 500.0])
def test_the_running_mean_is_that_of_the_drawn_line(reach: float) -> None:
    for at in (0.0, 15.0, 35.0, 62.5, 100.0):
        low, high = max(0.0, at - reach), min(100.0, at + reach)
        corners = np.unique([low, high, *STEPS[(low < STEPS) & (high > STEPS)]])
        expected = trapezoid(np.interp(corners, STEPS, RETURNS), corners) / (high - low)
        (mean,) = running_mean(np.stack([STEPS, RETURNS]), np.array([at]), reach)
        assert mean == pytest.approx(expected, abs=1e-12)


def test_runs_are_thin_and_their_mean_is_thick() -> None:
    drawn = figure({"none": [updates(RETURNS), updates(RETURNS + 2)], "value": [updates(RETURNS)]})
    thin, thick = lines(drawn, 0.6), lines(drawn, 2.0)
    for line, returns in zip(thin, (RETURNS, RETURNS + 2, RETURNS), strict=True):
        np.testing.assert_array_equal(line, np.stack([STEPS, returns], 1))
    both, alone = thick
    np.testing.assert_allclose(both[:, 1], alone[:, 1] + 1)
    assert both[0, 0] == 0
    assert both[-1, 0] == 100
    said = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert said == ["none, mean of 2 seeds", "value"]
    colours = [line.get_color() for line in drawn.axes[0].lines]
    assert colours[0] == colours[1] == colours[2] != colours[3] == colours[4]


def test_the_mean_goes_as_far_as_the_shortest_run() -> None:
    drawn = figure({"none": [updates(RETURNS), updates(RETURNS[:2], STEPS[:2])]})
    (thick,) = lines(drawn, 2.0)
    assert thick[-1, 0] == 30
    assert [line[-1, 0] for line in lines(drawn, 0.6)] == [100, 30]


def test_a_single_update_and_equal_returns_are_drawn() -> None:
    drawn = figure({"none": [updates([1 / 3], [7])], "value": [updates([0.1] * 5)]})
    single, equal = lines(drawn, 2.0)
    assert (single[:, 1] == 1 / 3).all()
    assert (equal[:, 1] == 0.1).all()
    assert drawn.axes[0].lines[0].get_marker() == "."


def test_levels_are_dashed_and_many_names_stay_apart() -> None:
    names = [f"credit {number}" for number in range(9)]
    drawn = figure({name: [updates(RETURNS)] for name in names}, levels={"solved": 475.0, "random": 22.0})
    last = drawn.axes[0].lines[-2:]
    assert [np.asarray(line.get_ydata())[0] for line in last] == [475.0, 22.0]
    assert all(line.get_linestyle() != "-" for line in last)
    styles = {(line.get_color(), line.get_linestyle()) for line in drawn.axes[0].lines if line.get_linewidth() == 2.0}
    assert len(styles) == 9
    low, high = drawn.axes[0].get_ylim()
    assert low < -2 < 475 < high


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_equal_histories_give_equal_files(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        learning_curves({"costs $x$ and $": [updates(RETURNS)]}, path, title="$5", levels={"$": 1.0})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({}, "needed a run for each name, got no name"),
        ({"none": [], "value": [updates(RETURNS)]}, "needed a run for each name, got none for none; pass histories"),
        ({"none": [[]]}, "needed at least one update a run, got none for 'none'"),
        ({"none": [[{"steps": 1}]]}, r"got others for 'none' \('mean_return'\)"),
        ({"none": [[{"steps": 1, "mean_return": None}]]}, "needed finite returns"),
        ({"none": [[{"steps": 1, "mean_return": "high"}]]}, "needed updates with steps and mean_return"),
        ({"none": [updates([math.nan] * 5)]}, "needed finite returns"),
        ({"none": [updates(RETURNS) * 2]}, "steps that grow from 0"),
        ({"none": [updates([1.0], [0])]}, "steps that grow from 0"),
    ],
)
def test_what_is_no_history_is_refused(runs: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        learning_curves(runs, tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needed a file \.svg or \.png, got .*a\.pdf"):
        learning_curves({"none": [updates(RETURNS)]}, tmp_path / "a.pdf")
