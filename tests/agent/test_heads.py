"""Policies over action spaces: within the space, against Gymnasium's own description of it, and by torch's laws."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlgrad.agent import Reinforce
from rlgrad.agent.heads import Head, RealHead, head_for

INFINITE = np.full(2, np.inf, dtype=np.float32)
SPACES = {
    "discrete": spaces.Discrete(3),
    "one choice": spaces.Discrete(1),
    "discrete from 5": spaces.Discrete(3, start=5),
    "discrete below 0": spaces.Discrete(4, start=-2),
    "unequal choices": spaces.MultiDiscrete([2, 5, 1]),
    "choices from 3": spaces.MultiDiscrete([2, 3], start=[3, -1]),
    "table of choices": spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])),
    "yes or no": spaces.MultiBinary(4),
    "table of yes or no": spaces.MultiBinary([2, 3]),
    "bounded": spaces.Box(-2.0, 6.0, (2,)),
    "unbounded": spaces.Box(-np.inf, np.inf, (3,)),
    "bounded below": spaces.Box(1.0, np.inf, (2,)),
    "bounded above": spaces.Box(-np.inf, -1.0, (2,)),
    "partly bounded": spaces.Box(np.array([0, -np.inf], np.float32), np.array([4, np.inf], np.float32)),
    "table of numbers": spaces.Box(-1.0, 1.0, (2, 2)),
    "one number": spaces.Box(-1.0, 1.0, ()),
    "double": spaces.Box(-1e-3, 1e-3, (2,), dtype=np.float64),
    "half": spaces.Box(0.1, 0.3, (2,), dtype=np.float16),
}


class Match(gym.Env[NDArray[np.float32], Any]):
    """One step, rewarded by how near the action is to one that is always the same."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.action_space = space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        space = self.action_space
        assert space.contains(np.asarray(action) if isinstance(space, spaces.Box) else action)
        if isinstance(space, spaces.Box):  # near one corner; 2 from the only bound, or from 0
            low, high = (np.where(np.isfinite(bound), bound, np.nan).astype(float) for bound in (space.low, space.high))
            best = np.where(np.isnan(high), 2.0, np.where(np.isnan(low), high - 2.0, 0.9 * high + 0.1 * low))
            best = np.where(np.isnan(high) & ~np.isnan(low), low + 2.0, best)
            unit = np.nan_to_num(high - low, nan=1.0)
            reward = -np.square((np.asarray(action, dtype=float) - best) / unit).mean()
        else:
            space.seed(1)
            reward = -(np.asarray(action) != np.asarray(space.sample())).mean()
        return np.zeros(2, np.float32), float(reward), True, False, {}


def output(head: Head, rows: int = 200) -> Tensor:
    return 3 * torch.randn(rows, head.size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SPACES)
def test_what_is_drawn_and_what_is_most_probable_lies_in_the_space(name: str) -> None:
    space = SPACES[name]
    head = head_for(space)
    policy = head(output(head))
    for decision in (policy.sample(1, generator=torch.Generator().manual_seed(0))[0], policy.mode):
        actions = head.action(decision)
        assert actions.shape == (200, *(space.shape or ()))
        assert actions.dtype == space.dtype
        together = gym.vector.utils.batch_space(space, 200)
        assert together.contains(actions)
        for action in gym.vector.utils.iterate(together, actions):
            assert space.contains(np.asarray(action) if isinstance(space, spaces.Box) else action)


@pytest.mark.parametrize("name", [name for name in SPACES if name != "one choice"])
def test_every_space_is_learned_on(name: str) -> None:
    """Better than random actions, and than before, beyond three standard errors."""
    agent = Reinforce(lambda: Match(SPACES[name]), episodes=32, lr=0.05, seed=1)
    before = agent.evaluate(100, by="draws")
    agent.learn(32 * 30, progress=False)
    after, chance = agent.evaluate(100, by="draws"), agent.evaluate(100, by="random")
    for other in (before, chance):
        assert after.mean - other.mean > 3 * math.hypot(after.standard_error, other.standard_error)


