"""What the STTM paper reports, which row a run stands beside, and in what the two differ."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sttm.evaluation.presets import Preset, list_presets
from sttm.evaluation.specs import ALL
from sttm.evaluation.tasks import get_task

FULL = 100  # the budget that keeps every token, in %
_PLAIN = (ALL, "sttm")  # methods that a row's name does not name
_SETTINGS = ("layer", "positions", "prompt", "parser", "max_new_tokens", "newline", "dtype")
_WHOLE = ("task_version", "task_definition")


@dataclass(frozen=True)
class PublishedRow:
    """A cell of the paper's tables 5 to 14; None where something is not printed.

    Args:
        name: as that of its preset: MODEL/TASK/BUDGET, MODEL/TASK/BUDGET/METHOD or /ABLATION.
        model: short name of the model.
        task: name of the task.
        method: name in the registry; "all" for all tokens; of an ablation its name.
        budget: nominal share of the tokens in %; None for an ablation.
        accuracy: mean over questions, in 0..1.
        relative_accuracy: accuracy / accuracy with all tokens.
        ttft_s: seconds.
        relative_ttft: TTFT / TTFT with all tokens.
        tokens: video tokens in the last layer's cache, mean over questions.
        retention: mean over questions of the tokens kept, in 0..1.
        source: paper and table.
        doubt: why the cell cannot be right as it stands; empty if nothing speaks against it.
    """

    name: str
    model: str
    task: str
    method: str
    budget: int | None
    accuracy: float | None
    relative_accuracy: float | None
    ttft_s: float | None
    relative_ttft: float | None
    tokens: int | None
    retention: float | None
    source: str
    doubt: str = ""


def find_published(name: str) -> PublishedRow | None:
    """Find a row by its name; None if the paper has none."""
    return _rows().get(name)


def list_published() -> list[PublishedRow]:
    """List all rows."""
    return list(_rows().values())


def model_key(name: str) -> str | None:
    """Tell which of the paper's models a hub id or folder is; None if it is none of them."""
    last = Path(name.rstrip("/")).name.lower()
    known = _content()["checkpoints"].items()
    return next((key for key, names in known if last in names), None)


@cache
def _content() -> dict[str, Any]:
    path = Path(__file__).parent / "published.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


@cache
def _rows() -> dict[str, PublishedRow]:
    return {row.name: row for row in (*_main(), *_ablations())}


def _main() -> Iterator[PublishedRow]:
    content = _content()
    names = ("model", "task", "method", "budget")
    doubts = {tuple(doubt[name] for name in names): doubt["why"] for doubt in content["doubts"]}
    for model, lines in content["rows"].items():
        source = f"{content['source']}, table {content['tables'][model]}"
        full = next(line for line in lines if line["budget"] == FULL)
        for line in lines:
            method, budget = line["method"], line["budget"]
            for task in line.keys() - {"method", "budget"}:
                accuracy, ttft, tokens, *retention = line[task].split("/")
                full_accuracy, full_ttft, _ = full[task].split("/")
                name = f"{model}/{task}/{budget}"
                yield PublishedRow(
                    name if method in _PLAIN else f"{name}/{method}",
                    model,
                    task,
                    method,
                    budget,
                    accuracy=_share(accuracy),
                    relative_accuracy=round(float(accuracy) / float(full_accuracy), 5),
                    ttft_s=float(ttft),
                    relative_ttft=round(float(ttft) / float(full_ttft), 5),
                    tokens=int(tokens),
                    # The ratio of the mean counts is not the same thing.
                    retention=1.0 if budget == FULL else _share(*retention),
                    source=source,
                    doubt=doubts.get((model, task, method, budget), ""),
                )


def _ablations() -> Iterator[PublishedRow]:
    content = _content()
    for model, lines in content["ablations"].items():
        for line in lines:
            budget, _, name = line["row"].partition("/")
            for task in line.keys() - {"row", "table"}:
                cells = str(line[task]).split("/")
                accuracy, *relative = ("-", *cells) if len(cells) > 1 else (*cells, "-", "-", "-")
                yield PublishedRow(
                    f"{model}/{task}/{budget}/{name}",
                    model,
                    task,
                    name,
                    None,
                    accuracy=_share(accuracy),
                    relative_accuracy=_share(relative[0]),
                    ttft_s=None,
                    relative_ttft=_share(relative[1]),
                    tokens=None,
                    retention=_share(relative[2]),
                    source=f"{content['source']}, table {line['table']}",
                )


def _share(percent: str = "-") -> float | None:
    return None if percent == "-" else round(float(percent) / 100, 4)


@dataclass(frozen=True)
class Beside:
    """The paper's row for a run.

    Args:
        row: the row.
        differs: what of the run is not as the row's preset has it, in words; empty if nothing.
    """

    row: PublishedRow
    differs: tuple[str, ...]


def row_beside(
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
    if _method_of(settings) != _method_of(expected):
        return False
    exact = preset.budget is not None and settings["keep"] == preset.budget / 100
    return bool(exact or settings.get("options") == expected["options"])


def _differences(settings: Mapping[str, Any], preset: Preset) -> Iterator[str]:
    """Name what differs, each with the paper's value."""
    expected = _expected(preset)
    if model_key(settings["model"]) != model_key(preset.model):
        yield f"model {settings['model']} instead of {preset.model}"
    if _method_of(settings) != _method_of(expected):
        yield f"method {_method_of(settings)} instead of {_method_of(expected)}"
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
    return {**preset.choices(), "newline": preset.newline, "dtype": preset.dtype}


def _method_of(settings: Mapping[str, Any]) -> str:
    return str(settings["spec"]).split(":")[0]


def _written(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
