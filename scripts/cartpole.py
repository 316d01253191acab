"""How soon is CartPole-v1 solved, by which credit, and beside Stable-Baselines3's A2C and PPO?

    python scripts/cartpole.py --out docs/cartpole.md

Needs Stable-Baselines3 (pip install -c constraints.txt -e ".[sb3]"). Runs come one after the other on one thread, as
their seconds are compared. Records stay in --records, and a second start makes only what is missing.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor
from tqdm import tqdm

from rlgrad.agent import Reinforce
from rlgrad.agent.episodes import play
from rlgrad.files import replacing
from rlgrad.report.curves import learning_curves
from rlgrad.text import markdown

ENV = "CartPole-v1"
SOLVED, EPISODES = 475.0, 100
EVERY = 5_000  # steps between evaluations
STEPS = 200_000  # of all but PPO, solved or not
ONE_BY_ONE = "leave_one_out, environments one by one"
CREDITS = ["leave_one_out", "value", "moving_average", "none"]
# As published in RL Baselines3 Zoo, hyperparams/ppo.yml and a2c.yml, where PPO's rates fall to 0 within its steps.
ZOO: dict[str, dict[str, Any]] = {
    "PPO": {"steps": 100_000, "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
            "ent_coef": 0.0, "learning_rate": lambda left: 0.001 * left, "clip_range": lambda left: 0.2 * left},
    "A2C": {"ent_coef": 0.0},
}  # fmt: skip
METHODS = [*CREDITS, ONE_BY_ONE, *(f"Stable-Baselines3 {name}" for name in ZOO)]

PAGE = """# CartPole-v1: which credit, and how soon

Written by `python scripts/cartpole.py --seeds {seeds}`.

CartPole-v1 counts as solved where the mean return over {episodes} fresh episodes of the deterministic policy is at
least {solved:g}. It is asked every {every:,} steps of learning, of all alike and not on their time. Steps are all that
environments were asked for; where episodes are played side by side, those of environments that wait for the others to
end are among them.

{answer}

{table}

Medians over {seeds} seeds, with the least and the most in brackets; a run that did not solve it counts as worse than
any that did. *Twice* is the first step at which it was solved twice in a row, since the first time may be luck of a
policy that comes and goes. *At the end* is the mean return of the last evaluation, after {steps:,} steps, or the
100,000 for which PPO's settings are published. All ours have the defaults of `Reinforce`: 16 episodes an update, Adam
at 0.01, discount 0.99, 64-64 tanh units; `value` takes 8 gradient steps an update (its default), the others one.
These defaults were chosen on CartPole, Acrobot and Pendulum with other seeds (100 and up). Stable-Baselines3 has the
settings that RL Baselines3 Zoo publishes for CartPole-v1, eight environments. Seconds are of one thread, one run
after the other in one process; ours play Gymnasium's own vector form of CartPole, of which Stable-Baselines3 has no
use, and *one by one* is the same agent on the environments that it has.

![Learning curves](cartpole.svg)

