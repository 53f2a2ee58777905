"""Read the folders that runs wrote, and count their answers."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from sttm.errors import ConfigError
from sttm.evaluation.config import PUBLISHED
from sttm.evaluation.record import (
    ANSWERS,
    EMPTY,
    OUT_OF_REACH,
    RUN,
    AnswerRecord,
    read_answer,
)
from sttm.evaluation.result_log import read_log
from sttm.evaluation.specs import ALL
from sttm.evaluation.tasks import Scored, Task

# What two runs may differ in and still show what the method did.
_OF_THE_METHOD = {"method", "spec", "keep", "options", "layer", "positions"}
_WITHOUT_EFFECT = {"reproduce", "seed"}


@dataclass(frozen=True)
class Run:
    """A run on disk.

    Args:
        name: of its folder; told apart from the others in a report.
        folder: where it is.
        settings: what its answers depend on.
        about: how it was called last; empty if that is not there.
        task: as it was when the run began.
        answers: by question, errors included.
        part: the value of a group, if these are only the questions with it.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    about: Mapping[str, Any]
    task: Task
    answers: Mapping[str, AnswerRecord]
    part: str = ""

    @property
    def full(self) -> bool:
        """Whether it kept all tokens."""
        return bool(self.settings["method"] == ALL)

    @property
    def method(self) -> str:
        """Name of the method in the registry; "all" for all tokens."""
        return str(self.settings["spec"]).split(":")[0]

    @property
    def frames(self) -> int:
        """Frames of a made scene; of a video at most; 0 if the settings do not tell."""
        if self.task.made:
            return self.task.scenes.frames
        return int(self.settings.get("sampling", {}).get("max_frames", 0))

    @property
    def preset(self) -> str | None:
        """The preset that it was made with."""
        name = self.about.get("preset")
        return None if name is None else str(name)

    @property
    def unreachable(self) -> int:
        """Questions about videos for which the method cannot meet the budget.

        On the others alone it cannot be compared: with any, nothing is scored.
        """
        return sum(each.error == OUT_OF_REACH for each in self.answers.values())

    def parts(self, group: str) -> "list[Run]":
        """Split the answers by the values of a group, sorted."""
        values = sorted({a.groups[group] for a in self.answers.values() if group in a.groups})
        return [
            replace(
                self,
                part=value,
                answers={k: a for k, a in self.answers.items() if a.groups.get(group) == value},
            )
            for value in values
        ]

    @property
    def left(self) -> int:
        """Questions that were meant to be asked and have no line yet."""
        return max(0, int(self.about.get("questions", 0)) - len(self.answers))

    def scored(
        self, only: Sequence[str] | None = None, *, empty_wrong: bool = False
    ) -> list[Scored]:
        """Give the answers as a task's metrics take them; what is not scored has None.

        Args:
            only: ids of questions; None for all.
            empty_wrong: have empty answers wrong, whatever the parser makes of them.
        """
        answers = [self.answers[name] for name in (self.answers if only is None else only)]
        void = bool(self.unreachable)
        return [
            Scored(
                each.item(self.task.name),
                None if void else False if empty_wrong and each.empty else each.right,
                each.parsed,
            )
            for each in answers
        ]

    def differs(self, other: "Run") -> list[str]:
        """Name the settings, beside the method's, in which two runs differ."""
        mine, others = _compared(self.settings), _compared(other.settings)
        return sorted(n for n in {*mine, *others} if mine.get(n) != others.get(n))


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    left_out = _OF_THE_METHOD | _WITHOUT_EFFECT
    found = {name: value for name, value in settings.items() if name not in left_out}
    # Features of our own give the answers of the videos, those that others made need not.
    if not str(found.get("features")).startswith(PUBLISHED):
        found.pop("features", None)
    return found


def load_runs(folders: Sequence[Path], *, parser: str | None = None) -> list[Run]:
    """Read runs.

    Args:
        folders: of `sttm eval run`, or such as hold one folder per setting.
        parser: read the answers anew with this parser; None as they were read.

    Raises:
        ConfigError: a folder holds no run, or is named twice.
    """
    paths = [folder.resolve() for folder in folders]
    twice = [str(folder) for folder, path in zip(folders, paths) if paths.count(path) > 1]
    if twice:
        raise ConfigError(f"got {twice[0]} twice, expected every run once.")
    folders = [folder for each in folders for folder in find_runs(each) or [each]]
    runs = [_load(folder) for folder in folders]
    if parser is not None:
        runs = [_parsed_anew(run, parser) for run in runs]
    return [replace(run, name=name) for run, name in zip(runs, _names(folders))]


