"""Moments of observations: NumPy's, over all that was shown."""

import numpy as np
import pytest
import torch

from rlgrad.agent.normaliser import Normaliser


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
def test_moments_are_those_of_all_that_was_shown(shape: tuple[int, ...]) -> None:
    normalise, rng = Normaliser(shape), np.random.default_rng(0)
    shown = [rng.normal(5, 3, (rows, *shape)).astype(np.float32) for rows in (1, 7, 100)]
    for each in shown:
        normalise.learn(torch.from_numpy(each))
    together = np.concatenate(shown).astype(float)
    np.testing.assert_allclose(normalise.mean.numpy(), together.mean(0), rtol=1e-12)
    np.testing.assert_allclose(normalise.variance.numpy(), together.var(0), rtol=1e-12)
    found = normalise(torch.from_numpy(shown[2]))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), (shown[2] - together.mean(0)) / together.std(0), rtol=1e-5, atol=1e-6)


def test_what_is_restored_is_what_was_seen() -> None:
    normalise = Normaliser((2,))
    assert normalise.restored(torch.tensor([[3.0, -4.0]])).equal(torch.tensor([[3.0, -4.0]]))
    shown = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) * 100 + 7
    normalise.learn(shown)
    torch.testing.assert_close(normalise.restored(normalise(shown)), shown)


def test_before_anything_is_shown_numbers_stay_and_far_ones_are_cut_off() -> None:
    found = Normaliser((2,))(torch.tensor([[0.5, -3.0], [1e30, -1e30]]))
    torch.testing.assert_close(found, torch.tensor([[0.5, -3.0], [10.0, -10.0]]))


def test_a_number_that_never_changes_is_zero_and_one_that_is_large_keeps_its_digits() -> None:
    normalise = Normaliser((2,))
    shown = torch.tensor([[7.0, 1e6], [7.0, 1e6 + 1], [7.0, 1e6 + 2]])
    normalise.learn(shown)
    expected = torch.tensor([[0.0, -1.2247], [0.0, 0.0], [0.0, 1.2247]])
    torch.testing.assert_close(normalise(shown), expected, atol=1e-3, rtol=0)
