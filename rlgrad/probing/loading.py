"""What a command line names: a function or module as ``package.module:name``, and inputs as shapes."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import reduce
from importlib.util import find_spec

import torch
from torch import Tensor, nn


def load(spec: str) -> Callable[..., object]:
    """The function or module that ``package.module:name`` stands for.

    The current directory can be imported from. A class of modules is instantiated without arguments; nothing else is
    called.

    Args:
        spec: a module's dotted name, a colon, and a name in it, itself dotted if need be.

    Raises:
        ValueError: no colon; no such module, or no such name in it; a class that needs arguments.
        ImportError: the module exists but cannot be imported.
        TypeError: what is found is not callable, takes no inputs, or is a class of anything but modules.

    Example:
        >>> load("torch:sigmoid")(torch.tensor(0.0))
        tensor(0.5000)
        >>> load("torch.nn:ReLU")
        ReLU()
    """
    place, colon, name = spec.partition(":")
    if not (place and colon and name):
        raise ValueError(f"needed package.module:name, got {spec!r}; write {_meant(spec)}")
    found = reduce(lambda owner, part: _member(owner, part, spec), name.split("."), _imported(place))
    if isinstance(found, type) and issubclass(found, nn.Module):
        return _instance(found, spec)
    if isinstance(found, type):
        raise TypeError(
            f"needed a function, a module or a class of modules at {spec}, got the class {found.__name__}, which is no "
            "torch.nn.Module; name an instance that can be called, or a function"
        )
    if not callable(found):
        raise TypeError(f"needed a function or a module at {spec}, got {type(found).__name__}; name what is called")
    if not _takes_inputs(found):
        raise TypeError(
            f"needed a function of inputs, an instance or a module class at {spec}, got a function that takes none; if "
            f"it makes a model, call it in the module, model = {name}(), and name model"
        )
    return found


def _meant(spec: str) -> str:
    """What was meant by a name without a colon, or an example."""
    if spec.endswith(".py"):
        return f"{spec.removesuffix('.py').replace('/', '.')}:NAME, with a name that it holds"
    place, _, name = spec.rpartition(".")
    return f"{place}:{name}" if place and name and ":" not in spec else "for instance torch.nn:ReLU"


def _takes_inputs(function: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a built-in function tells nothing
        return True
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)


def _imported(place: str) -> object:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        missing = find_spec(place) is None
    except (ModuleNotFoundError, ValueError):  # of a parent
        missing = True
    if missing and place not in sys.modules:
        raise ValueError(
            f"needed a module that can be imported, found none called {place!r}; start where it lies, or install it"
        )
    try:
        return importlib.import_module(place)
    except Exception as error:
        raise ImportError(f"could not import {place}: {type(error).__name__}: {error}; repair it first") from error


def _member(owner: object, name: str, spec: str) -> object:
    # Not a default for getattr: a lazy module may hold anything under the name, None too.
    if hasattr(owner, name):
        return getattr(owner, name)
    near = get_close_matches(name, dir(owner))
    hint = f"did you mean {' or '.join(near)}?" if near else "check the spelling"
    raise ValueError(f"needed a name that exists, found no {name!r} for {spec}; {hint}")


def _instance(kind: type[nn.Module], spec: str) -> nn.Module:
    try:
        return kind()
    except TypeError as error:
        raise ValueError(
            f"needed a module class that takes no arguments, got {error} from {spec}; name an instance instead"
        ) from error


def example(
    shapes: Sequence[Sequence[int]], *, dtypes: Sequence[torch.dtype] = (torch.float32,), seed: int = 0
) -> tuple[Tensor, ...]:
    """Inputs of the given shapes: standard normal numbers, or integers 0 and 1, which any embedding takes.

    Args:
        shapes: one for each input.
        dtypes: one for each input, or one for all.
        seed: of the numbers.

    Raises:
        ValueError: a size is negative; there are not as many dtypes as shapes, nor one.

    Example:
        >>> [tuple(x.shape) for x in example([(2, 3), ()])]
        [(2, 3), ()]
        >>> example([(4,)], dtypes=[torch.int64])
        (tensor([0, 1, 1, 0]),)
    """
    if len(dtypes) not in (1, len(shapes)):
        raise ValueError(
            f"needed one dtype for all inputs, or one for each of the {len(shapes)}, got {len(dtypes)}; give a "
            "shape and a dtype for each input"
        )
    wrong = [tuple(shape) for shape in shapes if any(size < 0 for size in shape)]
    if wrong:
        raise ValueError(f"needed sizes of at least 0, got {wrong[0]}; write a shape such as (8, 3)")
    generator = torch.Generator().manual_seed(seed)

    def numbers(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(dtype)
        return torch.randint(2, shape, generator=generator).to(dtype)

    each = list(dtypes) * (len(shapes) if len(dtypes) == 1 else 1)
    return tuple(numbers(tuple(shape), dtype) for shape, dtype in zip(shapes, each, strict=True))
