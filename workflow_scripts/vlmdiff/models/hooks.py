"""Editing and recording what modules compute, by context managers that always clean up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor]


class _Stop(Exception):  # noqa: N818 - not an error: it carries control out of a forward pass
    """Ends a forward pass after the last module that anybody asked for."""


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def edit_output(module: nn.Module, fn: Edit) -> Iterator[None]:
    """Apply `fn` to a module's output while the context is open.

    Of a tuple (attention modules return their weights too) only the first element is edited.
    Edits of one module apply in the order in which their contexts were opened.
    """

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (fn(output[0]), *output[1:])
        return fn(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def edit_input(module: nn.Module, fn: Edit) -> Iterator[None]:
    """Apply `fn` to a module's first input, positional or by keyword, while the context is open."""

    def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if args:
            return (fn(args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, {**kwargs, name: fn(kwargs[name])}

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def hooks(*contexts: AbstractContextManager) -> Iterator[None]:
    """Open several contexts as one."""
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def whole(output: Tensor) -> Tensor:
    """Keep all of an output."""
    return output


@contextmanager
def record_outputs(modules: Mapping[int, nn.Module], keep: Edit = whole) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that receives each module's output (the first element of a tuple) by its key.

    Opened after `edit_output`, it records the edited output. `keep` returns what is recorded of it.
    """
    recorded: dict[int, Tensor] = {}

    def recorder(key: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            recorded[key] = keep(_first(output))

        return hook

    handles = [module.register_forward_hook(recorder(key)) for key, module in modules.items()]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record_inputs(modules: Mapping[int, nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that receives each module's first input, positional or by keyword, by its key."""
    recorded: dict[int, Tensor] = {}

    def recorder(key: int) -> Callable[[nn.Module, tuple, dict[str, Any]], None]:
        def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            recorded[key] = args[0] if args else next(iter(kwargs.values()))

        return hook

    handles = [
        module.register_forward_pre_hook(recorder(key), with_kwargs=True) for key, module in modules.items()
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def stop_after(module: nn.Module) -> Iterator[None]:
    """End the enclosed forward pass, and with it the `with` body, once `module` has run.

    Other hooks on the module must be registered before, so that they run first.
    """

    def hook(_module: nn.Module, _args: Any, _output: Any) -> None:
        raise _Stop

    handle = module.register_forward_hook(hook)
    try:
        yield
    except _Stop:
        pass
    finally:
        handle.remove()
