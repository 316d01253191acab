"""``rlgrad agent``: it learns, it tells, it goes on exactly where it was stopped, and says what is wrong in a line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from torch import Tensor

from rlgrad.agent import Reinforce
from rlgrad.agent.normaliser import Normaliser
from rlgrad.cli import Agent, main
from rlgrad.credit import none
from rlgrad.study.statistics import interval

CARTPOLE = ["agent", "--env=CartPole-v1", "--episodes=4", "--evaluate=4", "--steps=400"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)


class Target(gym.Env[np.ndarray, Any]):
    """Reward for entries that are 1, five steps long, and something wrong after so many steps if asked for."""

    observation_space: spaces.Space[Any] = spaces.Dict(
        {"at": spaces.Box(-1, 1, (2,), np.float32), "which": spaces.Discrete(3)}
    )
    action_space: spaces.Space[Any] = spaces.MultiBinary(3)

    def __init__(self, after: float = np.inf, wrong: str = "nan", pause: float = 0.0) -> None:
        self.after, self.wrong, self.pause, self.taken = after, wrong, pause, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.seen(), {}

    def seen(self) -> dict[str, Any]:
        return {"at": self.np_random.uniform(-1, 1, 2).astype(np.float32), "which": int(self.np_random.integers(3))}

    def step(self, action: Any) -> Any:
        time.sleep(self.pause)
        self.time += 1
        self.taken += 1
        reward = float(np.sum(action))
        if self.taken > self.after:
            if self.wrong != "nan":
                raise KeyError(self.wrong)
            reward = float("nan")
        return self.seen(), reward, self.time >= 5, False, {}


class Spoken(Target):
    action_space = spaces.Dict({"word": spaces.Discrete(2)})


# Also where a process imports this file by its name.
for _name, _kind in {"Target-v0": Target, "Spoken-v0": Spoken}.items():
    if _name not in gym.registry:
        gym.register(_name, _kind, reward_threshold=14.0)


def environment() -> dict[str, str]:
    """Of a process that can import this file."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def started(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rlgrad.cli", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment())


def history(folder: str | Path) -> list[dict[str, Any]]:
    """Without the seconds, which are of no consequence."""
    updates = json.loads((Path(folder) / "agent.json").read_text())["history"]
    return [{name: value for name, value in update.items() if name != "seconds"} for update in updates]


def state(folder: str | Path) -> bytes:
    return (Path(folder) / "state.safetensors").read_bytes()


def result(folder: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(folder) / "result.json").read_text())
    return content


# --- what it does -----------------------------------------------------------------------------------------------------


def test_it_learns_tells_and_writes_it_down(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "--env=Target-v0", "--steps=3000", "--seeds=2", "--discount=0", "--out=out"]) == 0
    said, error = capsys.readouterr()
    assert error == ""
    assert said.startswith("Target-v0: observations of shape (5,), actions MultiBinary(3); credit leave_one_out, 16")
    content = result("out")
    assert content["task"] == "agent"
    assert content["reward_threshold"] == 14.0
    assert content["settings"]["discount"] == 0.0
    assert {"rlgrad", "torch", "gymnasium", "python"} <= content["versions"].keys()
    for seed, run in enumerate(content["runs"]):
        assert (run["seed"], run["steps"], len(run["returns"]), len(run["random_returns"])) == (seed, 3040, 112, 112)
        assert min(run["returns"]) == 15
        mean, low, high = interval(run["random_returns"])
        assert f"{seed}     15.00 [15.00, 15.00]  {mean:.2f} [{low:.2f}, {high:.2f}]" in said
    assert re.search(r"^mean  15\.00 ", said, re.MULTILINE)
    sentence = " ".join(said.split())
    assert "is better than a random policy: +7." in sentence
    assert "reaches 14, which counts as solved, in 2 of 2 seeds." in sentence
    drawn = (Path("out") / "learning.svg").read_text()
    for text in ("leave_one_out, mean of 2 seeds", "counts as solved (14)", "random policy (7."):
        assert f"<!-- {text}" in drawn
    assert sorted(path.name for path in Path("out").iterdir()) == ["learning.svg", "result.json", "seed-0", "seed-1"]
    assert "written: out/learning.svg, out/result.json; agents: out/seed-0, out/seed-1" in said


