"""How many times as fast as Gymnasium's vectors of single environments is the native vector form?

    python benchmarks/envs.py --num-envs 64

Each environment of ``rlgrad_envs``, as its arguments are by default, takes the same random actions in three forms: the
native one, ``SyncVectorEnv`` and ``AsyncVectorEnv`` of single ones, in turn, round after round, on one thread of torch
(the workers of AsyncVectorEnv share the processor's cores). The table holds the median over rounds of the native
form's steps per second, a step of each of n environments counting n, and how many times those of the other two it is,
in the same round.

A ratio below 10 has a ``!`` behind it.
"""

import argparse
import statistics
import time
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import VectorEnv

import rlgrad_envs  # noqa: F401  # registers

FORMS = {"native": "vector_entry_point", "sync": "sync", "async": "async"}
BAR = 10.0


def steps_per_second(envs: VectorEnv[Any, Any, Any], actions: list[Any], seconds: float) -> float:
    """Steps of all environments together, over so many seconds at least."""
    start, calls = time.perf_counter(), 0
    while (taken := time.perf_counter() - start) < seconds:
        for action in actions:
            envs.step(action)
        calls += len(actions)
    return calls * envs.num_envs / taken


def measure(name: str, num_envs: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Steps per second of each form, in each round."""
    # Single environments are made without the wrappers that check them.
    single = {"vector_kwargs": {}, "disable_env_checker": True}
    forms = {
        form: gym.make_vec(name, num_envs=num_envs, vectorization_mode=mode, **({} if form == "native" else single))
        for form, mode in FORMS.items()
    }
    space = forms["native"].action_space
    space.seed(0)
    actions = [space.sample() for _ in range(16)]
    for envs in forms.values():
        envs.reset(seed=0)
        steps_per_second(envs, actions, 0.1)
    found: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(rounds):
        for form, envs in forms.items():
            found[form].append(steps_per_second(envs, actions, seconds))
    for envs in forms.values():
        envs.close()
    return found


def main() -> None:
    """Time everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each form in each round, at least")
    parser.add_argument("--ids", nargs="+", default=sorted(name for name in gym.registry if name.startswith("rlgrad/")))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"gymnasium {gym.__version__}, torch {torch.__version__}, {arguments.num_envs} environments, 1 thread")
    print(f"{'':32}{'native steps/s':>16}{'x sync':>12}{'x async':>12}")
    for name in arguments.ids:
        found = measure(name, arguments.num_envs, arguments.rounds, arguments.seconds)
        cells = [_cell(found["native"], found[form]) for form in ("sync", "async")]
        native = statistics.median(found["native"])
        print("".join([f"{name:32}{native:>16,.0f}", *(f"{cell:>12}" for cell in cells)]), flush=True)


def _cell(native: list[float], other: list[float]) -> str:
    ratio = statistics.median(one / two for one, two in zip(native, other, strict=True))
    return f"{ratio:.1f} {'!' if ratio < BAR else ' '}"


if __name__ == "__main__":
    main()
