"""How modules are left as they were: by an exchange of what they hold, or by putting back what changed."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

_LAZY = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)
_Slots = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


def check_modules(modules: Iterable[nn.Module]) -> None:
    """Refuse modules whose parameters cannot be exchanged.

    Raises:
        TypeError: one is compiled by torch.jit.
        ValueError: one has lazy parameters.
    """
    parts = [part for module in modules for part in module.modules()]
    if any(is_compiled(part) for part in parts):
        raise TypeError("needed an eager module, got one compiled by torch.jit; probe it before it is compiled")
    if any(isinstance(tensor, _LAZY) for part in parts for tensor in part.parameters(recurse=False)):
        raise ValueError("needed initialised parameters, got lazy ones; run the module once before probing it")


def is_compiled(module: nn.Module) -> bool:
    """Whether it is, or holds, a module whose parameters live in torch.jit."""
    return any(isinstance(part, torch.jit.ScriptModule) for part in module.modules())


@contextmanager
def exchanged(
    modules: Iterable[nn.Module], parameters: Mapping[int, Tensor], dtype: torch.dtype | None
) -> Iterator[None]:
    """Put copies of parameters and buffers into modules, and everything back at the end.

    Args:
        modules: their parts included.
        parameters: the copies of those that train, by the identity of the original.
        dtype: of the other copies; by default each keeps its own.
    """
    before = {part: _slots_of(part) for module in modules for part in module.modules()}
    copies = dict(parameters)
    try:
        for part in before:
            for slots in (part._parameters, part._buffers):
                for key, tensor in slots.items():
                    if tensor is not None and id(tensor) not in copies:
                        copies[id(tensor)] = _copied(tensor, dtype)
                    if tensor is not None:
                        slots[key] = copies[id(tensor)]  # type: ignore[assignment]
        yield
    finally:
        for part, slots_before in before.items():
            _refill(part, slots_before)


@dataclass(eq=False)
class Guard:
    """Sees every module that runs and leaves those that are not known as they were.

    Args:
        known: identities of the modules that others take care of.
        ran: the outermost of the other modules that ran, the first of them first.
    """

    known: frozenset[int]
    ran: list[nn.Module] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._kept: dict[nn.Module, _Slots] = {}
        self._tensors: dict[int, tuple[Tensor, Tensor, Tensor | None, Tensor | None]] = {}
        self._seen: set[int] = set()

    def __enter__(self) -> "Guard":
        """Watch what runs in this thread."""
        self._thread = threading.get_ident()
        self._handle = register_module_forward_pre_hook(self._see)
        return self

    def __exit__(self, *exception: object) -> None:
        """Put everything back."""
        self._handle.remove()
        self._put_back()

    def _see(self, module: nn.Module, inputs: object) -> None:
        if threading.get_ident() != self._thread or id(module) in self.known or id(module) in self._seen:
            return
        if not is_compiled(module):
            check_modules([module])
        self.keep(module)
        self._seen |= {id(part) for part in module.modules()}
        self.ran.append(module)

    def keep(self, module: nn.Module) -> None:
        """Note the state of a module, to be put back at the end."""
        parts = [part for part in module.modules() if id(part) not in self.known and part not in self._kept]
        for part in parts:
            if not isinstance(part, torch.jit.ScriptModule):
                self._kept[part] = _slots_of(part)
            for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                plain = not isinstance(tensor, _LAZY) and tensor.layout == torch.strided and not tensor.is_meta
                if plain and id(tensor) not in self._tensors:
                    grad = tensor.grad if tensor.is_leaf else None
                    values = None if grad is None else grad.clone()
                    self._tensors[id(tensor)] = (tensor, tensor.detach().clone(), grad, values)

    def _put_back(self) -> None:
        for part, slots in self._kept.items():
            _refill(part, slots)
        with torch.no_grad():
            for tensor, value, grad, grad_value in self._tensors.values():
                _reset(tensor, value)
                if tensor.is_leaf:
                    tensor.grad = grad
                if grad is not None and grad_value is not None:
                    _reset(grad, grad_value)


def outermost(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Those that are no parts of others."""
    inner = {id(part) for module in modules for part in module.modules() if part is not module}
    return [module for module in dict.fromkeys(modules) if id(module) not in inner]


def _reset(tensor: Tensor, value: Tensor) -> None:
    if not torch.equal(tensor, value):  # else its version would count a change
        tensor.copy_(value)


def _slots_of(part: nn.Module) -> _Slots:
    return dict(part.__dict__), dict(part._parameters), dict(part._buffers)


def _refill(part: nn.Module, slots: _Slots) -> None:
    for own, kept in zip((part.__dict__, slots[0]["_parameters"], slots[0]["_buffers"]), slots, strict=True):
        own.clear()
        own.update(kept)


def _copied(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A copy that is a parameter if the original was, and trains if it did not."""
    copied = tensor.detach().clone().to(wider(tensor, dtype))
    return nn.Parameter(copied, requires_grad=False) if isinstance(tensor, nn.Parameter) else copied


def wider(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The type that a tensor has in an evaluation."""
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
