"""Other versions of transformers, made from the installed one: other names, other calls."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import make_dataclass
from typing import Any

from transformers.utils import ModelOutput


def change_class(module: Any, **members: Any) -> None:
    """Give one module methods of its own, as if its class had them."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, **members})


def renamed(function: Callable[..., Any], old: str, new: str) -> Callable[..., Any]:
    """Return ``function`` with one parameter that is called otherwise."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(name=new) if name == old else parameter
        for name, parameter in signature.parameters.items()
    ]

    def changed(*args: Any, **kwargs: Any) -> Any:
        if new in kwargs:
            kwargs[old] = kwargs.pop(new)
        return function(*args, **kwargs)

    changed.__name__ = function.__name__
    changed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return changed


def rename_argument(module: Any, old: str, new: str) -> None:
    """Rename an argument of a module's ``forward``, for its callers and in its signature."""
    kind = type(module)
    called = kind.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if old in kwargs:
            kwargs[new] = kwargs.pop(old)
        return called(self, *args, **kwargs)

    change_class(module, __call__=call, forward=renamed(kind.forward, old, new))


def rename_unseen(module: Any, old: str, new: str) -> None:
    """Rename it where the signature does not show it: ``forward`` takes whatever comes."""
    rename_argument(module, old, new)
    inner = type(module).forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return inner(self, *args, **kwargs)

    change_class(module, forward=forward)


def rename_method(module: Any, old: str, new: str) -> None:
    """Rename a method: the old name is gone."""

    def gone(self: Any) -> Any:
        raise AttributeError(f"{type(self).__name__} has no attribute {old}")

    change_class(module, **{new: getattr(type(module), old), old: property(gone)})


def rename_encoder_argument(module: Any, method: str, old: str, new: str) -> None:
    """Rename an argument of an encoder."""
    change_class(module, **{method: renamed(getattr(type(module), method), old, new)})


def by_position(module: Any, last: str) -> None:
    """Call a module with its arguments by position, those up to ``last``."""
    called = type(module).__call__
    names = [
        name
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        placed = list(args)
        for name in names[len(args) :]:
            placed.append(kwargs.pop(name, None))
            if name == last:
                break
        return called(self, *placed, **kwargs)

    change_class(module, __call__=call)


def past_the_hooks(module: Any) -> None:
    """Call ``forward`` itself, which runs no hooks."""
    change_class(module, __call__=lambda self, *args, **kwargs: self.forward(*args, **kwargs))


def without_argument(module: Any, name: str) -> None:
    """Call a module without one of its arguments."""
    called = type(module).__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop(name, None)
        return called(self, *args, **kwargs)

    change_class(module, __call__=call)


def change_output(module: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change the fields of a module's output before any hook sees them."""
    inner = type(module).forward

    @functools.wraps(inner)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        fields = change(dict(inner(self, *args, **kwargs).items()))
        kind = make_dataclass("Output", [(n, Any, None) for n in fields], bases=(ModelOutput,))
        return kind(**fields)

    change_class(module, forward=forward)


def set_argument(module: Any, name: str, value: Any) -> None:
    """Call a module with another value for one of its arguments."""
    called = type(module).__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return called(self, *args, **{**kwargs, name: value})

    change_class(module, __call__=call)