def find_runs(folder: Path) -> list[Path]:
    """Find the runs in a folder: itself, or one per setting, perhaps for each length of videos."""
    if (folder / ANSWERS).is_file():
        return [folder]
    found = (path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{ANSWERS}"))
    return sorted(found)


def _load(folder: Path) -> Run:
    if not (folder / ANSWERS).is_file():
        raise ConfigError(
            f"{folder}: got no {ANSWERS} in it, expected the folder of an `sttm eval run`."
        )
    refuse_needle_log(folder / ANSWERS)
    stored = read_log(folder / ANSWERS, AnswerRecord)
    try:
        task = Task.model_validate(stored.info.get("task"))
    except ValidationError as error:
        raise ConfigError(
            f"{folder}: got answers of another version of sttm, whose task cannot be read "
            f"({error.error_count()} fields). Run it again into another --out."
        ) from error
    if not task.groups:
        # A user's own questions bring groups of their own.
        own = sorted({name for answer in stored.answers.values() for name in answer.groups})
        task = task.model_copy(update={"groups": tuple(own)})
    return Run(folder.name, folder, stored.settings, _about(folder), task, stored.answers)


def refuse_needle_log(path: Path) -> None:
    """Refuse answers of the former `sttm bench needle`, which were kept in another form.

    Raises:
        ConfigError: the file holds such.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            settings = json.loads(file.readline())["settings"]
    except (OSError, ValueError, TypeError, LookupError):
        return  # whoever reads the file says what is wrong
    if isinstance(settings, dict) and settings.get("benchmark") == "needle":
        raise ConfigError(
            f"{path}: got answers of `sttm bench needle` of sttm 0.1, expected those of `sttm eval "
            "run`. Its results.md, .csv and .json stay as they are; to ask again, choose another "
            "--out."
        )


def _about(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _parsed_anew(run: Run, parser: str) -> Run:
    task = run.task
    answers = {}
    for name, answer in run.answers.items():
        if answer.text is not None:
            read = read_answer(task, answer.item(task.name), answer.text, parser)
            answer = replace(answer, **vars(read))
        answers[name] = answer
    return replace(run, answers=answers, settings={**run.settings, "parser": parser})


def _names(folders: Sequence[Path]) -> list[str]:
    """Name runs by their folders; with as many parents as it takes to tell them apart."""
    paths = [folder.resolve() for folder in folders]
    names = [path.name for path in paths]
    depth = 1
    while any(count > 1 for count in Counter(names).values()):
        depth += 1
        names = ["/".join(path.parts[-depth:]) for path in paths]
    return names


@dataclass(frozen=True)
class Summary:
    """What became of the questions of a run; times are means over answers, in seconds.

    Args:
        asked: questions with a line, errors included.
        answered: those that the model answered.
        right: those answered rightly.
        hidden: those answered whose right answer is not known; they are not scored.
        unparsed: those answered with a text that holds no answer, hidden ones aside; they count as
            wrong.
        errors: questions that could not be asked or answered, by kind; they are not scored, but
            for empty answers where the parser has them wrong.
        empty: those that the model answered with an empty text, among the errors.
        empty_scored: those of them that count as wrong.
        videos: different ones answered about.
        damaged: those answered about a video of which only some frames could be decoded.
        damaged_videos: such videos.
        retention: mean over answers of tokens kept / tokens; None without answers.
        tokens_in, tokens_out: means of the video tokens in front of and behind the reduction.
        ttft_s: the language model's first forward, see `Times`.
        seconds: end to end, as if every question had come alone.
        paid_s: what was really spent on an answer.
    """

    asked: int
    answered: int
    right: int
    hidden: int
    unparsed: int
    errors: Mapping[str, int]
    empty: int
    empty_scored: int
    videos: int
    damaged: int
    damaged_videos: int
    retention: float | None
    tokens_in: float | None
    tokens_out: float | None
    ttft_s: float | None
    seconds: float | None
    paid_s: float | None

    def troubles(self) -> list[str]:
        """Say what a reader of the accuracies has to know, in words; empty if nothing."""
        errors = {kind: n for kind, n in self.errors.items() if kind != EMPTY}
        errors[EMPTY] = self.empty - self.empty_scored
        found = [f"{n} not scored: {kind}" for kind, n in sorted(errors.items()) if n]
        if self.empty_scored:
            found.append(f"{self.empty_scored} counted as wrong: {EMPTY}")
        if self.unparsed:
            found.append(
                f"{self.unparsed} answered without an answer in the text, counted as wrong"
            )
        if self.hidden:
            found.append(f"{self.hidden} answered whose right answer is hidden, not scored")
        if self.damaged:
            found.append(
                f"{self.damaged} answered about damaged videos ({self.damaged_videos}), of which "
                "only some frames could be decoded"
            )
        return found


def summarize(answers: Iterable[AnswerRecord]) -> Summary:
    """Count and average."""
    every = list(answers)
    good = [answer for answer in every if answer.error is None]
    empty = [answer for answer in every if answer.empty]
    damaged = [answer for answer in good if answer.warnings]
    times = [answer.times for answer in good if answer.times is not None]
    shares = [share for answer in good if (share := answer.retention) is not None]
    return Summary(
        asked=len(every),
        answered=len(good),
        right=sum(answer.right is True for answer in good),
        hidden=sum(answer.expected is None for answer in good),
        unparsed=sum(answer.parsed is None and answer.right is not None for answer in good),
        errors=dict(Counter(answer.error for answer in every if answer.error is not None)),
        empty=len(empty),
        empty_scored=sum(answer.right is not None for answer in empty),
        videos=len({answer.video_id for answer in good}),
        damaged=len(damaged),
        damaged_videos=len({answer.video_id for answer in damaged}),
        retention=_mean(shares),
        tokens_in=_mean([answer.tokens_in for answer in good if answer.tokens_in is not None]),
        tokens_out=_mean([answer.tokens_out for answer in good if answer.tokens_out is not None]),
        ttft_s=_mean([time.ttft_s for time in times]),
        seconds=_mean([time.seconds for time in times]),
        paid_s=_mean([time.paid_s for time in times]),
    )


def _mean(values: list[float] | list[int]) -> float | None:
    return round(fmean(values), 6) if values else None
