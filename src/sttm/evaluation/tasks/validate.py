"""Whether the files of a task are there, whole and sound, and how to get them if not."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sttm.evaluation.tasks.loader import Reading
from sttm.evaluation.tasks.tables import Problem
from sttm.evaluation.tasks.task import Task


@dataclass(frozen=True)
class Validation:
    """What was found.

    Args:
        task: its name.
        ok: whether there are no problems.
        folder: where its files are; None if they were not found.
        questions: sound ones.
        videos: they are about.
        found: videos whose file is there; None if they were not looked for.
        problems: what is wrong, in the order of the files.
        differences: from the published numbers; a part of a benchmark is no problem in itself.
        notes: what else to know.
        commands: how to get the files; empty where nothing is wrong.
    """

    task: str
    ok: bool
    folder: str | None
    questions: int
    videos: int
    found: int | None
    problems: tuple[Problem, ...]
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...]


def validate(task: Task, data_root: Path | None, *, videos: bool = True) -> Validation:
    """Read everything that the task would read, short of decoding videos.

    Args:
        task: the task.
        data_root: see `Task.read`.
        videos: look for the videos too.

    Raises:
        ConfigError: no data root for a task that needs one, or pyarrow is missing.
    """
    reading = task.read(data_root, videos=videos)
    looked = videos and not task.made
    problems = [*reading.problems, *_no_questions(reading)]
    if looked:
        problems += _missing_subtitles(task, reading)
    notes = [*reading.notes, *_archives(reading)]
    own = reading.folder
    if own is None and data_root is not None:
        own = data_root / task.layout.folders[0] if task.layout.folders else data_root
    commands = [
        line for way in task.download for line in (way.commands(own) if own is not None else [])
    ]
    by_video = {item.video_id: item.video for item in reading.items}
    return Validation(
        task=task.name,
        ok=not problems,
        folder=None if reading.folder is None else str(reading.folder),
        questions=len(reading.items),
        videos=len(by_video),
        found=sum(path is not None for path in by_video.values()) if looked else None,
        problems=tuple(problems),
        differences=tuple(_differences(task, reading)),
        notes=tuple(notes),
        commands=tuple(commands) if problems else (),
    )


def _no_questions(reading: Reading) -> Iterator[Problem]:
    """Report files that have no problem and no question either."""
    if not reading.items and not any(problem.kind == "file" for problem in reading.problems):
        yield Problem("file", str(reading.folder), "got no questions at all")


def _missing_subtitles(task: Task, reading: Reading) -> Iterator[Problem]:
    """Report missing subtitles: all of them, or some although all videos are there."""
    wanted, videos = task.expected.subtitles, {item.video_id for item in reading.items}
    spoken = {item.video_id for item in reading.items if item.subtitles is not None}
    whole = len(videos) == task.expected.videos
    if wanted is not None and videos and len(spoken) != wanted and (whole or not spoken):
        text = f"got subtitles of {len(spoken)} videos, expected the published {wanted}"
        yield Problem("file", str(reading.folder), text)


def _differences(task: Task, reading: Reading) -> Iterator[str]:
    """Compare with the published numbers; nothing to compare where nothing was read."""
    if not reading.items:
        return
    expected = task.expected
    videos = Counter(item.video_id for item in reading.items)
    pairs = [("questions", len(reading.items), expected.questions)]
    pairs.append(("videos", len(videos), expected.videos))
    for group, values in expected.groups.items():
        found = Counter(item.groups.get(group) for item in reading.items)
        pairs += [(f"questions of {group} {v}", found[v], count) for v, count in values.items()]
    for name, count, published in pairs:
        if published is not None and count != published:
            yield f"{count} {name}, the published are {published}"
    for video, count in videos.items():
        if expected.per_video is not None and count != expected.per_video:
            yield f"{count} questions about {video!r}, the published are {expected.per_video}"


def _archives(reading: Reading) -> Iterator[str]:
    """Note tar archives, which must be unpacked: only zips are read as they are."""
    if reading.folder is None or not any(p.kind == "video" for p in reading.problems):
        return
    found = sorted(path.name for path in reading.folder.glob("*.tar*"))
    if found:
        yield (
            f"{len(found)} parts of tar archives are there ({found[0]}...); videos are not read "
            "out of these: unpack them as shown below"
        )
