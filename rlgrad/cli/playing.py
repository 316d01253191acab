"""``rlgrad agent``."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import tyro

from rlgrad.cli.agent_folder import FIGURE, RESULT, prepare, write_result
from rlgrad.cli.arguments import BadInput, Network, RunFailed, left_to_the_task

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from rlgrad.agent import Reinforce

_LIKE = """'{"data": "table.csv", "target": "y"}'"""
# What may change when the command is given again: how far to go, and what is not of the learning.
_NOT_SETTINGS = ("steps", "seeds", "evaluate", "out", "overwrite")


@dataclass
class Agent:
    """Learn to act in a Gymnasium environment by REINFORCE, and test what was learned beside a random policy.

    Each update plays whole episodes with the policy as it is, gives every action credit for the rewards that came after
    it, and takes a gradient step. Actions may be Discrete, MultiDiscrete, MultiBinary or a Box; observations anything
    of a fixed number of numbers. Given again with the same --out, the command goes on exactly where it was interrupted;
    with more --steps or --seeds it goes further.
    """

    env: Annotated[str, tyro.conf.arg(metavar="ID")]
    """Environment, such as CartPole-v1; or with the module that registers it, as in
    rlgrad_envs:rlgrad/BatchClassification-v0."""
    env_options: Annotated[str, tyro.conf.arg(metavar="JSON")] = "{}"
    """What to make it with, such as '{"data": "table.csv", "target": "y"}'."""
    credit: Literal["none", "moving_average", "leave_one_out", "value"] = "leave_one_out"
    """What an action's return is compared with: nothing, the average so far, the mean of the other episodes at the same
    step, or a learned value of the observation (generalized advantage estimation)."""
    steps: int = 200_000
    """How many to learn from, over all episodes; the update that reaches them is the last."""
    episodes: int = 16
    """For each update, played side by side."""
    lr: float = 0.01
    """Learning rate of Adam."""
    discount: float = 0.99
    """Weight of the next step's reward against this one's."""
    entropy: float = 0.0
    """Weight of the policy's entropy in the objective: more keeps it trying."""
    reuse: Annotated[int | None, left_to_the_task("INT", "1, with --credit value 8")] = None
    """Gradient steps for each update, on the same episodes."""
    clip: float = 0.2
    """Of the ratios of probabilities where episodes are used more than once, as in PPO."""
    network: Network = "mlp"
    """The policy: linear, or two layers of 64 units. A learned value always has the latter."""
    no_normalise: bool = False
    """Take observations as they are, not brought to mean 0 and deviation 1."""
    same_start: bool = False
    """Begin all episodes of an update from the same seed, so that leave_one_out compares like with like."""
    max_episode_steps: Annotated[int | None, left_to_the_task("INT", "what the environment says")] = None
    """Cut off longer episodes."""
    seeds: int = 1
    """How many agents: seeds 0, 1, ... one after the other."""
    evaluate: int = 100
    """Fresh episodes of the test, in which the most probable action is taken; as many more as make a
    multiple of --episodes."""
    out: Path | None = None
    """Folder for the agents, seed-0/, seed-1/, ..., the figure learning.svg and result.json; without it nothing is
    kept."""
    overwrite: bool = False
    """Replace what the command has written to that folder before."""

    def run(self) -> int:
        """Train each seed as far as it is not yet, and test it; print a table and a sentence, draw, write it down."""
        self._check()
        options = _parsed(self.env_options)
        envs = self._envs(options)  # an environment that there is not is told before torch is there
        import torch

        torch.set_num_threads(1)  # an update takes less time than threads take to meet
        with closing(envs):
            agent = self._agent(envs, seed=0)
        settings, threshold = self._settings(agent, options), getattr(envs.spec, "reward_threshold", None)
        if self.out is not None:
            prepare(self.out, settings, overwrite=self.overwrite)
        print(f"{_described(agent)}; credit {self.credit}, {self.episodes} episodes an update", flush=True)
        played = [self._played(options, seed) for seed in range(self.seeds)]
        self._tell([run for run, _ in played], [history for _, history in played], settings, threshold=threshold)
        return 0

    def _check(self) -> None:
        for name, least in {"steps": 1, "seeds": 1, "episodes": 1, "evaluate": 2}.items():
            if getattr(self, name) < least:
                raise BadInput(f"needed --{name} of at least {least}, got {getattr(self, name)}")

    def _settings(self, agent: "Reinforce", options: dict[str, Any]) -> dict[str, Any]:
        """All that an agent follows from, besides its seed and how long it learned."""
        given = {name: value for name, value in vars(self).items() if name not in _NOT_SETTINGS}
        return {**given, "env_options": options, "reuse": agent.reuse}

    def _envs(self, options: dict[str, Any]) -> "VectorEnv[Any, Any, Any]":
        if self.same_start:  # native vector forms may know of one seed alone, that of the first environment
            options = {"vectorization_mode": "sync", **options}
        return _made(self.env, self.episodes, options)

    def _agent(self, envs: "VectorEnv[Any, Any, Any]", *, seed: int) -> "Reinforce":
        from rlgrad.agent import Reinforce

        try:
            return Reinforce(
                envs,
                _linear(envs) if self.network == "linear" else None,
                self.credit,
                episodes=self.episodes,
                same_start=self.same_start,
                discount=self.discount,
                lr=self.lr,
                entropy=self.entropy,
                reuse=self.reuse,
                clip=self.clip,
                normalise=not self.no_normalise,
                max_episode_steps=self.max_episode_steps,
                seed=seed,
            )
        except TypeError as error:  # of a space that the agent cannot use
            raise BadInput(str(error)) from error

    def _played(self, options: dict[str, Any], seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """One agent, trained and tested, as a line of the result, and its history."""
        folder = None if self.out is None else self.out / f"seed-{seed}"
        with closing(self._envs(options)) as envs:
            agent = self._agent(envs, seed=seed)
            if folder is not None and folder.exists():
                agent.load(folder)
            before = agent.history.last.steps
            if 0 < before < self.steps:
                print(f"seed {seed}: goes on after {before:,} steps", flush=True)
            with _told_where(agent, folder, f"seed {seed}"):
                if before < self.steps:
                    agent.learn(self.steps, out=folder)
                trained = agent.evaluate(self.evaluate)
                random = agent.evaluate(self.evaluate, by="random")
        last = agent.history.last
        print(
            f"seed {seed}: {last.steps:,} steps, {last.episodes:,} episodes, {last.update:,} updates in "
            f"{last.seconds:.0f} s",
            flush=True,
        )
        run = {
            "seed": seed,
            "steps": last.steps,
            "episodes": last.episodes,
            "seconds": last.seconds,
            "returns": trained.returns,
            "lengths": trained.lengths,
            "random_returns": random.returns,
        }
        return run, [asdict(update) for update in agent.history.updates]

    def _tell(
        self,
        runs: list[dict[str, Any]],
        histories: list[list[dict[str, Any]]],
        settings: dict[str, Any],
        *,
        threshold: float | None,
    ) -> None:
        from rlgrad.report.curves import learning_curves
        from rlgrad.report.returns import over_runs, returns_sentence, returns_table

        print(f"\n{returns_table(runs)}\n\n{returns_sentence(runs, name=self.env, threshold=threshold)}")
        if self.out is None:
            return
        write_result(self.out, settings, runs, threshold)
        chance = over_runs(runs)[1].mean
        levels = {f"random policy ({chance:.4g})": chance}
        if threshold is not None:
            levels = {f"counts as solved ({threshold:g})": threshold, **levels}
        learning_curves({self.credit: histories}, self.out / FIGURE, title=self.env, levels=levels)
        agents = ", ".join(str(self.out / f"seed-{run['seed']}") for run in runs)
        print(f"\nwritten: {self.out / FIGURE}, {self.out / RESULT}; agents: {agents}")


def _parsed(text: str) -> dict[str, Any]:
    def refused(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not of JSON")

    try:
        options = json.loads(text, parse_constant=refused)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"needed JSON, got --env-options {text!r} ({error}); write it like {_LIKE}") from error
    if not isinstance(options, dict):
        raise BadInput(f"needed a JSON object, got --env-options {text!r}; write it like {_LIKE}")
    return options


def _made(env: str, episodes: int, options: dict[str, Any]) -> "VectorEnv[Any, Any, Any]":
    """As many environments as an update has episodes; what keeps them from being made is told in one line."""
    import gymnasium as gym

    if ":" in env and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # a module may lie where the command is given, as for python -m
    try:
        return gym.make_vec(env, num_envs=episodes, **options)
    except (ValueError, OSError):  # the environment's own words
        raise
    except gym.error.UnregisteredEnv as error:
        raise BadInput(f"needed an environment that is registered, got --env {env}; {_hint(env)}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise BadInput(f"needed an environment that can be made, got --env {env} ({reason})") from error


def _hint(env: str) -> str:
    from difflib import get_close_matches

    import gymnasium as gym

    known = {name.lower(): name for name in gym.registry}
    close = get_close_matches(env.rpartition(":")[2].lower(), known, n=3)
    if close:
        near = " or ".join(known[name] for name in close)
        return f"did you mean {near}? One that a module of yours registers is named package.module:name"
    return "name one such as CartPole-v1, or package.module:name with the module that registers it"


def _linear(envs: "VectorEnv[Any, Any, Any]") -> Any:
    """A linear policy that begins by trying everything alike."""
    import math

    from torch import nn

    from rlgrad.agent.environments import vectorised
    from rlgrad.agent.heads import head_for

    size = head_for(envs.single_action_space).size
    shape = vectorised(envs, envs.num_envs).single_observation_space.shape or ()
    layer = nn.Linear(math.prod(shape), size)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


def _described(agent: "Reinforce") -> str:
    name = getattr(agent.envs.spec, "id", "environment")
    actions = " ".join(str(agent.envs.single_action_space).split())
    return f"{name}: observations of shape {agent.envs.single_observation_space.shape}, actions {actions}"


@contextmanager
def _told_where(agent: "Reinforce", folder: Path | None, who: str) -> Iterator[None]:
    """Say with an error or an interruption how far the agent came and whether that is kept."""
    from rlgrad.agent import EnvironmentFailed

    def kept() -> str:
        steps = f"{agent.history.last.steps:,} steps"
        return f"nothing of its {steps} is saved without --out" if folder is None else f"{steps} are saved in {folder}"

    try:
        yield
    except (EnvironmentFailed, FloatingPointError) as error:
        raise RunFailed(f"{who}: {error}; {kept()}") from error
    except KeyboardInterrupt:
        again = "" if folder is None else "; the same command goes on there"
        raise KeyboardInterrupt(f"{who}: {kept()}{again}") from None