def test_a_single_choice_is_played_though_there_is_nothing_to_learn() -> None:
    agent = Reinforce(lambda: Match(SPACES["one choice"]), episodes=4)
    assert agent.update().entropy == 0


@pytest.mark.parametrize("name", ["discrete below 0", "choices from 3", "table of choices"])
def test_each_choice_is_as_likely_as_softmax_says(name: str) -> None:
    space = SPACES[name]
    head = head_for(space)
    logits = output(head, 1)
    sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else space.nvec.ravel().tolist()  # type: ignore[attr-defined]
    start = np.asarray(space.start).ravel()  # type: ignore[attr-defined]
    policy = head(logits)
    for item, part in enumerate(logits[0].split(sizes)):
        for choice, log_p in enumerate(part.log_softmax(-1)):
            decision = torch.zeros(1, len(sizes), dtype=torch.int64)
            decision[0, item] = choice
            assert np.ravel(head.action(decision))[item] == choice + start[item]
            assert policy.log_prob(decision)[0, item].item() == pytest.approx(log_p.item(), abs=1e-6)


def test_entropy_of_unequal_choices_has_a_gradient_that_is_finite_and_right() -> None:
    head = head_for(spaces.MultiDiscrete([2, 5, 1]))
    logits = output(head, 3).requires_grad_()
    found = head(logits).entropy().sum()
    expected = sum(torch.distributions.Categorical(logits=part).entropy().sum() for part in logits.split([2, 5, 1], -1))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, logits)[0] for each in (found, expected)))


def test_numbers_are_in_units_of_the_box_entry_by_entry() -> None:
    head = head_for(SPACES["partly bounded"])
    assert isinstance(head, RealHead)
    found = head.action(torch.tensor([[-1.0, -7.0], [0.0, 0.0], [1.0, 7.0], [9.0, 1e9]]))
    np.testing.assert_array_equal(found, np.array([[0, -7], [2, 0], [4, 7], [4, 1e9]], np.float32))
    np.testing.assert_array_equal(head_for(SPACES["bounded below"]).action(torch.tensor([[-3.0, 2.5]])), [[1.0, 4.5]])


def test_spread_is_learned_and_the_same_for_all_observations() -> None:
    head = head_for(SPACES["bounded"])
    assert [name for name, _ in head.named_parameters()] == ["spread"]
    policy = head(output(head, 3))
    torch.testing.assert_close(policy.std, torch.sigmoid(torch.tensor(0.5)).expand_as(policy.std))
    policy.log_prob(policy.sample(1)[0]).sum().backward()
    assert head.spread.grad is not None


def test_spread_stays_within_two_bounds_alone() -> None:
    bounded, free = head_for(SPACES["bounded"]), head_for(SPACES["bounded below"])
    for head in (bounded, free):
        torch.nn.init.constant_(head.get_parameter("spread"), 3.0)
    assert (bounded(output(bounded, 2)).std < 1).all()
    torch.testing.assert_close(free(output(free, 1)).std[0, 0].item(), math.exp(2.0))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Box(0, 255, (2,), dtype=np.uint8),
        spaces.Box(0, 9, (2,), dtype=np.int64),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Sequence(spaces.Discrete(2)),
    ],
)
def test_other_actions_are_refused_when_the_agent_is_made(space: spaces.Space[Any]) -> None:
    with pytest.raises(TypeError, match=r"^needed actions that are Discrete, .* got .*; wrap the environment"):
        Reinforce(lambda: Match(space), episodes=2)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("shape", [(2, 3), (2,), (2, 4, 1), ()])
def test_outputs_of_another_shape_are_told(shape: tuple[int, ...]) -> None:
    head = head_for(spaces.MultiBinary(4))
    with pytest.raises(ValueError, match=r"^needed outputs of shape \(rows, 4\) .* got \(.*\) float32; end the"):
        head(torch.zeros(shape))
