"""Old names of public things: they work for one minor version, and say what to write instead."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

GONE_IN = "0.3"


def warn_renamed(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn the caller's caller that a name is old.

    Args:
        old: the name that was used.
        new: the name to use.
        stacklevel: the frame that the warning names, counted from this function as 1.

    Warns:
        DeprecationWarning: always.
    """
    warnings.warn(
        f"{old} is now called {new}; the old name goes in sttm {GONE_IN}.",
        DeprecationWarning,
        stacklevel=stacklevel,
    )


def old_names(module: str, names: Mapping[str, Any]) -> Callable[[str], Any]:
    """Make a module's ``__getattr__`` that finds things by their old names.

    Args:
        module: its ``__name__``.
        names: each old name with the object that it stands for.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", f"{module}.{names[name].__name__}")
        return names[name]

    return find
