"""Settings by name: one for every row of the paper's tables that can be set up."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sttm.errors import unknown_name
from sttm.evaluation.config import EvalConfig
from sttm.evaluation.specs import ALL_TOKENS, Setting, Value, parse_spec
from sttm.evaluation.tasks import get_task

_NO_STEP = "none"


@dataclass(frozen=True)
class Preset:
    """The settings of a run.

    Args:
        name: how to ask for it.
        task: name of the task.
        model: hub id.
        method: spec; None keeps every token.
        budget: nominal share of the tokens in %; None for an ablation.
        keep: exact budget; None with thresholds or settings of the method's own.
        thresholds: spatial/temporal as text; None without.
        layer: decoder layer, 0-based.
        positions: position policy.
        rule: sampling rule; None for the task's.
        newline: where videos get newline tokens; None for a model without.
        prompt: style of the prompt.
        parser: how answers are read.
        dtype: of the weights.
        note: what is not as published, or not known.
    """

    name: str
    task: str
    model: str
    method: str | None = None
    budget: int | None = None
    keep: float | None = None
    thresholds: str | None = None
    layer: int = 2
    positions: str = "auto"
    rule: str | None = None
    newline: str | None = None
    prompt: str = "published"
    parser: str = "published"
    dtype: str = "bfloat16"
    note: str = ""

    @property
    def row(self) -> str:
        """The row of the paper that it sets up, see `find_published`."""
        return self.name.partition("/")[2]

    def setting(self) -> Setting:
        """Build the method."""
        if self.method is None:
            return ALL_TOKENS
        spec = parse_spec(self.method)
        options: dict[str, Value] = dict(spec.options)
        label = spec.label
        if self.thresholds is not None:
            spatial, temporal = self.thresholds.split("/")
            options["spatial_threshold"] = _threshold(spatial)
            options["temporal_threshold"] = _threshold(temporal)
            label = f"{label} {self.thresholds}"
        spec = replace(spec, options=tuple(sorted(options.items())))
        return Setting(label, self.keep, spec.build(self.keep), spec.text)

    def config(self) -> EvalConfig:
        """Set up the run, as far as it does not depend on the model."""
        task = get_task(self.task)
        return EvalConfig(
            task,
            (self.setting(),),
            sampling=None if self.rule is None else replace(task.frames, rule=self.rule),
            layer=self.layer,
            positions=self.positions,
            prompt=self.prompt,
            parser=self.parser,
        )

    def choices(self) -> dict[str, Any]:
        """Tell what an answer depends on beside its question and the model, as JSON values."""
        config = self.config()
        return config.choices(config.settings[0])


def list_presets() -> list[Preset]:
    """List all presets, in the order of the tables."""
    return list(_presets().values())


def get_preset(name: str) -> Preset:
    """Return a preset.

    Raises:
        UnknownNameError: there is none of this name.
    """
    found = _presets().get(name)
    if found is None:
        raise unknown_name("preset", name, _presets())
    return found


@cache
def _presets() -> dict[str, Preset]:
    path = Path(__file__).parent / "presets.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = {row.name: row for row in _main(content)}
    for group in content["ablations"]:
        rows |= {row.name: row for row in _ablations(group, rows, content["prefix"])}
    return rows


def _main(content: Mapping[str, Any]) -> Iterator[Preset]:
    for model, settings in content["models"].items():
        by_budget = content["thresholds"][model]
        for task in dict.fromkeys(task for tasks in by_budget.values() for task in tasks):
            where = f"{content['prefix']}/{model}/{task}"
            own = {name: value for name, value in settings.items() if name != "checkpoint"}
            full = Preset(f"{where}/100", task, settings["checkpoint"], budget=100, **own)
            yield full
            for budget, thresholds in by_budget.items():
                row = replace(full, name=f"{where}/{budget}", budget=budget)
                yield replace(row, method=content["sttm"], thresholds=thresholds[task])
                for method in content["baselines"][model]:
                    yield replace(
                        row,
                        name=f"{row.name}/{method}",
                        method=method,
                        keep=budget / 100,
                        note="; ".join(filter(None, (row.note, content["baseline_note"]))),
                    )


def _ablations(
    group: Mapping[str, Any], rows: Mapping[str, Preset], prefix: str
) -> Iterator[Preset]:
    for task in group["tasks"]:
        for budget in group["budgets"]:
            base = rows[f"{prefix}/{group['model']}/{task}/{budget}"]
            for name, changes in group["rows"].items():
                yield _changed(replace(base, name=f"{base.name}/{name}", budget=None), changes)


def _changed(preset: Preset, changes: Mapping[str, Any]) -> Preset:
    """Apply an ablation; ``spatial`` and ``temporal`` change one of the thresholds."""
    other = dict(changes)
    if preset.thresholds is not None:
        spatial, temporal = preset.thresholds.split("/")
        thresholds = f"{other.pop('spatial', spatial)}/{other.pop('temporal', temporal)}"
        # Another method than sttm has settings of its own.
        is_sttm = str(other.get("method", preset.method)).startswith("sttm")
        other["thresholds"] = thresholds if is_sttm else None
    return replace(preset, **other)


def _threshold(text: str) -> float | None:
    return None if text == _NO_STEP else float(text)
