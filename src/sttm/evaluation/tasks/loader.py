"""From the published files to items; what is wrong with them is collected, not raised."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sttm.evaluation.tasks.items import LETTERS, Item, duration_group
from sttm.evaluation.tasks.media import SUBTITLE_SUFFIXES, Media, length_of
from sttm.evaluation.tasks.tables import DataError, Problem, Row, rows_of
from sttm.video.files import VIDEO_SUFFIXES

TOLD = 5  # rows that a note names one by one


@dataclass
class Reading:
    """What was read.

    Args:
        items: the sound ones, in the order of the files.
        problems: with the others.
        notes: what else to know.
        folder: where the files are; None if none was found, or none is needed.
    """

    items: list[Item] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None


class Layout(BaseModel):
    """Where the files of a task are.

    Args:
        folders: names of its folder below the data root; the first is the one to download to.
        questions: alternatives, each a list of patterns that have to be there; the first that is
            there is read.
        answers: the same, for answers in a file of their own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folders: tuple[str, ...] = ()
    questions: tuple[tuple[str, ...], ...] = ()
    answers: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Draft:
    """A row as a reader understands it.

    Args:
        question_id, video_id, question, options, answer, groups, extra: see `Item`.
        timed: the group "duration" goes by the video itself, where its file is there.
        video: name of the video file, with or without folders and suffix.
        video_parts: how many parts of its path have to be the same, see `Media.find`.
    """

    question_id: str
    video_id: str
    video: str
    question: str
    options: tuple[str, ...]
    answer: str | None
    groups: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    video_parts: int = 1
    timed: bool = False


@dataclass
class ReaderState:
    """What a reader knows besides the row.

    Args:
        answers: by question id, where they are in a file of their own.
    """

    answers: Mapping[str, Any]
    _numbers: Counter[str] = field(default_factory=Counter)

    def number(self, video_id: str) -> int:
        """Number the questions about a video, from 0; every call takes the next number."""
        self._numbers[video_id] += 1
        return self._numbers[video_id] - 1


Reader = Callable[[Row, ReaderState], Draft | str]  # a text says why the row is left out


def load(
    task: str,
    reader: Reader,
    layout: Layout,
    data_root: Path,
    *,
    videos: bool,
    subtitles: bool,
    hidden_answers: bool,
) -> Reading:
    """Read the files of a task; see `Task.read`."""
    reading = Reading()
    files = _question_files(layout, data_root, reading)
    folder = reading.folder
    if not files or folder is None:
        return reading
    found = Media(folder, VIDEO_SUFFIXES) if videos else None
    spoken = Media(folder, SUBTITLE_SUFFIXES) if subtitles and videos else None
    builder = _Builder(task, reading, folder, found, spoken, hidden_answers)
    state = ReaderState(_answers(layout, folder, reading.problems, needed=not hidden_answers))
    left_out: dict[str, list[str]] = {}  # places by reason
    for row in _rows(files, folder, reading.problems):
        try:
            draft = reader(row, state)
            if isinstance(draft, str):
                left_out.setdefault(draft, []).append(row.where)
            else:
                builder.add(draft, row.where)
        except DataError as error:
            reading.problems.append(Problem(error.kind, row.where, error.text))
    for reason, places in left_out.items():
        rows = "1 row" if len(places) == 1 else f"{len(places)} rows"
        where = f" ({'; '.join(places)})" if len(places) <= TOLD else ""
        reading.notes.append(f"{rows} left out: {reason}{where}")
    for media in (found, spoken):
        for path in media.damaged if media else ():
            reading.problems.append(Problem("file", str(path), "is no zip, or is cut off"))
    return reading


