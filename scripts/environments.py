"""Who learns in the environments, at their default arguments? And what do they look like?

    python scripts/environments.py --out docs/environments.md

Needs Stable-Baselines3 (pip install -c constraints.txt -e ".[sb3]"). Records stay in --records, and a second start
makes only what is missing.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from tqdm import tqdm

from rlgrad.agent import Reinforce
from rlgrad.agent.episodes import play
from rlgrad.files import replacing
from rlgrad.report.figures import save
from rlgrad.study.statistics import Interval, interval
from rlgrad.text import markdown

IDS = {
    "Classification": ["one row of features, and the counts so far", "`Discrete`",
                       "the metric of all decisions at the end, or its change at each step"],
    "BatchClassification": ["a batch of rows", "`MultiBinary`, or `MultiDiscrete`", "the metric of the batch"],
    "Segmentation": ["an image, and the mask so far where there are several steps", "`MultiBinary`",
                     "IoU or any metric, or its change where the mask is refined"],
    "StepNetwork": ["the input and the activations so far", "`MultiBinary`: which units of the next layer fire",
                    "minus the cross-entropy, or a metric, at the output"],
    "Threshold": ["quantiles of scores, and the counts at the last threshold",
                  "`Box`: a threshold, one for each class or label", "the metric at that threshold"],
}  # fmt: skip
NAMES = list(IDS)
METHODS = ["random", "Reinforce", "A2C", "PPO"]
STEPS, EPISODES = 20_000, 256

PAGE = """# The environments

Written by `python scripts/environments.py --seeds {seeds}`.

A metric such as F1 or IoU is of a *set* of decisions. In these environments the reward is such a metric, computed by
the objects of `rlgrad.metrics`, so that any agent that speaks Gymnasium can be trained on what people are judged by.

{ids}

```python
import gymnasium as gym

env = gym.make("rlgrad_envs:rlgrad/BatchClassification-v0", data="digits", metric="mcc", batch_size=32)
envs = gym.make_vec("rlgrad_envs:rlgrad/Segmentation-v0", num_envs=64, metric="dice")  # its native vector form
```

Data are arrays, a table or a file with `target=`, a folder of images, or the name of a set that is built in; the metric
is a name, a metric of `rlgrad.metrics` such as a `CountMetric` with a formula of yours, or any function of `(decision,
target)`. What the arguments
are stands in the docstring of each class, such as `rlgrad_envs.segmentation.SegmentationEnv`. The vector form gives
what `SyncVectorEnv` of single environments gives, step by step; `python benchmarks/envs.py` measures how many times as
fast it is here. `render_mode="rgb_array"` draws what is below; `"human"` shows it in a window, and needs
`pip install "rlgrad[envs]"`.

![What the environments look like](environments.png)

Nothing is held out: an agent is rewarded, and evaluated, on all rows that its environment has. Split them first, and
make two environments; arrays are taken as they are, so that both see the same features. Text and gaps are encoded by
`load_data`, whose `features` and `target` can be split then:

```python
from rlgrad import Reinforce
from rlgrad_envs.data import load_data

digits = load_data("digits", None)  # or load_data("table.csv", "column")
env, test = (
    gym.make_vec("rlgrad/BatchClassification-v0", num_envs=16, data=(digits.features[rows], digits.target[rows]))
    for rows in (slice(0, 1200), slice(1200, None))
)
agent = Reinforce(env)
agent.learn(160, progress=False)
print(agent.evaluate(64, env=test))
```

## Who learns

{steps:,} steps at default arguments: of the environments, of Stable-Baselines3's PPO and A2C (`MlpPolicy`, four
environments), and of `rlgrad.agent.Reinforce`. Then {episodes} fresh episodes, actions drawn from the policy as in
training; of random actions as many.

{table}

