"""From the options of ``sttm eval run`` to what is to be run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sttm.budget import read_keep
from sttm.cli.command import refuse_idle, refuse_unused
from sttm.cli.options import ModelOptions
from sttm.cli.output import note
from sttm.cli.reduction import Wanted, parse_reduction
from sttm.cli.task_items import refuse_sampling, sound_items
from sttm.errors import ConfigError
from sttm.evaluation.config import EvalConfig

if TYPE_CHECKING:
    from sttm.evaluation.specs import Setting
    from sttm.evaluation.tasks import Item, Task


def config_of_preset(
    context: typer.Context, name: str, model: ModelOptions
) -> tuple[EvalConfig, ModelOptions]:
    """Set up a preset; a model and newline tokens that were given win."""
    from sttm.evaluation.presets import get_preset

    preset = get_preset(name)
    why = "it names the task, the method and the budget; expected it alone"
    names = ["task", "method", "keep", "thresholds", "max_tokens", "full", "scenes"]
    refuse_idle(context, names, "--preset", why)
    if preset.note:
        note(f"{preset.name}: {preset.note}")
    newline = model.newline or preset.newline
    return preset.config(), replace(model, model=model.model or preset.model, newline=newline)


def find_tasks(name: str | None, scenes: Sequence[str]) -> "list[Task]":
    """Load a task; with scenes of several lengths one for each.

    Args:
        name: of the task, or a file; None if none was given.
        scenes: ``KEY=VALUE`` texts that change which scenes a made task has.

    Raises:
        ConfigError: no such task, or no such scenes.
    """
    from pydantic import ValidationError

    from sttm.evaluation.tasks import get_task

    if name is None:
        raise ConfigError("got no --task, expected one of `sttm eval tasks`, or a --preset.")
    task = get_task(name)
    if not scenes:
        return [task]
    if not task.made:
        raise ConfigError(f"got --scenes with the task {task.name}, which has videos. Drop it.")
    pairs = [text.partition("=")[::2] for text in scenes]
    values: dict[str, Any] = dict(pairs)
    if len(values) < len(scenes):
        raise ConfigError(f"--scenes: got {' '.join(scenes)}, expected every key once.")
    values |= {key: values[key].split(",") for key in ("kinds", "task_types") if key in values}
    lengths = [{"frames": text} for text in values.pop("frames", "").split(",") if text]
    try:
        made = [
            type(task.scenes).model_validate({**task.scenes.model_dump(), **values, **length})
            for length in lengths or [{}]
        ]
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(
            f"--scenes: got {' '.join(scenes)} ({wrong}), expected frames=, count=, kinds=, "
            "task_types=, seed=."
        ) from error
    return [task.model_copy(update={"scenes": each}) for each in made]


def find_settings(
    context: typer.Context,
    methods: Sequence[str],
    keeps: Sequence[str],
    single: Wanted,
    model: str | None,
) -> "tuple[Setting, ...]":
    """Cross methods with budgets; without several of either, as in `sttm ask`.

    Args:
        context: of the command.
        methods: the texts of ``--method``.
        keeps: the texts of ``--keep``.
        single: the other options about the reduction, which go with one setting only.
        model: as in ``--model``; None for nano.

    Raises:
        ConfigError: a text that cannot be read, or options that contradict.
    """
    from sttm.evaluation.specs import ALL_TOKENS, Setting, make_settings, parse_spec

    if len(methods) < 2 and len(keeps) < 2:
        wanted = replace(single, method="".join(methods) or None, keep="".join(keeps) or None)
        method = parse_reduction(wanted, model=model).method
        if method is None:
            return (ALL_TOKENS,)
        spec = parse_spec(wanted.method or method.name)
        label = spec.label
        if wanted.thresholds is not None:
            label = re.sub(r"[^\w.+/ -]", " ", f"{label} {wanted.thresholds}")
        return (Setting(label, getattr(method, "keep", None), method, spec.text),)
    if single.given():
        raise ConfigError(
            f"got {', '.join(single.given())} with several methods or budgets, expected one. "
            "Write thresholds as options of a method: sttm:keep=none,spatial_threshold=0.8."
        )
    idle = [text for text in methods if parse_spec(text).swept and not keeps]
    if idle:
        raise ConfigError(
            f"got --method {idle[0]} without --keep, expected budgets: --keep 0.5 0.3."
        )
    budgets = [read_keep(text, "--keep") for text in keeps]
    settings = make_settings(methods or ["sttm"], budgets)
    refuse_unused(context, settings, budgets, "method")
    return tuple(replace(s, keep=s.keep or getattr(s.method, "keep", None)) for s in settings)


def sampled(config: EvalConfig, sampling: Mapping[str, Any]) -> EvalConfig:
    """Change the sampling as far as it is given.

    Args:
        config: what to run.
        sampling: fields of `Sampling`; None for what the task, or the preset, says.
    """
    changed = {name: value for name, value in sampling.items() if value is not None}
    if config.task.made:
        refuse_sampling(config.task, changed)
    return replace(config, sampling=replace(config.frames, **changed)) if changed else config


def find_items(
    config: EvalConfig, data_root: Path | None, *, limit: int | None, stop: bool
) -> "tuple[list[Item], Mapping[str, int]]":
    """Read the questions, or the first of them.

    Args:
        config: what to run.
        data_root: folder of the data sets.
        limit: questions at most.
        stop: refuse rows that are wrong and videos that are missing, instead of leaving them out.

    Returns:
        the questions, and how many rows are left out, by kind of problem.
    """
    task, look = config.task, config.features is None
    bad_rows: Mapping[str, int] = {}
    if stop:
        items = task.items(data_root, videos=look)
    else:
        items, bad_rows = sound_items(task, data_root, videos=look)
    items = items[:limit]
    without = [item for item in items if item.video is None]
    if not without or not look or task.made:
        return items, bad_rows
    videos = list(dict.fromkeys(item.video_id for item in without))
    text = (
        f"videos of {task.name} are missing: {len(videos)} ({', '.join(videos[:3])}"
        f"{', ...' if len(videos) > 3 else ''}), for {len(without)} of {len(items)} questions"
    )
    if stop:
        raise ConfigError(
            f"{text}; expected all. `sttm eval validate {task.name} --data-root {data_root}` tells "
            "how to get them; --on-error skip goes on."
        )
    note(f"{text}; they are not asked, and not scored.")
    return items, bad_rows