def test_the_agent_in_the_folder_is_that_of_the_library() -> None:
    assert main([*CARTPOLE, "--credit=value", "--out=out"]) == 0
    agent = Reinforce("CartPole-v1", credit="value", episodes=4)
    agent.load("out/seed-0")
    assert list(agent.evaluate(4).returns) == result("out")["runs"][0]["returns"]
    assert list(agent.evaluate(4, by="random").returns) == result("out")["runs"][0]["random_returns"]
    same = Reinforce("CartPole-v1", credit="value", episodes=4)
    same.learn(400, progress=False)
    assert [each.mean_return for each in same.history.updates] == [
        each["mean_return"] for each in history("out/seed-0")
    ]


def test_every_option_reaches_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"reuse": 3, "clip": 0.3, "lr": 0.02, "discount": 0.5, "entropy": 0.1, "max_episode_steps": 7}
    spelled = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    agents, learn = [], Reinforce.learn

    def recorded(self: Reinforce, steps: int, **options: Any) -> Any:
        agents.append(self)
        return learn(self, steps, **options)

    monkeypatch.setattr(Reinforce, "learn", recorded)
    assert main([*CARTPOLE, *spelled, "--same-start", "--no-normalise", "--credit=none", "--out=out"]) == 0
    (agent,) = agents
    lr = agent.optimizer.param_groups[0]["lr"]
    assert {name: lr if name == "lr" else getattr(agent, name) for name in options} == options
    assert (agent.same_start, agent.normaliser, agent.credit, agent.episodes) == (True, None, none, 4)
    assert max(result("out")["runs"][0]["lengths"]) <= 7
    assert result("out")["settings"] == result("out")["settings"] | options


def test_a_linear_policy_and_its_environment_made_with_options() -> None:
    options = '--env-options={"data": "breast_cancer", "metric": "f1"}'
    command = ["agent", "--env=rlgrad_envs:rlgrad/BatchClassification-v0", "--evaluate=8", "--steps=32", options]
    assert main([*command, "--network=linear", "--out=out"]) == 0
    assert result("out")["settings"]["env_options"] == {"data": "breast_cancer", "metric": "f1"}
    assert result("out")["settings"]["network"] == "linear"
    assert main([*command, "--network=linear", "--out=out", "--steps=64"]) == 0
    assert result("out")["runs"][0]["steps"] == 64


def test_without_a_folder_it_only_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CARTPOLE]) == 0
    said = capsys.readouterr().out
    assert "CartPole-v1 what was learned is" in said
    assert "written" not in said
    assert not list(Path().iterdir())


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", ["moving_average", "value"])
def test_more_steps_go_on_as_if_there_had_been_no_stop(credit: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*CARTPOLE, f"--credit={credit}", "--reuse=2"]
    assert main([*command, "--out=whole"]) == 0
    assert main([*command, "--out=parts", "--steps=150"]) == 0
    capsys.readouterr()
    assert main([*command, "--out=parts"]) == 0
    assert re.search(r"^seed 0: goes on after \d\d\d steps$", capsys.readouterr().out, re.MULTILINE)
    assert history("parts/seed-0") == history("whole/seed-0")
    assert state("parts/seed-0") == state("whole/seed-0")
    assert result("parts")["runs"][0]["returns"] == result("whole")["runs"][0]["returns"]


def test_the_same_command_trains_nothing_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*CARTPOLE, "--out=out"]) == 0
    first, before = capsys.readouterr().out, state("out/seed-0")
    with monkeypatch.context() as patch:
        patch.setattr(Reinforce, "update", lambda self: pytest.fail("trained again"))
        assert main([*CARTPOLE, "--out=out"]) == 0
    assert capsys.readouterr().out == first
    assert main([*CARTPOLE, "--out=out", "--seeds=2"]) == 0
    assert [run["seed"] for run in result("out")["runs"]] == [0, 1]
    assert state("out/seed-0") == before
    assert history("out/seed-0") != history("out/seed-1")


