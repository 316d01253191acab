"""What is probed: a function and its leaves, evaluated again and again without a trace left behind."""

import functools
import inspect
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from rlgrad.probing.guarding import Guard, check_modules, exchanged, is_compiled, outermost, wider
from rlgrad.probing.holding import held, own_copy, unused


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
    """One evaluation: the tensors that stood for the leaves, in their order, the outputs by name, and their type."""

    leaves: list[Tensor]
    outputs: dict[str, Tensor] = field(default_factory=dict)
    returned: str = ""


class Subject:
    """A callable with its example inputs, its modules, and the leaves of both.

    Parameters are exchanged for copies while the function runs, and everything that it can change is put back
    afterwards: parameters, buffers, attributes and modes of modules, and the state of every source of randomness. A
    module is copied first, where it can be; modules that a plain function closes over are exchanged in place, and so
    are those that are seen to run, wherever it has them from.

    Args:
        function: any callable.
        inputs: its positional arguments, trees of tensors and anything else.
        seed: of all randomness during an evaluation; the same at each, so that evaluations can be compared.

    Attributes:
        strangers: classes of modules that ran and whose parameters are no leaves.
        numpy: whether NumPy was given a detached copy of a tensor.
    """

    def __init__(self, function: Callable[..., object], inputs: Sequence[object], *, seed: int) -> None:
        self.name = name_of(function)
        self.function, self._modules = own_copy(function)
        self.seed = seed
        self.strangers: set[str] = set()
        self.numpy = False
        check_modules(self._modules.values())
        paths, self._tree = pytree.tree_flatten_with_path(tuple(inputs))
        self.arguments = [value for _, value in paths]
        self._places = [at for at, value in enumerate(self.arguments) if _is_leaf(value)]
        names = _argument_names(self.function, len(inputs))
        self._inputs = [Leaf(_input_name(names, paths[at][0]), None, paths[at][1].detach()) for at in self._places]
        reach = held(self.function, dict(zip(names, inputs, strict=True)))
        self._generators = [value for value in reach.values() if isinstance(value, torch.Generator)]
        self._list_leaves()
        self._find_modules({name: value for name, value in reach.items() if isinstance(value, nn.Module)})

    def _list_leaves(self) -> None:
        parameters = dict(self._named_parameters())
        self.frozen = [leaf for leaf, parameter in parameters.values() if not parameter.requires_grad]
        trained = [pair for pair in parameters.values() if pair[1].requires_grad]
        self._trained = [id(parameter) for _, parameter in trained]
        self.leaves = self._inputs + [leaf for leaf, _ in trained]
        self._known = frozenset(id(part) for module in self._modules.values() for part in module.modules())

    def _find_modules(self, reach: Mapping[str, nn.Module]) -> None:
        """Evaluate at the example, and take in the modules that were used and are not known yet."""
        names = {id(part): name for top in reach for name, part in reach[top].named_modules(prefix=top)}
        used = [module for module in self._used(reach) if not is_compiled(module)]
        if any(id(module) not in names for module in used):  # it may have made them itself: the same must run again
            again = {id(module) for module in self._used(reach)}
            used = [module for module in used if id(module) in again]
        for module in used:
            self._modules[unused(names.get(id(module), type(module).__name__), self._modules)] = module
        if used:
            self.strangers.clear()
            self._list_leaves()

    def _used(self, reach: Mapping[str, nn.Module]) -> list[nn.Module]:
        """The outermost of the modules that run at the example, or whose tensors an operation is given."""
        guard = Guard(self._known)
        for module in reach.values():
            guard.keep(module)
        touched = _Touched()
        try:
            with self.at([leaf.value for leaf in self.leaves], mode=lambda seen: touched, guard=guard):
                pass
        except Exception:  # the user's function: the survey tells what is wrong with it
            pass
        parts = [part for module in reach.values() for part in module.modules() if id(part) not in self._known]
        owners = [
            part
            for part in parts
            if touched.ids & {id(t) for t in (*part._parameters.values(), *part._buffers.values())}
        ]
        return outermost([*guard.ran, *owners])

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
        guard: Guard | None = None,
    ) -> Iterator[Run]:
        """Evaluate the function; differentiate inside the block, since checkpoints compute again in the backward pass.

        Args:
            values: of the leaves, in their order.
            dtype: of all floating-point numbers; by default each keeps its own.
            arguments: flat list of all inputs, for those that are no leaves; by default the example's.
            mode: makes the function mode that watches the evaluation.
            seed: in place of the subject's own.
            guard: of the modules that are not known; by default a new one.
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
            scouting = guard is not None  # later on, what costs is done only where it was found to be needed
            guard = stack.enter_context(guard or Guard(self._known))
            trained = dict(zip(self._trained, run.leaves[self.inputs :], strict=True))
            stack.enter_context(exchanged(self._modules.values(), trained, dtype))
            stack.enter_context(_Wide() if dtype == torch.float64 else nullcontext())
            call = self._call(handed, dtype, self.arguments if arguments is None else arguments)
            stack.enter_context(_Detached(self) if self.numpy or scouting else nullcontext())
            with nullcontext() if mode is None else mode(Run(run.leaves + handed)):
                result = call()
            self.strangers |= {type(module).__name__ for module in guard.ran if any(True for _ in module.parameters())}
            run.returned = type(result).__name__
            run.outputs = dict(named_outputs(result, "output"))
            yield run

    def _call(
        self, handed: Sequence[Tensor], dtype: torch.dtype | None, arguments: Sequence[object]
    ) -> Callable[[], object]:
        flat = [
            value.detach().clone().to(wider(value, dtype)) if isinstance(value, Tensor) else value
            for value in arguments
        ]
        for at, value in zip(self._places, handed, strict=True):
            flat[at] = value
        return functools.partial(self.function, *pytree.tree_unflatten(flat, self._tree))

    def layer_names(self) -> dict[int, str]:
        """Names of all modules by identity, to be found again on the stack."""
        return {
            id(part): name
            for prefix, module in self._modules.items()
            for name, part in module.named_modules(prefix=prefix)
        }


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


class _Touched(TorchFunctionMode):
    """Notes the identity of every tensor that an operation is given."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.ids |= {id(value) for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        return func(*args, **(kwargs or {}))


class _Detached(TorchFunctionMode):
    """Gives NumPy detached copies, where torch would refuse it a tensor only for having a gradient in the probe."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self._subject = subject

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in ("numpy", "__array__", "__dlpack__") and args[0].requires_grad:
            self._subject.numpy = True
            args = (args[0].detach(), *args[1:])
        return func(*args, **(kwargs or {}))


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
