"""From played episodes to the objective whose gradient the agent follows: pure functions of tensors."""

from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor

from rlgrad.agent.episodes import Episodes
from rlgrad.agent.value import Value
from rlgrad.checks import describe
from rlgrad.credit import Credit, MovingAverage, Play, checked, discounted_returns
from rlgrad.estimators import importance_weighted
from rlgrad.policies import Policy


@dataclass(frozen=True)
class Steps:
    """What an update learns from: the steps of its episodes, one a row.

    Args:
        observation: before each step, ``rows *observation``.
        decision: ``rows items``.
        advantage: what its decision is given credit for, ``rows``.
        target: the return to go that a value of its observation should have foreseen, ``rows``.
    """

    observation: Float[Tensor, "rows *observation"]
    decision: Shaped[Tensor, "rows items"]
    advantage: Float[Tensor, " rows"]
    target: Float[Tensor, " rows"]

    def __len__(self) -> int:
        return len(self.advantage)

    def __getitem__(self, rows: slice) -> "Steps":
        return Steps(self.observation[rows], self.decision[rows], self.advantage[rows], self.target[rows])

    def scaled(self) -> "Steps":
        """Advantages divided by their root mean square, where they are not all zero."""
        largest = self.advantage.abs().max()
        if not largest:
            return self
        advantage = self.advantage / largest  # first, so that no square is too large a number
        return Steps(self.observation, self.decision, advantage / advantage.square().mean().sqrt(), self.target)


def credited(episodes: Episodes, credit: Credit, *, discount: float) -> Steps:
    """The steps of episodes, credited with what came after them.

    Args:
        episodes: played by a policy.
        credit: from returns to go ``draws steps``, which are zero after an episode's end, to advantages of that shape;
            there is no ``Play`` to ask.
        discount: weight of the next step's reward against this one's.

    Raises:
        TypeError, ValueError: the credit is not a finite number for each step, or is one that learns.
    """
    returns, ran = discounted_returns(episodes.reward, discount), episodes.ran
    if isinstance(credit, MovingAverage):  # an average over steps, not over what comes after an episode
        return _steps(episodes, credit(returns[ran], None), returns[ran])
    advantage = checked(credit(returns, None), returns.shape, what="credits")
    if advantage.requires_grad:
        raise TypeError("needed a credit of numbers, got one with a gradient, as if to learn; use Value, or detach it")
    return _steps(episodes, advantage[ran], returns[ran])


def credited_by_value(
    episodes: Episodes,
    value: Value,
    expected: Float[Tensor, " rows"],
    after: Float[Tensor, " draws"],
    *,
    discount: float,
) -> Steps:
    """The steps of episodes, credited with how much better they went than a value expected.

    Args:
        episodes: played by a policy.
        value: that expects.
        expected: of the steps' observations.
        after: of each episode's last observation.
        discount: weight of the next step against this one.
    """
    return _steps(episodes, *value.advantage(episodes, expected, after, discount=discount))


def objective(
    policy: Policy,
    drew: Policy,
    steps: Steps,
    *,
    clip: float | None = None,
    expected: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """What an update climbs: the estimator of the library on the steps, summed over them.

    At the policy that drew, the gradient is sum over steps of A_t grad log p(a_t | s_t), which is REINFORCE. The steps
    are rows that are scored apart, and each is drawn once.

    Args:
        policy: of the steps' observations, as it is now.
        drew: as it was when they were played, without a graph.
        steps: to learn from.
        clip: of the ratio of the two probabilities of a step's decision; None for none.
        expected: the values of the steps' observations, with a graph: they are fitted to the targets, by least squares.
    """
    target = steps.target[None]
    critic = None if expected is None else (lambda reward, play: reward - expected)
    # The play is over: its returns are known for what was decided alone.
    play = Play(drew, steps.decision[None], lambda decision: target)
    estimate = importance_weighted(play, target, steps.advantage[None], clip=clip, critic=critic)
    return estimate(policy, play.score).sum()


def _steps(episodes: Episodes, advantage: Tensor, target: Tensor) -> Steps:
    if episodes.decision is None:
        raise ValueError(f"needed episodes that a policy played, got {describe(episodes.reward)} rewards of no policy")
    return Steps(
        episodes.observation[episodes.ran],
        episodes.decision[episodes.ran],
        advantage.detach().double(),
        target.detach().double(),
    )