Means over {seeds} seeds with their 95% intervals (Student's t).

{answer}

An agent sees one reward for all decisions of an episode, so that what it learns slowly is what [credit for single
decisions](audit.md) learns fast: `rlgrad.MetricLoss` knows the metric, and an agent does not. An MLP also has to find
out anew for each place of a batch that rows are alike; [one trainer, two doors](two_doors.md) gives the agent a network
that knows.
"""


def tested(name: str, act: Callable[[Any], Any], seed: int) -> float:
    """Mean return of fresh episodes."""
    envs = gym.make_vec(f"rlgrad_envs:rlgrad/{name}-v0", num_envs=EPISODES)
    envs.action_space.seed(seed)
    episodes = play(envs, lambda seen: (None, act(seen.numpy())), seeds=list(range(seed, seed + EPISODES)))
    return float(episodes.returns.mean())


def run(name: str, method: str, seed: int, steps: int) -> dict[str, Any]:
    """Learn, and be tested."""
    torch.set_num_threads(1)
    test = 1_000_000 + 1_000 * seed
    if method == "random":
        space = gym.make_vec(f"rlgrad_envs:rlgrad/{name}-v0", num_envs=EPISODES).action_space
        space.seed(test)
        value = tested(name, lambda seen: space.sample(), test)
    elif method == "Reinforce":
        agent = Reinforce(f"rlgrad_envs:rlgrad/{name}-v0", seed=seed)
        agent.learn(steps, progress=False)
        value = agent.evaluate(EPISODES, by="draws", seed=seed).mean
    else:
        envs = make_vec_env(f"rlgrad_envs:rlgrad/{name}-v0", n_envs=4, seed=seed)
        model = {"PPO": PPO, "A2C": A2C}[method]("MlpPolicy", envs, seed=seed, device="cpu")
        model.learn(steps)
        dtype = np.uint8 if name == "Segmentation" else np.float32
        value = tested(name, lambda seen: model.predict(seen.astype(dtype))[0], test)
    return {"name": name, "method": method, "seed": seed, "steps": steps, "value": value}


def picture(path: Path) -> None:
    """A frame of each environment, after some actions."""
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes = figure.subplots(2, 3).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, name in zip(axes, NAMES, strict=False):
        env = gym.make(f"rlgrad_envs:rlgrad/{name}-v0", render_mode="rgb_array")
        env.action_space.seed(0)
        env.reset(seed=1)
        over, steps = False, 0
        while not over and steps < 40:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            over, steps = terminated or truncated, steps + 1
        axis.imshow(np.asarray(env.render()))
        axis.set_title(f"rlgrad/{name}-v0", fontsize=10)
        env.close()
    save(figure, path)


def shown(found: Interval) -> str:
    """A mean and its interval."""
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def answer(runs: dict[tuple[str, str], list[float]]) -> str:
    """Which of them are better than random actions, pair by pair."""
    gains = {
        key: interval([value - chance for value, chance in zip(values, runs[key[0], "random"], strict=True)])
        for key, values in runs.items()
        if key[1] != "random"
    }
    level = [f"{method} in {name}" for (name, method), gain in gains.items() if not gain.low > 0]
    better = len(gains) - len(level)
    rest = f"; not so {', '.join(level)}" if level else ""
    text = f"Of these {len(gains)} agents {better} are better than random actions beyond the interval{rest}."
    return fill(text, width=120)


def jobs(seeds: int, steps: int) -> Iterator[tuple[str, str, int, int]]:
    """Every environment and method with every seed."""
    return ((name, method, seed, steps) for seed in range(seeds) for name in NAMES for method in METHODS)


def main() -> None:
    """Make the missing runs, the picture and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--workers", type=int, default=-1, help="processes of one thread; -1 for one a core")
    parser.add_argument("--records", type=Path, default=Path("comparison/environments.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/environments.md"))
    arguments = parser.parse_args()
    arguments.records.parent.mkdir(parents=True, exist_ok=True)
    arguments.records.touch()
    lines = [json.loads(line) for line in arguments.records.read_text().splitlines()]
    found = {(each["name"], each["method"], each["seed"], each["steps"]): each["value"] for each in lines}
    wanted = [job for job in jobs(arguments.seeds, arguments.steps) if job not in found]
    parallel = Parallel(n_jobs=arguments.workers, return_as="generator_unordered")
    for each in tqdm(parallel(delayed(run)(*job) for job in wanted), total=len(wanted), unit="run"):
        found[each["name"], each["method"], each["seed"], each["steps"]] = each["value"]
        with arguments.records.open("a") as file:
            file.write(json.dumps(each) + "\n")
    runs = {
        (name, method): [found[name, method, seed, arguments.steps] for seed in range(arguments.seeds)]
        for name in NAMES
        for method in METHODS
    }
    rows = [[name, *(shown(interval(runs[name, method])) for method in METHODS)] for name in NAMES]
    ids = [[f"`rlgrad/{name}-v0`", *told] for name, told in IDS.items()]
    picture(arguments.out.with_name("environments.png"))
    page = PAGE.format(
        seeds=arguments.seeds, steps=arguments.steps, episodes=EPISODES, table=markdown([["", *METHODS], *rows]),
        ids=markdown([["id", "observation", "action", "reward"], *ids], left=4),
        answer=answer(runs),
    )  # fmt: skip
    with replacing(arguments.out) as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
