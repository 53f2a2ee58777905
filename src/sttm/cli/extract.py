"""``sttm extract``: encode videos once, and store what the vision tower makes of them."""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sttm.cli.command import refuse_idle
from sttm.cli.executor_options import ExecutorOptions
from sttm.cli.loading import load_model, load_pair, refuse_for_nano
from sttm.cli.options import (
    JsonOption,
    ModelOptions,
    OnError,
    OnErrorOption,
    OutOption,
    RuleOption,
    refuse_fps,
    taken,
    with_options,
)
from sttm.cli.output import note, say, show_json, show_table
from sttm.cli.progress import Tell, progress_bars
from sttm.cli.task_items import refuse_data_root, refuse_sampling, sound_items
from sttm.errors import ConfigError, VideoError
from sttm.files import make_folder

if TYPE_CHECKING:
    from sttm.evaluation.features import Extraction, Failure, StoredVideo, VideoJob
    from sttm.video import Sampling


@dataclass(frozen=True)
class _Videos:
    """What to extract.

    Args:
        jobs: the videos.
        sampling: of their frames.
        left_out: problems of a task's other rows, by kind.
    """

    jobs: "Sequence[VideoJob]"
    sampling: "Sampling"
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class _Outcomes:
    """What became of the videos; those in ``known`` were there before."""

    known: "Sequence[StoredVideo]"
    new: "Sequence[StoredVideo]"
    skipped: "Sequence[Failure]"
    seconds: float


