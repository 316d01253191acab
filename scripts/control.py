"""Does the agent learn more than CartPole? Sparse rewards, and actions that are numbers.

    python scripts/control.py --out docs/control.md

Records stay in --records, and a second start makes only what is missing.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from rlgrad.agent import Reinforce
from rlgrad.files import replacing
from rlgrad.report.curves import learning_curves
from rlgrad.study.statistics import Interval, interval
from rlgrad.text import code, markdown

EPISODES = 100
STEPS = 300_000
# What differs from the defaults of Reinforce.
SETTINGS: dict[str, dict[str, Any]] = {
    "Acrobot-v1": {"lr": 3e-3},
    "Pendulum-v1": {"credit": "value", "discount": 0.9, "lr": 3e-3},
    "MountainCarContinuous-v0": {},
}

PAGE = """# Other environments

Written by `python scripts/control.py --seeds {seeds}`.

Acrobot rewards nothing until the goal is reached; Pendulum and MountainCarContinuous have a Box of actions, so that the
policy is a Gaussian. None needs an extra physics package. {steps:,} steps each, then {episodes} fresh episodes by the
deterministic policy, and as many by random actions. The settings were chosen with other seeds (100 and up).

{answer}

{table}

- Means over {seeds} seeds with their 95% intervals (Student's t); the difference is paired over seeds.
- Seconds are of learning, the median over seeds.

{pictures}

Each thin line is a seed, the mean return of an update's episodes, whose actions are drawn.
"""


def run(env: str, seed: int, steps: int) -> dict[str, Any]:
    """Learn, and be tested beside random actions."""
    torch.set_num_threads(1)
    agent = Reinforce(env, seed=seed, **SETTINGS[env])
    agent.learn(steps, progress=False)
    value, chance = agent.evaluate(EPISODES), agent.evaluate(EPISODES, by="random")
    agent.envs.close()
    updates = [asdict(update) for update in agent.history.updates]
    return {"env": env, "seed": seed, "steps": steps, "value": value.mean, "random": chance.mean, "updates": updates}


def shown(found: Interval, *, sign: str = "") -> str:
    """A mean and its interval."""
    return f"{found.mean:{sign}.1f} [{found.low:{sign}.1f}, {found.high:{sign}.1f}]"


def told(env: str, runs: list[dict[str, Any]]) -> tuple[list[str], str]:
    """A line of the table, and what it says."""
    value, chance = ([run[name] for run in runs] for name in ("value", "random"))
    gain = interval([one - other for one, other in zip(value, chance, strict=True)])
    settings = ", ".join(f"{name}={number!r}" for name, number in SETTINGS[env].items())
    seconds = sorted(run["updates"][-1]["seconds"] for run in runs)[len(runs) // 2]
    cells = [env, code(settings) if settings else "defaults", shown(interval(chance)), shown(interval(value))]
    luck = "better than random beyond the interval" if gain.low > 0 else "not better than random beyond luck"
    return [*cells, shown(gain, sign="+"), f"{seconds:.0f}"], f"{env}: {luck}."


def main() -> None:
    """Make the missing runs and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--workers", type=int, default=-1, help="processes of one thread; -1 for one a core")
    parser.add_argument("--records", type=Path, default=Path("comparison/control.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/control.md"))
    arguments = parser.parse_args()
    arguments.records.parent.mkdir(parents=True, exist_ok=True)
    arguments.records.touch()
    lines = [json.loads(line) for line in arguments.records.read_text().splitlines()]
    found = {(each["env"], each["seed"], each["steps"]): each for each in lines}
    jobs = [(env, seed, arguments.steps) for seed in range(arguments.seeds) for env in SETTINGS]
    wanted = [job for job in jobs if job not in found]
    parallel = Parallel(n_jobs=arguments.workers, return_as="generator_unordered")
    for each in tqdm(parallel(delayed(run)(*job) for job in wanted), total=len(wanted), unit="run"):
        found[each["env"], each["seed"], each["steps"]] = each
        with arguments.records.open("a") as file:
            file.write(json.dumps(each) + "\n")
    pictures, rows, sentences = [], [], []
    for env in SETTINGS:
        runs = [found[job] for job in jobs if job[0] == env]
        row, sentence = told(env, runs)
        rows.append(row)
        sentences.append(sentence)
        picture = f"control-{env.lower()}.svg"
        learning_curves(
            {"agent": [each["updates"] for each in runs]},
            arguments.out.with_name(picture),
            title=env,
            levels={"random actions": sum(each["random"] for each in runs) / len(runs)},
        )
        pictures.append(f"![{env}]({picture})")
    header = ["environment", "settings", "random", "agent", "gain", "seconds"]
    page = PAGE.format(
        seeds=arguments.seeds, steps=arguments.steps, episodes=EPISODES, table=markdown([header, *rows], left=2),
        answer=fill(" ".join(sentences), width=120), pictures="\n".join(pictures),
    )  # fmt: skip
    with replacing(arguments.out) as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
