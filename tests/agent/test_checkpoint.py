"""An agent on disk: it goes on exactly, and what is damaged or another's is refused with nothing half done."""

import copy
import json
import math
import shutil
import subprocess
import sys
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rlgrad.model.folder
from rlgrad.agent import EnvironmentFailed, Reinforce, Value
from rlgrad.credit import MovingAverage

SETTINGS: dict[str, Any] = {"episodes": 2, "max_episode_steps": 15}
CREDITS = ["none", "moving_average", "leave_one_out", "value"]


def made(credit: Any = "leave_one_out", policy: nn.Module | None = None, **settings: Any) -> Reinforce:
    return Reinforce("CartPole-v1", policy, credit, **{**SETTINGS, **settings})


def state_of(agent: Reinforce) -> dict[str, Any]:
    """All that it has learned, but for the seconds that it took."""
    updates = [{**asdict(update), "seconds": 0.0} for update in agent.history.updates]
    optimizer = copy.deepcopy(agent.optimizer.state_dict()["state"])
    return {"weights": {k: v.clone() for k, v in agent.state_dict().items()}, "optimizer": optimizer, "is": updates}


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def updated(agent: Reinforce, count: int) -> Reinforce:
    for _ in range(count):
        agent.update()
    return agent


# Going on


@pytest.mark.parametrize("credit", CREDITS)
def test_an_agent_that_was_saved_goes_on_as_if_it_had_never_stopped(credit: str, tmp_path: Path) -> None:
    whole = updated(made(credit), 4)
    updated(made(credit), 2).save(tmp_path / "a")
    resumed = made(credit)
    resumed.load(tmp_path / "a")
    assert_same(state_of(updated(resumed, 2)), state_of(whole))


def test_another_process_goes_on_as_well(tmp_path: Path) -> None:
    code = (
        "import sys; from rlgrad.agent import Reinforce\n"
        f"agent = Reinforce('CartPole-v1', None, 'value', **{SETTINGS!r})\n"
        "agent.load(sys.argv[1])\n"
        "[agent.update() for _ in range(2)]\n"
        "agent.save(sys.argv[1])"
    )
    updated(made("value"), 2).save(tmp_path / "a")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True)
    resumed = made("value")
    resumed.load(tmp_path / "a")
    assert_same(state_of(resumed), state_of(updated(made("value"), 4)))


def sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


@pytest.mark.parametrize("optimizer", [sgd, torch.optim.SGD, torch.optim.RMSprop, torch.optim.AdamW])
def test_each_optimizer_goes_on(optimizer: Any, tmp_path: Path) -> None:
    updated(made(optimizer=optimizer, max_grad_norm=math.inf), 2).save(tmp_path / "a")
    resumed = made(optimizer=optimizer, max_grad_norm=math.inf)
    resumed.load(tmp_path / "a")
    assert_same(state_of(updated(resumed, 1)), state_of(updated(made(optimizer=optimizer, max_grad_norm=math.inf), 3)))


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, lambda p, lr: torch.optim.Adam(p, lr=torch.tensor(lr))])
def test_a_learning_rate_that_was_lowered_is_gone_on_with(optimizer: Any, tmp_path: Path) -> None:
    whole = made(optimizer=optimizer)
    schedule = torch.optim.lr_scheduler.ExponentialLR(whole.optimizer, 0.5)
    for _ in range(3):
        whole.update()
        schedule.step()
        whole.learn(0, out=tmp_path / "a", progress=False)  # no other agent than the one that was saved there
    resumed = made(optimizer=optimizer)
    resumed.load(tmp_path / "a")
    (one,), (other,) = resumed.optimizer.param_groups, whole.optimizer.param_groups
    assert float(one["lr"]) == pytest.approx(0.01 / 8)
    assert {k: v for k, v in one.items() if k != "params"} == {k: v for k, v in other.items() if k != "params"}
    assert type(one["lr"]) is type(other["lr"])
    assert type(one["betas"]) is tuple
    assert_same(state_of(updated(resumed, 1)), state_of(updated(whole, 1)))


