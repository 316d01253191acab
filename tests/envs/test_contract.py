"""What every registered environment keeps: Gymnasium's contract, exactly, in the single and in the vector form."""

import copy
import subprocess
import sys
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import rlgrad_envs  # noqa: F401  # registers
from rlgrad_envs.base import SingleEnv

IDS = sorted(name for name in gym.registry if name.startswith("rlgrad/"))
LONGEST = 500  # steps of an episode by default
BRIEF: dict[str, dict[str, Any]] = {  # arguments that make episodes, or passes through the data, short
    "rlgrad/BatchClassification-v0": {"batch_size": 100},
    "rlgrad/Classification-v0": {"steps": 5},
}
Step = tuple[Any, ...]


def made(name: str, **arguments: Any) -> gym.Env[Any, Any]:
    """The bare environment, without Gymnasium's wrappers."""
    return gym.make(name, **arguments).unwrapped


def rollout(env: gym.Env[Any, Any], seed: int, steps: int = 20) -> list[Step]:
    """What an environment gives for actions that the seed alone decides."""
    env.action_space.seed(seed)
    given: list[Step] = [env.reset(seed=seed)]
    for _ in range(steps):
        given.append(env.step(env.action_space.sample()))
        if given[-1][2] or given[-1][3]:
            given.append(env.reset())
    return given


def finished(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The same, with its episode over."""
    env.reset(seed=0)
    for _ in range(LONGEST):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            return env
    raise AssertionError(f"an episode of more than {LONGEST} steps")


def assert_same(one: Any, other: Any) -> None:
    """Equal in type, shape, dtype and every value."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)
    elif isinstance(one, np.ndarray) and one.dtype == object:
        assert_same(list(one), list(other))
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows open, but nowhere; skip where there is no pygame."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    pytest.importorskip("pygame")


@pytest.mark.parametrize("name", IDS)
def test_gymnasium_finds_nothing_to_warn_of(name: str, no_display: None) -> None:
    check_env(made(name))


@pytest.mark.parametrize("name", IDS)
def test_the_same_seed_gives_the_same_rollout_and_another_one_another(name: str) -> None:
    brief = BRIEF.get(name, {})
    env = made(name, **brief)
    first = rollout(env, 3)
    assert_same(first, rollout(env, 3))
    assert_same(first, rollout(made(name, **brief), 3))
    other = rollout(env, 4)
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", IDS)
def test_spaces_rewards_and_flags_are_of_the_types_that_gymnasium_asks_for(name: str) -> None:
    env = made(name)
    assert len(env.action_space.shape or ()) <= 1
    for given in rollout(env, 0):
        assert given[0] in env.observation_space
        if len(given) == 5:
            assert [type(value) for value in given[1:4]] == [float, bool, bool]
            assert np.isfinite(given[1])


@pytest.mark.parametrize("name", IDS)
def test_what_was_given_is_the_callers_own(name: str) -> None:
    env, twin = made(name), made(name)
    spoiled, info = env.reset(seed=0)
    spoiled[...] = 0
    for values in info.values():
        if isinstance(values, np.ndarray):
            values[...] = 0
    twin.reset(seed=0)
    twin.action_space.seed(0)
    assert_same(env.step(action := twin.action_space.sample()), twin.step(action))


@pytest.mark.parametrize("name", IDS)
def test_a_step_needs_a_running_episode_and_an_action_of_the_space(name: str) -> None:
    env = made(name)
    action = env.action_space.sample()
    with pytest.raises(ResetNeeded, match="needed reset"):
        env.step(action)
    with pytest.raises(ResetNeeded, match="needed an episode to render"):
        env.render()
    env.reset(seed=0)
    for bad in (np.full_like(action, 99), np.full(np.shape(action), np.nan), np.zeros((3, 2)), "no"):
        with pytest.raises(InvalidAction, match="needed an action in"):
            env.step(bad)
    with pytest.raises(ResetNeeded, match="after its end"):
        finished(env).step(action)
    env.reset()
    env.step(action)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", IDS)
def test_the_vector_form_is_that_of_single_ones_step_by_step(name: str, mode: AutoresetMode) -> None:
    brief = BRIEF.get(name, {})
    native = gym.make_vec(name, num_envs=3, vectorization_mode="vector_entry_point", autoreset_mode=mode, **brief)
    sync = SyncVectorEnv([lambda: made(name, **brief)] * 3, autoreset_mode=mode)
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    assert native.metadata["autoreset_mode"] is mode
    assert type(native).__name__ == f"{name.removeprefix('rlgrad/').removesuffix('-v0')}VectorEnv"
    for seed in (7, [5, 5, None], None):
        assert_same(native.reset(seed=seed), sync.reset(seed=seed))
        compare(native, sync, steps=16)
    assert_same(native.np_random_seed, sync.np_random_seed)


def compare(native: VectorEnv[Any, Any, Any], sync: VectorEnv[Any, Any, Any], steps: int) -> None:
    sync.action_space.seed(1)
    for step in range(steps):
        actions = sync.action_space.sample()
        one, other = native.step(actions), sync.step(actions)
        assert_same(one, other)
        over = other[2] | other[3]
        if native.metadata["autoreset_mode"] is AutoresetMode.DISABLED and over.any():
            for seed in (None, [8, 9, 10]):  # generators go on; or those of the mask alone are new
                assert_same(*restarted(native, sync, over, seed))
        elif step in (2, 9):  # from here on the episodes are no longer in step
            assert_same(*restarted(native, sync, np.array([False, True, False]), None))


def restarted(
    native: VectorEnv[Any, Any, Any], sync: VectorEnv[Any, Any, Any], mask: np.ndarray, seed: list[int] | None
) -> tuple[Any, Any]:
    return native.reset(seed=seed, options={"reset_mask": mask}), sync.reset(seed=seed, options={"reset_mask": mask})


@pytest.mark.parametrize("name", IDS)
def test_an_ignored_action_may_be_anything(name: str) -> None:
    envs = gym.make_vec(name, num_envs=2)
    envs.reset(seed=0)
    for _ in range(LONGEST):
        *_, terminated, truncated, _ = envs.step(envs.action_space.sample())
        if (terminated | truncated).all():
            break
    _, rewards, terminated, truncated, _ = envs.step(np.full(envs.action_space.shape, np.nan))
    assert not np.stack([rewards, terminated, truncated]).any()
    with pytest.raises(InvalidAction):
        envs.step(np.full(envs.action_space.shape, np.nan))


@pytest.mark.parametrize("name", IDS)
def test_bad_calls_of_the_vector_form_are_refused(name: str) -> None:
    envs = gym.make_vec(name, num_envs=2, autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded):
        envs.step(envs.action_space.sample())
    with pytest.raises(ResetNeeded):
        envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded):
        envs.render()
    envs.reset()
    for mask in ([True, False], np.array([1, 0]), np.array([True]), np.array([False, False])):
        with pytest.raises(ValueError, match="needed a reset_mask of 2 bools"):
            envs.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="needed a seed for each of 2"):
        envs.reset(seed=[1, 2, 3])
    for _ in range(LONGEST):
        *_, terminated, truncated, _ = envs.step(envs.action_space.sample())
        if (terminated | truncated).any():
            break
    with pytest.raises(ResetNeeded, match="after its end"):
        envs.step(envs.action_space.sample())
    with pytest.raises(ValueError, match="render_mode"):
        gym.make_vec(name, num_envs=2, render_mode="human")
    with pytest.raises(ValueError, match="Sometimes"):
        gym.make_vec(name, num_envs=2, autoreset_mode="Sometimes")


