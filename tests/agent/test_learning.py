"""The gradient of an update: by listing every pair of episodes, against NumPy, and against loops written by hand."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

import rlgrad.agent.reinforce
from rlgrad.agent import Reinforce, Value
from rlgrad.agent.episodes import Episodes
from rlgrad.agent.learning import Steps, credited, objective
from rlgrad.credit import MovingAverage, leave_one_out, none
from rlgrad.estimators import score_function
from rlgrad.policies import Bernoulli, Categorical

REWARD = np.random.default_rng(0).normal(size=(2, 4))  # of states and actions
SPACES = {"discrete": spaces.Discrete(2), "binary": spaces.MultiBinary(2)}
OUTPUTS = {"discrete": 2, "binary": 2}
DECISIONS: dict[str, list[tuple[int, ...]]] = {"discrete": [(0,), (1,)], "binary": list(product((0, 1), repeat=2))}
Trajectory = list[tuple[int, int]]  # states and indices of actions

# A decision process of two states: an odd action ends an episode in state 0, an even one leads to state 1, where any
# action ends it.


class TwoSteps(gym.Env[Any, Any]):
    """The same process as an environment, for what needs one to be made."""

    observation_space = spaces.Box(0.0, 1.0, (2,))

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.action_space = space


def trajectories(name: str) -> list[Trajectory]:
    found: list[Trajectory] = []
    for first in range(len(DECISIONS[name])):
        if first % 2:
            found.append([(0, first)])
        else:
            found.extend([(0, first), (1, second)] for second in range(len(DECISIONS[name])))
    return found


def probability(name: str, trajectory: Trajectory, weight: NDArray[np.float64]) -> float:
    """By NumPy alone; logits are a column of the weight for each state."""
    p = 1.0
    for state, action in trajectory:
        z = weight[:, state]
        if name == "discrete":
            p *= float(np.exp(z[action]) / np.exp(z).sum())
        else:
            yes = 1 / (1 + np.exp(-z))
            p *= float(np.prod(np.where(DECISIONS[name][action], yes, 1 - yes)))
    return p


def exact_gradient(name: str, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the expected return, by central differences."""

    def expected(w: NDArray[np.float64]) -> float:
        return math.fsum(probability(name, t, w) * sum(REWARD[s, a] for s, a in t) for t in trajectories(name))

    gradient, h = np.zeros_like(weight), 1e-5
    for at in np.ndindex(*weight.shape):
        move = np.zeros_like(weight)
        move[at] = h
        gradient[at] = (expected(weight + move) - expected(weight - move)) / (2 * h)
    return gradient


def episodes_of(name: str, played: tuple[Trajectory, ...]) -> Episodes:
    steps = max(map(len, played))
    observation, reward = torch.zeros(len(played), steps, 2), torch.zeros(len(played), steps, dtype=torch.float64)
    decision = torch.zeros(len(played), steps, len(DECISIONS[name][0]), dtype=torch.int64)
    ran = torch.zeros(len(played), steps, dtype=torch.bool)
    for i, trajectory in enumerate(played):
        for t, (state, action) in enumerate(trajectory):
            observation[i, t, state] = 1
            decision[i, t] = torch.tensor(DECISIONS[name][action])
            reward[i, t], ran[i, t] = REWARD[state, action], True
    decision = decision.bool() if name == "binary" else decision
    ended = torch.ones(len(played), dtype=torch.bool)
    return Episodes(observation, decision, reward, ran, ended, torch.rand(len(played), 2), asked=int(ran.numel()))


def agent_of(name: str, credit: Any, **settings: Any) -> Reinforce:
    network = nn.Linear(2, OUTPUTS[name], bias=False, dtype=torch.float64)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.3, -0.5], [-0.4, 0.8]]))
    plain = {"scale": False, "max_grad_norm": math.inf, "normalise": False, "discount": 1.0, "episodes": 2}
    return Reinforce(
        lambda: TwoSteps(SPACES[name]), network, credit, optimizer=torch.optim.SGD, **{**plain, **settings}
    )


def weight_of(agent: Reinforce) -> Tensor:
    assert isinstance(agent.network, nn.Linear)
    return agent.network.weight


def mean_gradient(name: str, agent: Reinforce) -> NDArray[np.float64]:
    """Of an update, over all that may be played, each weighed by how likely it is."""
    state = {key: value.clone() for key, value in agent.state_dict().items()}
    start = weight_of(agent).detach().numpy().copy()
    mean = np.zeros_like(start)
    for played in product(trajectories(name), repeat=agent.episodes):
        agent.load_state_dict(state)
        agent._learn_from(episodes_of(name, played))
        gradient = weight_of(agent).grad
        assert gradient is not None
        mean -= math.prod(probability(name, each, start) for each in played) * gradient.numpy()
    return mean


