"""Settings by name: one for every row of the paper's tables that can be set up."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sttm.errors import unknown_name


@dataclass(frozen=True)
class Preset:
    """The settings of a run.

    Args:
        name: how to ask for it.
        task: name of the task.
        model: hub id.
        method: spec; None keeps every token.
        keep: exact budget as text; None with thresholds.
        thresholds: spatial/temporal as text; None with a budget.
        layer: decoder layer, 0-based.
        positions: position policy.
        rule: sampling rule; None for the task's.
        note: what is not as published, or not known.
    """

    name: str
    task: str
    model: str
    method: str | None
    keep: str | None
    thresholds: str | None
    layer: int
    positions: str
    rule: str | None = None
    note: str = ""


def list_presets() -> list[Preset]:
    """List all presets, in the order of the tables."""
    return list(_presets().values())


def get_preset(name: str) -> Preset:
    """Return a preset.

    Raises: UnknownNameError: there is none of this name.
    """
    found = _presets().get(name)
    if found is None:
        raise unknown_name("preset", name, _presets())
    return found


@cache
def _presets() -> dict[str, Preset]:
    path = Path(__file__).parent / "presets.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = [*_main(content)]
    rows += _ablations(content["ablations"], {row.name: row for row in rows}, content["prefix"])
    return {row.name: row for row in rows}


def _main(content: dict[str, Any]) -> Iterator[Preset]:
    for model, settings in content["models"].items():
        by_budget = content["thresholds"][model]
        for task in dict.fromkeys(task for tasks in by_budget.values() for task in tasks):
            where = f"{content['prefix']}/{model}/{task}"
            full = Preset(
                f"{where}/100",
                task,
                settings["checkpoint"],
                None,
                None,
                None,
                settings["layer"],
                settings["positions"],
                settings.get("rule"),
                settings.get("note", ""),
            )
            yield full
            for budget, thresholds in by_budget.items():
                name = f"{where}/{budget}"
                yield replace(full, name=name, method=content["sttm"], thresholds=thresholds[task])
                notes = [text for text in (full.note, content["baseline_note"]) if text]
                for method in content["baselines"][model]:
                    yield replace(
                        full,
                        name=f"{name}/{method}",
                        method=method,
                        keep=f"{budget}%",
                        note="; ".join(notes),
                    )


def _ablations(content: dict[str, Any], rows: dict[str, Preset], prefix: str) -> Iterator[Preset]:
    for task in content["tasks"]:
        base = rows[f"{prefix}/{content['model']}/{task}/{content['budget']}"]
        for name, changes in content["rows"].items():
            level = changes.get("root_level")
            assert base.method is not None
            yield replace(
                base,
                name=f"{base.name}/{name}",
                method=base.method if level is None else f"{base.method},root_level={level}",
                thresholds=changes.get("thresholds", base.thresholds),
                layer=changes.get("layer", base.layer),
                positions=changes.get("positions", base.positions),
                note=f"table {changes['table']}; the paper has {changes['paper']} for "
                f"{' and '.join(content['tasks'])}",
            )