@pytest.mark.parametrize("name", IDS)
def test_pictures_are_of_one_size_and_show_what_happens(name: str) -> None:
    env = made(name, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert (before.dtype, before.ndim, before.shape[2]) == (np.uint8, 3, 3)
    finished(env)
    after = env.render()
    assert after.shape == before.shape
    assert (after != before).any()
    envs = gym.make_vec(name, num_envs=2, render_mode="rgb_array")
    envs.reset(seed=[0, 1])
    first, _ = envs.render()
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("name", IDS)
def test_a_window_opens_and_closes(name: str, no_display: None) -> None:
    import pygame

    env = gym.make(name, render_mode="human")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert env.render() is None
    assert pygame.display.get_surface() is not None
    env.close()
    assert pygame.display.get_surface() is None
    env.close()


def test_two_environments_share_the_window(no_display: None) -> None:
    pygame = pytest.importorskip("pygame")
    first, other = (gym.make(name, render_mode="human") for name in IDS[:2])
    for env in (first, other, first):
        env.reset(seed=0)
    other.close()
    assert pygame.display.get_surface() is None
    first.step(first.action_space.sample())  # opens it again
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    np.testing.assert_array_equal(shown, cast(SingleEnv, first.unwrapped).game.frame(0))
    first.close()
    other.reset(seed=0)
    assert pygame.display.get_surface() is not None
    other.close()


@pytest.mark.parametrize("name", IDS)
def test_a_copy_goes_on_as_the_environment_does(name: str) -> None:
    env = made(name)
    env.reset(seed=0)
    env.action_space.seed(0)
    copied = copy.deepcopy(env)
    for _ in range(3):
        assert_same(env.step(action := env.action_space.sample()), copied.step(action))
        assert_same(env.reset(), copied.reset())


@pytest.mark.parametrize("count", [0, -1, 2.5, "3"])
@pytest.mark.parametrize("name", IDS)
def test_a_number_of_environments_is_a_whole_one(name: str, count: Any, as_a_user: None) -> None:
    with pytest.raises((TypeError, ValueError), match="num_envs"):
        gym.make_vec(name, num_envs=count, vectorization_mode="vector_entry_point")


def test_without_pygame_a_window_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    env = gym.make(IDS[0], render_mode="human")
    with pytest.raises(DependencyNotInstalled, match=r'pip install "rlgrad\[envs\]"'):
        env.reset()


def test_an_unknown_render_mode_is_refused() -> None:
    from rlgrad_envs.batch_classification import BatchClassificationEnv

    with pytest.raises(ValueError, match="needed render_mode None or one of human, rgb_array, got 'ansi'"):
        BatchClassificationEnv(render_mode="ansi")


def run(code: str) -> str:
    """What a fresh process prints."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_every_id_is_found_in_a_fresh_process() -> None:
    lines = [f"print(gym.make('rlgrad_envs:{name}').reset(seed=0)[0].shape)" for name in IDS]
    printed = run("\n".join(["import gymnasium as gym", *lines]))
    assert len(printed.splitlines()) == len(IDS)


def test_to_register_is_light() -> None:
    loaded = run("import rlgrad_envs, sys; print(*sys.modules)").split()
    assert not {"torch", "pandas", "sklearn", "pygame", "PIL"} & set(loaded)
