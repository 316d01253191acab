"""An agent on disk, as a folder of data: none of it is code, and checksums reveal damage.

agent/agent.json             how the agent was made, and its history
agent/state.safetensors      weights, normaliser, credit and optimizer
agent/SHA256SUMS             of the two
"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlgrad.agent.history import Update
from rlgrad.agent.stepping import unchanged_on_failure
from rlgrad.checks import describe
from rlgrad.model.folder import check_destination as check_model_destination
from rlgrad.model.folder import check_finite, replacing_model, verify, where_saved

if TYPE_CHECKING:
    from rlgrad.agent.reinforce import Reinforce

_FILES = ("agent.json", "state.safetensors")
_FORMAT = 1
_SETTINGS = (
    "episodes", "same_start", "max_episode_steps", "discount", "entropy", "reuse", "clip", "scale", "max_grad_norm",
    "seed",
)  # fmt: skip


def check_destination(agent: "Reinforce", folder: str | Path) -> None:
    """Find out before learning whether the agent can be saved there.

    Raises:
        FileExistsError: there is something else than an agent, or one that was made otherwise or that has learned what
            this one has not.
        OSError: no folder can be made there.
    """
    folder = Path(folder)
    _check_is_no_other(folder)
    check_model_destination(folder, overwrite=True)
    if not (where_saved(folder) / _FILES[0]).exists():
        return
    content = _read(where_saved(folder))
    learned = [asdict(update) for update in agent.history.updates]
    if different := _different(agent, content):
        raise FileExistsError(f"needed a new folder, got {folder} with an agent made with {different}; name another")
    if content["history"] != learned[: len(content["history"])]:
        raise FileExistsError(f"needed a new folder, got {folder} with an agent of another history; load it first")


def save(agent: "Reinforce", folder: str | Path) -> None:
    """Write the folder, in place of an agent that was saved there before."""
    from safetensors.torch import save_file

    weights = {name: value.detach().contiguous().clone() for name, value in agent.state_dict().items()}
    check_finite(weights, "the agent")
    tensors, numbers = _optimizer_state(agent.optimizer)
    content = {
        "task": "agent",
        "format": _FORMAT,
        "made": _made(agent),
        "optimizer": numbers,
        "groups": [_plain(group) for group in agent.optimizer.param_groups],
        "history": [asdict(update) for update in agent.history.updates],
    }
    _check_is_no_other(Path(folder))
    with replacing_model(folder, _FILES, overwrite=True) as part:
        save_file({**{f"agent.{name}": value for name, value in weights.items()}, **tensors}, part / _FILES[1])
        (part / _FILES[0]).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def load(agent: "Reinforce", folder: str | Path) -> None:
    """Give an agent the state that a folder holds, or leave it as it is."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = where_saved(folder)
    content = _read(folder)
    if different := _different(agent, content):
        raise ValueError(f"needed an agent made like this one, got {folder} made with {different}; make this one so")
    path = folder / _FILES[1]
    try:
        tensors = load_file(path)
        weights = {name.removeprefix("agent."): value for name, value in tensors.items() if name.startswith("agent.")}
        check_finite(tensors, str(path))
        _check_alike(weights, agent.state_dict())
        history = [Update(**update) for update in content["history"]]
        optimizer = _optimizer_dict(agent.optimizer, tensors, content["optimizer"])
        optimizer["param_groups"] = _groups(optimizer["param_groups"], content["groups"])
        with unchanged_on_failure(agent):
            agent.load_state_dict(weights)
            agent.optimizer.load_state_dict(optimizer)
            agent.history.updates[:] = history
    except (AttributeError, LookupError, RuntimeError, SafetensorError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"needed the state of an agent like this one, got {path} ({reason})") from error


def _check_is_no_other(folder: Path) -> None:
    is_empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_empty and not (folder / _FILES[0]).is_file():
        raise FileExistsError(f"needed a new folder for the agent, got {folder}, which holds no agent; name another")