def test_other_settings_need_another_folder_or_overwrite(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CARTPOLE, "--out=out"]) == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*.*")}
    assert main([*CARTPOLE, "--out=out", "--lr=0.02", "--network=linear"]) == 2
    error = capsys.readouterr().err
    assert "of the agents in out, got lr 0.02 instead of 0.01, network 'linear' instead of 'mlp'; name" in error
    assert {path: path.read_bytes() for path in Path("out").rglob("*.*")} == before
    assert main([*CARTPOLE, "--out=out", "--lr=0.02", "--overwrite"]) == 0
    assert main([*CARTPOLE, "--out=new", "--lr=0.02"]) == 0
    assert state("out/seed-0") == state("new/seed-0")


def test_overwrite_removes_agents_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CARTPOLE, "--out=out"]) == 0
    (Path("out") / "seed-0" / "thesis.txt").write_text("years")
    assert main([*CARTPOLE, "--out=out", "--overwrite"]) == 2
    assert "got out/seed-0 with other files; name another folder" in capsys.readouterr().err
    assert (Path("out") / "seed-0" / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_an_agent_that_a_killed_save_moved_aside_is_found(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["agent", "--env=Target-v0", "--evaluate=2", "--out=out"]
    assert main([*command, "--steps=80"]) == 0
    before = history("out/seed-0")
    Path("out/seed-0").rename("out/.seed-0.k3x.old")
    capsys.readouterr()
    assert main([*command, "--steps=160", *more]) == 0
    assert ("goes on after 80 steps" in capsys.readouterr().out) == (not more)
    assert history("out/seed-0")[: len(before)] == before  # the same seed
    assert sorted(path.name for path in Path("out").iterdir()) == ["learning.svg", "result.json", "seed-0"]


@pytest.mark.skipif(os.name != "posix", reason="another way to interrupt")
def test_interrupted_it_goes_on_where_it_was() -> None:
    command = ["agent", "--env=test_agent:Target-v0", "--episodes=4", "--evaluate=4", "--credit=value", "--out=out"]
    slow = [*command, '--env-options={"pause": 0.01}']
    process = started(*slow, "--steps=100000")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Target-v0")
    time.sleep(0.5)  # a few updates of 0.2 s
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    found = re.fullmatch(
        r"rlgrad: interrupted; seed 0: (\d+) steps are saved in out/seed-0; the same command goes on there\n", error
    )
    assert found is not None
    steps = int(found[1])
    assert (history("out/seed-0") or [{"steps": 0}])[-1]["steps"] == steps
    assert main([*slow, f"--steps={steps + 20}"]) == 0
    assert main([*command, f"--steps={steps + 20}", "--out=whole"]) == 0
    assert history("out/seed-0") == history("whole/seed-0")
    assert state("out/seed-0") == state("whole/seed-0")


def test_interrupted_in_an_update_it_goes_on_from_a_whole_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["agent", "--env=Target-v0", "--credit=value", "--steps=300", "--evaluate=2"]
    normalised, calls = Normaliser.learn, []

    def interrupting(self: Normaliser, observation: Tensor) -> None:
        calls.append(self)
        if len(calls) == 4:  # of returns and of observations: after the gradient steps of the second update
            signal.raise_signal(signal.SIGINT)
        normalised(self, observation)

    with monkeypatch.context() as patch:
        patch.setattr(Normaliser, "learn", interrupting)
        assert main([*command, "--out=out"]) == 130
    assert "seed 0: 80 steps are saved in out/seed-0" in capsys.readouterr().err
    assert main([*command, "--out=out"]) == 0
    assert main([*command, "--out=whole"]) == 0
    assert history("out/seed-0") == history("whole/seed-0")
    assert state("out/seed-0") == state("whole/seed-0")


# --- what may be wrong ------------------------------------------------------------------------------------------------


def test_the_real_command_on_an_environment_that_raises() -> None:
    options = '--env-options={"after": 30, "wrong": "no such key"}'
    process = started("agent", "--env=test_agent:Target-v0", options, "--out=out", "--steps=10000")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith(
        "rlgrad: error: seed 0: needed an environment that goes on, got KeyError in"
    )
    assert "'no such key'; mend the environment; 480 steps are saved in out/seed-0" in error
    assert history("out/seed-0")[-1]["steps"] == 480


def test_an_environment_whose_reward_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["agent", "--env=Target-v0", '--env-options={"after": 12}']
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "got nan in the reward of environment 0 in step 3 of its episode" in error
    assert error.endswith("nothing of its 160 steps is saved without --out\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env=cartpol-v1"], "needed an environment that is registered, got --env cartpol-v1; did you mean CartPole"),
        (["--env=CartPole-v9"], "did you mean CartPole-v1 or CartPole-v0"),
        (["--env=xyzzy"], "got --env xyzzy; name one such as CartPole-v1, or package.module:name"),
        (["--env="], "needed an environment that"),
        (["--env=no_such_module:CartPole-v1"], "No module named 'no_such_module'"),
        (["--env=Spoken-v0"], "needed actions that are Discrete, MultiDiscrete, MultiBinary or a Box"),
        (["--env-options={bad"], "needed JSON, got --env-options '{bad' (Expecting property name"),
        (["--env-options=[1]"], "needed a JSON object, got --env-options '[1]'; write it like '{\"data\""),
        (['--env-options={"gravity": NaN}'], "NaN is not of JSON"),
        (['--env-options={"gravity": 3}'], "unexpected keyword argument 'gravity'"),
        (['--env-options={"num_envs": 3}'], "multiple values for keyword argument 'num_envs'"),
        (["--steps=0"], "needed --steps of at least 1, got 0"),
        (["--seeds=0"], "needed --seeds of at least 1, got 0"),
        (["--evaluate=1"], "needed --evaluate of at least 2, got 1"),
        (["--episodes=1"], "needed at least 2 episodes to leave one out, got 1"),
        (["--lr=nan"], "needed a positive finite lr, got nan"),
        (["--max-episode-steps=0"], "max_episode_steps"),
    ],
)
def test_clumsy_input_is_told_in_a_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], as_a_user: None
) -> None:
    assert main(["agent", "--env=CartPole-v1", "--out=out", *arguments]) == 2
    said, error = capsys.readouterr()
    assert said == ""
    assert message in error
    assert error.startswith("rlgrad: error: ")
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_a_folder_of_something_else_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a file").write_text("mine")
    assert main([*CARTPOLE, "--out=a file", "--overwrite"]) == 2
    assert "needed a folder to write result.json in, got the file a file" in capsys.readouterr().err
    for name, content in (("notes.txt", "mine"), ("result.json", "{"), ("result.json", '{"task": "f1"}')):
        folder = Path(f"folder of {len(content)}")
        folder.mkdir()
        (folder / name).write_text(content)
        assert main([*CARTPOLE, f"--out={folder}", "--overwrite"]) == 2
        assert "name another" in capsys.readouterr().err
        assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, content)]


def test_a_damaged_agent_is_not_gone_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CARTPOLE, "--out=out"]) == 0
    path = Path("out/seed-0/state.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert main([*CARTPOLE, "--out=out"]) == 2
    assert "needed out/seed-0/state.safetensors as it was saved" in capsys.readouterr().err


def test_an_unknown_credit_is_told_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["agent", "--env=CartPole-v1", "--credit=baseline"])
    assert end.value.code == 2
    assert "'moving_average'" in capsys.readouterr().err


def test_help_explains_each_option_without_torch(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys\nfrom rlgrad.cli import main\ntry: main(['agent', '--help'])\nfinally: print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    page, modules = found.stdout.rsplit("\n", 2)[:2]
    assert not {"torch", "gymnasium", "numpy"} & set(modules.split())
    for each in fields(Agent):
        assert f"--{each.name.replace('_', '-')}" in page
