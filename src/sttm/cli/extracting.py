"""What ``sttm extract`` does, apart from its options."""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttm.cli.loading import Loaded, load_model, load_pair
from sttm.cli.output import note, say, show_json, show_table
from sttm.cli.pictures import make_folder
from sttm.cli.progress import Tell
from sttm.cli.questions import refuse_data_root, refuse_sampling, sound_items
from sttm.cli.spreading import Spread
from sttm.errors import ConfigError, VideoError

if TYPE_CHECKING:
    from sttm.evaluation.features import Failure, StoredVideo, VideoJob
    from sttm.video import Sampling


@dataclass(frozen=True)
class Asked:
    """The options, None where they were not given."""

    out: Path
    videos: Sequence[Path]
    task: str | None
    data_root: Path | None
    model: str | None
    device_map: str | None
    fps: float | None
    max_frames: int | None
    rule: str | None
    dtype: str | None
    newline: str | None
    attention: bool
    stop: bool
    spread: Spread

    def sampling(self, default: Any) -> "Sampling":
        """Fill up what was asked with what a task says."""
        from sttm.video import Sampling

        return Sampling(
            rule=self.rule or default.rule,
            fps=default.fps if self.fps is None else self.fps,
            max_frames=default.max_frames if self.max_frames is None else self.max_frames,
        )


@dataclass(frozen=True)
class _Todo:
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
class Done:
    """What became of the videos."""

    out: Path
    known: "Sequence[StoredVideo]"
    new: "Sequence[StoredVideo]"
    skipped: "Sequence[Failure]"
    left_out: Mapping[str, int]
    seconds: float

    @property
    def size(self) -> int:
        """Bytes of all features."""
        return sum(video.size for video in (*self.known, *self.new))

    def summary(self) -> dict[str, Any]:
        """Sum up, as JSON values."""
        return {
            "out": str(self.out),
            "known": len(self.known),
            "new": [
                {"video_id": v.video_id, "file": v.file, "frames": v.frames, "bytes": v.size}
                for v in self.new
            ],
            "skipped": self.skipped,
            "left_out": self.left_out,
            "bytes": self.size,
            "seconds": self.seconds,
        }

    def show(self) -> None:
        """Print a table of what is new, and a summary."""
        if self.new:
            rows = [(v.video_id, v.frames, _size(v.size), f"{v.seconds:.2f} s") for v in self.new]
            show_table(("video", "frames", "size", "time"), rows)
        say(
            f"{self.out}: {len(self.new)} videos extracted in {self.seconds:.1f} s, "
            f"{len(self.known)} were there, {len(self.skipped)} skipped; {_size(self.size)}"
        )
        for kind, count in self.left_out.items():
            note(f"{count} rows of the data set left out: {kind}")
        say(f"use them with: sttm eval run --features {self.out}")


def extract_asked(asked: Asked, tell: Tell) -> Done:
    """Encode what is missing.

    Raises:
        SttmError: a wrong option, no video that can be read, or nothing can be written.
    """
    from sttm.evaluation.features import Extraction, ExtractPlan, Failure
    from sttm.evaluation.machine import environment

    execute = asked.spread.execute()  # without Ray this fails now, not after loading the model
    todo = _todo(asked)
    jobs = todo.jobs
    make_folder(asked.out)
    loaded = load_model(asked.model, asked.device_map, asked.dtype, asked.newline)
    plan = ExtractPlan(asked.out.absolute(), todo.sampling, asked.attention)
    start = time.perf_counter()
    settings = plan.settings(loaded.model, loaded.processor)
    info = {"model": loaded.name, **environment(loaded.model.device)}
    new: list[StoredVideo] = []
    skipped: list[Failure] = []
    with Extraction(plan, jobs, settings, info) as extraction:
        known = extraction.known
        if known:
            note(f"{asked.out} has {len(known)} of these videos already.")
        tell("extract", len(known), len(jobs))
        space = _Space(asked.out)
        load = _loader(asked, loaded)
        for outcome in extraction.run(load, stop=asked.stop, execute=execute):
            if isinstance(outcome, Failure):
                note(f"skipped: {outcome.error}")
                skipped.append(outcome)
            else:
                for warning in outcome.warnings:
                    note(f"{outcome.video_id}: {warning}")
                new.append(outcome)
            done = len(new) + len(skipped)
            tell("extract", len(known) + done, len(jobs))
            space.check(new, len(extraction.todo) - done)
    if not new and not known:
        raise VideoError(
            f"got {len(jobs)} videos of which none can be read, expected at least one. "
            f"The first: {skipped[0].error}"
        )
    seconds = time.perf_counter() - start
    return Done(asked.out, known, new, skipped, todo.left_out, seconds)