def _check_alike(weights: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Torch would take over what fits before it tells what does not, and other types without a word."""
    if missing := sorted(own.keys() ^ weights.keys()):
        raise LookupError(f"{missing[0]} is in one of the two alone")
    for name, value in own.items():
        if (weights[name].shape, weights[name].dtype) != (value.shape, value.dtype):
            raise TypeError(f"{name} is {describe(weights[name])} instead of {describe(value)}")


def _made(agent: "Reinforce") -> dict[str, str]:
    """What has to be the same for the agent to go on as if it had never stopped, as text."""
    credit, optimizer = agent.credit, agent.optimizer
    named = f"{type(credit).__name__}({credit.extra_repr()})" if isinstance(credit, nn.Module) else None
    made = {
        "env": agent.env_name,
        "observation_space": agent.envs.single_observation_space,
        "action_space": agent.envs.single_action_space,
        "credit": named or getattr(credit, "__name__", type(credit).__name__),
        **{setting: getattr(agent, setting) for setting in _SETTINGS},
        "normalise": agent.normaliser is not None,
        "optimizer": type(optimizer).__name__,
        "lr": agent.lr,  # that it began with: what a schedule made of it is state
    }
    return {name: str(value) for name, value in made.items()}


def _different(agent: "Reinforce", content: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {content['made'].get(name)} instead of {value}"
        for name, value in _made(agent).items()
        if content["made"].get(name) != value
    )


def _read(folder: Path) -> dict[str, Any]:
    if folder.is_dir() and not (folder / _FILES[0]).is_file():
        raise FileNotFoundError(f"needed a folder that an agent was saved in, got {folder}, which has no {_FILES[0]}")
    verify(folder, _FILES)
    path = folder / _FILES[0]
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (content["task"], content["format"]) != ("agent", _FORMAT) or not isinstance(content["made"], dict):
            raise ValueError(f"needed an agent of format {_FORMAT}")
        return content
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"needed the description of an agent, got {path} ({error}); train it anew") from error


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Its tensors by name, and its other numbers."""
    tensors, numbers = {}, {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value.detach().contiguous().clone()
            else:
                numbers[f"{index}.{name}"] = value
    return tensors, numbers


def _optimizer_dict(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    saved = {name.removeprefix("optimizer."): value for name, value in tensors.items() if name.startswith("optimizer.")}
    for key, value in {**saved, **numbers}.items():
        index, _, name = key.partition(".")
        if not (index.isdecimal() and int(index) < count):
            raise LookupError(f"{key} is of none of the {count} weights of the optimizer")
        state.setdefault(int(index), {})[name] = value
    return {**optimizer.state_dict(), "state": state}


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    """The numbers and flags of a group of weights, its learning rate above all; tensors of one number as that."""
    plain = {name: value.item() if isinstance(value, Tensor) else value for name, value in group.items()}
    number = bool | int | float | None
    return {
        name: value
        for name, value in plain.items()
        if isinstance(value, number) or (isinstance(value, tuple) and all(isinstance(each, number) for each in value))
    }


def _groups(own: list[dict[str, Any]], saved: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of weights with the numbers that were saved, such as a learning rate that a schedule had lowered."""
    if len(saved) != len(own):
        raise LookupError(f"{len(saved)} groups of weights instead of {len(own)}")
    return [
        {**group, **{name: _like(group.get(name), value, name) for name, value in numbers.items() if name != "params"}}
        for group, numbers in zip(own, saved, strict=True)
    ]


def _like(own: object, value: Any, name: str) -> Any:
    """A value of JSON in the type that the optimizer has for it."""
    if isinstance(own, float | Tensor) and not (isinstance(value, int | float) and math.isfinite(value)):
        raise TypeError(f"{name} is {value!r}, which is no finite number")
    if isinstance(own, Tensor):
        return torch.full_like(own, value)
    return tuple(value) if isinstance(value, list) else value