def seen_before() -> MovingAverage:
    credit = MovingAverage()
    credit(torch.tensor([3.0, 1.0]), None)
    return credit


def wrong_values() -> nn.Module:
    network = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[4.0, -3.0]]))
    return network


def steeper(reward: Tensor, play: object) -> Tensor:
    """A credit of a user's own: less what the other episode has still to come, doubled."""
    return reward - 2 * reward.flip(0)


CREDITS: dict[str, Callable[[], Any]] = {
    "none": lambda: "none",
    "leave_one_out": lambda: "leave_one_out",
    "moving_average": seen_before,
    "value": lambda: Value(wrong_values(), decay=1.0),
    "own": lambda: steeper,
}


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("name", SPACES)
def test_the_mean_gradient_is_that_of_the_expected_return(name: str, credit: str) -> None:
    agent = agent_of(name, CREDITS[credit](), reuse=1)
    expected = exact_gradient(name, weight_of(agent).detach().numpy().copy())
    np.testing.assert_allclose(mean_gradient(name, agent), expected, atol=1e-8)


def test_a_single_episode_is_enough_without_a_comparison() -> None:
    agent = agent_of("binary", "none", episodes=1)
    expected = exact_gradient("binary", weight_of(agent).detach().numpy().copy())
    np.testing.assert_allclose(mean_gradient("binary", agent), expected, atol=1e-8)


def test_biased_credits_are_seen_to_be() -> None:
    """A mean with the own return in it, a sum over rows that come after an end, and values trusted though wrong."""
    for credit in (
        lambda reward, play: reward - reward.mean(0),
        lambda reward, play: reward + 1.0 * reward.sum(-1, keepdim=True),
        Value(wrong_values(), decay=0.5),
    ):
        agent = agent_of("discrete", credit, reuse=1)
        expected = exact_gradient("discrete", weight_of(agent).detach().numpy().copy())
        assert np.abs(mean_gradient("discrete", agent) - expected).max() > 1e-3


def test_the_entropy_is_of_the_steps_that_ran() -> None:
    agent = agent_of("discrete", "none", episodes=1, entropy=0.25)
    plain = agent_of("discrete", "none", episodes=1)
    episodes = episodes_of("discrete", ([(0, 0), (1, 1)],))
    told, _ = agent._learn_from(episodes)
    plain._learn_from(episodes)
    weight = torch.tensor([[0.3, -0.5], [-0.4, 0.8]], dtype=torch.float64, requires_grad=True)
    entropy = torch.distributions.Categorical(logits=weight.T).entropy()
    (wanted,) = torch.autograd.grad(0.25 * entropy.sum(), weight)
    assert told == pytest.approx(entropy.mean().item())
    found = [weight_of(each).grad for each in (plain, agent)]
    assert found[0] is not None
    assert found[1] is not None
    torch.testing.assert_close(found[0] - found[1], wanted)


def test_scaled_advantages_have_a_root_mean_square_of_one_and_equal_ones_of_zero_stay() -> None:
    steps = Steps(torch.zeros(3, 1), torch.zeros(3, 1), torch.tensor([1.0, -7.0, 0.5]).double() * 1e300, torch.zeros(3))
    scaled = steps.scaled().advantage
    torch.testing.assert_close(scaled, torch.tensor([1.0, -7.0, 0.5]).double() / math.sqrt(50.25 / 3))
    zero = Steps(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3), torch.zeros(3))
    assert zero.scaled().advantage.equal(torch.zeros(3))


# Reuse


def ppo(weight: Tensor, episodes: Episodes, *, reuse: int, clip: float | None, lr: float) -> Tensor:
    """Proximal policy optimization as in the paper, and in a loop over steps."""
    w = weight.clone().requires_grad_()
    old, decisions = weight.clone(), episodes.decision
    assert decisions is not None
    returns = episodes.reward.flip(1).cumsum(1).flip(1)
    for _ in range(reuse):
        total = torch.zeros((), dtype=torch.float64)
        for i, t in episodes.ran.nonzero().tolist():
            new_logits, old_logits = (each @ episodes.observation[i, t].double() for each in (w, old))
            yes = decisions[i, t].double()
            log_new, log_old = (
                -nn.functional.binary_cross_entropy_with_logits(z, yes, reduction="sum")
                for z in (new_logits, old_logits)
            )
            ratio, advantage = (log_new - log_old).exp(), returns[i, t] - returns[1 - i, t]
            bounded = ratio if clip is None else ratio.clamp(1 - clip, 1 + clip)
            total = total + torch.minimum(ratio * advantage, bounded * advantage) / 2
        (gradient,) = torch.autograd.grad(total, w)
        w = (w + lr * gradient).detach().requires_grad_()
    return w.detach()