def _todo(asked: Asked) -> _Todo:
    from sttm.evaluation.features import VideoJob
    from sttm.video import Sampling
    from sttm.video.files import find_videos

    if bool(asked.videos) == (asked.task is not None):
        raise ConfigError(
            f"got {'videos and --task' if asked.videos else 'neither videos nor --task'}, expected "
            "one of them: sttm extract clip.mp4 --out DIR, or sttm extract --task T --data-root D "
            "--out DIR."
        )
    if asked.task is not None:
        return _of_task(asked.task, asked)
    if asked.data_root is not None:
        raise ConfigError("got --data-root without --task, expected both. Name the task.")
    # Workers elsewhere may have another working directory; a file with two names is one.
    paths = dict.fromkeys(os.path.normpath(p.absolute()) for p in find_videos(asked.videos))
    jobs = [VideoJob.of_file(Path(path)) for path in paths]
    return _Todo(jobs, asked.sampling(Sampling()), {})


def _of_task(name: str, asked: Asked) -> _Todo:
    from sttm.evaluation.features import VideoJob
    from sttm.evaluation.tasks import get_task

    task = get_task(name)
    refuse_data_root(task, asked.data_root)
    left_out: Mapping[str, int] = {}
    if asked.stop:
        items = task.items(asked.data_root)
    else:
        items, left_out = sound_items(task, asked.data_root)
    jobs: dict[str, VideoJob] = {}
    for item in items:
        if item.video_id not in jobs:
            jobs[item.video_id] = VideoJob(item.video_id, partial(task.video, item), item.video)
    if task.made:
        refuse_sampling(
            task, {"fps": asked.fps, "max_frames": asked.max_frames, "rule": asked.rule}
        )
    return _Todo(list(jobs.values()), asked.sampling(task.frames), left_out)


def _loader(asked: Asked, loaded: Loaded) -> Any:
    """Give what is loaded to a worker in this process; others load by themselves."""
    if asked.spread.here:
        return lambda: (loaded.model, loaded.processor)
    return partial(load_pair, asked.model, asked.device_map, asked.dtype, asked.newline)


class _Space:
    """Warns, once, when the videos to come will not fit on the disk."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._warned = False

    def check(self, new: "Sequence[StoredVideo]", left: int) -> None:
        """Compare what is needed, by the average so far, with what is free."""
        if self._warned or not new or not left:
            return
        needed = left * sum(video.size for video in new) / len(new)
        free = shutil.disk_usage(self._out).free
        if needed > free:
            self._warned = True
            note(
                f"the other {left} videos need about {_size(needed)}, but {self._out} has only "
                f"{_size(free)} free. When it is full this stops; nothing stored is lost."
            )


@dataclass(frozen=True)
class Checked:
    """What ``--verify`` found."""

    videos: int
    problems: Sequence[str]


def verify_folder(out: Path, tell: Tell) -> Checked:
    """Read every file of a folder again.

    Raises:
        ConfigError: no such folder.
    """
    from sttm.evaluation.features import verify
    from sttm.evaluation.features.manifest import Manifest

    total, problems = len(Manifest.read(out).videos), []
    for done, (_, problem) in enumerate(verify(out), start=1):
        tell("verify", done, total)
        if problem:
            problems.append(problem)
    return Checked(total, problems)


def show_checked(out: Path, checked: Checked, *, json: bool) -> None:
    """Print what is wrong.

    Raises:
        VideoError: something is.
    """
    if json:
        show_json(checked)
    else:
        for problem in checked.problems:
            say(problem)
        say(f"{out}: {checked.videos} videos, {len(checked.problems)} with problems")
    if checked.problems:
        raise VideoError(
            f"{out}: got {len(checked.problems)} damaged or missing files of {checked.videos}, "
            "expected none. Delete them and run the same `sttm extract` again."
        )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
