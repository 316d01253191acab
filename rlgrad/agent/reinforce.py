"""The agent: episodes are played, their decisions credited, and a policy follows the score-function gradient."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from torch import Tensor, nn

from rlgrad.agent import checkpoint
from rlgrad.agent.environments import AnyEnv, another, as_numbers, is_made_here, name_of, vectorised
from rlgrad.agent.episodes import Act, Episodes, joined, play
from rlgrad.agent.heads import head_for
from rlgrad.agent.history import Evaluation, History, Update
from rlgrad.agent.learning import Steps, credited, credited_by_value, objective
from rlgrad.agent.networks import in_type_of, mlp
from rlgrad.agent.normaliser import Normaliser
from rlgrad.agent.settings import check_network, check_numbers, check_whole, credit_of
from rlgrad.agent.stepping import step, unchanged_on_failure
from rlgrad.agent.value import Value
from rlgrad.credit import Credit
from rlgrad.policies import Policy, kind_of, slices

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
            of 64 tanh units. It is kept in evaluation mode, as the policy that learns has to be the one that drew:
            dropout does nothing, and statistics of batches stay as they are. Large batches pass in parts.
        credit: "none", "moving_average", "leave_one_out" (each episode's return to go less the mean of the other
            episodes' at the same step), "value" (a learned value with generalized advantage estimation), one of
            ``rlgrad.credit`` that needs no play or a function of your own, called with returns to go ``draws steps``
            and None, or a ``Value``.
        episodes: for each update.
        same_start: begin all episodes of an update from the same seed, so that leave_one_out compares like with like.
        discount: weight of the next step's reward against this one's.
        lr: learning rate.
        entropy: weight of the policy's entropy, in nats a step, added to the objective.
        reuse: gradient steps for each update, on the same episodes; by default 1, and 8 with a value, which has to keep
            up with the policy.
        clip: of the ratio of probabilities of a step's decisions, where steps are used more than once; None for none.
        scale: divide the advantages by their root mean square and the sum over steps by their number, so that the
            gradient is of the same size whatever the rewards; without it the gradient is the plain one, unbiased.
        max_grad_norm: gradients beyond are scaled down to it.
        normalise: bring observations to mean 0 and deviation 1 by those of earlier updates.
        max_episode_steps: cut off longer episodes, besides the limit that the environment may have itself.
        optimizer: called as ``optimizer(parameters, lr=lr)``.
        seed: of initial weights, resets and draws.

    Raises:
        TypeError: a space, the policy or the credit is of a kind that cannot be used.
        ValueError: a number is out of its range, or the network is not on the CPU.

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
        with torch.device("cpu"):
            self.credit = credit_of(credit)
        self.reuse = (8 if isinstance(self.credit, Value) else 1) if reuse is None else reuse
        check_numbers(
            self.credit, episodes=episodes, discount=discount, lr=lr, entropy=entropy, reuse=self.reuse, clip=clip,
            max_grad_norm=max_grad_norm, max_episode_steps=max_episode_steps, seed=seed,
        )  # fmt: skip
        self.episodes, self.same_start, self.max_episode_steps = episodes, same_start, max_episode_steps
        self.discount, self.entropy, self.scale = discount, entropy, scale
        self.clip = clip if self.reuse > 1 else None  # at the policy that drew all ratios are 1
        self.max_grad_norm, self.lr, self.seed = max_grad_norm, lr, seed
        self.envs, self._is_mine = vectorised(env, episodes, same_start=same_start), is_made_here(env)
        self.env_name = name_of(self.envs)
        try:
            with torch.device("cpu"):  # where environments are played, whatever the default
                self._build(policy, normalise=normalise)
            self.optimizer = optimizer(self.parameters(), lr=lr)
        except BaseException:
            self.close()
            raise
        self.history = History()

    def _build(self, policy: nn.Module | None, *, normalise: bool) -> None:
        """The head and the networks."""
        shape = tuple(self.envs.single_observation_space.shape or ())
        self.head = head_for(self.envs.single_action_space)
        self.network = mlp(shape, self.head.size, seed=self.seed, last=0.01) if policy is None else policy
        check_network(self.network)
        if isinstance(self.credit, Value):
            if self.credit.network is None:
                self.credit = Value(mlp(shape, 1, seed=self.seed + 1), decay=self.credit.decay)
            check_network(self.credit.network)
        self.normaliser = Normaliser(shape) if normalise else None
        self.train()

    def train(self, mode: bool = True) -> "Reinforce":
        """As of any module, except that the networks stay in evaluation mode."""
        super().train(mode)
        self.network.eval()
        if isinstance(self.credit, Value):
            self.credit.eval()
        return self

    def close(self) -> None:
        """Close the environments that were made here, from an id or a function; others are closed by who made them."""
        if self._is_mine:
            self.envs.close()

    def forward(self, observation: Float[Tensor, "rows *observation"]) -> Policy:
        """The policy that the agent has for observations."""
        policy: Policy = self.head(self.network(self._seen(observation)))
        return policy

    def act(
        self, observation: object, *, deterministic: bool = True, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """The action for one observation, as ``env.step`` wants it: the most probable one, or one that is drawn.

        Example:
            >>> import gymnasium as gym
            >>> env = gym.make("CartPole-v1")
            >>> agent = Reinforce(env)
            >>> observation, _ = env.reset(seed=0)
            >>> env.action_space.contains(agent.act(observation))
            True
        """
        decide = self._mode if deterministic else self._drawn(generator)
        return np.asarray(decide(torch.from_numpy(as_numbers(self.envs, observation))[None])[1][0])

    def update(self) -> Update:
        """Play this update's episodes and learn from them: wholly, or not at all where something fails.

        Raises:
            EnvironmentFailed: an environment raised or gave what is not finite.
            FloatingPointError: a gradient or a weight is not finite.
            ValueError: an episode does not end.
        """
        self.train()
        start = time.perf_counter()
        number = self.history.last.update + 1
        generator = torch.Generator().manual_seed(self._key(_DRAWING, number))
        key = self._key(_PLAYING, number)
        episodes = self._play(self.envs, self._drawn(generator), self.episodes, key, same_start=self.same_start)
        with unchanged_on_failure(self):
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
            steps: the update that reaches them is the last. It is a total: after ``learn(1000)``, ``learn(1000)`` does
                nothing, and ``learn(1500)`` goes on for 500.
            out: folder to save the agent in, every so many updates and in the end, whatever ends the learning: an error
                of the environment or Ctrl-C too.
            save_every: so many updates.
            progress: show a progress bar.

        Returns:
            The history, which also is ``self.history``.

        Raises:
            EnvironmentFailed, FloatingPointError, ValueError: as ``update``; what was learned before is kept, and
                saved. Called again it goes on from there.
            FileExistsError, OSError: the folder cannot be written, before anything is learned.
        """
        from tqdm import tqdm

        check_whole("steps", steps, least=0)
        check_whole("save_every", save_every)
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
                    self.save(out)
        return self.history

    def evaluate(
        self,
        episodes: int = 100,
        *,
        by: Literal["mode", "draws", "random"] = "mode",
        env: AnyEnv | None = None,
        seed: int = 0,
    ) -> Evaluation:
        """Returns of fresh episodes; nothing is learned.

        Args:
            episodes: at least so many; rounded up to a multiple of the environments.
            by: the most probable actions, drawn ones, or those of no policy: each action as likely as any.
            env: another environment than that of the learning, with observations of the same shape and the same
                actions.
            seed: of the episodes, other ones than those of the learning.

        Raises:
            EnvironmentFailed, ValueError: as ``update``; the other environment does not fit.
        """
        check_whole("episodes", episodes)
        check_whole("seed", seed, least=0)
        if by not in ("mode", "draws", "random"):
            raise ValueError(f'needed by="mode", "draws" or "random", got {by!r}')
        key, few = self._key(_EVALUATING, seed), min(episodes, self.episodes)
        with nullcontext(self.envs) if env is None else another(env, few, like=self.envs) as envs:
            drawn = self._drawn(torch.Generator().manual_seed(key))
            acts: dict[str, Act] = {"mode": self._mode, "draws": drawn, "random": _random(envs, key)}
            count = -(-episodes // envs.num_envs) * envs.num_envs
            played = self._play(envs, acts[by], count, key)
        return Evaluation(tuple(played.returns.tolist()), tuple(played.lengths.tolist()))

    def save(self, folder: str | Path) -> None:
        """Write the agent to a folder, whole or not at all: weights, optimizer, normaliser, credit and history.

        An agent saved there before is replaced. A credit with a state is saved where it is a module.

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
            ValueError: a file is damaged, or the agent was made otherwise; what differs is named, and this agent stays
                as it is.
        """
        checkpoint.load(self, folder)

    def _seen(self, observation: Tensor) -> Tensor:
        """Observations as the networks take them."""
        seen = observation if self.normaliser is None else self.normaliser(observation)
        return in_type_of(self.network, seen)

    def _drawn(self, generator: torch.Generator | None) -> Act:
        def act(observation: Tensor) -> tuple[Tensor, np.ndarray]:
            with torch.no_grad():
                decision = self(observation).sample(1, generator=generator)[0]
            return decision, self.head.action(decision)

        return act

    def _mode(self, observation: Tensor) -> tuple[Tensor, np.ndarray]:
        with torch.no_grad():
            decision = self(observation).mode
        return decision, self.head.action(decision)

    def _key(self, *what: int) -> int:
        """A number that depends on the seed and on what it is for alone, as ``reset`` and ``manual_seed`` take it."""
        return int(np.random.SeedSequence([self.seed, *what]).generate_state(1)[0]) >> 1

    def _play(
        self, envs: VectorEnv[Any, Any, Any], act: Act, episodes: int, key: int, *, same_start: bool = False
    ) -> Episodes:
        together = envs.num_envs
        first = range(key, key + episodes, together)
        seeds = [[key] * together if same_start else list(range(at, at + together)) for at in first]
        return joined([play(envs, act, seeds=each, limit=self.max_episode_steps) for each in seeds])

    def _learn_from(self, episodes: Episodes) -> tuple[float, float]:
        """Gradient steps on these episodes; the mean entropy before them, and the mean norm of the gradients."""
        steps = self._credited(episodes)
        share = 1 / (len(steps) if self.scale else len(episodes.ran))
        of_value = list(self.credit.parameters()) if isinstance(self.credit, nn.Module) else []
        known = set(map(id, of_value))
        of_policy = [each for each in self.parameters() if id(each) not in known]
        drew: list[Policy] = []
        norms = []
        for _ in range(self.reuse):
            self.optimizer.zero_grad()
            for at, rows in enumerate(_parts(steps.observation)):
                policy = self(steps.observation[rows])
                if at == len(drew):
                    drew.append(kind_of(policy)(policy.logits.detach().clone()))
                (-share * self._objective(policy, drew[at], steps[rows])).backward()
            norms.append(step(self.optimizer, of_policy, of_value, max_norm=self.max_grad_norm))
        if isinstance(self.credit, Value):
            self.credit.returns.learn(steps.target)
        entropy = math.fsum(each.entropy().sum().item() for each in drew)  # type: ignore[union-attr]
        return entropy / len(steps), math.fsum(norms) / len(norms)

    def _objective(self, policy: Policy, drew: Policy, steps: Steps) -> Tensor:
        expected = self.credit(self._seen(steps.observation)) if isinstance(self.credit, Value) else None
        wanted = objective(policy, drew, steps, clip=self.clip, expected=expected)
        return wanted + self.entropy * policy.entropy().sum() if self.entropy else wanted  # type: ignore[union-attr]

    def _credited(self, episodes: Episodes) -> Steps:
        if isinstance(self.credit, Value):
            expected, after = self._expected(episodes.observation[episodes.ran]), self._expected(episodes.last)
            steps = credited_by_value(episodes, self.credit, expected, after, discount=self.discount)
        else:
            steps = credited(episodes, self.credit, discount=self.discount)
        return steps.scaled() if self.scale else steps

    def _expected(self, observation: Tensor) -> Tensor:
        assert isinstance(self.credit, Value)
        with torch.no_grad():
            return torch.cat([self.credit(self._seen(observation[rows])) for rows in _parts(observation)])


def _random(envs: VectorEnv[Any, Any, Any], key: int) -> Act:
    """No policy: each action as likely as any."""
    envs.action_space.seed(key)
    return lambda observation: (None, np.asarray(envs.action_space.sample()))


def _parts(observation: Tensor) -> Iterator[slice]:
    """Rows of so many numbers together that the networks' own numbers, which are more, fit in memory."""
    return slices(len(observation), observation[:1].numel())
