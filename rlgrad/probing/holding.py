"""What a callable holds: the modules and generators that it can reach, by the expressions that reach them."""

import copy
import functools
import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

# The search ends here; a module beyond is still seen when it runs, but called by its class.
_DEEPEST = 5
_MOST_VISITED = 2000
_LONGEST = 200
_LIBRARIES = ("torch", "numpy", "sklearn", "builtins")  # their functions close over much, and never over a model
_OPAQUE = (Tensor, ModuleType, type, str, bytes, int, float, complex, type(None))


def own_copy(function: Callable[..., object]) -> tuple[Callable[..., object], dict[str, nn.Module]]:
    """The function, on a copy of its module where there is one to copy, and the modules that it uses by name."""
    owner = getattr(function, "__self__", None)
    if isinstance(function, nn.Module):
        module = _deep_copy(function)
        return module, {"": module}
    if isinstance(owner, nn.Module) and isinstance(function, MethodType):
        module = _deep_copy(owner)
        return MethodType(function.__func__, module), {"": module}
    return function, {name: value for name, value in _closure(function).items() if isinstance(value, nn.Module)}


def _deep_copy(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception:  # some modules cannot be copied; all that an evaluation exchanges is put back anyway
        return module


def held(function: Callable[..., object], arguments: Mapping[str, object]) -> dict[str, nn.Module | torch.Generator]:
    """The modules and generators that a callable can reach, and those among its arguments, by name.

    It may reach them through variables that it closes over, its own object, lists, dictionaries, plain objects and
    other functions. A module's parts are not listed beside it.
    """
    found: dict[str, nn.Module | torch.Generator] = {}
    waiting: list[tuple[str, object, int]] = [("self" * _is_object(function), function, 0)]
    waiting += [(name, value, 0) for name, value in arguments.items()]
    seen: set[int] = set()
    for name, value, depth in waiting:  # grows while it is walked: the nearest come first
        if id(value) in seen or isinstance(value, _OPAQUE) or len(seen) > _MOST_VISITED:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module | torch.Generator):
            found[unused(name, found)] = value
        if depth < _DEEPEST:
            with suppress(Exception):  # of an object that does not want to be looked into
                waiting += [(child, item, depth + 1) for child, item in _inside(name, value, depth)]
    return found


def unused(name: str, taken: Container[str]) -> str:
    """The name, or another like it where it is taken."""
    names = (name if number == 1 else f"{name} ({number})" for number in range(1, 1 << 30))
    return next(each for each in names if each not in taken)


def _inside(name: str, value: object, depth: int) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from ((f"{name}[{key!r}]", item) for key, item in list(value.items())[:_LONGEST])
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"{name}[{at}]", item) for at, item in enumerate(list(value)[:_LONGEST]))
    elif isinstance(value, functools.partial | FunctionType | MethodType):
        owner = getattr(value, "__self__", None)
        yield from [("self", owner)] if owner is not None else []
        if depth == 0 or not _of_a_library(value):
            yield from _closure(value).items()
    elif isinstance(value, nn.Module):  # what it holds without having registered it
        for part in value.modules():
            own = {key: item for key, item in vars(part).items() if key not in nn.Module().__dict__}
            yield from ((f"{name}.{key}" if name else key, item) for key, item in own.items())
    elif not _of_a_library(type(value)) or depth == 0:
        yield from ((f"{name}.{key}", item) for key, item in getattr(value, "__dict__", {}).items())
        call = getattr(type(value), "__call__", None)  # noqa: B004 - what it closes over is wanted
        yield from [("", call)] if isinstance(call, FunctionType) else []


def _is_object(function: object) -> bool:
    return not isinstance(function, functools.partial | FunctionType | MethodType | nn.Module)


def _of_a_library(value: object) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in _LIBRARIES


def _closure(function: Callable[..., object]) -> dict[str, Any]:
    """What a plain function closes over or reads from its module, by name; the arguments of a partial too."""
    if isinstance(function, functools.partial):
        given = {f"argument{at}": value for at, value in enumerate(function.args)}
        inner = {"function": function.func} if isinstance(function.func, MethodType) else _closure(function.func)
        return {**inner, **given, **function.keywords}
    try:
        variables = inspect.getclosurevars(inspect.unwrap(function))
    except (TypeError, ValueError):
        return {}
    return {**variables.globals, **variables.nonlocals}
