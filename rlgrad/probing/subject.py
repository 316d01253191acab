"""What is probed: a function and its leaves, evaluated again and again without a trace left behind."""

import copy
import functools
import inspect
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree


@dataclass(frozen=True, eq=False)
class Leaf:
    """A tensor that a gradient could reach.

    Args:
        name: as a reader would write it: ``x``, ``batch['image']``, ``encoder.0.weight``.
        layer: for a parameter, the module that owns it (``""`` for the outermost); None for an input.
        value: at the example.
    """

    name: str
    layer: str | None
    value: Tensor


@dataclass(eq=False)
class Run:
    """One evaluation: the outputs by name, and the tensors that stood for the leaves, in the leaves' order."""

    leaves: list[Tensor]
    outputs: dict[str, Tensor] = field(default_factory=dict)


class Subject:
    """A callable with its example inputs, its modules, and the leaves of both.

    Parameters are exchanged for copies while the function runs, and everything that it can change is put back
    afterwards: parameters, buffers, attributes and modes of modules, and the state of every source of randomness. A
    module is copied first, where it can be; modules that a plain function closes over are exchanged in place.

    Args:
        function: any callable.
        inputs: its positional arguments, trees of tensors and anything else.
        seed: of all randomness during an evaluation; the same at each, so that evaluations can be compared.
    """

    def __init__(self, function: Callable[..., object], inputs: Sequence[object], *, seed: int) -> None:
        self.name = name_of(function)
        self.function, self._modules = _own_copy(function)
        self.seed = seed
        _check_modules(self._modules)
        paths, self._tree = pytree.tree_flatten_with_path(tuple(inputs))
        self.arguments = [value for _, value in paths]
        self._places = [at for at, value in enumerate(self.arguments) if _is_leaf(value)]
        names = _argument_names(self.function, len(inputs))
        input_leaves = [Leaf(_input_name(names, paths[at][0]), None, paths[at][1].detach()) for at in self._places]
        parameters = dict(self._named_parameters())
        self.frozen = [leaf for leaf, parameter in parameters.values() if not parameter.requires_grad]
        trained = [pair for pair in parameters.values() if pair[1].requires_grad]
        self._trained = [id(parameter) for _, parameter in trained]
        self.leaves = input_leaves + [leaf for leaf, _ in trained]
        self._generators = _generators(self.function, self._modules, self.arguments)

    def _named_parameters(self) -> Iterator[tuple[int, tuple[Leaf, Tensor]]]:
        seen = set()
        for prefix, module in self._modules.items():
            for name, parameter in module.named_parameters(prefix=prefix):
                if id(parameter) not in seen and (parameter.is_floating_point() or parameter.is_complex()):
                    seen.add(id(parameter))
                    yield id(parameter), (Leaf(name, name.rpartition(".")[0], parameter.detach()), parameter)

    @property
    def inputs(self) -> int:
        """How many of the leaves are inputs; they come first."""
        return len(self._places)

    def flatten(self, inputs: Sequence[object]) -> list[object]:
        """Other inputs as a flat list.

        Raises:
            ValueError: their structure, or the shape of a tensor that is a leaf, differs from the example's.
        """
        values, tree = pytree.tree_flatten(tuple(inputs))
        if tree != self._tree:
            raise ValueError(f"needed points `at` built like the example inputs ({self._tree}), got {tree}")
        for leaf, at in zip(self.leaves, self._places, strict=False):
            value = values[at]
            if not isinstance(value, Tensor) or value.shape != leaf.value.shape or not _is_leaf(value):
                shape = tuple(value.shape) if isinstance(value, Tensor) else value
                raise ValueError(f"needed {leaf.name} of shape {tuple(leaf.value.shape)} in every point, got {shape}")
        return values

    def leaf_values(self, arguments: Sequence[object]) -> list[Tensor]:
        """The values of all leaves, with the inputs taken from a flat list of arguments."""
        inputs = [arguments[at] for at in self._places]
        return [value.detach() for value in inputs if isinstance(value, Tensor)] + [
            leaf.value for leaf in self.leaves[self.inputs :]
        ]

    @contextmanager
    def at(
        self,
        values: Sequence[Tensor],
        *,
        dtype: torch.dtype | None = None,
        arguments: Sequence[object] | None = None,
        mode: Callable[[Run], TorchFunctionMode] | None = None,
        seed: int | None = None,
    ) -> Iterator[Run]:
        """Evaluate the function; differentiate inside the block, since checkpoints compute again in the backward pass.

        Args:
            values: of the leaves, in their order.
            dtype: of all floating-point numbers; by default each keeps its own.
            arguments: flat list of all inputs, for those that are no leaves; by default the example's.
            mode: makes the function mode that watches the evaluation.
            seed: in place of the subject's own.
        """
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of sixty evaluations; the user's own run will warn once
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(_randomness(self.seed if seed is None else seed, self._generators))
            stack.enter_context(_eager())
            stack.enter_context(_default_dtype(dtype))
            run = Run(
                [
                    nn.Parameter(value.detach().clone().to(dtype or leaf.value.dtype))
                    for leaf, value in zip(self.leaves, values, strict=True)
                ]
            )
            # A function may change its input in place, which autograd forbids on a leaf: it is handed a copy.
            handed = [leaf.clone() for leaf in run.leaves[: self.inputs]]
            stack.enter_context(self._exchanged(run.leaves[self.inputs :], dtype))
            stack.enter_context(_Wide() if dtype == torch.float64 else nullcontext())
            call = self._call(handed, dtype, self.arguments if arguments is None else arguments)
            if mode is None:
                result = call()
            else:
                watcher = mode(Run(run.leaves + handed))
                with watcher:
                    result = call()
            run.outputs = dict(named_outputs(result, "output"))
            yield run

    def _call(
        self, handed: Sequence[Tensor], dtype: torch.dtype | None, arguments: Sequence[object]
    ) -> Callable[[], object]:
        flat = [
            value.detach().clone().to(_wider(value, dtype)) if isinstance(value, Tensor) else value
            for value in arguments
        ]
        for at, value in zip(self._places, handed, strict=True):
            flat[at] = value
        return functools.partial(self.function, *pytree.tree_unflatten(flat, self._tree))

    @contextmanager
    def _exchanged(self, parameters: Sequence[Tensor], dtype: torch.dtype | None) -> Iterator[None]:
        """Put copies of parameters and buffers into the modules, and everything back at the end."""
        modules = list(dict.fromkeys(part for module in self._modules.values() for part in module.modules()))
        before = [(m, dict(m.__dict__), dict(m._parameters), dict(m._buffers)) for m in modules]
        copies: dict[int, Tensor] = dict(zip(self._trained, parameters, strict=True))
        try:
            for module in modules:
                for slots in (module._parameters, module._buffers):
                    for key, tensor in slots.items():
                        if tensor is not None and id(tensor) not in copies:
                            copies[id(tensor)] = _copied(tensor, dtype)
                        if tensor is not None:
                            slots[key] = copies[id(tensor)]  # type: ignore[assignment]
            yield
        finally:
            for module, attributes, own, buffers in before:
                _refill(module.__dict__, attributes)
                _refill(module._parameters, own)
                _refill(module._buffers, buffers)

    def layer_names(self) -> dict[int, str]:
        """Names of all modules by identity, to be found again on the stack."""
        return {
            id(part): name
            for prefix, module in self._modules.items()
            for name, part in module.named_modules(prefix=prefix)
        }