Each thin line is a seed, the mean return of an update's episodes, whose actions are drawn. What the credits have in
common is the gradient: all are unbiased but for `value`, which leans on what it has learned. They differ in noise
alone, and that decides.
"""


def evaluated(act: Callable[[Tensor], Any], seed: int) -> float:
    """Mean return of fresh episodes."""
    envs = gym.make_vec(ENV, num_envs=EPISODES)
    with torch.no_grad():
        episodes = play(envs, lambda seen: (None, act(seen)), seeds=list(range(seed, seed + EPISODES)))
    envs.close()
    return float(episodes.returns.mean())


def ours(method: str, seed: int, steps: int) -> dict[str, Any]:
    """Learn for so many steps, with evaluations in between."""
    one_by_one = method == ONE_BY_ONE
    env: Any = (lambda: gym.make(ENV)) if one_by_one else ENV
    agent = Reinforce(env, credit="leave_one_out" if one_by_one else method, seed=seed)  # type: ignore[arg-type]
    told = []
    while agent.history.last.steps < steps:
        before = agent.history.last.steps // EVERY
        update = agent.update()
        if update.steps // EVERY > before:
            value = evaluated(lambda seen: agent.head.action(agent(seen).mode), 1_000_000 + update.steps)
            told.append(
                {"steps": update.steps, "episodes": update.episodes, "seconds": update.seconds, "return": value}
            )
    agent.envs.close()
    return {"evaluations": told, "updates": [asdict(update) for update in agent.history.updates]}


class Evaluations(BaseCallback):
    """Evaluate between rollouts, off the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, Any]] = []
        self.paused, self.start, self.due = 0.0, time.perf_counter(), EVERY

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps < self.due:
            return
        self.due = (self.num_timesteps // EVERY + 1) * EVERY
        seconds = time.perf_counter() - self.start - self.paused
        value = evaluated(
            lambda seen: self.model.predict(seen.numpy(), deterministic=True)[0], 1_000_000 + self.num_timesteps
        )
        self.told.append({"steps": self.num_timesteps, "episodes": None, "seconds": seconds, "return": value})
        self.paused = time.perf_counter() - self.start - seconds

    def _on_training_end(self) -> None:
        self._on_rollout_start()


def theirs(method: str, seed: int, steps: int) -> dict[str, Any]:
    """Learn for so many steps, or those of the published settings, with evaluations in between."""
    name = method.split()[-1]
    settings = dict(ZOO[name])
    steps = settings.pop("steps", steps)
    algorithm: Any = {"PPO": PPO, "A2C": A2C}[name]
    envs = make_vec_env(ENV, n_envs=8, seed=seed)
    callback = Evaluations()
    algorithm("MlpPolicy", envs, seed=seed, device="cpu", **settings).learn(steps, callback=callback)
    envs.close()
    return {"evaluations": callback.told, "updates": []}


def solved(run: dict[str, Any]) -> dict[str, Any] | None:
    """The first evaluation at which it was, if any."""
    return next((each for each in run["evaluations"] if each["return"] >= SOLVED), None)


def solved_twice(run: dict[str, Any]) -> dict[str, Any] | None:
    """The second evaluation in a row at which it was, if any."""
    pairs = itertools.pairwise(run["evaluations"])
    return next((two for one, two in pairs if min(one["return"], two["return"]) >= SOLVED), None)


def spread(values: list[float], digits: int) -> str:
    """Median, least and most."""
    ends = (median(values), min(values), max(values))
    shown = ["never" if value == math.inf else f"{value:,.{digits}f}" for value in ends]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def row(method: str, runs: list[dict[str, Any]]) -> list[str]:
    """A line of the table."""
    first, twice = [solved(run) for run in runs], [solved_twice(run) for run in runs]

    def told(found: list[dict[str, Any] | None], key: str, digits: int = 0) -> str:
        return spread([math.inf if each is None else each[key] for each in found], digits)

    episodes = "" if method.startswith("Stable") else told(first, "episodes")
    end = sum(run["evaluations"][-1]["return"] for run in runs) / len(runs)
    count = f"{sum(each is not None for each in first)} of {len(runs)}"
    steps = told(first, "steps"), told(twice, "steps")
    return [method, count, *steps, episodes, told(first, "seconds", 1), f"{end:.0f}"]


def answer(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Who was first, by steps and by seconds, and what became of the usual credit."""
    usual = CREDITS[0]

    def fewest(key: str, found: Callable[[dict[str, Any]], dict[str, Any] | None]) -> str:
        typical = {
            method: median(each[key] if each else math.inf for each in map(found, of)) for method, of in runs.items()
        }
        best = min(typical, key=lambda method: typical[method])
        digits = 0 if key == "steps" else 1
        return f"{typical[best]:,.{digits}f} by `{best}` (`{usual}` {typical[usual]:,.{digits}f})"

    count = sum(solved(run) is not None for run in runs[usual])
    text = (
        f"`{usual}` solved CartPole in {count} of {len(runs[usual])} seeds. The fewest steps, in the median, were "
        f"{fewest('steps', solved)} to the first time and {fewest('steps', solved_twice)} to twice in a row; the "
        f"fewest seconds {fewest('seconds', solved)} and {fewest('seconds', solved_twice)}."
    )
    return fill(text, width=120, break_on_hyphens=False)


def jobs(seeds: int) -> Iterator[tuple[str, int]]:
    """Every method with every seed, the methods in turn, so that a change in the machine's load meets all."""
    return ((method, seed) for seed in range(seeds) for method in METHODS)


def main() -> None:
    """Make the missing runs and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS, help="of all but PPO")
    parser.add_argument("--records", type=Path, default=Path("comparison/cartpole.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/cartpole.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.records.parent.mkdir(parents=True, exist_ok=True)
    arguments.records.touch()
    lines = [json.loads(line) for line in arguments.records.read_text().splitlines()]
    found = {(each["method"], each["seed"], each["steps"]): each for each in lines}
    for method, seed in tqdm(list(jobs(arguments.seeds)), unit="run"):
        key = (method, seed, arguments.steps)
        if key in found:
            continue
        run = (
            theirs(method, seed, arguments.steps)
            if method.startswith("Stable")
            else ours(method, seed, arguments.steps)
        )
        found[key] = {"method": method, "seed": seed, "steps": arguments.steps, **run}
        with arguments.records.open("a") as file:
            file.write(json.dumps(found[key]) + "\n")
    runs = {method: [found[method, seed, arguments.steps] for seed in range(arguments.seeds)] for method in METHODS}
    header = ["", "solved", "steps", "twice", "episodes", "seconds", "at the end"]
    table = markdown([header, *(row(method, of) for method, of in runs.items())])
    page = PAGE.format(
        seeds=arguments.seeds, episodes=EPISODES, solved=SOLVED, every=EVERY, steps=arguments.steps, table=table,
        answer=answer(runs),
    )  # fmt: skip
    curves = {method: [run["updates"] for run in runs[method]] for method in CREDITS}
    learning_curves(curves, arguments.out.with_name("cartpole.svg"), title=ENV, levels={"solved": SOLVED})
    with replacing(arguments.out) as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
