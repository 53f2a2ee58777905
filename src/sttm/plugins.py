"""Methods and model families of others: of installed packages, and of modules that are named.

Nothing is imported before a method or a family is looked up: help stays quick.
"""

import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from sttm.errors import ConfigError

METHODS, FAMILIES = "sttm.methods", "sttm.families"  # groups of entry points

_named: list[str] = []
_loaded: set[str] = set()  # modules by name, groups of entry points by theirs


def use(modules: Iterable[str]) -> None:
    """Name the modules that register methods or families when they are imported.

    They are imported when something is looked up; the current folder is searched, too, as
    ``python -m`` does.

    Args:
        modules: by their names, as in an ``import``; in place of those that were named before.
    """
    _named[:] = modules
    here = os.getcwd()  # noqa: PTH109 - of sys.path, which holds texts
    if _named and here not in sys.path:
        sys.path.append(here)


def named() -> tuple[str, ...]:
    """Return the names that `use` was given."""
    return tuple(_named)


def load(group: str, register: Callable[[Any], Any]) -> None:
    """Import what is to be known before something is looked up; each once.

    Args:
        group: ``METHODS`` or ``FAMILIES``: whose entry points to load.
        register: registers a class of this group that an entry point names.

    Raises:
        ConfigError: a plugin cannot be imported, or what it registers is refused.
    """
    with _once(group) as first:
        for entry in entry_points(group=group) if first else ():
            _enter(entry, register)
    for name in _named:
        with _once(name) as first:
            if first:
                _imported(f"--plugin {name}", partial(_module, name))


@contextmanager
def _once(what: str) -> Iterator[bool]:
    """Tell whether a thing is done for the first time; it is not done if the block fails."""
    first = what not in _loaded
    _loaded.add(what)  # before the block: a plugin may look something up while it is imported
    try:
        yield first
    except BaseException:
        if first:
            _loaded.discard(what)
        raise


def _module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"got {name!r}, expected a module's name such as my_methods")
    return import_module(name)


def _enter(entry: EntryPoint, register: Callable[[Any], Any]) -> None:
    package = entry.dist.name if entry.dist is not None else "a package"
    where = f"plugin {entry.name!r} of {package} ({entry.value})"
    found = _imported(where, entry.load)
    if not isinstance(found, ModuleType):  # a module has registered by itself
        _imported(where, partial(register, found))


def _imported(where: str, do: Callable[[], Any]) -> Any:
    try:
        return do()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except Exception as error:
        # A module runs whatever code it likes.
        text = " ".join(str(error).split())
        raise ConfigError(
            f"{where}: cannot be imported ({type(error).__name__}: {text}). Expected a module that "
            "is installed or in the current folder. Check its name and its code, or do without it."
        ) from error


@dataclass(frozen=True)
class WithPlugins:
    """What a worker does after it has named the plugins of the process that started it.

    Args:
        modules: as in `use`.
        path: where that process looks for modules.
        pickled: what to do; it may hold objects of the plugins' classes, so that it can be read
            only when they can be imported.
    """

    modules: tuple[str, ...]
    path: tuple[str, ...]
    pickled: bytes

    @classmethod
    def of(
        cls, setup: Callable[[], Any], dumps: Callable[[Any], bytes] = pickle.dumps
    ) -> "Callable[[], Any]":
        """Wrap a callable, unless no plugin is named.

        Args:
            setup: to be called in a worker.
            dumps: pickles it.
        """
        return cls(named(), tuple(sys.path), dumps(setup)) if _named else setup

    def __call__(self) -> Any:
        """Name the plugins, and do it."""
        sys.path.extend(path for path in self.path if path not in sys.path)
        use(self.modules)
        return pickle.loads(self.pickled)()
