"""What to compare: methods as they are written on a command line, at several budgets."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sttm.budget import check_keep, read_keep, written_keep
from sttm.errors import ConfigError
from sttm.evaluation.checks import MOST_FRAMES, check_count, check_text
from sttm.methods import Method, get_method

ALL = "all"  # label of the run that keeps every token
Value = bool | int | float | str | None
Keep = int | float

_BUDGETS = ("keep", "max_tokens")  # options that are written as --keep is
_WORDS: dict[str, Value] = {"none": None, "true": True, "false": False}
_LABEL = re.compile(r"[\w.+/ -]+")


@dataclass(frozen=True)
class MethodSpec:
    """A method with options, under a label.

    Args:
        label: the name in tables.
        name: the name in the registry.
        options: fields of the method's class.
    """

    label: str
    name: str
    options: tuple[tuple[str, Value], ...] = ()

    @property
    def swept(self) -> bool:
        """Whether it runs at every budget; with a ``keep`` of its own it runs once, at that."""
        return "keep" not in dict(self.options)

    @property
    def text(self) -> str:
        """The spec without its label, e.g. ``sttm:linking=components``."""
        options = ",".join(f"{key}={_written(value)}" for key, value in self.options)
        return f"{self.name}:{options}" if options else self.name

    def build(self, keep: Keep | None) -> Method:
        """Build the method at a budget; None for one with its own.

        Raises:
            ConfigError: unknown method or option, or a bad value.
        """
        options = dict(self.options)
        return get_method(self.name, **(options if keep is None else {**options, "keep": keep}))


@dataclass(frozen=True)
class Setting:
    """One column of a comparison: a method at a budget.

    Args:
        label: of the method; ``ALL`` for no method.
        keep: the budget; None where the method has its own; 1.0 for all tokens.
        method: None keeps every token.
        spec: how it was asked for.
    """

    label: str
    keep: Keep | None
    method: Method | None
    spec: str

    @property
    def key(self) -> tuple[str, Keep | None]:
        """What tells settings apart."""
        return self.label, self.keep

    def __str__(self) -> str:
        return (
            self.label
            if self.keep is None or self.method is None
            else f"{self.label} {written_keep(self.keep)}"
        )


ALL_TOKENS = Setting(ALL, 1.0, None, ALL)


def parse_spec(text: str) -> MethodSpec:
    """Read ``NAME``, ``NAME:option=value,option=value`` or ``LABEL=`` one of these.

    Values are numbers, ``true``, ``false``, ``none``, or words. With ``keep=`` among the options
    the method runs once, at this budget (``keep=none``: at thresholds, say). Budgets are written
    as for ``--keep``, see `sttm.budget.read_keep`: 1 is all tokens.

    Raises:
        ConfigError: a text of another form.
    """
    head, _, tail = check_text("method", text, "sttm:keep=0.3").strip().partition(":")
    label, equals, name = head.rpartition("=")
    options = [part.partition("=") for part in tail.split(",")] if tail else []
    known = {key.strip(): _read(key.strip(), value.strip()) for key, _, value in options}
    malformed = any(not key.strip() or not sign for key, sign, _ in options)
    if not name.strip() or malformed or len(known) < len(options):
        raise ConfigError(
            f"method: got {text!r}, expected NAME, NAME:option=value,option=value, or LABEL= and "
            "one of these, e.g. sttm:linking=components."
        )
    spec = MethodSpec(label.strip(), name.strip(), tuple(sorted(known.items())))
    label = (
        spec.label if equals else spec.text.replace(":", " ").replace(",", " ").replace("=", " ")
    )
    if not _LABEL.fullmatch(label) or label == ALL:
        raise ConfigError(
            f"method: got the label {label!r} in {text!r}, expected letters, digits and spaces, "
            f"and another word than {ALL!r}."
        )
    return MethodSpec(label, spec.name, spec.options)


def make_settings(methods: Sequence[str], keeps: Sequence[Keep]) -> list[Setting]:
    """Cross methods with budgets; a budget of 1 is run once, as "all".

    Args:
        methods: specs, see `parse_spec`.
        keeps: shares or counts; the float 1.0 stands for all tokens.

    Returns:
        all tokens first if asked for, then method by method.

    Raises:
        ConfigError: a bad spec, budget or option, or one that comes twice.
    """
    specs = [parse_spec(text) for text in methods]
    check_labels(specs)
    keeps = check_budgets(keeps)
    settings = [ALL_TOKENS] if 1.0 in [k for k in keeps if isinstance(k, float)] else []
    budgets: list[Keep | None] = [k for k in keeps if not (isinstance(k, float) and k == 1.0)]
    for spec in specs:
        for budget in budgets if spec.swept else [None]:
            settings.append(Setting(spec.label, budget, spec.build(budget), spec.text))
    if not settings:
        raise ConfigError("got no method and no budget, expected at least one of each.")
    return settings


def check_labels(specs: Sequence[MethodSpec]) -> None:
    """Refuse two methods under one label.

    Raises:
        ConfigError: a label comes twice.
    """
    twice = _twice([spec.label for spec in specs])
    if twice:
        raise ConfigError(
            f"methods: got {', '.join(twice)} twice, expected each once. Give specs that differ "
            "labels of their own: LABEL=NAME:option=value."
        )


def check_budgets(keeps: Sequence[Keep]) -> list[Keep]:
    """Refuse what is no budget, and one that comes twice.

    Returns:
        the budgets as numbers of Python.

    Raises:
        ConfigError: either of them.
    """
    plain = [check_keep(keep) for keep in keeps]
    twice = _twice([repr(keep) for keep in plain])  # the count 1 and the share 1.0 differ
    if twice:
        raise ConfigError(f"keep: got {', '.join(twice)} twice, expected every budget once.")
    return plain


def check_frames(frames: Sequence[int]) -> None:
    """Refuse lengths of videos that are not different numbers from 1 on.

    Raises:
        ConfigError: they are not.
    """
    for count in frames:
        check_count("frames", count, most=MOST_FRAMES)
    if not frames or len(set(frames)) < len(frames):
        raise ConfigError(
            f"frames: got {', '.join(map(str, frames)) or 'none'}, expected different numbers from "
            "1 on."
        )


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _read(key: str, text: str) -> Value:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if key in _BUDGETS:
        return read_keep(text, key)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _written(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
