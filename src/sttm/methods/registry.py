"""Methods by name: classes, never instances."""

import inspect
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from sttm import plugins
from sttm.budget import MOST
from sttm.deprecated import warn_renamed
from sttm.errors import ConfigError, unknown_name
from sttm.methods.base import Method, check_method_class

_NAME = re.compile(r"[\w.+-]+")
_METHODS: dict[str, type[Method]] = {}
MethodClass = TypeVar("MethodClass", bound=type[Method])


@dataclass(frozen=True)
class MethodInfo:
    """What a table of methods shows.

    Args:
        name: the name for `get_method`.
        summary: one sentence.
        query_aware: whether plans depend on the question.
        requires: the attention it reads, see `sttm.methods.VideoFeatures`.
        default_layer: the decoder layer of its authors, see `sttm.Method`; None if it has none.
    """

    name: str
    summary: str
    query_aware: bool
    requires: tuple[str, ...]
    default_layer: int | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The old name of ``requires``, until 0.3."""
        warn_renamed("MethodInfo.needs", "MethodInfo.requires")
        return self.requires


def register(cls: MethodClass) -> MethodClass:
    """Add a method class to the registry; a class decorator.

    Raises:
        ConfigError: it is no such class, or the name is taken by another one.
    """
    if not isinstance(cls, type) or not issubclass(cls, Method):
        raise ConfigError(
            f"method: got {cls!r}, expected a subclass of sttm.Method. See docs/adding-a-method.md."
        )
    check_method_class(cls)
    if not _NAME.fullmatch(cls.name):
        raise ConfigError(
            f"method: got {cls!r} named {cls.name!r}, expected a name of letters, digits and -, + "
            "or .: see docs/adding-a-method.md."
        )
    known = _METHODS.setdefault(cls.name, cls)
    if known is not cls:
        raise ConfigError(
            f"method {cls.name!r}: got {cls.__qualname__}, but {known.__qualname__} has this name. "
            "Choose another name."
        )
    return cls


def get_method(name: str, **options: Any) -> Method:
    """Build a method from its name.

    Args:
        name: as in `list_methods`, e.g. ``"sttm"``.
        **options: the fields of the method's class.

    Raises:
        UnknownNameError: there is no such method.
        ConfigError: an option does not exist, is missing, or has a bad value; or a plugin cannot
            be imported.
    """
    plugins.load(plugins.METHODS, register)
    if name not in _METHODS:
        raise unknown_name("method", name, _METHODS)
    cls = _METHODS[name]
    accepted = inspect.signature(cls).parameters
    for option in options:
        if option not in accepted:
            close = get_close_matches(option, accepted, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(
                f"method {name!r}: got option {option!r}.{hint} Accepted: "
                f"{', '.join(accepted) or 'none'}."
            )
        value = options[option]
        if isinstance(value, int) and abs(value) > MOST:
            raise ConfigError(
                f"method {name!r}: got {option} of {value.bit_length()} bits, expected a number "
                "below 2**63: tensors hold no larger ones."
            )
    required = [key for key, value in accepted.items() if value.default is value.empty]
    missing = [key for key in required if key not in options]
    if missing:
        raise ConfigError(f"method {name!r}: expected a value for {', '.join(missing)}.")
    return cls(**options)


def list_methods() -> tuple[MethodInfo, ...]:
    """List every registered method, by name.

    Raises:
        ConfigError: a plugin cannot be imported.
    """
    plugins.load(plugins.METHODS, register)
    return tuple(
        MethodInfo(
            name=name,
            summary=(inspect.getdoc(cls) or "").split("\n", 1)[0],
            query_aware=cls.query_aware,
            requires=tuple(sorted(cls.requires)),
            default_layer=cls.default_layer,
        )
        for name, cls in sorted(_METHODS.items())
    )