@with_options(ModelOptions, ExecutorOptions)
def extract(
    context: typer.Context,
    out: OutOption,
    videos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[VIDEO...]", help="Video files, or folders of them."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="T", help="Extract the videos of a task, see `sttm eval tasks`."),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(metavar="D", help="Folder with the task's data.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second. Default: the task's, or 1.")
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(help="Most frames to sample. Default: the task's, or 128.")
    ] = None,
    rule: RuleOption = None,
    with_attention: Annotated[
        bool,
        typer.Option(
            "--with-attention",
            help="Store the vision tower's attention too, which some methods read (LLaVA, Qwen).",
        ),
    ] = False,
    on_error: OnErrorOption = OnError.SKIP,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check what is in the folder; extract nothing.")
    ] = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Store the vision features of videos, for `sttm eval run --features DIR`.

    A run that was cut off goes on where it stood: run the same command again.
    """
    if verify:
        others = set(context.params) - {"out", "verify", "json"}
        refuse_idle(context, others, "--verify", "it checks what is in the folder, as it is")
        _verify(out, json=json)
        return
    refuse_for_nano(context, options["model"])
    refuse_fps(context, rule)
    from sttm.evaluation.environment import environment
    from sttm.evaluation.features import Extraction, ExtractPlan

    executor, source = taken(ExecutorOptions, options), taken(ModelOptions, options).arguments
    execute = executor.execute()  # without Ray this fails now, not after loading the model
    given = {"fps": fps, "max_frames": max_frames, "rule": None if rule is None else rule.value}
    stop = on_error is OnError.STOP
    found = _find_videos(videos or [], task, data_root, given, stop=stop)
    make_folder(out)
    loaded = load_model(*source)
    pair = (loaded.model, loaded.processor)
    load = (lambda: pair) if executor.here else partial(load_pair, *source)
    plan = ExtractPlan(out.absolute(), found.sampling, with_attention)
    info = {"model": loaded.name, **environment(loaded.model.device)}
    with (
        progress_bars(quiet=json) as tell,
        Extraction(plan, found.jobs, plan.settings(*pair), info) as extraction,
    ):
        run = partial(extraction.run, load, stop=stop, execute=execute)
        outcomes = _collect(out, extraction, run, tell)
    _show(out, outcomes, found.left_out, json=json)


def _collect(out: Path, extraction: "Extraction", run: Any, tell: Tell) -> _Outcomes:
    """Encode what is missing, and tell about every video.

    Raises:
        SttmError: no video can be read, or nothing can be written.
    """
    from sttm.evaluation.features import Failure

    start, known, left = time.perf_counter(), extraction.known, len(extraction.todo)
    new: list[StoredVideo] = []
    skipped: list[Failure] = []
    if known:
        note(f"{out} has {len(known)} of these videos already.")
    total, full = len(known) + left, ""
    tell("extract", len(known), total)
    for outcome in run():
        left -= 1
        if isinstance(outcome, Failure):
            note(f"skipped: {outcome.error}")
            skipped.append(outcome)
        else:
            for warning in outcome.warnings:
                note(f"{outcome.video_id}: {warning}")
            new.append(outcome)
        tell("extract", total - left, total)
        if not full and (full := _lack_of_space(out, new, left)):
            note(full)
    if not new and not known:
        raise VideoError(
            f"got {total} videos of which none can be read, expected at least one. "
            f"The first: {skipped[0].error}"
        )
    return _Outcomes(known, new, skipped, time.perf_counter() - start)


def _find_videos(
    paths: Sequence[Path],
    task: str | None,
    data_root: Path | None,
    given: Mapping[str, Any],
    *,
    stop: bool,
) -> _Videos:
    """Find the videos that the command line names.

    Args:
        paths: files and folders.
        task: name of a task; None for none.
        data_root: of that task.
        given: fields of `Sampling`; None for what the task, or the default, says.
        stop: raise at the first row of a task that is wrong, instead of leaving it out.
    """
    from sttm.evaluation.features import VideoJob
    from sttm.video import Sampling
    from sttm.video.files import find_videos

    if bool(paths) == (task is not None):
        raise ConfigError(
            f"got {'videos and --task' if paths else 'neither videos nor --task'}, expected "
            "one of them: sttm extract clip.mp4 --out DIR, or sttm extract --task T --data-root D "
            "--out DIR."
        )
    if task is not None:
        return _of_task(task, data_root, given, stop=stop)
    if data_root is not None:
        raise ConfigError("got --data-root without --task, expected both. Name the task.")
    # Workers elsewhere may have another working directory; a file with two names is one.
    files = dict.fromkeys(os.path.normpath(path.absolute()) for path in find_videos(paths))
    jobs = [VideoJob.of_file(Path(file)) for file in files]
    return _Videos(jobs, _filled(Sampling(), given), {})


def _of_task(name: str, data_root: Path | None, given: Mapping[str, Any], *, stop: bool) -> _Videos:
    from sttm.evaluation.features import VideoJob
    from sttm.evaluation.tasks import get_task

    task = get_task(name)
    refuse_data_root(task, data_root)
    items, left_out = (task.items(data_root), {}) if stop else sound_items(task, data_root)
    jobs: dict[str, VideoJob] = {}
    for item in items:
        if item.video_id not in jobs:
            jobs[item.video_id] = VideoJob(item.video_id, partial(task.video, item), item.video)
    if task.made:
        refuse_sampling(task, given)
    return _Videos(list(jobs.values()), _filled(task.frames, given), left_out)


def _filled(default: "Sampling", given: Mapping[str, Any]) -> "Sampling":
    return replace(default, **{name: v for name, v in given.items() if v is not None})


def _lack_of_space(out: Path, new: "Sequence[StoredVideo]", left: int) -> str:
    """Say that the videos to come will not fit on the disk, by the average so far; else nothing."""
    needed = left * sum(video.size for video in new) / max(len(new), 1)
    free = shutil.disk_usage(out).free
    if needed <= free:
        return ""
    return (
        f"the other {left} videos need about {_size(needed)}, but {out} has only "
        f"{_size(free)} free. When it is full this stops; nothing stored is lost."
    )


def _show(out: Path, outcomes: _Outcomes, left_out: Mapping[str, int], *, json: bool) -> None:
    known, new, skipped = outcomes.known, outcomes.new, outcomes.skipped
    size = sum(video.size for video in (*known, *new))
    if json:
        stored = [
            {"video_id": v.video_id, "file": v.file, "frames": v.frames, "bytes": v.size}
            for v in new
        ]
        show_json(
            {
                "out": str(out),
                "known": len(known),
                "new": stored,
                "skipped": skipped,
                "left_out": left_out,
                "bytes": size,
                "seconds": outcomes.seconds,
            }
        )
        return
    if new:
        rows = [(v.video_id, v.frames, _size(v.size), f"{v.seconds:.2f} s") for v in new]
        show_table(("video", "frames", "size", "time"), rows)
    say(
        f"{out}: {len(new)} videos extracted in {outcomes.seconds:.1f} s, "
        f"{len(known)} were there, {len(skipped)} skipped; {_size(size)}"
    )
    for kind, count in left_out.items():
        note(f"{count} rows of the data set left out: {kind}")
    say(f"use them with: sttm eval run --features {out}")


def _verify(out: Path, *, json: bool) -> None:
    """Read every file of a folder again, and print what is wrong.

    Raises:
        ConfigError: no such folder.
        VideoError: something is wrong.
    """
    from sttm.evaluation.features import verify
    from sttm.evaluation.features.manifest import Manifest

    total, problems = len(Manifest.read(out).videos), []
    with progress_bars(quiet=json) as tell:
        for done, (_, problem) in enumerate(verify(out), start=1):
            tell("verify", done, total)
            if problem:
                problems.append(problem)
    if json:
        show_json({"videos": total, "problems": problems})
    else:
        for problem in problems:
            say(problem)
        say(f"{out}: {total} videos, {len(problems)} with problems")
    if problems:
        raise VideoError(
            f"{out}: got {len(problems)} damaged or missing files of {total}, "
            "expected none. Delete them and run the same `sttm extract` again."
        )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
