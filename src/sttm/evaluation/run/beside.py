"""Which row of the paper a run stands beside, and in what the two differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sttm.evaluation.run.presets import Preset, list_presets
from sttm.evaluation.run.published import PublishedRow, find_published, model_key
from sttm.evaluation.tasks import get_task

_SETTINGS = ("layer", "positions", "prompt", "parser", "max_new_tokens", "newline", "dtype")
_WHOLE = ("task_version", "task_definition")


@dataclass(frozen=True)
class Beside:
    """The paper's row for a run.

    Args:
        row: the row.
        differs: what of the run is not as the row's preset has it, in words; empty if nothing.
    """

    row: PublishedRow
    differs: tuple[str, ...]


def set_beside(
    settings: Mapping[str, Any], *, preset: str | None, questions: int, hidden: int
) -> Beside | None:
    """Find the paper's row for a run.

    That is the row of the preset that the run was made with. Without one it is a row of the same
    model, task and method, with the same options or exactly the budget of the row.

    Args:
        settings: of the run.
        preset: name of the preset that it was made with, if any.
        questions: behind its accuracy.
        hidden: those whose right answer is not known.

    Returns:
        None where the paper has no such row, or the run does not say which it is.
    """
    found = []
    for each in list_presets():
        row = find_published(each.row)
        fits = each.name == preset if preset is not None else _is_row(settings, each)
        if row is not None and fits:
            differs = [*_differences(settings, each), *_uncounted(each.task, questions, hidden)]
            found.append(Beside(row, tuple(differs)))
    return min(found, key=lambda beside: len(beside.differs), default=None)


def _is_row(settings: Mapping[str, Any], preset: Preset) -> bool:
    if settings["task"] != preset.task or model_key(settings["model"]) != model_key(preset.model):
        return False
    expected = _expected(preset)
    if _method(settings) != _method(expected):
        return False
    exact = preset.budget is not None and settings["keep"] == preset.budget / 100
    return bool(exact or settings.get("options") == expected["options"])


def _differences(settings: Mapping[str, Any], preset: Preset) -> Iterator[str]:
    """Name what differs, each with the paper's value."""
    expected = _expected(preset)
    if model_key(settings["model"]) != model_key(preset.model):
        yield f"model {settings['model']} instead of {preset.model}"
    if _method(settings) != _method(expected):
        yield f"method {_method(settings)} instead of {_method(expected)}"
    else:
        yield from _unlike(settings.get("options") or {}, expected["options"])
    yield from _unlike(settings.get("sampling") or {}, expected["sampling"])
    here = {name: settings.get(name) for name in _SETTINGS}
    yield from _unlike(here, {name: expected[name] for name in _SETTINGS})
    if any(settings.get(name) != expected[name] for name in _WHOLE):
        yield f"another definition of the task {preset.task}"


def _unlike(found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            yield f"{name} {_written(found.get(name))} instead of {_written(expected.get(name))}"


def _uncounted(task: str, questions: int, hidden: int) -> Iterator[str]:
    """Say where the accuracy is over other questions than the paper's."""
    expected = get_task(task).expected.questions
    if questions != expected:
        rest = f" ({hidden} whose right answer is hidden)" if hidden else ""
        yield f"{questions} questions counted{rest} instead of {expected}"


@cache
def _expected(preset: Preset) -> dict[str, Any]:
    """Tell the settings of a run that is the row."""
    return {**preset.plan().choices(), "newline": preset.newline, "dtype": preset.dtype}


def _method(settings: Mapping[str, Any]) -> str:
    return str(settings["spec"]).split(":")[0]


def _written(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