def _refill(slots: dict[str, Any], kept: Mapping[str, Any]) -> None:
    slots.clear()
    slots.update(kept)


def name_of(function: object) -> str:
    """How a report calls a callable."""
    qualified = str(getattr(function, "__qualname__", type(function).__name__)).rpartition("<locals>.")[2]
    return "the function" if "<lambda>" in qualified else qualified.rpartition("_VariableFunctionsClass.")[2]


def named_outputs(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, number and NumPy array in a result, with the expression that reaches it."""
    if isinstance(value, Tensor):
        yield name, torch.view_as_real(value) if value.is_complex() else value
    elif isinstance(value, bool | int | float | np.ndarray | np.number):
        if np.asarray(value).dtype.kind in "biuf":
            yield name, torch.as_tensor(np.array(value))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_outputs(item, f"{name}[{key!r}]")
    elif isinstance(value, tuple | list):
        # A named tuple, or one of torch.return_types.
        members: tuple[str, ...] = getattr(value, "_fields", ()) or getattr(type(value), "__match_args__", ())
        for at, item in enumerate(value):
            yield from named_outputs(item, f"{name}.{members[at]}" if at < len(members) else f"{name}[{at}]")
    elif is_dataclass(value):
        for member in fields(value):
            yield from named_outputs(getattr(value, member.name), f"{name}.{member.name}")


def _own_copy(function: Callable[..., object]) -> tuple[Callable[..., object], dict[str, nn.Module]]:
    """The function, on a copy of its module where there is one to copy, and the modules that it uses by name."""
    owner = getattr(function, "__self__", None)
    if isinstance(function, nn.Module):
        module = _deep_copy(function)
        return module, {"": module}
    if isinstance(owner, nn.Module) and isinstance(function, MethodType):
        module = _deep_copy(owner)
        return MethodType(function.__func__, module), {"": module}
    used = _closure(function).items()
    modules = {name: value for name, value in used if isinstance(value, nn.Module)}
    return function, modules


def _deep_copy(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception:  # some modules cannot be copied; all that an evaluation exchanges is put back anyway
        return module


def _closure(function: Callable[..., object]) -> dict[str, Any]:
    """What a plain function closes over or reads from its module, by name; the arguments of a partial too."""
    if isinstance(function, functools.partial):
        given = {f"argument{at}": value for at, value in enumerate(function.args)}
        return {**_closure(function.func), **given, **function.keywords}
    try:
        variables = inspect.getclosurevars(inspect.unwrap(function))
    except (TypeError, ValueError):
        return {}
    return {**variables.globals, **variables.nonlocals}


def _generators(
    function: Callable[..., object], modules: Mapping[str, nn.Module], arguments: Sequence[object]
) -> list[torch.Generator]:
    places = [vars(part).values() for module in modules.values() for part in module.modules()]
    found = [value for values in [*places, _closure(function).values(), arguments] for value in values]
    return list(dict.fromkeys(value for value in found if isinstance(value, torch.Generator)))


def _check_modules(modules: Mapping[str, nn.Module]) -> None:
    parts = [part for module in modules.values() for part in module.modules()]
    if any(isinstance(part, torch.jit.ScriptModule) for part in parts):
        raise TypeError("needed an eager module, got one compiled by torch.jit; probe it before it is compiled")
    lazy = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)
    if any(isinstance(tensor, lazy) for part in parts for tensor in part.parameters(recurse=False)):
        raise ValueError("needed initialised parameters, got lazy ones; run the module once before probing it")


def _argument_names(function: Callable[..., object], count: int) -> list[str]:
    target = function.forward if isinstance(function, nn.Module) else function
    plain = [f"input[{at}]" for at in range(count)] if count > 1 else ["input"]
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return plain
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [named[at] if at < len(named) else plain[at] for at in range(count)]


def _input_name(names: Sequence[str], path: tuple[Any, ...]) -> str:
    return f"{names[path[0].idx]}{pytree.keystr(path[1:])}"


def _is_leaf(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided


def _wider(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def _copied(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A copy that is a parameter if the original was, and trains if it did not."""
    copied = tensor.detach().clone().to(_wider(tensor, dtype))
    return nn.Parameter(copied, requires_grad=False) if isinstance(tensor, nn.Parameter) else copied


class _Wide(TorchFunctionMode):
    """Turns what a function keeps or asks for in float32 into float64: constants, targets, ``.float()``."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(getattr(func, "__name__", ""))
        if name == "float":
            return torch.Tensor.double(*args)
        if name.endswith(("_", "__get__", "__set__")) or "out" in (kwargs or {}):
            return func(*args, **(kwargs or {}))  # what is changed in place must stay itself
        widened = {key: _widened(value) for key, value in (kwargs or {}).items()}
        return func(*(_widened(value) for value in args), **widened)


_FLAT = (bool, int, float, str, type(None))


def _widened(value: Any) -> Any:
    if value is torch.float32:
        return torch.float64
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    return value if isinstance(value, _FLAT) else pytree.tree_map(_widened_leaf, value)


def _widened_leaf(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


@contextmanager
def _randomness(seed: int, generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Every global source of randomness seeded; those and the given generators as they were, afterwards."""
    # Not torch.manual_seed: before CUDA is used, that leaves a seed behind for when it will be.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    everywhere = [torch.default_generator, *(torch.cuda.default_generators[at] for at in devices)]
    states = [(generator, generator.get_state()) for generator in [*everywhere, *generators]]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        for generator in everywhere:
            generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    """Let the tensors that a function makes for itself have the type of the evaluation."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(before if dtype is None else dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _eager() -> Iterator[None]:
    """Run compiled functions uncompiled, where any can exist: only then is the compiler imported already."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