class Odd(nn.Module):
    """Tied weights, a frozen one, buffers, dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.other.weight = self.one.weight
        self.other.bias.requires_grad_(False)
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.drop(self.norm(self.other(self.one(x).tanh()))))
        return out


def test_a_network_with_tied_and_frozen_weights_and_statistics_goes_on(tmp_path: Path) -> None:
    whole = updated(made(policy=Odd()), 4)
    assert isinstance(whole.network, Odd)
    assert whole.network.other.weight is whole.network.one.weight
    assert whole.network.other.bias.equal(Odd().other.bias)  # frozen
    assert whole.network.norm.num_batches_tracked == 0  # as the policy that learns is the one that drew
    updated(made(policy=Odd()), 2).save(tmp_path / "a")
    resumed = made(policy=Odd())
    resumed.load(tmp_path / "a")
    assert_same(state_of(updated(resumed, 2)), state_of(whole))
    assert resumed.network.other.weight is resumed.network.one.weight


def test_learning_in_two_calls_is_learning_in_one(tmp_path: Path) -> None:
    whole, halves = made(), made()
    whole.learn(200, progress=False)
    halves.learn(90, out=tmp_path / "a", progress=False)
    resumed = made()
    resumed.load(tmp_path / "a")
    resumed.learn(200, out=tmp_path / "a", progress=False)
    assert_same(state_of(resumed), state_of(whole))
    again = made()
    again.load(tmp_path / "a")
    assert_same(state_of(again), state_of(whole))


# Failures while learning


class Failing(gym.Wrapper[Any, Any, Any, Any]):
    """CartPole that raises in its so-many-th step of all."""

    steps, fatal, error = 0, -1, RuntimeError("no power")

    def step(self, action: Any) -> Any:
        Failing.steps += 1
        if Failing.steps == Failing.fatal:
            raise Failing.error
        return self.env.step(action)


def failing() -> gym.Env[Any, Any]:
    return Failing(gym.make("CartPole-v1"))


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("error", [RuntimeError("no power"), KeyboardInterrupt()])
def test_a_failure_in_mid_episode_leaves_the_last_update(
    credit: Any, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Failing, "steps", 0)
    monkeypatch.setattr(Failing, "error", error)
    whole = updated(Reinforce(failing, None, credit, **SETTINGS), 3)
    before = updated(Reinforce(failing, None, credit, **SETTINGS), 2)
    at_least = before.history.last.steps
    agent = Reinforce(failing, None, credit, **SETTINGS)
    monkeypatch.setattr(Failing, "steps", 0)
    monkeypatch.setattr(Failing, "fatal", at_least + 5)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else EnvironmentFailed):
        agent.learn(10_000, out=tmp_path / "a", progress=False)
    count = len(agent.history.updates)
    assert count in (2, 3)  # those that wait are not stepped in this count
    monkeypatch.setattr(Failing, "fatal", -1)
    resumed = Reinforce(failing, None, credit, **SETTINGS)
    resumed.load(tmp_path / "a")
    for each in (agent, resumed):
        assert_same(state_of(updated(each, 3 - count)), state_of(whole))


@pytest.mark.parametrize("credit", CREDITS)
def test_a_failure_in_the_gradient_steps_leaves_the_agent_as_it_was(
    credit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = updated(made(credit, reuse=3), 2)
    before, step, made_steps = state_of(agent), agent.optimizer.step, 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal made_steps
        step(*args, **kwargs)
        made_steps += 1
        if made_steps == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(agent.optimizer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(10_000, out=tmp_path / "a", progress=False)
    monkeypatch.undo()
    assert_same(state_of(agent), before)
    saved = made(credit, reuse=3)
    saved.load(tmp_path / "a")
    for each in (agent, saved):
        assert_same(state_of(updated(each, 1)), state_of(updated(made(credit, reuse=3), 3)))


# What is damaged or another's


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    updated(made(), 1).save(tmp_path / "a")
    return tmp_path / "a"


def summed(folder: Path) -> None:
    """Sums that fit what is there now, as one who edits would write them."""
    names = ("agent.json", "state.safetensors")
    lines = (f"{sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (folder / "SHA256SUMS").write_text("".join(lines))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def rewritten(path: Path, content: str) -> None:
    path.write_text(content)
    summed(path.parent)


def edited(path: Path, **changes: Any) -> None:
    rewritten(path, json.dumps({**json.loads(path.read_text()), **changes}))


def with_tensors(path: Path, change: Any) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    summed(path.parent)


def set_first(tensors: dict[str, Tensor], value: Tensor) -> None:
    tensors["agent.network.1.bias"] = value


DAMAGES: dict[str, Any] = {
    "state cut": lambda f: cut(f / "state.safetensors"),
    "state flipped": lambda f: flipped(f / "state.safetensors"),
    "state empty": lambda f: (f / "state.safetensors").write_bytes(b""),
    "description cut": lambda f: cut(f / "agent.json"),
    "description flipped": lambda f: flipped(f / "agent.json"),
    "sums cut": lambda f: cut(f / "SHA256SUMS"),
    "state of text": lambda f: rewritten(f / "state.safetensors", "x" * 1000),
    "no JSON": lambda f: rewritten(f / "agent.json", "{"),
    "no description": lambda f: rewritten(f / "agent.json", "[]"),
    "deep": lambda f: rewritten(f / "agent.json", "[" * 100_000),
    "format": lambda f: edited(f / "agent.json", format=2),
    "task": lambda f: edited(f / "agent.json", task="table"),
    "history": lambda f: edited(f / "agent.json", history=[{"update": 1}]),
    "no history": lambda f: edited(f / "agent.json", history=None),
    "optimizer": lambda f: edited(f / "agent.json", optimizer={"x.step": 1}),
    "optimizer of another": lambda f: edited(f / "agent.json", optimizer={"99.step": 1}),
    "optimizer none": lambda f: edited(f / "agent.json", optimizer=None),
    "other settings": lambda f: edited(f / "agent.json", made={}),
    "groups none": lambda f: edited(f / "agent.json", groups=None),
    "groups too many": lambda f: edited(f / "agent.json", groups=[{"lr": 0.1}, {"lr": 0.1}]),
    "groups of words": lambda f: edited(f / "agent.json", groups=[{"lr": "fast"}]),
    "groups that are NaN": lambda f: edited(f / "agent.json", groups=[{"lr": math.nan}]),
    "NaN": lambda f: with_tensors(f / "state.safetensors", lambda t: t["agent.network.5.bias"].fill_(math.nan)),
    "infinite": lambda f: with_tensors(f / "state.safetensors", lambda t: t["agent.normaliser.mean"].fill_(math.inf)),
    "shape": lambda f: with_tensors(f / "state.safetensors", lambda t: set_first(t, torch.zeros(3))),
    "type": lambda f: with_tensors(f / "state.safetensors", lambda t: set_first(t, torch.zeros(64).double())),
    "missing": lambda f: with_tensors(f / "state.safetensors", lambda t: t.pop("agent.network.1.bias")),
    "more": lambda f: with_tensors(f / "state.safetensors", lambda t: t.update({"agent.x": torch.zeros(1)})),
    "moments that are NaN": lambda f: with_tensors(
        f / "state.safetensors", lambda t: t["optimizer.0.exp_avg"].fill_(math.nan)
    ),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_told_and_nothing_is_taken(damage: str, folder: Path) -> None:
    DAMAGES[damage](folder)
    agent = updated(made(lr=1e-2), 1)
    updated(agent, 1)
    before = state_of(agent)
    with pytest.raises(ValueError, match=r"^needed .*, got ") as error:
        agent.load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    assert_same(state_of(agent), before)
    updated(agent, 1)


@pytest.mark.parametrize("name", ["agent.json", "state.safetensors", "SHA256SUMS"])
def test_a_file_that_is_missing_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"^needed .* got .*{name if name != 'state.safetensors' else ''}"):
        made().load(folder)
    with pytest.raises(FileNotFoundError, match=r"^needed "):
        made().load(folder / "nowhere")


class Other(nn.Sequential):
    """A network of the default's names and other sizes."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"credit": "none"}, "made with credit leave_one_out instead of none;"),
        ({"credit": MovingAverage(0.5)}, r"credit leave_one_out instead of MovingAverage\(decay=0.5\);"),
        ({"episodes": 4}, "made with episodes 2 instead of 4;"),
        ({"lr": 0.5, "seed": 3}, "made with seed 0 instead of 3, lr 0.01 instead of 0.5;"),
        ({"normalise": False}, "made with normalise True instead of False;"),
        ({"max_episode_steps": None}, "made with max_episode_steps 15 instead of None;"),
        ({"optimizer": torch.optim.AdamW}, "made with optimizer Adam instead of AdamW;"),
        ({"policy": Other()}, r"network.1.weight is \(64, 4\) float32 instead of \(32, 4\) float32"),
        ({"policy": nn.Linear(4, 2)}, "is in one of the two alone"),
        ({"policy": nn.Sequential(nn.Flatten(), nn.Linear(4, 2))}, "is in one of the two alone"),
    ],
)
def test_an_agent_that_was_made_otherwise_is_refused(changes: dict[str, Any], message: str, folder: Path) -> None:
    agent = made(**changes)
    before = state_of(agent)
    with pytest.raises(ValueError, match=rf"^needed .* like this one, got .*{message}"):
        agent.load(folder)
    assert_same(state_of(agent), before)