@dataclass
class _Builder:
    """Makes items of drafts, and refuses those that are wrong."""

    task: str
    reading: Reading
    folder: Path
    videos: Media | None
    subtitles: Media | None
    hidden_answers: bool
    _seen: dict[str, str] = field(default_factory=dict)  # where each question id stands
    _names: dict[str, str] = field(default_factory=dict)  # file names by video id
    _paths: dict[str, Path | None] = field(default_factory=dict)  # found files by video id
    _lengths: dict[str, float | None] = field(default_factory=dict)  # seconds by video id

    def add(self, draft: Draft, where: str) -> None:
        """Add an item.

        Raises:
            DataError: the draft is wrong.
        """
        self._check(draft)
        video = self._video(draft, where)
        self._seen[draft.question_id] = where
        self._names[draft.video_id] = draft.video
        self.reading.items.append(
            Item(
                task=self.task,
                question_id=draft.question_id,
                video_id=draft.video_id,
                video=video,
                question=draft.question,
                options=draft.options,
                answer=draft.answer,
                groups={**draft.groups, **self._duration(draft, video)},
                extra=dict(draft.extra),
                subtitles=self.subtitles.find(draft.video) if self.subtitles else None,
            )
        )

    def _check(self, draft: Draft) -> None:
        name, count, answer = draft.question_id, len(draft.options), draft.answer
        letters = LETTERS[:count]
        if name in self._seen:
            raise DataError(f"got the id {name!r} again, which {self._seen[name]} has", "duplicate")
        named = self._names.get(draft.video_id, draft.video)
        if named != draft.video:
            text = f"got {draft.video!r} as video {draft.video_id!r}, which is {named!r}"
            raise DataError(text, "duplicate")
        if count == 1 or count > len(LETTERS):
            raise DataError(f"got {count} options, expected 2 to {len(LETTERS)}")
        if answer is None and not self.hidden_answers:
            raise DataError(f"got no answer to {name!r}", "answer")
        if answer is not None and draft.options and answer not in letters:
            expected = f"one of {', '.join(letters)}"
            raise DataError(f"got the answer {answer!r}, expected {expected}", "answer")

    def _video(self, draft: Draft, where: str) -> Path | None:
        if self.videos is None:
            return None
        if draft.video_id not in self._paths:
            direct = self.folder / draft.video
            found = direct if _is_file(direct) else self.videos.find(draft.video, draft.video_parts)
            self._paths[draft.video_id] = found
            if found is None:
                shown = repr(draft.video if len(draft.video) < 300 else f"{draft.video[:60]}...")
                text = f"got no file for video {shown}, expected one below the folder"
                self.reading.problems.append(Problem("video", where, text))
        return self._paths[draft.video_id]

    def _duration(self, draft: Draft, video: Path | None) -> dict[str, str]:
        """Return the group of the video's own length; nothing if nobody asks or it is unknown."""
        if video is None or not draft.timed:
            return {}
        if draft.video_id not in self._lengths:
            self._lengths[draft.video_id] = length_of(video)
        length = self._lengths[draft.video_id]
        return {} if length is None else {"duration": duration_group(length)}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have, or a folder that may not be looked into
        return False


def _question_files(layout: Layout, data_root: Path, reading: Reading) -> list[Path]:
    """Find the files with questions; notes what is missing, and sets the folder."""
    if data_root.is_file():
        reading.folder = data_root.parent
        return [data_root]
    if not data_root.is_dir():
        reading.problems.append(Problem("file", str(data_root), "is no folder and no file"))
        return []
    own = [data_root / name for name in layout.folders if (data_root / name).is_dir()]
    nearest: tuple[int, Path, list[str]] | None = None  # patterns that match, and the others
    for folder in [*own, data_root]:
        for patterns in layout.questions:
            found = {p: _matches(folder, p, deep=folder != data_root) for p in patterns}
            missing = [pattern for pattern, paths in found.items() if not paths]
            if not missing:
                reading.folder = folder
                return [path for paths in found.values() for path in paths]
            if nearest is None or len(patterns) - len(missing) > nearest[0]:
                nearest = (len(patterns) - len(missing), folder, missing)
    if nearest is not None:
        _note_missing(layout, data_root, nearest[1], nearest[2], reading)
    return []


def _note_missing(
    layout: Layout, data_root: Path, folder: Path, missing: list[str], reading: Reading
) -> None:
    """Name the files where a download puts them, if the folder has nothing of the task."""
    others = [", ".join(patterns) for patterns in layout.questions if missing[0] not in patterns]
    instead = f"; {' or '.join(others)} would do instead" if others else ""
    nothing = folder == data_root and any(missing == list(p) for p in layout.questions)
    if nothing and layout.folders:
        folder, instead = data_root / layout.folders[0], f"{instead}; looked in {data_root} too"
    for pattern in missing:
        reading.problems.append(Problem("file", str(folder / pattern), f"missing{instead}"))


def _matches(folder: Path, pattern: str, *, deep: bool) -> list[Path]:
    """Match at the root of a folder, else at any depth: an archive may bring its own folder."""
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    if found or not deep:
        return found
    return sorted(path for path in folder.rglob(pattern) if path.is_file())[:1]


def _rows(files: Iterable[Path], folder: Path, problems: list[Problem]) -> Iterator[Row]:
    return (row for path in files for row in rows_of(path, folder, problems))


def _answers(
    layout: Layout, folder: Path, problems: list[Problem], *, needed: bool
) -> Mapping[str, Any]:
    """Read answers by question id, from a JSON object or a table; note if they are missing."""
    for patterns in layout.answers:
        files = [path for pattern in patterns for path in _matches(folder, pattern, deep=True)]
        if len(files) >= len(patterns):
            answers: dict[str, Any] = {}
            for row in _rows(files, folder, problems):
                names = ("q_uid", "video_idx", "key")
                name = next((row.values[n] for n in names if row.values.get(n)), None)
                if name is not None:
                    answers[str(name)] = row.values.get("answer", row.values.get("value"))
            return answers
    if needed and layout.answers:
        problems.append(Problem("file", str(folder / layout.answers[0][0]), "missing"))
    return {}