@pytest.mark.parametrize("clip", [None, 0.05, 0.2, 1.5])
def test_reuse_is_proximal_policy_optimization(clip: float | None) -> None:
    moved = set()
    for played in list(product(trajectories("binary"), repeat=2))[1::13]:
        agent = agent_of("binary", "leave_one_out", reuse=4, clip=clip, lr=0.7)
        start, episodes = weight_of(agent).detach().clone(), episodes_of("binary", played)
        agent._learn_from(episodes)
        expected = ppo(start, episodes, reuse=4, clip=clip, lr=0.7)
        torch.testing.assert_close(weight_of(agent).detach(), expected, rtol=1e-10, atol=1e-10)
        moved.add(round((expected - ppo(start, episodes, reuse=4, clip=None, lr=0.7)).abs().max().item(), 3))
    assert clip is None or len(moved) > 1  # the clip was of consequence


def test_the_value_is_fitted_by_least_squares_on_the_same_steps() -> None:
    agent = agent_of("discrete", Value(wrong_values(), decay=1.0), reuse=1)
    episodes = episodes_of("discrete", ([(0, 0), (1, 1)], [(0, 1)]))
    agent._learn_from(episodes)
    value, targets = wrong_values(), episodes.reward.flip(1).cumsum(1).flip(1)[episodes.ran]
    error = targets - value(episodes.observation[episodes.ran].double())[:, 0]
    (error.square().sum() / 2 / len(episodes.ran)).backward()
    assert isinstance(agent.credit, Value)
    for ours, theirs in zip(agent.credit.parameters(), value.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


# No second implementation of REINFORCE


@pytest.mark.parametrize("credit", [none, leave_one_out])
@pytest.mark.parametrize("name", SPACES)
def test_one_step_is_the_score_function_of_the_library(name: str, credit: Any) -> None:
    draws, logits = 5, torch.tensor([[0.3, -0.7]], dtype=torch.float64, requires_grad=True)

    def policy(z: Tensor) -> Any:
        return Bernoulli(z) if name == "binary" else Categorical(z[:, None])

    def score(decision: Tensor) -> Tensor:
        return (decision.double() * 3.0).sum(-1) ** 2 + 1

    theirs = score_function(draws=draws, credit=credit)
    theirs(policy(logits), score, generator=torch.Generator().manual_seed(3)).sum().backward()
    decision = policy(logits).sample(draws, generator=torch.Generator().manual_seed(3))
    observation, ran = torch.ones(draws, 1, 1), torch.ones(draws, 1, dtype=torch.bool)
    episodes = Episodes(observation, decision, score(decision), ran, ran[:, 0], observation[:, 0], asked=draws)
    own = logits.detach().clone().requires_grad_()
    steps = credited(episodes, credit, discount=1.0)
    objective(policy(own.expand(draws, -1)), policy(own.detach().expand(draws, -1)), steps).div(draws).backward()
    torch.testing.assert_close(own.grad, logits.grad, rtol=1e-12, atol=1e-12)


# Large rollouts


@pytest.mark.parametrize("credit", ["leave_one_out", "value"])
def test_parts_of_a_batch_add_up(credit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for most in (1 << 20, 2):
        monkeypatch.setattr(
            rlgrad.agent.reinforce,
            "slices",
            lambda rows, items, most=most: (slice(i, min(i + most, rows)) for i in range(0, rows, most)),
        )
        agent = Reinforce("CartPole-v1", None, credit, episodes=4, reuse=2, optimizer=torch.optim.SGD, entropy=0.1)
        for parameter in agent.parameters():
            parameter.data = parameter.data.double()
        update = agent.update()
        agent.close()
        found.append([update.entropy, update.gradient_norm, *(p.detach().clone() for p in agent.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


# What a credit may say


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("credit", "error", "message"),
    [
        (lambda reward, play: reward[:1], ValueError, r"^needed credits of shape \(2, 2\)"),
        (lambda reward, play: reward * math.nan, ValueError, "^needed finite credits, got nan"),
        (lambda reward, play: 1.0, TypeError, "^needed a tensor of credits, got 1.0"),
        (
            lambda reward, play: reward - torch.ones((), requires_grad=True),
            TypeError,
            "^needed a credit of numbers, got one with a gradient, as if to learn; use Value, or detach it",
        ),
    ],
)
def test_what_is_no_credit_is_told(credit: Any, error: type[Exception], message: str) -> None:
    episodes = episodes_of("discrete", ([(0, 0), (1, 1)], [(0, 1)]))
    with pytest.raises(error, match=message):
        credited(episodes, credit, discount=1.0)


def test_an_average_is_over_steps_and_not_over_what_comes_after_an_end() -> None:
    credit, episodes = MovingAverage(), episodes_of("discrete", ([(0, 0), (1, 1)], [(0, 1)]))
    steps = credited(episodes, credit, discount=1.0)
    assert (credit.average / credit.weight).item() == pytest.approx(steps.target.mean().item())
