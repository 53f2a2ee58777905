"""From the options of `sttm eval run` to what is to be done."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttm.cli.loading import Loaded, load_model
from sttm.cli.options import Wanted, parse_reduction
from sttm.cli.output import note
from sttm.cli.spreading import Spread
from sttm.cli.task_items import refuse_data_root, refuse_sampling, sound_items
from sttm.errors import ConfigError
from sttm.files import make_folder

if TYPE_CHECKING:
    from sttm.evaluation.parallel import Execute
    from sttm.evaluation.run.plan import EvalPlan, VideoItems
    from sttm.evaluation.run.presets import Preset
    from sttm.evaluation.specs import Setting
    from sttm.evaluation.tasks import Item, Task


@dataclass(frozen=True)
class Asked:
    """The options as they were given; see ``sttm eval run --help``."""

    task: str | None
    preset: str | None
    data_root: Path | None
    model: str | None
    device_map: str | None
    dtype: str | None
    newline: str | None
    wanted: Wanted
    layer: int | None
    positions: str | None
    fps: float | None
    max_frames: int | None
    rule: str | None
    prompt: str
    parser: str | None
    max_new_tokens: int
    limit: int | None
    features: Path | None
    seed: int
    reproduce: bool
    stop: bool
    warm_up: bool
    spread: Spread
    out: Path | None


@dataclass(frozen=True)
class Work:
    """A run that is about to begin.

    Args:
        asked: the options, with those of the preset.
        plan: what to run.
        videos: what to ask.
        bad_rows: rows of the data set that are left out, by kind of problem.
        out: the folder.
        loaded: the model.
        execute: what works the videos off.
    """

    asked: Asked
    plan: "EvalPlan"
    videos: "list[VideoItems]"
    bad_rows: Mapping[str, int]
    out: Path
    loaded: Loaded
    execute: "Execute[Any, Any]"

    @property
    def items(self) -> "list[Item]":
        """All questions."""
        return [item for video in self.videos for item in video.items]


def prepare(asked: Asked) -> Work:
    """Check the options and the data, and load the model last.

    Raises:
        SttmError: something is wrong with them.
    """
    from sttm.evaluation.run.plan import EvalPlan, by_video
    from sttm.evaluation.tasks import get_task

    preset = _preset(asked)
    if preset is not None:
        asked = _filled(asked, preset)
    if asked.task is None:
        raise ConfigError("got no --task, expected one of `sttm eval tasks`, or a --preset.")
    task = get_task(asked.task)
    refuse_data_root(task, asked.data_root)
    setting = _setting(asked) if preset is None else preset.setting()
    plan = EvalPlan(
        task,
        setting,
        sampling=_sampling(task, asked),
        layer=asked.layer,
        positions=asked.positions or "auto",
        prompt=asked.prompt,
        parser=asked.parser,
        max_new_tokens=asked.max_new_tokens,
        seed=asked.seed,
        reproduce=asked.reproduce,
        features=asked.features,
        warm_up=asked.warm_up,
    )
    items, bad_rows = _items(task, asked)
    videos = by_video(items)
    execute = asked.spread.execute()  # without Ray this fails now, not after loading the model
    out = asked.out or _default_out(task, setting)
    make_folder(out)
    loaded = load_model(asked.model, asked.device_map, asked.dtype, asked.newline)
    plan = _for_model(plan, loaded, asked)
    return Work(asked, plan, videos, bad_rows, out, loaded, execute)


def _preset(asked: Asked) -> "Preset | None":
    if asked.preset is None:
        return None
    from sttm.evaluation.run.presets import get_preset

    preset = get_preset(asked.preset)
    given = asked.wanted.given()
    if given or asked.task not in (None, preset.task):
        raise ConfigError(
            f"got --preset with {', '.join(given) or '--task'}, expected it alone: it names the "
            "task, the method and the budget. Drop the others, or the preset."
        )
    if preset.note:
        note(f"{preset.name}: {preset.note}")
    return preset


def _filled(asked: Asked, preset: "Preset") -> Asked:
    """Take from the preset what was not given."""
    return replace(
        asked,
        task=preset.task,
        model=asked.model or preset.model,
        newline=asked.newline or preset.newline,
        layer=preset.layer if asked.layer is None else asked.layer,
        positions=asked.positions or preset.positions,
        rule=asked.rule or preset.rule,
        parser=asked.parser or preset.parser,
    )


def _setting(asked: Asked) -> "Setting":
    from sttm.evaluation.specs import ALL_TOKENS, Setting, parse_spec

    wanted = asked.wanted
    reduction = parse_reduction(wanted, model=asked.model, layer=asked.layer)
    if reduction.method is None:
        return ALL_TOKENS
    spec = parse_spec(wanted.method or reduction.method.name)
    keep = getattr(reduction.method, "keep", None)
    label = spec.label
    if wanted.thresholds is not None:
        label = re.sub(r"[^\w.+/ -]", " ", f"{label} {wanted.thresholds}")
    return Setting(label, keep, reduction.method, spec.text)


def _sampling(task: "Task", asked: Asked) -> Any:
    new = {"fps": asked.fps, "max_frames": asked.max_frames, "rule": asked.rule}
    changed: dict[str, Any] = {name: value for name, value in new.items() if value is not None}
    if task.made:
        refuse_sampling(task, changed)
    return replace(task.frames, **changed) if changed else None


def _items(task: "Task", asked: Asked) -> "tuple[list[Item], Mapping[str, int]]":
    """Read the questions; with ``--on-error skip`` go on without those that are wrong."""
    look = asked.features is None
    bad_rows: Mapping[str, int] = {}
    if asked.stop:
        items = task.items(asked.data_root, videos=look)
    else:
        items, bad_rows = sound_items(task, asked.data_root, videos=look)
    items = items[: asked.limit]
    if look and not task.made:
        _tell_missing(task, items, asked)
    return items, bad_rows


def _tell_missing(task: "Task", items: "list[Item]", asked: Asked) -> None:
    without = [item for item in items if item.video is None]
    if not without:
        return
    videos = list(dict.fromkeys(item.video_id for item in without))
    text = (
        f"videos of {task.name} are missing: {len(videos)} ({', '.join(videos[:3])}"
        f"{', ...' if len(videos) > 3 else ''}), for {len(without)} of {len(items)} questions"
    )
    if asked.stop:
        raise ConfigError(
            f"{text}; expected all. `sttm eval validate {task.name} "
            f"--data-root {asked.data_root}` tells how to get them; --on-error skip goes on."
        )
    note(f"{text}; they are not asked, and not scored.")


def _default_out(task: "Task", setting: "Setting") -> Path:
    return Path("out/eval", task.name, re.sub(r"[^\w.+-]+", "-", str(setting)))


def _for_model(plan: "EvalPlan", loaded: Loaded, asked: Asked) -> "EvalPlan":
    """Fill in what depends on the model."""
    layer = plan.layer if plan.layer is not None else loaded.layer
    return replace(plan, layer=layer, positions=asked.positions or loaded.positions)
