"""What an agent tells."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rlgrad.agent import Evaluation, History, Reinforce, Update


def test_the_mean_and_its_error_are_those_of_scipy() -> None:
    returns = tuple(np.random.default_rng(0).normal(size=9).tolist())
    found = Evaluation(returns, (1,) * 9)
    assert found.mean == pytest.approx(np.mean(returns), rel=1e-12)
    assert found.standard_error == pytest.approx(stats.sem(returns), rel=1e-12)
    assert math.isnan(Evaluation((1.0,), (1,)).standard_error)


def test_an_empty_history_has_a_last_update_to_count_from() -> None:
    last = History().last
    assert (last.update, last.steps, last.episodes, last.seconds) == (0, 0, 0, 0.0)
    assert History().updates is not History().updates


def test_a_history_is_a_table_of_what_happened() -> None:
    agent = Reinforce("CartPole-v1", episodes=3)
    first = agent.update()
    history = agent.learn(first.steps + 1, progress=False)
    table = pd.DataFrame(history.updates)
    assert list(table.columns) == list(Update.__dataclass_fields__)
    assert table["update"].tolist() == [1, 2]
    assert table.episodes.tolist() == [3, 6]
    assert history.last == history.updates[-1]
    assert (table.mean_return == table.mean_length).all()  # CartPole's reward is 1 a step
    assert (table.mean_length * 3 <= table.steps.diff().fillna(table.steps)).all()  # those that wait are asked too
    assert first.entropy == pytest.approx(math.log(2), abs=1e-3)
    assert table.seconds.is_monotonic_increasing
    assert (table.gradient_norm > 0).all()
    with pytest.raises(FrozenInstanceError):
        first.steps = 0
