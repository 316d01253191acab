"""The agent: episodes are played, their decisions credited, and a policy follows the score-function gradient."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.agent import checkpoint
from rlgrad.agent.environments import AnyEnv, vectorised
from rlgrad.agent.episodes import Act, Episodes, joined, play
from rlgrad.agent.heads import head_for
from rlgrad.agent.history import Evaluation, History, Update
from rlgrad.agent.interrupts import uninterrupted
from rlgrad.agent.networks import mlp
from rlgrad.agent.normaliser import Normaliser
from rlgrad.agent.value import Value
from rlgrad.credit import (
    Credit,
    MovingAverage,
    Play,
    discounted_returns,
    leave_one_out,
    leaves_one_out,
    none,
)
from rlgrad.estimators import importance_weighted
from rlgrad.policies import Policy, kind_of

CREDITS: dict[str, Callable[[], Credit | Value]] = {
    "none": lambda: none,
    "moving_average": MovingAverage,
    "leave_one_out": lambda: leave_one_out,
    "value": Value,
}
_PLAYING, _DRAWING, _EVALUATING = range(3)  # what a stream of random numbers is for


class Reinforce(nn.Module):
    """REINFORCE on a Gymnasium environment.

        grad E[return] = E[ sum over t of A_t grad log p(action_t | observation_t) ]

    Each update plays whole episodes side by side with the policy as it is, gives every step credit A_t for what came
    after it, and takes a gradient step on ``rlgrad.estimators.importance_weighted`` of the decisions, which at the
    policy that drew them is the score-function estimator. Actions may be Discrete, MultiDiscrete, MultiBinary or a Box.

    Everything random follows from the seed and the number of the update: an agent that is saved and loaded goes on
    exactly as one that never stopped, where the environment follows the seeds of its resets.

    Args:
        env: an id such as "CartPole-v1", a function that makes an environment, an environment, or a vector of them;
            see ``vectorised``. It is reset for every update.
        policy: network from observations ``rows *observation`` to ``rows outputs``: one output for each choice of
            Discrete and MultiDiscrete actions, and for each entry of MultiBinary and Box ones. By default two layers
            of 64 tanh units.
        credit: "none", "moving_average", "leave_one_out" (each episode's return to go less the mean of the other
            episodes' at the same step), "value" (a learned value with generalized advantage estimation), one of
            ``rlgrad.credit`` that needs no play, called with returns to go ``draws steps``, or a ``Value``.
        episodes: for each update.
        same_start: begin all episodes of an update from the same seed, so that leave_one_out compares like with like.
        discount: weight of the next step's reward against this one's.
        lr: learning rate.
        entropy: weight of the policy's entropy, in nats a step, added to the objective.
        reuse: gradient steps for each update, on the same episodes; by default 1, and 8 with a value, which has to keep
            up with the policy.
        clip: of the ratios of probabilities, where episodes are used more than once; None for none.
        scale: divide the advantages by their root mean square and the sum over steps by their number, so that the
            gradient is of the same size whatever the rewards; without it the gradient is the plain one, unbiased.
        max_grad_norm: gradients beyond are scaled down to it.
        normalise: bring observations to mean 0 and deviation 1 by those of earlier updates.
        max_episode_steps: cut off longer episodes, besides the limit that the environment may have itself.
        optimizer: called as ``optimizer(parameters, lr=lr)``.
        seed: of initial weights, resets and draws.

    Raises:
        TypeError: a space, the policy or the credit is of a kind that cannot be used.
        ValueError: a number is out of its range.

    Source: Williams, Simple statistical gradient-following algorithms for connectionist reinforcement learning (1992);
        Kool, van Hoof, Welling (2019) for leave_one_out; Schulman et al. (2016, 2017) for the value and the clip.

    Example:
        >>> agent = Reinforce("CartPole-v1", episodes=8, seed=0)
        >>> history = agent.learn(5_000, progress=False)
        >>> before, after = history.updates[0].mean_return, history.updates[-1].mean_return
        >>> after > before
        True
    """

    def __init__(
        self,
        env: AnyEnv,
        policy: nn.Module | None = None,
        credit: Literal["none", "moving_average", "leave_one_out", "value"] | Credit | Value = "leave_one_out",
        *,
        episodes: int = 16,
        same_start: bool = False,
        discount: float = 0.99,
        lr: float = 1e-2,
        entropy: float = 0.0,
        reuse: int | None = None,
        clip: float | None = 0.2,
        scale: bool = True,
        max_grad_norm: float = 0.5,
        normalise: bool = True,
        max_episode_steps: int | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.credit = _credit_named(credit)
        reuse = (8 if isinstance(self.credit, Value) else 1) if reuse is None else reuse
        _check_numbers(episodes, discount, lr, entropy, reuse, max_grad_norm, max_episode_steps, seed)
        if leaves_one_out(self.credit) and episodes < 2:
            raise ValueError(f"needed at least 2 episodes to leave one out, got {episodes}; raise episodes")
        self.envs = vectorised(env, episodes)
        self.env_name = env if isinstance(env, str) else getattr(self.envs.spec, "id", type(env).__name__)
        self.episodes, self.same_start, self.max_episode_steps = episodes, same_start, max_episode_steps
        self.discount, self.entropy, self.reuse, self.scale = discount, entropy, reuse, scale
        self.clip = clip if reuse > 1 else None  # at the policy that drew all ratios are 1
        self.max_grad_norm, self.seed = max_grad_norm, seed
        shape = tuple(self.envs.single_observation_space.shape or ())
        self.head = head_for(self.envs.single_action_space)
        self.network = mlp(shape, self.head.size, seed=seed, last=0.01) if policy is None else policy
        if not isinstance(self.network, nn.Module):
            raise TypeError(f"needed a network as policy, got {policy!r}; pass an nn.Module, or None for the usual one")
        if isinstance(self.credit, Value) and self.credit.network is None:
            self.credit = Value(mlp(shape, 1, seed=seed + 1), decay=self.credit.decay)
        self.normaliser = Normaliser(shape) if normalise else None
        self.optimizer = optimizer(self.parameters(), lr=lr)
        self.history = History()

    def forward(self, observation: Float[Tensor, "rows *observation"]) -> Policy:
        """The policy that the agent has for observations."""
        return self._policy(self._seen(observation))

    def act(self, observation: np.ndarray, *, deterministic: bool = True) -> np.ndarray:
        """The action for one observation, as ``env.step`` wants it: the most probable one, or one that is drawn.

        Example:
            >>> import gymnasium as gym
            >>> env = gym.make("CartPole-v1")
            >>> agent = Reinforce(env)
            >>> observation, _ = env.reset(seed=0)
            >>> env.action_space.contains(agent.act(observation))
            True
        """
        act = self._mode if deterministic else self._drawn(torch.Generator().manual_seed(torch.seed()))
        return np.asarray(act(torch.from_numpy(np.array(observation, dtype=np.float32))[None])[1][0])

    def update(self) -> Update:
        """Play this update's episodes and learn from them.

        Raises:
            EnvironmentFailed: an environment raised or gave what is not finite; nothing was learned then.
            FloatingPointError: the gradient is not finite; the weights are left as they were before it.
        """
        start = time.perf_counter()
        number = self.history.last.update + 1
        generator = torch.Generator().manual_seed(self._key(_DRAWING, number))
        episodes = self._play(self._drawn(generator), self.episodes, self._key(_PLAYING, number), self.same_start)
        with uninterrupted():  # half an update could not be gone on from
            entropy, norm = self._learn_from(episodes)
            if self.normaliser is not None:
                self.normaliser.learn(episodes.observation[episodes.ran])
            last = self.history.last
            update = Update(
                number,
                last.steps + episodes.asked,
                last.episodes + self.episodes,
                episodes.returns.mean().item(),
                episodes.lengths.double().mean().item(),
                entropy,
                norm,
                last.seconds + time.perf_counter() - start,
            )
            self.history.updates.append(update)
        return update

    def learn(
        self, steps: int, *, out: str | Path | None = None, save_every: int = 50, progress: bool = True
    ) -> History:
        """Update until the environments have been asked for that many steps in all, earlier ones included.

        Args:
            steps: the update that reaches them is the last.
            out: folder to save the agent in, every so many updates and in the end, whatever ends the learning: an error
                of the environment or Ctrl-C too.
            save_every: updates.
            progress: show a progress bar.

        Returns:
            The history, which also is ``self.history``.

        Raises:
            EnvironmentFailed, FloatingPointError: as ``update``; what was learned before is kept, and saved.
            FileExistsError, OSError: the folder cannot be written, before anything is learned.
        """
        from tqdm import tqdm

        if out is not None:
            checkpoint.check_destination(self, out)
        with tqdm(
            total=steps, initial=min(steps, self.history.last.steps), unit="step", disable=None if progress else True
        ) as bar:
            try:
                while self.history.last.steps < steps:
                    update = self.update()
                    bar.set_postfix({"return": f"{update.mean_return:.4g}"})
                    bar.update(min(update.steps, steps) - bar.n)
                    if out is not None and not update.update % save_every:
                        self.save(out)
            finally:
                if out is not None:
                    with uninterrupted():
                        self.save(out)
        return self.history

    def evaluate(
        self, episodes: int = 100, *, by: Literal["mode", "draws", "random"] = "mode", seed: int = 0
    ) -> Evaluation:
        """Returns of fresh episodes; nothing is learned.

        Args:
            episodes: at least so many; rounded up to a multiple of the environments.
            by: the most probable actions, drawn ones, or those of no policy: each action as likely as any.
            seed: of the episodes, which for no seed are those of the learning.

        Raises:
            EnvironmentFailed: as ``update``.
        """
        count = -(-episodes // self.envs.num_envs) * self.envs.num_envs
        key = self._key(_EVALUATING, seed)
        drawn = self._drawn(torch.Generator().manual_seed(key))
        acts: dict[str, Act] = {"mode": self._mode, "draws": drawn, "random": self._random(key)}
        if by not in acts:
            raise ValueError(f'needed by="mode", "draws" or "random", got {by!r}')
        played = self._play(acts[by], count, key)
        return Evaluation(tuple(played.returns.tolist()), tuple(played.lengths.tolist()))

    def save(self, folder: str | Path) -> None:
        """Write the agent to a folder, whole or not at all: weights, optimizer, normaliser, credit and history.

        An agent saved there before is replaced.

        Raises:
            FileExistsError: there is something else.
            OSError: the folder cannot be written; an agent saved before is left as it was.
        """
        checkpoint.save(self, folder)

    def load(self, folder: str | Path) -> None:
        """Take the state of an agent that was saved, and go on from there.

        This agent must have been made as that one was: the environment, the networks and the numbers.

        Raises:
            FileNotFoundError: no agent was saved there.
            ValueError: a file is damaged, or the agent was made otherwise; what differs is named.
        """
        checkpoint.load(self, folder)

    def _policy(self, seen: Tensor) -> Policy:
        policy: Policy = self.head(self.network(seen))
        return policy

    def _seen(self, observation: Tensor) -> Tensor:
        return observation if self.normaliser is None else self.normaliser(observation)

    def _drawn(self, generator: torch.Generator) -> Act:
        def act(observation: Tensor) -> tuple[Tensor, np.ndarray]:
            with torch.no_grad():
                decision = self(observation).sample(1, generator=generator)[0]
            return decision, self.head.action(decision)

        return act

    def _mode(self, observation: Tensor) -> tuple[Tensor, np.ndarray]:
        with torch.no_grad():
            decision = self(observation).mode
        return decision, self.head.action(decision)

    def _random(self, key: int) -> Act:
        space = self.envs.action_space
        space.seed(key)
        return lambda observation: (None, np.asarray(space.sample()))

    def _key(self, *what: int) -> int:
        """A number that depends on the seed and on what it is for alone, as ``reset`` and ``manual_seed`` take it."""
        return int(np.random.SeedSequence([self.seed, *what]).generate_state(1)[0]) >> 1

    def _play(self, act: Act, episodes: int, key: int, same_start: bool = False) -> Episodes:
        together = self.envs.num_envs
        first = range(key, key + episodes, together)
        seeds = [[key] * together if same_start else list(range(at, at + together)) for at in first]
        training = self.training
        self.eval()
        try:
            return joined([play(self.envs, act, seeds=each, limit=self.max_episode_steps) for each in seeds])
        finally:
            self.train(training)

    def _learn_from(self, episodes: Episodes) -> tuple[float, float]:
        """Gradient steps on these episodes; the entropy before them, and the mean norm of the gradients."""
        assert episodes.decision is not None
        ran = episodes.ran
        seen, decision = self._seen(episodes.observation[ran]), episodes.decision[ran][None]
        advantage, target = self._credited(episodes)
        size = advantage.square().mean().sqrt() if self.scale else 1.0
        advantage = advantage / (size or 1.0)
        share = 1 / len(seen) if self.scale else 1 / len(ran)
        policy, critic = self._policy(seen), self.credit
        before = policy.entropy().detach().sum() / len(seen)  # type: ignore[union-attr]

        def score(decision: Tensor) -> Tensor:  # the play is over: its returns are known for what was decided alone
            return target[None]

        def surprise(reward: Tensor, play: Play | None) -> Tensor:
            assert isinstance(critic, Value)
            expected: Tensor = critic(seen)
            return target[None] - expected

        again = importance_weighted(
            Play(kind_of(policy)(policy.logits.detach().clone()), decision, score),
            target[None],
            advantage[None],
            clip=self.clip,
            critic=surprise if isinstance(critic, Value) else None,
        )
        norms = []
        for repeat in range(self.reuse):
            policy = policy if repeat == 0 else self._policy(seen)
            objective = again(policy, score).sum()
            if self.entropy:
                objective = objective + self.entropy * policy.entropy().sum()  # type: ignore[union-attr]
            self.optimizer.zero_grad()
            (-share * objective).backward()
            norms.append(self._clipped())
            self.optimizer.step()
        return before.item(), sum(norms) / len(norms)

    def _credited(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """The advantage of each step, and the return to go that a value of its observation should have foreseen."""
        reward, ran = episodes.reward, episodes.ran
        if isinstance(self.credit, Value):
            seen, last = self._seen(episodes.observation[ran]), self._seen(episodes.last)
            return self.credit.advantage(episodes, seen, last, discount=self.discount)
        returns = discounted_returns(reward, self.discount)
        if isinstance(self.credit, MovingAverage):  # an average over steps, not over what comes after an episode
            return self.credit(returns[ran], None).float(), returns[ran].float()
        return self.credit(returns, None)[ran].float(), returns[ran].float()

    def _clipped(self) -> float:
        """Scale down large gradients, those of the policy and of the value each by themselves; the policy's norm."""
        of_value = list(self.credit.parameters()) if isinstance(self.credit, nn.Module) else []
        known = set(map(id, of_value))
        of_policy = [each for each in self.parameters() if id(each) not in known]
        try:
            if of_value:
                nn.utils.clip_grad_norm_(of_value, self.max_grad_norm, error_if_nonfinite=True)
            return nn.utils.clip_grad_norm_(of_policy, self.max_grad_norm, error_if_nonfinite=True).item()
        except RuntimeError as error:
            raise FloatingPointError(
                f"needed a finite gradient, got another in update {self.history.last.update + 1}; the weights are as "
                "they were before it; lower lr, or look at the size of the rewards"
            ) from error


def _credit_named(credit: str | Credit | Value) -> Credit | Value:
    if isinstance(credit, str):
        if credit not in CREDITS:
            raise ValueError(f"needed a credit, got {credit!r}; there are {', '.join(CREDITS)}")
        return CREDITS[credit]()
    if not callable(credit):
        raise TypeError(f"needed a credit, got {credit!r}; pass one of {', '.join(CREDITS)} or of rlgrad.credit")
    return credit


def _check_numbers(
    episodes: int,
    discount: float,
    lr: float,
    entropy: float,
    reuse: int,
    max_grad_norm: float,
    max_episode_steps: int | None,
    seed: int,
) -> None:
    wholes = {"episodes": episodes, "reuse": reuse, "max_episode_steps": max_episode_steps or 1}
    for what, number in wholes.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"needed a whole number of {what}, at least 1, got {number!r}")
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ValueError(f"needed max_episode_steps of at least 1, or None for no limit, got {max_episode_steps}")
    if not 0 <= discount <= 1:
        raise ValueError(f"needed a discount from 0 to 1, got {discount}; 0.99 is usual")
    if not 0 < lr < math.inf:
        raise ValueError(f"needed a positive finite lr, got {lr}")
    if not max_grad_norm > 0:
        raise ValueError(f"needed a positive max_grad_norm, got {max_grad_norm}; math.inf leaves gradients as they are")
    if not 0 <= entropy < math.inf:
        raise ValueError(f"needed an entropy weight of at least 0, got {entropy}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"needed a seed from 0 to 2^63 - 1, got {seed}")