def test_another_environment_and_another_decay_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="env CartPole-v1 instead of Acrobot-v1, observation_space"):
        Reinforce("Acrobot-v1", **SETTINGS).load(folder)
    made(Value(decay=0.5)).save(tmp_path / "v")
    with pytest.raises(ValueError, match=r"credit Value\(decay=0.5\) instead of Value\(decay=0.98\)"):
        made("value").load(tmp_path / "v")


def test_the_form_of_the_environment_may_change(folder: Path) -> None:
    """One that was trained on many at once goes on, and is tested, on a single one."""
    agent = Reinforce(gym.make("CartPole-v1"), **SETTINGS)
    agent.load(folder)
    assert agent.evaluate(2).mean > 0


def test_what_fails_half_way_is_undone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = updated(made(), 2)
    before, loaded = state_of(agent), agent.optimizer.load_state_dict
    answers = iter([RuntimeError("no\n memory"), None])

    def failing_once(state: dict[str, Any]) -> None:
        if error := next(answers):
            raise error
        loaded(state)

    monkeypatch.setattr(agent.optimizer, "load_state_dict", failing_once)
    with pytest.raises(ValueError, match=r"^needed the state of an agent like this one, got .* \(no memory\)$"):
        agent.load(folder)
    assert_same(state_of(agent), before)


# Writing


def test_infinite_settings_are_saved(tmp_path: Path) -> None:
    agent = made(max_grad_norm=math.inf)
    agent.update()
    agent.save(tmp_path / "a")
    other = made(max_grad_norm=math.inf)
    other.load(tmp_path / "a")
    assert other.history == agent.history
    assert_same(state_of(other), state_of(agent))


def test_weights_that_are_not_finite_are_not_saved_over_others(folder: Path) -> None:
    agent = made()
    with torch.no_grad():
        next(agent.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match=r"^needed finite weights, got others for .* in the agent"):
        agent.save(folder)
    made().load(folder)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_older_agent_survives_a_failed_save(
    error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> None:
        raise error

    agent = made()
    agent.load(folder)
    before = state_of(agent)
    updated(agent, 1)
    monkeypatch.setattr(rlgrad.model.folder, "_synchronise", failing)
    with pytest.raises(type(error)):
        agent.save(folder)
    monkeypatch.undo()
    older = made()
    older.load(folder)
    assert_same(state_of(older), before)
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


def test_an_agent_that_a_killed_save_moved_aside_is_found(folder: Path) -> None:
    aside = folder.rename(folder.with_name(".a.k3x.old"))
    folder.with_name(".a.k3x.part").mkdir()
    agent = made()
    agent.load(folder)
    assert len(agent.history.updates) == 1
    assert aside.exists()  # as another process may be saving
    with pytest.raises(FileExistsError, match="another history"):
        made().learn(10, out=folder, progress=False)
    agent.save(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("content", ["model.json", "notes.txt"])
def test_the_folder_of_something_else_is_never_overwritten(content: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / content).write_text("{}")
    (tmp_path / "m" / "SHA256SUMS").write_text("")
    agent = made()
    for act in (lambda: agent.save(tmp_path / "m"), lambda: agent.learn(10, out=tmp_path / "m", progress=False)):
        with pytest.raises(FileExistsError, match=r"^needed a new folder for the agent, got .*m, which holds no agent"):
            act()
    assert agent.history.updates == []
    assert {path.name for path in (tmp_path / "m").iterdir()} == {content, "SHA256SUMS"}


def test_a_file_and_an_agent_beside_other_files_are_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(FileExistsError, match="which holds no agent"):
        made().save(tmp_path / "f")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="with other files"):
        made().save(folder)


def test_an_empty_folder_is_one_to_save_in(tmp_path: Path) -> None:
    learned, loaded = made(), made()
    learned.learn(10, out=tmp_path, progress=False)
    loaded.load(tmp_path)
    assert loaded.history == learned.history
    assert_same(state_of(loaded), state_of(learned))


def test_before_learning_it_is_found_out_whether_an_agent_may_be_replaced(folder: Path) -> None:
    for other, message in (
        (made(lr=0.5), "with an agent made with lr 0.01 instead of 0.5"),
        (made(), "another history"),
    ):
        with pytest.raises(FileExistsError, match=message):
            other.learn(10, out=folder, progress=False)
        assert other.history.updates == []
    agent = made()
    agent.load(folder)
    updated(agent, 1)  # its history begins with the saved one
    agent.learn(agent.history.last.steps + 1, out=folder, progress=False)
    shutil.copytree(folder, folder.parent / "b")
    agent.learn(0, out=folder.parent / "b", progress=False)


def test_an_agent_is_saved_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, saved = made(), []
    monkeypatch.setattr(agent, "save", lambda out: saved.append(agent.history.last.update))
    agent.learn(250, out=tmp_path / "a", save_every=2, progress=False)
    last = agent.history.last.update
    assert saved == [*range(2, last + 1, 2), last]


def test_nothing_that_is_saved_is_code(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"agent.json", "state.safetensors", "SHA256SUMS"}
    assert np.frombuffer((folder / "state.safetensors").read_bytes()[:8], np.uint64)[0] < 10_000  # a header of JSON
